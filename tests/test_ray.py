"""The Ray executor: what it asks of a cluster, and what lost workers, nodes and drivers must not do to a study."""

import asyncio
import contextlib
import math
import signal
import socket
import threading
import time
from argparse import Namespace
from types import SimpleNamespace

import psutil
import pytest
from project_folder import TINY, Project, completed, history, weights

from senet_lib.errors import UserError
from senet_lib.files import write_json
from senet_lib.project import project_root
from senet_lib.results import WEIGHTS, altered_files, write_summary
from senet_lib.running import ray_cluster, ray_node
from senet_lib.running.executor import Ended
from senet_lib.running.ray import RayExecutor
from senet_lib.running.ray_cluster import Node
from senet_lib.running.time_limit import TimeLimit

EPOCHS = 16
RUNS = ("resnet-seed0", "se-seed0")
EVERY_STEP = {"SENET_CHECKPOINT_SECONDS": "0"}


def options(**changes):
    given = {"jobs": None, "threads": None, "study": "s", "device": "auto", "data": "", "limit_epochs": None}
    return Namespace(**given | {"gpus_per_run": None, "devices": 1, "storage": "shared"} | changes)


@pytest.fixture
def executor(tmp_path, monkeypatch):
    """Makes an executor for a cluster of made-up nodes; nothing is started."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")

    def make(nodes, **changes):
        made = RayExecutor(options(**changes), tmp_path / "s")
        made.__dict__["cluster"] = [Node(f"node{i}", *node) for i, node in enumerate(nodes)]
        return made

    return make


def test_needs_ray(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="EXECUTOR=ray needs Ray; install it with `make setup-cluster`"):
        RayExecutor(options(), tmp_path)


def test_runs_share_the_cluster(executor):
    for nodes, changes, expected in (  # jobs, threads, GPUs of a run, runs that share a GPU
        ([(8,)], {}, (2, 4, 0, 1)),
        ([(8,), (8,)], {}, (4, 4, 0, 1)),
        ([(3,), (3,)], {"jobs": 3}, (3, 1, 0, 1)),  # with 2 threads, only two would fit
        ([(3,), (3,)], {"jobs": 2}, (2, 3, 0, 1)),
        ([(1,)], {}, (2, 1, 0, 1)),  # the second waits
        ([(8,), (2,)], {"jobs": 1}, (1, 8, 0, 1)),
        ([(8,)], {"threads": 3}, (2, 3, 0, 1)),
        ([(16, 4), (4, 0)], {}, (4, 4, 1, 1)),
        ([(16, 4)], {"device": "cpu"}, (2, 8, 0, 1)),
        ([(16, 4)], {"gpus_per_run": 2}, (2, 8, 2, 1)),
        ([(16, 4)], {"gpus_per_run": 0.5}, (8, 2, 0.5, 2)),
        ([(16, 4)], {"gpus_per_run": 0.4, "jobs": 8}, (8, 2, 0.4, 2)),
        ([(16, 4)], {"gpus_per_run": 0}, (2, 8, 0, 1)),
        ([(16, 4)], {"devices": 2}, (2, 4, 2, 1)),  # a GPU and 4 threads for each device
    ):
        made = executor(nodes, **changes)
        assert (made.jobs, made.threads, made.gpus_per_run, made.runs_per_gpu) == expected, (nodes, changes)
        made.describe()
    assert "with 4 CPU threads and 1 GPU" in executor([(16, 4)]).describe()
    assert executor([(16, 4)], gpus_per_run=0, device="auto").device == "cpu", "the GPUs are hidden from the runs"
    assert executor([(16, 0)], device="auto").device == executor([(16, 4)], device="auto").device == "auto"


def test_runs_too_large_for_any_node(executor):
    for nodes, changes, said in (
        ([(8, 2), (8, 1)], {"gpus_per_run": 4}, "GPUS_PER_RUN is 4; the largest node has 2 GPUs"),
        ([(8,), (4,)], {"threads": 9}, "THREADS is 9; the largest node has 8 CPUs"),
        ([(8,), (2, 1)], {"threads": 4}, "no node has both 4 CPUs and 1 GPUs: lower THREADS"),
    ):
        with pytest.raises(UserError, match=f"^{said}$"):
            executor(nodes, **changes).describe()


def test_addresses_that_do_not_answer(monkeypatch):
    monkeypatch.setattr(ray_cluster, "ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as other:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            free = closed.getsockname()[1]

        def answer():
            connection, _ = other.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        for address, why in (
            (f"127.0.0.1:{free}", "within 0 s (Connection refused)"),
            (f"127.0.0.1:{silent.getsockname()[1]}", "within 0 s (no answer)"),
            (f"127.0.0.1:{other.getsockname()[1]}", "within 0 s (what answers there is not Ray)"),
            ("127.0.0.1:99999999", "no Ray cluster there within 0 s"),
            ("ray://127.0.0.1:10001", "allowed: HOST:PORT of its head node"),
            ("127.0.0.1", "allowed: HOST:PORT of its head node"),
        ):
            with pytest.raises(UserError) as error:
                ray_cluster.check_answers(address)
            assert str(error.value).startswith(f"RAY_ADDRESS is {address}; "), error.value
            assert why in str(error.value)


def test_node_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.delenv("SENET_ROOT", raising=False)
    results = tmp_path / "results"
    (results / "quick").mkdir(parents=True)

    def problem(**changes):
        place = {"root": str(project_root()), "study": "quick", "results": str(results)}
        if "results" in changes:
            place |= {"results": changes.pop("results"), "copies": str(tmp_path / "file")}
        place = ray_node.Place(**place)
        given = {"study": "quick", "data": None, "limit_epochs": None, "hashes": frozenset(), "token": "t"}
        given |= {"library": ray_node.library_digest(), "paths": ()}
        return ray_node.problem(ray_node.Question(place=place, **given | changes), "n")

    unseen = f"does not see {results / 'quick'}: put the project in a folder that all nodes share, or use STORAGE=copy"
    assert problem() == unseen
    ray_node.probe_file(results / "quick", "driver").write_text("t")
    assert problem(token="another") == unseen
    assert problem() == ""
    assert ray_node.probe_file(results / "quick", "n").read_text() == "t"
    assert "has another version of the study quick" in problem(hashes=frozenset({"0"}))
    assert "has another version of the library" in problem(library="0")
    assert "does not have the data /nowhere" in problem(paths=("/nowhere",))
    assert "cannot read the study: unknown study 'quik'" in problem(study="quik")
    (tmp_path / "file").touch()
    assert "cannot write to" in problem(results="")


def test_mailbox():
    async def exchange():
        mailbox = ray_node.Mailbox()
        taking = asyncio.create_task(mailbox.take(0, 60))
        assert await mailbox.post("run", "node") == 0
        assert await mailbox.post("run", []) == 0
        assert await taking == [("run", "node")]
        assert await mailbox.take(2, 0.01) == []
        assert await mailbox.post("run", ["line"]) == 2
        assert await mailbox.take(2, 60) == [("run", ["line"])]

    asyncio.run(exchange())


def test_files_sent_back_are_checked(tmp_path, executor):
    """A finished run's against their digests; damaged ones replace nothing, undamaged ones the unfinished run."""
    run = SimpleNamespace(run_id="run", hash="0" * 16, record=lambda: {"hash": "0" * 16})
    sent, run_dir = tmp_path / "sent", tmp_path / "s" / "runs" / "run"
    for folder in (sent, run_dir):
        write_json(folder / "config.json", run.record())
    (sent / WEIGHTS).write_bytes(b"weights")
    (run_dir / "checkpoint.pt").touch()
    write_summary(sent, {"hash": run.hash})
    files = ray_node.read_files(sent)
    store = executor([(1,)], storage="copy")._store
    for damage in ({WEIGHTS: b"weighty"}, {"summary.json": b"{}"}):
        assert store(run, ray_node.Result(0, files=files | damage)) == list(damage)
    assert sorted(path.name for path in run_dir.iterdir()) == ["checkpoint.pt", "config.json"]
    left = run_dir.with_name(".run.replaced")  # by a command that was killed meanwhile
    left.mkdir()
    (left / "checkpoint.pt").touch()
    assert store(run, ray_node.Result(0, files=files)) == []
    assert ray_node.read_files(run_dir) == files
    assert sorted(path.name for path in run_dir.parent.iterdir()) == [".run.lock", "run"]


