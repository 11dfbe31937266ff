"""Train one network on one data set with one recipe; the same seed gives the same weights.

The images are stored on the device as uint8 and augmented there in batches. Their order and augmentation depend only on
(seed, epoch), the learning rate only on the step. A run that is stopped at any step and resumed from its checkpoint
therefore has the weights of an uninterrupted run, bit for bit (given the same versions, hardware and thread count).
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from senet_lib.data import Augmenter, Dataset, eval_batches
from senet_lib.files import write_json
from senet_lib.process import die_with_parent
from senet_lib.results import SPLITS, environment_record, write_history, write_predictions
from senet_lib.study import Recipe
from senet_lib.training import checkpoint
from senet_lib.training.averaging import WeightAverage
from senet_lib.training.optimizer import make_optimizer, set_learning_rate
from senet_lib.training.progress import Reporter, reporter
from senet_lib.training.resizing import image_size, pixel_shares, resized
from senet_lib.training.runtime import (
    PRECISIONS,
    choose_memory_format,
    deterministic,
    keep_freed_memory,
    resolve_precision,
)
from senet_lib.training.schedule import learning_rate
from senet_lib.training.stopping import Stop, stop_signals
from senet_lib.training.tta import tta_accuracy
from senet_lib.training.whitening import whiten_stem

EVAL_BATCH_SIZE = 512
LOSS_CHECK_STEPS = 50  # steps between checks for a non-finite loss, each of which waits for the device


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite; the message names the epoch, the step and the learning rate."""


@dataclass(frozen=True)
class Evaluation:
    """Predictions on N images: label, predicted, confidence (softmax of the predicted class), each of shape (N,)."""

    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    loss: float  # mean cross-entropy, without label smoothing

    @property
    def accuracy(self) -> float:
        return float((self.label == self.predicted).mean())


@dataclass(frozen=True)
class Outcome:
    """The result of a finished training: one history row per epoch, and the last epoch's evaluation."""

    history: list[dict[str, float]]
    evaluation: Evaluation
    evaluated_on: str  # 'test', or 'holdout' if the recipe has a validation split
    environment: dict[str, Any]
    tta_accuracy: float | None = None  # with test-time augmentation; never replaces evaluation.accuracy

    @property
    def evaluated(self) -> str:
        """The display name of the evaluated split: 'test' or 'validation'."""
        return SPLITS[self.evaluated_on]

    @property
    def train_seconds(self) -> float:
        return sum(row["train_seconds"] for row in self.history)

    def save(self, run_dir: Path, **facts: Any) -> None:
        """Write predictions.npz, environment.json and outcome.json (the summary's content, plus `facts` such as params
        and macs) into the run directory. The run is done only once summary.json exists too."""
        run_dir = Path(run_dir)
        write_predictions(run_dir, self.evaluation.label, self.evaluation.predicted, self.evaluation.confidence)
        write_json(run_dir / "environment.json", self.environment)
        numbers = {
            "test_accuracy": self.evaluation.accuracy,
            "test_loss": self.evaluation.loss,
            "evaluated_on": self.evaluated_on,
            "epochs": len(self.history),
            "train_seconds": self.train_seconds,
        }
        if self.tta_accuracy is not None:
            numbers["tta_accuracy"] = self.tta_accuracy
        write_json(run_dir / "outcome.json", {**numbers, **facts})


