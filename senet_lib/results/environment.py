"""The environment record: what a result depends on besides its config (versions, machine, commit)."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSIONS_OF = ("torch", "torchvision", "lightning-fabric", "numpy", "pandas", "scikit-learn", "senet-lib")
# Entries that a record leaves out, and what that means
UNRECORDED = {"devices": 1, "runs_per_gpu": 1}
RESUMED_UNDER = "resumed_under"
TRAINING_NOTEBOOK = "notebooks/05_train.ipynb"


def environment_record(**measured: Any) -> dict:
    """The versions, machine and commit, as a dict for environment.json.

    measured: further entries that only the training process knows: device, precision, threads, data fingerprints.
    """
    versions = {}
    for name in VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "git_commit": _git_commit(),
        **measured,
    }


def continued(first: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a training that began as `first` says and continues as `now` says: `first`, and in 'resumed_under'
    what differs from it in later parts, each difference once."""
    before = UNRECORDED | first
    different = {key: value for key, value in (UNRECORDED | now).items() if before.get(key) != value}
    earlier = first.get(RESUMED_UNDER, [])
    return {**first, RESUMED_UNDER: [*earlier, different]} if different and different not in earlier else {**first}


def part_records(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of a training's parts: of the first, and of those that were resumed under other conditions."""
    first = UNRECORDED | record
    return [first, *(first | later for later in record.get(RESUMED_UNDER, []))]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _git_commit() -> str | None:
    """The commit of the code, with '+changes' if the package or the training notebook differs from it; None outside a
    checkout. A bundle for another machine, which is none, has it in a file."""
    here = Path(__file__).parents[1]  # senet_lib/
    try:
        if (bundled := here.parent / "COMMIT").is_file():
            return bundled.read_text(encoding="utf-8").strip() or None
        commit = _git(here, "rev-parse", "HEAD")
        dirty = _git(here, "status", "--porcelain", "--", ".", f"../{TRAINING_NOTEBOOK}")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if dirty else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
