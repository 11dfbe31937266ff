"""Studies: which runs a file plans, and how errors in it are reported."""

import pytest
import yaml

from senet_lib.models import resolve_knobs
from senet_lib.project import project_root
from senet_lib.study import Recipe, RunConfig, Study, StudyError, list_studies, load_study

STUDIES = project_root() / "studies"
MINIMAL = {"question": "?", "seeds": [0, 1], "networks": {"resnet20": None, "se": {"model": "se_resnet20"}}}
IN_TRAINING_MODE = {"evaluate_in_training_mode": True}
# (change to MINIMAL, what the error must name)
WRONG = [
    ({"recipe": {"epoch": 3}}, ["'recipe.epoch'", "'epochs'"]),
    ({"networks": {"a": {"model": "resnet20", "knob": {}}}}, ["'networks.a.knob'", "'knobs'"]),
    ({"recipe": {"epoch": 3}, "sed": 1}, ["'recipe.epoch'", "'sed'", "'seeds'"]),
    ({"data": "cifr10"}, ["'cifr10'", "'cifar10'"]),
    ({"seeds": [1, 1]}, ["seeds"]),
    ({"seeds": []}, ["seeds"]),
    ({"seeds": [-1]}, ["seeds.0"]),
    ({"networks": {}}, ["networks"]),
    ({"networks": {"../up": {"model": "resnet20"}}}, ["'../up'"]),
    ({"baseline": "resnet2"}, ["'resnet2'", "'resnet20'"]),
    ({"networks": {"a" * 101: {"model": "resnet20"}}}, ["'aaa", "1 to 100"]),
    ({"networks": {"A": {"model": "resnet20"}, "a": {"model": "se_resnet20"}}}, ["'A'", "'a'", "case"]),
    ({"recipe": {"epochs": True}}, ["recipe.epochs", "True"]),
    ({"recipe": {"lr": "0.1"}}, ["recipe.lr", "'0.1'"]),
    ({"seeds": ["010"]}, ["seeds.0", "'010'"]),
    ({"recipe": {"warmup_epochs": 10}}, ["warmup_epochs"]),
    ({"recipe": {"lr": float("nan")}}, ["recipe.lr"]),
    ({"recipe": {"nesterov": True, "momentum": 0}}, ["nesterov"]),
    ({"recipe": {"milestones": [0.7, 0.5]}}, ["milestones"]),
    ({"recipe": {**IN_TRAINING_MODE, "averaging": "ema"}}, ["averaging"]),
    ({"recipe": {**IN_TRAINING_MODE, "test_time_augmentation": True}}, ["test_time_augmentation"]),
    ({"recipe": {"averaging": "swa"}}, ["recipe.averaging", "'ema'", "'lookahead'"]),
    ({"recipe": {"bias_lr_factor": 0}}, ["recipe.bias_lr_factor"]),
    ({"name": "other"}, ["name"]),
    ({"make_variables": {"STUDY": "other"}}, ["make_variables"]),
    ({"comparisons": [["se", "resnet2"]]}, ["comparisons", "'resnet2'", "'resnet20'"]),
    ({"comparisons": [["se", "se"]]}, ["comparisons", "'se'"]),
    ({"comparisons": [["se", "resnet20"], ["resnet20", "se"]]}, ["comparisons", "'resnet20' and 'se'", "twice"]),
    ({"question": "\ud800"}, ["question", "Unicode"]),
    ({"recipe": {"epochs": 10**10}}, ["recipe.epochs", "1000000"]),
    ({"networks": {"a": {"model": "resnet20", "knobs": {"name": "x"}}}}, ["networks.a", "'name'"]),
    ({"twin": "../elsewhere"}, ["twin is '../elsewhere'", "the name of another study"]),
    ({"x": 1}, ["unknown key 'x'", "verdicts", "twin"]),
    ({"networks": {"a": {"model": "resnet20", "recipe": {"lrr": 1}}}}, ["networks.a.recipe", "'lrr'", "lr"]),
    ({"networks": {"a": {"model": "resnet20", "recipe": {"lr": 0}}}}, ["networks.a.recipe", "lr"]),
    ({"networks": {"b": {"model": "resnet21"}}}, ["networks.b", "'resnet21'", "resnet20"]),
    ({"networks": {"b": {"model": "se_resnet20", "knobs": {"reduktion": 4}}}}, ["networks.b", "'reduktion'"]),
    ({"networks": {"b": {"model": "resnet20", "knobs": {"branches": 2}}}}, ["networks.b", "'branches'"]),
]
# What YAML 1.1 reads differently than a person, or not at all; what the error must name
PITFALLS = {
    "networks: {no: }": ["line 1", "'no'", "quotes"],
    "networks:\n  20:\n": ["line 2", "'20'", "quotes"],
    "networks: {2020-01-01: }": ["'2020-01-01'"],
    "networks: {~: }": ["'~'"],
    "networks: {5e-1: }": ["'5e-1'"],
    "seeds: [001, 010]": ["001", "leading zero"],
    "seeds: [010]": ["010"],
    "seeds: [1:30]": ["1:30"],
    "seeds: [yes]": ["seeds.0", "True"],
    "seeds: [2020-99-99]": ["month"],
    "baseline: !!timestamp a": ["not a readable YAML file"],
    "timed: !!bool x": ["not a readable YAML file"],
    "data: {{ DATA }}": ["line 1", "quotes"],
    "data: {[a]: 1}": ["list", "quotes"],
    "networks: {<<: 5}": ["merging"],
    "networks: {resnet20: , resnet20: }": ["duplicate", "'resnet20'"],
    f"networks: {'[' * 600}": ["not a readable YAML file"],
}
NO_MAPPING = [
    "question: [",
    "just text",
    "question: a\nquestion: b\n",
    "question: !!python/object/apply:os.system ['true']\nseeds: [0]\nnetworks: {resnet20: }\n",
]


