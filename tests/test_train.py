"""Training: the same seed gives the same weights however often it is interrupted, and no failure is silent."""

import copy
import errno
import hashlib
import itertools
import math
import os
import re
import resource
import signal
import sys
import threading
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from senet_lib.data import Dataset
from senet_lib.errors import UserError
from senet_lib.files import read_json
from senet_lib.models import create_model
from senet_lib.models.blocks import ResidualBlock, SelectiveKernelConv, SqueezeExcitation
from senet_lib.project import project_root
from senet_lib.results import write_summary
from senet_lib.study import Recipe, load_study
from senet_lib.training import NonFiniteLoss, TrainingStopped, checkpoint, evaluate, fit
from senet_lib.training.progress import Reporter
from senet_lib.training.runtime import CompiledTraining, compiled_or_error, keep_freed_memory, resolve_precision
from senet_lib.training.schedule import learning_rate
from senet_lib.training.state import TrainingState
from senet_lib.training.tta import tta_accuracy

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05, warmup_epochs=0.5, precision="fp32")
STEPS = 6  # per epoch of `tiny_data` in batches of 16: five full ones and the rest
ONE_EPOCH = {"epochs": 1, "warmup_epochs": 0.0}


def tiny_data(images=90, classes=3):
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(images) % classes
    pixels = torch.randint(0, 100, (images, 28, 28, 3), generator=generator, dtype=torch.uint8)
    pixels[..., 0] += (labels * 60).to(torch.uint8)[:, None, None]  # redder the higher the class
    return Dataset(
        name="tiny",
        classes=tuple("abc"[:classes]),
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:30],
        test_labels=labels[:30],
        mean=(0.3, 0.2, 0.2),
        std=(0.2, 0.1, 0.1),
        flip=True,
        fingerprints={"train": "t", "test": "e"},
    )


class SmallNetwork(nn.Sequential):
    """Two convolutions with batch norm: every kind of state that training has, in little time."""

    def __init__(self):
        first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2)
        super().__init__(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        for layer in list(self)[:-1]:
            x = layer(x)
        return self.head(x.mean((2, 3)))


def network(seed=0):
    torch.manual_seed(seed)
    return SmallNetwork()


def real_network(seed=0):
    torch.manual_seed(seed)
    return create_model("sk_se_resnet20", num_classes=3, width=0.25, reduction=2)


def with_changes(**changes):
    return RECIPE.model_copy(update=changes)


def train(model=None, recipe=RECIPE, data=None, **options):
    model = model or network()
    return model, fit(model, data or tiny_data(), recipe, **{"progress": "none", "device": "cpu", **options})


def digest(model):
    content = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(content).hexdigest()


def untimed(history):
    return [{key: row[key] for key in row if key not in ("train_seconds", "images_per_second")} for row in history]


def result(trained):
    model, outcome = trained
    return digest(model), untimed(outcome.history)


@pytest.fixture
def every_step(monkeypatch):
    """Write a checkpoint after every step. By default these trainings are over before one is due."""
    monkeypatch.setenv(checkpoint.INTERVAL_VARIABLE, "0")


@pytest.fixture(scope="module")
def uninterrupted():
    return result(train())


@pytest.mark.parametrize("build", [network, real_network])
def test_seed_determines_weights(build):
    first = result(train(build()))
    assert result(train(build())) == first
    weights, history = result(train(build(), seed=1))
    assert weights != first[0]
    assert history != first[1]


def test_loss_falls(uninterrupted):
    history = uninterrupted[1]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert [row["epoch"] for row in history] == [1, 2, 3]


class StopAt:
    """Raises, or sends a signal, at a given step of the training, like an interruption from outside."""

    def __init__(self, model, step, number=None):
        self.left, self.number = step, number
        self.hook = model.register_forward_pre_hook(self)

    def __call__(self, module, inputs):
        if not module.training:
            return
        self.left -= 1
        if self.left == 0:
            self.hook.remove()
            if self.number is None:
                raise ConnectionAbortedError
            os.kill(os.getpid(), self.number)


def test_resumes_after_kill(tmp_path, uninterrupted, every_step):
    for step in (2, STEPS + 1, 2 * STEPS + 4):
        model = network()
        StopAt(model, step)
        with pytest.raises(ConnectionAbortedError):
            train(model, run_dir=tmp_path / str(step))
        assert result(train(run_dir=tmp_path / str(step))) == uninterrupted, step


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, TrainingStopped), (signal.SIGINT, KeyboardInterrupt)])
def test_signal_saves_the_current_step(tmp_path, uninterrupted, number, error):
    for step in (1, STEPS, STEPS + 3):
        run_dir, model = tmp_path / str(step), network()
        StopAt(model, step, number)
        epoch, step_of_epoch = divmod(step - 1, STEPS)
        with pytest.raises(error, match=f"epoch {epoch + 1} after step {step_of_epoch + 1} of {STEPS}"):
            train(model, run_dir=run_dir)
        seen, model = [], network()
        model.register_forward_pre_hook(lambda module, _, seen=seen: seen.append(1) if module.training else None)
        assert result(train(model, run_dir=run_dir)) == uninterrupted
        assert len(seen) == 3 * STEPS - step, "no step is trained twice"
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "handlers are restored"


