"""The data sets by name, with facts that are known without reading them. Imports no torch."""

from dataclasses import dataclass

from senet_lib.errors import UserError, did_you_mean

FOLDER = "folder:"  # the prefix of a user's own image tree: folder:PATH


@dataclass(frozen=True)
class Facts:
    """Basic facts of a data set. pixels: height and width. flip: whether a mirror image keeps its class."""

    train_images: int
    test_images: int
    classes: int
    pixels: int
    flip: bool


DATASETS = {
    "digits": Facts(1_415, 382, 10, 32, flip=False),  # a mirrored digit is not a valid digit
    "fashion_mnist": Facts(60_000, 10_000, 10, 28, flip=True),
    "cifar10": Facts(50_000, 10_000, 10, 32, flip=True),
    "cifar100": Facts(50_000, 10_000, 100, 32, flip=True),
}


def check_name(name: str) -> None:
    """Raise UserError unless `name` is a known data set or folder:PATH."""
    if name not in DATASETS and (not name.startswith(FOLDER) or name == FOLDER):
        raise UserError(f"unknown data set {name!r}; {did_you_mean(name, (*DATASETS, 'folder:PATH'))}")
