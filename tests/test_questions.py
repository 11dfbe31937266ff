"""Source A's questions: each sentence follows from the numbers, and says so where there are none."""

import copy
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
from synthetic import SOURCE_A, SOURCE_A_COMPARISONS, THREE, write_study

from senet_lib.analysis import format, plots, sentences, stats, tables
from senet_lib.analysis.stats import BETTER, INCONCLUSIVE, NO_DIFFERENCE, WORSE
from senet_lib.project import project_root
from senet_lib.results import load_results
from senet_lib.running.notebook import execute
from senet_lib.study import load_study

NOTEBOOK = project_root() / "notebooks" / "questions.ipynb"


def write(folder, changes=None, **options):
    networks = {
        label: network | {"accuracy": (changes or {}).get(label, network["accuracy"])}
        for label, network in SOURCE_A.items()
    }
    options = {"name": "source_a_quarter", "images": 2000, "epochs": 2, "comparisons": SOURCE_A_COMPARISONS} | options
    return write_study(folder, networks, **options)


def answers(study):
    published = questions.published_runs()
    return questions.answer_size(study, published), questions.answer_relu(study), questions.answer_stem(study)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return load_results(write(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("name", ["source_a_short", "source_a_narrow", "source_a"])
def test_the_studies_have_the_networks_that_the_questions_need(name):
    study = load_study(name, project_root() / "studies")
    asked = (questions.RELU, questions.DEPTH, questions.SELECTIVE, questions.SK_STEM, questions.PLAIN_STEM)
    assert {label for pair in asked for label in pair} <= set(study.networks)
    assert {questions.OBSERVED, questions.RELU, questions.SK_STEM} <= set(study.comparisons)


def test_planned_comparisons_are_corrected_as_the_study_plans_and_others_not_at_all(whole):
    planned = {(pair.treatment, pair.baseline): pair for pair in tables.compare(whole)}
    observed, relu = questions.comparisons(whole, (questions.OBSERVED, questions.RELU))
    assert relu == planned[questions.RELU]
    assert relu.p_welch_holm > relu.welch.p
    assert questions.OBSERVED not in planned
    assert observed.p_welch_holm == observed.welch.p
    assert "not one of the study's planned comparisons" in questions.answer_relu(whole)


def test_every_answer_shows_the_interval_of_each_of_its_comparisons(whole):
    _, relu, stem = answers(whole)
    for text, pairs in (
        (relu, (questions.OBSERVED, questions.RELU, questions.DEPTH)),
        (stem, (questions.SELECTIVE, questions.SK_STEM, questions.PLAIN_STEM)),
    ):
        for pair in questions.comparisons(whole, pairs):
            assert sentences.one_verdict(pair) in text
    crossed = questions.stem_interaction(whole).interval
    assert format.span(crossed.low, crossed.high, format.points) in stem


def test_the_interaction_is_the_difference_of_the_two_stem_effects(whole):
    by_pair = questions.stem_differences(whole)
    *_, last = by_pair.values()
    expected = -by_pair[questions.SK_STEM].point + by_pair[questions.PLAIN_STEM].point
    assert last.point == pytest.approx(expected)
    assert (last.low, last.high) != (None, None)


@pytest.mark.parametrize(
    ("changes", "relu", "stem"),
    [
        (
            {"se_resnet18": 0.68, "source_a_senet50": 0.63},
            "missing ReLU explains it",
            "**the stem holds SKNet50 back**, and",
        ),
        ({}, "**a part of it**", "costs accuracy"),
        ({"se_resnet18": 0.6}, "nothing to explain", ""),
        ({"source_a_senet50": 0.715, "se_resnet50": 0.66}, "does not explain it", ""),
        (
            {"sknet50": 0.5, "sknet50_imagenet_stem": 0.6},
            "",
            "does not hold SKNet50 back**; the network itself is behind",
        ),
        ({"sknet50": 0.66}, "", "a second cause: with the stem for small images it is still behind"),
        ({"resnet50_imagenet_stem": 0.4}, "", "gains SKNet50 less than it gains ResNet50"),
        ({"sknet50_imagenet_stem": 0.4}, "", "gains SKNet50 more than it gains ResNet50"),
    ],
)
def test_the_verdict_turns_with_the_numbers(tmp_path, changes, relu, stem):
    _, about_relu, about_stem = answers(load_results(write(tmp_path, changes, spread=0.001, seeds=range(6))))
    assert relu in about_relu
    assert stem in about_stem


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ((INCONCLUSIVE, WORSE, WORSE), "do not establish"),
        ((NO_DIFFERENCE, WORSE, WORSE), "nothing to explain"),
        ((BETTER, WORSE, NO_DIFFERENCE), "the missing ReLU explains it"),
        ((BETTER, WORSE, BETTER), "a part of it"),
        ((BETTER, NO_DIFFERENCE, BETTER), "does not explain it"),
        ((BETTER, INCONCLUSIVE, WORSE), "do not settle how much"),
        ((BETTER, WORSE, INCONCLUSIVE), "do not settle how much"),
    ],
)
def test_the_relus_verdict(verdicts, said):
    assert said in questions.relu_verdict(*verdicts)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ((INCONCLUSIVE, WORSE), "whether the network is a second cause remains open"),
        ((NO_DIFFERENCE, WORSE), "as good as ResNet50"),
        ((BETTER, INCONCLUSIVE), "do not settle what the stem does"),
        ((BETTER, NO_DIFFERENCE), "the stem does not hold SKNet50 back**."),
    ],
)
def test_the_stems_verdict(verdicts, said):
    assert said in questions.stem_verdict(*verdicts)


