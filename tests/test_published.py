"""The numbers of every published study, recomputed from its committed predictions."""

import io
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from synthetic import THREE, write_study

from senet_lib import tables
from senet_lib.metrics import count_macs, count_params
from senet_lib.models import create_model
from senet_lib.plan import SIZES
from senet_lib.project import project_root
from senet_lib.results import StudyResults, load_study, read_json, read_predictions, write_predictions

PUBLISHED = sorted(path.parent for path in (project_root() / "results" / "published").glob("[!.]*/study.json"))
RECOMPUTED = ("networks", "comparisons", "class_accuracies", "mcnemar", "confused_pairs")
OPTIONAL = {"comparisons", "mcnemar", "confused_pairs"}  # not written where they would have no row


def from_predictions(results: StudyResults) -> StudyResults:
    """The study with each accuracy counted anew from predictions.npz, in place of what its summary says."""
    hits = results.predictions["true"] == results.predictions["predicted"]
    counted = hits.groupby(results.predictions["run_id"]).mean()
    return replace(results, runs=results.runs.assign(test_accuracy=results.runs["run_id"].map(counted)))


def recomputed(results: StudyResults) -> dict[str, pd.DataFrame]:
    comparisons = tables.compare(results)
    return {
        "networks": tables.networks(results, comparisons),
        "comparisons": tables.comparison_table(comparisons),
        "class_accuracies": tables.class_accuracies(results),
        "mcnemar": tables.mcnemar(results),
        "confused_pairs": tables.confused_pairs(results),
    }


def assert_tables_hold(folder):
    found = recomputed(from_predictions(load_study(folder)))
    for name in RECOMPUTED:
        path = folder / "tables" / f"{name}.csv"
        if found[name].empty and name in OPTIONAL:
            assert not path.exists()
            continue
        expected = pd.read_csv(io.StringIO(found[name].to_csv(index=False)))  # a CSV file has no empty text, no None
        pd.testing.assert_frame_equal(pd.read_csv(path), expected, rtol=1e-9, atol=1e-12, obj=path.name)


def assert_summaries_hold(folder):
    for planned in read_json(folder / "study.json")["runs"]:
        run_dir = folder / "runs" / planned["run_id"]
        predictions, summary = read_predictions(run_dir), read_json(run_dir / "summary.json")
        assert summary["hash"] == planned["config_hash"] == read_json(run_dir / "config.json")["hash"]
        assert summary["test_accuracy"] == pytest.approx((predictions["true"] == predictions["predicted"]).mean())


each_published = pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)


def test_there_is_something_published():
    assert PUBLISHED


@each_published
def test_the_tables_are_what_the_predictions_give(folder):
    assert_tables_hold(folder)


@each_published
def test_the_accuracy_of_each_run_is_that_of_its_predictions(folder):
    assert_summaries_hold(folder)


@each_published
def test_every_network_still_has_the_size_that_was_trained(folder):
    """A run's hash names its network and does not see the network change: a change leaves a published study void."""
    study = load_study(folder)
    *_, classes, side = SIZES[study.study["data"]]
    for label, network in study.study["networks"].items():
        model = create_model(network["model"], num_classes=classes, **network["knobs"])
        trained = study.done[study.done["label"] == label]
        assert set(trained["params"]) == {count_params(model)}, label
        assert set(trained["macs"]) == {count_macs(model, (3, side, side))}, label


@pytest.fixture
def made_up(tmp_path):
    """A study as it is published, of two networks and three seeds."""
    two = {label: THREE[label] for label in ("resnet20", "sk_resnet20")}
    folder = write_study(tmp_path / "study", two, images=200)
    (folder / "tables").mkdir()
    for name, table in recomputed(load_study(folder)).items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False, lineterminator="\n")
    return folder


@pytest.mark.parametrize("name", RECOMPUTED)
def test_a_number_that_is_not_what_the_predictions_give_is_found(made_up, name):
    assert_tables_hold(made_up)
    path = made_up / "tables" / f"{name}.csv"
    table = pd.read_csv(path)
    column = table.select_dtypes("number").dropna(axis="columns").columns[-1]
    table[column] = table[column] + 0.001
    table.to_csv(path, index=False, lineterminator="\n")
    with pytest.raises(AssertionError, match=column):
        assert_tables_hold(made_up)


def test_a_summary_that_says_more_than_its_predictions_is_found(made_up, tmp_path):
    assert_summaries_hold(made_up)
    shutil.copytree(made_up, tmp_path / "copy")
    run_dir = tmp_path / "copy" / "runs" / "resnet20-seed0"
    predictions = read_predictions(run_dir)
    right = predictions["true"].to_numpy()
    write_predictions(run_dir, right, right, predictions["confidence"].to_numpy())
    with pytest.raises(AssertionError):
        assert_summaries_hold(tmp_path / "copy")
