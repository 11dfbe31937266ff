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
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from senet_lib.errors import DamagedFile

try:
    import fcntl
except ImportError:  # Windows: no locks, but writes are still atomic
    fcntl = None

TEMPORARY = ".tmp"  # suffix of an incomplete file
DAMAGED = ".damaged"  # suffix of a file that was set aside
WITHOUT_LOCKS = (
    "file locks keep two processes from executing the same run: use a results folder on a file system that has them "
    "(`--results FOLDER`, or make results/ a link to one)"
)
BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)  # raised while one is read
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # what the file system cannot do at all


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
                _sync(file)
            with suppress(OSError):  # FAT or CIFS, for example, have no permissions to set
                os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _sync(file: IO[bytes]) -> None:
    """Wait until the file is on disk. Where a file system cannot do that, the file is still complete or absent."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in UNSUPPORTED:
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
    """Create `folder`, write a test file in it and lock it; raise OSError naming the folder if that fails."""
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(suffix=TEMPORARY, dir=folder) as file:  # unnamed, so no conflict
            file.write(bytes(4096))  # on a full disk, creating a file succeeds but writing to it fails
            _lock(file, None)


def remove_temporary_files(folder: Path) -> None:
    """Remove temporary files that a killed process left in `folder`. No other process may be writing there."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `<name>.damaged`, its new path, in the place of an earlier one."""
    return path.replace(path.with_name(path.name + DAMAGED))


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def as_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    write_text(path, as_json(content))


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DamagedFile (a ValueError) if it is not valid JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, IsADirectoryError) as error:  # also of text that is not UTF-8
        raise DamagedFile(path, f"not valid JSON ({error})") from error


def read_record(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if the file is missing or damaged."""
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError, DamagedFile):
        return None
    return content if isinstance(content, dict) else None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz file without np.savez's timestamps, so that equal arrays give equal bytes."""
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file. Raises DamagedFile."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except (*BROKEN_ARCHIVE, OSError, AttributeError) as error:  # numpy's for an array of another kind, or an npy file
        raise DamagedFile(path, error) from error


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """A temporary folder with the content of a zip file. Raises DamagedFile."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        except (*BROKEN_ARCHIVE, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # those that zipfile causes
                raise
            raise DamagedFile(archive, error, "restore it from git or a backup") from error
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


def _lock(file: IO, waiting: str | None) -> None:
    if fcntl is None:
        raise OSError(
            errno.ENOSYS,
            "this operating system has no POSIX file locks, which keep two processes from executing the same run: use "
            "Linux, macOS or WSL (the notebooks alone need no locks)",
        )
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                print(waiting, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; {WITHOUT_LOCKS}") from error
