"""CIFAR images as lossless WebP sheets of 32 x 32 images, and back as the official files, which need no decoding.

A file per image would take 50 % more room and twenty times as long to read.
"""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
from PIL import Image

from senet_lib.data import Dataset
from senet_lib.data.cifar import CIFAR
from senet_lib.errors import DamagedFile
from senet_lib.files import read_arrays, write_arrays

SIDE = 32  # images per row and per column of a sheet
INDEX = "index.npz"


def write_sheets(data: Dataset, folder: Path) -> None:
    """Write both splits of `data` as sheets into `folder`, in canonical order, with an index of the labels."""
    splits = ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    images = np.concatenate([tensor.cpu().numpy() for tensor, _ in splits])  # (N, H, W, 3)
    labels = np.concatenate([tensor.cpu().numpy() for _, tensor in splits]).astype(np.uint8)
    folder.mkdir(parents=True)
    starts = range(0, len(images), SIDE * SIDE)
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:  # the encoder works outside Python's lock
        list(pool.map(lambda start: _write_sheet(images[start:][: SIDE * SIDE], _sheet(folder, start)), starts))
    arrays = {"labels": labels, "train": np.array(len(data.train_labels)), "classes": np.array(data.classes)}
    write_arrays(folder / INDEX, arrays)


def restore_cifar(sheets: Path, name: str, folder: Path) -> None:
    """Write the data set `name` from its sheets into `folder` in the layout of its official archive, unless it is there
    already. `load_dataset` checks its fingerprints. Raises DamagedFile."""
    cifar = CIFAR[name]
    target = folder / cifar.folder
    if (target / cifar.names_file).is_file():
        return
    index = read_arrays(sheets / INDEX)
    labels, train = index["labels"], int(index["train"])
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        paths = [_sheet(sheets, start) for start in range(0, len(labels), SIDE * SIDE)]
        images = np.concatenate(list(pool.map(_read_sheet, paths)))[: len(labels)]
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)  # (N, H, W, 3) -> (N, 3*H*W)
    cuts = np.linspace(0, train, len(cifar.train_files) + 1).astype(int).tolist()
    target.mkdir(parents=True, exist_ok=True)
    for file, start, end in zip(cifar.files, cuts, [*cuts[1:], len(labels)], strict=False):
        _pickle(target / file, {"data": planes[start:end], cifar.labels: labels[start:end].tolist()})
    _pickle(target / cifar.names_file, {cifar.names: index["classes"].tolist()})  # last: from here on it is complete


def _sheet(folder: Path, start: int) -> Path:
    return folder / f"{start // (SIDE * SIDE):03d}.webp"


def _write_sheet(images: np.ndarray, path: Path) -> None:
    """images: (n, H, W, 3) with n <= SIDE * SIDE; a shorter sheet ends in black."""
    height, width = images.shape[1:3]
    full = np.zeros((SIDE * SIDE, height, width, 3), np.uint8)
    full[: len(images)] = images
    rows = full.reshape(SIDE, SIDE, height, width, 3).transpose(0, 2, 1, 3, 4)  # (SIDE, H, SIDE, W, 3)
    picture = Image.fromarray(rows.reshape(SIDE * height, SIDE * width, 3))
    picture.save(path, "WEBP", lossless=True, quality=75, method=2)  # more effort saves less than 0.1 %


def _read_sheet(path: Path) -> np.ndarray:
    try:
        pixels = np.asarray(Image.open(path).convert("RGB"))
    except OSError as error:
        raise DamagedFile(path, error) from error
    height, width = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    rows = pixels.reshape(SIDE, height, SIDE, width, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(SIDE * SIDE, height, width, 3)


def _pickle(path: Path, content: dict) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))
