"""From the command line to the report, in processes of their own, as a user and a scheduler would start them."""

import json
import re
import shutil

import pandas as pd
import pytest
import torch
from project_folder import TINY

from senet_lib.files import read_json
from senet_lib.results import altered_files, load_results, read_history


def test_a_study_from_its_file_to_its_report_and_a_second_time_nothing_is_done(project):
    code, output = project.launch("reproduce", "tiny")
    assert code == 0, output
    results = load_results(project.root / "results" / "tiny")
    assert list(results.runs["status"]) == ["done", "done"]
    assert len(results.predictions) == 2 * 24
    for run_id in ("resnet-seed0", "se-seed0"):
        run_dir = project.run_dir(run_id)
        assert altered_files(run_dir) == []
        assert {path.name for path in run_dir.iterdir()} >= {
            *("config.json", "history.csv", "predictions.npz", "summary.json", "environment.json", "notebook.ipynb"),
            "checkpoint.pt",
        }
        assert not list(run_dir.glob("*.tmp")) + list(run_dir.glob("*partial*"))
        config = read_json(run_dir / "config.json")
        assert config["hash"] == read_json(run_dir / "summary.json")["hash"]
        assert config["recipe"]["momentum"] == 0.9, "every default is written out"
        executed = json.loads((run_dir / "notebook.ipynb").read_text(encoding="utf-8"))
        outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in outputs), "it has its figures"
    report = (project.root / "results" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "Does it run?" in report
    assert "grey <b>" not in report
    assert "<script" not in report

    before = {path: path.stat().st_mtime_ns for path in (project.root / "results").rglob("*") if path.is_file()}
    code, output = project.launch("reproduce", "tiny")
    assert code == 0, output
    assert "2 runs, 2 done before" in output
    after = {path: path.stat().st_mtime_ns for path in (project.root / "results").rglob("*") if path.is_file()}
    assert after == before

    project.write_study("tiny", {**TINY, "data": f"folder:{project.images}", "question": "And now?"})
    code, output = project.launch("reproduce", "tiny")
    assert code == 0, output
    assert "2 runs, 2 done before" in output
    assert "And now?" in (project.root / "results" / "tiny" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["reproduce", "tinny"], ["'tinny'", "'tiny'"]),
        (["reproduce", "bad_network"], ["'resnet21'", "resnet20"]),
        (["reproduce", "bad_key"], ["bad_key.yaml", "'recipe.epoch'", "'epochs'"]),
        (["reproduce", "bad_knob"], ["bad_knob", "reduction"]),
        (["reproduce", "no_data"], ["nowhere"]),
        (["reproduce", "tiny", "--data", "cifr10"], ["cifr10", "'cifar10'"]),
        (["reproduce", "tiny", "--limit-epochs", "0"], ["LIMIT_EPOCHS"]),
        (["reproduce", "tiny", "--jobs", "0"], ["JOBS"]),
        (["report", "tiny"], ["no results"]),
        (["publish", "tiny"], ["no seed that all of its networks have finished", "resnet-seed0"]),
        (["archive", "tiny"], ["no results"]),
    ],
)
def test_bad_input_is_one_line_code_2_and_nothing_written(project, arguments, named):
    study = {**TINY, "data": f"folder:{project.images}"}
    project.write_study("bad_network", {**study, "networks": {"resnet21": None}})
    project.write_study("bad_key", {**study, "recipe": {"epoch": 1}})
    knobs = {"model": "se_resnet20", "knobs": {"reduction": 1000}}
    project.write_study("bad_knob", {**study, "networks": {"resnet20": None, "se": knobs}})
    project.write_study("no_data", {**study, "data": "folder:nowhere"})
    code, output = project.launch(*arguments)
    assert code == 2, output
    lines = [line for line in output.splitlines() if line]
    assert len(lines) == 1, output
    assert all(part in lines[0] for part in ("error: ", *named))
    assert not (project.root / "results").exists()


