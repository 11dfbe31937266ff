"""One training on several devices: a process per device, started by torchrun outside the calling process.

The processes train one network. Each computes its share of every batch, and the gradients are averaged over the batch.
The batches, their order and the learning rate are those of one device, and so are the batch-norm statistics if they are
synchronised; what remains is the order of the floating-point sums. Only the first process writes files.

`fit(..., devices=n)` calls `train_on_devices`, which hands the network, the data and the recipe to the processes
(device_process.py) through a file and waits for the outcome. A Jupyter kernel is never forked: a fork after CUDA has
started does not work.
"""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from senet_lib.data import Augmenter
from senet_lib.errors import UserError
from senet_lib.process import SUPERVISED
from senet_lib.study import Recipe
from senet_lib.training.outcome import Outcome
from senet_lib.training.stopping import StopSignal, TrainingStopped, stop_signals

JOB, DONE, FAILED = "job.pt", "outcome.pt", "failure.pt"  # in the job's folder


def is_process() -> bool:
    """Whether this process is one of several that torchrun has started for one training."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def create_fabric(device: str, devices: int, precision: str) -> Fabric:
    """Fabric for this process, joined to the others if there are several.

    The environment is named, since Fabric would otherwise take one run within a Slurm job for a part of a larger one.
    """
    if devices == 1:
        return Fabric(accelerator=device, devices=1, precision=precision, plugins=[LightningEnvironment()])
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=1,
        precision=precision,
        strategy=DDPStrategy(broadcast_buffers=False),  # `same_buffers` does it where it is needed
        plugins=[TorchElasticEnvironment()],
    )
    fabric.launch()
    if fabric.world_size != devices:  # the processes would each train a network of their own
        raise RuntimeError(f"{devices} processes were to train together, but {fabric.world_size} have joined")
    return fabric


def check_share(devices: int, recipe: Recipe, batches: Augmenter) -> None:
    """Raise UserError if the batches cannot be divided over so many devices."""
    smallest = min(batches.size(0), batches.size(batches.steps - 1))
    if smallest < 2 * devices:
        raise UserError(
            f"DEVICES is {devices}, but the smallest batch has {smallest} images; allowed: at least two images per "
            "device, for batch norm. Choose fewer devices or another batch_size"
        )
    if recipe.evaluate_in_training_mode:
        raise UserError(f"DEVICES is {devices}; evaluate_in_training_mode needs one device")


def train_on_devices(model: nn.Module, device: str, devices: int, threads: int | None, **job: Any) -> Outcome:
    """Execute `fit(model, ...)` in `devices` processes; afterwards `model` has the trained weights.

    SIGTERM and SIGINT are passed on. What `fit` raises in the processes is raised here.
    """
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if device == "mps" or (gpus and devices > gpus):
        raise UserError(f"DEVICES is {devices}; {'GPUs' if gpus else 'devices of type mps'} here: {gpus or 1}")
    threads = threads or max(1, torch.get_num_threads() // devices)
    with tempfile.TemporaryDirectory(prefix="senet-job-") as name, stop_signals() as stop:
        folder = Path(name)
        torch.save({"model": model, "device": device, "devices": devices, "threads": threads, **job}, folder / JOB)
        code = _follow(_start(folder, devices, threads), stop)
        if (folder / FAILED).exists():
            error = torch.load(folder / FAILED, weights_only=False)
            interrupted = isinstance(error, TrainingStopped | KeyboardInterrupt) and stop.received == signal.SIGINT
            raise KeyboardInterrupt(*error.args) if interrupted else error
        if not (folder / DONE).exists():
            if stop.received:
                stop.raise_stopped("before its processes had started", saved=False)
            raise RuntimeError(f"the processes of the training ended with exit code {code} and without an outcome")
        outcome, weights = torch.load(folder / DONE, weights_only=False)  # a file of our own, in a private folder
    model.load_state_dict(weights)
    return outcome


def _start(folder: Path, devices: int, threads: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "senet_lib.training.device_process", str(folder / JOB), "--devices", str(devices)]
    return subprocess.Popen(
        command,
        env={**os.environ, SUPERVISED: "1", "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C in a terminal or in JupyterLab reaches this process, which passes it on
    )


def _follow(process: subprocess.Popen, stop: StopSignal) -> int:
    """Print the processes' lines until they end; pass a stop signal on."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    passed_on = False
    while True:
        if stop.received and not passed_on:
            passed_on = True
            process.send_signal(signal.SIGTERM)
        try:
            line = lines.get(timeout=0.2)  # with a timeout, to notice a signal
        except queue.Empty:
            continue
        if line is None:
            return process.wait()
        print(line, end="", flush=True)


def combined(fabric: Fabric, share: Tensor) -> Tensor:
    """The sum of the processes' shares; the tensor itself is unchanged."""
    return fabric.all_reduce(share.clone(), reduce_op="sum") if fabric.world_size > 1 else share


def agreed(fabric: Fabric, *flags: bool) -> list[bool]:
    """Each flag, true if it is true in any of the processes. All processes have to call it at the same step."""
    if fabric.world_size == 1:
        return list(flags)
    return combined(fabric, torch.tensor(flags, dtype=torch.int32, device=fabric.device)).bool().tolist()


def gathered(fabric: Fabric, rows: Tensor, count: int) -> Tensor:
    """(count, C) from the processes' shares (n, C): process r has the rows r, r + world, ... in this order."""
    world = fabric.world_size
    if world == 1:
        return rows
    padded = rows.new_zeros((-(-count // world), *rows.shape[1:]))
    padded[: len(rows)] = rows
    shares = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(shares, padded)
    return torch.stack(shares, 1).reshape(-1, *rows.shape[1:])[:count]


def same_buffers(fabric: Fabric, model: nn.Module) -> None:
    """Give every process the first one's buffers: with batch norm per device, the running statistics differ."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