def test_checkpoints_are_written_by_time(tmp_path, uninterrupted, monkeypatch):
    """At most once a minute, within an epoch too, and at the end; each is one that resumes to the same weights."""
    real, saved = checkpoint.save, []
    monkeypatch.setattr(checkpoint, "save", lambda folder, state: saved.append(len(saved)) or real(folder, state))
    assert result(train(run_dir=tmp_path / "short")) == uninterrupted
    assert len(saved) == 1
    clock = itertools.count(step=11)  # seconds; read once for each of the 18 steps, each epoch and each checkpoint
    monkeypatch.setattr("senet_lib.training.state.time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert result(train(run_dir=tmp_path / "long")) == uninterrupted
    assert len(saved) - 1 == 4
    monkeypatch.setenv(checkpoint.INTERVAL_VARIABLE, "soon")
    with pytest.raises(ValueError, match="SENET_CHECKPOINT_SECONDS is soon; allowed: "):
        train(run_dir=tmp_path / "bad")


def test_signal_stops_an_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr("senet_lib.training.loop.EVAL_BATCH_SIZE", 10)  # of 30 images
    for recipe in (RECIPE, with_changes(averaging="lookahead")):
        expected, run_dir, seen = result(train(recipe=recipe)), tmp_path / recipe.averaging, []
        model = network()

        def stop(module, inputs, seen=seen):
            seen.append(module.training)
            if seen.count(False) == 4:  # the first batch of the second evaluation
                os.kill(os.getpid(), signal.SIGTERM)

        model.register_forward_pre_hook(stop)
        with pytest.raises(TrainingStopped, match="in the evaluation after epoch 2; the state is saved"):
            train(model, recipe, run_dir=run_dir)
        assert seen.count(False) == 4, "the other batches are not evaluated"
        assert seen.count(True) == 2 * STEPS
        assert result(train(recipe=recipe, run_dir=run_dir)) == expected


def test_stop_without_a_run_directory_claims_no_saved_state():
    model = network()
    StopAt(model, 2, signal.SIGTERM)
    with pytest.raises(TrainingStopped, match="after step 2 of 6; nothing is saved"):
        train(model)


def test_resumes_after_every_single_step(tmp_path, uninterrupted):
    for _ in range(3 * STEPS - 1):
        model = network()
        StopAt(model, 1, signal.SIGTERM)
        with pytest.raises(TrainingStopped):
            train(model, run_dir=tmp_path)
    assert result(train(run_dir=tmp_path)) == uninterrupted


PARTS = {  # every part of a fast recipe, all at once
    "flip": "alternating",
    "crop_fill": "reflect",
    "cutout": 8,
    "label_smoothing": 0.2,
    "decoupled": True,
    "lr": 2.0,
    "weight_decay": 0.02,
    "bias_lr_factor": 8.0,
    "averaging_steps": 5,
    "test_time_augmentation": True,
    "muon_lr": 0.1,
    "bn_momentum": 0.4,
    "whiten_stem": True,
    "first_size": 20,
    "full_size_from": 0.6,
}


@pytest.mark.parametrize(
    ("averaging", "build", "steps"),
    [("lookahead", real_network, [STEPS]), ("lookahead", network, [3, STEPS, 16]), ("ema", network, [3, STEPS, 16])],
)
def test_all_recipe_parts_resume(tmp_path, averaging, build, steps):
    recipe = with_changes(**PARTS, averaging=averaging)
    model, outcome = train(build(), recipe)
    expected = digest(model), untimed(outcome.history), outcome.tta_accuracy
    for step in steps:
        run_dir, model = tmp_path / str(step), build()
        StopAt(model, step, signal.SIGTERM)
        with pytest.raises(TrainingStopped):
            train(model, recipe, run_dir=run_dir)
        model = build()
        StopAt(model, STEPS - 1 if step < STEPS else 2)  # then killed a little later, with no time to save
        with pytest.raises(ConnectionAbortedError):
            train(model, recipe, run_dir=run_dir)
        for _ in range(2):  # the second time nothing is left to train
            model, outcome = train(build(), recipe, run_dir=run_dir)
            assert (digest(model), untimed(outcome.history), outcome.tta_accuracy) == expected, step
    kept = build(seed=9)
    write_summary(run_dir, {})
    checkpoint.load_weights(run_dir, kept)
    assert digest(kept) == expected[0], "the weights kept are those evaluated last"


def test_average_of_seen_weights_is_evaluated(uninterrupted):
    recipe = with_changes(averaging="ema", averaging_steps=1, averaging_decay=0.8)
    model, seen = network(), []
    parameter = model.get_parameter("head.weight")
    model.register_forward_pre_hook(lambda m, _: seen.append(parameter.detach().clone()) if m.training else None)
    _, outcome = train(model, recipe)
    plain, _ = train()
    average = seen[0]
    for step, weights in enumerate([*seen[1:], plain.get_parameter("head.weight").detach()], start=1):
        share = 0.8 * (step / (3 * STEPS)) ** 3
        average = share * average + (1 - share) * weights
    torch.testing.assert_close(parameter.detach(), average)
    data = tiny_data()
    again = evaluate(model, data.test_images, data.test_labels, mean=data.mean, std=data.std)
    assert again.loss == outcome.evaluation.loss == outcome.history[-1]["test_loss"]
    for key, equal in (("train_loss", True), ("test_loss", False)):
        assert ([row[key] for row in outcome.history] == [row[key] for row in uninterrupted[1]]) is equal


def test_tta_is_reported_separately(tmp_path, uninterrupted):
    facts = {}
    for on in (False, True):
        model, outcome = trained = train(recipe=with_changes(test_time_augmentation=on))
        assert result(trained) == uninterrupted
        outcome.save(tmp_path)
        facts[on] = read_json(tmp_path / "outcome.json")
    data = tiny_data()
    arguments = {"mean": data.mean, "std": data.std, "mirror": True, "batch_size": 30}
    assert facts[True].pop("tta_accuracy") == tta_accuracy(model, data.test_images, data.test_labels, **arguments)
    for found in facts.values():
        del found["train_seconds"]
    assert facts[True] == facts[False]


def test_finished_training_is_not_repeated(tmp_path, uninterrupted):
    train(run_dir=tmp_path)
    model = network(seed=5)
    model.register_forward_pre_hook(lambda module, _: pytest.fail("trained again") if module.training else None)
    model, outcome = trained = train(model, run_dir=tmp_path)
    assert result(trained) == uninterrupted
    assert outcome.evaluation.accuracy == uninterrupted[1][-1]["test_accuracy"]


@pytest.fixture(scope="module")
def half_way(tmp_path_factory):
    """A run directory left by a kill in the third epoch: two checkpoints."""
    folder = tmp_path_factory.mktemp("half_way")
    model = network()
    StopAt(model, 2 * STEPS + 2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ConnectionAbortedError):
        patch.setenv(checkpoint.INTERVAL_VARIABLE, "0")
        train(model, run_dir=folder, config_hash="one", threads=1)
    return folder


def copied(folder, to):
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_damaged_checkpoint_falls_back(half_way, tmp_path, uninterrupted):
    content = (half_way / checkpoint.NEWEST).read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for name, damaged in {"truncated": content[:-1000], "flipped": flipped, "empty": b"", "deleted": None}.items():
        run_dir = copied(half_way, tmp_path / name)
        newest = run_dir / checkpoint.NEWEST
        newest.unlink() if damaged is None else newest.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert result(train(run_dir=run_dir, config_hash="one", threads=1)) == uninterrupted, name
        named = [str(warning.message) for warning in caught if str(newest) in str(warning.message)]
        assert bool(named) == (run_dir / "checkpoint.pt.damaged").exists() == (damaged is not None), name


def test_two_damaged_checkpoints_start_over(tmp_path, uninterrupted):
    train(run_dir=tmp_path)
    for name in (checkpoint.NEWEST, checkpoint.PREVIOUS):
        (tmp_path / name).write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning, match="damaged"):
        assert result(train(run_dir=tmp_path)) == uninterrupted


