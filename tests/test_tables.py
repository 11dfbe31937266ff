"""Tables and sentences: right on small cases, honest about what is missing, harmless whatever a name contains."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from nbconvert.filters.markdown_mistune import markdown2html_mistune
from synthetic import THREE, write_study

from senet_lib.analysis import format, markup, sentences, shown_tables, stats, tables
from senet_lib.files import read_json, write_json
from senet_lib.results import load_results, write_history, write_predictions, write_summary

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
    return load_results(write_study(tmp_path_factory.mktemp("full"), seeds=(0, 1, 2), images=300))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return load_results(write_study(tmp_path_factory.mktemp("single"), seeds=(7,), images=300, epochs=3))


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    missing = [f"sk_resnet20-seed{seed}" for seed in (0, 1, 2)]
    failed = {"se_resnet20-seed1": "NonFiniteLoss: the loss is nan"}
    return load_results(write_study(folder, images=300, failed=failed, missing=missing))


def overwrite_predictions(folder, run_id, label, predicted):
    """Replace a finished run's predictions, and let its summary vouch for the new ones."""
    run_dir = folder / "runs" / run_id
    write_predictions(run_dir, np.array(label), np.array(predicted), np.full(len(label), 0.5))
    write_summary(run_dir, read_json(run_dir / "summary.json"))


def overwrite_history(folder, run_id, accuracies, seconds):
    """Replace a finished run's history by one row for each accuracy and its epoch's seconds; vouched for as above."""
    columns = dict.fromkeys(("lr", "train_loss", "train_accuracy", "test_loss", "images_per_second"), 0.5)
    pairs = enumerate(zip(accuracies, seconds, strict=True), start=1)
    rows = [columns | {"epoch": epoch, "test_accuracy": a, "train_seconds": s} for epoch, (a, s) in pairs]
    run_dir = folder / "runs" / run_id
    write_history(run_dir, rows)
    write_summary(run_dir, read_json(run_dir / "summary.json"))


@pytest.fixture
def timed(tmp_path):
    """Three networks, two seeds, three epochs of 10 s (seed 1: of 12 s): plain networks that both arrive, SE where one
    does, SK where one is not finished."""
    write_study(tmp_path, seeds=(0, 1), images=20, failed={"sk_resnet20-seed1": "boom"})
    accuracies = {
        "resnet20-seed0": [0.9, 0.92, 0.91],  # exactly at 90 %, and at 92 % though it falls below it again
        "resnet20-seed1": [0.8, 0.8999, 0.93],
        "se_resnet20-seed0": [0.5, 0.6, 0.7],
        "se_resnet20-seed1": [0.5, 0.6, 0.925],
        "sk_resnet20-seed0": [0.1, 0.2, 0.3],
    }
    for run_id, values in accuracies.items():
        overwrite_history(tmp_path, run_id, values, [10 + 2 * int(run_id[-1])] * 3)
    return load_results(tmp_path)


@pytest.fixture
def known(tmp_path):
    """Two networks, one seed, three classes (the last without images), four images with known predictions."""
    two = {label: THREE[label] for label in ("resnet20", "se_resnet20")}
    write_study(tmp_path, two, seeds=(0,), classes=("cat", "dog", "none"), images=4)
    overwrite_predictions(tmp_path, "resnet20-seed0", [0, 0, 1, 1], [0, 1, 0, 1])
    overwrite_predictions(tmp_path, "se_resnet20-seed0", [0, 0, 1, 1], [0, 0, 2, 1])
    return load_results(tmp_path)


# Numbers


def test_networks_hold_mean_interval_and_difference(full):
    table = tables.networks(full, tables.compare(full)).set_index("label")
    values = {label: list(seeds.values()) for label, seeds in tables.accuracies(full).items()}
    for label, row in table.iterrows():
        sample = stats.describe(values[label])
        assert (row["n"], row["planned"], row["mean"], row["low"]) == (3, 3, sample.mean, sample.interval.low)
    assert pd.isna(table.loc["resnet20", "difference"])
    expected = stats.welch_difference(values["sk_resnet20"], values["resnet20"]).interval
    assert table.loc["sk_resnet20", "difference_low"] == expected.low
    assert table.loc["sk_resnet20", "params"] == 493_000


