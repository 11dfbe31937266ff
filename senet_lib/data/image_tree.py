"""Image trees, `train/<class>/<image>` and `test/<class>/<image>`, in a folder or in a tar read without unpacking.

Folder names are the class names; labels number them in sorted order. Both splits must have the same classes, and all
images the same size. Nothing is resampled, since interpolation would silently change every result: resize the images
first, with the filter that you want to report. For the same reason only images of at most 8 bits per channel are read;
they become 8-bit RGB (grey repeated, alpha dropped). Links are followed. An image that cannot be read is an error,
hidden files are ignored, and everything else that is not read is named in a warning.
"""

import hashlib
import io
import os
import stat
import unicodedata
import warnings
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image
from PIL import __version__ as pillow_version

from senet_lib.data.archive import Status, TarTree, open_tar
from senet_lib.data.dataset import MAX_CLASSES, DataError, Decoded, Split, reason
from senet_lib.data.sources import Source, file_state

SPLITS = ("train", "test")
EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow's other decoders can start external programs
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")  # converted without clipping
BITS_PER_SAMPLE, SAMPLE_FORMAT, UNSIGNED = 258, 339, 1  # of TIFF
NAMED = 3  # ignored files named in the warning


class Tree(Protocol):
    """A tree of files; paths are relative to it, with "/". All methods raise OSError like those of `os`."""

    where: Path

    def names(self, path: str) -> list[str]: ...

    def status(self, path: str) -> os.stat_result | Status: ...

    def read(self, path: str) -> bytes: ...

    def position(self, path: str) -> int: ...


class Folder:
    """The tree in a folder."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(self.where / path))

    def status(self, path: str) -> os.stat_result:
        return os.stat(self.where / path)

    def read(self, path: str) -> bytes:
        return (self.where / path).read_bytes()

    def position(self, path: str) -> int:
        return 0  # any order will do


class ImageFile(NamedTuple):
    """One image: its path in the tree, and what shows that the file changed."""

    path: str
    size: int
    mtime_ns: int


class Listing(NamedTuple):
    """The images of a tree as split -> class -> images, and the paths of what is not read."""

    images: dict[str, dict[str, list[ImageFile]]]
    ignored: list[str]


def find_image_tree(path: Path, classes: int | None = None) -> Source:
    """The tree in a folder or an archive. classes: the expected number of classes, if known.

    Raises DataError when a folder has no valid tree. An archive is checked only when it is read.
    """
    if not path.is_dir():
        return Source(str(path), archive_state(path), partial(_read_archive, path, classes))
    tree = Folder(path)
    listing = _list(tree)
    _check_classes(path, listing, classes)
    state = hashlib.sha256(ascii(listing.images).encode()).hexdigest()
    return Source(str(path), [pillow_version, str(path), state], partial(_decode, tree, listing))


def archive_state(path: Path) -> list:
    """A value that changes when the archive or the image decoder's version changes."""
    return [pillow_version, file_state(path)]


def is_image_tree(folder: Path) -> bool:
    """Whether a folder looks like a tree. One split is enough, even as a broken link, so that the other is missed."""
    return any((folder / split).is_dir() or (folder / split).is_symlink() for split in SPLITS)


def read_tar_tree(tar: TarTree, classes: int | None = None) -> Decoded:
    """Decode the tree in an open tar; train/ and test/ may be inside a folder of any name."""
    listings = {top: _list(tar, top) for top in _tops(tar)}
    if len(listings) > 1:  # such as scripts in a folder named test/, or what the links of the tree lead to
        complete = (top for top, found in listings.items() if all(any(found.images[s].values()) for s in SPLITS))
        listings = {top: listings[top] for top in complete} or listings
    if len(listings) > 1:
        raise DataError(f"{str(tar.where)!r} has more than one image tree: {', '.join(map(repr, listings))}; keep one")
    listing = next(iter(listings.values()), _empty())
    _check_classes(tar.where, listing, classes)
    return _decode(tar, listing)


def _read_archive(path: Path, classes: int | None) -> Decoded:
    with open_tar(path) as tar:
        return read_tar_tree(tar, classes)


def _empty() -> Listing:
    return Listing({split: {} for split in SPLITS}, [])


