"""Execute one run of a study: `python -m senet_lib.running.run STUDY RUN_ID`.

Idempotent: a finished run is not repeated, and an interrupted run is resumed from its checkpoint. Papermill executes
the run's notebook under a temporary name; summary.json is written last. A lock allows only one process per run. The
operating system releases it however its holder ends, so any scheduler may start the command, even twice.

Exit codes: 0 done, 1 the run failed (failure.json has the reason), 2 bad input, 130 / 143 stopped by SIGINT / SIGTERM.
"""

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from senet_lib.errors import UserError, did_you_mean
from senet_lib.files import exclusive, read_json, read_record, remove_temporary_files, replacing, write_json
from senet_lib.process import SUPERVISED, StopRequest, die_with_parent, leave_ascii
from senet_lib.project import project_root
from senet_lib.results import CHECKPOINT_FILES, SPLITS, SUMMARY, altered_files, is_intact, write_summary
from senet_lib.results.environment import TRAINING_NOTEBOOK
from senet_lib.running import notebook
from senet_lib.running.arguments import (
    MOST_THREADS,
    OneLineParser,
    data_root_in,
    resolve_study,
    study_options,
    whole_number,
)
from senet_lib.study import RunConfig, StudyError

PARTIAL = "notebook.partial.ipynb"
OUTCOME = "outcome.json"
SUPERSEDED = ".superseded-"  # in the name of the folder of a run that was replaced
FAILED = ": failed: "  # separates the run's id and the reason on its last output line


def run_lock(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the run's lock inside the block; wait for it if another process has it. A killed process releases it."""
    waiting = f"{run_dir.name}: another process is executing this run; waiting for it"
    return exclusive(run_dir.parent / f".{run_dir.name}.lock", waiting=waiting, required=True)


def relabelled(runs: Sequence[RunConfig], folder: Path) -> dict[str, Path]:
    """run_id -> the folder that holds the run under an earlier label, for runs that have no folder of their own.

    A run's hash covers neither its label nor the study's name. Also found: runs that a later one of the same name has
    superseded.
    """
    own = {run.run_id: run.hash for run in runs}
    found, in_place = {}, set()
    for path in sorted(folder.glob("runs/*/config.json")):
        place, config_hash = path.parent, (read_record(path) or {}).get("hash")
        if own.get(place.name) == config_hash:
            in_place.add(place.name)
        elif place.name.startswith(".") and SUPERSEDED not in place.name:
            continue  # damaged or being restored
        elif config_hash in own.values() and (not (place / SUMMARY).exists() or is_intact(place, config_hash)):
            found[config_hash] = place
    return {run.run_id: found.pop(run.hash) for run in runs if run.hash in found and run.run_id not in in_place}


def keep_relabelled(run: RunConfig, runs: Sequence[RunConfig], folder: Path) -> None:
    """If the run's folder has the name of an earlier label, rename it, and print a message. Its files are unchanged."""
    source, target = relabelled(runs, folder).get(run.run_id), folder / "runs" / run.run_id
    if source is None:
        return
    with contextlib.ExitStack() as stack:
        for place in sorted((source, target)):  # in one order, since another process may exchange the two
            if not place.name.startswith("."):  # a superseded run is not executed, so it needs no lock
                stack.enter_context(run_lock(place))
        if relabelled(runs, folder).get(run.run_id) == source:  # not after another process has renamed it
            set_aside_other(target, run)
            source.rename(target)
            print(
                f"{run.run_id}: {source.name} is the same run under another name, so it is renamed and used", flush=True
            )


def set_aside_other(run_dir: Path, config: RunConfig) -> None:
    """Rename a run directory that this run must not continue, and print a message: one of the same name with another
    config hash, which is a different run, or one with damaged files. A finished run's files must match their recorded
    digests; of an unfinished one only config.json counts, since the others are written again."""
    path, finished = run_dir / "config.json", (run_dir / SUMMARY).exists()
    old, new = read_record(path), config.record()
    damaged = altered_files(run_dir) if finished else []
    if old is None or not re.fullmatch("[0-9a-f]{16}", str(old.get("hash"))):
        damaged = damaged or [path.name] if finished or path.exists() else []
    elif old["hash"] != config.hash:
        differing = [key for key in ("model", "knobs", "data", "seed", "recipe") if old.get(key) != new[key]]
        what = " and ".join(differing) or "the configuration"
        place = run_dir.with_name(f".{run_dir.name}{SUPERSEDED}{old['hash']}-{time.time_ns()}")
        run_dir.rename(place)
        print(f"{config.run_id}: {what} changed; the earlier run is kept in {place.name}", flush=True)
        return
    elif finished:
        damaged = damaged or [SUMMARY]  # another run's
    if damaged:
        place = run_dir.with_name(f".{run_dir.name}.damaged-{time.time_ns()}")
        run_dir.rename(place)
        print(
            f"{config.run_id}: {', '.join(damaged)}: missing or changed since it was written. The run is trained again;"
            f" its files are kept in {place.name}",
            flush=True,
        )


def put_in_place(new: Path, run_dir: Path) -> None:
    """Rename the folder of a finished run to `run_dir`; call it with the run's lock. Whatever is there is renamed."""
    if run_dir.exists():
        config_hash = (read_record(run_dir / "config.json") or {}).get("hash", "unknown")
        place = run_dir.with_name(f".{run_dir.name}{SUPERSEDED}{config_hash}-{time.time_ns()}")
        run_dir.rename(place)
        print(f"{run_dir.name}: the unfinished, damaged or different run here is kept in {place.name}", flush=True)
    new.rename(run_dir)


def execute(
    config: RunConfig, run_dir: Path, device: str, devices: int, threads: int | None, data_root: str | None
) -> None:
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
        "devices": devices,
        "threads": threads or 0,
    }
    if data_root:
        os.environ["SENET_DATA"] = data_root
    notebook.execute(
        project_root() / TRAINING_NOTEBOOK,
        run_dir / PARTIAL,
        parameters,
        cwd=str(notebooks),
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
    )


