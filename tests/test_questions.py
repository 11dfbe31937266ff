"""Source A's questions: the numbers select every sentence, and missing runs leave a question open."""

import copy
import itertools
import re
import subprocess
import sys
from dataclasses import replace

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import nbformat
import pytest
import source_a_questions as questions
from source_a_questions import CLAIMS, DEPTH, EFFECT, OBSERVED, PLAIN_STEM, RELU, RELU_ANSWERS, SELECTIVE, SIZE, SK_STEM
from synthetic import SOURCE_A, SOURCE_A_COMPARISONS, THREE, write_study

from senet_lib.analysis import contrasts, learning_rates, plots, power, sentences, stats, tables
from senet_lib.analysis.rule import (
    BETTER,
    EARLY,
    EQUIVALENT,
    INCONCLUSIVE,
    NO_GAIN,
    NO_LOSS,
    UNPLANNED,
    VERDICTS,
    WORSE,
)
from senet_lib.files import read_json, write_json
from senet_lib.project import project_root
from senet_lib.results import load_results, write_summary
from senet_lib.running.notebook import execute
from senet_lib.study import load_study

NOTEBOOK = project_root() / "notebooks" / "07_questions.ipynb"
OPTIONS = {"name": "source_a_quarter", "images": 1000, "comparisons": SOURCE_A_COMPARISONS}