def test_mismatching_checkpoint_is_refused(half_way, monkeypatch):
    """Each condition that can change the weights is named, and a refusal changes no file."""
    before = {path.name: path.read_bytes() for path in half_way.iterdir()}
    same = {"run_dir": half_way, "config_hash": "one", "threads": 1}
    other_data = replace(tiny_data(), fingerprints={"train": "other", "test": "e"})
    cases = {
        "config was 'one', is 'two'": {"config_hash": "two"},
        "seed was 0, is 3": {"seed": 3},
        "data was": {"data": other_data},
        "precision was 'fp32', is 'bf16'": {"recipe": with_changes(precision="bf16")},
        "threads was 1, is 2": {"threads": 2},
    }
    try:
        for fact, changes in cases.items():
            with pytest.raises(checkpoint.CheckpointMismatch, match=f"checkpoint.pt: .*{fact}"):
                train(**{**same, **changes})
    finally:
        torch.set_num_threads(1)
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.raises(checkpoint.CheckpointMismatch, match="torch was .*, is '1.0'"):
        train(**same)
    assert {path.name: path.read_bytes() for path in half_way.iterdir()} == before


def test_full_disk_names_the_file(tmp_path, uninterrupted, monkeypatch, every_step):
    """The disk is full the first or second time that a file is written, which its fsync reports."""
    real = os.fsync
    for name in (checkpoint.DIGESTS, "checkpoint.next.pt", "history.csv", "weights.safetensors"):
        for time in (1, 2):
            run_dir, left = tmp_path / f"{name}{time}", [time]

            def fsync(handle, name=name, run_dir=run_dir, left=left):
                with os.scandir(run_dir) as entries:  # in which the checkpoint's thread may rename a file at any time
                    written = {entry.inode() for entry in entries if entry.name.startswith(f".{name}.")}
                if os.fstat(handle).st_ino in written:
                    left[0] -= 1
                    if left[0] == 0:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(handle)

            monkeypatch.setattr(os, "fsync", fsync)
            if (name, time) == ("weights.safetensors", 2):  # written once per training
                train(run_dir=run_dir)
            with pytest.raises(OSError, match="No space left") as error:
                train(run_dir=run_dir)
            assert error.value.errno == errno.ENOSPC
            assert error.value.filename == str(run_dir / name)
            assert not list(run_dir.glob("*.tmp")), "no incomplete file remains"
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # the files that remain are undamaged
                assert result(train(run_dir=run_dir)) == uninterrupted, (name, time)


