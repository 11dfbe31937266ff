"""Studies: what a file says is what is run, and what is wrong with it is said in one line."""

import pytest
import yaml

from senet_lib.models import resolve_knobs
from senet_lib.project import project_root
from senet_lib.study import Recipe, RunConfig, StudyError, list_studies, load_study

STUDIES = project_root() / "studies"
MINIMAL = {"question": "?", "seeds": [0, 1], "networks": {"resnet20": None, "se": {"model": "se_resnet20"}}}


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")
        return load_study("mine", tmp_path)

    return write


@pytest.mark.parametrize("name", list_studies(STUDIES))
def test_every_study_of_the_project_resolves(name):
    study = load_study(name, STUDIES)
    runs = study.runs()
    assert len(runs) == len(study.seeds) * len(study.networks)
    assert len({run.hash for run in runs}) == len(runs), "two runs of a study are the same run"


def test_runs_come_seed_by_seed_with_every_default_written_out(written):
    study = written(MINIMAL)
    assert [run.run_id for run in study.runs()] == ["resnet20-seed0", "se-seed0", "resnet20-seed1", "se-seed1"]
    assert study.runs()[1].knobs == resolve_knobs("se_resnet20")
    assert study.baseline_label == "resnet20"


def test_a_networks_own_recipe_changes_its_runs_alone(written):
    networks = {"a": {"model": "resnet20"}, "b": {"model": "resnet20", "recipe": {"lr": 0.5, "epochs": 4}}}
    study = written({**MINIMAL, "recipe": {"lr": 0.2, "epochs": 6, "warmup_epochs": 2}, "networks": networks})
    a, b = study.runs()[:2]
    assert (a.recipe.lr, a.recipe.epochs) == (0.2, 6)
    assert b.recipe == a.recipe.model_copy(update={"lr": 0.5, "epochs": 4})
    assert a.hash != b.hash
    short = study.override(limit_epochs=3)
    assert [run.recipe.epochs for run in short.runs()[:2]] == [3, 3]
    assert short.runs()[0].recipe.warmup_epochs == 1.5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": {"epoch": 3}}, ["mine.yaml", "'recipe.epoch'", "'epochs'"]),
        ({"networks": {"a": {"model": "resnet20", "knob": {}}}}, ["'networks.a.knob'", "'knobs'"]),
        ({"sed": [1]}, ["'sed'", "'seeds'"]),
        ({"data": "cifr10"}, ["'cifr10'", "'cifar10'"]),
        ({"seeds": [1, 1]}, ["seeds [1, 1] repeat"]),
        ({"seeds": []}, ["seeds"]),
        ({"seeds": [-1]}, ["seeds.0"]),
        ({"networks": {}}, ["networks"]),
        ({"networks": {"../up": {"model": "resnet20"}}}, ["'../up'"]),
        ({"baseline": "resnet2"}, ["'resnet2'", "'resnet20'"]),
        ({"recipe": {"warmup_epochs": 10}}, ["warmup_epochs"]),
        ({"recipe": {"lr": float("nan")}}, ["recipe.lr"]),
        ({"recipe": {"nesterov": True, "momentum": 0}}, ["nesterov"]),
        ({"recipe": {"milestones": [0.7, 0.5]}}, ["milestones"]),
        ({"recipe": {"evaluate_in_training_mode": True}}, ["source_notes"]),
        ({"recipe": {"evaluate_in_training_mode": True, "averaging": "ema"}}, ["neither averaging"]),
        ({"recipe": {"evaluate_in_training_mode": True, "test_time_augmentation": True}}, ["test_time_augmentation"]),
        ({"recipe": {"averaging": "swa"}}, ["recipe.averaging", "'ema'", "'lookahead'"]),
        ({"recipe": {"bias_lr_factor": 0}}, ["recipe.bias_lr_factor"]),
        ({"name": "other"}, ["named by its file"]),
        ({"comparisons": [["se", "resnet2"]]}, ["comparisons", "'resnet2'", "'resnet20'"]),
        ({"comparisons": [["se", "se"]]}, ["comparisons", "'se'", "itself"]),
        ({"networks": {"a": {"model": "resnet20", "recipe": {"lrr": 1}}}}, ["networks.a.recipe", "'lrr'", "lr"]),
        ({"networks": {"a": {"model": "resnet20", "recipe": {"lr": 0}}}}, ["networks.a.recipe", "lr"]),
    ],
)
def test_an_error_is_one_line_that_names_the_key_and_what_is_allowed(written, change, named):
    with pytest.raises(StudyError) as error:
        written({**MINIMAL, **change})
    message = str(error.value)
    assert "\n" not in message
    for part in named:
        assert part in message


@pytest.mark.parametrize(
    ("network", "named"),
    [
        ({"model": "resnet21"}, ["networks.b", "'resnet21'", "resnet20"]),
        ({"model": "se_resnet20", "knobs": {"reduktion": 4}}, ["networks.b", "'reduktion'", "reduction"]),
        ({"model": "resnet20", "knobs": {"branches": 2}}, ["'branches'"]),
    ],
)
def test_an_unknown_network_or_knob_is_found_before_anything_is_built(written, network, named):
    study = written({**MINIMAL, "networks": {"b": network}})
    with pytest.raises(StudyError) as error:
        study.runs()
    for part in named:
        assert part in str(error.value)


def test_all_errors_of_a_file_are_in_one_message(written):
    with pytest.raises(StudyError, match=r"(?s)'recipe\.epoch'.*'sed'|'sed'.*'recipe\.epoch'"):
        written({**MINIMAL, "recipe": {"epoch": 3}, "sed": 1})


