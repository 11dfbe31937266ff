"""Read a results folder as tidy tables."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from senet_lib.errors import DamagedFile
from senet_lib.files import read_arrays, read_json, read_record, unpacked
from senet_lib.results.environment import RESUMED_UNDER, part_records
from senet_lib.results.layout import ANALYSED_FILES, HISTORY_COLUMNS, SUMMARY, altered_files, is_done
from senet_lib.results.records import StudyRecord, Summary, problem_of

# What a run's time depends on: entries of environment.json, and the words for several of them
TIMED_UNDER = {
    "device": "devices",
    "processor": "processors",
    "cpu_capability": "processor instructions",
    "precision": "precisions",
    "threads": "numbers of threads",
    "devices": "numbers of devices per run",
}


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
    def is_published(self) -> bool:
        """Whether this is a published folder, which has only the seeds that all networks have finished."""
        return self.path.parent.name == "published"

    @property
    def timed(self) -> bool:
        """Whether the runs' wall-clock times may be compared: the study does not deny it, and all finished runs were
        trained without sharing a GPU and under the same conditions, from start to end."""
        return self.study.get("timed", True) and self.runs_per_gpu == 1 and not self.different_conditions

    @property
    def runs_per_gpu(self) -> int:
        """How many runs were trained at the same time on the same GPU, at most; as far as it was recorded."""
        return max((record["runs_per_gpu"] for record in self.part_records), default=1)

    @property
    def different_conditions(self) -> dict[str, list[str]]:
        """What a run's time depends on and the finished runs do not share -> its values, as far as recorded."""
        records = self.part_records
        found = {key: sorted({str(record[key]) for record in records if key in record}) for key in TIMED_UNDER}
        return {key: values for key, values in found.items() if len(values) > 1}

    @property
    def part_records(self) -> list[dict]:
        """The environment record of every done run, and of each part of it that was resumed under other conditions."""
        return [part for record in self.environments.values() for part in part_records(record)]


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
        names = {key: planned[key] for key in ("run_id", "label", "seed")}
        run = _read_run(path / "runs" / planned["run_id"], planned, study)
        runs.append(run.row)
        if run.history is not None:
            histories.append(run.history.assign(**names))
        if run.predictions is not None:
            environments[planned["run_id"]] = run.environment
            predictions.append(run.predictions.assign(**names))
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
    if problem := problem_of(StudyRecord, study):
        raise DamagedFile(path, problem, remedy)
    return study


def twin_folder(folder: Path, study: Mapping[str, Any]) -> Path | None:
    """The results folder of the study's `twin`: beside its own `folder`, or else published. None if there is none."""
    name = study.get("twin")
    places = (folder.parent, folder.parent / "published") if name and isinstance(name, str) else ()
    return next((place / name for place in places if (place / name / "study.json").is_file()), None)


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
        if not len(table["true"]) or table["true"].dtype.kind != "u" or table["predicted"].dtype.kind != "u":
            raise ValueError("its arrays are not those of predictions")
        return pd.DataFrame({"image": np.arange(len(table["true"])), **table})
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(path, error) from error


class _Run(NamedTuple):
    """A planned run: its row of `runs`; its history, if it has started; the rest, if it is done."""

    row: dict
    history: pd.DataFrame | None = None
    predictions: pd.DataFrame | None = None
    environment: dict | None = None


def _read_run(run_dir: Path, planned: Mapping[str, Any], study: Mapping[str, Any]) -> _Run:
    row = {key: planned[key] for key in ("run_id", "label", "model", "seed")}
    row |= {"error": None, "status": "missing", "seconds_per_epoch": None, **dict.fromkeys(Summary.model_fields)}
    try:
        config = {"hash": planned["config_hash"]}
        if (run_dir / "config.json").is_file():
            config = read_json(run_dir / "config.json")
        if not isinstance(config, dict) or "hash" not in config:
            raise DamagedFile(run_dir / "config.json", "it has no 'hash'")
        if config["hash"] != planned["config_hash"]:  # a run of an earlier version of the study
            return _Run(row)
        if (run_dir / SUMMARY).exists():
            return _read_finished(run_dir, planned, config, len(study["classes"]), row)
        history = read_history(run_dir) if (run_dir / "history.csv").is_file() else None
    except DamagedFile as error:
        return _Run(row | {"status": "failed", "error": f"{error.path.name} is damaged. `make reproduce` repairs it"})
    if (run_dir / "failure.json").is_file():
        error = (read_record(run_dir / "failure.json") or {}).get("error", "unknown: failure.json is damaged")
        row |= {"status": "failed", "error": str(error)}
    return _Run(row, history)


def _read_finished(run_dir: Path, planned: Mapping[str, Any], config: dict, classes: int, row: dict) -> _Run:
    if not is_done(run_dir, planned["config_hash"]):
        raise DamagedFile(run_dir / SUMMARY, "it is not that of this run")
    wrong = set(altered_files(run_dir)) & {SUMMARY, "config.json", *ANALYSED_FILES}
    wrong |= {name for name in ANALYSED_FILES if not (run_dir / name).is_file()}
    if wrong:
        error = (
            f"missing or changed since the run finished: {', '.join(sorted(wrong))}. `make reproduce` trains it again"
        )
        return _Run(row | {"status": "failed", "error": error})
    if differing := [key for key in ("model", "data", "seed") if config.get(key, planned.get(key)) != planned.get(key)]:
        error = f"config.json and study.json differ in {', '.join(differing)}. `make reproduce` repairs them"
        return _Run(row | {"status": "failed", "error": error})
    summary, environment = read_json(run_dir / SUMMARY), read_json(run_dir / "environment.json")
    if problem := problem_of(Summary, summary):
        raise DamagedFile(run_dir / SUMMARY, problem)
    later = environment.get(RESUMED_UNDER, []) if isinstance(environment, dict) else None
    if not isinstance(later, list) or not all(isinstance(part, dict) for part in later):
        raise DamagedFile(run_dir / "environment.json", "it is no record of an environment")
    history, predictions = read_history(run_dir), read_predictions(run_dir)
    if predictions[["true", "predicted"]].max(axis=None) >= classes:
        raise DamagedFile(run_dir / "predictions.npz", f"it has more classes than study.json, {classes}")
    row |= {key: summary.get(key) for key in Summary.model_fields}
    row |= {"status": "done", "seconds_per_epoch": float(history["train_seconds"].median())}
    return _Run(row, history, predictions, environment)


def _concat(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Concatenate the tables; without any, return an empty table with these columns."""
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables, ignore_index=True)[columns]