@pytest.fixture
def written(tmp_path):
    def write(content):
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return load_study("mine", tmp_path)

    return write


def refused(load, case):
    """The message of the StudyError that `load` raises."""
    try:
        load()
    except StudyError as error:
        return str(error)
    return pytest.fail(f"accepted {case}")


def test_studies_of_the_project_resolve():
    names = list_studies(STUDIES)
    assert len(names) > 10
    for name in names:
        study = load_study(name, STUDIES)
        hashes = [run.hash for run in study.runs()]
        assert len(hashes) == len(study.seeds) * len(study.networks), name
        assert len(set(hashes)) == len(hashes), f"{name} plans a run twice"


def test_equal_networks_are_refused():
    """They would have equal results and count twice. With LIMIT_EPOCHS, networks may differ only in their epochs."""
    networks = {"a": {"model": "resnet20"}, "b": {"model": "resnet20", "recipe": {"epochs": 20}}}
    study = Study(name="s", question="q", seeds=[0, 1], networks=networks)
    assert len(study.runs()) == len(study.override(limit_epochs=1).runs()) == 4
    networks["b"]["recipe"]["epochs"] = Recipe().epochs
    study = Study(name="s", question="q", seeds=[0, 1], networks=networks)
    message = "study 's': networks.b: the same model, options and recipe as a, so its runs would count twice"
    with pytest.raises(StudyError, match=message):
        study.runs()


def test_studies_are_found_by_name(tmp_path):
    (tmp_path / "archive").mkdir()
    for path in (tmp_path / "b.yaml", tmp_path / "archive" / "a.yaml"):
        path.write_text(yaml.safe_dump(MINIMAL), encoding="utf-8")
    assert list_studies(tmp_path) == ["b", "a"]
    assert load_study("a", tmp_path).name == "a"
    with pytest.raises(StudyError, match="'quick'"):
        load_study("quik", STUDIES)


def test_runs_take_seeds_defaults_and_own_recipes(written):
    study = written(MINIMAL)
    assert [run.run_id for run in study.runs()] == ["resnet20-seed0", "se-seed0", "resnet20-seed1", "se-seed1"]
    assert study.runs()[1].knobs == resolve_knobs("se_resnet20")
    assert study.baseline_label == "resnet20"

    networks = {"a": {"model": "resnet20"}, "b": {"model": "resnet20", "recipe": {"lr": 0.5, "epochs": 4}}}
    study = written({**MINIMAL, "recipe": {"lr": 0.2, "epochs": 6, "warmup_epochs": 2}, "networks": networks})
    a, b = study.runs()[:2]
    assert (a.recipe.lr, a.recipe.epochs) == (0.2, 6)
    assert b.recipe == a.recipe.model_copy(update={"lr": 0.5, "epochs": 4})
    assert a.hash != b.hash
    short = study.override(limit_epochs=3).runs()[:2]
    assert [run.recipe.epochs for run in short] == [3, 3]
    assert short[0].recipe.warmup_epochs == 1.5


def test_overrides_go_under_another_name(written):
    study = written({**MINIMAL, "recipe": {"epochs": 5, "warmup_epochs": 2}})
    assert study.override() == study
    short = study.override(data="cifar10", limit_epochs=1)
    assert (short.name, short.data, short.recipe.epochs) == ("mine+cifar10+1epoch", "cifar10", 1)
    assert short.make_variables == {"STUDY": "mine", "DATA": "cifar10", "LIMIT_EPOCHS": 1}
    assert short.recipe.warmup_epochs < 1
    assert study.override(limit_epochs=9) == study, "a limit above the study's epochs changes nothing"


