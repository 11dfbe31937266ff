"""One's own results beside the published ones: inside, outside, or in words why it cannot be said."""

import pytest
from synthetic import THREE, write_study

from senet_lib.analysis import stats, tables
from senet_lib.analysis.against_published import beside_published
from senet_lib.files import read_json, write_json
from senet_lib.results import load_results


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return load_results(write_study(tmp_path_factory.mktemp("published"), images=400))


def test_the_same_numbers_lie_inside_and_others_outside(published, tmp_path):
    same = beside_published(published, published)
    assert [line.split()[0] for line in same] == published.labels
    for line, values in zip(same, tables.accuracies(published).values(), strict=True):
        interval = stats.t_interval(list(values.values()))
        assert f"(n = 3), inside the published 95 % CI {100 * interval.low:.2f} to" in line

    worse = {label: {**network, "accuracy": network["accuracy"] - 0.2} for label, network in THREE.items()}
    worse["resnet20"] = THREE["resnet20"]
    other = beside_published(load_results(write_study(tmp_path, worse, images=400)), published)
    assert ["OUTSIDE" in line for line in other] == [False, True, True]


def test_one_published_seed_has_no_interval(tmp_path):
    study = load_results(write_study(tmp_path, seeds=(0,), images=100))
    for line in beside_published(study, study):
        assert line.endswith("0.00 pp apart (n = 1: no interval)")


def test_what_cannot_be_compared_says_why(published, tmp_path):
    write_study(tmp_path, images=100, missing=[f"se_resnet20-seed{seed}" for seed in (0, 1, 2)])
    study = read_json(tmp_path / "study.json")
    for run in study["runs"]:
        if run["label"] == "sk_resnet20":
            run["config_hash"] = "another"
    write_json(tmp_path / "study.json", study)
    plain, gated, selective = beside_published(load_results(tmp_path), published)
    assert "95 % CI" in plain
    assert gated.endswith("not compared: no finished run")
    assert selective.endswith("not compared: the published runs were configured otherwise")
    _, turned, _ = beside_published(published, load_results(tmp_path))
    assert turned.endswith("not compared: no finished run among the published")


def test_more_seeds_are_compared_and_other_networks_and_seeds_are_not(published, tmp_path):
    more = load_results(write_study(tmp_path / "more", seeds=(0, 1, 2, 3), images=400))
    assert all("95 % CI" in line for line in beside_published(more, published))
    assert all("95 % CI" in line for line in beside_published(published, more))
    other = load_results(write_study(tmp_path / "other", seeds=(7, 8), images=400))
    for line in beside_published(other, published):
        assert line.endswith("not compared: no seed in common with the published runs")
    renamed = {("mine" if label == "resnet20" else label): network for label, network in THREE.items()}
    mine = beside_published(load_results(write_study(tmp_path / "mine", renamed, images=400)), published)
    assert mine[0] == "mine         not compared: not among the published networks"
