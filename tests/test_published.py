"""The numbers of every published and archived study, recomputed from its committed predictions."""

import io
import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from synthetic import THREE, write_study

from senet_lib.analysis import tables
from senet_lib.data.catalog import DATASETS
from senet_lib.files import read_json
from senet_lib.metrics import count_macs, count_params
from senet_lib.models import create_model
from senet_lib.project import project_root
from senet_lib.report.publish import committed_runs
from senet_lib.results import (
    NOTEBOOK,
    WEIGHTS,
    StudyResults,
    altered_files,
    load_results,
    read_predictions,
    write_predictions,
)
from senet_lib.study import RunConfig, load_study

RESULTS = project_root() / "results"
PUBLISHED = sorted(path.parent.name for path in (RESULTS / "published").glob("[!.]*/study.json"))
ARCHIVED = sorted(path.stem for path in (RESULTS / "archive").glob("*.zip"))
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
    found = recomputed(from_predictions(load_results(folder)))
    for name in RECOMPUTED:
        path = folder / "tables" / f"{name}.csv"
        if found[name].empty and name in OPTIONAL:
            assert not path.exists()
            continue
        expected = pd.read_csv(io.StringIO(found[name].to_csv(index=False)))  # a CSV file has no empty text, no None
        pd.testing.assert_frame_equal(pd.read_csv(path), expected, rtol=1e-9, atol=1e-12, obj=path.name)


def assert_summaries_hold(folder):
    for run_dir in sorted((folder / "runs").iterdir()):
        predictions, summary = read_predictions(run_dir), read_json(run_dir / "summary.json")
        assert summary["hash"] == read_json(run_dir / "config.json")["hash"]
        assert summary["test_accuracy"] == pytest.approx((predictions["true"] == predictions["predicted"]).mean())


@pytest.fixture(scope="module", params=[*PUBLISHED, *ARCHIVED])
def kept(request):
    """The folder of each study that the repository keeps, unpacked where it is archived."""
    with committed_runs(request.param) as folder:
        yield request.param, folder


def test_something_is_published_and_no_study_is_kept_twice():
    assert PUBLISHED
    assert not set(PUBLISHED) & set(ARCHIVED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_equal_the_predictions(name):
    assert_tables_hold(RESULTS / "published" / name)


def test_summaries_equal_the_predictions(kept):
    _, folder = kept
    assert_summaries_hold(folder)


def test_files_have_their_recorded_digests(kept):
    """A notebook stays on its machine, and most weights."""
    _, folder = kept
    for run_dir in (folder / "runs").iterdir():
        altered = altered_files(run_dir)
        assert set(altered) == {name for name in altered if not (run_dir / name).exists()} <= {NOTEBOOK, WEIGHTS}


def test_hashes_are_recomputed_and_planned(kept):
    """Each run's hash follows from its config.json, and the study's YAML file plans a run of that hash."""
    name, folder = kept
    planned = {run.run_id: run.hash for run in load_study(name, project_root() / "studies").runs()}
    assert {run["run_id"]: run["config_hash"] for run in read_json(folder / "study.json")["runs"]} == planned
    for run_dir in (folder / "runs").iterdir():
        config = read_json(run_dir / "config.json")
        recorded = config.pop("hash")
        del config["run_id"]
        assert RunConfig.from_parameters(**config).hash == recorded == planned[run_dir.name]


def test_networks_still_have_the_size_that_was_trained(kept):
    """A hash names its network and does not see the network change: a change would void the study."""
    _, folder = kept
    study = load_results(folder)
    facts = DATASETS[study.study["data"]]
    for label, network in study.study["networks"].items():
        model = create_model(network["model"], num_classes=facts.classes, **network["knobs"])
        trained = study.done[study.done["label"] == label]
        assert set(trained["params"]) == {count_params(model)}, label
        assert set(trained["macs"]) == {count_macs(model, (3, facts.pixels, facts.pixels))}, label


def test_every_look_at_the_test_set_is_logged(kept):
    name, folder = kept
    log = (RESULTS / "test_set_log.md").read_text(encoding="utf-8")
    if set(load_results(folder).done["evaluated_on"]) != {"holdout"}:
        rows = [line for line in log.splitlines() if line.startswith("|") and f"`{name}`" in line]
        assert rows, f"results/test_set_log.md has no row for `{name}`"


def test_no_file_names_a_place_of_a_machine(kept):
    _, folder = kept
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".csv"):
            assert not re.search(r'"(/|[A-Z]:\\)[a-z]', path.read_text(encoding="utf-8")), path


@pytest.fixture
def made_up(tmp_path):
    """A study as it is published, of two networks and three seeds."""
    two = {label: THREE[label] for label in ("resnet20", "sk_resnet20")}
    folder = write_study(tmp_path / "study", two, images=200)
    (folder / "tables").mkdir()
    for name, table in recomputed(load_results(folder)).items():
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
