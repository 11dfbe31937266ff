"""The test whether a difference changes from one study to its twin: a worked case, a simulation, and its sentences."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from synthetic import THREE, write_study

from senet_lib.analysis import interactions, rule
from senet_lib.analysis.contrasts import RunModel, between, simultaneous
from senet_lib.files import read_json, write_json
from senet_lib.report.results_pages import results_page
from senet_lib.results import load_results

GAIN = {"a": 1.0, "b": -1.0}


def estimate(samples):
    return simultaneous(RunModel({name: dict(enumerate(values)) for name, values in samples.items()}, None), [GAIN])[0]


def test_between_on_a_worked_case():
    first = estimate({"a": [3, 5, 7], "b": [1, 2, 3]})  # 3, variance (4 + 1) / 2 * 2 / 3
    second = estimate({"a": [2.0, 2.5], "b": [1.5, 1.0]})  # 1, variance 1 / 8 * 2 / 2
    assert (first.error**2, second.error**2) == pytest.approx((5 / 3, 1 / 8))
    found = between(first, second, 2)
    degrees = (5 / 3 + 1 / 8) ** 2 / ((5 / 3) ** 2 / 4 + (1 / 8) ** 2 / 2)
    assert (found.interval.point, found.error**2, found.degrees) == pytest.approx((2, 5 / 3 + 1 / 8, degrees))
    half = scipy.stats.t.isf(0.025 / 2, degrees) * found.error
    assert (found.interval.low, found.interval.high) == pytest.approx((2 - half, 2 + half))
    assert found.p == pytest.approx(min(1, 2 * 2 * scipy.stats.t.sf(2 / found.error, degrees)))
    none = between(first, estimate({"a": [1], "b": [2]}), 2)
    assert none.interval.point == 4 and not none.interval.exists and "n = 1" in none.interval.reason


def test_between_is_wrong_as_often_as_it_says():
    """One study has five times the other's deviation and half its seeds; there is no interaction."""
    rng, wrong, studies = np.random.default_rng(0), 0, 1500
    for _ in range(studies):
        first = estimate({name: rng.normal(0, 5, 3) for name in ("a", "b", "c")})
        second = estimate({name: rng.normal(0, 1, 6) for name in ("a", "b", "c")})
        wrong += between(first, second, 1).p < 0.05
    assert 0.03 < wrong / studies < 0.07


def changed(network, accuracy):
    return THREE[network] | {"accuracy": accuracy}


@pytest.fixture
def published(tmp_path):
    """Published studies of the data sets that are given, with the gain of SE on each."""

    def write(name, data, gain, **options):
        networks = {"resnet20": changed("resnet20", 0.70), "se_resnet20": changed("se_resnet20", 0.70 + gain)}
        networks["sk_resnet20"] = changed("sk_resnet20", 0.70)
        folder = tmp_path / "published" / name
        write_study(folder, networks, images=4000, name=name, data=data, seeds=range(5), spread=0.002, **options)
        study = read_json(folder / "study.json")
        write_json(folder / "study.json", study | ({"twin": "ten"} if name == "hundred" else {}))
        return load_results(folder)

    return write


def test_interactions_are_those_that_both_studies_plan(published):
    hundred, ten = published("hundred", "cifar100", 0.06), published("ten", "cifar10", 0.02)
    found = interactions.interactions(hundred, ten)
    assert [(one.here.treatment, one.here.baseline) for one in found] == [
        ("se_resnet20", "resnet20"),
        ("sk_resnet20", "resnet20"),
    ]
    for one in found:
        assert one.estimate.interval.point == pytest.approx(one.here.difference.point - one.there.difference.point)
    assert found[0].estimate.interval.point == pytest.approx(0.04, abs=0.01)
    said = interactions.against_twin(hundred)
    assert said.startswith("Are these differences larger on cifar100 than on cifar10 (study ten)?")
    assert "\n- se_resnet20 minus resnet20: **larger on cifar100**. On cifar100 +" in said
    assert "\n- sk_resnet20 minus resnet20: **inconclusive**. On cifar100" in said
    assert results_page({"hundred": hundred, "ten": ten}).count(said) == 1
    assert interactions.in_words(hundred, ten, []) == interactions.against_twin(ten) == ""


def test_the_twin_is_taken_from_beside_the_study_or_from_the_published_ones(published, tmp_path):
    hundred = published("hundred", "cifar100", 0.06)
    assert interactions.against_twin(hundred).endswith("results of the study ten, and there are none here.\n")
    assert interactions.against_twin(replace(hundred, runs=hundred.runs.iloc[:0])) == "", "nothing to compare"
    ten = published("ten", "cifar10", 0.02)
    own = replace(hundred, path=tmp_path / "hundred")
    assert interactions.against_twin(own) == interactions.against_twin(hundred)
    ten.path.rename(tmp_path / "ten")
    assert interactions.against_twin(own).startswith("Are these differences larger")
    assert interactions.against_twin(hundred).endswith("there are none here.\n")


def test_other_networks_or_recipes_are_not_compared(published):
    hundred = published("hundred", "cifar100", 0.06)
    for change in (
        {"recipe": hundred.study["recipe"] | {"epochs": 11}},
        {"comparisons": [["resnet20", "sk_resnet20"]]},
        {"runs": [run | {"knobs": {"width": 2.0}} for run in hundred.study["runs"]]},
    ):
        ten = published("ten", "cifar10", 0.02)
        ten.study.update(change)
        assert interactions.interactions(hundred, ten) == [], change


def test_early_training_and_single_seeds_have_no_verdict(published, monkeypatch):
    hundred, ten = published("hundred", "cifar100", 0.06), published("ten", "cifar10", 0.02)
    found = interactions.interactions(hundred, ten)
    monkeypatch.setattr(interactions.Interaction, "is_early", True)
    assert interactions.in_words(hundred, ten, found).count("**early training**, so no verdict") == 2
    monkeypatch.undo()
    assert not found[0].is_early and found[0].here.verdict == rule.BETTER
