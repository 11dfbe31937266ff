"""A user's results beside the published ones: inside, outside, or why they are not compared."""

import pytest
from synthetic import THREE, write_study

from senet_lib.analysis import stats, tables
from senet_lib.analysis.against_published import beside_published
from senet_lib.files import read_json, write_json
from senet_lib.results import load_results


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return load_results(write_study(tmp_path_factory.mktemp("published"), images=400))


def is_compared(ours, published):
    return ["not compared" not in line for line in beside_published(ours, published)]


def test_lines_state_inside_or_outside(published, tmp_path):
    same = beside_published(published, published)
    assert [line.split()[0] for line in same] == published.labels
    for line, values in zip(same, tables.accuracies(published).values(), strict=True):
        expected = stats.prediction_interval(list(values.values()), 3)
        limits = f"{100 * expected.low:.2f} to {100 * expected.high:.2f} %"
        assert f"(n = 3), inside the range {limits} that the published runs predict for the mean of 3 runs" in line
    worse = {label: {**network, "accuracy": network["accuracy"] - 0.2} for label, network in THREE.items()}
    worse["resnet20"] = THREE["resnet20"]
    other = beside_published(load_results(write_study(tmp_path / "worse", worse, images=400)), published)
    assert ["OUTSIDE" in line for line in other] == [False, True, True]
    single = load_results(write_study(tmp_path / "single", seeds=(0,), images=100))
    for line in beside_published(single, single):
        assert line.endswith(f"0.00 pp apart ({stats.ONE_SEED})")


def test_other_runs_are_not_compared(published, tmp_path):
    missing = [f"se_resnet20-seed{seed}" for seed in (0, 1, 2)]
    folder = write_study(tmp_path / "other", images=100, missing=missing)
    study = read_json(folder / "study.json")
    for run in study["runs"]:
        if run["label"] == "sk_resnet20":
            run["config_hash"] = "another"
    write_json(folder / "study.json", study)
    other = load_results(folder)  # a plain network as published, no finished SE run, another SK configuration
    assert is_compared(other, published) == is_compared(published, other) == [True, False, False]
    reasons = {
        line.partition("not compared: ")[2]
        for ours, theirs in ((other, published), (published, other))
        for line in beside_published(ours, theirs)
    }
    assert len(reasons - {""}) == 3

    more = load_results(write_study(tmp_path / "more", seeds=(0, 1, 2, 3), images=400))
    assert all(is_compared(more, published) + is_compared(published, more))
    seeds = load_results(write_study(tmp_path / "seeds", seeds=(7, 8), images=100))
    assert not any(is_compared(seeds, published))
    renamed = {("mine" if label == "resnet20" else label): network for label, network in THREE.items()}
    mine = load_results(write_study(tmp_path / "mine", renamed, images=400))
    assert is_compared(mine, published) == [False, True, True]


def test_one_run_of_another_configuration_prevents_the_comparison(published, tmp_path):
    folder = write_study(tmp_path, images=400)
    study = read_json(folder / "study.json")
    (run,) = [run for run in study["runs"] if run["run_id"] == "se_resnet20-seed1"]
    run["config_hash"] = "another"
    write_json(folder / "study.json", study)
    assert is_compared(load_results(folder), published) == [True, False, True]
