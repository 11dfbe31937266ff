"""Tables and sentences: hand-computed values, missing results, and names from outside."""

import copy
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from nbconvert.filters.markdown_mistune import markdown2html_mistune
from synthetic import THREE, write_study

from senet_lib.analysis import captions, class_sentences, format, markup, rule, sentences, shown_tables, stats, tables
from senet_lib.analysis.comparisons import early_training, without_uncompared
from senet_lib.analysis.contrasts import Estimate, JointT
from senet_lib.errors import DamagedFile
from senet_lib.files import read_json, write_json
from senet_lib.report.results_pages import headline, results_page
from senet_lib.results import load_results, write_history, write_predictions, write_summary

TWO = {label: THREE[label] for label in ("resnet20", "se_resnet20")}
MINUS = "\N{MINUS SIGN}"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "**bold** and _em_",
    "[click](javascript:alert(1))",
    "a | b",
    "`code`",
    "$x^2$ and \\(y\\)",
    "# heading",
    "&lt;b&gt;",
    "two\nlines\x00",
    "~~gone~~ ![i](http://e.org/x.png)",
    "https://example.org",
]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return load_results(write_study(tmp_path_factory.mktemp("full"), images=300))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One seed, evaluated on a validation split."""
    return load_results(write_study(tmp_path_factory.mktemp("single"), seeds=(7,), images=100, epochs=3, holdout=5000))


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Runs that failed, stopped, are missing or used other data."""
    folder = tmp_path_factory.mktemp("broken")
    failed = {"se_resnet20-seed1": "NonFiniteLoss: the loss is nan", "sk_resnet20-seed0": "stopped"}
    write_study(folder, images=300, failed=failed, missing=["sk_resnet20-seed1", "sk_resnet20-seed2"])
    (folder / "runs/sk_resnet20-seed0/failure.json").unlink()
    environment = {"device": "NVIDIA H100", "threads": 1}
    rewrite(folder, "resnet20-seed0", environment=environment | {"data": {"fingerprints": {"train": "0", "test": "1"}}})
    return load_results(folder)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """Two seeds, three epochs of 10 s (seed 1: 12 s). Both plain runs reach 90 %, one SE run, no SK run."""
    folder = write_study(tmp_path_factory.mktemp("timed"), seeds=(0, 1), images=20, failed={"sk_resnet20-seed1": "x"})
    accuracies = {
        "resnet20-seed0": [0.9, 0.92, 0.91],  # exactly 90 %, and 92 % only in between
        "resnet20-seed1": [0.8, 0.8999, 0.93],
        "se_resnet20-seed0": [0.5, 0.6, 0.7],
        "se_resnet20-seed1": [0.5, 0.6, 0.925],
        "sk_resnet20-seed0": [0.1, 0.2, 0.3],
    }
    for run_id, values in accuracies.items():
        rewrite(folder, run_id, history=zip(values, [10 + 2 * int(run_id[-1])] * 3, strict=True))
    return load_results(folder)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """One seed, three classes (the last without images), four images with known predictions."""
    folder = tmp_path_factory.mktemp("known")
    write_study(folder, TWO, seeds=(0,), classes=("cat", "dog", "none"), images=4)
    rewrite(folder, "resnet20-seed0", predictions=([0, 0, 1, 1], [0, 1, 0, 1]))
    rewrite(folder, "se_resnet20-seed0", predictions=([0, 0, 1, 1], [0, 0, 2, 1]))
    return load_results(folder)


def rewrite(folder, run_id, *, predictions=None, history=None, environment=None):
    """Replace parts of a finished run, with the digests in its summary.

    predictions: labels and predicted classes. history: (test accuracy, seconds) of each epoch. environment: changes.
    """
    run_dir = folder / "runs" / run_id
    if predictions:
        label, predicted = map(np.array, predictions)
        write_predictions(run_dir, label, predicted, np.full(len(label), 0.5))
    if history:
        columns = dict.fromkeys(("lr", "train_loss", "train_accuracy", "test_loss", "images_per_second"), 0.5)
        rows = [
            {"epoch": epoch, "test_accuracy": a, "train_seconds": s} for epoch, (a, s) in enumerate(history, start=1)
        ]
        write_history(run_dir, [columns | row for row in rows])
    if environment:
        write_json(run_dir / "environment.json", read_json(run_dir / "environment.json") | environment)
    write_summary(run_dir, read_json(run_dir / "summary.json"))


def change_study(folder, **changes):
    write_json(folder / "study.json", read_json(folder / "study.json") | changes)
    return load_results(folder)


def with_accuracies(results, values):
    """`results` with these accuracies; values: network -> accuracy of each seed from 0 on."""
    accuracy = [values[run.label][run.seed] for run in results.runs.itertuples()]
    return replace(results, runs=results.runs.assign(test_accuracy=accuracy))


def of_network(results, label, column):
    return [float(value) for value in results.done.query("label == @label")[column]]


# Numbers


def test_networks_hold_intervals_and_differences(full):
    table = tables.networks(full, tables.compare(full)).set_index("label")
    values = {label: list(seeds.values()) for label, seeds in tables.accuracies(full).items()}
    for label, row in table.iterrows():
        sample = stats.describe(values[label])
        assert (row["n"], row["planned"], row["mean"], row["low"]) == (3, 3, sample.mean, sample.interval.low)
    assert pd.isna(table.loc["resnet20", "difference"])
    (_, expected) = (pair.difference for pair in tables.compare(full))
    assert table.loc["sk_resnet20", "difference_low"] == expected.low
    assert table.loc["sk_resnet20", "params"] == 493_000


def test_planned_comparisons_follow_the_study(tmp_path):
    results = load_results(write_study(tmp_path, seeds=(0, 1), images=50))
    pairs = [("se_resnet20", "resnet20"), ("sk_resnet20", "resnet20")]
    assert tables.planned_comparisons(results) == pairs
    pairs = [("sk_resnet20", "resnet20"), ("sk_resnet20", "se_resnet20")]
    results = change_study(tmp_path, comparisons=pairs)
    found = tables.compare(results)
    assert [(pair.treatment, pair.baseline) for pair in found] == pairs
    shown = shown_tables.networks(tables.networks(results, found), "accuracy", "se_resnet20").set_index("Network")
    assert shown.loc["sk_resnet20", "Control"] == "resnet20"
    assert shown.loc["resnet20", [name for name in shown if "its control" in name]].tolist() == ["not compared"]


