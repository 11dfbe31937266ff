"""What ray.py lets a node do: look whether runs can be executed there, and execute one.

Imports little, since every worker process of the cluster imports it. The project must be installed on each node.
"""

import asyncio
import contextlib
import hashlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import senet_lib
from senet_lib.files import TEMPORARY, check_writable, read_record, replacing
from senet_lib.running.run import run_lock
from senet_lib.study import load_study

PYTHON, RESULTS = "{python}", "{results}"  # in a command: this node's interpreter and results folder
HISTORY = "history.csv"
MOST_MESSAGES = 10_000  # that wait for the driver; a run that prints more waits
SHARE_IT = "put the project in a folder that all nodes share, or use STORAGE=copy"

Files = dict[str, bytes]  # name -> content


@dataclass(frozen=True)
class Place:
    """Where a study is on the nodes. root: the project's folder on the driver's machine. results: the results folder
    that all nodes share, or empty: each node uses its own, below `copies` in the project's results/. variables: the
    environment of the commands; defaults: what a node's own environment does not set."""

    root: str
    study: str
    results: str
    copies: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)

    def local_root(self) -> Path:
        """The project's folder on this node."""
        if own := os.environ.get("SENET_ROOT"):
            return Path(own).resolve()
        installed = Path(senet_lib.__file__).resolve().parents[1]
        return next((path for path in (Path(self.root), installed) if (path / "studies").is_dir()), installed)

    def folder(self) -> Path:
        """The study's results folder on this node."""
        return Path(self.results or self.local_root() / "results" / self.copies) / self.study


@dataclass(frozen=True)
class Order:
    """A run to be executed. heartbeat: seconds between two questions whether to stop; files: of the unfinished run."""

    run_id: str
    hash: str
    command: tuple[str, ...]
    place: Place
    heartbeat: float
    files: Files = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """How a run ended: as in executor.Ended. If nodes do not share the results folder, with the run's files, which
    stay in `folder` of the node until the driver has stored them."""

    code: int | None
    reason: str = ""
    files: Files = field(default_factory=dict)
    node: str = ""
    node_id: str = ""
    folder: str = ""


class Mailbox:
    """An actor beside the driver: the lines of the runs wait here for it, and its requests to stop for the runs."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str | list[str]]] = []
        self.stops = 0
        self.news = asyncio.Event()

    async def post(self, run_id: str, message: str | list[str]) -> int:
        """Leave the node's name, when a run starts, or lines. Returns how often the driver has asked to stop."""
        while len(self.messages) > MOST_MESSAGES:
            await asyncio.sleep(0.1)
        if message:
            self.messages.append((run_id, message))
            self.news.set()
        return self.stops

    async def take(self, stops: int, seconds: float) -> list[tuple[str, str | list[str]]]:
        """All messages; wait for one at most so long. stops: how often the driver has asked the runs to stop."""
        self.stops = stops
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.news.wait(), seconds)
        self.news.clear()
        messages, self.messages = self.messages, []
        return messages


def execute(order: Order, mailbox: Any) -> Result:
    """Execute a run's command in a process of its own, which ends with this one."""

    def post(message: str | list[str]) -> int:
        # Not ray.get: Ray lends a waiting task's CPUs to others
        return mailbox.post.remote(order.run_id, message).future().result()

    place, node = order.place, socket.gethostname()
    if post(node):
        return Result(128 + signal.SIGTERM)  # stopped before it started
    folder = place.folder()
    if place.results and not folder.is_dir():
        return Result(None, f"node {node} does not see {folder}: {SHARE_IT}")
    run_dir = folder / "runs" / order.run_id
    if not place.results:
        _receive(order, run_dir)
    replaced = {PYTHON: sys.executable, RESULTS: str(folder.parent)}
    with _process([replaced.get(part, part) for part in order.command], place) as process:
        stops = 0
        for lines in _batches(process.stdout, order.heartbeat):
            if (asked := post(lines)) > stops:
                process.terminate()
                stops = asked
        code = process.wait()
    if place.results:
        return Result(code)
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    return Result(code, files=read_files(run_dir), node=node, node_id=node_id, folder=str(run_dir))


