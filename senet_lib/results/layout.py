"""The run directory, the one contract between training and analysis: written whole or not at all, read as tidy tables.

    results/<study>/study.json                     the study, resolved, with its planned runs
                    examples.npz                   pictures of the most confused images, where the data was at hand
    results/<study>/runs/<run>/config.json         everything that can change a number, and its hash
                               history.csv         one row per epoch
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
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from senet_lib.files import read_json, sha256_of, write_arrays, write_json, write_text

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