def _tops(tar: TarTree) -> list[str]:
    """The folders with train/ or test/ in them, outermost first, but none inside the train/ or test/ of another."""
    tops: list[str] = []
    candidates = {folder.rpartition("/")[0] for folder in tar.folders() if folder.rpartition("/")[2] in SPLITS}
    for top in sorted(candidates, key=lambda top: (top.count("/"), top)):
        if not f"{top}/".startswith(tuple(f"{_join(other, split)}/" for other in tops for split in SPLITS)):
            tops.append(top)
    return tops


def _join(*names: str) -> str:
    return "/".join(filter(None, names))


def _list(tree: Tree, top: str = "") -> Listing:
    """The images in the folder `top`. Raises DataError for anything that may be an image and cannot be read."""
    listing = _empty()
    for split in SPLITS:
        if split not in _visible(tree, top) or not _is_folder(tree, _join(top, split)):
            continue
        for name in _visible(tree, _join(top, split)):
            folder = _join(top, split, name)
            if not _is_folder(tree, folder):
                listing.ignored.append(folder)
                continue
            images = listing.images[split][_class_name(tree, split, name)] = []
            for file in _visible(tree, folder):
                path = f"{folder}/{file}"
                if PurePosixPath(file).suffix.lower() not in EXTENSIONS:
                    listing.ignored.append(path)
                    continue
                status = _status(tree, path)
                if not stat.S_ISREG(status.st_mode):
                    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
                    raise DataError(
                        f"{path!r} in {str(tree.where)!r} is named as an image but is {kind}: rename or delete it"
                    )
                images.append(ImageFile(path, status.st_size, status.st_mtime_ns))
    return listing


def _visible(tree: Tree, path: str) -> list[str]:
    try:
        return [name for name in tree.names(path) if not name.startswith(".")]
    except OSError as error:
        raise _unreadable(tree, path, error) from error


def _status(tree: Tree, path: str) -> os.stat_result | Status:
    try:
        return tree.status(path)
    except OSError as error:
        raise _unreadable(tree, path, error) from error


def _is_folder(tree: Tree, path: str) -> bool:
    return stat.S_ISDIR(_status(tree, path).st_mode)


def _unreadable(tree: Tree, path: str, error: OSError) -> DataError:
    return DataError(
        f"{path!r} in {str(tree.where)!r} cannot be read ({error.strerror or reason(error)}): repair or delete it"
    )


def _class_name(tree: Tree, split: str, name: str) -> str:
    """The name of a class folder, which is UTF-8 whatever the encoding of the locale."""
    stored = name.encode(errors="surrogateescape")
    try:
        return stored.decode()
    except UnicodeDecodeError:
        raise DataError(
            f"the class folder {stored!r} in {split}/ of {str(tree.where)!r} has a name that is not UTF-8: rename it"
        ) from None


def _check_classes(path: Path, listing: Listing, expected: int | None) -> None:
    for split in SPLITS:
        images_of = listing.images[split]
        if not images_of:
            raise DataError(
                f"no images {split}/<class>/* in {str(path)!r}: it must contain train/<class>/* and test/<class>/*"
            )
        for class_name, images in images_of.items():
            if not images:
                raise DataError(
                    f"class {class_name!r} has no images in {split}/ of {str(path)!r}: add some, or delete the class"
                )
        written: dict[str, str] = {}
        for class_name in images_of:
            twin = written.setdefault(unicodedata.normalize("NFC", class_name), class_name)
            if twin != class_name:
                raise DataError(
                    f"two classes in {split}/ of {str(path)!r} have names that look the same: {ascii(twin)} and "
                    f"{ascii(class_name)}; rename one, or move its images to the other"
                )
    for split, other in (SPLITS, SPLITS[::-1]):
        if unmatched := sorted(listing.images[split].keys() - listing.images[other].keys()):
            name = unmatched[0]
            more = f" (and {len(unmatched) - 1} more)" if len(unmatched) > 1 else ""
            twins = [twin for twin in listing.images[other] if _look_alike(name, twin)]
            remedy = f"{ascii(name)} and {ascii(twins[0])} differ: rename one" if twins else "add or delete it"
            raise DataError(f"class {name!r}{more} is in {split}/ but not in {other}/ of {str(path)!r}: {remedy}")
    found = len(listing.images["train"])
    if expected is not None and found != expected:
        raise DataError(f"{str(path)!r} has {found} classes, expected {expected}: it is a different data set")
    if found > MAX_CLASSES:
        raise DataError(f"{str(path)!r} has {found} classes; at most {MAX_CLASSES} are supported")


