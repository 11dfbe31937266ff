"""`fashion_mnist`: 60,000 + 10,000 greyscale images of clothing, 28x28, repeated to three channels.

H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
arXiv:1708.07747, 2017. Read from the four IDX files, gzipped or not; the sha256 of the decompressed bytes is checked.
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from senet_lib.data.dataset import DataError, Decoded, Split, reason
from senet_lib.data.sources import Source, download, file_state, is_there

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # the package dataset-fashion-mnist
FOLDERS = ("", "fashion-mnist", "fashion_mnist", "FashionMNIST/raw")  # subfolders searched; the last is torchvision's
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # torchvision.datasets.FashionMNIST.mirrors

# file -> sha256 of its decompressed bytes
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# file -> md5 of the official .gz (torchvision.datasets.FashionMNIST.resources)
MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def find_fashion_mnist(path: Path) -> Source | None:
    """The four files in the folder `path` or one of its FOLDERS; None if none of the files exists."""
    for folder in (path / name for name in FOLDERS):
        files = {name: _either(folder / name) for name in SHA256}
        missing = [name for name, file in files.items() if file is None]
        if len(missing) == len(files):
            continue
        if missing:
            raise DataError(f"{str(folder)!r} is incomplete: {missing[0]}.gz of Fashion-MNIST is missing; add it")
        return Source(str(folder), [file_state(file) for file in files.values()], lambda files=files: _read(files))
    return None


def download_fashion_mnist(folder: Path) -> Source:
    """Download the four files into `folder`/fashion-mnist. Raises DataError with the reason."""
    for name, md5 in MD5.items():
        download(f"{URL}{name}.gz", folder / "fashion-mnist" / f"{name}.gz", md5)
    return find_fashion_mnist(folder)


def _either(path: Path) -> Path | None:
    """`path`.gz, or else `path` itself; None if neither exists."""
    zipped = path.with_name(f"{path.name}.gz")
    return next(filter(is_there, (zipped, path)), None)


def _read(files: dict[str, Path]) -> Decoded:
    arrays = [_read_idx(path, SHA256[name]) for name, path in files.items()]
    train_images, train_labels, test_images, test_labels = arrays
    return Decoded(CLASSES, Split(_to_rgb(train_images), train_labels), Split(_to_rgb(test_images), test_labels))


def _to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)  # (N, 28, 28) -> (N, 28, 28, 3)


def _read_idx(path: Path, sha256: str) -> np.ndarray:
    """Read an IDX file of uint8: two zero bytes, type 8, number of axes, big-endian axis lengths, then the data."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read ({reason(error)}): delete it, or download it again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{str(path)!r} is damaged or not of Fashion-MNIST: decompressed sha256 {found}, expected {sha256}; "
            "delete it, or download it again"
        )
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