def test_comparisons_are_those_that_the_study_names(tmp_path):
    write_study(tmp_path, seeds=(0, 1), images=50)
    assert tables.planned_comparisons(load_results(tmp_path)) == [
        ("se_resnet20", "resnet20"),
        ("sk_resnet20", "resnet20"),
    ]
    study = read_json(tmp_path / "study.json") | {"comparisons": [["sk_resnet20", "se_resnet20"]]}
    write_json(tmp_path / "study.json", study)
    (found,) = tables.compare(load_results(tmp_path))
    assert (found.treatment, found.baseline) == ("sk_resnet20", "se_resnet20")


def test_confusions_by_hand(known):
    shares = tables.confusions(known)
    assert np.array_equal(shares["resnet20"][:2], [[0.5, 0.5, 0], [0.5, 0.5, 0]])
    assert np.array_equal(shares["se_resnet20"][:2], [[1, 0, 0], [0, 0.5, 0.5]])
    assert np.isnan(shares["resnet20"][2]).all()  # no image of that class


def test_class_accuracies_by_hand(known):
    table = tables.class_accuracies(known).set_index(["label", "class"])
    assert set(table.index.get_level_values("class")) == {"cat", "dog"}
    assert table.loc[("se_resnet20", "cat"), "mean"] == 1
    assert table.loc[("se_resnet20", "cat"), "difference"] == 0.5
    assert pd.isna(table.loc[("se_resnet20", "cat"), "difference_low"])  # one seed


def test_confused_pairs_by_hand(known):
    table = tables.confused_pairs(known)
    assert list(table.columns) == ["first", "second", "resnet20", "se_resnet20"]
    assert table.iloc[0].tolist() == ["cat", "dog", 0.5, 0.0]


def test_mcnemar_by_hand(known):
    (row,) = tables.mcnemar(known).itertuples()
    assert (row.treatment, row.baseline, row.seed) == ("se_resnet20", "resnet20", 0)
    assert (row.only_treatment, row.only_baseline, row.p) == (1, 0, 1.0)


def test_mcnemar_leaves_out_models_that_saw_other_images(tmp_path):
    write_study(tmp_path, {k: THREE[k] for k in ("resnet20", "se_resnet20")}, seeds=(0,), images=10)
    overwrite_predictions(tmp_path, "se_resnet20-seed0", [1, 0, 1], [1, 1, 1])
    assert tables.mcnemar(load_results(tmp_path)).empty


def test_a_study_that_is_not_timed_has_no_seconds_anywhere(tmp_path):
    write_study(tmp_path, seeds=(0, 1), images=20)
    write_json(tmp_path / "study.json", read_json(tmp_path / "study.json") | {"timed": False})
    study = load_results(tmp_path)
    table = tables.networks(study, tables.compare(study))
    assert "s / epoch" not in shown_tables.shown_networks(table, "test accuracy", "resnet20")
    costs = tables.cost(study, table)
    assert costs[["seconds_per_epoch", "train_seconds"]].isna().all(axis=None)
    shown = ["Network", "Parameters (factor to resnet20)", "MACs (M) (factor to resnet20)"]
    assert list(shown_tables.shown_cost(costs, "resnet20")) == shown
    assert sentences.cost(costs, "resnet20") == ""
    assert sentences.untimed(study) in sentences.deviations(study)


def test_cost_is_relative_to_the_baseline(full):
    table = tables.cost(full, tables.networks(full, [])).set_index("label")
    assert table.loc["resnet20", "seconds_per_epoch_factor"] == 1
    assert table.loc["sk_resnet20", "params_factor"] == pytest.approx(493_000 / 272_474)
    means = {label: np.mean(full.done.query("label == @label")["train_seconds"].astype(float)) for label in THREE}
    assert table["train_seconds"].to_dict() == pytest.approx(means)
    assert table.loc["sk_resnet20", "train_seconds_factor"] == pytest.approx(means["sk_resnet20"] / means["resnet20"])