def answers(results):
    published = questions.published_runs()
    return questions.answer_size(results, published), questions.answer_relu(results), questions.answer_stem(results)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every network of the questions with three seeds; the differences are large against the spread."""
    options = OPTIONS | {"images": 4000, "spread": 0.001}
    return load_results(write_study(tmp_path_factory.mktemp("whole"), SOURCE_A, **options))


def test_studies_have_the_needed_networks():
    for name in ("source_a_short", "source_a_narrow", "source_a"):
        study = load_study(name, project_root() / "studies")
        needed = {label for pair in (RELU, DEPTH, SELECTIVE, SK_STEM, PLAIN_STEM) for label in pair}
        assert needed <= set(study.networks), name
        assert {OBSERVED, RELU, SK_STEM} <= set(study.comparisons), name


def test_only_planned_comparisons_have_verdicts(whole):
    planned = {(pair.treatment, pair.baseline): pair for pair in tables.compare(whole)}
    observed, relu = questions.comparisons(whole, (OBSERVED, RELU))
    assert relu == planned[RELU] and relu.verdict in VERDICTS
    assert OBSERVED not in planned and observed.verdict == UNPLANNED


def test_answers_show_claims_and_intervals(tmp_path):
    """Every comparison planned; the differences are large against the spread."""
    planned = (*SOURCE_A_COMPARISONS, OBSERVED)
    options = OPTIONS | {"images": 4000, "spread": 0.001, "comparisons": planned}
    networks = SOURCE_A | {"sknet50": SOURCE_A["sknet50"] | {"accuracy": 0.78}}
    results = load_results(write_study(tmp_path, networks, **options))
    _, relu, stem = answers(results)
    verdicts = {}
    for text, pairs in ((relu, (OBSERVED, RELU, DEPTH)), (stem, (SELECTIVE, SK_STEM, PLAIN_STEM))):
        for pair, found in zip(pairs, questions.comparisons(results, pairs), strict=True):
            assert f"- {CLAIMS[pair][found.verdict]}: {sentences.one_verdict(found)}" in text
            verdicts[pair] = found.verdict
    assert {verdicts[pair] for pair in (OBSERVED, DEPTH)} == {BETTER} and verdicts[RELU] == WORSE
    assert relu.endswith(RELU_ANSWERS["part"])
    assert questions.STEM_ANSWERS[WORSE] in stem and stem.endswith(f"{CLAIMS[SELECTIVE][verdicts[SELECTIVE]]}.")

    crossed = questions.stem_interaction(results)
    assert sentences.change(crossed) in stem and sentences.ruled_out(crossed) in stem
    differences = questions.stem_differences(results)
    *_, last = differences.values()
    assert last.point == pytest.approx(differences[PLAIN_STEM].point - differences[SK_STEM].point)


def test_relu_answer_covers_every_verdict():
    verdicts = (*VERDICTS, UNPLANNED)
    found = {codes: questions.relu_answer(*codes) for codes in itertools.product(verdicts, repeat=3)}
    assert set(found.values()) == set(RELU_ANSWERS)
    for codes, answer in (
        ((EARLY, WORSE, WORSE), "early"),
        ((BETTER, EARLY, WORSE), "early"),
        ((INCONCLUSIVE, WORSE, WORSE), "not established"),
        ((NO_LOSS, WORSE, WORSE), "not established"),
        ((UNPLANNED, WORSE, WORSE), "not established"),
        ((EQUIVALENT, WORSE, WORSE), "not reproduced"),
        ((NO_GAIN, WORSE, WORSE), "not reproduced"),
        ((WORSE, WORSE, WORSE), "reversed"),
        ((BETTER, WORSE, EQUIVALENT), "explains"),
        ((BETTER, WORSE, NO_GAIN), "explains"),
        ((BETTER, WORSE, WORSE), "explains"),
        ((BETTER, WORSE, BETTER), "part"),
        ((BETTER, WORSE, UNPLANNED), "a cause"),
        ((BETTER, WORSE, INCONCLUSIVE), "a cause"),
        ((BETTER, EQUIVALENT, BETTER), "does not explain"),
        ((BETTER, NO_LOSS, BETTER), "does not explain"),
        ((BETTER, BETTER, INCONCLUSIVE), "does not explain"),
        ((BETTER, INCONCLUSIVE, WORSE), "open"),
        ((BETTER, NO_GAIN, WORSE), "open"),
    ):
        assert found[codes] == answer, codes
    for by_verdict in (questions.SIZE_ANSWERS, questions.STEM_ANSWERS, *CLAIMS.values()):
        assert set(by_verdict) <= set(verdicts) and INCONCLUSIVE in by_verdict


def test_one_seed_is_inconclusive(tmp_path):
    _, relu, stem = texts = answers(load_results(write_study(tmp_path, SOURCE_A, seeds=(0,), **OPTIONS)))
    assert RELU_ANSWERS["not established"] in relu and relu.endswith("at least two seeds per network.")
    assert questions.STEM_ANSWERS[INCONCLUSIVE] in stem
    assert not [text for text in texts if "None" in text or "nan" in text]


def test_missing_networks_leave_questions_open(tmp_path):
    missing = [f"sknet50_imagenet_stem-seed{seed}" for seed in (0, 1)]
    results = load_results(write_study(tmp_path / "part", SOURCE_A, seeds=(0, 1), missing=missing, **OPTIONS))
    _, relu, stem = answers(results)
    assert questions.WHAT_TO_RUN not in relu
    assert "sknet50_imagenet_stem" in stem and questions.WHAT_TO_RUN in stem
    other = load_results(write_study(tmp_path / "other", THREE, images=100))  # another study altogether
    assert all(questions.WHAT_TO_RUN in text for text in answers(other)[1:])
    assert len(plots.crossed(questions.stem_cells(other), {}, factor="stem").texts) == 1
    plt.close("all")


def test_different_data_leaves_questions_open(tmp_path):
    folder = write_study(tmp_path, SOURCE_A, seeds=(0, 1), **OPTIONS)
    run_dir = folder / "runs" / "source_a_senet50-seed1"
    environment = read_json(run_dir / "environment.json") | {"data": {"fingerprints": {"train": "0", "test": "1"}}}
    write_json(run_dir / "environment.json", environment)
    write_summary(run_dir, read_json(run_dir / "summary.json"))
    results = load_results(folder)
    _, relu, stem = answers(results)
    assert "different data" in relu
    assert not [text for text in RELU_ANSWERS.values() if text in relu]
    assert "different data" not in stem
    assert not questions.comparisons(results, [questions.RELU])


def test_load_without_results(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="make reproduce STUDY=source_a_narrow"):
        questions.load(str(tmp_path / "nothing"))
    monkeypatch.setattr(questions, "STUDIES", ("source_a",))
    monkeypatch.setattr(questions, "published_folder", lambda name: tmp_path / name)
    results = questions.load("")  # the plan of an unpublished study
    assert results.study["name"] == "source_a"
    assert results.done.empty and len(results.runs) == 55
    assert all("**Verdict.**" in text for text in answers(results))


def test_controls_list_recorded_differences(whole):
    sk, plain, relu = questions.controls(whole, (SK_STEM, PLAIN_STEM, RELU)).splitlines()
    assert "stem imagenet against default; select_bias True against default (several" in sk
    assert "stem imagenet against default." in plain and "several" not in plain
    assert plain.endswith("1,510,000 against 1,500,000 parameters, 6.0 against 83.0 million multiply-adds.")
    assert "Options" not in relu
    assert relu.endswith(". Both have 1,650,000 parameters and 84.0 million multiply-adds.")
    assert set(CLAIMS) | {SIZE} == set(questions.WHAT_ELSE)
    study = copy.deepcopy(whole.study)
    runs = {run["label"]: run for run in study["runs"]}
    for label, init in (("source_a_senet50", "pytorch"), ("se_resnet50", "kaiming")):
        runs[label]["knobs"] = runs[label]["knobs"] | {"init": init}
    assert "init pytorch against kaiming (several" in questions.controls(replace(whole, study=study), (RELU,))


def test_published_runs_have_wilson_intervals():
    table = questions.published_runs().set_index("label")
    assert table.loc["source_a_resnet50", "params"] == 23_520_842
    assert table.loc["resnet56", "params"] == 850_000
    wilson = stats.wilson_interval(9303, 10_000)
    assert tuple(table.loc["resnet56", ["low", "high"]]) == (wilson.low, wilson.high)
    assert (table["low"] < table["mean"]).all()


def test_size_is_answered_with_a_resnet56(tmp_path):
    small = {"model": "resnet56", "params": 850_000, "macs": 126_000_000, "seconds": 80.0}
    for accuracy, verdict in ((0.6, BETTER), (0.8, WORSE)):
        networks = {"resnet50": SOURCE_A["resnet50"], "resnet56": small | {"accuracy": accuracy}}
        folder = write_study(tmp_path / verdict, networks, comparisons=[SIZE], images=1000)
        text = questions.answer_size(load_results(folder), questions.published_runs())
        assert text.endswith(questions.SIZE_ANSWERS[verdict])


def test_questions_and_gate_measures_import_no_torch():
    modules = "source_a_questions, senet_lib.gates.measures, senet_lib.gates.figures, senet_lib.gates.sentences"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=NOTEBOOK.parent, check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"


def test_notebook_stops_without_results(tmp_path):
    (load,) = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.id == "load"]
    with pytest.raises(FileNotFoundError, match="make reproduce"):
        exec(load.source, {"results": str(tmp_path / "nothing")})


def test_notebook_runs_headless(whole, tmp_path):
    executed = execute(NOTEBOOK, tmp_path / "executed.ipynb", {"results": str(whole.path)}, cwd=str(NOTEBOOK.parent))
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    text = "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)
    assert text.count("**Verdict.**") == 3
    assert re.findall(r"\*\*Figure (\d)\.", text) == ["2", "3", "4"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_effect_of_sk_is_the_comparison_with_resnext(tmp_path):
    """SKNet-50 above ResNet-50 and level with ResNeXt-50: A's contrast is positive, SK's effect is not."""
    grouped = SOURCE_A["sknet50"] | {"model": "resnext50_32x4d", "accuracy": 0.78}
    networks = SOURCE_A | {"sknet50": SOURCE_A["sknet50"] | {"accuracy": 0.78}, "resnext50_32x4d": grouped}
    planned = (*SOURCE_A_COMPARISONS, EFFECT)
    options = OPTIONS | {"images": 20_000, "spread": 0.0005, "comparisons": planned, "seeds": range(5)}
    results = load_results(write_study(tmp_path, networks, **options))
    found = dict(zip((EFFECT, SELECTIVE), questions.comparisons(results, (EFFECT, SELECTIVE)), strict=True))
    assert found[SELECTIVE].verdict == BETTER and found[EFFECT].verdict not in (BETTER, WORSE)
    assert EFFECT in questions.stem_differences(results)
    text = questions.answer_stem(results)
    assert sentences.one_verdict(found[EFFECT]) in text and CLAIMS[SELECTIVE][BETTER] in text


def test_open_questions_say_what_would_close_them(tmp_path):
    results = load_results(write_study(tmp_path, SOURCE_A, **OPTIONS | {"images": 2000}))
    found = [pair for pair in tables.compare(results) if pair.verdict == INCONCLUSIVE]
    model = tables.run_model(results)
    needed = power.seeds_needed(stats.MARGIN, model.sd, tables.planned_comparisons(results), len(SOURCE_A))
    assert f"{needed} seeds per network" in questions.what_would_close(results, found)
    assert questions.what_would_close(results, [replace(found[0], verdict=BETTER)]) == ""
    assert "more epochs" in questions.what_would_close(results, [replace(found[0], verdict=EARLY)])
    far = results.runs["test_accuracy"].where(results.runs["run_id"] != "resnet50_imagenet_stem-seed0", 0.2)
    apart = replace(results, runs=results.runs.assign(test_accuracy=far))
    assert tables.run_model(apart).unequal
    assert "cannot be computed" in questions.what_would_close(apart, found)


def test_differences_without_an_interval_say_what_would_close_them(tmp_path):
    results = load_results(write_study(tmp_path, SOURCE_A, **OPTIONS))
    (found, *_) = tables.compare(results)
    for reason, needed in {
        contrasts.OTHER_MACHINE: "runs of both networks on the same machine",
        contrasts.NO_DEGREES: "more seeds per network on the same machine",
        stats.ONE_SEED: "at least two seeds per network",
    }.items():
        open_pair = replace(
            found, estimate=contrasts.Estimate(stats.Interval(0.01, reason=reason)), verdict=INCONCLUSIVE
        )
        assert questions.what_would_close(results, [open_pair]) == f" To close it: {needed}.", reason
    fewer = replace(found, verdict=INCONCLUSIVE, n_treatment=10_000)
    assert "seeds per network" in questions.what_would_close(results, [fewer]), "the other network has too few"


def test_answered_questions_need_nothing_more(tmp_path, monkeypatch):
    """A closed question does not say how to close it, whatever the other comparisons need."""
    results = load_results(write_study(tmp_path, SOURCE_A, **OPTIONS | {"images": 200}))
    monkeypatch.setattr(questions, "what_would_close", lambda *_: " To close it: more.")
    for answer, open_still in (("reversed", False), ("explains", False), ("open", True), ("not established", True)):
        monkeypatch.setattr(questions, "relu_answer", lambda *_, answer=answer: answer)
        assert ("To close it" in questions.answer_relu(results)) == open_still, answer


def test_learning_rate_of_a_study_with_a_check(tmp_path, monkeypatch):
    """Open as long as the planned check has no stored results; then its findings; nothing if no check is planned."""
    named = {name: load_results(write_study(tmp_path / name, THREE, name=name)) for name in ("thin", "source_a_short")}
    assert questions.learning_rate(named["thin"]) == ""
    stored = {"source_a_short_rates": None}
    monkeypatch.setattr(questions, "committed_results", stored.get)
    assert "`source_a_short_rates`" in (open_yet := questions.learning_rate(named["source_a_short"]))
    assert "has not been trained yet" in open_yet
    networks = THREE | {f"{label}_twice": {**network, "recipe": {"lr": 0.2}} for label, network in THREE.items()}
    pair = [("se_resnet20", "resnet20")]
    folder = write_study(tmp_path / "rates", networks, seeds=(100,), holdout=5000, comparisons=pair)
    stored["source_a_short_rates"] = check = load_results(folder)
    sd = tables.run_model(named["source_a_short"]).sd
    found = learning_rates.in_words(check, learning_rates.by_rate(check), sd)
    assert found.startswith("- se_resnet20 minus resnet20")
    assert questions.learning_rate(named["source_a_short"]).endswith(f"(study `source_a_short_rates`):\n\n{found}")
