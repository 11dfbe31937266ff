"""`load_dataset`: load a verified data set in canonical order by its name.

| name            | source                                                                                   |
|-----------------|------------------------------------------------------------------------------------------|
| `digits`        | bundled with scikit-learn                                                                |
| `fashion_mnist` | `root`, Debian's package dataset-fashion-mnist, SENET_DATA, the project's `data/`; or downloaded |
| `cifar10`, `cifar100` | `root`, or SENET_DATA and the project's `data/`; or downloaded                     |
| `folder:PATH`   | an image tree, `train/<class>/*` and `test/<class>/*`, in a folder or a tar              |

A relative PATH starts at `root`, or at SENET_DATA and then the project's folder.
"""

import os
from functools import partial
from pathlib import Path

from senet_lib.data.cache import cache_folder, load_or_build
from senet_lib.data.catalog import DATASETS, FOLDER
from senet_lib.data.cifar import CIFAR, download_cifar, find_cifar, layouts
from senet_lib.data.dataset import Canonical, DataError, Dataset, build_dataset, canonical, reason
from senet_lib.data.digits import find_digits
from senet_lib.data.fashion_mnist import DEBIAN_FOLDER, download_fashion_mnist, find_fashion_mnist
from senet_lib.data.image_tree import find_image_tree
from senet_lib.data.sources import Source, expanded, search_paths
from senet_lib.errors import did_you_mean
from senet_lib.project import project_root

# Content fingerprints (see dataset.py). CIFAR: computed from copies whose training means and standard deviations match
# the published values to eight digits. digits: computed from scikit-learn's bundle. fashion_mnist: computed from files
# with the sha256 in fashion_mnist.py.
KNOWN_FINGERPRINTS = {
    "digits": {
        "train": "190a9bd36440fd3b11e7eaca46feb576918ecb091b3fea0e8783fc7d6f968867",
        "test": "bbdcf2ed02bcf6eb041a85bae288f028e3d077caf0470869f3a1064d2045505f",
    },
    "fashion_mnist": {
        "train": "75dc8b255af6e617e3a2892b9fa95eff0a7e6bfd940cdd1326835afc26369037",
        "test": "d39f0524edefc3baf4be3401b8e742cff73e3eefe65406a89ddf02061369c399",
    },
    "cifar10": {
        "train": "16212d65187a450ef0e5cd9f20e82e6ab85d8eee74a7e4fc4075e85890c4a963",
        "test": "3cc5ab92249153bb2bcd379241839865d9f260ecbdb0dc56db859307cea09d9f",
    },
    "cifar100": {
        "train": "020b78be7b47960cb92f030d0f280c009354c8b6eef487c94c3056992669d6a0",
        "test": "dab752a2521c0c42840757e867d0cc3a255489d2b4aec1a0b782047b83ef35dd",
    },
}


def load_dataset(
    name: str,
    root: str | os.PathLike | None = None,
    *,
    cache: str | os.PathLike | bool | None = None,
    download: bool = True,
) -> Dataset:
    """Load a data set by name, on the CPU: "digits", "fashion_mnist", "cifar10", "cifar100" or "folder:PATH".

    root: the only folder or archive to search, without download (`fashion_mnist` may still come from Debian's package).
        Default: SENET_DATA, then the project's `data/`. For "folder:PATH", the folder that a relative PATH starts from;
        default: SENET_DATA if it holds PATH, else the project's folder.
    download: whether a missing data set may be downloaded.
    cache: the folder for decoded data sets. Default: SENET_CACHE, else the project's `data/cache/`. False: no cache.

    Raises DataError (a ValueError) with a one-line message when the name is unknown, or the data is missing, damaged or
    a different data set.
    """
    try:
        data = _load(str(name), root, cache, download)
    except OSError as error:  # such as missing permissions, a failing disk, a link that leads nowhere
        raise DataError(
            f"{str(error.filename or name)!r} cannot be read ({error.strerror or reason(error)}): repair it, or name "
            "another place"
        ) from error
    return build_dataset(
        name,
        data.classes,
        train=data.train,
        test=data.test,
        flip=name in DATASETS and DATASETS[name].flip,
        fingerprints=data.fingerprints,
    )


