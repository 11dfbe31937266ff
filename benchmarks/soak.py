"""Test recovery from faults, for several minutes: `make soak`, or `python benchmarks/soak.py SECTION ...`.

    kills       a training receives SIGKILL 20 times, at random moments and while a checkpoint is being written
    interrupts  `make reproduce` is stopped five times, in five ways, and then runs to its end
    disk        the results folder is read-only, then its disk fills up at four different moments
    crowd       two `make reproduce` run at the same time in one folder, 20 times

Every result is compared with an uninterrupted run: the sha256 of the final weights and the history, except measured
times, must be equal. Each round prints one line. Only a run of all sections writes benchmarks/results/soak.md. Nothing
else may run on the machine at the same time.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import psutil
import yaml
from PIL import Image

from senet_lib.files import read_json, remove_temporary_files, sha256_of, write_text
from senet_lib.results import altered_files, environment_record, read_history

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NARROW = {"resnet": {"model": "resnet20", "knobs": {"width": 0.5}}}
NARROW["se"] = {"model": "se_resnet20", "knobs": {"width": 0.5, "reduction": 4}}
SECONDS_TO_DIE = 5
DEADLOCK_SECONDS = 900  # long enough for a busy machine, so a timeout means a deadlock
KILLS, EPOCHS = 20, 50  # enough epochs to outlast all kills
CROWDS = 20
EPOCH_LINE = r"epoch +(\d+)/"
STEPS = 6  # of an epoch of 96 images (write_images) in batches of 16
DIFFERENT = "weights or history differ from those of the uninterrupted run"
os.environ["SENET_CHECKPOINT_SECONDS"] = "0"  # a checkpoint after every step: each fault meets one
random.seed(0)


class Violation(AssertionError):
    """A violated requirement; the message says what was found instead."""


def require(holds: bool, found: str) -> None:
    if not holds:
        raise Violation(found)


# ---------------------------------------------------------------------------------------------------------- the project


def write_images(folder: Path) -> None:
    """An image tree of three classes, 32 training and 8 test images each: random pixels of different brightness."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 8)):
        for brightness, name in enumerate(("dark", "grey", "bright")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(60 * brightness, 60 * brightness + 120, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


class Project:
    """A separate project folder: this checkout's notebooks and one study of narrow networks on a few images."""

    def __init__(self, root: Path, *, epochs: int = 1, edit: Callable | None = None) -> None:
        self.root, self.results = root, root / "results" / "soak"
        self.run_ids = [f"{label}-seed0" for label in NARROW]
        if root.exists():
            return
        (root / "studies").mkdir(parents=True)
        (root / "pyproject.toml").touch()
        shutil.copytree(ROOT / "notebooks", root / "notebooks")
        for path in (root / "notebooks").glob("*.ipynb") if edit else ():
            nbformat.write(edit(nbformat.read(path, as_version=4)), path)
        write_images(root / "images")
        recipe = {"epochs": epochs, "batch_size": 16, "lr": 0.02, "crop_padding": 2}
        study = {"question": "Does a fault change a result?", "seeds": [0], "recipe": recipe, "networks": NARROW}
        study["data"] = f"folder:{root / 'images'}"
        (root / "studies" / "soak.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")

    def reproduce(self) -> subprocess.Popen:
        """Start `make reproduce` in a new session, so that Ctrl-C can be simulated in its process group."""
        python = os.path.dirname(sys.executable)
        paths = {"SENET_ROOT": str(self.root), "SENET_CACHE": str(self.root / "cache"), "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **paths, "PATH": os.pathsep.join([python, os.environ["PATH"]])}
        command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), "VENV=", "reproduce"]
        command += ["OPTIONS=soak --jobs 2 --threads 1 --device cpu"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        return subprocess.Popen(command, env=environment, cwd=self.root, **pipes)

    def finish(self) -> tuple[int, str]:
        process = self.reproduce()
        output, _ = process.communicate(timeout=DEADLOCK_SECONDS)
        return process.returncode, output

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get("SENET_ROOT") == str(self.root):
                    found.append(process)
        return found

    def run_dirs(self) -> list[Path]:
        return [self.results / "runs" / run_id for run_id in self.run_ids]

    def outcome(self) -> dict[str, tuple]:
        """run id -> (sha256 of the weights, history), which must equal those of the uninterrupted run."""
        return {run_dir.name: outcome_of(run_dir) for run_dir in self.run_dirs()}

    def check_files(self) -> None:
        """Raise `Violation` if a file is incomplete under its final name, or if an incomplete run looks finished."""
        for run_dir in self.run_dirs():
            check_files(run_dir)
        for path in self.results.glob("*.json"):
            read_json(path)


def outcome_of(run_dir: Path) -> tuple:
    history = read_history(run_dir).drop(columns=["train_seconds", "images_per_second"])
    return sha256_of(run_dir / "weights.safetensors"), history.to_csv(index=False)


def check_files(run_dir: Path) -> None:
    listed = run_dir / "checkpoint.sha256"
    digests = listed.read_text(encoding="utf-8").split() if listed.is_file() else []
    for path in run_dir.glob("checkpoint*.pt"):
        require(sha256_of(path) in digests, f"{path} does not match its recorded digest")
    for path in run_dir.glob("*.json"):
        read_json(path)
    if (run_dir / "history.csv").is_file():
        epochs = list(read_history(run_dir)["epoch"])
        require(epochs == list(range(1, len(epochs) + 1)), f"{run_dir / 'history.csv'} has epochs {epochs}")
    if (run_dir / "summary.json").is_file():
        require(altered_files(run_dir) == [], f"{run_dir}: {altered_files(run_dir)} do not match their digests")


def wait_for(condition: Callable, seconds: float, otherwise: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() < end, otherwise)
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------------------- sections


def train(run_dir: Path, log: Path) -> None:
    """Train without a notebook, in the process that `kills` kills."""
    import torch

    from senet_lib.data import load_dataset
    from senet_lib.models import create_model
    from senet_lib.study import Recipe
    from senet_lib.training import fit

    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["SENET_CACHE"] = str(run_dir.parent / "cache")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, data = create_model("resnet20", num_classes=3), load_dataset(f"folder:{run_dir.parent / 'images'}")
    recipe = Recipe(epochs=EPOCHS, batch_size=16, lr=0.02, crop_padding=2)
    fit(network, data, recipe, run_dir=run_dir, device="cpu", threads=1, progress="lines")


def kills(folder: Path, say: Callable) -> Iterable[tuple]:
    write_images(folder / "images")
    server = multiprocessing.get_context("forkserver")  # each training is a new process that has torch imported already
    server.set_forkserver_preload(["__main__", "torch", "senet_lib.data", "senet_lib.models", "senet_lib.training"])
    log = folder / "log"

    def start(name: str) -> multiprocessing.Process:
        process = server.Process(target=train, args=(folder / name, log))
        log.unlink(missing_ok=True)
        process.start()
        return process

    def said(pattern: str) -> list[int]:
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        return [int(found) for found in re.findall(f"^{pattern}", text, re.M)]

    process = start("uninterrupted")
    process.join()
    require(process.exitcode == 0, log.read_text(encoding="utf-8"))

    run_dir, writing, last = folder / "killed", 0, 0
    for number in range(1, KILLS + 1):
        process = start("killed")
        wait_for(lambda: said(EPOCH_LINE), DEADLOCK_SECONDS, "no epoch finished")  # so that every round makes progress
        if number % 2:
            time.sleep(random.uniform(0, 0.5))
        else:
            while not any(run_dir.glob(".checkpoint.next.pt.*.tmp")) and process.is_alive():
                pass
        require(process.is_alive(), f"the training ended before kill {number} of {KILLS}")
        process.kill()
        process.join()
        at = re.search(r"^resumed after epoch (\d+), step (\d+)$", log.read_text(encoding="utf-8"), re.M)
        epoch, step = map(int, at.groups()) if at else (0, 0)
        # The line of an epoch comes after its last step has been saved, and while the evaluated epoch is being written
        kept = last * STEPS <= epoch * STEPS + step <= (last + 1) * STEPS
        require(kept, f"epoch {last} had finished, but training resumed after epoch {epoch}, step {step}")
        last = said(EPOCH_LINE)[-1]
        partial = list(run_dir.glob(".checkpoint.next.pt.*.tmp"))
        writing += bool(partial)
        remove_temporary_files(run_dir)
        check_files(run_dir)
        end = f"killed after epoch {last}{', writing' if partial else ''}"
        say(f"kill {number}: resumed after epoch {epoch}, step {step}, {end}")
    process = start("killed")
    process.join()
    require(process.exitcode == 0, log.read_text(encoding="utf-8"))
    require(outcome_of(run_dir) == outcome_of(folder / "uninterrupted"), DIFFERENT)
    require(writing >= 3, f"only {writing} kills came while a checkpoint was being written")
    yield (
        "SIGKILL of training at random moments",
        f"{KILLS} kills of one training of {EPOCHS} epochs, {writing} of them while a checkpoint was being written",
        "equal; each kill lost at most two steps or an evaluation; no incomplete file under a final name",
    )


def interrupt(project: Project, process: subprocess.Popen, way: str) -> None:
    if way == "Ctrl-C":
        for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                if os.getpgid(member.pid) == process.pid:  # those in the foreground process group of the terminal
                    member.send_signal(signal.SIGINT)
    elif way == "SIGTERM":
        process.terminate()
    elif way == "SIGKILL of make":
        process.kill()
    else:
        for victim in run_processes(project, PARTS[way]):
            with suppress(psutil.NoSuchProcess):
                victim.kill()


def run_processes(project: Project, *parts: str) -> list[psutil.Process]:
    """The processes of the project's runs whose command line contains one of `parts` (default: any of PARTS)."""
    found = []
    for process in project.processes():
        with suppress(psutil.NoSuchProcess):
            if any(part in argument for part in parts or PARTS.values() for argument in process.cmdline()):
                found.append(process)
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


PARTS = {"SIGKILL of papermill's processes": "senet_lib.running.run", "SIGKILL of the kernels": "ipykernel"}
WAYS = ("SIGKILL of make", "Ctrl-C", "SIGKILL of the kernels", "SIGTERM", "SIGKILL of papermill's processes")


def interrupts(folder: Path, say: Callable) -> Iterable[tuple]:
    clean = uninterrupted(folder / "clean", epochs=25)
    project = copy_of(clean, folder / "interrupted")
    for number, way in enumerate(WAYS, 1):
        process = project.reproduce()
        progress = checkpoints(project)
        wait_for(lambda: checkpoints(project) != progress, DEADLOCK_SECONDS, "no epoch finished")  # noqa: B023
        time.sleep(random.uniform(0, 0.6))
        require(process.poll() is None, "`make reproduce` ended before it was interrupted")
        to_end = run_processes(project) if way in PARTS else project.processes()
        started = time.monotonic()
        interrupt(project, process, way)
        if "SIGKILL" not in way:  # SIGTERM and Ctrl-C: every run first saves a checkpoint of the current step
            process.communicate(timeout=30)
            started = time.monotonic()
        wait_for(lambda: not alive(to_end), SECONDS_TO_DIE, f"still running after {way}: {alive(to_end)}")  # noqa: B023
        seconds = time.monotonic() - started
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=DEADLOCK_SECONDS)
        require(not project.processes(), f"still running after {way}: {project.processes()}")
        require(process.returncode != 0, f"exit code 0 after {way}")
        project.check_files()
        done = [run for run in project.run_ids if (project.results / "runs" / run / "summary.json").exists()]
        require(not done, f"{done} count as done after {way}")
        trained = [len(read_history(run_dir)) for run_dir in project.run_dirs() if (run_dir / "history.csv").exists()]
        say(f"interruption {number}, {way}: after epochs {trained}, code {process.returncode}, {seconds:.1f} s")
    code, output = project.finish()
    require(code == 0, output)
    require(project.outcome() == clean.outcome(), DIFFERENT)
    tables = check_tables(project, clean)
    yield (
        "SIGTERM, Ctrl-C; SIGKILL of the kernel, of papermill, of `make`",
        "each once, during training",
        f"no process alive after {SECONDS_TO_DIE} s, no run counted as done, the next `make reproduce` resumed; equal",
    )
    yield (
        "`make reproduce` interrupted five times, then run to its end",
        f"its {tables} final tables compared with those of an uninterrupted run",
        "identical, except the columns of measured times",
    )


def checkpoints(project: Project) -> list[int]:
    """The modification times of the checkpoints; they change with every checkpoint."""
    paths = [run_dir / "checkpoint.pt" for run_dir in project.run_dirs()]
    return [path.stat().st_mtime_ns for path in paths if path.exists()]


def uninterrupted(root: Path, **options: Any) -> Project:
    """A project whose study was reproduced without interruption."""
    clean = Project(root, **options)
    code, output = clean.finish()
    require(code == 0, output)
    return clean


def copy_of(clean: Project, root: Path) -> Project:
    """A copy of the project without results."""
    shutil.copytree(clean.root, root, ignore=shutil.ignore_patterns("results", "cache"))
    return Project(root)


def untimed_tables(project: Project) -> dict[str, list[list[str]]]:
    """The cells of every table except `time_to`, without the columns of measured times."""
    tables = {}
    for path in sorted((project.results / "tables").iterdir()):
        if path.stem == "time_to":  # contains only measured times
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = list(csv.reader(lines)) if path.suffix == ".csv" else [line.split(" | ") for line in lines]
        timed = [i for i, name in enumerate(rows[0]) if re.search(r"seconds|s / epoch|Training", name, re.I)]
        tables[path.name] = [[cell for i, cell in enumerate(row) if i not in timed] for row in rows]
    return tables


def check_tables(project: Project, clean: Project) -> int:
    """Compare the tables with those of the uninterrupted project and return their number."""
    found, expected = untimed_tables(project), untimed_tables(clean)
    require(
        found.keys() == expected.keys(), f"only one of the two projects has {sorted(found.keys() ^ expected.keys())}"
    )
    for name, rows in found.items():
        for row, right in zip(rows, expected[name], strict=True):
            require(row == right, f"{name}: {row} instead of {right}")
    return len(found)


def disk(folder: Path, say: Callable) -> Iterable[tuple]:
    """Run `mounted_disk` in a new mount namespace: no root rights are needed if the system allows user namespaces."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        yield "disk full; results folder read-only", "nothing: this machine allows no mounts", "not tested"
        return
    command += [sys.executable, __file__, "--disk", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("["):
                yield from map(tuple, json.loads(line))
            else:
                say(line.rstrip())
    require(process.returncode == 0, "the part inside the mount namespace failed; its error is above")


def mounted_disk(folder: Path) -> None:
    """The part of `disk` inside the mount namespace. Prints its progress, then the table rows as JSON."""
    clean = uninterrupted(folder / "clean", epochs=12, edit=without_figures)
    project = copy_of(clean, folder / "small disk")
    place = project.root / "results"
    place.mkdir()
    size = 64 << 20
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    mount("-o", "remount,ro", str(place))
    code, output = project.finish()
    require(code != 0 and "Read-only file system" in output and str(place) in output, output)
    require("epoch" not in output, "a run was trained although its folder is read-only")
    print(f"read-only: {error_in(output, project)}", flush=True)
    mount("-o", "remount,rw", str(place))

    def largest(name: str) -> int:
        return max((run_dir / name).stat().st_size for run_dir in clean.run_dirs())

    def any_has(name: str) -> bool:
        return any((run_dir / name).exists() for run_dir in project.run_dirs())

    def all_done() -> bool:
        return all((run_dir / "summary.json").exists() for run_dir in project.run_dirs())

    moments = {  # name -> (when the disk fills up, bytes left at that time)
        "from the start": (lambda: True, 0),
        "after a checkpoint": (lambda: any_has("checkpoint.pt"), largest("weights.safetensors")),
        "after the weights": (lambda: any_has("weights.safetensors"), 3 * 4096 + largest("notebook.ipynb") // 2),
        "after the runs": (all_done, (clean.results / "report.html").stat().st_size // 2),
    }
    failed_at: set[str] = set()
    for moment, (has_come, left) in moments.items():
        if moment == "from the start":
            fill(place, left)
        process = project.reproduce()
        wait_for(lambda: has_come() or process.poll() is not None, DEADLOCK_SECONDS, f"never: {moment}")  # noqa: B023
        fill(place, left)
        output, _ = process.communicate(timeout=DEADLOCK_SECONDS)
        (place / FILLER).unlink()
        require(process.returncode != 0, f"exit code 0 although the disk was full {moment}:\n{output}")
        names = {Path(path).name for path in re.findall(r"No space left on device: '([^']*/[^']*)'", output)}
        require(bool(names), f"no error names a path:\n{output}")
        require("No space left on device: " in error_in(output, project), f"the last error does not say so:\n{output}")
        project.check_files()
        failed_at |= names
        print(f"full {moment}: {error_in(output, project)}", flush=True)
    code, output = project.finish()
    require(code == 0, output)
    require(project.outcome() == clean.outcome(), DIFFERENT)
    check_tables(project, clean)
    rows = [
        ("results folder read-only", "a read-only file system", "an error with its path, before any training"),
        (
            "disk full",
            f"filled {', '.join(moments)}; files that could not be written: {', '.join(sorted(failed_at))}",
            "each time an error with the path and a non-zero exit code; earlier files intact; equal with free space",
        ),
    ]
    print(json.dumps(rows), flush=True)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


FILLER = "filler"


def fill(place: Path, left: int) -> None:
    """Fill the file system until at most `left` bytes are free, even while other processes write to it."""
    with open(place / FILLER, "ab") as file:
        while True:
            found = os.statvfs(place)
            more = found.f_bavail * found.f_frsize - left
            if more < found.f_frsize:
                return
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, more)


def error_in(output: str, project: Project) -> str:
    """The last line that names an error, with paths relative to the project folder."""
    lines = [line for line in output.splitlines() if "rror" in line and not line.startswith("make")]
    require(bool(lines), output)
    return lines[-1].replace(f"{project.root}/", "")


def crowd(folder: Path, say: Callable) -> Iterable[tuple]:
    project = uninterrupted(folder / "crowd", epochs=1, edit=without_figures)
    expected = project.outcome()
    for number in range(1, CROWDS + 1):
        shutil.rmtree(project.results, ignore_errors=True)
        started = time.monotonic()
        pair = [project.reproduce()]
        time.sleep(random.choice((0, random.uniform(0, 2))))
        pair.append(project.reproduce())
        outputs = [process.communicate(timeout=DEADLOCK_SECONDS)[0] for process in pair]
        require(all(process.returncode == 0 for process in pair), "\n".join(outputs))
        for run_id in project.run_ids:
            trained = sum(output.count(f" {run_id}] epoch 1/1") for output in outputs)
            require(trained == 1, f"{run_id} was trained {trained} times:\n" + "\n".join(outputs))
        project.check_files()
        require(project.outcome() == expected, DIFFERENT)
        shares = [sum(f" {run_id}] epoch 1/1" in output for run_id in project.run_ids) for output in outputs]
        say(f"pair {number}: trained {shares[0]} and {shares[1]} runs, {time.monotonic() - started:.1f} s")
    yield (
        "two `make reproduce` at once in one folder",
        f"{CROWDS} rounds, the notebooks without their figures",
        "each run trained exactly once; equal; no deadlock",
    )


# Ids of notebook cells that `without_figures` keeps, and the code of those that it replaces
KEPT = {"parameters", "check", "data", "network", "train", "save"}
INSTEAD = {
    "load": """
from senet_lib.analysis import shown_tables, tables
from senet_lib.report.page import Page
from senet_lib.results import load_results

page = Page(load_results(results))
""",
    "networks-table": """
every_run = tables.runs(page.results)
page.table(shown_tables.runs(every_run, "accuracy"), "runs", "Every run.")
""",
    "write": "page.write()",
}


def without_figures(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Keep only the cells that train and list the runs: `soak` tests files, processes and locks, not figures."""
    for cell in notebook.cells:
        cell.source = INSTEAD.get(cell.id, cell.source)
    notebook.cells = [cell for cell in notebook.cells if cell.id in KEPT | INSTEAD.keys()]
    return notebook


SECTIONS = {"kills": kills, "interrupts": interrupts, "disk": disk, "crowd": crowd}


# ----------------------------------------------------------------------------------------------------------- the output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: all")
    parser.add_argument("--disk", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.disk:
        mounted_disk(options.disk)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = options.sections or list(SECTIONS)
    rows, lines, started = [], [], time.monotonic()

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        for name in chosen:
            place = Path(folder) / name
            place.mkdir()
            begun = time.monotonic()
            try:
                rows += SECTIONS[name](place, say)
            except Violation as violation:
                print(f"{name}: FAILED: {violation}", file=sys.stderr)
                return 1
            finally:
                for process in psutil.Process().children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
            say(f"{name}: {time.monotonic() - begun:.0f} s")
    if set(chosen) == set(SECTIONS):
        write_text(HERE / "results" / "soak.md", page(rows, lines, time.monotonic() - started))
    return 0


def page(rows: list[tuple], lines: list[str], seconds: float) -> str:
    record = environment_record()
    table = ["| fault | what was done | what was found |", "|---|---|---|"]
    table += [f"| {' | '.join(row)} |" for row in rows]
    machine = f"{record['processor']}, {record['cores']} cores, {record['system']}"
    versions = f"Python {record['python']}, torch {record['versions']['torch']}"
    return "\n".join(
        [
            "One complete run of `make soak`. *Equal* means: the sha256 of the final weights and the history, except",
            "measured times, are those of an uninterrupted run on the same machine.",
            "",
            *table,
            "",
            f"{machine}; {versions}; {time.strftime('%Y-%m-%d')}; {seconds / 60:.1f} minutes.",
            "",
            "```",
            *lines,
            "```",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