def test_predictions_by_hand(known):
    shares = tables.confusions(known)
    assert np.array_equal(shares["resnet20"][:2], [[0.5, 0.5, 0], [0.5, 0.5, 0]])
    assert np.array_equal(shares["se_resnet20"][:2], [[1, 0, 0], [0, 0.5, 0.5]])
    assert np.isnan(shares["resnet20"][2]).all()  # no image of that class
    pairs = tables.confused_pairs(known)
    assert list(pairs.columns) == [*tables.CLASS_PAIR, "resnet20", "se_resnet20"]
    assert pairs.iloc[0].tolist() == ["cat", "dog", 0.5, 0.0]
    table = tables.class_accuracies(known).set_index(["label", "class"])
    assert set(table.index.get_level_values("class")) == {"cat", "dog"}
    assert table.loc[("se_resnet20", "cat"), ["mean", "difference"]].tolist() == [1, 0.5]
    assert pd.isna(table.loc[("se_resnet20", "cat"), "difference_low"])  # one seed
    (row,) = tables.mcnemar(known).itertuples(index=False)
    assert tuple(row) == ("se_resnet20", "resnet20", 0, 1, 0, 1.0)


def test_mcnemar_needs_the_same_images(tmp_path):
    write_study(tmp_path, TWO, seeds=(0,), images=10)
    rewrite(tmp_path, "se_resnet20-seed0", predictions=([1, 0, 1], [1, 1, 1]))
    assert tables.mcnemar(load_results(tmp_path)).empty


def test_cost_is_relative_to_the_baseline(full):
    table = tables.cost(full, tables.networks(full, [])).set_index("label")
    assert table.loc["resnet20", "seconds_per_epoch_factor"] == 1
    assert table.loc["sk_resnet20", "params_factor"] == pytest.approx(493_000 / 272_474)
    means = {label: np.mean(of_network(full, label, "train_seconds")) for label in THREE}
    assert table["train_seconds"].to_dict() == pytest.approx(means)
    assert table.loc["sk_resnet20", "train_seconds_factor"] == pytest.approx(means["sk_resnet20"] / means["resnet20"])


def test_costs_have_no_ratio_to_a_baseline_without_runs(full, tmp_path):
    write_study(tmp_path, seeds=(0,), images=20, missing=["resnet20-seed0"])
    for results, title in ((full, "Parameters (ratio to resnet20)"), (load_results(tmp_path), "Parameters")):
        costs = tables.cost(results, tables.networks(results, tables.compare(results)))
        assert list(shown_tables.cost(costs, "resnet20"))[1] == title


def test_times_are_shown_only_where_they_can_be_compared(tmp_path):
    write_study(tmp_path, seeds=(0, 1), images=20)
    denied = change_study(tmp_path, timed=False)
    change_study(tmp_path, timed=True)
    rewrite(tmp_path, "se_resnet20-seed1", environment={"processor": "another"})
    different = load_results(tmp_path)
    records = dict.fromkeys(different.environments, {"device": "cpu", "runs_per_gpu": 2})
    together = replace(different, environments=records)
    for results in (denied, different, together):
        table = tables.networks(results, tables.compare(results))
        costs = tables.cost(results, table)
        assert costs[["seconds_per_epoch", "train_seconds"]].isna().all(axis=None)
        shown = shown_tables.networks(table, "test accuracy", "resnet20"), shown_tables.cost(costs, "resnet20")
        assert not [name for columns in shown for name in columns if "time" in name.lower()]
        assert sentences.cost(costs, "resnet20") == ""
    assert sentences.untimed(denied) in sentences.deviations(denied)
    assert sentences.untimed(different) == ""
    assert "up to 2 runs at a time" in sentences.untimed(together)
    assert sentences.untimed(together) in sentences.deviations(together)
    assert sentences.incomparable_seconds(different) in sentences.deviations(different)
    for later, timed in (({"git_commit": "another"}, True), ({"runs_per_gpu": 2}, False), ({"threads": 1}, False)):
        as_others = different.environments["resnet20-seed0"]["processor"]
        rewrite(tmp_path, "se_resnet20-seed1", environment={"processor": as_others, "resumed_under": [later]})
        resumed = load_results(tmp_path)
        assert resumed.timed == timed, later
        ((key, value),) = later.items()
        assert (f"resumed_under / {key}", str(value)) in tables.environment(resumed).itertuples(index=False)
    records = dict(zip(different.environments, itertools.cycle(({"device": "cpu"}, {"device": "cpu", "devices": 2}))))
    assert "different numbers of devices per run (1, 2)" in sentences.incomparable_seconds(
        replace(different, environments=records)
    )


def test_time_to_a_threshold(timed):
    table = tables.time_to(timed).set_index(["label", "threshold"])
    nan = np.nan
    expected = {  # n, reached, mean, min, max; as text
        ("resnet20", 0.90): ((2, 2, 23, 10, 36), "23.0 (10.0 to 36.0), 2 of 2 runs"),
        ("resnet20", 0.92): ((2, 2, 28, 20, 36), "28.0 (20.0 to 36.0), 2 of 2 runs"),
        ("resnet20", 0.93): ((2, 1, nan, 36, 36), "36.0, 1 of 2 runs"),
        ("se_resnet20", 0.90): ((2, 1, nan, 36, 36), "36.0, 1 of 2 runs"),
        ("se_resnet20", 0.93): ((2, 0, nan, nan, nan), "0 of 2 runs"),
        ("sk_resnet20", 0.90): ((1, 0, nan, nan, nan), "0 of 1 runs"),
    }
    shown = shown_tables.time_to(tables.time_to(timed)).set_index("Network")
    shown.columns = [int(re.search(r"\d+", name)[0]) / 100 for name in shown.columns]
    assert list(shown.columns) == [0.90, 0.92, 0.93]  # no run reaches 94 %
    for (label, threshold), (values, text) in expected.items():
        assert table.loc[label, threshold].tolist() == pytest.approx(values, nan_ok=True), (label, threshold)
        assert shown.loc[label, threshold] == text
    assert len(table) == 3 * 4
    assert tables.time_to(timed, thresholds=(0.3,)).set_index("label").loc["sk_resnet20", "mean"] == 30
    far = tables.time_to(timed, thresholds=(0.94, 0.95))
    assert shown_tables.time_to(far).empty
    assert sentences.time_to(timed, far) == ""


def test_augmented_accuracies_are_extra_columns(tmp_path, full):
    gains = {"resnet20": 0.004, "se_resnet20": None, "sk_resnet20": 0.006}
    networks = {label: {**network, "tta_gain": gains[label]} for label, network in THREE.items()}
    results = load_results(write_study(tmp_path, networks, images=300))
    table, without = (tables.networks(study, tables.compare(study)) for study in (results, full))
    assert list(table.columns) == [*without.columns, "tta_mean", "tta_low", "tta_high"]
    pd.testing.assert_frame_equal(table[without.columns], without)  # no other number includes it
    sample = stats.describe(of_network(results, "sk_resnet20", "tta_accuracy"))
    columns = table.set_index("label")[["tta_mean", "tta_low", "tta_high"]]
    assert columns.loc["sk_resnet20"].tolist() == [sample.mean, sample.interval.low, sample.interval.high]
    assert columns.loc["se_resnet20"].isna().all()
    shown, plain = (shown_tables.networks(t, "test accuracy", "resnet20") for t in (table, without))
    (title,) = set(shown) - set(plain)
    text = f"{format.percent(sample.mean)} ({format.span(sample.interval.low, sample.interval.high, format.percent)})"
    assert shown[title].tolist()[1:] == ["none", text]
    pd.testing.assert_frame_equal(shown.drop(columns=title), plain)
    assert "resnet20 +0.40, sk_resnet20 +0.60" in sentences.augmented(results, table)
    assert sentences.augmented(full, without) == ""