def test_errors_name_key_and_allowed_values(written):
    for change, names in WRONG:
        message = refused(lambda content=MINIMAL | change: written(content).runs(), change)
        assert "\n" not in message, change
        for name in names:
            assert name in message, f"{name} is not in: {message}"
    for text in NO_MAPPING:
        assert "mine.yaml" in refused(lambda text=text: written(text), text)


def test_yaml_pitfalls_are_named(written):
    for text, names in PITFALLS.items():
        message = refused(lambda text=text: written(text), text)
        assert "\n" not in message, text
        for name in ("mine.yaml", *names):
            assert name in message, f"{name} is not in: {message}"
    labels = written("question: '?'\nseeds: [0]\nnetworks: {'no': &a {model: resnet20}, '20': *a}").networks
    assert list(labels) == ["no", "20"]


def test_yaml_numbers_and_merged_keys(written):
    study = written(
        "question: '?'\nseeds: [1_000, 1e1]\nrecipe: {<<: {lr: 1e-2, epochs: 3}, epochs: 4}\nnetworks:\n"
        "  a: &a {model: resnet20, knobs: &k {width: 5e-1}}\n"
        "  b: {<<: *a, recipe: {lr: .5E-1}}\n"
        "  c: {<<: [{knobs: {<<: *k, stem: imagenet}}, *a]}\n"
    )
    assert study.seeds == (1000, 10)
    assert (study.recipe.lr, study.recipe.epochs) == (0.01, 4)
    assert study.recipe_of("b").lr == 0.05
    assert [run.knobs["width"] for run in study.runs()[:3]] == [0.5] * 3
    assert [run.knobs["stem"] for run in study.runs()[:3]] == ["cifar", "cifar", "imagenet"]


def test_names_of_other_folders_are_refused(tmp_path):
    for name in ("published", "archive", "notebooks", ".hidden", "n" * 101):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(MINIMAL), encoding="utf-8")
        assert name in refused(lambda path=path: load_study(str(path), tmp_path), name)


def test_base_recipe_equals_its_options_written_out(written, tmp_path):
    (tmp_path / "recipes").mkdir()
    options = {"epochs": 6, "lr": 0.4, "warmup_epochs": 1, "nesterov": False}
    recipes = {"quickly": yaml.safe_dump(options), "wrong": "{epoch: 3}", "text": "epochs"}
    for name, text in recipes.items():
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text, encoding="utf-8")
    composed = written({**MINIMAL, "recipe": {"base": "quickly", "epochs": 30}})
    assert composed == written({**MINIMAL, "recipe": {**options, "epochs": 30}})
    assert (composed.recipe.epochs, composed.recipe.lr) == (30, 0.4)
    wrong = {
        "quikly": ["mine.yaml", "recipe.base", "'quikly'", "'quickly'"],
        ("quickly",): ["mine.yaml", "recipe.base", "'quickly'"],
        "wrong": ["wrong.yaml", "'epoch'", "'epochs'"],
        "text": ["text.yaml"],
    }
    for base, names in wrong.items():
        recipe = {"base": base if isinstance(base, str) else list(base)}
        message = refused(lambda recipe=recipe: written({**MINIMAL, "recipe": recipe}), base)
        for name in names:
            assert name in message, f"{name} is not in: {message}"


def run(**changes):
    content = {"study": "s", "label": "l", "model": "se_resnet20", "data": "digits", "seed": 0, "recipe": {}}
    knobs = resolve_knobs("se_resnet20", **changes.pop("knobs", {}))
    return RunConfig.from_parameters(knobs=knobs, **(content | changes))


def test_hash_covers_what_changes_a_number():
    assert run().hash == "d9a012fe83e9d4fe"
    assert run(study="other", label="another").hash == run().hash
    assert run(recipe={"lr": 0.1}).hash == run().hash, "a default written out"
    others = [run(seed=1), run(data="cifar10"), run(knobs={"reduction": 4})]
    others += [run(recipe={"lr": 0.2}), run(recipe={"epochs": 11})]
    assert len({run().hash, *(other.hash for other in others)}) == 6
    with pytest.raises(StudyError, match="seed") as error:
        run(seed=-1, recipe={"epoch": 2})
    assert "'recipe.epoch'" in str(error.value)
    with pytest.raises(StudyError, match="'digit'"):
        run(data="digit")


def test_defaults_are_pinned():
    """The hash leaves defaults out: a new default would silently change what published runs mean."""
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
        "gpu_kernels": "deterministic",
        "holdout": 0,
        "decoupled": False,
        "bias_lr_factor": 1.0,
        "synchronise_batch_norm": True,
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


def test_quick_gives_no_verdicts_and_other_records_stay():
    quick, thin = (load_study(name, project_root() / "studies") for name in ("quick", "thin"))
    assert quick.record()["verdicts"] is False
    assert "verdicts" not in thin.record()