def test_refused_write_keeps_the_earlier_checkpoint(tmp_path):
    """The operating system itself refuses the write half-way through the file."""
    checkpoint.save(tmp_path, {"identity": {}, "epoch": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large.*checkpoint.next.pt"):
            checkpoint.save(tmp_path, {"identity": {}, "epoch": 2, "model": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load(tmp_path, {})["epoch"] == 1


def test_many_refused_writes_keep_the_earlier_checkpoints(tmp_path, monkeypatch):
    """On a full disk the small list of digests can still be written."""
    for epoch in (1, 2):
        checkpoint.save(tmp_path, {"identity": {}, "epoch": epoch})

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "replacing", full)
        for epoch in range(3, 40):
            with pytest.raises(OSError, match="No space left"):
                checkpoint.save(tmp_path, {"identity": {}, "epoch": epoch})
    assert checkpoint.load(tmp_path, {})["epoch"] == 2
    (tmp_path / checkpoint.NEWEST).unlink()
    assert checkpoint.load(tmp_path, {})["epoch"] == 1


def test_checkpoints_are_written_beside_training(tmp_path, monkeypatch):
    """A slow write stores the state as it was when saved, delays the next one, and is over before `wait` returns."""
    real, go, saved = checkpoint.save, threading.Event(), []

    def slow(folder, state):
        assert go.wait(60)
        saved.append(state["step"])
        real(folder, state)

    monkeypatch.setattr(checkpoint, "save", slow)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    state = {"identity": {}, "step": 1, "history": [{"epoch": 1}], "model": model.state_dict()}
    for _ in range(2):
        model(torch.ones(2, 3, 8, 8)).sum().backward()
        optimizer.step()
    state["optimizer"] = optimizer.state_dict()
    expected = copy.deepcopy(state)
    with checkpoint.Writer(tmp_path) as writer:
        writer.save(state)
        optimizer.step()
        state["history"][0]["epoch"] = 2
        state["history"].append({"epoch": 3})
        state["step"] = 2
        assert saved == []
        threading.Timer(0.1, go.set).start()
        writer.save(state)
        assert saved[0] == 1, "the second waited for the first"
        writer.wait()
        assert saved == [1, 2]
    for name, wanted in ((checkpoint.PREVIOUS, expected), (checkpoint.NEWEST, state)):
        found = torch.load(tmp_path / name, weights_only=True)
        assert found["history"] == wanted["history"]
        torch.testing.assert_close(
            [found["model"], found["optimizer"]], [wanted["model"], wanted["optimizer"]], rtol=0, atol=0
        )
        assert found["model"]._metadata == model.state_dict()._metadata


def test_checkpoints_execute_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    checkpoint.save(tmp_path, {"identity": {}, "trap": Trap()})
    with pytest.raises(Exception, match="[Ww]eights"):
        checkpoint.load(tmp_path, {})
    assert not (tmp_path / "trapped").exists()


def test_killed_write_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    """Interrupted at each of the renames of which a write consists."""
    checkpoint.save(tmp_path, {"identity": {}, "epoch": 1})
    checkpoint.save(tmp_path, {"identity": {}, "epoch": 2})
    real, left = os.replace, 0

    def stopped_replace(source, target):
        nonlocal left
        left -= 1
        if left == 0:
            raise ConnectionAbortedError
        return real(source, target)

    monkeypatch.setattr(os, "replace", stopped_replace)
    for renames in (1, 2, 3, 4):
        left = renames
        with pytest.raises(ConnectionAbortedError):
            checkpoint.save(tmp_path, {"identity": {}, "epoch": 3})
        left = 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert checkpoint.load(tmp_path, {})["epoch"] == 2


def test_non_finite_loss_stops_training(tmp_path, every_step):
    model, seen = network(), 0

    def poison(module, inputs):
        nonlocal seen
        seen += module.training
        return (inputs[0] * math.nan,) if seen == STEPS + 3 and module.training else None

    model.register_forward_pre_hook(poison)
    with pytest.raises(NonFiniteLoss, match=f"nan in epoch 2, step 3 of {STEPS}, learning rate 0.05"):
        train(model, with_changes(schedule="constant", warmup_epochs=0.0, clip_norm=1.0), run_dir=tmp_path)
    newest = torch.load(tmp_path / checkpoint.NEWEST, weights_only=True)
    assert len(newest["history"]) == 1
    assert all(tensor.isfinite().all() for tensor in newest["model"].values())


def test_non_finite_evaluation_is_named(tmp_path):
    """The running statistics, which only an evaluation uses, are not finite; starting again says the same."""

    class Overflowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, x):
            return self.network(x) if self.training else self.network(x) * math.nan

    for _ in range(2):
        with pytest.raises(NonFiniteLoss, match=r"the test loss is nan after the last epoch \(3\)"):
            train(Overflowing(), run_dir=tmp_path)


@pytest.mark.parametrize("build", [network, real_network])
def test_an_evaluation_that_changes_the_state_is_not_repeated_on_top_of_itself(tmp_path, build):
    """Killed between the last checkpoint and the summary: the last evaluation is done again, from the same state."""
    recipe = with_changes(evaluate_in_training_mode=True)
    first = train(build(), recipe, run_dir=tmp_path)
    again = train(build(), recipe, run_dir=tmp_path)
    assert result(again) == result(first) == result(train(build(), recipe))
    assert again[1].evaluation.loss == first[1].evaluation.loss == first[1].history[-1]["test_loss"]


class AlwaysClass1(nn.Module):
    """Predicts class 1 with probability 3/4 for every image."""

    def forward(self, x):
        return torch.tensor([0.0, math.log(3.0)]).expand(len(x), 2)


def test_evaluate_known_predictions():
    images = torch.zeros(8, 28, 28, 3, dtype=torch.uint8)
    labels = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0])
    found = evaluate(AlwaysClass1(), images, labels, mean=(0.5,) * 3, std=(0.5,) * 3, batch_size=3)
    assert found.accuracy == 0.75
    assert found.predicted.tolist() == [1] * 8
    assert found.confidence.tolist() == pytest.approx([0.75] * 8)
    assert found.loss == pytest.approx(-(6 * math.log(0.75) + 2 * math.log(0.25)) / 8)


