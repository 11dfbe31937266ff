"""Every number of the published and archived studies, recomputed from the committed predictions."""

import functools
import io
import json
import re
from contextlib import ExitStack
from dataclasses import replace

import pandas as pd
import pytest
from synthetic import THREE, write_study

from senet_lib.analysis import tables
from senet_lib.data.catalog import DATASETS
from senet_lib.files import read_json, unpacked
from senet_lib.metrics import count_macs, count_params
from senet_lib.models import create_model
from senet_lib.project import project_root
from senet_lib.results import NOTEBOOK, WEIGHTS, altered_files, load_results, write_summary
from senet_lib.study import RunConfig, load_study

RESULTS = project_root() / "results"
PUBLISHED = sorted(path.parent for path in (RESULTS / "published").glob("[!.]*/study.json"))
ARCHIVED = sorted((RESULTS / "archive").glob("*.zip"))
OPTIONAL = {"comparisons", "mcnemar", "confused_pairs"}  # not written without rows
MACHINE_PATH = re.compile(r'"(folder:)?(/|[A-Z]:\\+)[a-z]')  # JSON writes a backslash twice


@pytest.fixture(scope="session")
def studies():
    """name -> results of every committed study, or 'name.zip' if it is published as well; each archive is unpacked and
    read once."""
    with ExitStack() as stack:
        folders = {path.name: path for path in PUBLISHED}
        for path in ARCHIVED:
            name = path.name if path.stem in folders else path.stem
            folders[name] = stack.enter_context(unpacked(path))
        yield {name: load_results(folder) for name, folder in folders.items()}


def test_archive_of_a_published_study_has_other_runs(studies):
    for name, results in studies.items():
        if name.endswith(".zip"):
            published = studies[name.removesuffix(".zip")]
            assert set(results.done["run_id"]).isdisjoint(published.done["run_id"]), name


def accuracies(results):
    """run_id -> accuracy, counted from predictions.npz."""
    hits = results.predictions["true"] == results.predictions["predicted"]
    return hits.groupby(results.predictions["run_id"]).mean()


def recomputed(results):
    """Every published table of numbers, from the predictions in place of the summaries' accuracies."""
    results = replace(results, runs=results.runs.assign(test_accuracy=results.runs["run_id"].map(accuracies(results))))
    comparisons = tables.compare(results)
    return {
        "networks": tables.networks(results, comparisons),
        "comparisons": tables.comparison_table(comparisons),
        "class_accuracies": tables.class_accuracies(results),
        "mcnemar": tables.mcnemar(results),
        "confused_pairs": tables.confused_pairs(results),
    }


def check_tables(results):
    for name, table in recomputed(results).items():
        path = results.path / "tables" / f"{name}.csv"
        if table.empty and name in OPTIONAL:
            assert not path.exists(), path
            continue
        expected = pd.read_csv(io.StringIO(table.to_csv(index=False)))  # as text: a CSV file has no None
        pd.testing.assert_frame_equal(pd.read_csv(path), expected, rtol=1e-9, atol=1e-12, obj=str(path))


def check_summaries(results):
    name, counted = results.study["name"], accuracies(results)
    assert set(counted.index) == {path.name for path in (results.path / "runs").iterdir()}, name
    for run in results.done.itertuples():
        assert run.test_accuracy == pytest.approx(counted[run.run_id]), f"{name}: {run.run_id}"


@functools.cache
def size_of(model, knobs, classes, pixels):
    network = create_model(model, num_classes=classes, **json.loads(knobs))
    return count_params(network), count_macs(network, (3, pixels, pixels))


def test_published_tables_equal_the_predictions(studies):
    assert PUBLISHED
    for path in PUBLISHED:
        check_tables(studies[path.name])


def test_summaries_equal_the_predictions(studies):
    for results in studies.values():
        check_summaries(results)


def test_files_match_their_digests(studies):
    """Notebooks and most weights are not committed."""
    for results in studies.values():
        for run_dir in (results.path / "runs").iterdir():
            altered = set(altered_files(run_dir))
            assert altered <= {NOTEBOOK, WEIGHTS}, run_dir
            assert not [name for name in altered if (run_dir / name).exists()], run_dir


def test_hashes_follow_from_study_and_config(studies):
    for name, results in studies.items():
        planned = {run.run_id: run.hash for run in load_study(results.study["name"], project_root() / "studies").runs()}
        assert {run["run_id"]: run["config_hash"] for run in results.study["runs"]} == planned, name
        for run_dir in (results.path / "runs").iterdir():
            config = read_json(run_dir / "config.json")
            recorded = config.pop("hash")
            del config["run_id"]
            assert RunConfig.from_parameters(**config).hash == recorded == planned[run_dir.name], run_dir
            assert read_json(run_dir / "summary.json")["hash"] == recorded, run_dir


def test_networks_have_the_size_that_was_trained(studies):
    """A run's hash names its network but does not change with the library's code."""
    for name, results in studies.items():
        facts = DATASETS[results.study["data"]]
        for label, network in results.study["networks"].items():
            knobs = json.dumps(network["knobs"], sort_keys=True)
            params, macs = size_of(network["model"], knobs, facts.classes, facts.pixels)
            trained = results.done[results.done["label"] == label]  # none, in a study that is in progress
            assert set(trained["params"]) <= {params}, f"{name}: {label}"
            assert set(trained["macs"]) <= {macs}, f"{name}: {label}"


def test_test_set_log_names_every_study(studies):
    rows = [line for line in (RESULTS / "test_set_log.md").read_text("utf-8").splitlines() if line.startswith("|")]
    for name, results in studies.items():
        if set(results.done["evaluated_on"]) != {"holdout"}:
            assert any(f"`{results.study['name']}`" in row for row in rows), name


def test_files_contain_no_machine_paths(studies):
    for results in studies.values():
        for path in results.path.rglob("*"):
            if path.suffix in (".json", ".csv"):
                assert not MACHINE_PATH.search(path.read_text("utf-8")), path


def test_wrong_number_is_found(tmp_path):
    two = {label: THREE[label] for label in ("resnet20", "sk_resnet20")}
    folder = write_study(tmp_path, two, images=200)
    (folder / "tables").mkdir()
    numbers = recomputed(load_results(folder))
    for name, table in numbers.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False, lineterminator="\n")
    check_tables(load_results(folder))
    for name in numbers:
        path = folder / "tables" / f"{name}.csv"
        original, table = path.read_bytes(), pd.read_csv(path)
        column = table.select_dtypes("number").dropna(axis="columns").columns[-1]
        table[column] = table[column] + 0.001
        table.to_csv(path, index=False, lineterminator="\n")
        with pytest.raises(AssertionError, match=column):
            check_tables(load_results(folder))
        path.write_bytes(original)

    check_summaries(load_results(folder))
    run_dir = folder / "runs" / "resnet20-seed0"
    summary = read_json(run_dir / "summary.json")
    write_summary(run_dir, {**summary, "test_accuracy": summary["test_accuracy"] + 0.005})
    with pytest.raises(AssertionError, match="resnet20-seed0"):
        check_summaries(load_results(folder))
