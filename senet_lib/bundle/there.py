"""On the other machine, started by run.sh: execute the study's runs within the time limit; pack the finished ones.

They are packed after each one, too: the machine may be switched off without notice.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from senet_lib.bundle import packs
from senet_lib.data.cifar import CIFAR
from senet_lib.files import read_json
from senet_lib.running.arguments import time_limit

PACKING = 5  # seconds of a time limit
LOOK = 5.0  # seconds between two looks for finished runs


def run(options: argparse.Namespace) -> int:
    """Returns the exit code of `reproduce`; 2 for bad input."""
    limit = time_limit(options.time_limit)
    facts = read_json(options.bundle / "bundle.json")
    packs.check_out(options.out, facts["name"])
    data, results = options.work / "data", options.work / "results"
    if facts["data_set"] in CIFAR:
        from senet_lib.bundle.images import restore_cifar

        restore_cifar(options.bundle / "data", facts["data_set"], data)
    elif (options.bundle / "data").is_dir():
        data = options.bundle / "data"
    data.mkdir(exist_ok=True)
    take_along(options.bundle / "results", results)
    take_packed(options.out, results)
    command = [sys.executable, "-m", "senet_lib.cli", "reproduce", facts["study"], "--results", str(results)]
    command += ["--whole-runs"]  # only finished runs are packed
    for name, value in (
        ("data", facts["data"]),
        ("limit-epochs", facts["limit_epochs"]),
        ("jobs", options.jobs),
        ("threads", options.threads),
        ("device", options.device),
        ("time-limit", limit and f"{max(1, round(options.started + limit - PACKING - time.time()))}s"),
    ):
        command += [f"--{name}={value}"] if value else []
    packer = Packer(results / facts["name"], options.out, facts["sent"], options.weights)
    packer.pack()
    # MAKELEVEL: the launcher ends with this process, however it ends
    environment = {**os.environ, "SENET_DATA": str(data), "MAKELEVEL": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    while process.poll() is None:
        try:
            process.wait(LOOK)
        except subprocess.TimeoutExpired:
            try:
                packer.pack()
            except OSError as error:  # a full OUT, say: the next attempt, or the one at the end, may succeed
                print(f"not packed yet: {error}", flush=True)
    packer.pack()
    print(packer.summary(), flush=True)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def take_along(source: Path, results: Path) -> None:
    """Copy the runs that the bundle has brought, unless a run of that name is in `results` already."""
    for run_dir in source.glob("*/runs/*"):
        target = results / run_dir.relative_to(source)
        if not target.exists():
            beside = target.with_name(f".{target.name}.unpacking")
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(run_dir, beside)
            beside.rename(target)


def take_packed(out: Path, results: Path) -> None:
    """Take the finished runs that an earlier start has packed, which `results` lacks if WORK is another folder now."""
    if any(out.glob(packs.ANY_PACK)):
        for name, why in packs.take([str(out)], results).refused.items():
            print(f"not taken from OUT: {name}: {why}", flush=True)


class Packer:
    """Packs the finished runs of a results folder, except those with a hash in `sent`, when there are new ones."""

    def __init__(self, folder: Path, out: Path, sent: list[str], weights: bool) -> None:
        self.folder, self.out, self.sent, self.weights = folder, out, sent, weights
        self.packed: list[str] = []
        self.files: list[Path] = []

    def pack(self) -> None:
        runs = packs.finished(self.folder, self.sent, self.packed)
        if runs != self.packed:
            self.files = packs.pack(self.folder, self.out, runs, self.weights, self.sent)
            self.packed = runs

    def summary(self) -> str:
        size = sum(path.stat().st_size for path in self.files) / 1e6
        if not self.packed:
            return "no run is finished yet; the same command continues"
        count = f"{len(self.packed)} finished runs, {size:.1f} MB in {len(self.files)} files"
        return f"packed {count}: bring back {self.out}"