def test_a_last_batch_of_one_image_is_evaluated(monkeypatch):
    """Also by a network that then drops the axis of images, as two of the studied ones do."""
    monkeypatch.setattr("senet_lib.training.loop.EVAL_BATCH_SIZE", 29)  # of 30 images
    recipe = with_changes(test_time_augmentation=True, **ONE_EPOCH)
    _, expected = train(recipe=recipe)
    squeezing = network()
    squeezing.register_forward_hook(lambda module, _, logits: logits.squeeze())
    _, outcome = train(squeezing, recipe)
    assert untimed(outcome.history) == untimed(expected.history)
    assert outcome.tta_accuracy == expected.tta_accuracy
    assert (outcome.evaluation.predicted == expected.evaluation.predicted).all()


def test_evaluate_changes_no_weights():
    model, data = network(), tiny_data()
    before = digest(model)
    images = data.test_images, data.test_labels
    arguments = {"mean": data.mean, "std": data.std, "batch_size": 10}
    first = evaluate(model, *images, **arguments)
    assert digest(model) == before
    assert evaluate(model, *images, **arguments).loss == first.loss
    assert evaluate(model, *images, training_mode=True, **arguments).loss != first.loss
    assert digest(model) != before, "source B's evaluation changes the running statistics"


def test_predictions_are_the_last_epochs():
    model, outcome = train()
    data = tiny_data()
    again = evaluate(model, data.test_images, data.test_labels, mean=data.mean, std=data.std)
    assert (again.predicted == outcome.evaluation.predicted).all()
    assert again.accuracy == outcome.history[-1]["test_accuracy"]


