"""Random damage to a finished study's results folder: the report is right without the damaged run, or names the file.

`SENET_FUZZ_SECONDS=600 pytest tests/test_damaged_results.py -m slow` runs for longer; `SENET_FUZZ_SEED` repeats a run.
"""

import collections
import random
import shutil
import time
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from damage import budget, mutated, seed
from synthetic import CIFAR10, THREE, write_study
from test_report import run_notebook

from senet_lib.errors import UserError
from senet_lib.files import read_record, write_arrays
from senet_lib.project import project_root
from senet_lib.results import EXAMPLES, SUMMARY, load_results, write_summary

OF_THE_STATUS = {"tables/runs.csv", "tables/runs.md"}  # where a failed run differs from a missing one


def study_files(folder):
    """The files that a report reads."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def damaged(folder, rng):
    """Damage a file or two of the study; returns their paths below the folder, and what was done."""
    done = {}
    files = study_files(folder)
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 1, 2)))):
        name = path.relative_to(folder).as_posix()
        content = path.read_bytes()
        if rng.random() < 0.1:
            path.unlink()
            kind = rng.choice(("removed", "a folder", "a broken link"))
            path.mkdir() if kind == "a folder" else path.symlink_to("nothing") if kind == "a broken link" else None
            done[name] = kind
        else:
            done[name] = mutated(content, rng, [other.read_bytes() for other in study_files(folder)])
            path.write_bytes(done[name])
            if done[name] == content:
                del done[name]
    return done


def sealed(folder, names):
    """Record the digests of damaged runs anew, as someone could who wants to deceive."""
    for run_id in {name.split("/")[1] for name in names if name.startswith("runs/")}:
        summary = read_record(folder / "runs" / run_id / SUMMARY)
        if summary is not None:
            write_summary(folder / "runs" / run_id, {k: v for k, v in summary.items() if k not in ("files", "digest")})


def finished_study(folder):
    """Two networks, two seeds; published accuracies, planned comparisons and stored pictures."""
    networks = {label: {**THREE[label]} for label in ("resnet20", "se_resnet20")}
    networks["resnet20"]["published"] = {"accuracy": 0.9125, "source": "a paper", "runs": 1}
    pairs = [("se_resnet20", "resnet20")]
    write_study(folder, networks, seeds=(0, 1), images=60, epochs=3, classes=CIFAR10[:3], comparisons=pairs)
    arrays = {"image": np.arange(60), "true": np.arange(60) % 3}
    write_arrays(folder / EXAMPLES, arrays | {"pixels": np.zeros((60, 8, 8, 3), np.uint8)})
    return folder


def page_of(folder, monkeypatch):
    """path -> content of the tables that the report writes."""
    try:
        shown, page = run_notebook("analysis", {"results": str(folder)}, monkeypatch)
    finally:
        plt.close("all")
    return {name: content for name, content in page.files.items() if name.startswith("tables/")}, shown.text


class Truth:
    """The tables of the intact study, and those of the study without some of its runs."""

    def __init__(self, folder, scratch, monkeypatch):
        self.folder, self.scratch, self.monkeypatch, self.pages = folder, scratch, monkeypatch, {}

    def tables(self, missing):
        if missing not in self.pages:
            copy = shutil.copytree(self.folder, self.scratch / "-".join(["without", *sorted(missing)]))
            for run_id in missing:
                shutil.rmtree(copy / "runs" / run_id)
            self.pages[missing], _ = page_of(copy, self.monkeypatch)
        return self.pages[missing]


def check(folder, names, truth, monkeypatch, *, deceived=False):
    """What the report does with a damaged folder, as one word. Raises AssertionError.

    deceived: the digests fit the damage, so the numbers may be others.
    """
    try:
        tables, _ = page_of(folder, monkeypatch)
    except (UserError, OSError) as error:
        said = str(error)
        assert any(Path(name).name in said for name in names), f"names no damaged file: {said}"
        assert "\n" not in said
        return "named"
    results = load_results(folder)
    lost = frozenset(results.runs.loc[results.runs["status"] != "done", "run_id"])
    of_runs = {name.split("/")[1] for name in names if name.startswith("runs/")}
    if "study.json" not in names:
        assert lost <= of_runs, f"undamaged runs are left out: {lost - of_runs}"
    if "study.json" not in names and not deceived:
        right = truth.tables(lost)
        compared = right.keys() - OF_THE_STATUS - ({"tables/examples.csv"} if EXAMPLES in names else set())
        assert compared <= tables.keys() <= right.keys()
        for name in compared:
            assert tables[name] == right[name], name
    return "without" if lost else "whole"


@pytest.mark.slow
def test_damaged_results_give_a_right_report_or_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("SENET_ROOT", str(project_root()))
    folder = finished_study(tmp_path / "study")
    truth, (rounds, seconds) = Truth(folder, tmp_path, monkeypatch), budget(10, 30)
    end, outcomes = time.monotonic() + seconds, collections.Counter()
    for number in range(rounds):
        copy, rng = shutil.copytree(folder, tmp_path / "damaged"), random.Random(f"{seed()} {number}")
        names, deceived = damaged(copy, rng), rng.random() < 0.3
        try:
            if deceived:
                sealed(copy, names)
            outcomes[check(copy, names, truth, monkeypatch, deceived=deceived)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed()}, round {number}: {names}") from error
        shutil.rmtree(copy)
        if time.monotonic() > end:
            break
    print(outcomes)
