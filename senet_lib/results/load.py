"""Read a results folder as tidy tables."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from senet_lib.files import read_json, unpacked
from senet_lib.results.layout import ANALYSED_FILES, HISTORY_COLUMNS, SUMMARY, altered_files, is_done


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

    Raises FileNotFoundError if the folder has no study.json.
    """
    path = Path(path)
    if path.suffix == ".zip":
        with unpacked(path) as folder:
            return replace(load_results(folder), path=path)
    if not (path / "study.json").is_file():
        raise FileNotFoundError(
            f"{path} has no study.json, so it is not a results folder; `make reproduce STUDY=...` writes one"
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
    """Read history.csv: one row per epoch. Floats are exactly those written, which pandas' reader does not ensure."""
    with open(run_dir / "history.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return pd.DataFrame(rows, columns=list(HISTORY_COLUMNS)).astype(float).astype({"epoch": int})


def read_predictions(run_dir: Path) -> pd.DataFrame:
    """Read predictions.npz: image, true, predicted, confidence; one row per evaluated image."""
    with np.load(run_dir / "predictions.npz", allow_pickle=False) as file:
        table = {"true": file["label"], "predicted": file["predicted"], "confidence": file["confidence"]}
        return pd.DataFrame({"image": np.arange(len(table["true"])), **table})


def _read_run(run_dir: Path, planned: Mapping[str, Any]) -> tuple[dict, pd.DataFrame | None]:
    row = {key: planned[key] for key in ("run_id", "label", "model", "seed")}
    row |= dict.fromkeys(("error", "test_accuracy", "test_loss", "params", "macs", "epochs", "train_seconds"))
    row |= {"status": "missing", "seconds_per_epoch": None, "evaluated_on": None, "tta_accuracy": None}
    if _has_another_config(run_dir, planned["config_hash"]):
        return row, None
    done = is_done(run_dir, planned["config_hash"])
    if done and (damaged := sorted(set(altered_files(run_dir)) & {SUMMARY, *ANALYSED_FILES})):
        error = f"missing or changed since the run finished: {', '.join(damaged)}. `make reproduce` trains it again"
        return row | {"status": "failed", "error": error}, None
    history = read_history(run_dir) if (run_dir / "history.csv").is_file() else None
    if done:
        summary = read_json(run_dir / SUMMARY)
        row |= {key: summary[key] for key in row if key in summary} | {"status": "done"}
        row["seconds_per_epoch"] = float(history["train_seconds"].median())
    elif (run_dir / "failure.json").is_file():
        row |= {"status": "failed", "error": read_json(run_dir / "failure.json")["error"]}
    return row, history


def _has_another_config(run_dir: Path, config_hash: str) -> bool:
    """Whether the folder holds a run of an earlier version of the study, recognised by its config hash."""
    path = run_dir / "config.json"
    return path.is_file() and read_json(path)["hash"] != config_hash


def _concat(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Concatenate the tables; without any, return an empty table with these columns."""
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]
