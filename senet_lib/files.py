"""Atomic file writing, file digests and locks.

A file gets its final name only when it is complete and on disk. Imports neither torch nor pandas.
"""

import errno
import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

try:
    import fcntl
except ImportError:  # not a POSIX system: no locks, but writes are still atomic
    fcntl = None

TEMPORARY = ".tmp"  # suffix of an incomplete file


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` only when complete and on disk; after an error `path` is unchanged.

    The temporary file is in the same folder, since a rename is atomic only within one file system.
    """
    path = Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an OSError in the block name `path` if it names a temporary file or, as on a full disk, no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not str(error.filename or TEMPORARY).endswith(TEMPORARY):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_writable(folder: Path) -> None:
    """Create `folder` and write a test file in it; raise OSError naming the folder if that fails."""
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(suffix=TEMPORARY, dir=folder) as file:  # unnamed, so no conflict
            file.write(bytes(4096))  # on a full disk, creating a file succeeds but writing to it fails


def remove_temporary_files(folder: Path) -> None:
    """Remove temporary files that a killed process left in `folder`. No other process may be writing there."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError naming the file if it is not valid JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz file without np.savez's timestamps, so that equal arrays give equal bytes."""
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """A temporary folder with the content of a zip file."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
        yield Path(folder)


@contextmanager
def exclusive(lock: Path, *, waiting: str | None = None, required: bool = False) -> Iterator[None]:
    """Hold the lock file `lock` while the block runs. The system releases the lock when the process ends, however it
    ends; the file remains.

    waiting: printed if another process holds the lock, before waiting for it.
    required: raise OSError naming the lock file if locking fails. By default the block then runs without the lock.
    """
    with ExitStack() as stack:
        try:
            with naming(lock):
                lock.parent.mkdir(parents=True, exist_ok=True)
                _lock(stack.enter_context(open(lock, "a")), waiting)
        except OSError:
            if required:
                raise
        yield


def _lock(file: IO[str], waiting: str | None) -> None:
    if fcntl is None:
        raise OSError(errno.ENOSYS, "this operating system has no file locks")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting:
            print(waiting, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
