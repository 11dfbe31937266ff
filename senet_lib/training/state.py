"""The state of one training: what it consists of, how far it is, and how a checkpoint stores it."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from senet_lib.data import Augmenter, Dataset
from senet_lib.process import RUNS_PER_GPU
from senet_lib.results import continued, environment_record, write_history
from senet_lib.study import Recipe
from senet_lib.training import batch_norm, checkpoint
from senet_lib.training.averaging import WeightAverage
from senet_lib.training.distributed import check_share, combined, create_fabric
from senet_lib.training.optimizer import make_optimizers
from senet_lib.training.runtime import PRECISIONS, CompiledTraining, choose_memory_format, resolve_precision
from senet_lib.training.whitening import whiten_stem

CHECKPOINT_FORMAT = 2  # 1 had a single optimizer


@dataclass
class TrainingState:
    """A network on its device with all that trains it, and the progress of the training."""

    model: nn.Module  # the network itself, whose weights are saved
    network: nn.Module  # the same network as it is called: compiled, in the recipe's precision
    optimizers: list[torch.optim.Optimizer]
    average: WeightAverage | None
    batches: Augmenter
    data: Dataset
    recipe: Recipe
    seed: int
    fabric: Fabric
    precision: str
    memory_format: torch.memory_format
    run_dir: Path | None
    config_hash: str
    history: list[dict[str, float]] = field(default_factory=list)  # one row per finished epoch

    def __post_init__(self) -> None:
        self.saved_at = time.monotonic()  # of the newest checkpoint; at first, of the start
        self.writer = checkpoint.Writer(self.run_dir)
        self.parameters = list(self.model.parameters())  # a walk over all modules, too slow for every step
        self.environment = self._environment()  # now: the checkout may change before the end
        self.start_epoch()

    def start_epoch(self) -> None:
        """Reset the counters of the current epoch."""
        steps, device = self.batches.steps, self.fabric.device
        self.step = 0  # steps done in the current epoch
        self.seconds = 0.0
        self.losses = torch.zeros(steps, device=device)  # kept on the device: reading them would wait for it
        self.correct = torch.zeros(steps, dtype=torch.int32, device=device)

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0."""
        return len(self.history)

    @property
    def steps_done(self) -> int:
        """Steps since the start of training."""
        return self.epoch * self.batches.steps + self.step

    def identity(self) -> dict[str, Any]:
        """What must not change for a resumed training to equal an uninterrupted one. None: it may change, since on
        several devices the equality is up to rounding anyway."""
        return {
            "checkpoint_format": CHECKPOINT_FORMAT,
            "config": self.config_hash,
            "data": dict(self.data.fingerprints),
            "device": self.fabric.device.type,
            "precision": self.precision,
            "seed": self.seed,
            "threads": torch.get_num_threads() if self.fabric.world_size == 1 else None,
            "torch": str(torch.__version__),  # a plain str, which a checkpoint may contain
        }

    def _environment(self) -> dict[str, Any]:
        """The content of environment.json, as this process would train from the start."""
        device, devices = self.fabric.device, self.fabric.world_size
        runs = int(os.environ.get(RUNS_PER_GPU) or 1) if device.type == "cuda" else 1
        return environment_record(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            precision=self.precision,
            gpu_kernels=self.recipe.gpu_kernels,
            threads=torch.get_num_threads(),
            data={"name": self.data.name, "fingerprints": dict(self.data.fingerprints)},
            **({"devices": devices} if devices > 1 else {}),
            **({"runs_per_gpu": runs} if runs > 1 else {}),
        )

    @property
    def is_first_process(self) -> bool:
        """Whether this process is the one that writes files and reports, of those that train together."""
        return self.fabric.global_rank == 0

    def write_history(self) -> None:
        """Write history.csv, if there is a run directory."""
        if self.run_dir is not None and self.is_first_process:
            write_history(self.run_dir, self.history)

    def save_is_due(self) -> bool:
        """Whether the newest checkpoint is so old that a kill now would lose too much."""
        return self.run_dir is not None and time.monotonic() - self.saved_at >= checkpoint.interval()

    def save(self) -> None:
        """Save a checkpoint, if there is a run directory; it is on disk after `writer.wait()`. All processes take
        part."""
        if self.run_dir is None:
            return
        losses, correct = combined(self.fabric, self.losses), combined(self.fabric, self.correct)
        self.saved_at = time.monotonic()
        if not self.is_first_process:
            return
        stored = {
            "identity": self.identity(),
            "devices": self.fabric.world_size,
            "environment": self.environment,
            "history": self.history,
            "step": self.step,
            "seconds": self.seconds,
            "losses": losses,
            "correct": correct,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.state if self.average is not None else None,
        }
        self.writer.save(stored)
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Continue from the run directory's checkpoint, if there is one. Raises checkpoint.CheckpointMismatch."""
        stored = None
        if self.run_dir is not None and self.is_first_process:
            stored = checkpoint.load(self.run_dir, self.identity())
        if self.fabric.world_size > 1:
            stored = self.fabric.broadcast(stored)
        if stored is None:
            return
        self.model.load_state_dict(stored["model"])
        for optimizer, state in zip(self.optimizers, stored["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        if self.average is not None:
            self.average.load_state(stored["average"])
        self.history, self.step, self.seconds = stored["history"], stored["step"], stored["seconds"]
        if "environment" in stored:  # not in a checkpoint of an early version
            self.environment = continued(stored["environment"], self.environment)
        self.write_history()
        if self.is_first_process:  # the others add to what it continues with
            self.losses, self.correct = (stored[key].to(self.fabric.device) for key in ("losses", "correct"))
            before, now = stored.get("devices", 1), self.fabric.world_size
            change = f" of {before} devices on {now}: equal up to rounding" if before != now else ""
            print(f"resumed after epoch {self.epoch}, step {self.step}{change}", flush=True)


def prepare(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    run_dir: Path | None,
    config_hash: str,
    device: str,
    devices: int = 1,
) -> TrainingState:
    """Choose device and precision, move the network and the images there, and build all that the recipe asks for."""
    precision = resolve_precision(recipe.precision, device)
    fabric = create_fabric(device, devices, PRECISIONS[precision])
    # With a validation split, `data` has its images in the place of the test images
    data = (data.holdout(recipe.holdout) if recipe.holdout else data).to(fabric.device)
    batches = Augmenter(
        data.train_images,
        data.train_labels,
        batch_size=recipe.batch_size,
        padding=recipe.crop_padding,
        fill=recipe.crop_fill,
        crop_size=recipe.crop_size,
        flip=data.flip if recipe.flip == "auto" else recipe.flip != "never",
        alternating=recipe.flip == "alternating",
        cutout=recipe.cutout,
        mean=data.mean,
        std=data.std,
        part=(fabric.global_rank, fabric.world_size),
    )
    if devices > 1:
        check_share(devices, recipe, batches)
    memory_format = choose_memory_format(model, fabric.device)
    model.to(fabric.device, memory_format=memory_format)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = recipe.bn_momentum
    if recipe.whiten_stem:
        whiten_stem(model, data.train_images, mean=data.mean, std=data.std)
    own = make_optimizers(
        model,
        recipe,
        fused=fabric.device.type in ("cpu", "cuda"),
        muon_dtype=torch.bfloat16 if precision == "bf16" else None,
    )
    if devices > 1 and recipe.synchronise_batch_norm:
        batch_norm.synchronise(model, fabric.device)
    share = len(range(fabric.global_rank, recipe.batch_size, fabric.world_size))  # of a full batch, for this process
    called = CompiledTraining(model, share, memory_format) if recipe.compile else model
    network, *optimizers = fabric.setup(called, *own)
    average = WeightAverage(model, recipe, recipe.epochs * batches.steps) if recipe.averaging != "none" else None
    return TrainingState(
        model=model,
        network=network,
        optimizers=optimizers,
        average=average,
        batches=batches,
        data=data,
        recipe=recipe,
        seed=seed,
        fabric=fabric,
        precision=precision,
        memory_format=memory_format,
        run_dir=run_dir,
        config_hash=config_hash,
    )
