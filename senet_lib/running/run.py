"""Execute one run of a study: `python -m senet_lib.running.run STUDY RUN_ID`.

Idempotent: a finished run is not repeated, and an interrupted run is resumed from its checkpoint. Papermill executes
the run's notebook under a temporary name; summary.json is written last. A lock allows only one process per run. The
operating system releases it however its holder ends, so any scheduler may start the command, even twice.

Exit codes: 0 done, 1 the run failed (failure.json has the reason), 2 bad input, 130 / 143 stopped by SIGINT / SIGTERM.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from senet_lib.errors import did_you_mean
from senet_lib.files import exclusive, read_json, remove_temporary_files, write_json
from senet_lib.process import SUPERVISED, StopRequest, die_with_parent
from senet_lib.project import project_root
from senet_lib.results import SPLITS, altered_files, is_done, is_intact, write_summary
from senet_lib.running import notebook
from senet_lib.running.arguments import data_root_in, resolve_study, study_options
from senet_lib.study import RunConfig, StudyError

PARTIAL = "notebook.partial.ipynb"
FAILED = ": failed: "  # separates the run's id and the reason on its last output line


def run_lock(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the run's lock inside the block; wait for it if another process has it. A killed process releases it."""
    waiting = f"{run_dir.name}: another process is executing this run; waiting for it"
    return exclusive(run_dir.parent / f".{run_dir.name}.lock", waiting=waiting, required=True)


def set_aside_other(run_dir: Path, config: RunConfig) -> None:
    """Rename a run directory that this run must not continue, and print a message: one of the same name with another
    config hash, which is a different run, or a finished run whose files no longer match their recorded digests."""
    path = run_dir / "config.json"
    if is_done(run_dir, config.hash):
        place = run_dir.with_name(f".{run_dir.name}.damaged-{time.time_ns()}")
        damaged = ", ".join(altered_files(run_dir))
        run_dir.rename(place)
        print(
            f"{config.run_id}: {damaged}: missing or changed since the run finished. It is trained again; its files "
            f"are kept in {place.name}",
            flush=True,
        )
        return
    if not path.is_file():
        return
    old = read_json(path)
    if old["hash"] == config.hash:
        return
    new = config.record()
    differing = [key for key in ("model", "knobs", "data", "seed", "recipe") if old.get(key) != new[key]]
    place = run_dir.with_name(f".{run_dir.name}.superseded-{old['hash']}-{time.time_ns()}")
    run_dir.rename(place)
    print(f"{config.run_id}: {' and '.join(differing)} changed; the earlier run is kept in {place.name}", flush=True)


def execute(config: RunConfig, run_dir: Path, device: str, threads: int | None, data_root: str | None) -> None:
    """Execute the training notebook as PARTIAL, which remains if it fails. Raises what `notebook.execute` does."""
    notebooks = project_root() / "notebooks"
    parameters = {
        "study": config.study,
        "label": config.label,
        "model": config.model,
        "knobs": config.knobs,
        "data": config.data,
        "seed": config.seed,
        "recipe": config.recipe.model_dump(mode="json"),
        "run_dir": os.path.relpath(run_dir, notebooks),  # relative: no machine-specific paths in notebooks
        "device": device,
        "threads": threads or 0,
    }
    if data_root:
        os.environ["SENET_DATA"] = data_root
    notebook.execute(
        notebooks / "train.ipynb",
        run_dir / PARTIAL,
        parameters,
        cwd=str(notebooks),
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
    )


def finish(config: RunConfig, run_dir: Path) -> dict:
    """Rename the executed notebook to its final name and write the summary: from then on the run is done."""
    outcome = read_json(run_dir / "outcome.json")
    os.replace(run_dir / PARTIAL, run_dir / "notebook.ipynb")
    summary = {"hash": config.hash, "run_id": config.run_id, **outcome}
    write_summary(run_dir, summary)
    (run_dir / "outcome.json").unlink()
    return summary


class _Signals:
    """Forwards SIGTERM and SIGINT to the notebook's kernel, which saves a checkpoint before it stops. A second request
    kills the kernel."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.request = StopRequest()

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self)

    def __call__(self, number: int, frame: object) -> None:
        import psutil

        if not self.request.is_new():
            return
        again, self.received = self.received is not None, number
        kernels = psutil.Process().children(recursive=True)
        for kernel in kernels:
            with contextlib.suppress(psutil.NoSuchProcess):
                kernel.kill() if again else kernel.send_signal(number)
        if not kernels:
            raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m senet_lib.running.run", description=__doc__.splitlines()[0])
    study_options(parser)
    parser.add_argument("run_id", help="a run of the study, for example resnet20-seed0")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: all cores")
    options = parser.parse_args(arguments)
    try:
        study, runs, folder = resolve_study(options)
        config = {run.run_id: run for run in runs}.get(options.run_id)
        if config is None:
            known = did_you_mean(options.run_id, [run.run_id for run in runs])
            raise StudyError(f"study {study.name!r} has no run {options.run_id!r}; {known}")
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    die_with_parent()
    os.environ[SUPERVISED] = "1"  # the kernel must not outlive this process either
    signals = _Signals()
    signals.install()
    run_dir = folder / "runs" / config.run_id
    try:
        with run_lock(run_dir):
            if is_intact(run_dir, config.hash):
                print(f"{config.run_id}: already done", flush=True)
                return 0
            set_aside_other(run_dir, config)
            run_dir.mkdir(parents=True, exist_ok=True)
            remove_temporary_files(run_dir)
            write_json(run_dir / "config.json", config.record())
            try:
                execute(config, run_dir, options.device, options.threads, data_root_in(options.data))
                summary = finish(config, run_dir)
            except (Exception, KeyboardInterrupt) as error:  # of papermill, the kernel or the disk: all are reported
                if signals.received is not None:
                    print(f"{config.run_id}: stopped; the same command resumes it", file=sys.stderr, flush=True)
                    return 128 + signals.received
                message = one_line(error, run_dir)
                print(f"{config.run_id}{FAILED}{message}", file=sys.stderr, flush=True)
                write_json(run_dir / "failure.json", {"error": message, "time": time.strftime("%Y-%m-%d %H:%M:%S")})
                return 1
    except KeyboardInterrupt:  # before there was a kernel, for example while waiting for the lock
        return 128 + signals.received
    except OSError as error:  # the run directory is not writable
        print(f"{config.run_id}{FAILED}{one_line(error, run_dir)}", file=sys.stderr, flush=True)
        return 1
    print(f"{config.run_id}: {SPLITS[summary['evaluated_on']]} accuracy {summary['test_accuracy']:.2%}", flush=True)
    return 0


def one_line(error: BaseException, run_dir: Path) -> str:
    """The error in one line; for a failed notebook cell, the exception raised in it, without papermill's wrapper.
    Paths in the run directory are made relative to the project root."""
    name, said = (error.ename, error.evalue) if hasattr(error, "ename") else (type(error).__name__, error)
    line = " ".join(f"{name}: {said}".split())
    for called in (str(run_dir), os.path.relpath(run_dir, project_root() / "notebooks")):
        line = line.replace(called, os.path.relpath(run_dir, project_root()))
    return line


if __name__ == "__main__":
    sys.exit(main())