def test_published_single_runs_have_wilson_intervals(tmp_path):
    networks = {label: dict(network) for label, network in THREE.items()}
    networks["resnet20"]["published"] = {"accuracy": 0.9125, "source": "a paper", "runs": 1}
    networks["se_resnet20"]["published"] = {"accuracy": 0.92, "source": "another", "runs": 5}
    results = load_results(write_study(tmp_path, networks, seeds=(0,), images=50))
    table = tables.published(results, tables.networks(results, [])).set_index("label")
    assert list(table.index) == ["resnet20", "se_resnet20"]
    assert table.loc["resnet20", "published_low"] == stats.wilson_interval(9125, 10_000).low
    assert pd.isna(table.loc["se_resnet20", "published_low"])  # a mean of five runs
    other = change_study(tmp_path, data="folder:somewhere")  # a test set of unknown size
    assert tables.published(other, tables.networks(other, []))["published_low"].isna().all()


def test_runs_and_environment_of_a_broken_study(broken):
    table = tables.runs(broken).set_index("run_id")
    assert table["status"].value_counts().to_dict() == {"done": 5, "missing": 2, "failed": 1, "interrupted": 1}
    for run_id, status, epochs in (("se_resnet20-seed1", "failed", 5), ("sk_resnet20-seed0", "interrupted", 5)):
        assert table.loc[run_id, ["status", "epochs"]].tolist() == [status, epochs]
    assert table.loc["se_resnet20-seed1", "error"].startswith("NonFiniteLoss")
    environment = tables.environment(broken).set_index("setting")["value"]
    assert environment["device"] == "NVIDIA H100; cpu"
    assert environment["data / fingerprints / test"] == f"1; {'cd' * 32}"


# Text


def test_formats():
    for function, value, text in (
        (format.points, 0.00412, "+0.41"),
        (format.points, -0.00412, f"{MINUS}0.41"),
        (format.points, 0.0, "0.00"),
        (format.points, -0.00001, "0.00"),
        (format.run_seconds, 3.294, "3.29"),
        (format.run_seconds, 42.13, "42.1"),
        (format.run_seconds, 1046.6, "1,047"),
        (format.run_seconds, np.nan, ""),
        (format.p_value, 0.0004, "< 0.001"),
    ):
        assert function(value) == text, (function, value)


def test_shown_networks_state_n(full, single, broken):
    shown = {}
    for name, results in (("full", full), ("single", single), ("broken", broken)):
        table = shown_tables.networks(tables.networks(results, tables.compare(results)), "accuracy", "resnet20")
        shown[name] = table.set_index("Network")
    accuracy, difference = "Accuracy (%)", "Difference from resnet20 (pp)"
    assert re.fullmatch(r"[\d.]+ ± [\d.]+ \(n = 3\)", shown["full"].loc["sk_resnet20", accuracy])
    assert (column := shown_tables.MEAN_CI) in shown["full"] and column not in shown["single"], "one seed: no interval"
    assert "Published (%)" not in shown["full"]
    without = difference.replace("pp", "pp, no interval")
    assert re.fullmatch(r"[+\u2212][\d.]+", shown["single"].loc["se_resnet20", without])
    assert shown["broken"].loc["se_resnet20", accuracy].endswith("(n = 2 of 3)")
    assert shown["broken"].loc["sk_resnet20", accuracy].endswith("(of 3)")
    assert difference not in shown["broken"], "data differ: nothing is compared"


def test_verdicts_that_rest_on_networks_in_no_comparison_are_named(tmp_path):
    write_study(tmp_path, comparisons=[("se_resnet20", "resnet20")])
    results = load_results(tmp_path)

    def with_spread(of_sk):
        """The deviations of the compared networks alone do not differ by Bartlett's test."""
        steps = {"resnet20": (0.8, 0.001), "se_resnet20": (0.8048, 0.0025), "sk_resnet20": (0.81, of_sk)}
        return with_accuracies(results, {label: (a - s, a, a + s) for label, (a, s) in steps.items()})

    wide, narrow = with_spread(0.05), with_spread(0.001)
    found = tables.compare(wide)
    others, changed = without_uncompared(wide, found)
    assert others == ["sk_resnet20"]
    assert [pair.verdict for pair in found] == [rule.NO_LOSS] and [pair.verdict for pair in changed] == [rule.BETTER]
    half = scipy.stats.t.isf(0.025, 4) * np.sqrt((0.001**2 + 0.0025**2) / 3)
    assert changed[0].difference.low == pytest.approx(0.0048 - half)
    said = sentences.sensitivity(wide, found)
    assert ": sk_resnet20. The verdicts above count all runs, as planned." in said
    assert said.endswith(f"\n\n- {sentences.one_verdict(changed[0])}\n")
    assert sentences.sensitivity(narrow, tables.compare(narrow)) == "", "the same verdict"
    everything = replace(wide, study=wide.study | {"comparisons": []})
    assert without_uncompared(everything, tables.compare(everything)) == ([], [])


def test_unlinked_machines_are_not_said_to_be_adjusted(tmp_path):
    folder = write_study(tmp_path, TWO)
    for seed in range(3):
        rewrite(folder, f"se_resnet20-seed{seed}", environment={"device": "NVIDIA H100", "precision": "bf16"})
    results = load_results(folder)
    assert not tables.run_model(results).linked
    assert "removed from every difference that has a CI, its CI" in sentences.spread(results)
    assert "The estimate, in comparison with" not in sentences.spread(results)
    assert captions.adjusted(results).startswith("Differences that have an interval are adjusted")


def test_estimated_difference_between_machines_is_shown(tmp_path):
    folder = write_study(tmp_path, TWO)
    for label in TWO:
        rewrite(folder, f"{label}-seed0", environment={"device": "NVIDIA H100", "precision": "bf16"})
    values = {"resnet20": (0.801, 0.85, 0.85), "se_resnet20": (0.80, 0.85, 0.85)}  # seed 0 on the H100
    results = with_accuracies(load_results(folder), values)
    first, second = tables.run_model(results).machines
    gap = f"{MINUS}4.95 pp" if second.startswith("NVIDIA") else "+4.95 pp"
    said = f"The estimate, in comparison with {markup.escape_markdown(first)}: {markup.escape_markdown(second)} {gap}."
    assert said in sentences.spread(results)