def remove_copy(folder: str) -> None:
    """Delete a run's files on this node, which the driver has stored."""
    with run_lock(Path(folder)):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _process(command: list[str], place: Place) -> Iterator[subprocess.Popen]:
    """A run's process, which is killed if it is still there at the end of the block. In the worker's process group,
    which Ray kills when the worker is lost, and started by its main thread, with which the process ends."""
    root = place.local_root()
    environment = {**place.defaults, **os.environ, **place.variables, "SENET_ROOT": str(root)}
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which Ray blocks in its workers
    try:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        yield process
    finally:  # also when the driver is gone, or Ray cancels this task
        if process.poll() is None:
            process.kill()
            process.wait()


def _batches(output: IO[str], seconds: float) -> Iterator[list[str]]:
    """The lines of a process's output, those together that come within a moment; every few seconds an empty batch."""
    lines: queue.Queue[str | None] = queue.Queue(maxsize=1000)

    def read() -> None:
        with contextlib.suppress(ValueError, OSError):  # closed
            for line in output:
                lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    ended = False
    while not ended:
        batch: list[str] = []
        with contextlib.suppress(queue.Empty):
            while not ended and len(batch) < 1000:
                line = lines.get(timeout=seconds) if not batch else lines.get_nowait()
                ended = line is None
                batch += [] if ended else [line]
        yield batch


def _receive(order: Order, run_dir: Path) -> None:
    """Put the unfinished run's files in place, unless this node has its own, which are as far."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with run_lock(run_dir):
        own = read_files(run_dir) if (read_record(run_dir / "config.json") or {}).get("hash") == order.hash else {}
        if own and _epochs(own) >= _epochs(order.files):
            return
        shutil.rmtree(run_dir, ignore_errors=True)
        write_files(run_dir, order.files)


def _epochs(files: Files) -> int:
    return files.get(HISTORY, b"").count(b"\n")


def read_files(run_dir: Path) -> Files:
    """The files of a run; none if there is no such folder."""
    if not run_dir.is_dir():
        return {}
    return {
        path.name: path.read_bytes()
        for path in sorted(run_dir.iterdir())
        if path.is_file() and not path.name.endswith(TEMPORARY)
    }


def write_files(run_dir: Path, files: Files) -> None:
    for name, content in files.items():
        with replacing(run_dir / name) as file:
            file.write(content)


@dataclass(frozen=True)
class Question:
    """What must hold on a node before a run is executed there. study, data, limit_epochs: as on the command line."""

    place: Place
    study: str
    data: str | None
    limit_epochs: int | None
    hashes: frozenset[str]
    library: str  # the digest of the driver's library
    paths: tuple[str, ...]  # of the data
    token: str  # the content of the probe file


def probe_file(folder: Path, name: str) -> Path:
    return folder / f".probe-{name}"


def problem(question: Question, node_id: str) -> str:
    """Why runs of the study cannot be executed on this node; empty if they can."""
    place = question.place
    root, folder = place.local_root(), place.folder()
    if place.results:
        try:
            seen = probe_file(folder, "driver").read_text() == question.token
        except OSError:
            seen = False
        if not seen:
            return f"does not see {folder}: {SHARE_IT}"
    try:
        if place.results:
            probe_file(folder, node_id).write_text(question.token)
        else:
            check_writable(folder)
    except OSError as error:
        return f"cannot write to {folder} ({error.strerror}): give its user the permission, or free its disk"
    if library_digest() != question.library:
        return f"has another version of the library in {Path(senet_lib.__file__).parent}: install the driver's there"
    try:
        study = load_study(question.study, root / "studies")
        runs = study.override(data=question.data, limit_epochs=question.limit_epochs).runs()
    except (ValueError, OSError) as error:
        return f"cannot read the study: {error}"
    if not question.hashes <= {run.hash for run in runs}:
        return f"has another version of the study {question.study} in {root}: copy the driver's there"
    own = os.environ.get("SENET_DATA") or place.defaults.get("SENET_DATA") or root
    for path in question.paths:
        if not any((start / path).exists() for start in (Path(own), root)):
            return f"does not have the data {path}: put it there, or in a folder that all nodes share"
    return ""


def library_digest() -> str:
    """A digest of the library's source files."""
    digest = hashlib.sha256()
    for path in sorted(Path(senet_lib.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