def fit(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    *,
    seed: int = 0,
    run_dir: Path | str | None = None,
    config_hash: str = "",
    device: str = "auto",
    threads: int | None = None,
    progress: Literal["auto", "bar", "lines", "none"] = "auto",
    resume_anyway: bool = False,
) -> Outcome:
    """Train `model` ((N, 3, H, W) -> logits (N, classes)) in place and evaluate it after every epoch.

    run_dir: where history.csv and a checkpoint are written after every epoch, and the final weights at the end. A
    checkpoint found there is resumed. CheckpointMismatch is raised if its `config_hash`, seed, data set, device type,
    precision, thread count or torch version differs. With `resume_anyway` it is resumed despite differences other than
    hash and seed, and the environment records them.
    device: 'auto', 'cpu', 'cuda' or 'mps'. threads: CPU threads; None keeps torch's setting.

    With the recipe's `averaging`, the averaged weights are evaluated, and at the end written and left in `model`; a
    checkpoint has both. SIGTERM and SIGINT stop training after the current step, with a checkpoint, and raise
    TrainingStopped and KeyboardInterrupt. A non-finite loss raises NonFiniteLoss; the last checkpoint remains.
    """
    die_with_parent()
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    precision = resolve_precision(recipe.precision, device)
    fabric = Fabric(accelerator=device, devices=1, precision=PRECISIONS[precision])
    if recipe.holdout:
        data = data.holdout(recipe.holdout)
    run = _Run(
        model=model,
        data=data.to(fabric.device),
        recipe=recipe,
        seed=seed,
        fabric=fabric,
        precision=precision,
        run_dir=Path(run_dir) if run_dir else None,
        config_hash=config_hash,
    )
    with deterministic(), stop_signals() as stop:
        run.resume(resume_anyway)
        work = pixel_shares(recipe, run.data.train_images.shape[1])
        split = SPLITS[run.data.evaluation_split]
        with reporter(progress, work, split, run.train.steps, len(run.history), run.step) as report:
            while len(run.history) < recipe.epochs:
                run.epoch(stop, report)
        if run.average is not None:
            run.average.put_into_the_model()
        if run.run_dir is not None:
            checkpoint.save_weights(run.run_dir, model)
    return Outcome(
        run.history,
        run.evaluation or run.evaluate(),
        run.data.evaluation_split,
        run.environment(),
        run.tta_accuracy() if recipe.test_time_augmentation else None,
    )


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = EVAL_BATCH_SIZE,
    training_mode: bool = False,
) -> Evaluation:
    """Evaluate `model` on uint8 images (N, H, W, 3) with labels (N,), all on the model's device.

    training_mode=True reproduces a defect of source B (notebooks/source_notes.ipynb): batch norm normalises by the
    evaluated batch and updates its running statistics.
    """
    was_training = model.training
    model.train(training_mode)
    logits = []
    with torch.no_grad():
        for x, _ in eval_batches(images, labels, batch_size=batch_size, mean=mean, std=std):
            logits.append(model(x).float())
    model.train(was_training)
    logits = torch.cat(logits)  # (N, classes)
    confidence, predicted = logits.softmax(1).max(1)
    return Evaluation(
        label=labels.cpu().numpy(),
        predicted=predicted.cpu().numpy(),
        confidence=confidence.cpu().numpy(),
        loss=F.cross_entropy(logits, labels).item(),
    )


