"""What many runs cost beside their training: the executors' overhead, the report, a large results folder.

    python benchmarks/scale.py EXECUTOR RUNS    prints the cost of runs that do nothing, as JSON

`make bench SECTIONS=scale` calls it for every executor that is installed.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from senet_lib.cli import unfinished
from senet_lib.files import read_json
from senet_lib.metrics import count_params
from senet_lib.models import create_model
from senet_lib.report.build import build_report
from senet_lib.results import load_results
from senet_lib.running import EXECUTORS, create_executor

ROOT = Path(__file__).resolve().parent.parent
RUNS, JOBS, LARGE_FOLDER = 1000, 16, 10_000
GPUS = 1000  # of the cluster that the estimate is about
NEEDS = {"local": (), "ray": ("ray",), "slurm": ("slurmctld", "slurmd", "sbatch")}


def overhead(name: str, count: int) -> dict[str, float]:
    """Execute `count` runs whose command is `true`; the driver's costs."""
    defaults = {"threads": 1, "device": "cpu", "devices": 1, "data": "", "limit_epochs": None, "gpus_per_run": None}
    options = argparse.Namespace(
        executor=name, study="noop", jobs=JOBS, storage="shared", slurm_options="", no_wait=False, **defaults
    )
    runs = [SimpleNamespace(run_id=f"run{i}", hash=f"{i:016x}", label="run", data="digits") for i in range(count)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "noop"
        (folder / "runs").mkdir(parents=True)
        with create_executor(options, folder) as executor:
            executor.command = lambda run, *_: [shutil.which("true"), run.run_id]
            executor._print = lambda text: None
            if name == "ray":
                executor._connect()  # its check compares studies, which these runs have none of
            else:
                executor.check(runs)
            before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            failed = executor.execute(runs)
            seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed: {next(iter(failed.values()))}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu, "before": before.ru_maxrss / 1024, "after": after.ru_maxrss / 1024}


def overheads() -> tuple[str, list[str], list[list[str]]]:
    rows = []
    for name in EXECUTORS:
        if missing := [program for program in NEEDS[name] if not _installed(program)]:
            rows.append([name, f"not measured: {', '.join(missing)} not installed", "", "", ""])
            continue
        with tempfile.TemporaryDirectory() as folder:
            environment = dict(os.environ)
            cluster = [sys.executable, str(ROOT / "tools" / "slurm_cluster.py")]
            if name == "slurm":
                subprocess.run([*cluster, "up", folder, "--nodes", "2", "--cpus", str(JOBS // 2)], check=True)
                environment["SLURM_CONF"] = f"{folder}/slurm.conf"
            try:
                command = [sys.executable, __file__, name, str(RUNS)]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            finally:
                if name == "slurm":
                    subprocess.run([*cluster, "down", folder], check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        costs = [1000 * found["seconds"] / RUNS, 1000 * found["cpu"] / RUNS]
        memory = [f"{found['before']:,.0f}", f"{found['after'] - found['before']:,.0f}"]
        rows.append([name, *(f"{cost:.1f}" for cost in costs), *memory])
    caption = (
        f"Executors: {RUNS:,} runs of a command that does nothing, {JOBS} at a time. Starting a process is included; "
        "what a real run's interpreter, imports and notebook kernel cost is in [fixed.md](fixed.md)."
    )
    header = [
        "executor",
        "ms per run",
        "driver's CPU, ms per run",
        "driver's memory at the start (MiB)",
        "growth (MiB)",
    ]
    return caption, header, rows


def _installed(program: str) -> bool:
    if program == "ray":
        return subprocess.run([sys.executable, "-c", "import ray"], capture_output=True).returncode == 0
    return shutil.which(program) is not None or Path("/usr/sbin", program).exists()


def large_folder(study: Path) -> tuple[str, list[str], list[list[str]]]:
    """study: a results folder with many finished runs."""
    planned = read_json(study / "study.json")["runs"]
    runs = [SimpleNamespace(run_id=run["run_id"], hash=run["config_hash"]) for run in planned]
    files = [path for path in (study / "runs").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    started = time.perf_counter()
    if left := unfinished(runs, study, {}):
        raise RuntimeError(f"{left[0].run_id} counts as unfinished")
    scanned = time.perf_counter() - started
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    load_results(study)
    loaded, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = [
        f"{len(runs):,}",
        f"{len(files) / len(runs):.0f}",
        f"{size / len(runs) / 1024:.0f}",
        f"{scanned:.0f}",
        f"{loaded:.0f}",
        f"{(after - before) / 1024:,.0f}",
    ]
    caption = (
        "A results folder, runs without weights and notebook: `make reproduce` with nothing left to train compares "
        "every file with its digest, then loads the results."
    )
    header = ["runs", "files per run", "KiB per run", "comparing (s)", "loading (s)", "growth of memory (MiB)"]
    return caption, header, [row]


def report(study: Path, runs: int) -> tuple[str, list[str], list[list[str]]]:
    started = time.perf_counter()
    path = build_report(study)
    seconds = time.perf_counter() - started
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    row = [f"{runs:,}", f"{seconds:.0f}", f"{path.stat().st_size / 2**20:.1f}", f"{peak:,.0f}"]
    caption = "The report of a study of three networks, 10,000 predictions per run."
    return caption, ["runs", "seconds", "size (MiB)", "peak memory of a process (MiB)"], [row]


def estimate() -> tuple[str, list[str], list[list[str]]]:
    """What a cluster's shared file system has to take while the networks of a study train."""
    from senet_lib.running.executor import checkpoint_seconds

    megabytes = 2 * 4 * count_params(create_model("resnet50")) / 1e6  # fp32 weights and momentum
    rows = []
    for seconds, why in (
        (60.0, "once a minute"),
        (checkpoint_seconds(GPUS), "as the executors set it for so many runs"),
    ):
        rows.append([f"{seconds:.0f} s, {why}", f"{GPUS / seconds:.1f}", f"{GPUS * megabytes / seconds:,.0f}"])
    caption = (
        f"Computed, not measured: ResNet-50 on {GPUS:,} GPUs at the same time writes checkpoints of {megabytes:.0f} MB "
        "to the shared file system."
    )
    return caption, ["a run's checkpoints", "checkpoints per second", "MB/s in all"], rows


if __name__ == "__main__":
    print(json.dumps(overhead(sys.argv[1], int(sys.argv[2]))))