def test_time_to_by_hand(timed):
    table = tables.time_to(timed).set_index(["label", "threshold"])
    expected = {  # n, reached, mean, min, max
        ("resnet20", 0.90): (2, 2, 23, 10, 36),
        ("resnet20", 0.92): (2, 2, 28, 20, 36),
        ("resnet20", 0.93): (2, 1, np.nan, 36, 36),
        ("se_resnet20", 0.90): (2, 1, np.nan, 36, 36),
        ("se_resnet20", 0.93): (2, 0, np.nan, np.nan, np.nan),
        ("sk_resnet20", 0.90): (1, 0, np.nan, np.nan, np.nan),
    }
    for key, values in expected.items():
        assert table.loc[key].tolist() == pytest.approx(values, nan_ok=True), key
    assert len(table) == 3 * 4
    assert tables.time_to(timed, thresholds=(0.3,)).set_index("label").loc["sk_resnet20", "mean"] == 30


def test_augmented_accuracies_are_columns_only_where_a_run_has_them(tmp_path):
    gains = {"resnet20": 0.004, "se_resnet20": None, "sk_resnet20": 0.006}
    networks = {label: {**network, "tta_gain": gains[label]} for label, network in THREE.items()}
    study = load_results(write_study(tmp_path / "tta", networks, images=300))
    plain = load_results(write_study(tmp_path / "plain", images=300))
    table = tables.networks(study, tables.compare(study))
    without = tables.networks(plain, tables.compare(plain))
    assert list(table.columns) == [*without.columns, "tta_mean", "tta_low", "tta_high"]
    pd.testing.assert_frame_equal(table[without.columns], without)  # every other number is the plain accuracy
    rows = table.set_index("label")
    values = [float(value) for value in study.done.query("label == 'sk_resnet20'")["tta_accuracy"]]
    sample = stats.describe(values)
    assert rows.loc["sk_resnet20"][["tta_mean", "tta_low", "tta_high"]].tolist() == [
        sample.mean,
        sample.interval.low,
        sample.interval.high,
    ]
    assert rows.loc["se_resnet20"][["tta_mean", "tta_low", "tta_high"]].isna().all()

    title = "Test accuracy with test-time augmentation (%)"
    shown = shown_tables.shown_networks(table, "test accuracy", "resnet20")
    shown_without = shown_tables.shown_networks(without, "test accuracy", "resnet20")
    text = f"{format.percent(sample.mean)} ({format.span(sample.interval.low, sample.interval.high, format.percent)})"
    assert shown.set_index("Network")[title].tolist()[1:] == ["none", text]
    assert title not in shown_without
    assert markup.to_markdown(shown.drop(columns=title)) == markup.to_markdown(shown_without)
    said = sentences.augmented(study, table)
    assert "resnet20 +0.40, sk_resnet20 +0.60" in said
    assert "every other number here, verdicts included, is the plain accuracy" in said
    assert sentences.augmented(plain, without) == ""


def test_published_single_runs_get_wilsons_interval_where_the_test_set_is_known(tmp_path):
    networks = {label: dict(network) for label, network in THREE.items()}
    networks["resnet20"]["published"] = {"accuracy": 0.9125, "source": "a paper", "runs": 1}
    networks["se_resnet20"]["published"] = {"accuracy": 0.92, "source": "another", "runs": 5}
    cifar = load_results(write_study(tmp_path / "c", networks, seeds=(0,), images=50))
    folder = load_results(write_study(tmp_path / "d", networks, seeds=(0,), images=50, data="folder:somewhere"))
    table = tables.published(cifar, tables.networks(cifar, [])).set_index("label")
    assert list(table.index) == ["resnet20", "se_resnet20"]
    assert table.loc["resnet20", "published_low"] == stats.wilson_interval(9125, 10_000).low
    assert pd.isna(table.loc["se_resnet20", "published_low"])  # a mean of five is no single model
    assert tables.published(folder, tables.networks(folder, []))["published_low"].isna().all()


def test_runs_show_how_far_each_came(tmp_path):
    write_study(tmp_path, seeds=(0,), images=20, epochs=6, failed={"resnet20-seed0": "boom", "se_resnet20-seed0": "x"})
    (tmp_path / "runs/se_resnet20-seed0/failure.json").unlink()  # stopped, not failed
    table = tables.runs(load_results(tmp_path)).set_index("run_id")
    assert list(table["status"]) == ["failed", "interrupted", "done"]
    assert list(table["epochs"]) == [3, 3, 6]
    assert table.loc["resnet20-seed0", "error"] == "boom"


