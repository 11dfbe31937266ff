"""The training loop: `fit`, `train_epoch`, `train_step`, `evaluate`. The same seed gives the same weights.

The images are stored on the device as uint8 and augmented there in batches. Their order and augmentation depend only on
(seed, epoch), the learning rate only on the step. A run that is stopped at any step and resumed from its checkpoint
therefore has the weights of an uninterrupted run, bit for bit (given the same versions, hardware and thread count).
"""

import math
import signal
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lib.data import Dataset, eval_batches
from senet_lib.process import die_with_parent
from senet_lib.results import SPLITS
from senet_lib.study import Recipe
from senet_lib.training import checkpoint
from senet_lib.training.distributed import agreed, combined, gathered, is_process, same_buffers, train_on_devices
from senet_lib.training.optimizer import set_learning_rate
from senet_lib.training.outcome import Evaluation, Outcome
from senet_lib.training.progress import Reporter, reporter
from senet_lib.training.resizing import image_size, pixel_shares, resized
from senet_lib.training.runtime import chosen_kernels, compiled_or_error, keep_freed_memory
from senet_lib.training.schedule import learning_rate
from senet_lib.training.state import TrainingState, prepare
from senet_lib.training.stopping import EvaluationStopped, StopSignal, stop_signals
from senet_lib.training.tta import tta_accuracy