def test_damaged_study_is_named(tmp_path):
    folder = write_study(tmp_path, TWO)
    for change in (
        {"runs": []},
        {"comparisons": [["resnet20", "resnet20"]]},
        {"comparisons": [["resnet20", "se_resnet20"], ["se_resnet20", "resnet20"]]},
    ):
        with pytest.raises(DamagedFile, match="study.json"):
            change_study(folder, **{"comparisons": []} | change)


def test_resumed_run_has_a_machine_of_its_own(tmp_path):
    folder = write_study(tmp_path, TWO)
    rewrite(folder, "se_resnet20-seed0", environment={"resumed_under": [{"processor": "Another CPU"}]})
    places = tables.machines(load_results(folder))["se_resnet20"]
    assert places[0] == f"{places[1]}, then Another CPU in {places[1].split(' in ')[-1]}"


def test_networks_with_other_data_have_no_control(tmp_path):
    folder = write_study(tmp_path, THREE)
    every = {"se_resnet20": "resnet20", "sk_resnet20": "resnet20"}
    assert tables.controls(load_results(folder), list(THREE)) == every
    assert tables.controls(load_results(folder), ["se_resnet20", "sk_resnet20"]) == {}
    for seed in range(3):
        data = {"name": "cifar10", "fingerprints": {"train": "other", "test": "other"}}
        rewrite(folder, f"sk_resnet20-seed{seed}", environment={"data": data})
    assert tables.controls(load_results(folder), list(THREE)) == {"se_resnet20": "resnet20"}


def test_one_seed_says_once_that_there_are_no_intervals(full, single):
    compared, networks = tables.compare(single), tables.networks(single, tables.compare(single))
    shown = shown_tables.comparisons(tables.comparison_table(compared))
    assert list(shown) == ["Comparison", "Verdict", "Difference (pp, no interval)", "n"]
    assert "interval" not in shown.to_string(header=False)
    assert "CI" not in captions.comparisons(shown)
    assert "CI" not in class_sentences.class_effects(single, tables.class_accuracies(single))
    assert "CI" not in captions.networks(single, networks)
    for said in (
        captions.differences_figure(single, compared),
        captions.differences(single, compared),
        sentences.verdict(single, compared),
    ):
        assert said.count("n = 1") == 1, said
    seen = shown_tables.comparisons(tables.comparison_table(tables.compare(full)))
    assert {"Difference, 95 % CI (pp)", "p", "P(superior)"} <= set(seen)


def test_runs_that_were_not_started_are_counted_and_not_listed(full, broken):
    for results, shown, said in ((full, 9, "Every planned run"), (broken, 7, "Not started yet: 2 of 9 planned runs.")):
        found = tables.runs(results)
        assert len(shown_tables.runs(found, "accuracy")) == shown
        assert said in captions.runs(results, found)


def test_published_seeds_are_named_and_nothing_is_said_of_the_others(tmp_path):
    """Runs of other seeds may have finished; they are only not published."""
    later = [f"{label}-seed{seed}" for label in THREE for seed in (1, 2)]
    results = load_results(write_study(tmp_path / "published" / "s", images=50, missing=later))
    notice, caption = sentences.notice(results), captions.runs(results, tables.runs(results))
    assert "all of its networks have finished 1 of 3 planned seeds (0)." in notice
    assert "missing" not in notice and "started" not in caption
    assert "are not shown" in notice and "are not shown" in caption
    elsewhere = load_results(write_study(tmp_path / "s", images=50, missing=later))
    assert "3 of 9 planned runs have finished; 6 missing" in sentences.notice(elsewhere)


def test_shown_mcnemar_depends_on_seeds(full, single):
    many, one = (shown_tables.mcnemar(tables.mcnemar(results)) for results in (full, single))
    assert [len(many), *many.columns[1:]] == [2, "p, seed 0", "p, seed 1", "p, seed 2"]
    row = tables.mcnemar(single).iloc[0]
    assert one.iloc[0].tolist()[1:] == [str(row["only_treatment"]), str(row["only_baseline"]), f"{row['p']:.3f}"]


def test_one_verdict_says_what_is_ruled_out():
    for (point, low, high), verdict, said, ruled_out in (
        (
            (0.01, 0.005, 0.015),
            rule.BETTER,
            "**sk** is **better** than plain: +1.00 pp",
            "a gain below 0.50 pp or above 1.50",
        ),
        ((-0.01, -0.015, -0.005), rule.WORSE, f"than plain: {MINUS}1.00 pp", "a loss below 0.50 pp or above 1.50"),
        ((0, -0.001, 0.001), rule.EQUIVALENT, "**sk** and plain are", "a gain above 0.10 pp and a loss above 0.10"),
        ((-0.004, -0.01, 0.002), rule.NO_GAIN, "over plain", "a gain above 0.20 pp and a loss above 1.00"),
        ((0.004, -0.002, 0.01), rule.NO_LOSS, "against plain", "a gain above 1.00 pp and a loss above 0.20"),
        (
            (0.01, -0.01, 0.03),
            rule.INCONCLUSIVE,
            f"CI {MINUS}1.00 to +3.00",
            "a gain above 3.00 pp and a loss above 1.00",
        ),
    ):
        estimate = Estimate(stats.Interval(point, low, high), 0.001, 8, 0.5, 2.5)
        assert rule.verdict(estimate.interval) == verdict
        for given in (verdict, rule.EARLY, rule.UNPLANNED):
            text = sentences.one_verdict(
                rule.Comparison("sk", "plain", 3, 3, 3, estimate, None, None, 1.0, None, given)
            )
            assert f"rules out {ruled_out}" in text and (
                given != verdict or (said in text and f"**{verdict}**" in text)
            )
            assert given == verdict or "no verdict" in text
    alone = Estimate(stats.Interval(-0.2, reason=stats.ONE_SEED))
    for given, said in (
        (rule.INCONCLUSIVE, " is inconclusive: "),
        (rule.UNPLANNED, ": not a planned comparison, so no"),
    ):
        pair = rule.Comparison("sk", "plain", 1, 1, 1, alone, None, None, None, None, given)
        assert f"**sk** against plain{said}" in sentences.one_verdict(pair)


def test_printed_ends_agree_with_the_verdict():
    """An end gets more decimals where two would move it onto 0 or the margin; on them, and elsewhere, it has two."""
    for end, text in (
        (0.00004, "+0.004"),
        (-0.00304, f"{MINUS}0.304"),
        (0.00296, "+0.296"),
        (0.003, "+0.30"),
        (0.0, "0.00"),
        (0.00306, "+0.31"),
        (-0.0124, f"{MINUS}1.24"),
        (0.002999, "+0.2999"),
    ):
        assert format.limit(end) == text
        assert format.limit(end, sign=False) == text.lstrip("+" + MINUS)
    found = stats.Interval(0.003, 0.00004, 0.006)
    assert sentences.change(found) == "+0.30 pp (95 % CI +0.004 to +0.60)"
    assert sentences.ruled_out(found) == "a gain below 0.004 pp or above 0.60 pp"


