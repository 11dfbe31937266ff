"""Checkpoints that survive a kill during writing and detect corruption.

    checkpoint.pt           the newest checkpoint
    checkpoint.previous.pt  the one before it
    checkpoint.sha256       the digests of the last few, including the one about to be written

    weights.safetensors     the final weights, written when training ends; the run's summary has their digest

Written at most every INTERVAL seconds, at a signal and at the end. One of ResNet-50 has 188 MB: written after every
epoch, it would take a considerable part of a run on a GPU. `Writer` writes it beside training, which waits only while
the state is copied.

A checkpoint is valid only if its digest is listed. The list is written before the checkpoint is renamed to its final
name, so files with final names are complete and listed at all times.
"""

import copy
import hashlib
import io
import math
import os
import re
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from senet_lib.files import replacing, set_aside, sha256_of, write_text
from senet_lib.models.weights import digest_problem
from senet_lib.results import CHECKPOINT_FILES, WEIGHTS

INTERVAL = 60.0  # seconds
INTERVAL_VARIABLE = "SENET_CHECKPOINT_SECONDS"  # environment variable: another interval; 0 writes after every step
NEWEST, PREVIOUS, DIGESTS = CHECKPOINT_FILES
MOST_DIGESTS = 1000  # lines of DIGESTS, 65 bytes each


class CheckpointMismatch(ValueError):
    """Resuming the checkpoint would change the results; the message names what differs."""


def interval() -> float:
    """Seconds between two checkpoints. Raises ValueError if the environment variable is not a number from 0 up."""
    text = os.environ.get(INTERVAL_VARIABLE) or INTERVAL
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise ValueError(f"{INTERVAL_VARIABLE} is {text}; allowed: seconds from 0 up")
    return seconds


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, and lists and dicts of them) as the newest checkpoint."""
    folder = Path(folder)
    content = io.BytesIO()
    torch.save(state, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    newest = folder / NEWEST
    # Keep many digests: each is listed before its file exists, and every attempt on a full disk adds one
    write_text(folder / DIGESTS, "".join(f"{line}\n" for line in (digest, *_digests(folder)[: MOST_DIGESTS - 1])))
    with replacing(folder / "checkpoint.next.pt") as file:
        file.write(content.getbuffer())
    if newest.exists():
        os.replace(newest, folder / PREVIOUS)
    os.replace(folder / "checkpoint.next.pt", newest)


class Writer:
    """Writes checkpoints in a background thread, one at a time, while training continues.

    As a context manager it waits at the end of the block until nothing is being written. An error of that last write is
    raised by `wait` alone, so that it does not replace an exception of the block.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "checkpoint")  # starts with the first write
        self._writing: Future | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Wait for the previous write, copy `state` to host memory and start writing the copy."""
        self.wait()
        self._writing = self._thread.submit(save, self._folder, _copied(state))

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk. Raises what its writing raised, such as OSError."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown()


def _copied(value: Any) -> Any:
    """A copy on the CPU that shares no memory with `value`: tensors, and lists and dicts of them."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        same = copy.copy(value)  # keeps the module versions in a state dict's attribute _metadata
        same.update((key, _copied(entry)) for key, entry in value.items())
        return same
    return [_copied(entry) for entry in value] if isinstance(value, list) else value


def load(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Load the newest undamaged checkpoint onto the CPU; None if there is none: training starts from the beginning.

    A damaged file is renamed `<name>.damaged`, with a warning. Raises CheckpointMismatch if the state's 'identity'
    differs from `identity`, since the results would not equal those of an uninterrupted run. The threads may be None,
    any number, on either side.
    """
    folder = Path(folder)
    digests = _digests(folder)
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        if path.stat().st_size == 0 or sha256_of(path) not in digests:
            why = "its sha256 is not the recorded one" if digests else f"{DIGESTS} is missing or damaged"
            warnings.warn(f"{path} is damaged ({why}); renamed to {set_aside(path).name}", stacklevel=2)
            continue
        state = torch.load(path, map_location="cpu", weights_only=True)  # plain data only: executes no code
        _check(path, state["identity"], identity)
        return state
    return None


def save_weights(folder: Path, model: nn.Module) -> None:
    """Write the model's parameters and buffers to weights.safetensors."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with replacing(Path(folder) / WEIGHTS) as file:
        file.write(safetensors.torch.save(state))


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load a finished run's weights into `model`. Raises ValueError if their digest is not the one in the run's
    summary."""
    path = Path(folder) / WEIGHTS
    if problem := digest_problem(path.parent, WEIGHTS):
        raise ValueError(f"{path}: {problem}")
    model.load_state_dict(safetensors.torch.load_file(path))


def _digests(folder: Path) -> list[str]:
    path = folder / DIGESTS
    lines = path.read_text(encoding="utf-8", errors="replace").split() if path.exists() else []
    return [line for line in lines if re.fullmatch("[0-9a-f]{64}", line)]  # not what a damaged file holds


def _check(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = [
        f"{key} was {found.get(key)!r}, is {wanted.get(key)!r}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key) and not (key == "threads" and None in (found.get(key), wanted.get(key)))
    ]
    if differing:
        raise CheckpointMismatch(
            f"{path}: cannot resume, since {'; '.join(differing)}. Restore these conditions, or delete the run's "
            "checkpoint files to train the run from the start"
        )