def test_validation_split_replaces_test_set(capsys):
    data = tiny_data()
    data.test_images.fill_(0)
    _, outcome = train(recipe=with_changes(holdout=30, **ONE_EPOCH), data=data, progress="lines")
    assert outcome.evaluated_on == "holdout"
    assert outcome.evaluated == "validation"
    assert len(outcome.evaluation.label) == 30
    assert outcome.environment["data"]["fingerprints"] != data.fingerprints
    printed = capsys.readouterr().out
    assert "validation loss" in printed
    assert "test loss" not in printed


def test_every_option_changes_the_weights():
    seen = {}
    for changes in (
        {},
        {"clip_norm": 0.01},
        {"label_smoothing": 0.2},
        {"nesterov": False},
        {"momentum": 0.5},
        {"flip": "alternating"},
        {"crop_fill": "reflect"},
        {"cutout": 8},
        {"crop_size": 24},
        {"bias_lr_factor": 2.0},
        {"decoupled": True},
        {"averaging": "ema"},
        {"averaging": "lookahead"},
        {"whiten_stem": True},
        {"first_size": 24},
        {"muon_lr": 0.1},
        {"evaluate_in_training_mode": True},
    ):
        model, _ = train(recipe=with_changes(epochs=2, **changes))
        same = seen.setdefault(digest(model), changes)
        assert same is changes, f"{changes} trains like {same}"


def test_bn_momentum_changes_only_running_statistics():
    model, _ = train(recipe=with_changes(bn_momentum=0.4))
    usual, _ = train()
    for (name, changed), default in zip(model.state_dict().items(), usual.state_dict().values(), strict=True):
        assert torch.equal(changed, default) != ("running" in name), name


def test_clipping_bounds_the_gradient_norm():
    """For SGD without momentum and decay, the length of a step is lr times the clipped norm."""
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "schedule": "constant"}
    recipe = Recipe(epochs=1, batch_size=90, lr=0.5, clip_norm=0.01, precision="fp32", **plain)
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, recipe)
    squares = [float((a.detach() - b).square().sum()) for a, b in zip(model.parameters(), before, strict=True)]
    assert math.sqrt(sum(squares)) == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_learning_rate_schedules():
    def rates(**recipe):
        recipe = Recipe(**{"epochs": 4, "lr": 1.0, **recipe})
        return [learning_rate(recipe, step, 2) for step in range(8)]

    assert rates(schedule="constant") == [1.0] * 8
    assert rates(schedule="constant", warmup_epochs=2) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert rates(schedule="one_cycle", warmup_epochs=2) == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]
    assert rates(schedule="multistep") == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = rates(schedule="cosine")
    assert cosine[0] == 1.0
    assert cosine[4] == pytest.approx(0.5)
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[-1] > 0


def test_auto_precision_needs_native_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.delenv("SENET_PRECISION", raising=False)
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("fp32", "cpu") == "fp32"


def test_auto_precision_can_be_chosen_for_a_machine(monkeypatch):
    """Only where the recipe leaves it open."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv("SENET_PRECISION", "fp32")
    _, outcome = train(real_network(), with_changes(precision="auto", **ONE_EPOCH))
    assert outcome.environment["precision"] == "fp32"
    assert resolve_precision("bf16", "cpu") == "bf16"
    monkeypatch.setenv("SENET_PRECISION", "half")
    with pytest.raises(UserError, match="SENET_PRECISION is half; allowed: fp32, bf16"):
        resolve_precision("auto", "cpu")


def test_runs_record_how_many_of_them_share_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    known = {"precision": "fp32", "recipe": RECIPE, "data": tiny_data()}
    for kind, given, recorded in (
        ("cuda", "", None),
        ("cuda", "1", None),
        ("cuda", "3", 3),
        ("cpu", "3", None),  # the machine's GPUs are not used
    ):
        monkeypatch.setenv("SENET_RUNS_PER_GPU", given)
        fabric = SimpleNamespace(device=torch.device(kind), world_size=1)
        record = TrainingState._environment(SimpleNamespace(fabric=fabric, **known))
        assert record.get("runs_per_gpu") == recorded, (kind, given)


def test_runs_record_the_instructions_of_their_processor():
    """A processor's name does not tell them: a cloud calls several generations the same."""
    _, outcome = train(recipe=with_changes(**ONE_EPOCH))
    assert outcome.environment["cpu_capability"] == torch.backends.cpu.get_cpu_capability()