def test_early_training_has_no_verdict(tmp_path):
    for index, (epochs, curve, early) in enumerate(
        (
            (10, (), False),
            (1, (), True),  # a single epoch
            (10, (0.3, 0.80, 0.86), True),  # still rising by 6 pp
            (10, (0.3, 0.82, 0.86), False),
            (10, (0.47, 0.48, 0.49), True),  # less than half correct
        )
    ):
        folder = write_study(tmp_path / str(index), TWO, seeds=(0, 1), images=200, epochs=epochs)
        for seed in (0, 1) if curve else ():
            run_dir = folder / "runs" / f"se_resnet20-seed{seed}"
            columns = dict.fromkeys(("lr", "train_loss", "test_loss", "test_accuracy", "train_seconds"), 0.5)
            rows = [columns | {"epoch": e, "images_per_second": 1, "train_accuracy": a} for e, a in enumerate(curve, 1)]
            write_history(run_dir, rows)
            write_summary(run_dir, read_json(run_dir / "summary.json"))
        results = load_results(folder)
        (pair,) = tables.compare(results)
        assert (pair.verdict == rule.EARLY) == early, (epochs, curve)
        assert ("early training" in sentences.verdict(results, [pair])) == early


def test_early_training_is_that_of_the_mean_over_seeds(full):
    """Training accuracies of seeds 0, 1 and 2 in the last two epochs."""
    for before, last, early in (
        ((0.48, 0.48, 0.52), (0.48, 0.48, 0.52), True),  # mean 0.493
        ((0.48, 0.52, 0.52), (0.48, 0.52, 0.52), False),  # mean 0.507
        ((0.80, 0.80, 0.86), (0.89, 0.88, 0.87), True),  # mean rise of 6 pp
        ((0.80, 0.86, 0.86), (0.89, 0.87, 0.87), False),  # of 3.7 pp
    ):
        history = full.history.copy()
        for epoch, values in ((9, before), (10, last)):
            for seed, value in enumerate(values):
                rows = (history["label"] == "se_resnet20") & (history["seed"] == seed) & (history["epoch"] == epoch)
                history.loc[rows, "train_accuracy"] = value
        assert early_training(replace(full, history=history)) == ({"se_resnet20"} if early else set()), (before, last)


def test_spread_says_whose_deviations_are_used_if_they_differ(full):
    values = {"resnet20": (0.90, 0.95, 0.92), "se_resnet20": (0.910, 0.911, 0.912), "sk_resnet20": (0.90, 0.901, 0.899)}
    unequal = with_accuracies(full, values)
    p = scipy.stats.bartlett(*values.values()).pvalue
    said = f"Bartlett's test finds different deviations (p = {p:.3f}, below 0.2), so each comparison uses those of its"
    assert f"{said} own two networks (Welch), with Bonferroni's correction." in sentences.spread(unequal)
    equal = with_accuracies(full, dict.fromkeys(THREE, values["resnet20"]))
    assert "Standard deviation" in sentences.spread(equal) and "Bartlett" not in sentences.spread(equal)
    records = {
        run_id: record | ({"device": "NVIDIA H100"} if run_id.endswith("seed2") else {})
        for run_id, record in full.environments.items()
    }
    machines = sentences.spread(replace(unequal, environments=records))
    assert " own two networks and of the networks that link its machines (Welch), with Bonferroni's" in machines


def test_spread_names_machines_and_independent_errors(tmp_path):
    folder = write_study(tmp_path, TWO, seeds=(0, 1), images=300)
    results = load_results(folder)
    model, text = tables.run_model(results), sentences.spread(results)
    assert f"{100 * model.sd:.2f} pp (2 degrees of freedom)" in text and "machines" not in text
    # Two runs: the variance of one image is 1/2 where they differ, else 0
    variances = []
    for label in TWO:
        rows = results.predictions[results.predictions["label"] == label]
        first, second = ((run["true"] == run["predicted"]).to_numpy() for _, run in rows.groupby("seed"))
        variances.append((first != second).mean() / 2 / 300)
    assert tables.independent_sd(results) == pytest.approx(np.sqrt(np.mean(variances)))
    assert f"{100 * tables.independent_sd(results):.2f} pp" in text
    rewrite(folder, "se_resnet20-seed1", environment={"device": "NVIDIA H100", "precision": "bf16"})
    results = load_results(folder)
    assert "2 machines" in sentences.spread(results) and "NVIDIA H100 in bf16" in sentences.spread(results)
    assert tables.run_model(results).degrees == 1
    assert "pooled over 1 network: " in sentences.spread(results), "the other one has a machine of its own"
    assert "(1 degree of freedom)" in sentences.spread(results)
    one = load_results(write_study(tmp_path / "one", TWO, seeds=(0,), images=20))
    assert sentences.spread(one) == "" and tables.independent_sd(one) is None


def test_runs_on_another_machine_are_beside_the_verdict(tmp_path, full):
    folder = write_study(tmp_path, seeds=(0, 1, 2), images=60)
    rewrite(folder, "se_resnet20-seed1", environment={"device": "NVIDIA H100"})
    results = load_results(folder)
    pairs = tables.compare(results)
    beside = sentences.caveats(results, pairs)
    assert list(beside) == [("se_resnet20", "resnet20")]
    (said,) = beside.values()
    assert said.startswith("1 of 6 runs on another machine")
    shown = shown_tables.comparisons(tables.comparison_table(pairs), beside)
    assert shown.columns[:3].tolist() == ["Comparison", "Verdict", "Caveat"]
    assert shown["Caveat"].tolist() == [said, "none"]
    first, second = sentences.verdict(results, pairs).strip().splitlines()[-2:]
    assert "1 of 6 runs" in first and "runs" not in second
    assert "1 of 6 runs" in captions.differences(results, pairs)
    assert "Caveat" not in shown_tables.comparisons(tables.comparison_table(tables.compare(full)), {})


def test_machines_that_cancel_have_no_caveat(tmp_path):
    """Seed 1 of every network comes from a GPU: the machines' difference is in no comparison. Of runs that no machine
    links directly, the other networks determine the difference."""
    folder = write_study(tmp_path, seeds=(0, 1), images=60)
    for label in THREE:
        rewrite(folder, f"{label}-seed1", environment={"device": "NVIDIA H100"})
    balanced = load_results(folder)
    assert tables.run_model(balanced).machines[1:] and sentences.caveats(balanced, tables.compare(balanced)) == {}
    assert all(pair.superiority is None for pair in tables.compare(balanced)), "it compares runs of different seeds"
    assert "adjusted" in captions.networks(balanced, tables.networks(balanced, tables.compare(balanced)))
    rewrite(folder, "se_resnet20-seed1", environment={"device": "cpu"})
    for seed in (0, 1):
        rewrite(folder, f"sk_resnet20-seed{seed}", environment={"device": "NVIDIA H100"})
    apart = load_results(folder)
    said = sentences.caveats(apart, tables.compare(apart, [("sk_resnet20", "se_resnet20")]))
    assert said == {("sk_resnet20", "se_resnet20"): "no machine trained both, so compared only through other networks"}


