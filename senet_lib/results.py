"""The run directory, the one contract between training and analysis: written whole or not at all, read as tidy tables.

    results/<study>/study.json                     the study, resolved, with its planned runs
                    examples.npz                   pictures of the most confused images, where the data was at hand
    results/<study>/runs/<run>/config.json         everything that can change a number, and its hash
                               history.csv         one line an epoch
                               predictions.npz     label, predicted (uint8), confidence (float16), image by image
                               summary.json        written last: where it is, the run is done
                               failure.json        instead of it: why the last attempt stopped
                               environment.json    versions, hardware, precision, git commit, data fingerprint
                               notebook.ipynb      the executed copy
                               weights.safetensors the final weights
                               checkpoint.pt       for resuming

No torch here: an analysis opens in seconds, on a machine that could not train.
"""

import csv
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

HISTORY_COLUMNS = (
    "epoch",  # 1 is the first
    "lr",  # of the epoch's last step, in the recipe's terms
    "train_loss",  # mean over the epoch's images as they were trained on: augmented, weights still moving
    "train_accuracy",  # likewise; fractions in [0, 1]
    "test_loss",
    "test_accuracy",
    "train_seconds",  # training alone, without the evaluation
    "images_per_second",
)
WEIGHTS = "weights.safetensors"
TEMPORARY = ".tmp"  # how the name of a file that is not yet whole ends
EXAMPLES = "examples.npz"
NOTEBOOK = "notebook.ipynb"
SPLITS = {"test": "test", "holdout": "validation"}  # what a run was evaluated on: in its summary, and in words
# What `summary.json` vouches for: verified by digest
RECORDED_FILES = ("config.json", "history.csv", "predictions.npz", "environment.json", NOTEBOOK, WEIGHTS)
SUMMARY = "summary.json"
# What is published or archived of a run: the numbers and their evidence, not a machine's executed notebook
PUBLISHED_RUN_FILES = (
    *("config.json", "history.csv", "predictions.npz", "summary.json", "environment.json"),
    "failure.json",
)
ANALYSED_FILES = ("history.csv", "predictions.npz", "environment.json")  # without these a run cannot be reported
VERSIONS_OF = ("torch", "torchvision", "lightning-fabric", "numpy", "pandas", "scikit-learn", "senet-lib")


# ---------------------------------------------------------------------------------------------------------- writing


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


