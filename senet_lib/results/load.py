"""Read a results folder as tidy tables."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from senet_lib.errors import DamagedFile
from senet_lib.files import read_arrays, read_json, read_record, unpacked
from senet_lib.results.layout import ANALYSED_FILES, HISTORY_COLUMNS, SUMMARY, altered_files, is_done

# What every study.json has, and each of its planned runs
STUDY_KEYS = dict.fromkeys(("name", "question", "data"), str) | dict.fromkeys(("recipe", "networks"), dict)
STUDY_KEYS |= dict.fromkeys(("classes", "runs"), list)
PLANNED_KEYS = {"run_id", "label", "model", "seed", "config_hash"}


@dataclass(frozen=True)
class StudyResults:
    """A study's results as tidy tables; `runs` has one row per planned run, whatever its status.

    study: the resolved study (name, question, data, classes, seeds, recipe, networks, baseline, notes, timed).
    runs: run_id, label, model, seed, status ('done', 'failed', 'missing'), error, test_accuracy, test_loss, params,
        macs, epochs, train_seconds (whole run), seconds_per_epoch (median), evaluated_on ('test' or 'holdout'),
        tta_accuracy (in addition to test_accuracy; None without the recipe's test_time_augmentation).
    history: run_id, label, seed and the columns of history.csv; one row per epoch of every run that has started.
    predictions: run_id, label, seed, image (index in canonical order), true, predicted, confidence; one row per
        evaluated image of every done run.
    environments: run_id -> the environment record of every done run.
    """

    path: Path
    study: dict
    runs: pd.DataFrame
    history: pd.DataFrame
    predictions: pd.DataFrame
    environments: dict[str, dict]

    @property
    def labels(self) -> list[str]:
        """The labels of the configurations, in the study's order."""
        return list(self.study["networks"])

    @property
    def done(self) -> pd.DataFrame:
        """The rows of `runs` with status 'done'."""
        return self.runs[self.runs["status"] == "done"]

    @property
    def timed(self) -> bool:
        """Whether the runs' wall-clock times may be compared; True for a study written before this field existed."""
        return self.study.get("timed", True)


def load_results(path: Path | str) -> StudyResults:
    """Read a results folder, finished or not, or an archived study's zip file.

    A run whose files are damaged has the status 'failed'. Raises FileNotFoundError if the folder has no study.json, and
    DamagedFile if that file or the archive is damaged.
    """
    path = Path(path)
    if path.suffix == ".zip":
        with unpacked(path) as folder:
            return replace(load_results(folder), path=path)
    study = read_study(path)
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


def read_study(folder: Path) -> dict[str, Any]:
    """The content of a results folder's study.json. Raises FileNotFoundError and DamagedFile."""
    path = folder / "study.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} has no study.json, so it is not a results folder; `make reproduce STUDY=...` writes one"
        )
    remedy = "`make reproduce STUDY=...` writes it again; a published one is in git"
    try:
        study = read_json(path)
    except DamagedFile as error:
        raise DamagedFile(path, error.__cause__, remedy) from error
    for key, kind in STUDY_KEYS.items():
        if not isinstance(study, dict) or not isinstance(study.get(key), kind):
            raise DamagedFile(path, f"it has no valid {key!r}", remedy)
    if not all(isinstance(run, dict) and run.keys() >= PLANNED_KEYS for run in study["runs"]):
        raise DamagedFile(path, f"a run lacks one of {', '.join(sorted(PLANNED_KEYS))}", remedy)
    return study


def read_history(run_dir: Path) -> pd.DataFrame:
    """Read history.csv: one row per epoch. Floats are exactly those written, which pandas' reader does not ensure.

    Raises DamagedFile.
    """
    path = run_dir / "history.csv"
    try:
        header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True)
        if tuple(header) != HISTORY_COLUMNS or any(len(row) != len(header) for row in rows):
            raise ValueError("its columns are not those of a history")
        return pd.DataFrame(rows, columns=header).astype(float).astype({"epoch": int})
    except (ValueError, csv.Error) as error:  # also of text that is not UTF-8
        raise DamagedFile(path, error) from error


def read_predictions(run_dir: Path) -> pd.DataFrame:
    """Read predictions.npz: image, true, predicted, confidence; one row per evaluated image. Raises DamagedFile."""
    path = run_dir / "predictions.npz"
    arrays = read_arrays(path)
    try:
        table = {"true": arrays["label"], "predicted": arrays["predicted"], "confidence": arrays["confidence"]}
        return pd.DataFrame({"image": np.arange(len(table["true"])), **table})
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(path, error) from error


def _read_run(run_dir: Path, planned: Mapping[str, Any]) -> tuple[dict, pd.DataFrame | None]:
    row = {key: planned[key] for key in ("run_id", "label", "model", "seed")}
    row |= dict.fromkeys(("error", "test_accuracy", "test_loss", "params", "macs", "epochs", "train_seconds"))
    row |= {"status": "missing", "seconds_per_epoch": None, "evaluated_on": None, "tta_accuracy": None}
    try:
        return _read_files(run_dir, planned["config_hash"], row)
    except DamagedFile as error:  # of an unfinished run
        return row | {"status": "failed", "error": f"{error.path.name} is damaged. `make reproduce` repairs it"}, None


def _read_files(run_dir: Path, config_hash: str, row: dict) -> tuple[dict, pd.DataFrame | None]:
    done = is_done(run_dir, config_hash)
    if not done and (run_dir / "config.json").is_file():
        config = read_json(run_dir / "config.json")
        if not isinstance(config, dict) or "hash" not in config:
            raise DamagedFile(run_dir / "config.json", "it has no 'hash'")
        if config["hash"] != config_hash:  # a run of an earlier version of the study
            return row, None
    if done and (damaged := sorted(set(altered_files(run_dir)) & {SUMMARY, *ANALYSED_FILES})):
        error = f"missing or changed since the run finished: {', '.join(damaged)}. `make reproduce` trains it again"
        return row | {"status": "failed", "error": error}, None
    history = read_history(run_dir) if (run_dir / "history.csv").is_file() else None
    if done:
        summary = read_json(run_dir / SUMMARY)
        row |= {key: summary[key] for key in row if key in summary} | {"status": "done"}
        row["seconds_per_epoch"] = float(history["train_seconds"].median())
    elif (run_dir / "failure.json").is_file():
        error = (read_record(run_dir / "failure.json") or {}).get("error", "unknown: failure.json is damaged")
        row |= {"status": "failed", "error": str(error)}
    return row, history


def _concat(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Concatenate the tables; without any, return an empty table with these columns."""
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]
