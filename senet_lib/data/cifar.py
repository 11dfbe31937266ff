"""`cifar10`, `cifar100`: from the official python archive, packed or unpacked, or from an image tree of its images.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html
describes the archive: pickled dicts with an (n, 3072) uint8 array (red, green and blue planes) and a list of labels.
CIFAR-100 uses its 100 fine labels.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from senet_lib.data.archive import SUFFIXES, open_tar
from senet_lib.data.dataset import DataError, Decoded, Split, reason
from senet_lib.data.image_tree import archive_state, find_image_tree, is_image_tree, read_tar_tree
from senet_lib.data.sources import Source, download, file_md5, file_state, is_there


class Cifar(NamedTuple):
    """Names and contents of an official archive."""

    title: str
    url: str
    md5: str  # of the archive
    folder: str  # inside the archive
    train_files: tuple[str, ...]
    test_file: str
    names_file: str
    labels: str  # key of the labels
    names: str  # key of the class names
    classes: int

    @property
    def archive(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train_files, self.test_file, self.names_file)


# URLs and md5: torchvision.datasets.CIFAR10, CIFAR100
CIFAR = {
    "cifar10": Cifar(
        title="CIFAR-10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test_file="test_batch",
        names_file="batches.meta",
        labels="labels",
        names="label_names",
        classes=10,
    ),
    "cifar100": Cifar(
        title="CIFAR-100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        train_files=("train",),
        test_file="test",
        names_file="meta",
        labels="fine_labels",
        names="fine_label_names",
        classes=100,
    ),
}


def find_cifar(name: str, path: Path) -> Source | None:
    """The data set in `path`, an archive or a folder with one of the `layouts`; None if there is none."""
    cifar = CIFAR[name]
    if not is_there(path):
        return None
    if not path.is_dir():
        return _archive(cifar, path)
    if is_there(path / cifar.archive):
        return _archive(cifar, path / cifar.archive)
    for folder in (path / cifar.folder, path):
        if any((folder / file).is_file() for file in cifar.files):
            return _unpacked(cifar, folder)
    if is_image_tree(path / name):
        return find_image_tree(path / name, cifar.classes)
    for suffix in SUFFIXES:
        if is_there(path / f"{name}{suffix}"):
            return _archive(cifar, path / f"{name}{suffix}")
    if is_image_tree(path):
        return find_image_tree(path, cifar.classes)
    return None


def layouts(name: str) -> str:
    """The layouts that find_cifar accepts in a folder, in search order, as text for a message."""
    cifar = CIFAR[name]
    return (
        f"{cifar.archive}, {cifar.folder}/, {name}/ with train/<class>/* and test/<class>/*, {name}.tar "
        f"(or {', '.join(SUFFIXES[1:])}), train/<class>/* and test/<class>/*"
    )


def download_cifar(name: str, folder: Path) -> Source:
    """Download the official archive into `folder`. Raises DataError with the reason."""
    cifar = CIFAR[name]
    download(cifar.url, folder / cifar.archive, cifar.md5)
    return _archive(cifar, folder / cifar.archive)


def _archive(cifar: Cifar, path: Path) -> Source:
    return Source(str(path), archive_state(path), partial(_read_archive, cifar, path))


def _unpacked(cifar: Cifar, folder: Path) -> Source:
    for file in cifar.files:
        if not (folder / file).is_file():
            raise DataError(f"{str(folder)!r} is incomplete: {file} of {cifar.title} is missing; add it")
    state = [file_state(folder / file) for file in cifar.files]
    return Source(str(folder), state, lambda: _read_batches(cifar, folder, lambda file: (folder / file).read_bytes()))


def _read_archive(cifar: Cifar, path: Path) -> Decoded:
    if path.name == cifar.archive and (found := file_md5(path)) != cifar.md5:
        raise DataError(
            f"{str(path)!r} is damaged or is not the {cifar.title} archive: md5 {found}, expected {cifar.md5}; "
            "delete it, or download it again"
        )
    with open_tar(path) as tar:
        batches = {
            PurePosixPath(file).name: file for file in tar.files() if PurePosixPath(file).parent.name == cifar.folder
        }
        if not batches:
            return read_tar_tree(tar, cifar.classes)
        if missing := [file for file in cifar.files if file not in batches]:
            raise DataError(f"{str(path)!r} is incomplete: {missing[0]} of {cifar.title} is missing; replace it")
        return _read_batches(cifar, path, lambda file: tar.read(batches[file]))


def _read_batches(cifar: Cifar, where: Path, read: Callable[[str], bytes]) -> Decoded:
    """Read the official pickles; read(file) returns the bytes of one file, or raises OSError."""
    names = _entry(_unpickle(read, where, cifar.names_file), cifar.names)
    if not isinstance(names, list) or len(names) != cifar.classes:
        raise DataError(f"{cifar.names_file} in {str(where)!r} does not list {cifar.classes} class names: replace it")
    classes = tuple(name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names)
    parts = [_read_batch(cifar, where, file, read) for file in (*cifar.train_files, cifar.test_file)]
    train = Split(*(np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True)))
    return Decoded(classes, train, parts[-1])


def _read_batch(cifar: Cifar, where: Path, file: str, read: Callable[[str], bytes]) -> Split:
    batch = _unpickle(read, where, file)
    planes, labels = _entry(batch, "data"), _entry(batch, cifar.labels)
    try:
        labels = np.array(labels, np.int64)
        sound = planes.dtype == np.uint8 and planes.shape == (len(labels), 3072) and labels.ndim == 1
        sound = sound and len(labels) > 0 and labels.min() >= 0 and labels.max() < cifar.classes
    except (AttributeError, TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        raise DataError(
            f"{file} in {str(where)!r} does not have the format of {cifar.title} (uint8 images (n, 3072), "
            f"n labels from 0 to {cifar.classes - 1}): replace it"
        )
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (n, 3072) -> (n, 32, 32, 3)
    return Split(np.ascontiguousarray(images), labels.astype(np.uint8))


def _entry(batch: dict, key: str) -> object:
    """An entry of a pickled dict, whose keys are str or bytes depending on the Python that wrote it."""
    return batch.get(key, batch.get(key.encode()))


def _unpickle(read: Callable[[str], bytes], where: Path, file: str) -> dict:
    try:
        content = read(file)
    except OSError as error:
        raise DataError(f"{file} in {str(where)!r} cannot be read ({reason(error)}): replace it") from error
    try:
        _check_memo(content)
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()  # latin1: Python 2's str holds bytes
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(
            f"{file} in {str(where)!r} is not a pickle of plain arrays ({reason(error)}): replace it"
        ) from error
    if not isinstance(batch, dict):
        raise DataError(f"{file} in {str(where)!r} is not a pickled dict: replace it")
    return batch


def _check_memo(content: bytes) -> None:
    """Raise UnpicklingError if the memo is not numbered one by one: for one number, even a damaged one, the unpickler
    allocates and fills the whole table up to it, of tens of gigabytes."""
    for count, (opcode, number, _) in enumerate(pickletools.genops(content)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and number > count:
            raise pickle.UnpicklingError(f"its memo jumps to entry {number}")


def _empty_array(subtype: type, shape: tuple, dtype: object) -> np.ndarray:
    """Replaces numpy's private _reconstruct: an empty array, which the pickle then fills."""
    return np.empty(0, np.uint8)


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """Replaces _codecs.encode, with which Python 3 pickles bytes in protocol 2."""
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles only dicts, lists, strings, numbers and numpy arrays, so that a pickle cannot run code."""

    ADMITTED = {
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1_bytes,
    }

    def find_class(self, module: str, name: str) -> object:
        try:
            return self.ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed") from None