def test_a_run_that_was_resumed_anyway_is_marked_and_listed(tmp_path):
    write_study(tmp_path, seeds=(0,), images=20, epochs=6)
    run_dir = tmp_path / "runs" / "se_resnet20-seed0"
    where = "after epoch 2, step 0: threads was 1, is 2"
    write_json(run_dir / "environment.json", {**read_json(run_dir / "environment.json"), "resumed_anyway": [where]})
    write_summary(run_dir, read_json(run_dir / "summary.json"))
    study = load_results(tmp_path)
    table = tables.runs(study)
    assert list(table["resumed_anyway"]) == ["", where, ""]
    assert list(shown_tables.shown_runs(table, "test accuracy")["Status"]) == ["done", "done, resumed anyway", "done"]
    (note,) = [note for note in sentences.deviations(study) if "resumed anyway" in note]
    assert where in note.replace("\\", "")


def test_environment_lists_every_value_that_differs(tmp_path):
    write_study(tmp_path, seeds=(0,), images=20)
    run_dir = tmp_path / "runs/resnet20-seed0"
    other = read_json(run_dir / "environment.json") | {"device": "NVIDIA H100", "threads": 1}
    write_json(run_dir / "environment.json", other)
    write_summary(run_dir, read_json(run_dir / "summary.json"))
    study = load_results(tmp_path)
    table = tables.environment(study).set_index("setting")["value"]
    assert table["device"] == "NVIDIA H100; cpu"
    assert table["data / fingerprints / test"] == "cd" * 32
    said = sentences.incomparable_seconds(study).splitlines()
    assert said == [
        "The runs used different devices (NVIDIA H100, cpu): their seconds cannot be compared.",
        "The runs used different numbers of threads (1, 2): their seconds cannot be compared.",
    ]
    assert set(said) <= set(sentences.deviations(study))
    write_study(tmp_path / "alike", seeds=(0,), images=20)
    assert sentences.incomparable_seconds(load_results(tmp_path / "alike")) == ""


# As people read


@pytest.mark.parametrize(
    ("value", "text"), [(0.00412, "+0.41"), (-0.00412, "\N{MINUS SIGN}0.41"), (0.0, "0.00"), (-0.00001, "0.00")]
)
def test_points(value, text):
    assert format.points(value) == text


def test_shown_networks_say_n_and_why_there_is_no_interval(full, single, broken):
    def shown(results):
        table = tables.networks(results, tables.compare(results))
        return shown_tables.shown_networks(table, "test accuracy", "resnet20").set_index("Network")

    assert shown(full).loc["sk_resnet20", "Test accuracy (%)"].endswith("(n = 3)")
    assert " ± " in shown(full).loc["sk_resnet20", "Test accuracy (%)"]
    assert set(shown(single)["95 % CI"]) == {"n = 1: no interval"}
    assert shown(single).loc["se_resnet20", "Difference to resnet20 (pp)"].endswith("(no interval)")
    assert shown(broken).loc["se_resnet20", "Test accuracy (%)"].endswith("(n = 2 of 3)")
    assert shown(broken).loc["sk_resnet20", "Test accuracy (%)"] == "no finished run (of 3)"
    assert shown(broken).loc["sk_resnet20", "Difference to resnet20 (pp)"] == "not compared"


def test_shown_mcnemar_has_a_column_a_seed_or_the_counts(full, single):
    many, one = shown_tables.shown_mcnemar(tables.mcnemar(full)), shown_tables.shown_mcnemar(tables.mcnemar(single))
    assert list(many.columns) == ["Trained models", "p, seed 0", "p, seed 1", "p, seed 2"]
    assert len(many) == 2
    assert "Right only in the first" in one


def test_shown_times_leave_out_what_no_run_reaches_and_means_over_some_runs_only(timed):
    shown = shown_tables.shown_time_to(tables.time_to(timed)).set_index("Network")
    assert list(shown.columns) == ["Seconds to 90 %", "Seconds to 92 %", "Seconds to 93 %"]
    assert shown.loc["resnet20"].tolist() == ["23.0 (10.0 to 36.0) in 2 of 2", "28.0 (20.0 to 36.0) in 2 of 2"] + [
        "36.0 in 1 of 2"
    ]
    assert shown.loc["se_resnet20"].tolist() == ["36.0 in 1 of 2", "36.0 in 1 of 2", "0 of 2"]
    assert set(shown.loc["sk_resnet20"]) == {"0 of 1"}
    some = [{"label": "a", "threshold": 0.9, "n": 3, "reached": 2, "mean": np.nan, "min": 398.2, "max": 1410.0}]
    assert shown_tables.shown_time_to(pd.DataFrame(some))["Seconds to 90 %"].item() == "398 to 1,410 in 2 of 3"
    far = tables.time_to(timed, thresholds=(0.94, 0.95))
    assert shown_tables.shown_time_to(far).empty
    assert sentences.time_to(timed, far) == ""
    assert "no stopping rule" in sentences.time_to(timed, tables.time_to(timed))


