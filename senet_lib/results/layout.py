"""The run directory, the only interface between training and analysis. Every file is written atomically.

    results/<study>/study.json                     the resolved study with its planned runs
                    examples.npz                   the most confused images, if the data was available
    results/<study>/runs/<run>/config.json         everything that can change a result, and its hash
                               history.csv         one row per epoch
                               predictions.npz     label, predicted (uint8), confidence (float16) per image
                               summary.json        written last: the run is done once it exists
                               failure.json        instead of summary.json: error and time of the last failed attempt
                               environment.json    versions, hardware, precision, git commit, data fingerprint
                               notebook.ipynb      the executed copy
                               weights.safetensors the final weights
                               checkpoint.pt       for resuming; removed once the run is done

Does not import torch, so an analysis starts in seconds, even on a machine that cannot train.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np

from senet_lib.files import read_json, read_record, sha256_of, write_arrays, write_json, write_text

HISTORY_COLUMNS = (
    "epoch",  # from 1
    "lr",  # at the epoch's last step, as the recipe states it
    "train_loss",  # mean over the epoch's augmented images, measured while the weights change
    "train_accuracy",  # on the same images; a fraction in [0, 1]
    "test_loss",  # test_*: on the validation split if the recipe sets holdout
    "test_accuracy",
    "train_seconds",  # without the evaluation
    "images_per_second",
)

CHECKPOINT_FILES = ("checkpoint.pt", "checkpoint.previous.pt", "checkpoint.sha256")  # newest, previous, their digests
WEIGHTS = "weights.safetensors"
EXAMPLES = "examples.npz"
NOTEBOOK = "notebook.ipynb"
SPLITS = {"test": "test", "holdout": "validation"}  # evaluated split: name in files -> name in reports

# Files whose digests summary.json records
RECORDED_FILES = ("config.json", "history.csv", "predictions.npz", "environment.json", NOTEBOOK, WEIGHTS)
SUMMARY = "summary.json"
ANALYSED_FILES = ("history.csv", "predictions.npz", "environment.json")  # required for a report

# Files of a run that are published or archived: the results and their evidence, without the executed notebook
PUBLISHED_RUN_FILES = ("config.json", "history.csv", "predictions.npz", SUMMARY, "environment.json", "failure.json")


def write_history(run_dir: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """Write history.csv. Every float is written as the shortest text that reads back as the same float."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(run_dir / "history.csv", text.getvalue())


def write_predictions(run_dir: Path, label: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> None:
    """Write predictions.npz: three arrays of shape (N,), in the data set's canonical order."""
    arrays = {
        "label": label.astype(np.uint8),
        "predicted": predicted.astype(np.uint8),
        "confidence": confidence.astype(np.float16),
    }
    write_arrays(run_dir / "predictions.npz", arrays)


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json with the digests of the other files and of itself.

    Call it last: the run is done once the file exists. Removes the failure.json of an earlier attempt.
    """
    files = {name: sha256_of(run_dir / name) for name in RECORDED_FILES if (run_dir / name).is_file()}
    (run_dir / "failure.json").unlink(missing_ok=True)
    content = {**summary, "files": files}
    write_json(run_dir / SUMMARY, {**content, "digest": _digest_of(content)})


def _digest_of(summary: Mapping[str, Any]) -> str:
    """The digest of a summary, excluding its own 'digest' entry."""
    content = {key: value for key, value in summary.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_done(run_dir: Path, config_hash: str) -> bool:
    """Whether the run with this config hash is finished in `run_dir`."""
    summary = read_record(Path(run_dir) / SUMMARY)
    return summary is not None and summary.get("hash") == config_hash


def altered_files(run_dir: Path) -> list[str]:
    """The files of a finished run that are missing or differ from the summary's digests; the summary is checked too."""
    try:
        summary = read_json(run_dir / SUMMARY)
        digest = _digest_of(summary)
        intact = summary["digest"] == digest if "digest" in summary else _fits_history(run_dir, summary)
        altered = [
            name
            for name, digest in summary["files"].items()
            if not (run_dir / name).is_file() or sha256_of(run_dir / name) != digest
        ]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):  # not a valid summary
        return [SUMMARY]
    return altered if intact else [SUMMARY, *altered]


def _fits_history(run_dir: Path, summary: Mapping[str, Any]) -> bool:
    """Whether a summary, which has no digest in runs of early versions, has the numbers of history.csv."""
    if not (run_dir / "history.csv").is_file():
        return True  # listed as missing
    rows = list(csv.DictReader((run_dir / "history.csv").read_text(encoding="utf-8").splitlines()))
    numbers = {key: float(rows[-1][key]) for key in ("test_accuracy", "test_loss")} | {"epochs": len(rows)}
    numbers["train_seconds"] = sum(float(row["train_seconds"]) for row in rows)
    return all(isclose(summary[key], value, rel_tol=1e-9) for key, value in numbers.items() if key in summary)


def is_intact(run_dir: Path, config_hash: str) -> bool:
    """Whether the run with this config hash is done and its files match the recorded digests.

    The executed notebook is not checked, because opening and saving it changes it. Weights may be missing, as in most
    published runs.
    """
    if not is_done(run_dir, config_hash):
        return False
    may_differ = {NOTEBOOK} if (Path(run_dir) / WEIGHTS).exists() else {NOTEBOOK, WEIGHTS}
    return set(altered_files(run_dir)) <= may_differ