@pytest.mark.parametrize(
    "text",
    [
        "question: [",
        "just text",
        "question: a\nquestion: b\n",
        "question: !!python/object/apply:os.system ['true']\nseeds: [0]\nnetworks: {resnet20: }\n",
    ],
)
def test_a_file_that_is_no_plain_mapping_is_refused(written, text):
    with pytest.raises(StudyError, match=r"mine\.yaml"):
        written(text)


@pytest.fixture
def recipes(tmp_path):
    (tmp_path / "recipes").mkdir()
    base = {"epochs": 6, "lr": 0.4, "warmup_epochs": 1, "nesterov": False}
    (tmp_path / "recipes" / "quickly.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    return base


def test_a_base_recipe_gives_the_same_runs_as_its_options_written_out(written, recipes):
    composed = written({**MINIMAL, "recipe": {"base": "quickly", "epochs": 30}})
    assert composed == written({**MINIMAL, "recipe": {**recipes, "epochs": 30}})
    assert (composed.recipe.epochs, composed.recipe.lr) == (30, 0.4)


def test_a_base_recipe_that_is_unknown_or_wrong_is_one_line(written, recipes, tmp_path):
    with pytest.raises(StudyError, match=r"mine.yaml: recipe.base: unknown recipe 'quikly'; did you mean 'quickly'"):
        written({**MINIMAL, "recipe": {"base": "quikly"}})
    with pytest.raises(StudyError, match=r"recipe.base: unknown recipe \['quickly'\]; did you mean 'quickly'"):
        written({**MINIMAL, "recipe": {"base": ["quickly"]}})
    (tmp_path / "recipes" / "wrong.yaml").write_text("{epoch: 3}", encoding="utf-8")
    with pytest.raises(StudyError, match=r"wrong.yaml: unknown key 'epoch'; did you mean 'epochs'"):
        written({**MINIMAL, "recipe": {"base": "wrong"}})
    (tmp_path / "recipes" / "wrong.yaml").write_text("epochs", encoding="utf-8")
    with pytest.raises(StudyError, match=r"wrong.yaml: a recipe is a mapping"):
        written({**MINIMAL, "recipe": {"base": "wrong"}})


def test_archived_studies_are_found_by_name_after_the_others(tmp_path):
    (tmp_path / "archive").mkdir()
    for path in (tmp_path / "b.yaml", tmp_path / "archive" / "a.yaml"):
        path.write_text(yaml.safe_dump(MINIMAL), encoding="utf-8")
    assert list_studies(tmp_path) == ["b", "a"]
    assert load_study("a", tmp_path).name == "a"


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(StudyError, match="did you mean 'quick'"):
        load_study("quik", STUDIES)


def test_overrides_go_under_another_name(written):
    study = written({**MINIMAL, "recipe": {"epochs": 5, "warmup_epochs": 2}})
    assert study.override() == study
    short = study.override(data="cifar10", limit_epochs=1)
    assert (short.name, short.data, short.recipe.epochs) == ("mine+cifar10+1epoch", "cifar10", 1)
    assert short.recipe.warmup_epochs < 1
    assert study.override(limit_epochs=9) == study, "a limit above the study's epochs changes nothing"


def run(**changes):
    content = {"study": "s", "label": "l", "model": "se_resnet20", "data": "digits", "seed": 0, "recipe": {}}
    return RunConfig.from_parameters(
        knobs=resolve_knobs("se_resnet20", **changes.pop("knobs", {})), **(content | changes)
    )


def test_the_hash_is_of_what_can_change_a_number():
    assert run().hash == run(study="other", label="another").hash
    others = [
        run(seed=1),
        run(data="cifar10"),
        run(knobs={"reduction": 4}),
        run(recipe={"lr": 0.2}),
        run(recipe={"epochs": 11}),
    ]
    assert len({run().hash, *(other.hash for other in others)}) == 6
    assert run(recipe={"lr": 0.1}).hash == run().hash, "a default written out is the same run"


def test_defaults_are_pinned_since_the_hash_leaves_them_out():
    """Another default would silently make published runs something else: add a switch instead, off by default."""
    assert Recipe().model_dump(mode="json") == {
        "epochs": 10,
        "batch_size": 128,
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "warmup_epochs": 0.0,
        "milestones": [0.5, 0.75],
        "decay": 0.1,
        "label_smoothing": 0.0,
        "clip_norm": None,
        "crop_padding": 4,
        "crop_fill": "black",
        "crop_size": None,
        "flip": "auto",
        "cutout": 0,
        "precision": "auto",
        "compile": False,
        "holdout": 0,
        "decoupled": False,
        "bias_lr_factor": 1.0,
        "muon_lr": None,
        "bn_momentum": 0.1,
        "averaging": "none",
        "averaging_steps": 5,
        "averaging_decay": 0.95,
        "test_time_augmentation": False,
        "whiten_stem": False,
        "first_size": None,
        "full_size_from": 0.5,
        "evaluate_in_training_mode": False,
    }
    assert resolve_knobs("sk_se_resnet20") | {"groups": 1} == {
        "stem": "cifar",
        "width": 1.0,
        "shortcut": "projection",
        "branches": 2,
        "kernels": "3x3+3x3d2",
        "groups": 1,
        "reduction": 16,
        "sk_reduction": 16,
        "min_hidden": 32,
        "select_bias": False,
        "placement": "standard",
        "squeeze": "avg",
        "excitation": "sigmoid",
        "se_bias": True,
        "init": "kaiming",
    }
    assert run().hash == "d9a012fe83e9d4fe"


def test_a_notebooks_parameters_are_checked_in_one_line():
    with pytest.raises(StudyError, match="seed") as error:
        run(seed=-1, recipe={"epoch": 2})
    assert "'recipe.epoch'" in str(error.value)
    with pytest.raises(StudyError, match="'digit'"):
        run(data="digit")