def test_verdict_that_rests_on_another_machine_says_so(tmp_path):
    """SE is 2 pp ahead on one machine. A single run elsewhere, far ahead even of the second run there, turns that."""
    values = {"resnet20": (0.900, 0.901, 0.902, 0.900), "se_resnet20": (0.900, 0.901, 0.903, 0.935)}
    values["sk_resnet20"] = (0.900, 0.901, 0.902, 0.901)
    results = load_results(write_study(tmp_path, seeds=range(4), images=60))
    accuracy = [values[run.label][run.seed] for run in results.runs.itertuples()]
    moved = {"se_resnet20-seed3", "sk_resnet20-seed3"}
    records = {
        run_id: record | ({"device": "NVIDIA H100"} if run_id in moved else {})
        for run_id, record in results.environments.items()
    }
    changed = replace(results, runs=results.runs.assign(test_accuracy=accuracy), environments=records)
    pairs = tables.compare(changed)
    elsewhere = tables.runs_elsewhere(changed, pairs)["se_resnet20", "resnet20"]
    assert (elsewhere.others, elsewhere.runs) == (1, 8)
    kept = changed.runs[~changed.runs["run_id"].isin(["se_resnet20-seed3"])]
    (alone, _) = tables.compare(replace(changed, runs=kept))
    assert elsewhere.without == alone and alone.verdict != pairs[0].verdict
    caveat = sentences.caveats(changed, pairs)["se_resnet20", "resnet20"]
    assert f"; the verdict without it: {alone.verdict}, " in caveat


def test_verdict_that_is_lost_without_another_machine_says_so(lost):
    """Inconclusive is another verdict."""
    pairs = tables.compare(lost)
    assert pairs[0].verdict == rule.BETTER
    said = sentences.caveats(lost, pairs)["se_resnet20", "resnet20"]
    assert said == "1 of 4 runs on another machine; the verdict without it: inconclusive, +4.95 pp (n = 1: no interval)"


@pytest.fixture
def lost(tmp_path):
    """Without the only run of SE from elsewhere a single run of it is left, so no interval."""
    values = {"resnet20": (0.900, 0.901), "se_resnet20": (0.950, 0.951), "sk_resnet20": (0.900, 0.902)}
    results = with_accuracies(load_results(write_study(tmp_path, seeds=range(2), images=60)), values)
    records = {
        run_id: record | ({"device": "NVIDIA H100"} if run_id in ("se_resnet20-seed1", "sk_resnet20-seed1") else {})
        for run_id, record in results.environments.items()
    }
    return replace(results, environments=records)


def test_early_training_has_no_verdict_that_another_machine_could_lose(lost):
    early = replace(lost, history=lost.history.assign(train_accuracy=0.4))
    (pair, _) = tables.compare(early)
    assert pair.verdict == rule.EARLY and pair.difference.exists
    assert sentences.caveats(early, [pair])["se_resnet20", "resnet20"] == "1 of 4 runs on another machine"


def test_unplanned_comparisons_have_no_verdict_that_another_machine_could_lose(lost):
    (pair,) = tables.compare(lost, [("se_resnet20", "resnet20")])
    assert pair.verdict == rule.UNPLANNED and pair.difference.exists
    assert sentences.caveats(lost, [pair])["se_resnet20", "resnet20"] == "1 of 4 runs on another machine"


def test_classes_are_compared_with_each_networks_control(tmp_path):
    results = load_results(write_study(tmp_path, seeds=(0, 1), images=300))
    table = tables.class_accuracies(results)
    assert set(table["control"].dropna()) == {"resnet20"}
    assert "Difference from resnet20 by class" in class_sentences.class_effects(results, table)
    results = change_study(tmp_path, comparisons=[["se_resnet20", "resnet20"], ["sk_resnet20", "se_resnet20"]])
    table = tables.class_accuracies(results).set_index(["label", "class"])
    ours, theirs = (table.loc[label, "mean"] for label in ("sk_resnet20", "se_resnet20"))
    np.testing.assert_allclose(table.loc["sk_resnet20", "difference"], ours - theirs, atol=1e-12)
    assert set(table.loc["sk_resnet20", "control"]) == {"se_resnet20"}
    table.loc[("sk_resnet20", "cat"), ["difference_low", "difference_high"]] = np.nan  # as of a class of one image
    said = class_sentences.class_effects(results, table.reset_index())
    assert "Difference from each network's control by class" in said
    assert "- sk_resnet20 minus se_resnet20: " in said and " of 9 CIs exclude 0" in said.splitlines()[-1]


def test_intervals_of_classes_exclude_0_on_either_side(full):
    ends = {"cat": (0.01, 0.03), "dog": (-0.03, -0.01), "frog": (-0.01, 0.02), "ship": (-0.05, -0.02)}
    rows = [("se_resnet20", name, "resnet20", (low + high) / 2, low, high) for name, (low, high) in ends.items()]
    columns = ["label", "class", "control", "difference", "difference_low", "difference_high"]
    said = class_sentences.class_effects(full, pd.DataFrame(rows, columns=columns))
    assert "highest cat, +2.00" in said and f"lowest ship, {MINUS}3.50" in said
    assert said.endswith("; 3 of 4 CIs exclude 0")


def test_many_configurations_are_shown_in_part(tmp_path, full):
    networks = {
        f"n{i}": {**THREE["se_resnet20"], "accuracy": 0.4 + 0.06 * i, "knobs": {"width": 0.5, "reduction": 4 + i}}
        for i in range(tables.MANY + 1)
    }
    folder = write_study(tmp_path, networks, seeds=(0,), images=1000, epochs=1, baseline="n4", spread=0)
    study = read_json(folder / "study.json")
    study["networks"]["n1"]["recipe"] = {"lr": 0.2}
    results = change_study(folder, networks=study["networks"])
    table = tables.networks(results, [])
    shown = tables.in_detail(results, table)
    assert shown == ["n0", "n1", "n2", "n4", "n6", "n7", "n8"]
    named = change_study(folder, comparisons=[["n3", "n2"], ["n1", "n2"]])
    assert tables.in_detail(named, table) == ["n1", "n2", "n3"]
    assert "those of the planned comparisons: n1, n2, n3" in captions.detail(named, ["n1", "n2", "n3"])
    assert tables.in_detail(full, tables.networks(full, [])) == list(THREE)
    assert "n6, n7, n8" in captions.detail(results, shown) and captions.detail(full, list(THREE)) == ""
    changes = tables.changes(results)
    assert (changes["n0"], changes["n1"]) == ("reduction = 4", "reduction = 5, lr = 0.2")  # without what all share
    text = shown_tables.networks(table, "accuracy", "n4", changes=changes)
    assert text["Changes"].tolist() == list(changes.values())
    assert sentences.ranking(results).count("%") == 6


