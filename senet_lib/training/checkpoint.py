"""Checkpoints that survive being killed in the middle of writing, and that notice a flipped byte.

    checkpoint.pt           the newest
    checkpoint.previous.pt  the one before it
    checkpoint.sha256       the digests of the last few, the one about to be written included

    weights.safetensors     the final weights, once training is over; the run's summary has its digest

A checkpoint counts only if its digest is listed. The list is written before the checkpoint takes its name, so at every
instant the files under the final names are complete and listed.
"""

import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from senet_lib.files import read_json, replacing, sha256_of, write_text
from senet_lib.results import SUMMARY, WEIGHTS

NEWEST, PREVIOUS, DIGESTS = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.sha256"


# With another config or seed it is another run, whatever anyone asks for
NEVER_ANOTHER = ("config", "seed")


class CheckpointMismatch(ValueError):
    """The checkpoint belongs to a run that would give other numbers; the message names what differs."""


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) as the newest checkpoint."""
    folder = Path(folder)
    content = io.BytesIO()
    torch.save(state, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    newest = folder / NEWEST
    # More than two are kept, since a digest is listed before its file is there, and that may be interrupted repeatedly
    write_text(folder / DIGESTS, "".join(f"{line}\n" for line in (digest, *_digests(folder)[:7])))
    with replacing(folder / "checkpoint.next.pt") as file:
        file.write(content.getbuffer())
    if newest.exists():
        os.replace(newest, folder / PREVIOUS)
    os.replace(folder / "checkpoint.next.pt", newest)


def load(folder: Path, identity: dict[str, Any], *, resume_anyway: bool = False) -> dict[str, Any] | None:
    """The newest undamaged checkpoint, on the CPU; None when there is none, so that training starts at the beginning.

    A damaged file is named in a warning and set aside as `<name>.damaged`. Raises CheckpointMismatch when the state's
    'identity' differs from `identity`: resuming would not give the numbers of an undisturbed run. With `resume_anyway`
    it is returned all the same, if it is of the same config and seed, with the differences as its 'differing'.
    """
    folder = Path(folder)
    digests = _digests(folder)
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        if path.stat().st_size == 0 or sha256_of(path) not in digests:
            path.replace(path.with_name(f"{name}.damaged"))
            warnings.warn(f"{path}: damaged (its sha256 is not the recorded one); set aside", stacklevel=2)
            continue
        state = torch.load(path, map_location="cpu", weights_only=True)  # plain data only: nothing is executed
        state["differing"] = _differing(state["identity"], identity)
        _check(path, state["differing"], resume_anyway)
        return state
    return None


def save_weights(folder: Path, model: nn.Module) -> None:
    """Write the model's parameters and buffers as weights.safetensors."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with replacing(Path(folder) / WEIGHTS) as file:
        file.write(safetensors.torch.save(state))


def load_weights(folder: Path, model: nn.Module) -> None:
    """Put a finished run's weights into `model`. Raises ValueError when they are not those that its summary recorded: a
    flipped byte would load silently."""
    path = Path(folder) / WEIGHTS
    recorded = read_json(path.with_name(SUMMARY))["files"].get(WEIGHTS)
    found = sha256_of(path) if path.is_file() else "no such file"
    if found != recorded:
        raise ValueError(f"{path}: sha256 is {found}, the run's summary recorded {recorded}")
    model.load_state_dict(safetensors.torch.load_file(path))


def _digests(folder: Path) -> list[str]:
    path = folder / DIGESTS
    return path.read_text(encoding="utf-8", errors="replace").split() if path.exists() else []


def _differing(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, str]:
    return {
        key: f"{key} was {found.get(key)!r}, is {wanted.get(key)!r}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    }


def _check(path: Path, differing: dict[str, str], resume_anyway: bool) -> None:
    another = any(key in differing for key in NEVER_ANOTHER)
    if not differing or (resume_anyway and not another):
        return
    way_out = "Move the file away to start over"
    if not another:
        way_out += ", or go on all the same with RESUME_ANYWAY=1 (resume_anyway), which the run then records"
    raise CheckpointMismatch(f"{path}: cannot resume: {'; '.join(differing.values())}. {way_out}")