def finish(config: RunConfig, run_dir: Path) -> dict:
    """Rename the executed notebook to its final name and write the summary: from then on the run is done, and its
    checkpoints, each twice the size of its weights, are removed."""
    outcome = read_json(run_dir / OUTCOME)
    with replacing(run_dir / "notebook.ipynb") as file:  # papermill does not wait until its file is on disk
        file.write((run_dir / PARTIAL).read_bytes())
    (run_dir / PARTIAL).unlink()
    summary = {"hash": config.hash, "run_id": config.run_id, **outcome}
    write_summary(run_dir, summary)
    tidy(run_dir)
    return summary


def tidy(run_dir: Path) -> None:
    """Remove what a finished run no longer needs. A kill before the end leaves it, until the run is started again."""
    for name in (OUTCOME, *CHECKPOINT_FILES):
        (run_dir / name).unlink(missing_ok=True)


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
    parser = OneLineParser(prog="python -m senet_lib.running.run", description=__doc__.splitlines()[0])
    study_options(parser)
    parser.add_argument("run_id", help="a run of the study, for example resnet20-seed0")
    parser.add_argument("--threads", help="CPU threads; default: all cores")
    parser.add_argument("--hash", help="of the run's configuration when it was planned; another one is refused")
    options = parser.parse_args(arguments)
    try:
        threads = whole_number("--threads", options.threads, MOST_THREADS)
        study, runs, folder = resolve_study(options)
        config = {run.run_id: run for run in runs}.get(options.run_id)
        if config is None:
            known = did_you_mean(options.run_id, [run.run_id for run in runs])
            raise StudyError(f"study {study.name!r} has no run {options.run_id!r}; {known}")
        if options.hash not in (None, config.hash):
            raise StudyError(
                f"study {study.name!r} was changed after {config.run_id} was planned; start the command again"
            )
        data_root = data_root_in(options.data)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    die_with_parent()
    os.environ[SUPERVISED] = "1"  # the kernel must not outlive this process either
    signals = _Signals()
    signals.install()
    run_dir = folder / "runs" / config.run_id
    try:
        keep_relabelled(config, runs, folder)
        with run_lock(run_dir):
            if is_intact(run_dir, config.hash):
                tidy(run_dir)
                print(f"{config.run_id}: already done", flush=True)
                return 0
            set_aside_other(run_dir, config)
            run_dir.mkdir(parents=True, exist_ok=True)
            remove_temporary_files(run_dir)
            write_json(run_dir / "config.json", config.record())
            try:
                execute(config, run_dir, options.device, options.devices, threads, data_root)
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
    leave_ascii()
    sys.stdout.reconfigure(errors="backslashreplace")  # a class name may have characters that the encoding lacks
    sys.exit(main())