def _load(
    name: str, root: str | os.PathLike | None, cache: str | os.PathLike | bool | None, download: bool
) -> Canonical:
    source = _find(name, root, download)

    def build() -> Canonical:
        data = canonical(source.read())
        _check_fingerprints(name, source, data)
        _check_not_constant(source, data)
        return data

    if cache is False:
        return build()
    folder = cache_folder() if cache is None or cache is True else expanded(cache)
    data = load_or_build(folder, name, source.where, source.state, build)
    _check_fingerprints(name, source, data)
    return data


def _find(name: str, root: str | os.PathLike | None, download: bool) -> Source:
    if name.startswith(FOLDER):
        return _find_folder(name.removeprefix(FOLDER), root)
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; {did_you_mean(name, (*DATASETS, 'folder:PATH'))}")
    if name == "digits":
        return find_digits()
    paths = search_paths(name, root)
    if name == "fashion_mnist":
        paths.insert(1 if root is not None else 0, DEBIAN_FOLDER)
        find, fetch, accepted = find_fashion_mnist, download_fashion_mnist, "its four IDX files"
    else:
        find, fetch, accepted = partial(find_cifar, name), partial(download_cifar, name), layouts(name)
    for path in paths:
        if source := find(path):
            return source
    searched = f"searched for {accepted} in {', '.join(repr(str(path)) for path in paths)}"
    if root is not None:
        raise DataError(f"{name} was not found in root: {searched}; put it there, or leave root out to download it")
    if not download:
        raise DataError(f"{name} was not found, and download=False: {searched}; put it there, or allow the download")
    try:
        return fetch(project_root() / "data")
    except DataError as error:
        raise DataError(
            f"{name} was not found and could not be downloaded: {searched}; {error}; put it into one of these folders, "
            "or set the environment variable SENET_DATA to the folder or archive that contains it"
        ) from error


def _find_folder(path: str, root: str | os.PathLike | None) -> Source:
    if not path:
        raise DataError("'folder:' has no path: write folder:PATH, with train/<class>/* and test/<class>/* in PATH")
    folder = image_folder(path, root)
    if not folder.exists():
        raise DataError(
            f"{str(folder)!r} does not exist: PATH of folder:PATH must contain train/<class>/*, test/<class>/*"
        )
    return find_image_tree(folder)


def image_folder(path: str, root: str | os.PathLike | None) -> Path:
    """The absolute place of "folder:PATH", which may be missing; root: as in `load_dataset`."""
    starts = [root] if root is not None else [os.environ.get("SENET_DATA") or project_root(), project_root()]
    folders = [(expanded(start) / expanded(path)).absolute() for start in starts]
    return next((folder for folder in folders if folder.exists()), folders[-1])


def _check_not_constant(source: Source, data: Canonical) -> None:
    for split in ("train", "test"):
        images = getattr(data, split).images
        pixel = images[0, 0, 0]
        if bool((images[0] == pixel).all()) and bool((images == pixel).all()):
            raise DataError(
                f"all pixels of all {len(images)} {split} images in {source.where!r} have the same colour, "
                f"{tuple(pixel.tolist())}: check how the images were written"
            )


def _check_fingerprints(name: str, source: Source, data: Canonical) -> None:
    for split, expected in KNOWN_FINGERPRINTS.get(name, {}).items():
        found, images = data.fingerprints[split], len(getattr(data, split).labels)
        if found != expected:
            title = CIFAR[name].title if name in CIFAR else name
            raise DataError(
                f"the {images} {split} images in {source.where!r} are not those of {title}: fingerprint {found}, "
                f"expected {expected}; replace them by the original data, or load them as folder:PATH"
            )
