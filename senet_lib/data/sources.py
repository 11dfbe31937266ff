"""Where data sets are searched, and the download of missing ones.

If `root` is given, only `root` is searched. Otherwise the folder or file in the environment variable SENET_DATA is
searched first, then the project's `data/` folder.
"""

import contextlib
import hashlib
import http.client
import os
import stat
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from senet_lib.data.dataset import DataError, Decoded, reason
from senet_lib.files import exclusive
from senet_lib.project import project_root

TIMEOUT_SECONDS = 30  # without a response; the official hosts have been down for months at a time


class Source(NamedTuple):
    """A data set that was found: its location for messages, the state of its files, and a function that reads it.

    state: a JSON value that changes when the files change.
    """

    where: str
    state: list
    read: Callable[[], Decoded]


def search_paths(name: str, root: str | os.PathLike | None) -> list[Path]:
    """Folders or files to search for the data set `name`, in order.

    Raises DataError when `root` or SENET_DATA does not exist.
    """
    if root is not None:
        return [_existing(name, root, "root")]
    project_data = project_root() / "data"
    if named := os.environ.get("SENET_DATA"):
        return [_existing(name, named, "SENET_DATA"), project_data]
    return [project_data]


def _existing(name: str, path: str | os.PathLike, setting: str) -> Path:
    path = expanded(path).absolute()
    if not path.exists():
        raise DataError(
            f"{name}: {setting} is {str(path)!r}, which does not exist: set {setting} to an existing folder or file, "
            "or leave it out"
        )
    return path


def expanded(path: str | os.PathLike) -> Path:
    """`path` with ~ or ~user replaced by that user's home folder. Raises DataError if it is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{str(path)!r} starts with ~, but the home folder is not known: write it out") from error


def is_there(path: Path) -> bool:
    """Whether something has this name, even a broken link: what cannot be read is then named, not passed over."""
    return os.path.lexists(path)


def file_state(path: Path) -> list:
    """[path, size, modification time]: unchanged as long as the file is. Raises DataError if it is no regular file."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{str(path)!r} is not a regular file: name a file or a folder, or delete it")
    return [str(path), status.st_size, status.st_mtime_ns]


def file_md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(url: str, target: Path, md5: str) -> None:
    """Download `url` to the file `target`, which is created only when complete and with a matching md5.

    Raises DataError with the reason; no partial file is left behind.
    """
    with exclusive(target.with_name(f".{target.name}.lock")):
        if target.exists():  # another process downloaded it while this process waited
            return
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        print(f"downloading {url} to {target}", file=sys.stderr)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _fetch(url, partial)
            found = file_md5(partial)
            if found != md5:
                raise DataError(f"the download from {url} has md5 {found}, expected {md5}")
            os.replace(partial, target)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{url} could not be downloaded ({reason(error)})") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def _fetch(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, open(path, "wb") as file:
        size = int(answer.headers.get("Content-Length") or 0) or None
        with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, leave=False, disable=None) as progress:
            while block := answer.read(1 << 20):
                file.write(block)
                progress.update(len(block))
        file.flush()
        os.fsync(file.fileno())
