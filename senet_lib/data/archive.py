"""A tar archive, packed or not, read as a tree of files without unpacking it. A damaged archive is never read in part.

`tarfile` rescues what it can: at a damaged header it stops as if the archive ended there, and it does not read the
checksum at the end of a compressed archive. Both are checked here before any member is used.
"""

import bz2
import errno
import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from senet_lib.data.dataset import DataError, reason

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BLOCK = 4096  # bytes read at once: the worst case unpacks to less than 100 MB
MAX_LINKS = 40  # as in Linux


class Compression(NamedTuple):
    """How a compressed file begins, the mode of tarfile.open, and the decompressor of one stream."""

    magic: bytes
    mode: str
    decompressor: Callable


COMPRESSIONS = (
    Compression(b"\x1f\x8b", "r:gz", partial(zlib.decompressobj, wbits=31)),  # 31: gzip, with its checksum and length
    Compression(b"BZh", "r:bz2", bz2.BZ2Decompressor),
    Compression(b"\xfd7zXZ\0", "r:xz", lzma.LZMADecompressor),
)


class Status(NamedTuple):
    """The part of os.stat_result that is used of a tree: the kind, and what shows that a file changed."""

    st_mode: int
    st_size: int = 0
    st_mtime_ns: int = 0


class TarTree:
    """The files and folders in an open tar, with links followed inside it. Paths are relative, with "/"; "" is the top.

    As in an unpacked archive, a later member replaces an earlier one of the same name, and a hard link is the file that
    had the name when the link was stored.
    """

    def __init__(self, tar: tarfile.TarFile, where: Path) -> None:
        self.where = where
        self._tar = tar
        self._members: dict[str, tarfile.TarInfo] = {}
        self._names: dict[str, dict[str, None]] = {"": {}}  # folder -> the names in it, in the archive's order
        for member in tar.getmembers():
            parts = PurePosixPath(member.name).parts
            if member.name.startswith("/") or ".." in parts:
                raise DataError(
                    f"{str(where)!r} has a member outside the archive, {member.name!r}: do not use this archive"
                )
            path = "/".join(parts)
            if member.islnk():
                member = self._members.get("/".join(PurePosixPath(member.linkname).parts), member)
            self._members[path] = member
            if member.isdir():
                self._names.setdefault(path, {})
            while path:
                folder, _, name = path.rpartition("/")
                known = folder in self._names
                self._names.setdefault(folder, {})[name] = None
                if known:
                    break
                path = folder
        for path in self._names:
            if path in self._members and not self._members[path].isdir():
                raise DataError(f"{str(where)!r} has both a file and a folder named {path!r}: pack it again")

    def folders(self) -> list[str]:
        """Every folder, and every link that may be one, in the archive's order."""
        return [*self._names, *(path for path, member in self._members.items() if member.issym())]

    def files(self) -> list[str]:
        """Every member that is not a folder, in the archive's order."""
        return [path for path, member in self._members.items() if not member.isdir()]

    def names(self, path: str) -> list[str]:
        """The names in a folder, in the archive's order. Raises OSError like os.listdir."""
        return list(self._names[self._resolved(path)])

    def status(self, path: str) -> Status:
        """Raises OSError like os.stat, also when a link leads out of the archive."""
        resolved = self._resolved(path)
        if resolved in self._names:
            return Status(stat.S_IFDIR)
        member = self._members[resolved]
        return Status(stat.S_IFREG if member.isfile() else stat.S_IFIFO, member.size)

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises OSError."""
        member = self._members[self._resolved(path)]
        if not member.isfile():
            raise OSError(errno.EINVAL, "not a regular file", path)
        try:
            with self._tar.extractfile(member) as file:
                return file.read()
        except tarfile.TarError as error:  # a sparse file whose map is wrong
            raise OSError(errno.EIO, str(error), path) from error

    def position(self, path: str) -> int:
        """Where the bytes of a file begin: in this order a compressed archive is unpacked once. Raises OSError."""
        return self._members[self._resolved(path)].offset_data

    def _resolved(self, path: str) -> str:
        """The path of the file or folder after following links. Raises OSError."""
        done, todo, links = [], path.split("/")[::-1], 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not done:
                    raise OSError(errno.ENOENT, "a link leads out of the archive", path)
                done.pop()
                continue
            done.append(part)
            member = self._members.get("/".join(done))
            if member is None or not member.issym():
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if member.linkname.startswith("/"):
                raise OSError(errno.ENOENT, f"a link to {member.linkname!r} leads out of the archive", path)
            done.pop()
            todo.extend(member.linkname.split("/")[::-1])
        resolved = "/".join(done)
        if resolved not in self._names and (resolved not in self._members or self._members[resolved].islnk()):
            raise OSError(errno.ENOENT, f"there is no {resolved!r} in the archive", path)
        return resolved


@contextmanager
def open_tar(path: Path) -> Iterator[TarTree]:
    """The tree in the archive `path`, uncompressed or gzip, bzip2 or xz, which is known to be intact.

    Raises DataError when the archive is damaged, cut off or continued by something else.
    """
    with open(path, "rb") as file:
        start = file.read(8)
    compression = next((one for one in COMPRESSIONS if start.startswith(one.magic)), None)
    with ExitStack() as stack:
        try:
            if compression is not None:
                _check_streams(path, compression.decompressor)
            mode = compression.mode if compression else "r:"
            tar = stack.enter_context(tarfile.open(path, mode, encoding="utf-8"))
            tar.getmembers()
            _check_end(tar)
        except Exception as error:  # damaged extended headers raise many types
            raise _damaged(path, error) from error
        yield TarTree(tar, path)


def _damaged(path: Path, error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno is not None:  # the disk or the permissions, not the content
        return error
    return DataError(
        f"{str(path)!r} is damaged, or not a tar archive ({reason(error)}): replace it by an intact copy "
        f"(accepted: {', '.join(SUFFIXES)})"
    )


def _check_streams(path: Path, decompressor: Callable) -> None:
    """Decompress the whole file, without keeping it, so that every checksum is compared."""
    stream = None
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            while block:
                if stream is None:
                    block = block.lstrip(b"\0")  # padding between streams and at the end is allowed
                    if not block:
                        break
                    stream = decompressor()
                stream.decompress(block)
                block = stream.unused_data
                if stream.eof:
                    stream = None
    if stream is not None:
        raise EOFError("the compressed data ends too early")


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise tarfile.ReadError unless the members are followed by the end mark, zero bytes, and nothing else."""
    tar.fileobj.seek(tar.offset)
    zeros = 0
    while block := tar.fileobj.read(1 << 20):
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"neither a valid header nor the end of the archive at byte {tar.offset:,}")
        zeros += len(block)
    if zeros < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"cut off at byte {tar.offset:,}: the end mark is missing")