def test_blocks_that_carry_attention():
    for model, blocks in (
        ("resnet20", (0, 9)),
        ("fast", (0, 2)),
        ("sk_fast", (2, 2)),
        ("se_resnet50", (16, 16)),
        ("source_b_network", None),
        ("gone", None),
    ):
        assert tables.attention_blocks(model) == blocks, model
    shown = shown_tables.models(pd.DataFrame({"label": "a", "model": ["sk_fast"], "knobs": ""}))
    assert shown["Blocks with SE or SK"].tolist() == ["2 of 2"]


def test_captions_say_only_what_applies(full, single, broken):
    for results, spread, wide in ((full, True, False), (single, False, False), (broken, True, True)):
        table = tables.networks(results, tables.compare(results))
        text = captions.networks(results, table)
        assert ("±" in text.split("Compared with")[0], "two seeds" in text) == (spread, wide), text
        assert "published" not in text
        assert ("bars" in captions.means(results)) == spread
        shown = shown_tables.comparisons(tables.comparison_table(tables.compare(results)))
        for column in (shown_tables.BCA, shown_tables.SIGN_FLIP, shown_tables.DETECTABLE):
            assert (column.split()[0] in captions.comparisons(shown)) == (column in shown), column
    two_machines = pd.DataFrame({shown_tables.BCA: ["−0.1 to +0.1"], shown_tables.SUPERIOR: ["none"]})
    text = captions.comparisons(two_machines)
    assert "or whose runs were trained on several machines" in text and "No BCa" not in text


def test_finite_set_adds_half_a_point(tmp_path):
    """1.96 * sqrt(0.93 * 0.07 / 10,000) = 0.5 pp; at a hundredth of the images ten times as much."""
    network = {"plain": THREE["resnet20"] | {"accuracy": 0.93}}
    results = load_results(write_study(tmp_path, network, seeds=(0,), images=10_000, spread=0))
    assert "10,000 test images" in sentences.finite_set(results) and "±0.5 pp," in sentences.finite_set(results)
    worse = network | {"worse": THREE["resnet20"] | {"accuracy": 0.5}}
    results = load_results(write_study(tmp_path / "two", worse, seeds=(0,), images=10_000, spread=0))
    assert "a further ±0.5 to ±1.0 pp, depending on the accuracy, since" in sentences.finite_set(results)


def test_verdict_shows_every_interval(full, single):
    text = sentences.verdict(full, tables.compare(full))
    assert full.study["question"] in text
    for pair in tables.compare(full):
        assert format.span(pair.difference.low, pair.difference.high, format.points) in text
        assert pair.verdict in text
    text = sentences.verdict(single, tables.compare(single))
    assert "no comparison has a confidence interval (n = 1)" in text and rule.BETTER not in text


def test_cost_sentences():
    columns = ["label", "train_seconds", "seconds_per_epoch_factor", "macs_factor"]
    rows = [("plain", 400.0, 1, 1), ("se", 500.0, 1.25, 1.0049), ("half", 250.0, 0.62, 0.5), ("gone", *[np.nan] * 3)]
    text = sentences.cost(pd.DataFrame(rows, columns=columns), "plain")
    for part in ("plain (400 s", "1.25x", "100 s longer", "1.00x", "0.62x", "150 s shorter", "0.50x"):
        assert part in text
    assert "gone" not in text
    same = pd.DataFrame({"params": [3_015_082] * 2, "macs": [100_570_000] * 2})
    assert all(number in sentences.same_cost(same) for number in ("3,015,082", "100.6"))
    for different in (same[:1], same.assign(macs=[1, 2]), same.assign(macs=[np.nan] * 2)):
        assert sentences.same_cost(different) == ""


def test_incomplete_studies_list_what_is_missing(full, broken):
    assert sentences.notice(full) == ""
    text = sentences.notice(broken)
    for part in ("5 of 9", "1 failed (se_resnet20-seed1)", "1 interrupted", "2 missing", "sk_resnet20."):
        assert part in text
    sizes = [sentences.sample_sizes(results).replace(sentences.NBSP, " ") for results in (full, broken)]
    assert sizes == ["n = 3 seeds", "n = 3 seeds (se_resnet20: 2)"]


def test_a_folder_of_images_is_named_without_its_place(tmp_path):
    data = "folder:/home/someone/private/flowers/"
    folder = write_study(tmp_path / "published" / "s", TWO, seeds=(0,), images=20, data=data)
    for label in TWO:
        rewrite(folder, f"{label}-seed0", environment={"data": {"name": data, "fingerprints": {}}})
    results = load_results(folder)
    rows = tables.environment(results).set_index("setting")["value"]
    assert rows["data / name"] == "folder:flowers"
    pages = results_page({"s": results}) + headline({"fast": results})
    assert "folder:flowers, 10 epochs" in pages and "private" not in pages


def test_networks_with_their_own_number_of_epochs_are_named(full):
    study = copy.deepcopy(full.study)
    study["networks"]["resnet20"]["recipe"] = {"epochs": 4, "lr": 0.2}
    study["networks"]["se_resnet20"]["recipe"] = {"epochs": 10}
    assert sentences.last_epoch(full) == "the last epoch (10)"
    assert sentences.last_epoch(replace(full, study=study)) == "the last epoch (10; resnet20: 4)"


def test_deviations_come_from_the_records(full, broken):
    text = "\n".join(sentences.deviations(broken))
    for part in ("NVIDIA H100, cpu", "(1, 2)", "fingerprints"):
        assert part in text
        assert part not in "\n".join(sentences.deviations(full))
    for commits, said in (
        (("abc", "abc+changes"), ["uncommitted changes"]),
        (("abc", None), ["do not record the commit"]),
        (("abc", "def"), ["2 different commits"]),
        ((None, None), []),
    ):
        records = dict(zip(full.environments, itertools.cycle({"git_commit": commit} for commit in commits)))
        text = "\n".join(sentences.deviations(replace(full, environments=records)))
        found = [part for part in ("commits", "the commit", "uncommitted") if part in text]
        assert len(found) == len(said) and all(part in text for part in said), (commits, text)
    resumed = {"git_commit": "abc", "resumed_under": [{"git_commit": "def"}]}
    text = "\n".join(sentences.deviations(replace(full, environments=dict.fromkeys(full.environments, resumed))))
    assert "2 different commits" in text, "of the parts of one run"
    assert len(sentences.incomparable_seconds(broken).splitlines()) == 2
    assert sentences.incomparable_seconds(full) == ""


