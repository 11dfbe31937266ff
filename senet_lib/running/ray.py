"""Execute runs as tasks of a Ray cluster: that of RAY_ADDRESS, or a local one that ends with the command.

Ray chooses the node, keeps CPUs and GPUs apart, and repeats a task whose worker process or node is lost. The run's lock
and its checkpoint make that safe. Nodes share the results folder, or (STORAGE=copy) send the files of a run with its
result. ray_node.py is what the nodes do.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from senet_lib.data.catalog import FOLDER
from senet_lib.errors import UserError
from senet_lib.project import project_root
from senet_lib.results import altered_files, is_done, is_intact
from senet_lib.running import ray_cluster, ray_node
from senet_lib.running.arguments import data_root_in, data_set_in
from senet_lib.running.executor import STOPPED, Ended, Event, Executor, Line, Started, gpus_of_a_run, in_words
from senet_lib.running.local import visible_gpus
from senet_lib.running.ray_cluster import ADDRESS, LOCAL, Node
from senet_lib.running.run import run_lock, set_aside_other
from senet_lib.study import RunConfig

INSTALL = "EXECUTOR=ray needs Ray; install it with `make setup-cluster`"
PROBE = 120.0  # seconds to wait for the nodes' test tasks, which import the project
REMOVAL = 30.0  # seconds to wait, at the end, until nodes have deleted their copies of stored runs
RETRIES = 5  # of a run whose worker or node is lost
RUNS_PER_NODE = 2  # without GPUs, as `make reproduce` executes locally
MEMORY = {"shared": 100 * 2**20, "copy": 2**30}  # bytes of a local Ray's object store, which holds the files of runs
HEARTBEATS = 500  # a second, that the driver answers: with more runs, each asks less often whether to stop


class RayExecutor(Executor):
    """A Ray task per run. The cluster is joined when something is asked of it."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        super().__init__(options, folder)
        if importlib.util.find_spec("ray") is None:
            raise UserError(INSTALL)
        self.address = os.environ.get(ADDRESS, "").strip()
        if self.address == LOCAL:
            self.address = ""
        self.ray: Any = None  # the module, once there is a connection
        self.temporary: Path | None = None  # the folder of a local Ray
        self.mailbox: Any = None
        self.waiting: Any = None  # for messages: the reference of the mailbox's answer
        self.tasks: dict[Any, RunConfig] = {}  # reference of a task's result -> run
        self.heard: set[str] = set()  # the runs that have started somewhere
        self.removals: list[Any] = []  # references of the tasks that delete files on nodes
        self.stops = self.cancelled = 0  # how often the runs were asked to stop; how often queued ones were taken back

    @cached_property
    def cluster(self) -> list[Node]:
        """The nodes with CPUs. Does not start a local Ray. Raises UserError if the cluster does not answer."""
        if not self.address:
            import joblib

            gpus = len(visible_gpus())
            return [Node("this machine", joblib.cpu_count(), gpus)]
        self._connect()
        if not (nodes := ray_cluster.nodes_of(self.ray)):
            raise UserError(f"{ADDRESS} is {self.address}; no node of this cluster has CPUs: start Ray on one")
        return nodes

    @cached_property
    def gpus_per_run(self) -> float:
        return gpus_of_a_run(self.options, any(node.gpus >= 1 for node in self.cluster))

    @cached_property
    def hides_gpus(self) -> bool:
        return not self.gpus_per_run and any(node.gpus >= 1 for node in self.cluster)

    def _fits(self, node: Node) -> int:
        """How many runs, as they are, the node has room for."""
        return node.room(self.threads * self.options.devices, self.gpus_per_run)

    @cached_property
    def jobs(self) -> int:
        """As given; otherwise as many as the GPUs allow or, without GPUs, two per node."""
        if self.options.jobs:
            return self.options.jobs
        most = RUNS_PER_NODE * len(self.cluster)
        if self.gpus_per_run:
            most = sum(node.room(1, self.gpus_per_run) for node in self.cluster)
        return max(1, most)

    @cached_property
    def threads(self) -> int:
        """As given; otherwise as many as leave room for all jobs at the same time."""
        if self.options.threads:
            return self.options.threads
        wanted = min(self.jobs, self._room(1))
        most = max(node.cpus for node in self.cluster)
        return next((threads for threads in range(most, 1, -1) if self._room(threads) >= wanted), 1)

    @cached_property
    def runs_per_gpu(self) -> int:
        most = int(1 / self.gpus_per_run) if self.gpus_per_run else 1
        return max(1, min(self.jobs, most))

    def _room(self, threads: int) -> int:
        return sum(node.room(threads * self.options.devices, self.gpus_per_run) for node in self.cluster)

    def describe(self) -> str:
        count = len(self.cluster)
        place = f"on the Ray cluster {self.address} ({count} node{'s' if count > 1 else ''})"
        needs = in_words(self.jobs, self.threads, self.gpus_per_run)
        self._check_size()
        return f"{place if self.address else 'by a local Ray cluster'}, {needs}"

    def check(self, runs: Sequence[RunConfig]) -> None:
        self._check_size()
        self._connect()
        self._check_nodes(runs)

    def _check_size(self) -> None:
        """Raise UserError if no node has what a run needs."""
        if self._room(self.threads):
            return
        gpus, cpus = max(node.gpus for node in self.cluster), max(node.cpus for node in self.cluster)
        where = "the largest node" if self.address else "this machine"
        if self.gpus_per_run > gpus:
            raise UserError(f"GPUS_PER_RUN is {self.gpus_per_run:g}; {where} has {gpus:g} GPUs")
        devices = self.options.devices
        needed, each = self.threads * devices, f" for each of {devices} devices" if devices > 1 else ""
        if needed > cpus:
            raise UserError(f"THREADS is {self.threads}{each}; {where} has {cpus} CPUs")
        raise UserError(f"no node has both {needed} CPUs and {self.gpus_per_run:g} GPUs: lower THREADS")

    def _connect(self) -> None:
        """Join the cluster, or start a local Ray. Raises UserError."""
        if self.ray is None and self.address:
            self.ray = ray_cluster.join(self.address)
        elif self.ray is None:
            self.temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
            self.ray = ray_cluster.start(self.cluster[0], MEMORY[self.options.storage], self.temporary)

    def close(self) -> None:
        if self.ray is not None:
            if self.removals:
                with contextlib.suppress(self.ray.exceptions.RayError, OSError):  # the connection may be lost
                    self.ray.wait(self.removals, num_returns=len(self.removals), timeout=REMOVAL)
            self.ray.shutdown()
            self.ray = None
        if self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)

    @cached_property
    def place(self) -> ray_node.Place:
        """Where the nodes find the study."""
        shared = self.options.storage == "shared"
        mine = f"{socket.gethostname()}:{self.folder.parent}"
        settings = {key: value for key, value in os.environ.items() if key.startswith("SENET_")}
        changed = {} if self.gpus_per_run else {"CUDA_VISIBLE_DEVICES": ""}
        if not self.address:
            changed["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")  # without that of Ray's processes
        return ray_node.Place(
            root=str(project_root()),
            study=self.folder.name,
            results=str(self.folder.parent) if shared else "",
            copies=f".nodes/{hashlib.sha256(mine.encode()).hexdigest()[:12]}",
            variables=self.variables() | changed,
            defaults=settings,
        )

    def _check_nodes(self, runs: Sequence[RunConfig]) -> None:
        """Ask every node that could execute a run whether it sees the results folder and has the same study and data.
        Raises UserError naming the node and what to do."""
        ray = self.ray
        question = self._question(runs)
        nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        able = {node.node_id for node in self.cluster if self._fits(node)}
        names = {node_id: name for node_id, name in nodes.items() if node_id in able or not self.address}
        probes = [ray_node.probe_file(self.folder, name) for name in ("driver", *names)]
        ask = ray.remote(num_cpus=0, max_retries=1)(ray_node.problem)
        try:
            if question.place.results:
                probes[0].write_text(question.token)
            answers = {
                ask.options(scheduling_strategy=self._only_on(node_id)).remote(question, node_id): node_id
                for node_id in names
            }
            ray.wait(list(answers), num_returns=len(answers), timeout=PROBE)
            for answer, node_id in answers.items():
                if said := self._answer(answer):
                    raise UserError(f"node {names[node_id]} {said}")
                if question.place.results and not _appears(ray_node.probe_file(self.folder, node_id), question.token):
                    raise UserError(
                        f"node {names[node_id]} writes to another folder of the name {self.folder}: {ray_node.SHARE_IT}"
                    )
        finally:
            for path in probes:
                path.unlink(missing_ok=True)

    def _question(self, runs: Sequence[RunConfig]) -> ray_node.Question:
        options, study = self.options, self.command(runs[0])[3]
        root = data_root_in(options.data) if options.data else None
        paths = {run.data.removeprefix(FOLDER) for run in runs if run.data.startswith(FOLDER)}
        paths = {os.path.join(root or "", os.path.expanduser(path)) for path in paths} | ({root} if root else set())
        return ray_node.Question(
            place=self.place,
            study=study,
            data=data_set_in(options.data),
            limit_epochs=int(options.limit_epochs) if options.limit_epochs else None,
            hashes=frozenset(run.hash for run in runs),
            library=ray_node.library_digest(),
            paths=tuple(sorted(paths)),
            token=secrets.token_hex(16),
        )

    def _answer(self, answer: Any) -> str:
        """What a node's test task says, or why there is no answer."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(answer, timeout=0)
        except errors.GetTimeoutError:
            return f"did not answer a test task within {PROBE:.0f} s: see Ray's logs there"
        except errors.RayError as error:
            return f"cannot import the project: {last_line(error)}; install it there with `make setup-cluster`"

    def _only_on(self, node_id: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)

    def start(self, run: RunConfig) -> None:
        ray = self.ray
        if self.mailbox is None:
            actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(ray_node.Mailbox)
            here = self._only_on(ray.get_runtime_context().get_node_id())
            self.mailbox = actor.options(scheduling_strategy=here).remote()
            self.task = ray.remote(ray_node.execute)
            self.removal = ray.remote(num_cpus=0, max_retries=1)(ray_node.remove_copy)
        run_dir = self.folder / "runs" / run.run_id
        order = ray_node.Order(
            run_id=run.run_id,
            hash=run.hash,
            command=tuple(self.command(run, ray_node.PYTHON, Path(ray_node.RESULTS))),
            place=self.place,
            heartbeat=max(1.0, self.jobs / HEARTBEATS),
            files={} if self.place.results else ray_node.read_files(run_dir),
        )
        task = self.task.options(
            name=run.run_id,
            num_cpus=self.threads * self.options.devices,
            num_gpus=self.gpus_per_run,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        self.tasks[task.remote(order, self.mailbox)] = run

    def stop(self, number: int) -> None:
        self.stops += 1  # `events` passes it on; this may be called by a signal's handler

    def events(self, seconds: float) -> Iterable[Event]:
        if self.mailbox is None:  # no run was started
            return
        ray = self.ray
        self._take_back()
        if self.waiting is None:
            self.waiting = self.mailbox.take.remote(self.stops, seconds)
        ray.wait([self.waiting, *self.tasks], timeout=seconds)
        ended, _ = ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0)
        runs = {run.run_id: run for run in self.tasks.values()}
        try:
            messages = list(self._messages(all_of_them=bool(ended)))
        except ray.exceptions.RayError as error:
            raise OSError(f"the connection to Ray is lost ({last_line(error)}); the same command continues") from error
        for run_id, message in messages:
            if run_id in runs:
                yield from self._told(runs[run_id], message)
        for task in ended:
            run = self.tasks.pop(task)
            self.heard.discard(run.run_id)
            yield self._ended(run, task)

    def _messages(self, all_of_them: bool) -> Iterator[tuple[str, str | list[str]]]:
        """What has come. all_of_them: whatever was posted until now, such as the last lines of a run that has ended."""
        ray = self.ray
        if all_of_them or ray.wait([self.waiting], timeout=0)[0]:
            answer, self.waiting = self.waiting, None
            yield from ray.get(answer)
        if all_of_them:
            yield from ray.get(self.mailbox.take.remote(self.stops, 0))

    def _told(self, run: RunConfig, message: str | list[str]) -> Iterator[Event]:
        if isinstance(message, list):
            yield from (Line(run, text) for text in message)
            return
        again = run.run_id in self.heard
        self.heard.add(run.run_id)
        yield Started(run, message if self.address else "")
        if again:
            yield Line(run, "started again, since its worker process or node was lost")

    def _take_back(self) -> None:
        """After a request to stop, cancel the tasks that wait for a node; after a second one, all of them."""
        if self.stops == self.cancelled:
            return
        self.cancelled = self.stops
        for task, run in self.tasks.items():
            if run.run_id not in self.heard or self.stops > 1:
                self.ray.cancel(task, force=self.stops > 1)

    def _ended(self, run: RunConfig, task: Any) -> Ended:
        try:
            result: ray_node.Result = self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            if self.stops:
                return Ended(run, STOPPED[0])
            return Ended(run, None, f"Ray could not execute it: {last_line(error)}")
        if result.files:
            kept = f"its files are kept in {result.folder} of node {result.node}"
            try:
                if damaged := self._store(run, result):
                    return Ended(run, None, f"damaged on the way from its node: {', '.join(damaged)}; {kept}")
            except OSError as error:
                return Ended(run, None, f"its files could not be stored: {error}; {kept}")
            self._remove_copy(result)
        return Ended(run, result.code, result.reason)

    def _remove_copy(self, result: ray_node.Result) -> None:
        """Let the node delete the files that are stored now. Does not wait; a node that is lost keeps them."""
        removal = self.removal.options(scheduling_strategy=self._only_on(result.node_id))
        self.removals.append(removal.remote(result.folder))

    def _store(self, run: RunConfig, result: ray_node.Result) -> list[str]:
        """Put a run's files into the results folder. Returns the files that differ from their recorded digests; then
        nothing is stored."""
        run_dir = self.folder / "runs" / run.run_id
        new = run_dir.with_name(f".{run.run_id}.arriving")
        with run_lock(run_dir):
            if is_intact(run_dir, run.hash):  # by another process
                return []
            try:
                shutil.rmtree(new, ignore_errors=True)
                ray_node.write_files(new, result.files)
                if result.code == 0 and (damaged := altered_files(new) or not is_done(new, run.hash) and ["summary"]):
                    return damaged
                set_aside_other(run_dir, run)
                old = run_dir.with_name(f".{run.run_id}.replaced")
                shutil.rmtree(old, ignore_errors=True)  # that of an earlier command which was killed here
                with contextlib.suppress(FileNotFoundError):
                    run_dir.rename(old)
                new.rename(run_dir)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        return []


def _appears(path: Path, content: str) -> bool:
    """Whether a file that another machine has written is seen here; a network file system may take a moment."""
    end = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError):
            if path.read_text() == content:
                return True
        if time.monotonic() > end:
            return False
        os.listdir(path.parent)  # lets NFS look again
        time.sleep(0.2)


def last_line(error: BaseException) -> str:
    """The line of Ray's error message that says the most: a task's exception ends with its own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