def test_a_failed_run_is_shown_as_failed_after_the_others_were_done(project):
    # Decay of a thousand makes the weights grow step by step, and the loss overflows in the second epoch
    late = {**TINY["networks"]["resnet"], "recipe": {"weight_decay": 1e3, "schedule": "constant"}}
    at_once = {**TINY["networks"]["se"], "recipe": {"lr": 1e30}}
    study = {**TINY, "data": f"folder:{project.images}", "recipe": {**TINY["recipe"], "epochs": 3}}
    project.write_study("broken", {**study, "networks": {"diverges": late, "too": at_once}})
    code, output = project.launch("reproduce", "broken", "--jobs", "2")
    assert code == 1, output
    results = load_results(project.root / "results" / "broken")
    assert list(results.runs["status"]) == ["failed", "failed"], "the second was tried although the first had failed"
    for error, epoch in zip(results.runs["error"], (2, 1), strict=True):
        assert re.search(f"NonFiniteLoss: the loss is nan in epoch {epoch}, step . of 6, learning rate ", error)
    kept = torch.load(project.run_dir("diverges-seed0", "broken") / "checkpoint.pt", weights_only=True)
    assert len(kept["history"]) == 1, "the last good one"
    assert list(results.history["epoch"]) == [1], "what was trained is shown"
    table = (project.root / "results" / "broken" / "tables" / "runs.csv").read_text(encoding="utf-8")
    assert table.count(",failed,") == 2
    report = (project.root / "results" / "broken" / "report.html").read_text(encoding="utf-8")
    assert "failed" in report
    assert "NonFiniteLoss" in report


def test_a_changed_recipe_is_another_run_said_aloud_and_the_earlier_one_is_kept(project):
    networks = {"resnet": TINY["networks"]["resnet"]}
    study = {**TINY, "data": f"folder:{project.images}", "networks": networks}
    project.write_study("tiny", study)
    assert project.launch("reproduce", "tiny")[0] == 0
    first = read_json(project.run_dir("resnet-seed0") / "summary.json")
    project.write_study("tiny", {**study, "recipe": {**TINY["recipe"], "lr": 0.03}})
    code, output = project.launch("reproduce", "tiny")
    assert code == 0, output
    assert "recipe changed" in output
    assert read_json(project.run_dir("resnet-seed0") / "summary.json")["hash"] != first["hash"]
    kept = list(project.run_dir("resnet-seed0").parent.glob(".resnet-seed0.superseded-*/summary.json"))
    assert [read_json(path) for path in kept] == [first]


def test_an_altered_file_is_named_and_only_that_run_is_done_again(project):
    assert project.launch("reproduce", "tiny")[0] == 0
    assert project.launch("verify", "tiny") == (0, "2 finished runs, 0 damaged files\n")
    before = {run_id: read_json(project.run_dir(run_id) / "summary.json") for run_id in ("resnet-seed0", "se-seed0")}
    other = (project.run_dir("resnet-seed0") / "summary.json").stat().st_mtime_ns

    history = project.run_dir("se-seed0") / "history.csv"
    history.write_text(history.read_text(encoding="utf-8").replace("0.", "0.9", 1), encoding="utf-8")
    (project.run_dir("se-seed0") / "predictions.npz").unlink()
    code, output = project.launch("verify", "tiny")
    assert code == 1
    assert "results/tiny/runs/se-seed0/history.csv: not what the run recorded" in output
    assert "results/tiny/runs/se-seed0/predictions.npz: missing" in output

    code, output = project.launch("reproduce", "tiny")
    assert code == 0
    assert "2 runs, 1 done before" in output
    assert "se-seed0: history.csv, predictions.npz missing or not as recorded" in output
    assert (project.run_dir("resnet-seed0") / "summary.json").stat().st_mtime_ns == other
    after = read_json(project.run_dir("se-seed0") / "summary.json")
    for name in ("predictions.npz", "weights.safetensors"):
        assert after["files"][name] == before["se-seed0"]["files"][name]
    assert project.launch("verify", "tiny")[0] == 0


def test_a_dry_run_and_a_plan(project):
    project.write_study("tiny", {**TINY, "data": f"folder:{project.images}", "recipe": {"epochs": 50}})
    code, output = project.launch("plan", "tiny")
    assert code == 0, output
    assert "resnet-seed0" in output
    assert "to do" in output
    assert "On one H100 perhaps " in output
    assert not (project.root / "results").exists()
    code, output = project.launch("reproduce", "tiny", "--limit-epochs", "1")
    assert code == 0, output
    assert len(read_history(project.run_dir("se-seed0", "tiny+1epoch"))) == 1