@dataclass
class _Run:
    """The state of one training, as a checkpoint stores it, and the steps that change it."""

    model: nn.Module
    data: Dataset
    recipe: Recipe
    seed: int
    fabric: Fabric
    precision: str
    run_dir: Path | None
    config_hash: str
    history: list[dict[str, float]] = field(default_factory=list)
    evaluation: Evaluation | None = None
    resumed_anyway: list[str] = field(default_factory=list)  # where a differing checkpoint was resumed; how it differed

    def __post_init__(self) -> None:
        recipe, data = self.recipe, self.data
        self.train = Augmenter(
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
        )
        self.memory_format = choose_memory_format(self.model, self.fabric.device)
        self.model.to(self.fabric.device, memory_format=self.memory_format)
        for module in self.model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = recipe.bn_momentum
        if recipe.whiten_stem:
            whiten_stem(self.model, data.train_images, mean=data.mean, std=data.std)
        optimizer = make_optimizer(
            self.model,
            recipe,
            fused=self.fabric.device.type in ("cpu", "cuda"),
            muon_dtype=torch.bfloat16 if self.precision == "bf16" else None,
        )
        network = torch.compile(self.model) if recipe.compile else self.model
        self.network, self.optimizer = self.fabric.setup(network, optimizer)
        self.average = None
        if recipe.averaging != "none":
            self.average = WeightAverage(self.model, recipe, recipe.epochs * self.train.steps)
        self._start_epoch()

    def _start_epoch(self) -> None:
        steps, device = self.train.steps, self.fabric.device
        self.step = 0  # steps done in the current epoch
        self.seconds = 0.0
        self.losses = torch.zeros(steps, device=device)  # kept on the device: reading them would wait for it
        self.correct = torch.zeros(steps, dtype=torch.int32, device=device)

    def epoch(self, stop: "Stop", report: "Reporter") -> None:
        """Train the rest of the current epoch, evaluate, append the history row and save a checkpoint."""
        epoch, recipe = len(self.history), self.recipe
        height = image_size(recipe, epoch, self.data.train_images.shape[1])
        # Train, starting after the steps that a resumed epoch has already done
        self.network.train()
        started = time.perf_counter()
        for x, y in self.train.epoch(seed=self.seed, epoch=epoch, start_step=self.step):
            lr = learning_rate(recipe, epoch * self.train.steps + self.step, self.train.steps)
            self._train_step(resized(x, height), y, lr)
            self.step += 1
            if self.average is not None:
                self.average.update(epoch * self.train.steps + self.step)
            if self.step % LOSS_CHECK_STEPS == 0:
                self._check_losses(epoch)
            report.step()
            # After SIGTERM or SIGINT: save a checkpoint and raise
            if stop.signal:
                self.seconds += time.perf_counter() - started
                self._check_losses(epoch)
                self.save()
                stop.leave(f"in epoch {epoch + 1} after step {self.step} of {self.train.steps}")
        self._check_losses(epoch)  # waits for the device, so that the time below covers all training steps
        self.seconds += time.perf_counter() - started
        # Evaluate
        self.evaluation = self.evaluate()
        # Append the history row; losses are weighted by batch size, since the last batch may differ in size
        images = len(self.data.train_labels)
        sizes = torch.full((self.train.steps,), recipe.batch_size, dtype=torch.float64)
        sizes[-1] = images - recipe.batch_size * (self.train.steps - 1)
        self.history.append(
            {
                "epoch": epoch + 1,
                "lr": learning_rate(recipe, (epoch + 1) * self.train.steps - 1, self.train.steps),
                "train_loss": (self.losses.cpu().double() @ sizes).item() / images,
                "train_accuracy": self.correct.sum().item() / images,
                "test_loss": self.evaluation.loss,
                "test_accuracy": self.evaluation.accuracy,
                "train_seconds": round(self.seconds, 3),
                "images_per_second": round(images / self.seconds, 1),
            }
        )
        # Save a checkpoint at the start of the next epoch
        self._start_epoch()
        self.save()
        report.epoch(self.history[-1])

    def _train_step(self, x: Tensor, y: Tensor, lr: float) -> None:
        """One optimizer step on images x (B, 3, H, W) with labels y (B,)."""
        set_learning_rate(self.optimizer, self.recipe, lr)
        # Forward
        logits = self.network(x.contiguous(memory_format=self.memory_format))  # (B, classes)
        loss = F.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        # Backward, with gradient clipping
        self.fabric.backward(loss)
        if self.recipe.clip_norm is not None:
            self.fabric.clip_gradients(self.network, self.optimizer, max_norm=self.recipe.clip_norm)
        # Update the weights
        self.optimizer.step()
        self.optimizer.zero_grad()
        # Record loss and correct predictions without waiting for the device
        self.losses[self.step] = loss.detach()
        self.correct[self.step] = (logits.detach().argmax(1) == y).sum()

    def _check_losses(self, epoch: int) -> None:
        bad = (~self.losses[: self.step].isfinite()).nonzero()
        if len(bad):
            step, steps = int(bad[0]), self.train.steps
            lr = learning_rate(self.recipe, epoch * steps + step, steps)
            raise NonFiniteLoss(
                f"the loss is {self.losses[step].item()} in epoch {epoch + 1}, step {step + 1} of {steps}, "
                f"learning rate {lr:g}; a lower lr, a longer warm-up or clip_norm may help"
            )

    def evaluate(self) -> Evaluation:
        data, recipe = self.data, self.recipe
        as_source_b = recipe.evaluate_in_training_mode
        with self.average.in_the_model() if self.average is not None else nullcontext():
            return evaluate(
                self.network,
                data.test_images,
                data.test_labels,
                mean=data.mean,
                std=data.std,
                batch_size=recipe.batch_size if as_source_b else EVAL_BATCH_SIZE,
                training_mode=as_source_b,
            )

    def tta_accuracy(self) -> float:
        """The accuracy with test-time augmentation, at the model's current weights; mirrored views as in training."""
        data = self.data
        return tta_accuracy(
            self.network,
            data.test_images,
            data.test_labels,
            mean=data.mean,
            std=data.std,
            mirror=self.train.flip,
            batch_size=EVAL_BATCH_SIZE,
        )

    def identity(self) -> dict[str, Any]:
        """What must not change for a resumed run to equal an uninterrupted one."""
        return {
            "config": self.config_hash,
            "data": dict(self.data.fingerprints),
            "device": self.fabric.device.type,
            "precision": self.precision,
            "seed": self.seed,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),  # a plain str, which a checkpoint may contain
        }

    def environment(self) -> dict[str, Any]:
        device = self.fabric.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        deviation = {"resumed_anyway": self.resumed_anyway} if self.resumed_anyway else {}
        return environment_record(
            device=name,
            precision=self.precision,
            threads=torch.get_num_threads(),
            data={"name": self.data.name, "fingerprints": dict(self.data.fingerprints)},
            **deviation,
        )

    def save(self) -> None:
        if self.run_dir is None:
            return
        checkpoint.save(
            self.run_dir,
            {
                "identity": self.identity(),
                "resumed_anyway": self.resumed_anyway,
                "history": self.history,
                "step": self.step,
                "seconds": self.seconds,
                "losses": self.losses,
                "correct": self.correct,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                **({"average": self.average.state} if self.average is not None else {}),
            },
        )
        write_history(self.run_dir, self.history)

    def resume(self, anyway: bool) -> None:
        if self.run_dir is None:
            return
        state = checkpoint.load(self.run_dir, self.identity(), resume_anyway=anyway)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state(state["average"])
        self.history = state["history"]
        if len(state["losses"]) == self.train.steps:  # else resumed with other data: restart the epoch
            self.step, self.seconds = state["step"], state["seconds"]
            self.losses, self.correct = (state[key].to(self.fabric.device) for key in ("losses", "correct"))
        where = f"after epoch {len(self.history)}, step {self.step}"
        self.resumed_anyway = list(state.get("resumed_anyway", []))
        if state["differing"]:
            self.resumed_anyway.append(f"{where}: {'; '.join(state['differing'].values())}")
        write_history(self.run_dir, self.history)
        print(f"resumed {where}", *state["differing"].values(), sep="; ", flush=True)