def test_record_is_that_of_the_start_and_names_later_conditions(tmp_path, monkeypatch):
    """The commit may change during a training, and a stopped one may continue with another."""

    def checked_out(commit):
        monkeypatch.setattr("senet_lib.results.environment._git_commit", lambda: commit)

    def stopped(commit):
        checked_out(commit)
        model = network()
        StopAt(model, 2, signal.SIGTERM)
        model.register_forward_pre_hook(lambda *_: checked_out("too late"))
        with pytest.raises(TrainingStopped):
            train(model, run_dir=tmp_path)

    def finished(commit):
        checked_out(commit)
        record = train(run_dir=tmp_path)[1].environment
        return record["git_commit"], record.get("resumed_under")

    stopped("first")
    early = torch.load(tmp_path / checkpoint.NEWEST)
    del early["environment"]  # as an early version wrote it
    for commit in ("first", "second", "second", "first"):
        stopped(commit)
    assert finished("third") == ("first", [{"git_commit": "second"}, {"git_commit": "third"}])
    checkpoint.save(tmp_path, early)
    assert finished("fourth") == ("fourth", None)


def test_bf16_keeps_fp32_weights(caplog):
    caplog.set_level("INFO")
    model, outcome = train(real_network(), with_changes(precision="bf16", **ONE_EPOCH))
    assert outcome.environment["precision"] == "bf16"
    assert "Precision" not in caplog.text, "in every run's notebook"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert math.isfinite(outcome.history[0]["train_loss"])


def test_progress_lines(capsys, monkeypatch):
    train(progress="lines")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(part in lines[0] for part in ("epoch 1/3", "train loss", "test loss", "images/s", "left"))
    # The time left is weighted by the pixels of each epoch: 10 s for a quarter, so 80 s for two full ones. Resumed in
    # the middle of the second epoch, 10 s are half of one; resumed after its last step, they are no part of any
    row = dict.fromkeys(("train_loss", "train_accuracy", "test_loss", "test_accuracy"), 0.5)
    row |= {"train_seconds": 9.0, "images_per_second": 100.0}
    for first, epoch, left in ((0, 1, "100 images/s  1 min 20 s left"), (1.5, 2, "  20 s left"), (2, 2, "images/s")):
        clock = iter([0.0, 10.0])
        monkeypatch.setattr("senet_lib.training.progress.time", SimpleNamespace(perf_counter=clock.__next__))
        Reporter([0.25, 1.0, 1.0], "test", first, lines=True).epoch(row | {"epoch": epoch})
        assert capsys.readouterr().out.rstrip().endswith(left)


