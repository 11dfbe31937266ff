"""A study: a question, and the networks, seeds and recipe that answer it, in one validated YAML file.

A study expands to a list of `RunConfig`s, one per (network, seed). A run's `identity` holds everything that can change
a result. Its hash identifies the run, so that a finished run is never trained twice or confused with another.
Imports no torch, so that typos are reported before any slow import.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from senet_lib.data.catalog import check_name
from senet_lib.errors import UserError, did_you_mean
from senet_lib.models import resolve_knobs
from senet_lib.strict_yaml import StrictLoader

LONGEST_NAME = 100  # of a label or a study: a file's name has at most 255 bytes, also that of a run that was set aside
LABEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
MOST_EPOCHS = 1_000_000
LATER_KEYS = {"make_variables": {}, "verdicts": True, "twin": ""}  # added later: study.json omits their defaults
NOT_IN_THE_FILE = {"name", "make_variables"}  # they follow from the file's name and the command line
TAKEN = ("archive", "notebooks", "published")  # folders in results/ that belong to no study


class StudyError(UserError):
    """An invalid study: a one-line message that names the file, the key and what is allowed."""


def _number(value: Any) -> Any:
    """Refuse what would be converted silently: `yes` to 1, and the text "010" to 10."""
    if isinstance(value, bool | str):
        raise ValueError(f"{value!r} is not a number")
    return value


Integer = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Recipe(Strict):
    """How a network is trained. Every field can change a result, so every field is part of the run's hash.
    The techniques of arXiv:2404.00498 (sections given below) are off by default and work with any network.
    """

    epochs: Annotated[Integer, Field(ge=1, le=MOST_EPOCHS)] = 10
    batch_size: Annotated[Integer, Field(ge=1)] = 128
    lr: Annotated[Number, Field(gt=0)] = 0.1  # the peak, after warm-up
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[Number, Field(ge=0)] = 5e-4  # also of batch norm; source A's value (ResNet paper: 1e-4)
    schedule: Literal["cosine", "multistep", "one_cycle", "constant"] = "cosine"
    warmup_epochs: Annotated[Number, Field(ge=0)] = 0.0  # linear from 0; one_cycle: the rising phase
    milestones: tuple[Number, ...] = (0.5, 0.75)  # multistep: fractions of training (He et al. 2015, section 4.2)
    decay: Annotated[Number, Field(gt=0, le=1)] = 0.1  # multistep: the factor at each milestone
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[Number, Field(gt=0)] | None = None  # maximum global gradient norm; None: no clipping
    crop_padding: Annotated[Integer, Field(ge=0)] = 4  # pixels on each side before the random crop
    crop_fill: Literal["black", "reflect"] = "black"  # content of the padding; reflect: mirrored image, section 3.1
    crop_size: Annotated[Integer, Field(ge=8)] | None = None  # resolution of that crop; None: the image's own
    # horizontal; auto: where the data set allows it; alternating: always, inverted in each epoch (section 3.6)
    flip: Literal["auto", "always", "never", "alternating"] = "auto"
    cutout: Annotated[Integer, Field(ge=0)] = 0  # side in pixels of a randomly placed masked square; arXiv:1708.04552
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware supports it
    compile: bool = False  # torch.compile, for the full training batches
    gpu_kernels: Literal["deterministic", "fastest"] = "deterministic"  # fastest: results may differ between runs
    holdout: Annotated[Integer, Field(ge=0)] = 0  # size of the validation split; if above 0, the test set is not used
    # whether lr and weight_decay are per 1024 images and for SGD without momentum, whatever batch_size and momentum
    decoupled: bool = False  # the paper's code and D. Page, "How to Train Your ResNet"; the formula is in optimizer.py
    bias_lr_factor: Annotated[Number, Field(gt=0)] = 1.0  # multiplies lr for batch norm's biases: section 3.4
    muon_lr: Annotated[Number, Field(gt=0)] | None = None  # Muon's lr, for every convolution except the first
    bn_momentum: Annotated[Number, Field(gt=0, le=1)] = 0.1  # weight of a new batch in batch norm's running statistics
    synchronise_batch_norm: bool = True  # DEVICES > 1: batch norm over the whole batch, not each device's share
    # average of the weights, evaluated and saved; lookahead: training continues from it (section 3.4, arXiv:1907.08610)
    averaging: Literal["none", "ema", "lookahead"] = "none"
    averaging_steps: Annotated[Integer, Field(ge=1)] = 5  # optimizer steps between two updates of the average
    averaging_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.95  # decay of the old average per step
    test_time_augmentation: bool = False  # also report tta_accuracy after the last epoch: section 3.5
    whiten_stem: bool = False  # initialise the first convolution with eigenvectors of training patches: section 3.2
    # resolution in the first epoch, below the images' own; None: no progressive resizing (resizing.py)
    first_size: Annotated[Integer, Field(ge=8)] | None = None
    full_size_from: Annotated[Number, Field(gt=0, lt=1)] = 0.5  # fraction of the epochs at which full resolution starts
    evaluate_in_training_mode: bool = False  # reproduces a defect of source B, which the report then states

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be less than epochs {self.epochs}")
        if list(self.milestones) != sorted(set(self.milestones)) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError(f"milestones {self.milestones} must be ascending fractions between 0 and 1")
        if self.evaluate_in_training_mode and (self.averaging != "none" or self.test_time_augmentation):
            raise ValueError("evaluate_in_training_mode excludes averaging and test_time_augmentation")
        return self


class Published(Strict):
    """A published accuracy for comparison, of the last or the best epoch, depending on its source."""

    accuracy: Annotated[Number, Field(gt=0, le=1)]
    source: str
    runs: Annotated[Integer, Field(ge=1)] | None = None


class Network(Strict):
    """One configuration of a study: a registered model, its non-default options, and its published accuracy."""

    model: str
    knobs: dict[str, Any] = {}
    recipe: dict[str, Any] = {}  # overrides of the study's recipe for this configuration
    published: Published | None = None


class RunConfig(Strict):
    """One training run, with all defaults resolved."""

    study: str
    label: str
    model: str
    knobs: dict[str, Any]
    data: str
    seed: Annotated[Integer, Field(ge=0, lt=2**31)]
    recipe: Recipe

    @classmethod
    def from_parameters(cls, **parameters: Any) -> "RunConfig":
        """A run from a notebook's parameters. Raises StudyError with a one-line message."""
        run = _validated(cls, parameters, "parameters")
        try:
            check_name(run.data)
        except ValueError as error:
            raise StudyError(f"parameters: {error}") from None
        return run

    @property
    def run_id(self) -> str:
        return f"{self.label}-seed{self.seed}"

    @property
    def identity(self) -> dict:
        """Everything that can change a result, without the study's name and the label.

        Options at their default are omitted, so that adding an option later does not change the hashes of earlier runs.
        """
        defaults = resolve_knobs(self.model)
        return {
            "model": self.model,
            "knobs": {knob: value for knob, value in self.knobs.items() if value != defaults[knob]},
            "data": self.data,
            "seed": self.seed,
            "recipe": self.recipe.model_dump(mode="json", exclude_defaults=True),
        }

    @property
    def hash(self) -> str:
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def record(self) -> dict:
        """The content of config.json."""
        return {"run_id": self.run_id, **self.model_dump(mode="json"), "hash": self.hash}


