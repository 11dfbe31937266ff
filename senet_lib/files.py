"""Files that are written whole or not at all, their digests, and locks.

A file takes its name only when it is complete and on the disk. No torch, no pandas: everything else may import this.
"""

import contextlib
import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked, files are still moved into place whole
    fcntl = None

TEMPORARY = ".tmp"  # how the name of a file that is not yet whole ends


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes its final name only when it is complete and on the disk; after an error `path` is as it
    was. The temporary file lies in the same folder, since a rename is atomic only within one file system."""
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
    """Have an OSError inside name `path`: a full disk's names no file at all, or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not str(error.filename or TEMPORARY).endswith(TEMPORARY):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_writable(folder: Path) -> None:
    """Raise OSError naming the folder unless a file can be made in it, by making one."""
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(suffix=TEMPORARY, dir=folder) as file:  # nameless, so in nobody's way
            file.write(bytes(4096))  # a full disk, too, makes files and takes nothing into them


def remove_temporary_files(folder: Path) -> None:
    """Remove what a writer that was killed left in `folder`; nobody else may be writing there."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError naming the file when it is not one."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An npz file, whole. np.savez stamps the time into the archive: the same arrays would give other bytes."""
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold `lock` (created beside what it guards) while the block runs; where locking is impossible, just run it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(open(lock, "a"))
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX)  # freed by the system when the holder dies
        yield