def test_a_time_limit_too_short_for_any_run(executor):
    made = executor([(1,)])
    made.pace = SimpleNamespace(start=10.0, rest=lambda run, run_dir: 100.0)
    made.limit = TimeLimit(20.0, time.monotonic())
    with kept_signal_handlers():
        assert made.execute([SimpleNamespace(run_id="run")]) == {}
    assert made.left == ["run"]


def test_node_keeps_files_that_cannot_be_stored(tmp_path, executor, monkeypatch):
    run = SimpleNamespace(run_id="run", hash="0" * 16, record=lambda: {"hash": "0" * 16})
    result = ray_node.Result(143, files={"checkpoint.pt": b"c"}, node="n", node_id="1", folder="/there/run")
    made, removed = executor([(1,)], storage="copy"), []
    made.ray = SimpleNamespace(get=lambda task: result, exceptions=SimpleNamespace(RayError=KeyError))
    monkeypatch.setattr(made, "_remove_copy", removed.append)
    (blocking := tmp_path / "s" / "runs" / ".run.arriving").parent.mkdir(parents=True)
    blocking.touch()
    ended = made._ended(run, task=None)
    assert ended.code is None
    assert ended.reason.startswith("its files could not be stored: ")
    assert ended.reason.endswith("; its files are kept in /there/run of node n")
    assert not removed
    blocking.unlink()
    assert made._ended(run, task=None) == Ended(run, 143)
    assert removed == [result]