def test_generalisation_is_of_each_networks_own_last_epoch(full):
    rows = [("resnet20", epoch, 0.5 + epoch / 10, 0.5) for epoch in (1, 2)]  # at the last epoch, +20 pp
    rows += [("se_resnet20", epoch, 0.9, 0.8 + epoch / 100) for epoch in (1, 2, 3, 4)]  # +6 pp
    history = pd.DataFrame(rows, columns=["label", "epoch", "train_accuracy", "test_accuracy"])
    said = sentences.generalisation(full, history.assign(run_id=history["label"] + "-seed0"))
    assert "in percentage points: resnet20 +20.00, se_resnet20 +6.00." in said


def test_deviations_say_how_the_runs_were_evaluated(full, single):
    def changed(results, **recipe):
        return replace(results, study=results.study | {"recipe": results.study["recipe"] | recipe})

    evaluated = ["test"] + ["holdout"] * (len(full.runs) - 1)
    mixed = replace(full, runs=full.runs.assign(evaluated_on=evaluated))
    for said, results in (
        ("Evaluated on a validation split of 5,000 training images.", single),
        ("Evaluated in training mode", changed(full, evaluate_in_training_mode=True)),
        ("Some runs were evaluated on the test set, others on a validation split", mixed),
    ):
        assert any(text.startswith(said) for text in sentences.deviations(results)), said
        assert not any(text.startswith(said) for text in sentences.deviations(full)), said


def test_validation_is_never_called_test(single, tmp_path):
    missing = [f"{label}-seed0" for label in THREE]
    unfinished = load_results(write_study(tmp_path, seeds=(0,), holdout=5000, missing=missing))
    assert tables.evaluated(single) == tables.evaluated(unfinished) == "validation"
    assert "validation accuracies" in sentences.ranking(single)
    assert "5,000" in "\n".join(sentences.deviations(single))


def test_how_to_reproduce_gives_the_recorded_options(full, tmp_path):
    assert sentences.how_to_reproduce(full) == "make reproduce STUDY=synthetic"
    write_study(tmp_path, seeds=(0,), images=20, epochs=2)
    given = {"STUDY": "thin", "DATA": "folder:/home/me/pictures", "LIMIT_EPOCHS": 2}
    results = change_study(tmp_path, data=given["DATA"], make_variables=given)
    assert sentences.how_to_reproduce(results) == "make reproduce STUDY=thin DATA=folder:pictures LIMIT_EPOCHS=2"


def test_validation_split_is_no_other_data(tmp_path):
    """Its fingerprints differ from those of the whole data set."""
    folder = write_study(tmp_path, seeds=(0, 1), images=60, holdout=5000)
    for label in THREE:
        for seed in (0, 1):
            environment = {"data": {"fingerprints": {"train": "45,000 of 50,000", "test": "5,000 of 50,000"}}}
            rewrite(folder, f"{label}-seed{seed}", environment=environment)
    results = load_results(folder)
    assert not [text for text in sentences.deviations(results) if "other data" in text]
    assert sentences.notice(results) == ""
    assert len(tables.compare(results)) == 2


def test_runs_on_different_data_are_not_compared(tmp_path):
    folder = write_study(tmp_path, seeds=(0, 1), images=60)
    rewrite(folder, "sk_resnet20-seed1", environment={"data": {"fingerprints": {"train": "0", "test": "1"}}})
    results = load_results(folder)
    assert [pair.treatment for pair in tables.compare(results)] == ["se_resnet20"]
    assert "different data" in sentences.notice(results)
    assert "sk_resnet20" in sentences.notice(results)
    assert any("other data" in text for text in sentences.deviations(results))


@pytest.fixture(scope="module")
def mixed_data(tmp_path_factory):
    """The planned comparison of SK has no common data, as the data changed between the two runs of SK."""
    folder = write_study(tmp_path_factory.mktemp("mixed_data"), seeds=(0, 1), images=60)
    rewrite(folder, "sk_resnet20-seed1", environment={"data": {"fingerprints": {"train": "0", "test": "1"}}})
    values = {"resnet20": (0.900, 0.903), "se_resnet20": (0.910, 0.914), "sk_resnet20": (0.910, 0.915)}
    return with_accuracies(load_results(folder), values)


def test_planned_comparisons_without_common_data_count_in_the_correction(mixed_data):
    (found,) = tables.compare(mixed_data)
    assert found.estimate.critical == pytest.approx(JointT(np.ones((1, 1)), 2, planned=2).critical())


def test_networks_of_mixed_data_do_not_enter_the_pooled_deviation(mixed_data):
    (found,) = tables.compare(mixed_data)
    assert found.estimate.degrees == 2
    assert found.estimate.error == pytest.approx(np.sqrt((0.003**2 + 0.004**2) / 2 / 2))  # of means of two runs


# Names from outside


class Reader(HTMLParser):
    """A page's tags and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_hostile_names_stay_text():
    for name in HOSTILE:
        line = " ".join(name.replace("\x00", " ").split())
        page = Reader(markup.to_html(pd.DataFrame({name: [name]})))
        assert page.tags == {"div", "table", "thead", "tbody", "tr", "th", "td"}, name
        assert page.text.split("\n") == ["", line, "", line, ""], name
        page = Reader(markdown2html_mistune(f"see {markup.escape_markdown(name)} here"))  # a renderer that passes HTML
        assert page.tags == {"p"}, name
        assert page.text.strip() == f"see {line} here", name
        rows = markup.to_markdown(pd.DataFrame({"a": [name], "b": ["x"]})).splitlines()
        assert [row.count("|") for row in rows] == [3, 3, 3], name
    assert markup.escape_markdown("sk_resnet20 (r = 4), 93.1 %") == "sk_resnet20 (r = 4), 93.1 %"


def test_numbers_are_right_aligned():
    shown = pd.DataFrame({"Network": ["a"], "MACs": ["40.8"], "95 %": ["85.83 to 86.47"]})
    assert '<td class="number">40.8</td>' in markup.to_html(shown)
    assert "<td>a</td>" in markup.to_html(shown)
    assert markup.to_markdown(shown).splitlines()[1].startswith("| --- | --: |")


def test_check_of_the_pipeline_compares_nothing(full, tmp_path):
    folder = write_study(tmp_path / "check", images=300)
    write_json(folder / "study.json", read_json(folder / "study.json") | {"verdicts": False})
    check = load_results(folder)
    assert tables.compare(full), "the same study with verdicts"
    assert tables.compare(check) == []
    assert sentences.NO_VERDICTS in sentences.notice(check)
    assert "No verdict" in sentences.verdict(check, [])
    shown = shown_tables.networks(tables.networks(check, []), "test accuracy", "resnet20")
    assert not [column for column in shown if "Difference" in column]
