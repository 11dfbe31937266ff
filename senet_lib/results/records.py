"""What study.json and a run's summary.json must hold for a report to be possible. Further keys are allowed."""

import json
from pathlib import PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from senet_lib.study import repeated_pair

Scalar = str | bool | int | float | None
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Record(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Published(Record):
    accuracy: Fraction
    source: str
    runs: Count | None = None


class Network(Record):
    model: str
    knobs: dict[str, Scalar] | None = None
    recipe: dict[str, Scalar | list[Scalar]] | None = None
    published: Published | None = None


class Planned(Record):
    run_id: str
    label: str
    model: str
    seed: Seed
    config_hash: str

    @model_validator(mode="after")
    def _names_a_folder(self) -> "Planned":
        if self.run_id != f"{self.label}-seed{self.seed}".replace("/", "_"):
            raise ValueError(f"the run {self.run_id!r} is not that of label {self.label!r} and seed {self.seed}")
        if PureWindowsPath(self.run_id).name != self.run_id:  # a file name on every system
            raise ValueError(f"the run {self.run_id!r} is no name of a folder")
        return self


class StudyRecord(Record):
    """study.json. The names in it must fit together."""

    name: str
    question: str
    data: str
    classes: list[str]
    seeds: list[Seed]
    recipe: dict[str, Scalar | list[Scalar]]
    networks: dict[str, Network]
    baseline: str
    runs: Annotated[list[Planned], Field(min_length=1)]
    comparisons: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []
    notes: str | None = None
    timed: bool = True
    verdicts: bool = True
    fingerprints: dict[str, str] = {}
    make_variables: dict[str, str | int] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "StudyRecord":
        if any(len(set(pair)) < 2 for pair in self.comparisons) or repeated_pair(self.comparisons):
            raise ValueError("it compares a network with itself, or two networks twice")
        models = {label: network.model for label, network in self.networks.items()}
        named = {self.baseline, *(label for pair in self.comparisons for label in pair)}
        if unknown := sorted(named - models.keys()):
            raise ValueError(f"it has no network {unknown[0]!r}")
        for run in self.runs:
            if models.get(run.label) != run.model or run.seed not in self.seeds:
                raise ValueError(f"the run {run.run_id!r} fits neither its networks nor its seeds")
        for kind, names in (("run", [run.run_id for run in self.runs]), ("class", self.classes)):
            if len(set(names)) < len(names):
                raise ValueError(f"it lists a {kind} twice")
        if type(self.recipe.get("epochs")) is not int:
            raise ValueError("its recipe has no number of epochs")
        return self


class Summary(Record):
    """summary.json of a finished run."""

    test_accuracy: Fraction
    test_loss: float
    params: Count
    macs: Count
    epochs: Count
    train_seconds: float
    evaluated_on: Literal["test", "holdout"]
    tta_accuracy: Fraction | None = None


def problem_of(kind: type[Record], content: Any) -> str:
    """What is wrong with the content of a JSON file, in one line; empty if nothing is."""
    try:
        json.dumps(content, ensure_ascii=False).encode()  # JSON may escape halves of characters, which no file can hold
        kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        return " ".join(f"{place}: {first['msg']}".removeprefix(": ").replace("Value error, ", "").split())
    except (UnicodeEncodeError, RecursionError) as error:
        return str(error)
    return ""