def repeated_pair(comparisons: Sequence[Sequence[str]]) -> tuple[str, str] | None:
    """Two networks that are compared more than once, in either order; None if there are none."""
    counts = Counter(tuple(sorted(pair)) for pair in comparisons)
    return next((pair for pair, count in counts.items() if count > 1), None)


class Study(Strict):
    """A question, and every network trained with every seed under one recipe.

    A configuration may override parts of the recipe.
    """

    name: str
    question: str
    data: str = "digits"
    seeds: Annotated[tuple[Annotated[Integer, Field(ge=0, lt=2**31)], ...], Field(min_length=1)]
    recipe: Recipe = Recipe()
    networks: Annotated[dict[str, Network], Field(min_length=1)]
    baseline: str = ""  # the network that the others are compared with; empty: the first
    comparisons: tuple[tuple[str, str], ...] = ()  # planned (treatment, baseline) pairs; empty: each with `baseline`
    twin: str = ""  # a study of the same networks on other data: do the planned differences change with the data?
    notes: str = ""  # for the reader: deviations, what was cut
    timed: bool = True  # false: other work shared the machine, so the report omits wall-clock times
    verdicts: bool = True  # false: a check of the pipeline, whose report compares nothing and says so
    # variables of `make reproduce` that give this study, where they change its file; set by `override` alone
    make_variables: dict[str, str | int] = {}

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        # an empty entry `resnet20:` is the registered model of that name
        networks = data.get("networks") if isinstance(data, dict) else None
        if isinstance(networks, dict):
            full = {
                label: {"model": label} if entry is None else {"model": label, **entry}
                for label, entry in networks.items()
                if entry is None or isinstance(entry, dict)
            }
            data = {**data, "networks": {**networks, **full}}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        if self.name in TAKEN or self.name.startswith("."):
            raise ValueError(f"the name {self.name!r} is not allowed for a study: rename its file")
        if len(self.name.encode(errors="replace")) > LONGEST_NAME:
            raise ValueError(f"the study's name is longer than {LONGEST_NAME} bytes: give its file a shorter name")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} must not repeat")
        folded: dict[str, str] = {}
        for label in self.networks:
            if not LABEL.fullmatch(label):
                raise ValueError(
                    f"network label {label[:LONGEST_NAME]!r} must be 1 to {LONGEST_NAME} letters, digits, '.', '_' or "
                    "'-', the first a letter or digit"
                )
            if (other := folded.setdefault(label.lower(), label)) != label:
                raise ValueError(f"network labels {other!r} and {label!r} differ only in case; rename one of them")
            self.recipe_of(label)  # raises if an override is invalid
        if self.baseline and self.baseline not in self.networks:
            raise ValueError(f"unknown baseline {self.baseline!r}; {did_you_mean(self.baseline, self.networks)}")
        for pair in self.comparisons:
            for label in pair:
                if label not in self.networks:
                    raise ValueError(f"comparisons: unknown network {label!r}; {did_you_mean(label, self.networks)}")
            if pair[0] == pair[1]:
                raise ValueError(f"comparisons: {pair[0]!r} is compared with itself")
        if twice := repeated_pair(self.comparisons):
            raise ValueError(f"comparisons: {twice[0]!r} and {twice[1]!r} are compared twice")
        if not self.name.isprintable():  # it becomes part of paths and of a Slurm script
            raise ValueError(f"the study's name {self.name!r} has characters that cannot be printed; rename its file")
        for key in ("question", "notes"):
            if (text := getattr(self, key)) and text != text.encode(errors="replace").decode():
                raise ValueError(f"{key} has a character that is no valid Unicode text")
        if self.twin and (not LABEL.fullmatch(self.twin) or self.twin == self.name):
            raise ValueError(f"twin is {self.twin!r}; allowed: the name of another study")
        check_name(self.data)
        return self

    @property
    def baseline_label(self) -> str:
        return self.baseline or next(iter(self.networks))

    def recipe_of(self, label: str) -> Recipe:
        """The study's recipe with the network's overrides."""
        changed = self.networks[label].recipe
        if not changed:
            return self.recipe
        return _validated(Recipe, self.recipe.model_dump() | changed, f"networks.{label}.recipe")

    def override(self, *, data: str | None = None, limit_epochs: int | None = None) -> "Study":
        """The study with other data or fewer epochs, renamed so that its results never mix with the study's own."""
        changed, name, variables = self.model_dump(), self.name, {}
        if data is not None and data != self.data:
            changed["data"] = variables["DATA"] = data
            name += f"+{data.split(':')[0]}"
        longest = max(self.recipe_of(label).epochs for label in self.networks)
        if limit_epochs is not None and limit_epochs < longest:
            for recipe in (changed["recipe"], *(network["recipe"] for network in changed["networks"].values())):
                for key, most in (("epochs", limit_epochs), ("warmup_epochs", limit_epochs / 2)):
                    if key in recipe:
                        recipe[key] = min(recipe[key], most)
            variables["LIMIT_EPOCHS"] = limit_epochs
            name += f"+{limit_epochs}epoch"
        if variables:
            changed["make_variables"] = {"STUDY": self.name, **variables}
        return _validated(Study, {**changed, "name": name}, self.name)

    def runs(self) -> list[RunConfig]:
        """All runs, ordered by seed, so that an interrupted study has all networks at the same seeds.

        Raises StudyError on an unknown model, an unknown option or an invalid value, and if two networks are the same.
        """
        runs = [
            RunConfig(
                study=self.name,
                label=label,
                model=network.model,
                knobs=self._knobs(label),
                data=self.data,
                seed=seed,
                recipe=self.recipe_of(label),
            )
            for seed in self.seeds
            for label, network in self.networks.items()
        ]
        labels: dict[str, str] = {}
        for run in runs[: len(self.networks)]:  # those of one seed
            same = labels.setdefault(run.hash, run.label)
            if same != run.label and "LIMIT_EPOCHS" not in self.make_variables:  # with it, only epochs may differ
                raise StudyError(
                    f"study {self.name!r}: networks.{run.label}: the same model, options and recipe as {same}, so its"
                    " runs would count twice; remove one of the two"
                )
        return runs

    def record(self, classes: Sequence[str] = (), fingerprints: Mapping[str, str] | None = None) -> dict:
        """The content of study.json: the resolved study, data classes, data fingerprints, and run ids with hashes."""
        names = {"label", "model", "knobs", "data", "seed"}
        runs = [{**run.model_dump(include=names), "run_id": run.run_id, "config_hash": run.hash} for run in self.runs()]
        data = {"classes": list(classes), "fingerprints": dict(fingerprints or {})}
        absent = {key for key, default in LATER_KEYS.items() if getattr(self, key) == default}
        own = self.model_dump(mode="json", exclude=absent)
        return own | {"baseline": self.baseline_label} | data | {"runs": runs}

    def _knobs(self, label: str) -> dict[str, Any]:
        network = self.networks[label]
        try:
            return resolve_knobs(network.model, **network.knobs)
        except ValueError as error:
            raise StudyError(f"study {self.name!r}: networks.{label}: {error}") from error


