"""Command-line options that select a study, the places of its data and results, and overrides of its file."""

import argparse
import os
from pathlib import Path
from typing import NoReturn

from senet_lib import durations
from senet_lib.data.catalog import DATASETS, FOLDER
from senet_lib.errors import did_you_mean
from senet_lib.project import project_root
from senet_lib.study import MOST_EPOCHS, RunConfig, Study, StudyError, load_study

# More than any machine has: a typing error then gives one line in place of a failure in every run
MOST_JOBS, MOST_THREADS, MOST_DEVICES = 100_000, 4096, 256


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def study_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select a study, its data and results, and override its file."""
    parser.add_argument("study", help="the name of a study in studies/, or a YAML file")
    parser.add_argument("--data", default="", help="another data set by name, or the path of the study's data")
    parser.add_argument("--limit-epochs", help="dry run: train at most this many epochs")
    parser.add_argument("--results", type=Path, default=None, help="results folder; default: the project's results/")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--devices", default=1, help="devices of a machine that share each batch of a run")


def executor_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where and how many runs are executed at a time. `read_executor_options` checks them."""
    parser.add_argument("--executor", default="local", help="local, ray or slurm")
    parser.add_argument("--jobs", nargs="?", const="", help="runs at the same time")
    parser.add_argument("--threads", help="CPU threads per run; default: an equal share of the cores")
    parser.add_argument("--gpus-per-run", help="GPUs of a run: a whole number, or a part of one such as 0.5")
    parser.add_argument(
        "--storage", default="shared", help="shared: all nodes see the results folder; copy: they do not"
    )
    parser.add_argument(
        "--slurm-options", default="", help='options of sbatch, such as "--partition=gpu --time=4:00:00"'
    )
    parser.add_argument("--no-wait", action="store_true", help="Slurm: submit the runs and leave")


def read_executor_options(options: argparse.Namespace) -> None:
    """Replace the texts of the executor's options by their values. Raises StudyError."""
    options.jobs = whole_number("JOBS", options.jobs, MOST_JOBS)
    options.threads = whole_number("THREADS", options.threads, MOST_THREADS)
    options.gpus_per_run = gpu_share(options.gpus_per_run)
    if options.storage not in (allowed := ("shared", "copy")):
        raise StudyError(f"STORAGE is {options.storage[:40] or 'empty'}; {did_you_mean(options.storage, allowed)}")
    for given, name, executor in (
        (options.storage == "copy", "STORAGE=copy", "ray"),
        (options.slurm_options, "SLURM_OPTIONS", "slurm"),
        (options.no_wait, "NO_WAIT", "slurm"),
    ):
        if given and options.executor != executor:
            raise StudyError(f"{name} needs EXECUTOR={executor}; EXECUTOR is {options.executor}")


def gpu_share(value: str | None) -> float | None:
    """The number of GPUS_PER_RUN=...; None if it was not given. Raises StudyError."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not (0 <= number < 1 or (number.is_integer() and number >= 1)):
        said = "a whole number from 0 up, or a part of one GPU such as 0.5"
        raise StudyError(f"GPUS_PER_RUN is {value[:40] or 'empty'}; allowed: {said}")
    return number


def resolve_study(options: argparse.Namespace) -> tuple[Study, list[RunConfig], Path]:
    """The study with its overrides applied, its runs, and its results folder. Raises StudyError."""
    study = load_study(options.study, project_root() / "studies")
    limit_epochs = whole_number("LIMIT_EPOCHS", options.limit_epochs, MOST_EPOCHS)
    options.devices = whole_number("DEVICES", options.devices, MOST_DEVICES)
    study = study.override(data=data_set_in(options.data), limit_epochs=limit_epochs)
    folder = (options.results or project_root() / "results").resolve() / study.name
    return study, study.runs(), folder


def whole_number(name: str, value: str | int | None, most: int) -> int | None:
    """The number from 1 to `most` that was given for `name`; None if none was given. Raises StudyError."""
    if value is None:
        return None
    try:
        number = int(value)
    except ValueError:  # text, a fraction, or nothing
        number = 0
    if not 1 <= number <= most:
        raise StudyError(f"{name} is {str(value)[:40] or 'empty'}; allowed: 1 to {most}")
    return number


def time_limit(value: str | None) -> int | None:
    """The seconds of TIME_LIMIT=...; None if it was not given. Raises StudyError."""
    try:
        return None if value is None else durations.parse(value)
    except ValueError:
        said = f"TIME_LIMIT is {value[:40] or 'empty'}; allowed: a duration such as 90s, 10m or 1h30m"
        raise StudyError(said) from None


def data_set_in(value: str) -> str | None:
    """The data set's name in DATA=..., or None if it is empty or a path. Raises StudyError if it is neither."""
    if not value or value in DATASETS or value.startswith(FOLDER):
        return value or None
    if not Path(os.path.expanduser(value)).exists():
        hint = did_you_mean(value, (*DATASETS, "folder:PATH"))
        raise StudyError(f"DATA={value} is neither a data set nor an existing path; {hint}")
    return None


def data_root_in(value: str) -> str | None:
    """The absolute path in DATA=..., or None if it is empty or a data set's name."""
    return str(Path(os.path.expanduser(value)).resolve()) if value and data_set_in(value) is None else None