def test_fabrics_precision_advice_is_hidden(monkeypatch, caplog):
    from lightning_fabric.accelerators import cuda

    monkeypatch.setattr(cuda, "_is_ampere_or_later", lambda device: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    with caplog.at_level("INFO"):
        cuda._check_cuda_matmul_precision.__wrapped__(torch.device("cuda"))
        cuda.rank_zero_info("another line")
    assert [record.getMessage() for record in caplog.records] == ["another line"]


def test_trains_outside_the_main_thread(uninterrupted):
    results = []
    thread = threading.Thread(target=lambda: results.append(train()))
    thread.start()
    thread.join()
    assert result(results[0]) == uninterrupted


def test_narrow_networks_get_correct_gradients():
    """oneDNN writes past its workspace on a strided 1x1 convolution of few channels in channels_last: wrong gradients,
    a crash or a hang. Such networks stay contiguous, so that their gradients equal those in double precision."""
    for width in (0.25, 0.5, 0.31):
        model, data = create_model("resnet20", num_classes=3, width=width), tiny_data()
        recipe = Recipe(epochs=1, batch_size=90, lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, crop_padding=0)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        reference = copy.deepcopy(model).double()
        train(model, recipe.model_copy(update={"flip": "never", "precision": "fp32"}), data)
        x = (data.train_images.double() / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
        loss = nn.functional.cross_entropy(reference(x.permute(0, 3, 1, 2).contiguous()), data.train_labels)
        loss.backward()
        for old, new, parameter in zip(before, model.parameters(), reference.parameters(), strict=True):
            expected = old.double() - parameter.grad
            assert float((new.detach() - expected).norm()) <= 1e-2 * float(parameter.grad.norm()) + 1e-6, width


def test_kernels_are_chosen_recorded_and_restored():
    """On a CPU both choices train the same weights; afterwards torch's settings are those of before."""

    def settings():
        filling = torch.utils.deterministic.fill_uninitialized_memory
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, filling

    before, seen, weights = settings(), {}, set()
    for kernels in ("deterministic", "fastest"):
        model = attention_network()
        model.register_forward_pre_hook(lambda *_, kernels=kernels: seen.update({kernels: settings()}))
        _, outcome = train(model, with_changes(gpu_kernels=kernels, **ONE_EPOCH))
        weights.add(digest(model))
        assert outcome.environment["gpu_kernels"] == kernels
        assert settings() == before == (False, False, True)
    assert seen == {"deterministic": (True, False, False), "fastest": (False, True, False)}
    assert len(weights) == 1


def attention_network():
    """A block with SK, SE and a strided shortcut of few channels, which has to stay out of channels_last on a CPU."""
    model = network()
    body = SelectiveKernelConv(8, 16, stride=2, groups=1, min_hidden=8)
    model[3] = ResidualBlock(body, nn.Conv2d(8, 16, 1, stride=2), SqueezeExcitation(16, reduction=4))
    return model


GROWING = {"epochs": 2, "first_size": 16, "full_size_from": 0.9, "lr": 0.01, "test_time_augmentation": True}


def check_compiled(run_dir, **changes):
    """Two epochs, each with a short last batch, compiled and not: equal up to rounding, with the same names on disk."""
    recipe = with_changes(**(GROWING | changes))
    _, eager = train(attention_network(), recipe)
    model, compiled = train(attention_network(), recipe.model_copy(update={"compile": True}), run_dir=run_dir)
    for row, expected in zip(compiled.history, eager.history, strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=0, abs=1e-4)
        assert row["test_loss"] == pytest.approx(expected["test_loss"], rel=0, abs=1e-4)
    stored = torch.load(run_dir / checkpoint.NEWEST, weights_only=True)
    assert list(stored["model"]) == list(model.state_dict()) == list(attention_network().state_dict())


def test_only_full_training_batches_are_compiled(tmp_path, monkeypatch):
    """A graph per resolution, beyond torch's limit of 8; none for short batches, evaluation and TTA."""
    shapes, layouts = [], []

    def count(graph, inputs, options=None):
        layouts.append(options)
        shapes.extend(tuple(x.shape) for x in inputs if x.ndim == 4 and not isinstance(x, nn.Parameter))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    check_compiled(tmp_path, averaging="lookahead", muon_lr=0.02)
    assert shapes == [(16, 3, size, size) for size in (16, 28)]
    assert layouts == [{"layout_optimization": False}] * 2, "channels_last is left out where oneDNN fails in it"
    shapes.clear()
    model, sizes = CompiledTraining(nn.Conv2d(3, 4, 3), 2, torch.channels_last), range(8, 17)
    with compiled_or_error():
        for size in sizes:
            model(torch.zeros(2, 3, size, size))
    assert [shape[-1] for shape in shapes] == list(sizes)
    assert layouts[-1] is None
    reached = torch._dynamo.config.patch(accumulated_recompile_limit=len(sizes))
    with reached, compiled_or_error(), pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        model(torch.zeros(2, 3, 20, 20))


@pytest.mark.slow
def test_compiled_training_equals_eager(tmp_path):
    check_compiled(tmp_path, first_size=None)  # one graph: inductor takes its time


def test_weights_are_checked_on_load(tmp_path):
    model, _ = train(run_dir=tmp_path, recipe=with_changes(epochs=1))
    write_summary(tmp_path, {})
    again = network(seed=9)
    checkpoint.load_weights(tmp_path, again)
    assert digest(again) == digest(model)

    path = tmp_path / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="weights.safetensors: sha256 is"):
        checkpoint.load_weights(tmp_path, again)
    path.unlink()
    with pytest.raises(ValueError, match="no such file"):
        checkpoint.load_weights(tmp_path, again)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_documented_example_loads_the_weights_of_its_run(tmp_path, monkeypatch):
    page = (project_root() / "docs" / "file_formats.md").read_text(encoding="utf-8")
    (example,) = (block.split("```")[0] for block in page.split("```python\n") if "load_weights(" in block)
    place = Path(*re.search(r'"(results/quick/runs/.*)"', example)[1].split("/"))
    runs = {run.run_id: run for run in load_study("quick", project_root() / "studies").runs()}
    run_dir, trained = tmp_path / place, runs[place.name]
    run_dir.mkdir(parents=True)
    checkpoint.save_weights(run_dir, create_model(trained.model, num_classes=10, **trained.knobs))
    write_summary(run_dir, {})
    monkeypatch.chdir(tmp_path)
    exec(example, {})


def test_freed_memory_is_reused():
    """Allocating 128 MiB touches 32,768 new pages, unless the memory of an earlier allocation is used again."""
    keep_freed_memory()
    bytearray(2**27)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(2**27)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000
