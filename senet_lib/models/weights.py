"""Published trained weights, by the name that `create_model` takes: "thin/seed0", or in full "thin/resnet20-seed0".

    results/published/<study>/study.json                       the study's classes
                              runs/<run>/config.json           the run's model and options
                                         weights.safetensors   its final weights
                                         summary.json          the sha256 of both

A study publishes the weights of each configuration's first seed, if they are small. Imports torch only to read them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet_lib.errors import DamagedFile, UserError, did_you_mean
from senet_lib.files import read_json, read_record, sha256_of
from senet_lib.project import project_root

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, SUMMARY, WEIGHTS = "config.json", "summary.json", "weights.safetensors"
REMEDY = "restore the file from git"


@dataclass(frozen=True)
class TrainedRun:
    """A published run with weights: its name in full, its folder, and what its network was created with."""

    name: str
    folder: Path
    model: str
    num_classes: int
    knobs: dict[str, Any]

    def check(self, model: str, num_classes: int | None, knobs: Mapping[str, Any]) -> None:
        """Raise UserError if the caller asks for another network than the run's. None: not given."""
        if model != self.model:
            raise UserError(
                f"weights {self.name!r} are those of {self.model!r}, not of {model!r}; write "
                f"create_model({self.model!r}, weights={self.name!r})"
            )
        trained = {**self.knobs, "num_classes": self.num_classes}
        given = {**knobs, **({} if num_classes is None else {"num_classes": num_classes})}
        for name, value in given.items():
            if value != trained.get(name, value):  # an option that the network does not have is reported later
                raise UserError(
                    f"{name}={value!r} contradicts weights {self.name!r}, which were trained with "
                    f"{name}={trained[name]!r}; leave {name} out"
                )

    def state(self) -> "dict[str, Tensor]":
        """The parameters and buffers, on the CPU. Raises DamagedFile if their digest is not the recorded one."""
        import safetensors.torch

        check_digest(self.folder, WEIGHTS)
        return safetensors.torch.load_file(self.folder / WEIGHTS)


def list_weights() -> list[str]:
    """Full names of the published weights, sorted: "thin/resnet20-seed0" and so on. Empty outside a checkout."""
    return sorted(f"{path.parents[2].name}/{path.parent.name}" for path in _published().glob(f"*/runs/*/{WEIGHTS}"))


def trained_run(model: str, weights: str) -> TrainedRun:
    """The published run that `weights` names: "STUDY/RUN", or "STUDY/seedK" for the run "MODEL-seedK".

    Raises UserError with the nearest known names, or if there are no published results here, and DamagedFile.
    """
    if not isinstance(weights, str):
        raise UserError(f"weights={weights!r} is not allowed; allowed: text such as 'thin/seed0'")
    study, _, run = weights.partition("/")
    name, known = f"{study}/{model}-{run}" if re.fullmatch(r"seed\d+", run) else weights, list_weights()
    if not known:
        raise UserError(
            f"weights {weights!r} were not found: {_published()} has none; work in a checkout of the project, or set "
            "the environment variable SENET_ROOT to one"
        )
    if name not in known:
        raise UserError(f"unknown weights {weights!r} of {model!r}; {did_you_mean(name, known)}")
    study, _, run = name.partition("/")
    folder = _published() / study / "runs" / run
    check_digest(folder, CONFIG)
    config, study_file = read_json(folder / CONFIG), _published() / study / "study.json"
    classes = (read_record(study_file) or {}).get("classes")
    if not isinstance(classes, list):
        raise DamagedFile(study_file, "it has no valid 'classes'", REMEDY)
    return TrainedRun(name, folder, config["model"], len(classes), config["knobs"])


def check_digest(folder: Path, name: str) -> None:
    """Raise DamagedFile unless the file's sha256 is the one in the summary of its run."""
    if problem := digest_problem(folder, name):
        raise DamagedFile(folder / name, problem, REMEDY)


def digest_problem(folder: Path, name: str) -> str:
    """How the sha256 of a run's file differs from the one in the run's summary; empty if it does not. A flipped byte
    would otherwise load silently."""
    recorded = ((read_record(folder / SUMMARY) or {}).get("files") or {}).get(name)
    found = sha256_of(folder / name) if (folder / name).is_file() else "no such file"
    return "" if found == recorded else f"sha256 is {found}, the run's summary recorded {recorded}"


def _published() -> Path:
    return project_root() / "results" / "published"