def test_one_seed_decides_nothing(tmp_path):
    for text in answers(load_results(write(tmp_path, seeds=(0,)))):
        verdict = text.rsplit("**Verdict.**", 1)[1]
        assert "nconclusive" in verdict or "**open**" in verdict
        assert "None" not in text
        assert "nan" not in text


def test_networks_that_are_missing_are_named_with_what_to_run(tmp_path):
    missing = [f"sknet50_imagenet_stem-seed{seed}" for seed in (0, 1, 2)]
    _, relu, stem = answers(load_results(write(tmp_path, missing=missing)))
    assert "Not answered" not in relu
    assert "no finished run of sknet50_imagenet_stem" in stem
    assert "`make reproduce STUDY=source_a_narrow`" in stem
    assert "SKNet50 back" not in stem


def test_another_study_answers_nothing_and_draws_nothing(tmp_path):
    study = load_results(write_study(tmp_path, THREE, images=100))
    size, relu, stem = answers(study)
    assert "no finished run of its resnet50" in size
    assert "Not answered" in relu
    assert "Not answered" in stem
    drawn = plots.crossed(questions.stem_cells(study), {}, factor="stem")
    assert [text.get_text() for text in drawn.texts] == ["no finished run"]
    plt.close("all")


def test_without_results_it_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"make reproduce STUDY=source_a_narrow.*STUDY=source_a_short`"):
        questions.load(str(tmp_path / "nothing"))


def test_without_a_published_study_the_questions_are_open_and_the_plan_is_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(questions, "STUDIES", ("source_a",))
    monkeypatch.setattr(questions, "published_folder", lambda name: tmp_path / name)
    study = questions.load("")
    assert study.study["name"] == "source_a"
    assert study.done.empty and len(study.runs) == 55
    for text in answers(study):
        assert "**Verdict.**" in text and ("Not answered" in text or "**open**" in text)


def test_what_differs_comes_from_the_record(whole):
    said = questions.controls(whole, (questions.SK_STEM, questions.PLAIN_STEM, questions.RELU))
    sk, plain, relu = said.splitlines()
    assert "stem: imagenet, default; select_bias: True, default (more than one thing" in sk
    assert plain.endswith("differ in stem: imagenet, default.")
    assert "source_a_senet50, se_resnet50" in relu


def test_what_two_networks_differ_in_beside_their_names_is_said(whole):
    study = copy.deepcopy(whole.study)
    runs = {run["label"]: run for run in study["runs"]}
    for label, init in (("source_a_senet50", "pytorch"), ("se_resnet50", "kaiming")):
        runs[label]["knobs"] = runs[label]["knobs"] | {"init": init}
    said = questions.controls(replace(whole, study=study), (questions.RELU,))
    assert "init: pytorch, kaiming (more than one thing: their effects are not told apart)" in said


def test_published_runs_have_wilsons_interval_and_the_published_size():
    table = questions.published_runs().set_index("label")
    assert table.loc["source_a_resnet50", "params"] == 23_520_842
    assert table.loc["resnet56", "params"] == 850_000
    wilson = stats.wilson_interval(9303, 10_000)
    assert tuple(table.loc["resnet56", ["low", "high"]]) == (wilson.low, wilson.high)
    assert (table["low"] < table["mean"]).all()


@pytest.mark.parametrize(("resnet56", "said"), [(0.6, "accounts for a part of the gap"), (0.8, "order is the reverse")])
def test_question_one_is_answered_where_the_study_has_a_resnet56(tmp_path, resnet56, said):
    small = {"model": "resnet56", "params": 850_000, "macs": 126_000_000, "accuracy": resnet56, "seconds": 80.0}
    networks = {"resnet50": SOURCE_A["resnet50"], "resnet56": small}
    study = load_results(write_study(tmp_path, networks, comparisons=[questions.SIZE], images=2000))
    assert said in questions.answer_size(study, questions.published_runs())


def test_no_torch_is_imported():
    code = "import sys, source_a_questions, senet_lib.analysis.plots; print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=NOTEBOOK.parent, check=True, capture_output=True, text=True
        ).stdout
        == "False\n"
    )


def test_the_notebook_runs_headless_on_a_whole_study(whole, tmp_path):
    executed = execute(NOTEBOOK, tmp_path / "executed.ipynb", {"results": str(whole.path)}, cwd=str(NOTEBOOK.parent))
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    said = "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)
    assert said.count("**Verdict.**") == 3
    assert re.findall(r"\*\*Figure (\d)\.", said) == ["2", "3", "4"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_without_results_the_notebook_stops_with_the_command(tmp_path):
    source = nbformat.read(NOTEBOOK, as_version=4)
    (load,) = [cell for cell in source.cells if cell.id == "load"]
    with pytest.raises(FileNotFoundError, match="make reproduce STUDY=source_a_narrow"):
        exec(load.source, {"results": str(tmp_path / "nothing")})