EVAL_BATCH_SIZE = 512
AGREEMENT_STEPS = 10
LOSS_CHECK_STEPS = 50  # steps between checks for a non-finite loss, each of which waits for the device


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite; the message names the epoch, the step and the learning rate."""


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
    devices: int = 1,
    progress: Literal["auto", "bar", "lines", "none"] = "auto",
) -> Outcome:
    """Train `model` ((N, 3, H, W) -> logits (N, classes)) in place and evaluate it after every epoch.

    run_dir: where history.csv is written after every epoch, a checkpoint at most once a minute, beside training, and
    the final weights at the end. A checkpoint found there is resumed. CheckpointMismatch is raised if its
    `config_hash`, seed, data set, device type, precision, thread count or torch version differs.
    device: 'auto', 'cpu', 'cuda' or 'mps'. threads: CPU threads; None keeps torch's setting. devices: how many devices
    of this machine share every batch (distributed.py); UserError is raised if they cannot.

    With the recipe's `averaging`, the averaged weights are evaluated, and at the end written and left in `model`; a
    checkpoint has both. SIGTERM and SIGINT stop training after the current step or evaluated batch, with a checkpoint,
    and raise TrainingStopped and KeyboardInterrupt. A training loss that is not finite, or such a loss of the last
    evaluation, raises NonFiniteLoss; the last checkpoint remains.
    """
    if devices > 1 and not is_process():
        job = {"data": data, "recipe": recipe, "seed": seed, "run_dir": run_dir, "config_hash": config_hash}
        return train_on_devices(model, device, devices, threads, progress=progress, **job)
    die_with_parent()
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    # Build: device, precision, images, network, optimizers
    run_dir = Path(run_dir) if run_dir else None
    identity = {"seed": seed, "run_dir": run_dir, "config_hash": config_hash}
    state = prepare(model, data, recipe, device=device, devices=devices, **identity)
    progress = progress if state.is_first_process else "none"
    evaluated_on, evaluation = state.data.evaluation_split, None
    compiling = compiled_or_error() if recipe.compile else nullcontext()
    with chosen_kernels(recipe), compiling, stop_signals() as stop, state.writer:
        # Continue from a checkpoint, if there is one
        state.resume()
        work = pixel_shares(recipe, state.data.train_images.shape[1])
        with reporter(progress, work, SPLITS[evaluated_on], state.batches.steps, state.epoch, state.step) as report:
            while state.epoch < recipe.epochs:
                # Train the current epoch
                train_epoch(state, stop, report)
                # Evaluate; if that changes the last state, its checkpoint is the one before
                unrepeatable = recipe.evaluate_in_training_mode and state.epoch + 1 == recipe.epochs
                if unrepeatable:
                    state.save()
                evaluation = _evaluate(state, stop)
                # Record the epoch
                state.history.append(_history_row(state, evaluation))
                state.start_epoch()
                state.write_history()
                # Save a checkpoint at the end, and earlier whenever one is due
                is_due = state.epoch == recipe.epochs or any(agreed(state.fabric, state.save_is_due()))
                if is_due and not unrepeatable:
                    state.save()
                report.epoch(state.history[-1])
        # Keep the final weights
        if state.average is not None:
            state.average.put_into_the_model()
        if run_dir is not None and state.is_first_process:
            checkpoint.save_weights(run_dir, model)
        state.writer.wait()
    if evaluation is None:  # the checkpoint was that of a finished training
        evaluation = _evaluate(state)
    if not math.isfinite(evaluation.loss):
        raise NonFiniteLoss(
            f"the {SPLITS[evaluated_on]} loss is {evaluation.loss} after the last epoch ({recipe.epochs}), but the"
            " training losses are finite: batch norm's running statistics may lag behind; a lower lr or a larger"
            " bn_momentum may help"
        )
    tta = _tta_accuracy(state) if recipe.test_time_augmentation else None
    return Outcome(state.history, evaluation, evaluated_on, state.environment, tta)


def train_epoch(state: TrainingState, stop: StopSignal, report: Reporter) -> None:
    """Train the current epoch from its current step. Save a checkpoint if one is due; after SIGTERM or SIGINT save one
    and raise."""
    epoch, steps = state.epoch, state.batches.steps
    height = image_size(state.recipe, epoch, state.data.train_images.shape[1])
    state.network.train()
    started = time.perf_counter()
    for x, y in state.batches.epoch(seed=state.seed, epoch=epoch, start_step=state.step):
        # Update the weights, then their average
        train_step(state, resized(x, height), y)
        state.step += 1
        if state.average is not None:
            state.average.update(state.steps_done)
        # Every LOSS_CHECK_STEPS, look for a loss that is not finite
        if state.step % LOSS_CHECK_STEPS == 0:
            _check_losses(state)
        report.step()
        # Save the state of this step if that is due or training is to stop; writing is not training time
        if _is_to_save(state, stop):
            _check_losses(state)
            state.seconds += time.perf_counter() - started
            state.save()
            if stop.received:
                state.writer.wait()
                stop.raise_stopped(f"in epoch {epoch + 1} after step {state.step} of {steps}", bool(state.run_dir))
            started = time.perf_counter()
    _check_losses(state)  # waits for the device, so that the time below covers all training steps
    state.seconds += time.perf_counter() - started


def _is_to_save(state: TrainingState, stop: StopSignal) -> bool:
    """Whether a checkpoint is due, or training is to stop. Several processes agree on it, since all take part; on a
    GPU, which has to be waited for, only every AGREEMENT_STEPS and at the end of the epoch."""
    if state.fabric.world_size == 1:
        return bool(stop.received) or state.save_is_due()
    is_last = state.step == state.batches.steps  # an epoch may have fewer steps than that
    if state.fabric.device.type != "cpu" and state.step % AGREEMENT_STEPS and not is_last:
        return False
    stopping, saving = agreed(state.fabric, bool(stop.received), state.save_is_due())
    if stopping:
        stop.received = stop.received or signal.SIGTERM
    return stopping or saving


def train_step(state: TrainingState, x: Tensor, y: Tensor) -> None:
    """One optimizer step on images x (B, 3, H, W) with labels y (B,)."""
    recipe = state.recipe
    lr = learning_rate(recipe, state.steps_done, state.batches.steps)
    # Forward
    logits = state.network(x.contiguous(memory_format=state.memory_format))  # (B, classes)
    loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
    if (world := state.fabric.world_size) > 1:  # so that the processes' average is that over the whole batch
        loss = loss * (len(y) * world / state.batches.size(state.step))
    # Backward, with gradient clipping
    state.fabric.backward(loss)
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(state.parameters, recipe.clip_norm)
    # Update the weights
    for optimizer in state.optimizers:
        set_learning_rate(optimizer, lr)
        optimizer.step()
        optimizer.zero_grad()
    # Record loss and correct predictions without waiting for the device
    state.losses[state.step] = loss.detach() / world
    state.correct[state.step] = (logits.detach().argmax(1) == y).sum()


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = EVAL_BATCH_SIZE,
    training_mode: bool = False,
    stop: StopSignal | None = None,
) -> Evaluation:
    """Evaluate `model` on uint8 images (N, H, W, 3) with labels (N,), all on the model's device.

    training_mode=True reproduces a defect of source B (notebooks/06_source_notes.ipynb): batch norm normalises by the
    evaluated batch and updates its running statistics.
    stop: raise EvaluationStopped between two batches once it has received a signal.
    """
    batches = eval_batches(images, labels, batch_size=batch_size, mean=mean, std=std)
    return _evaluation(_logits(model, batches, training_mode, stop), labels)


def _logits(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], training_mode: bool, stop: StopSignal | None
) -> Tensor:
    """(N, classes) float32 for all images of the batches."""
    was_training = model.training
    model.train(training_mode)
    logits = []
    try:
        with torch.no_grad():
            for x, _ in batches:
                if stop is not None and stop.received:
                    raise EvaluationStopped
                logits.append(model(x).float().reshape(len(x), -1))  # some drop the axis of a single image
    finally:
        model.train(was_training)
    return torch.cat(logits)


def _evaluation(logits: Tensor, labels: Tensor) -> Evaluation:
    confidence, predicted = logits.softmax(1).max(1)
    return Evaluation(
        label=labels.cpu().numpy(),
        predicted=predicted.cpu().numpy(),
        confidence=confidence.cpu().numpy(),
        loss=F.cross_entropy(logits, labels).item(),
    )


def _evaluate(state: TrainingState, stop: StopSignal | None = None) -> Evaluation:
    """Evaluate the averaged weights if the recipe has them, otherwise the current ones. After SIGTERM or SIGINT save a
    checkpoint of the epoch's last step and raise."""
    data, fabric, as_source_b = state.data, state.fabric, state.recipe.evaluate_in_training_mode
    share = slice(fabric.global_rank, None, fabric.world_size)  # of the images, for this process
    batches = eval_batches(
        data.test_images[share],
        data.test_labels[share],
        batch_size=state.recipe.batch_size if as_source_b else EVAL_BATCH_SIZE,
        mean=data.mean,
        std=data.std,
    )
    try:
        with state.average.in_the_model() if state.average is not None else nullcontext():
            same_buffers(fabric, state.model)
            # Half an evaluation in training mode would change the state; several processes stop only after a step
            stoppable = not as_source_b and fabric.world_size == 1
            logits = _logits(state.network, batches, as_source_b, stop if stoppable else None)
        return _evaluation(gathered(fabric, logits, len(data.test_labels)), data.test_labels)
    except EvaluationStopped:
        state.save()
        state.writer.wait()
        stop.raise_stopped(f"in the evaluation after epoch {state.epoch + 1}", bool(state.run_dir))