@pytest.mark.parametrize(("seconds", "text"), [(3.294, "3.29"), (42.13, "42.1"), (1046.6, "1,047"), (np.nan, "")])
def test_seconds_of_a_run(seconds, text):
    assert format.run_seconds(seconds) == text


# Sentences


def test_cost_is_said_in_seconds_of_a_run_beside_multiply_adds():
    columns = ["label", "train_seconds", "seconds_per_epoch_factor", "macs_factor"]
    rows = [
        ("plain", 400.0, 1, 1),
        ("se", 500.0, 1.25, 1.0049),
        ("half", 250.0, 0.62, 0.5),
        ("gone", np.nan, np.nan, 2),
    ]
    assert sentences.cost(pd.DataFrame(rows, columns=columns), "plain") == (
        "Beside plain (400 s a run), se needs 1.25x the time of an epoch, and 100 s more a run, for 1.00x the"
        " multiply-adds; half needs 0.62x the time of an epoch, and 150 s less a run, for 0.50x the multiply-adds."
    )


def test_networks_that_cost_the_same_are_said_to():
    same = pd.DataFrame({"params": [3_015_082] * 2, "macs": [100_570_000] * 2})
    said = "All networks have 3,015,082 parameters and 100.6 million multiply-adds an image."
    assert sentences.same_cost(same) == said
    assert sentences.same_cost(same[:1]) == ""
    assert sentences.same_cost(same.assign(macs=[1, 2])) == ""
    assert sentences.same_cost(same.assign(macs=[np.nan] * 2)) == ""


def test_the_verdict_is_two_sentences_with_the_question_and_each_interval(full):
    text = sentences.verdict(full, tables.compare(full))
    asked, found = text.split("\n\n")
    assert asked.startswith("**Asked:** Under one recipe, do SE and SK")
    for pair in tables.compare(full):
        assert format.span(pair.difference.low, pair.difference.high, format.points) in found
        assert pair.verdict in found
    assert "after the last epoch (10)" in found.lower()


def test_the_verdict_of_one_seed_decides_nothing(single):
    found = sentences.verdict(single, tables.compare(single))
    assert "Inconclusive" in found
    assert "n = 1: no interval" in found
    assert "better" not in found


@pytest.mark.parametrize(
    ("interval", "p_holm", "expected"),
    [
        ((0.01, 0.005, 0.015), 0.01, "**sk** is **better** than plain (+1.00 pp, 95 % CI +0.50 to +1.50)"),
        ((0.001, 0.0005, 0.0015), 0.01, "though within the margin"),
        ((0.0, -0.001, 0.001), 0.9, "**no difference larger than 0.3 pp** to plain"),
        (
            (0.01, 0.001, 0.019),
            0.08,
            "**inconclusive** (+1.00 pp, 95 % CI +0.10 to +1.90; not significant after",
        ),
        ((0.01, -0.01, 0.03), 0.5, "**inconclusive** (+1.00 pp, 95 % CI \N{MINUS SIGN}1.00 to +3.00)"),
    ],
)
def test_one_verdict_in_words(interval, p_holm, expected):
    welch = stats.Welch(stats.Interval(*interval), p_holm)
    verdict = stats.verdict(welch.interval, p_holm)
    pair = stats.Comparison("sk", "plain", 3, 3, 3, welch, welch.interval, None, 1.0, None, p_holm, None, verdict)
    assert expected in sentences.one_verdict(pair)


