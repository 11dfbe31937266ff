"""Learning-rate checks on small worked cases: best rates, signs, and what says nothing."""

from dataclasses import replace

import pytest
from synthetic import THREE, write_study

from senet_lib.analysis import learning_rates
from senet_lib.results import load_results

A, B = (THREE[label] for label in ("resnet20", "se_resnet20"))
HALF, TWICE = {"recipe": {"lr": 0.05}}, {"recipe": {"lr": 0.2}}
NETWORKS = {"a": A, "b": B, "a_half": A | HALF, "b_half": B | HALF, "a_twice": A | TWICE, "b_twice": B | TWICE}
ACCURACIES = {"a": 0.80, "b": 0.79, "a_half": 0.82, "b_half": 0.70, "a_twice": 0.78, "b_twice": 0.83}
OPTIONS = {"images": 100, "epochs": 2, "holdout": 5000, "comparisons": [("b", "a")]}


def check(folder, accuracies=ACCURACIES, *, networks=NETWORKS, seeds=(100,), **options):
    """The results of a made-up check in which every run of a network has exactly its accuracy."""
    results = load_results(write_study(folder, networks, seeds=seeds, **OPTIONS | options))
    return replace(results, runs=results.runs.assign(test_accuracy=results.runs["label"].map(accuracies)))


def test_sign_changes_with_each_networks_best_rate(tmp_path):
    results = check(tmp_path)
    table = learning_rates.by_rate(results)
    assert table[["network", "lr", "n"]].values.tolist() == [[name, lr, 1] for name in "ab" for lr in (0.05, 0.1, 0.2)]
    assert learning_rates.best_rates(table) == {"a": 0.05, "b": 0.2}
    (found,) = learning_rates.signs(results, table)
    assert found.common == pytest.approx(-0.01) and found.own == pytest.approx(0.01)
    assert found.best == (0.2, 0.05) and found.differ
    shown = learning_rates.shown(table)
    assert shown.loc[0].tolist() == ["a", "82.00", "80.00", "78.00", "0.05"]
    assert learning_rates.in_words(results, table).splitlines() == [
        "- b minus a: −1.00 pp at the common learning rate 0.1, +1.00 pp with each at its own best rate (0.2 and 0.05)."
        " The signs differ.",
        "- The best rate of a (0.05) is the lowest one tried. A lower one may be better.",
        "- The best rate of b (0.2) is the highest one tried. A higher one may be better.",
        "- One seed per learning rate locates the range but cannot separate adjacent values.",
        "- How much such a difference varies between seeds is not known here, so these signs are observations of single"
        " runs, not findings.",
    ]


def test_sign_stays_and_best_rate_within_the_tried_ones(tmp_path):
    results = check(tmp_path, {**ACCURACIES, "a_half": 0.75, "b_half": 0.76, "b_twice": 0.77}, seeds=(100, 101))
    table = learning_rates.by_rate(results)
    assert set(table["n"]) == {2} and learning_rates.best_rates(table) == {"a": 0.1, "b": 0.1}
    assert learning_rates.in_words(results, table) == (
        "- b minus a: −1.00 pp at the common learning rate 0.1, −1.00 pp with each at its own best rate (0.1 and 0.1)."
        " The signs do not differ.\n- How much such a difference varies between seeds is not known here, so these signs"
        " are observations of single runs, not findings."
    )


def test_difference_by_the_seeds_alone(tmp_path):
    """1.96 standard errors of a difference: of single runs with sd 0.2 pp, and of means of two runs with sd 1 pp."""
    results = check(tmp_path / "one")
    words = learning_rates.in_words(results, learning_rates.by_rate(results), 0.002)
    assert "within ±0.55 pp (standard deviation of a run 0.20 pp)" in words
    results = check(tmp_path / "two", seeds=(100, 101))
    shift = results.runs["seed"].map({100: 0.0, 101: 2**0.5 / 100})  # a standard deviation of 1 pp
    results = replace(results, runs=results.runs.assign(test_accuracy=results.runs["test_accuracy"] + shift))
    assert "within ±1.96 pp (standard deviation of a run 1.00 pp)" in learning_rates.in_words(
        results, learning_rates.by_rate(results)
    )


def test_fewest_seeds_decide_how_far_apart_chance_takes_two_networks(tmp_path):
    results = check(tmp_path, seeds=(100, 101), missing=[f"{label}-seed101" for label in ("b", "b_half", "b_twice")])
    words = learning_rates.in_words(results, learning_rates.by_rate(results), 0.002)
    assert "within ±0.55 pp" in words and "One seed per learning rate" in words


def test_no_difference_has_no_other_sign(tmp_path):
    results = check(tmp_path, {**ACCURACIES, "b": 0.80004})
    (found,) = learning_rates.signs(results, learning_rates.by_rate(results))
    assert found.own > 0.009 and not found.differ
    results = replace(results, runs=results.runs.assign(test_accuracy=[0.8, 0.79998, 0.82, 0.7, 0.78, 0.83]))
    assert not learning_rates.signs(results, learning_rates.by_rate(results))[0].differ, "0.00 pp has no sign"


def test_other_options_make_another_network(tmp_path):
    """Only `lr` may differ; a network at one rate, or without the common one, is not part of the check."""
    other = {"recipe": {"lr": 0.05, "weight_decay": 0.1}}
    networks = {"a": A, "a_half": A | HALF, "a_decay": A | other, "wide": A | HALF | {"knobs": {"width": 2}}, "b": B}
    table = learning_rates.by_rate(check(tmp_path, dict.fromkeys(networks, 0.8), networks=networks))
    assert set(table["network"]) == {"a"} and table["lr"].tolist() == [0.05, 0.1]


def test_unfinished_rates_have_no_best(tmp_path):
    results = check(tmp_path, missing=["a_half-seed100"])
    table = learning_rates.by_rate(results)
    assert learning_rates.best_rates(table) == {"b": 0.2} and not learning_rates.signs(results, table)
    assert learning_rates.shown(table)["Best rate"].tolist() == ["open", "0.2"]
    assert "No planned comparison has finished runs" in learning_rates.in_words(results, table)


def test_nothing_is_chosen_on_the_test_set(tmp_path):
    results = check(tmp_path, holdout=0)
    table = learning_rates.by_rate(results)
    assert table.empty and learning_rates.in_words(results, table) == ""


def test_nothing_is_chosen_where_one_run_was_evaluated_on_the_test_set(tmp_path):
    results = check(tmp_path)
    evaluated = ["test"] + ["holdout"] * (len(results.runs) - 1)
    mixed = replace(results, runs=results.runs.assign(evaluated_on=evaluated))
    assert not learning_rates.by_rate(results).empty and learning_rates.by_rate(mixed).empty