def write_history(run_dir: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """history.csv, whole: every figure to the shortest text that reads back as the same float."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(run_dir / "history.csv", text.getvalue())


def write_predictions(run_dir: Path, label: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> None:
    """predictions.npz: three arrays of shape (images,), in the data set's canonical order."""
    arrays = {
        "label": label.astype(np.uint8),
        "predicted": predicted.astype(np.uint8),
        "confidence": confidence.astype(np.float16),
    }
    write_arrays(run_dir / "predictions.npz", arrays)


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


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """summary.json, last of all: from here on the run counts as done. It vouches for the other files, and for itself,
    by digest."""
    files = {name: sha256_of(run_dir / name) for name in RECORDED_FILES if (run_dir / name).is_file()}
    (run_dir / "failure.json").unlink(missing_ok=True)
    content = {**summary, "files": files}
    write_json(run_dir / SUMMARY, {**content, "digest": _digest_of(content)})


def _digest_of(summary: Mapping[str, Any]) -> str:
    """Of everything that a summary says but this."""
    said = {key: value for key, value in summary.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def environment_record(**measured: Any) -> dict:
    """What a number depends on beside its config: versions, machine, commit; `measured` adds device, precision,
    threads and the data's fingerprint, which only the training process knows."""
    versions = {}
    for name in VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "git_commit": _git_commit(),
        **measured,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _git_commit() -> str | None:
    """The commit of the code, with '+changes' where the working tree differs from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        dirty = _git(here, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if dirty else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


# ---------------------------------------------------------------------------------------------------------- reading


def is_done(run_dir: Path, config_hash: str) -> bool:
    """Whether this very run, by its config's hash, has been finished here."""
    path = Path(run_dir) / SUMMARY
    try:
        return path.is_file() and read_json(path).get("hash") == config_hash
    except (ValueError, AttributeError):
        return False


def altered_files(run_dir: Path) -> list[str]:
    """The files of a finished run that are missing or no longer what its summary vouched for, itself included."""
    try:
        summary = read_json(run_dir / SUMMARY)
        recorded, whole = summary["files"], summary.get("digest", _digest_of(summary)) == _digest_of(summary)
    except (ValueError, KeyError, TypeError, AttributeError):  # not what was written, whatever it is
        return [SUMMARY]
    altered = [
        name
        for name, digest in recorded.items()
        if not (run_dir / name).is_file() or sha256_of(run_dir / name) != digest
    ]
    return altered if whole else [SUMMARY, *altered]


def is_intact(run_dir: Path, config_hash: str) -> bool:
    """Whether this very run is done and every file that its numbers come from is what its summary vouched for. The
    executed notebook is not among them, since opening and saving it changes it, nor are weights that are not there, as
    in most published runs."""
    if not is_done(run_dir, config_hash):
        return False
    may_differ = {NOTEBOOK} if (Path(run_dir) / WEIGHTS).exists() else {NOTEBOOK, WEIGHTS}
    return set(altered_files(run_dir)) <= may_differ


@dataclass(frozen=True)
class StudyResults:
    """A study's results as tidy tables; one row of `runs` for each planned run, whatever became of it.

    study: the resolved study (name, question, data, classes, seeds, recipe, networks, baseline, notes, timed).
    runs: run_id, label, model, seed, status ('done', 'failed', 'missing'), error, test_accuracy, test_loss, params,
        macs, epochs, train_seconds (whole run), seconds_per_epoch (median), evaluated_on ('test' or 'holdout'),
        tta_accuracy (a second figure beside test_accuracy; None without the recipe's test_time_augmentation).
    history: run_id, label, seed and the columns of history.csv, for every run that has begun.
    predictions: run_id, label, seed, image (index in canonical order), true, predicted, confidence, for done runs.
    environments: run_id -> the environment record, for done runs.
    """

    path: Path
    study: dict
    runs: pd.DataFrame
    history: pd.DataFrame
    predictions: pd.DataFrame
    environments: dict[str, dict]

    @property
    def labels(self) -> list[str]:
        """The networks in the study's own order."""
        return list(self.study["networks"])

    @property
    def done(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == "done"]

    @property
    def timed(self) -> bool:
        """Whether the seconds of the runs are a measure of cost; studies from before the question was asked say yes."""
        return self.study.get("timed", True)


def load_results(path: Path | str) -> StudyResults:
    """Read a results folder, finished or not, or an archived study's zip file. Raises FileNotFoundError when there is
    no study.json in it."""
    path = Path(path)
    if path.suffix == ".zip":
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as packed:
            packed.extractall(folder)
            return replace(load_results(folder), path=path)
    if not (path / "study.json").is_file():
        raise FileNotFoundError(
            f"{path}: no study.json there; a results folder is written by `make reproduce STUDY=...`"
        )
    study = read_json(path / "study.json")
    runs, histories, predictions, environments = [], [], [], {}
    for planned in study["runs"]:
        run_dir = path / "runs" / planned["run_id"]
        names = {key: planned[key] for key in ("run_id", "label", "seed")}
        row, history = _read_run(run_dir, planned)
        runs.append(row)
        if history is not None:
            histories.append(history.assign(**names))
        if row["status"] == "done":
            environments[planned["run_id"]] = read_json(run_dir / "environment.json")
            predictions.append(read_predictions(run_dir).assign(**names))
    return StudyResults(
        path=path,
        study=study,
        runs=pd.DataFrame(runs),
        history=_concat(histories, ["run_id", "label", "seed", *HISTORY_COLUMNS]),
        predictions=_concat(predictions, ["run_id", "label", "seed", "image", "true", "predicted", "confidence"]),
        environments=environments,
    )


def read_history(run_dir: Path) -> pd.DataFrame:
    """history.csv; every float exactly as it was written, which pandas' own reader does not promise."""
    with open(run_dir / "history.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return pd.DataFrame(rows, columns=list(HISTORY_COLUMNS)).astype(float).astype({"epoch": int})


def read_predictions(run_dir: Path) -> pd.DataFrame:
    """image, true, predicted, confidence: one row for each evaluated image."""
    with np.load(run_dir / "predictions.npz", allow_pickle=False) as file:
        table = {"true": file["label"], "predicted": file["predicted"], "confidence": file["confidence"]}
        return pd.DataFrame({"image": np.arange(len(table["true"])), **table})


def _read_run(run_dir: Path, planned: Mapping[str, Any]) -> tuple[dict, pd.DataFrame | None]:
    row = {key: planned[key] for key in ("run_id", "label", "model", "seed")}
    row |= dict.fromkeys(("error", "test_accuracy", "test_loss", "params", "macs", "epochs", "train_seconds"))
    row |= {"status": "missing", "seconds_per_epoch": None, "evaluated_on": None, "tta_accuracy": None}
    if _belongs_to_another(run_dir, planned["config_hash"]):
        return row, None
    done = is_done(run_dir, planned["config_hash"])
    if done and (damaged := sorted(set(altered_files(run_dir)) & {SUMMARY, *ANALYSED_FILES})):
        what = f"{', '.join(damaged)} missing or not as recorded; `make reproduce` trains it again"
        return row | {"status": "failed", "error": f"finished, but {what}"}, None
    history = read_history(run_dir) if (run_dir / "history.csv").is_file() else None
    if done:
        summary = read_json(run_dir / SUMMARY)
        row |= {key: summary[key] for key in row if key in summary} | {"status": "done"}
        row["seconds_per_epoch"] = float(history["train_seconds"].median())
    elif (run_dir / "failure.json").is_file():
        row |= {"status": "failed", "error": read_json(run_dir / "failure.json")["error"]}
    return row, history


def _belongs_to_another(run_dir: Path, config_hash: str) -> bool:
    """Whether the folder still holds what an earlier version of the study left: it says nothing about this one."""
    path = run_dir / "config.json"
    return path.is_file() and read_json(path)["hash"] != config_hash


def _concat(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """The tables one after another; an empty one with the same columns if there is none."""
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]
