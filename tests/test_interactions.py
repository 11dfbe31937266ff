"""The test whether a difference changes from one study to its twin: a worked case, a simulation, and its sentences."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from synthetic import THREE, write_study

from senet_lib.analysis import interactions
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


@pytest.fixture
def published(tmp_path):
    """Published studies of the data sets that are given, with the gain of SE on each."""

    def write(name, data, gain, plain=0.70, **options):
        accuracy = {"resnet20": plain, "se_resnet20": plain + gain, "sk_resnet20": plain}
        networks = {label: network | {"accuracy": accuracy[label]} for label, network in THREE.items()}
        folder = tmp_path / "published" / name
        shutil.rmtree(folder, ignore_errors=True)
        write_study(folder, networks, images=4000, name=name, data=data, seeds=range(5), spread=0.002, **options)
        study = read_json(folder / "study.json") | {"fingerprints": {"test": data}}
        write_json(folder / "study.json", study | ({"twin": "ten"} if name == "hundred" else {}))
        return load_results(folder)

    return write


def pairs(found):
    return [(one.here.treatment, one.here.baseline) for one in found]


SE, SK = ("se_resnet20", "resnet20"), ("sk_resnet20", "resnet20")


def test_interactions_are_those_that_both_studies_plan(published):
    hundred, ten = published("hundred", "cifar100", 0.06), published("ten", "cifar10", 0.02)
    found = interactions.interactions(hundred, ten)
    assert pairs(found) == [SE, SK]
    for one in found:
        assert one.estimate == between(one.here.estimate, one.there.estimate, 2), "corrected for both tests"
        assert one.estimate.interval.point == pytest.approx(one.here.difference.point - one.there.difference.point)
    assert found[0].estimate.interval.point == pytest.approx(0.04, abs=0.01)
    said = interactions.against_twin(hundred)
    assert said.startswith("Do these differences change with the data set? The change is the difference on cifar100")
    assert "\n- se_resnet20 minus resnet20: the difference is **higher on cifar100**. On cifar100 +" in said
    assert "\n- sk_resnet20 minus resnet20: **inconclusive**. On cifar100" in said
    assert results_page({"hundred": hundred, "ten": ten}).count(said) == 1
    assert interactions.against_twin(ten) == "", "it names no twin"


def test_two_losses_are_compared_by_their_signed_values(published):
    published("ten", "cifar10", -0.02)
    said = interactions.against_twin(published("hundred", "cifar100", -0.06))
    assert "the difference is **higher on cifar10**. On cifar100 \N{MINUS SIGN}" in said
    assert "which rules out a change below \N{MINUS SIGN}" in said and "gain" not in said


def test_the_twin_is_taken_from_beside_the_study_or_from_the_published_ones(published, tmp_path):
    hundred = published("hundred", "cifar100", 0.06)
    assert interactions.against_twin(replace(hundred, runs=hundred.runs.assign(status="missing"))) == ""
    ten = published("ten", "cifar10", 0.02)
    own = replace(hundred, path=tmp_path / "hundred")
    assert interactions.against_twin(own) == interactions.against_twin(hundred)
    ten.path.rename(tmp_path / "ten")
    assert interactions.against_twin(own).startswith("Do these differences change")
    assert interactions.against_twin(hundred).endswith("there are none here.\n")


def test_why_there_is_no_test_is_said(published):
    hundred = published("hundred", "cifar100", 0.06)
    runs = [f"{label}-seed{seed}" for label in THREE for seed in range(5)]
    for why, options in {
        "there are none here": {"missing": runs},
        "that study has the same data": {"data": "cifar100"},
        "no comparison that both plan, under the same recipe, has finished runs in both": {"epochs": 11},
    }.items():
        published("ten", **{"data": "cifar10", "gain": 0.02} | options)
        assert interactions.against_twin(hundred).endswith(f"results of the study ten, and {why}.\n"), why
    (hundred.path.parent / "ten" / "study.json").write_text("{")
    assert interactions.against_twin(hundred).endswith("and those here are damaged.\n")


def test_other_networks_or_recipes_are_not_compared(published):
    hundred = published("hundred", "cifar100", 0.06)
    networks = hundred.study["networks"]
    for left, change in (
        ([], {"recipe": hundred.study["recipe"] | {"epochs": 11}}),
        ([], {"comparisons": [["resnet20", "sk_resnet20"]]}),
        ([], {"runs": [run | {"knobs": {"width": 2.0}} for run in hundred.study["runs"]]}),
        ([SK], {"networks": networks | {"se_resnet20": networks["se_resnet20"] | {"recipe": {"lr": 0.2}}}}),
    ):
        ten = published("ten", "cifar10", 0.02)
        ten.study.update(change)
        assert pairs(interactions.interactions(hundred, ten)) == left, change
    ten = published("ten", "cifar10", 0.02, missing=[f"se_resnet20-seed{seed}" for seed in range(5)])
    assert pairs(interactions.interactions(hundred, ten)) == [SK], "SE has no run in one study"


def test_early_training_in_either_study_replaces_the_verdict(published):
    late, early = {"gain": 0.06}, {"gain": 0.06, "plain": 0.2}
    for here, there in ((early, late), (late, early)):
        published("ten", "cifar10", **there)
        said = interactions.against_twin(published("hundred", "cifar100", **here))
        assert said.count("**early training**, so no verdict") == 2, (here, there)