def _look_alike(name: str, other: str) -> bool:
    """Whether two names differ only in letter case, what is invisible or how Unicode composes the same letters."""
    one, two = (unicodedata.normalize("NFKC", text).casefold() for text in (name, other))
    return _visible_letters(one) == _visible_letters(two)


def _visible_letters(text: str) -> str:
    return "".join(letter for letter in text if not letter.isspace() and unicodedata.category(letter) != "Cf")


def _decode(tree: Tree, listing: Listing) -> Decoded:
    _warn_of_ignored(tree.where, listing.ignored)
    classes = sorted(listing.images["train"])
    first = _decode_image(tree, listing.images["train"][classes[0]][0])
    splits, todo = [], []
    for split in SPLITS:
        labelled = [(image, label) for label, name in enumerate(classes) for image in listing.images[split][name]]
        images = np.empty((len(labelled), *first.shape), np.uint8)
        todo += [(tree.position(image.path), image, row) for (image, _), row in zip(labelled, images, strict=True)]
        splits.append(Split(images, np.array([label for _, label in labelled], np.uint8)))
    for _, image, row in sorted(todo, key=lambda item: item[0]):
        row[:] = _decode_image(tree, image, first.shape)
    return Decoded(tuple(classes), *splits)


def _warn_of_ignored(where: Path, ignored: list[str]) -> None:
    if ignored:
        named = ", ".join(map(repr, ignored[:NAMED])) + (", ..." if len(ignored) > NAMED else "")
        warnings.warn(
            f"not read in {str(where)!r}: {len(ignored)} files or folders that are not images of a class, {named}; "
            "only files train/<class>/* and test/<class>/* with these extensions are read: "
            f"{', '.join(sorted(EXTENSIONS))}",
            stacklevel=2,
        )


def _decode_image(tree: Tree, image: ImageFile, shape: tuple | None = None) -> np.ndarray:
    """(H, W, 3) uint8. Raises DataError, also when the image does not have the shape that is expected."""
    try:
        content = tree.read(image.path)
    except OSError as error:
        raise _unreadable(tree, image.path, error) from error
    where = f"{image.path!r} in {str(tree.where)!r}"
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            if shape is not None and picture.size != shape[1::-1]:
                raise DataError(
                    f"{where} has {_size(picture.size)} pixels, but the first image has {_size(shape[1::-1])}: resize "
                    "all images to the same size first"
                )
            if picture.format == "PNG":  # Pillow skips the checksums of the pixels when it decodes them
                with Image.open(io.BytesIO(content), formats=("PNG",)) as checked:
                    checked.verify()
            return to_rgb(picture, where)
    except DataError:
        raise
    except Exception as error:  # Pillow raises many types on damaged images
        why = "not an image" if isinstance(error, Image.UnidentifiedImageError) else reason(error)
        raise DataError(f"{where} cannot be decoded ({why}): repair or delete it") from error


def to_rgb(picture: Image.Image, where: str) -> np.ndarray:
    """(H, W, 3) uint8. Raises DataError, which names the mode, unless every channel has at most 8 bits."""
    detail = _cut_off(picture) if picture.mode in MODES else ""
    if picture.mode not in MODES or detail:
        raise DataError(
            f"{where} has mode {picture.mode}{detail}, which 8-bit RGB cannot hold: convert it to 8-bit RGB or L "
            "first, by the rule that you want to report"
        )
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:  # MPO: a JPEG photo and its previews
        raise DataError(f"{where} has {picture.n_frames} frames: save each as a file of its own")
    picture.load()
    picture.info.pop("transparency", None)  # dropped in any case; of some kinds Pillow would warn for every image
    return np.asarray(picture.convert("RGB"))


def _cut_off(picture: Image.Image) -> str:
    """What Pillow would cut off in silence when it decodes the file, or ""."""
    bits = 8
    if picture.format == "TIFF":
        if set(picture.tag_v2.get(SAMPLE_FORMAT, ())) - {UNSIGNED}:
            return " with signed numbers"
        bits = max(picture.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    elif picture.format in ("PNG", "PPM") and picture.tile:
        arguments = picture.tile[0][3]  # of Pillow's decoder: "RGB;16B" in PNG, ("RGB", the largest value) in PPM
        if picture.format == "PNG":
            bits = 16 if ";16" in arguments else 8
        elif isinstance(arguments, tuple):
            bits = max(value.bit_length() for value in arguments[1:])
    return f" with {bits} bits per channel" if bits > 8 else ""


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
