"""Image trees, `train/<class>/<image>` and `test/<class>/<image>`, in a folder or in a tar read without unpacking.

Folder names are the class names; labels number them in sorted order. Both splits must have the same classes, and all
images the same size. Nothing is resampled, since interpolation would silently change every result: resize the images
first, with the filter that you want to report. All modes become 8-bit RGB (grey repeated, alpha dropped). Hidden files,
files without an image extension and folders below a class folder are ignored.
"""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL import __version__ as pillow_version

from senet_lib.data.dataset import MAX_CLASSES, DataError, Decoded, Split, reason
from senet_lib.data.sources import Source, file_state

SPLITS = ("train", "test")
EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow's other decoders can start external programs
READ_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error)  # raised by a damaged archive


class ImageFile(NamedTuple):
    """One image of a tree: its path within the tree (split/class/file) and a function that reads its bytes."""

    path: str
    read: Callable[[], bytes]


Listing = dict[str, dict[str, list[ImageFile]]]  # split -> class -> images, in sorted order


def find_image_tree(path: Path, classes: int | None = None) -> Source:
    """The tree in a folder or an archive. classes: the expected number of classes, if known.

    Raises DataError when a folder has no valid tree. An archive is checked only when it is read.
    """
    if not path.is_dir():
        return Source(str(path), archive_state(path), partial(_read_archive, path, classes))
    listing, state = _list_folder(path)
    _check_classes(path, listing, classes)
    return Source(str(path), [pillow_version, str(path), state], partial(_decode, path, listing))


def archive_state(path: Path) -> list:
    """A value that changes when the archive or the image decoder's version changes."""
    return [pillow_version, file_state(path)]


def is_image_tree(folder: Path) -> bool:
    """Whether a folder looks like a tree. One split is enough, so that a missing second split is reported."""
    return any((folder / split).is_dir() for split in SPLITS)


def read_tar_tree(tar: tarfile.TarFile, path: Path, classes: int | None = None) -> Decoded:
    """Decode the tree in the open tar `path`; train/ and test/ may be inside a folder of any name."""
    listing = _list_tar(tar, path)
    _check_classes(path, listing, classes)
    return _decode(path, listing)


def _read_archive(path: Path, classes: int | None) -> Decoded:
    try:
        with tarfile.open(path) as tar:
            return read_tar_tree(tar, path, classes)
    except READ_ERRORS as error:
        raise DataError(
            f"{str(path)!r} is not a readable tar archive ({reason(error)}): delete it, or replace it"
        ) from error


def _list_folder(folder: Path) -> tuple[Listing, str]:
    """The images of a tree in a folder, and a hash that changes with any file's name, size or modification time."""
    listing: Listing = {split: {} for split in SPLITS}
    state = hashlib.sha256()
    for split in SPLITS:
        for class_folder in _visible(folder / split):
            if not class_folder.is_dir():
                continue
            images = listing[split][class_folder.name] = []
            for file in _visible(class_folder):
                if file.suffix.lower() in EXTENSIONS and file.is_file():
                    status = file.stat()
                    entry = f"{split}/{class_folder.name}/{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0"
                    state.update(entry.encode(errors="surrogateescape"))
                    images.append(ImageFile(f"{split}/{class_folder.name}/{file.name}", file.read_bytes))
    return listing, state.hexdigest()


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _list_tar(tar: tarfile.TarFile, path: Path) -> Listing:
    members: dict[tuple[str, str, str], tarfile.TarInfo] = {}
    classes: set[tuple[str, str]] = set()
    tops = set()
    for member in tar.getmembers():
        parts = PurePosixPath(member.name).parts
        if member.name.startswith("/") or ".." in parts:
            raise DataError(f"{str(path)!r} has a member outside the archive, {member.name!r}: do not use this archive")
        if member.isfile() and len(parts) >= 3 and parts[-3] in SPLITS:
            split, class_name, file = parts[-3:]
            hidden = class_name.startswith(".") or file.startswith(".")
            if not hidden and PurePosixPath(file).suffix.lower() in EXTENSIONS:
                tops.add("/".join(parts[:-3]))
                members[split, class_name, file] = member  # a later member of the same name replaces the earlier one
        elif member.isdir() and len(parts) >= 2 and parts[-2] in SPLITS and not parts[-1].startswith("."):
            classes.add(parts[-2:])
    if len(tops) > 1:
        raise DataError(f"{str(path)!r} has more than one image tree: {', '.join(map(repr, sorted(tops)))}; keep one")
    listing: Listing = {split: {name: [] for on, name in sorted(classes) if on == split} for split in SPLITS}
    for (split, class_name, file), member in members.items():  # in archive order, for sequential reading
        image = ImageFile(f"{split}/{class_name}/{file}", partial(_member_bytes, tar, member))
        listing[split].setdefault(class_name, []).append(image)
    return listing


def _member_bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with tar.extractfile(member) as file:
        return file.read()


def _check_classes(path: Path, listing: Listing, expected: int | None) -> None:
    for split in SPLITS:
        if not listing[split]:
            raise DataError(
                f"no images {split}/<class>/* in {str(path)!r}: it must contain train/<class>/* and test/<class>/*"
            )
        for class_name, images in listing[split].items():
            if not images:
                raise DataError(
                    f"class {class_name!r} has no images in {split}/ of {str(path)!r}: add some, or delete the class"
                )
    for split, other in (SPLITS, SPLITS[::-1]):
        if unmatched := sorted(listing[split].keys() - listing[other].keys()):
            more = f" (and {len(unmatched) - 1} more)" if len(unmatched) > 1 else ""
            raise DataError(
                f"class {unmatched[0]!r}{more} is in {split}/ but not in {other}/ of {str(path)!r}: add or delete it"
            )
    found = len(listing["train"])
    if expected is not None and found != expected:
        raise DataError(f"{str(path)!r} has {found} classes, expected {expected}: it is a different data set")
    if found > MAX_CLASSES:
        raise DataError(f"{str(path)!r} has {found} classes; at most {MAX_CLASSES} are supported")


def _decode(path: Path, listing: Listing) -> Decoded:
    classes = sorted(listing["train"])
    first = _decode_image(path, listing["train"][classes[0]][0])
    splits = []
    for split in SPLITS:
        labelled = [(image, label) for label, name in enumerate(classes) for image in listing[split][name]]
        images = np.empty((len(labelled), *first.shape), np.uint8)
        for row, (image, _) in zip(images, labelled, strict=True):
            pixels = _decode_image(path, image)
            if pixels.shape != first.shape:
                raise DataError(
                    f"{image.path!r} in {str(path)!r} has {_size(pixels)} pixels, but the first image has "
                    f"{_size(first)}: resize all images to the same size first"
                )
            row[:] = pixels
        splits.append(Split(images, np.array([label for _, label in labelled], np.uint8)))
    return Decoded(tuple(classes), *splits)


def _decode_image(path: Path, image: ImageFile) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        with Image.open(io.BytesIO(image.read()), formats=FORMATS) as picture:
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # Pillow raises many types on damaged images
        why = "not an image" if isinstance(error, Image.UnidentifiedImageError) else reason(error)
        raise DataError(f"{image.path!r} in {str(path)!r} cannot be decoded ({why}): repair or delete it") from error


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