def write_study(project):
    changes = {"recipe": {**TINY["recipe"], "epochs": EPOCHS}}
    project.write_study("long", changes)
    return {run_id: project.run_dir(run_id, "long") for run_id in RUNS}


@pytest.fixture(scope="module")
def local(tmp_path_factory, images):
    """The run directories of the study that EXECUTOR=local has executed."""
    project = Project(tmp_path_factory.mktemp("local") / "project", images)
    runs = write_study(project)
    code, output = project.launch("reproduce", "long")
    assert code == 0, output
    return runs


@pytest.fixture(scope="module")
def fast_imports(tmp_path_factory):
    """As ray_cluster.start does for the processes of a local Ray."""
    folder = tmp_path_factory.mktemp("imports")
    (folder / f"{ray_cluster.SLOW}.py").write_text("raise ImportError\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}


@contextlib.contextmanager
def kept_signal_handlers():
    """Ray sets its own for each node in this process, which other tests share."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def head(fast_imports):
    """A cluster whose only node, that of the drivers, executes no run."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    notices = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    without = {"num_cpus": 0, "include_dashboard": False, "_system_config": notices}
    with kept_signal_handlers():
        cluster = Cluster(True, head_node_args=NODE | without)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def cluster(head):
    """The same with two nodes that do."""
    yield from with_nodes(head, {}, {})


def with_nodes(head, *environments):
    with kept_signal_handlers():
        nodes = [head.add_node(**NODE, env_vars=environment) for environment in environments]
    yield head
    for node in nodes:
        if node in head.worker_nodes:
            head.remove_node(node)


@pytest.fixture
def on_cluster(project, cluster):
    """The project, whose commands use the cluster, and the directories of its runs."""
    project.variables = {"RAY_ADDRESS": cluster.address, **EVERY_STEP}
    return project, write_study(project)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def epochs(run_dir):
    path = run_dir / "history.csv"
    return path.read_text(encoding="utf-8").count("\n") - 1 if path.exists() else 0


def processes(word):
    """The running processes with this word in their command, without those of this test."""
    found = []
    for process in psutil.process_iter():
        try:
            if word in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run_process(project, run_id):
    """The process of a run of this project; None if there is none."""
    return next(
        (p for p in processes(f"running.run long {run_id}") if str(project.root) in " ".join(p.cmdline())), None
    )


def check_equal(runs, local):
    for run_id, run_dir in runs.items():
        assert altered_files(run_dir) == []
        assert weights(run_dir) == weights(local[run_id]), run_id
        assert history(run_dir).equals(history(local[run_id])), run_id


RAY = ("reproduce", "long", "--executor", "ray")


@pytest.mark.slow
def test_lost_workers_and_nodes(on_cluster, cluster, local):
    """A worker, then a whole node, are killed while they train; the runs go on and end as local ones do."""
    project, runs = on_cluster
    first, second = runs.values()
    driver = project.start(*RAY)
    try:
        wait_for(lambda: epochs(first) > 1 and epochs(second) > 1)
        run_process(project, first.name).parent().kill()
        raylet = run_process(project, second.name).parent().parent()
        (node,) = (n for n in cluster.worker_nodes if n.all_processes["raylet"][0].process.pid == raylet.pid)
        cluster.remove_node(node, allow_graceful=False)
        code, output = completed(driver)
    finally:
        driver.kill()
    assert code == 0, output
    assert output.count("started again, since its worker process or node was lost") >= 2, output
    assert output.count("resumed after epoch") >= 2, output
    check_equal(runs, local)
    _, output = project.launch("reproduce", "long")
    assert "2 runs, 2 already done" in output, "by the local executor"


@pytest.mark.slow
def test_killed_driver_leaves_nothing(on_cluster, local):
    """First with a local Ray, during the first run, then on a cluster, during the second. The same command goes on."""
    project, runs = on_cluster
    first, second = runs.values()
    below = []
    for address, run_dir in (("", first), (project.variables["RAY_ADDRESS"], second)):
        project.variables["RAY_ADDRESS"] = address
        driver = project.start(*RAY, "--jobs", "1")
        try:
            wait_for(lambda run_dir=run_dir: epochs(run_dir) > 1)
            run = run_process(project, run_dir.name)
            own = [run, *run.children(recursive=True)]
            below += [*own, *psutil.Process(driver.pid).children(recursive=True)]
        finally:
            driver.kill()
        driver.communicate()
        wait_for(lambda own=own: not any(map(is_alive, own)), seconds=20)
        assert not (run_dir / "summary.json").exists()
    before = (first / "summary.json").stat().st_mtime_ns
    code, output = project.launch(*RAY)
    assert code == 0, output
    assert "2 runs, 1 already done" in output
    assert "resumed after epoch" in output
    assert (first / "summary.json").stat().st_mtime_ns == before
    check_equal(runs, local)
    wait_for(lambda: not any(map(is_alive, below)))  # two processes of a local Ray end a minute after their driver


@pytest.mark.slow
def test_nodes_with_results_of_their_own(project, head, images, local, tmp_path):
    """STORAGE=copy: a stopped run's checkpoint comes back and is sent along again, a finished run's files come back.
    If they cannot be stored, the node keeps them."""
    runs = write_study(project)
    others = [Project(tmp_path / name, images) for name in ("one", "two")]
    for other in others:
        write_study(other)
    nodes = with_nodes(head, *({"SENET_ROOT": str(other.root)} for other in others))
    next(nodes)
    project.variables = {"RAY_ADDRESS": head.address, **EVERY_STEP}
    copy = (*RAY, "--storage", "copy")
    try:
        driver = project.start(*copy)
        wait_for(lambda: all(list(other.root.glob("results/.nodes/*/long/runs/*/history.csv")) for other in others))
        driver.send_signal(signal.SIGTERM)
        code, output = completed(driver)
        assert code == 128 + signal.SIGTERM, output
        assert output.splitlines()[-1] == "stopped; the same command resumes the runs"
        for run_dir in runs.values():
            assert (run_dir / "checkpoint.pt").exists()
        code, output = project.launch(*copy)
        assert code == 0, output
        assert output.count("resumed after epoch") == 2
        check_equal(runs, local)
        for other in others:
            assert not list(other.root.glob("results/.nodes/*/long/runs/[!.]*"))
        (project.root / "results" / "tiny" / "runs").mkdir(parents=True)
        for run_id in RUNS:
            (project.run_dir(run_id, "tiny").parent / f".{run_id}.arriving").touch()  # so that it cannot be stored
        code, output = project.launch("reproduce", "tiny", "--executor", "ray", "--storage", "copy")
        assert code == 1, output
        assert output.count(": its files could not be stored: ") == 2, output
        kept = [path for other in others for path in other.root.glob("results/.nodes/*/tiny/runs/[!.]*")]
        assert sorted(path.name for path in kept) == list(RUNS)
        for run_dir in kept:
            assert f"its files are kept in {run_dir} of node {socket.gethostname()}" in output
            assert altered_files(run_dir) == []
        others[1].write_study("tiny", {"seeds": [7]})
        code, output = project.launch("reproduce", "tiny", "--executor", "ray")
        assert (code, output.count("\n")) == (2, 1), output
        assert f"has another version of the study tiny in {others[1].root}: copy the driver's there" in output
        assert not list(project.root.glob("results/tiny/.probe*")) + list(project.root.glob("results/tiny/runs/[!.]*"))
    finally:
        next(nodes, None)


@pytest.mark.slow
def test_time_limit_leaves_checkpoints(on_cluster, local, monkeypatch):
    project, runs = on_cluster
    reached = lambda: any(epochs(run_dir) > 1 for run_dir in runs.values())  # noqa: E731
    monkeypatch.setattr(TimeLimit, "stop_at", lambda limit, start: -math.inf if reached() else math.inf)
    code, output = project.call(*RAY, "--time-limit", "1h")
    assert code == 0, output
    assert output.splitlines()[-1] == "stopped at the time limit: 0 of 2 runs finished; the same command continues"
    saved = [run_dir for run_dir in runs.values() if (run_dir / "checkpoint.pt").exists()]
    assert saved
    code, output = project.call("reproduce", "long")
    assert code == 0, output
    assert output.count("resumed after epoch") == len(saved)
    check_equal(runs, local)
