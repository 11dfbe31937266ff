"""Running a study: one idempotent command per run, and the executors that start the runs.

run.py        one run: executes its notebook with papermill under a lock, writes its summary last
executor.py   what every executor shares: starting, following and stopping runs
local.py      executes runs as subprocesses on this machine
ray.py        executes runs as tasks of a Ray cluster; ray_cluster.py reaches it, ray_node.py is what its nodes do
slurm.py      executes runs as a Slurm job array; slurm_script.py is the script of its jobs
inputs.py     checks networks and recipes against the data
arguments.py  command-line options that select a study and override its file
notebook.py   headless notebook execution; kernel.py is its kernel
estimate.py   estimates a run's cost on this machine
plan.py       the table of `make plan`
pace.py       learns from finished and running runs how long the others take
time_limit.py when the runs of a study must stop
"""

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from senet_lib.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from senet_lib.running.executor import Executor

EXECUTORS = {"local": "LocalExecutor", "ray": "RayExecutor", "slurm": "SlurmExecutor"}


def create_executor(options: argparse.Namespace, folder: Path) -> "Executor":
    """The executor named in EXECUTOR=..., for the runs of the study with this results folder. Raises UserError."""
    if options.executor not in EXECUTORS:
        raise UserError(f"EXECUTOR is {options.executor[:40] or 'empty'}; {did_you_mean(options.executor, EXECUTORS)}")
    module = importlib.import_module(f"{__name__}.{options.executor}")
    return getattr(module, EXECUTORS[options.executor])(options, folder)