def test_published_results_hold_the_numbers_and_the_small_weights_of_the_first_seed(project):
    networks = {"se": TINY["networks"]["se"], "large": {"model": "resnet20", "knobs": {"width": 2}}}  # of 3.4 MB
    study = {**TINY, "data": f"folder:{project.images}", "networks": networks, "seeds": [3, 0]}
    project.write_study("tiny", study)
    assert project.launch("reproduce", "tiny")[0] == 0
    code, output = project.launch("publish", "tiny")
    assert code == 0, output
    published = project.root / "results" / "published" / "tiny"
    assert load_results(published).runs.equals(load_results(project.root / "results" / "tiny").runs)
    kinds = {path.suffix for path in published.rglob("*") if path.is_file()}
    assert kinds == {".json", ".csv", ".npz", ".png", ".safetensors"}, "figures once, no report"
    weights = {path.parent.name for path in published.rglob("*.safetensors")}
    assert weights == {"se-seed3"}, "neither the large network's nor the second seed's"

    assert project.launch("verify", "tiny") == (0, "8 finished runs, 0 damaged files\n")
    damaged = published / "runs" / "se-seed3" / "weights.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, output = project.launch("verify", "tiny")
    assert code == 1
    assert "se-seed3/weights.safetensors: not what the run recorded" in output


def test_a_published_study_is_extended_by_training_only_what_is_missing(project):
    code, output = project.launch("restore", "tiny")
    assert (code, output) == (
        2,
        "error: no finished run of tiny, as it is configured now, is published or archived\n",
    )
    assert project.launch("reproduce", "tiny")[0] == project.launch("publish", "tiny")[0] == 0
    before = load_results(project.root / "results" / "tiny").runs
    shutil.rmtree(project.root / "results" / "tiny")

    third = {"plain": {"model": "resnet20", "knobs": {"width": 0.25}}}
    asked = {**TINY, "data": f"folder:{project.images}", "networks": {**TINY["networks"], **third}}
    project.write_study("tiny", asked)
    assert project.launch("restore", "tiny") == (0, "restored: 2 of 3 runs\n")
    assert project.launch("restore", "tiny")[1].startswith("restored: 0 of 3")
    code, output = project.launch("reproduce", "tiny")
    assert code == 0
    assert "3 runs, 2 done before" in output
    assert "yours against published" in output
    lines = [line for line in output.splitlines() if "0.00 pp apart (n = 1: no interval)" in line]
    assert [line.split()[0] for line in lines] == ["resnet", "se"]
    after = load_results(project.root / "results" / "tiny").runs
    assert after[after["label"] != "plain"].reset_index(drop=True).equals(before)
    assert project.launch("publish", "tiny")[0] == 0


def test_complete_seeds_are_published_and_an_archived_study_is_restored_with_its_report(project):
    study = {**TINY, "data": f"folder:{project.images}"}
    project.write_study("tiny", {**study, "seeds": [0, 1]})
    assert project.launch("reproduce", "tiny")[0] == 0
    shutil.rmtree(project.run_dir("se-seed1"))
    shutil.copytree(project.run_dir("resnet-seed0"), aside := project.root / "aside")
    code, output = project.launch("publish", "tiny")
    assert code == 0, output
    published = project.root / "results" / "published" / "tiny"
    assert {path.name for path in (published / "runs").iterdir()} == {"resnet-seed0", "se-seed0"}
    before = load_results(published)
    assert list(pd.read_csv(published / "tables" / "networks.csv")["n"]) == [1, 1], (
        "not resnet-seed1, which is finished"
    )

    assert project.launch("archive", "tiny") == (0, "archived: results/archive/tiny.zip\n")
    archive = project.root / "results" / "archive" / "tiny.zip"
    first = archive.read_bytes()
    assert set(load_results(archive).done["run_id"]) == {"resnet-seed0", "se-seed0", "resnet-seed1"}
    packed = load_results(archive).predictions
    assert packed[packed["seed"] == 0].reset_index(drop=True).equals(before.predictions)
    shutil.rmtree(published)
    shutil.rmtree(project.root / "results" / "tiny")
    assert project.launch("verify", "tiny") == (0, "3 finished runs, 0 damaged files\n")
    assert project.launch("restore", "tiny") == (0, "restored: 3 of 4 runs\n")
    for name in ("config.json", "history.csv", "predictions.npz", "summary.json", "environment.json"):
        assert (project.run_dir("resnet-seed0") / name).read_bytes() == (aside / name).read_bytes()
    shutil.move(project.images, project.root / "gone")
    code, output = project.launch("report", "tiny")
    assert code == 0, output
    assert "Does it run?" in (project.root / "results" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert project.launch("archive", "tiny")[0] == 0
    assert archive.read_bytes() == first