def test_what_could_be_seen_is_said_of_every_comparison(tmp_path):
    """Two comparisons of one network with different baselines are two numbers."""
    write_study(tmp_path, seeds=(0, 1, 2), images=300)
    pairs = [["sk_resnet20", "resnet20"], ["sk_resnet20", "se_resnet20"]]
    write_json(tmp_path / "study.json", read_json(tmp_path / "study.json") | {"comparisons": pairs})
    comparisons = tables.compare(load_results(tmp_path))
    said = sentences.detectable(comparisons)
    for pair in comparisons:
        assert f"sk_resnet20 against {pair.baseline} {100 * pair.detectable:.2f}" in said
    assert len(comparisons) == 2


def test_the_notice_counts_what_is_not_there(full, broken):
    assert sentences.notice(full) == ""
    text = sentences.notice(broken)
    assert "5 of 9 planned runs are finished" in text
    assert "1 failed (se_resnet20-seed1)" in text
    assert "3 missing" in text
    assert "in no figure: sk_resnet20" in text


def test_sample_sizes_name_the_exceptions(full, broken):
    assert sentences.sample_sizes(full).replace(sentences.NBSP, " ") == "n = 3 seeds"
    assert sentences.sample_sizes(broken).replace(sentences.NBSP, " ") == "n = 3 seeds (se_resnet20: 2)"


def test_a_holdout_is_never_called_a_test(tmp_path):
    study = load_results(write_study(tmp_path, seeds=(0, 1), images=50, holdout=5000))
    assert tables.evaluated(study) == "validation"
    assert "validation accuracies" in sentences.ranking(study)
    assert any("validation split of 5,000 training images" in note for note in sentences.deviations(study))
    unfinished = load_results(
        write_study(tmp_path / "none", seeds=(0,), holdout=5000, missing=[f"{label}-seed0" for label in THREE])
    )
    assert tables.evaluated(unfinished) == "validation"


@pytest.mark.parametrize(
    ("name", "data", "command"),
    [
        ("thin", "cifar10", "make reproduce STUDY=thin"),
        ("thin+1epoch", "cifar10", "make reproduce STUDY=thin LIMIT_EPOCHS=1"),
        ("thin+digits+2epoch", "digits", "make reproduce STUDY=thin DATA=digits LIMIT_EPOCHS=2"),
        ("thin+folder", "folder:/home/me/pictures", "make reproduce STUDY=thin DATA=folder:pictures"),
    ],
)
def test_how_to_reproduce_is_the_command_that_was_given(tmp_path, name, data, command):
    study = load_results(write_study(tmp_path, seeds=(0,), images=20, name=name, data=data))
    assert sentences.how_to_reproduce(study) == command


def test_other_data_than_planned_is_said_aloud(tmp_path):
    write_study(tmp_path, seeds=(0,), images=20)
    write_json(
        tmp_path / "study.json", read_json(tmp_path / "study.json") | {"fingerprints": {"train": "0", "test": "1"}}
    )
    assert any("other data than the study planned" in note for note in sentences.deviations(load_results(tmp_path)))


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


def on_one_line(name):
    return " ".join(name.replace("\x00", " ").split())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_in_html(name):
    page = Reader(markup.to_html(pd.DataFrame({name: [name]})))
    assert page.tags == {"div", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.text.split("\n") == ["", on_one_line(name), "", on_one_line(name), ""]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_in_markdown(name):
    """Through a renderer that lets HTML pass, the text comes out as it went in."""
    page = Reader(markdown2html_mistune(f"see {markup.escape_markdown(name)} here"))
    assert page.tags == {"p"}
    assert page.text.strip() == f"see {on_one_line(name)} here"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_does_not_break_a_markdown_table(name):
    text = markup.to_markdown(pd.DataFrame({"a": [name], "b": ["x"]}))
    assert len(text.splitlines()) == 3
    assert all(line.count("|") == 3 for line in text.splitlines())


def test_ordinary_labels_stay_readable_in_markdown():
    assert markup.escape_markdown("sk_resnet20 (r = 4), 93.1 %") == "sk_resnet20 (r = 4), 93.1 %"


def test_numbers_are_aligned_to_the_right():
    shown = pd.DataFrame({"Network": ["a"], "MACs": ["40.8"], "95 %": ["85.83 to 86.47"]})
    assert '<td class="number">40.8</td>' in markup.to_html(shown)
    assert "<td>a</td>" in markup.to_html(shown)
    assert markup.to_markdown(shown).splitlines()[1].startswith("| --- | --: |")