def load_study(name: str, folder: Path) -> Study:
    """Read <folder>/<name>.yaml, <folder>/archive/<name>.yaml or, where `name` ends in .yaml, that file.

    `recipe: {base: NAME, ...}` starts from <folder>/recipes/NAME.yaml. Raises StudyError with all errors in one line.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        path = next((p for p in _study_files(folder) if p.stem == name), folder / f"{name}.yaml")
    if not path.is_file():
        raise StudyError(f"unknown study {name!r} ({path} does not exist); {did_you_mean(name, list_studies(folder))}")
    content = _read_yaml(path)
    if not isinstance(content, dict):
        known = ", ".join(field for field in Study.model_fields if field not in NOT_IN_THE_FILE)
        raise StudyError(f"{path}: a study file must be a mapping; its keys are {known}")
    for key in NOT_IN_THE_FILE & content.keys():
        raise StudyError(f"{path}: {key} is not allowed here: it follows from the file's name and the command line")
    if isinstance(content.get("recipe"), dict):
        content["recipe"] = _with_base(content["recipe"], path, folder / "recipes")
    return _validated(Study, {"name": path.stem, **content}, path)


def list_studies(folder: Path) -> list[str]:
    """Names of the studies in `folder`, followed by the archived ones."""
    return [path.stem for path in _study_files(folder)]


def _study_files(folder: Path) -> list[Path]:
    return [*sorted(folder.glob("*.yaml")), *sorted((folder / "archive").glob("*.yaml"))]


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        said = " ".join(f"{error.context or ''} {error.problem}".split())
        raise StudyError(f"{path}: {place}: {said}") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # not only of the parser: of text that is not UTF-8, or a value that does not fit its tag, as in `!!bool x`
        raise StudyError(f"{path}: not a readable YAML file: {' '.join(str(error).split())}") from error


def _with_base(recipe: dict, path: Path, folder: Path) -> dict:
    """The recipe of the study in `path`, merged with its `base` if it has one; its own options take precedence."""
    if "base" not in recipe:
        return recipe
    named = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    base = recipe["base"]
    if not isinstance(base, str) or base not in named:
        raise StudyError(f"{path}: recipe.base: unknown recipe {base!r}; {did_you_mean(str(base), named)}")
    options = _read_yaml(named[base])
    if not isinstance(options, dict):
        raise StudyError(f"{named[base]}: a recipe file must be a mapping of option to value")
    _validated(Recipe, options, named[base])
    return options | {key: value for key, value in recipe.items() if key != "base"}


def _validated(kind: type[BaseModel], content: dict, where: object) -> Any:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_explain(kind, problem) for problem in error.errors())
        raise StudyError(f"{where}: {problems}") from None


def _explain(kind: type[BaseModel], problem: dict) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        parent = _model_at(kind, problem["loc"][:-1])
        known = [key for key in parent.model_fields if parent is not Study or key not in NOT_IN_THE_FILE]
        return f"unknown key {location!r}; {did_you_mean(str(problem['loc'][-1]), known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_type":
        message = f"{problem['input']!r} is not a text; write a text that YAML reads as something else in quotes"
    return f"{location}: {message}" if location else message


def _model_at(kind: type[BaseModel], location: tuple) -> type[BaseModel]:
    """The pydantic model that defines the keys at a location in the file."""
    places = {"recipe": Recipe, "networks": Network, "published": Published}
    for part in location:
        kind = places.get(part, kind)
    return kind