def _tta_accuracy(state: TrainingState) -> float:
    """The accuracy with test-time augmentation, at the model's current weights; mirrored views as in training."""
    data = state.data
    return tta_accuracy(
        state.network,
        data.test_images,
        data.test_labels,
        mean=data.mean,
        std=data.std,
        mirror=state.batches.flip,
        batch_size=EVAL_BATCH_SIZE,
    )


def _history_row(state: TrainingState, evaluation: Evaluation) -> dict[str, float]:
    """The current epoch's row of history.csv."""
    recipe, steps, images = state.recipe, state.batches.steps, len(state.data.train_labels)
    # Losses are weighted by batch size, since the last batch may differ in size
    sizes = torch.full((steps,), recipe.batch_size, dtype=torch.float64)
    sizes[-1] = images - recipe.batch_size * (steps - 1)
    return {
        "epoch": state.epoch + 1,
        "lr": learning_rate(recipe, state.steps_done - 1, steps),
        "train_loss": (combined(state.fabric, state.losses).cpu().double() @ sizes).item() / images,
        "train_accuracy": combined(state.fabric, state.correct).sum().item() / images,
        "test_loss": evaluation.loss,
        "test_accuracy": evaluation.accuracy,
        "train_seconds": round(state.seconds, 3),
        "images_per_second": round(images / state.seconds, 1),
    }


def _check_losses(state: TrainingState) -> None:
    """Raise NonFiniteLoss if a loss of the current epoch is not finite."""
    losses = combined(state.fabric, state.losses[: state.step])
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step, steps = int(bad[0]), state.batches.steps
        lr = learning_rate(state.recipe, state.epoch * steps + step, steps)
        raise NonFiniteLoss(
            f"the loss is {losses[step].item()} in epoch {state.epoch + 1}, step {step + 1} of {steps}, "
            f"learning rate {lr:g}; a lower lr, a longer warm-up or clip_norm may help"
        )
