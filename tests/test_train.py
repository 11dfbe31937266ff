"""Training: the same seed gives the same weights, however often it is interrupted, and nothing goes wrong silently."""

import copy
import errno
import hashlib
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from senet_lib.data import Dataset
from senet_lib.files import read_json
from senet_lib.models import create_model
from senet_lib.results import write_summary
from senet_lib.study import Recipe
from senet_lib.training import NonFiniteLoss, TrainingStopped, checkpoint, evaluate, fit
from senet_lib.training.progress import Reporter
from senet_lib.training.runtime import resolve_precision
from senet_lib.training.schedule import learning_rate
from senet_lib.training.tta import tta_accuracy

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05, warmup_epochs=0.5, precision="fp32")
STEPS = 6  # of an epoch of `tiny` images in batches of 16: five full ones and the rest


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


def network(seed=0):
    torch.manual_seed(seed)
    return create_model("sk_se_resnet20", num_classes=3, width=0.25, reduction=2)


def train(model=None, recipe=RECIPE, **options):
    model = model or network()
    return model, fit(model, tiny_data(), recipe, progress="none", device="cpu", **options)


def digest(model):
    content = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(content).hexdigest()


def untimed(history):
    return [{key: row[key] for key in row if key not in ("train_seconds", "images_per_second")} for row in history]


@pytest.fixture(scope="module")
def undisturbed():
    model, outcome = train()
    return digest(model), untimed(outcome.history)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(undisturbed):
    model, outcome = train()
    assert (digest(model), untimed(outcome.history)) == undisturbed
    other, outcome = train(seed=1)
    assert digest(other) != undisturbed[0]
    assert untimed(outcome.history) != undisturbed[1]


def test_it_learns(undisturbed):
    history = undisturbed[1]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert [row["epoch"] for row in history] == [1, 2, 3]


class StopAt:
    """Raises, or sends a signal, in a given step of the whole training, as a kill from outside would come."""

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


@pytest.mark.parametrize("step", [2, STEPS + 1, 2 * STEPS + 4])
def test_killed_in_mid_epoch_it_resumes_to_the_same_weights(tmp_path, undisturbed, step):
    model = network()
    StopAt(model, step)
    with pytest.raises(ConnectionAbortedError):
        train(model, run_dir=tmp_path)
    model, outcome = train(run_dir=tmp_path)
    assert (digest(model), untimed(outcome.history)) == undisturbed


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, TrainingStopped), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("step", [1, STEPS, STEPS + 3])
def test_a_signal_saves_the_very_step_and_resumes_to_the_same_weights(tmp_path, undisturbed, number, error, step):
    model = network()
    StopAt(model, step, number)
    with pytest.raises(error, match=f"epoch {(step - 1) // STEPS + 1} after step {(step - 1) % STEPS + 1} of {STEPS}"):
        train(model, run_dir=tmp_path)
    seen = []
    model = network()
    model.register_forward_pre_hook(lambda module, _: seen.append(1) if module.training else None)
    model, outcome = train(model, run_dir=tmp_path)
    assert len(seen) == 3 * STEPS - step, "no step is trained twice"
    assert (digest(model), untimed(outcome.history)) == undisturbed
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "handlers are given back"


def test_interrupted_after_every_step_it_ends_at_the_same_weights(tmp_path, undisturbed):
    for _ in range(3 * STEPS - 1):
        model = network()
        StopAt(model, 1, signal.SIGTERM)
        with pytest.raises(TrainingStopped):
            train(model, run_dir=tmp_path)
    model, outcome = train(run_dir=tmp_path)
    assert (digest(model), untimed(outcome.history)) == undisturbed


PARTS = {  # of a fast recipe, all at once
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


@pytest.fixture(scope="module", params=["lookahead", "ema"])
def with_every_part(request):
    recipe = RECIPE.model_copy(update={**PARTS, "averaging": request.param})
    model, outcome = train(recipe=recipe)
    return recipe, (digest(model), untimed(outcome.history), outcome.tta_accuracy)


@pytest.mark.parametrize("step", [3, STEPS, 2 * STEPS + 4])
def test_with_every_part_of_a_fast_recipe_it_resumes_to_the_same_weights(tmp_path, with_every_part, step):
    recipe, undisturbed = with_every_part
    model = network()
    StopAt(model, step, signal.SIGTERM)
    with pytest.raises(TrainingStopped):
        train(model, recipe, run_dir=tmp_path)
    model = network()
    StopAt(model, STEPS - 1 if step < STEPS else 2)  # and killed a little later, with no time to save
    with pytest.raises(ConnectionAbortedError):
        train(model, recipe, run_dir=tmp_path)
    for _ in range(2):  # the second time nothing is left to train
        model, outcome = train(recipe=recipe, run_dir=tmp_path)
        assert (digest(model), untimed(outcome.history), outcome.tta_accuracy) == undisturbed
    again = network(seed=9)
    write_summary(tmp_path, {})
    checkpoint.load_weights(tmp_path, again)
    assert digest(again) == undisturbed[0], "the weights kept are those evaluated last"


def test_an_average_beside_training_is_that_of_the_weights_seen_and_is_what_is_evaluated(undisturbed):
    recipe = RECIPE.model_copy(update={"averaging": "ema", "averaging_steps": 1, "averaging_decay": 0.8})
    model, seen = network(), []
    name = "head.weight"
    parameter = model.get_parameter(name)
    model.register_forward_pre_hook(lambda m, _: seen.append(parameter.detach().clone()) if m.training else None)
    _, outcome = train(model, recipe)
    plain, _ = train()
    average = seen[0]
    for step, weights in enumerate([*seen[1:], plain.get_parameter(name).detach()], start=1):
        share = 0.8 * (step / (3 * STEPS)) ** 3
        average = share * average + (1 - share) * weights
    torch.testing.assert_close(parameter.detach(), average)
    data = tiny_data()
    again = evaluate(model, data.test_images, data.test_labels, mean=data.mean, std=data.std)
    assert again.loss == outcome.evaluation.loss == outcome.history[-1]["test_loss"]
    for key, equal in (("train_loss", True), ("test_loss", False)):
        assert ([row[key] for row in outcome.history] == [row[key] for row in undisturbed[1]]) is equal


def test_tta_is_a_figure_beside_the_plain_one(tmp_path, undisturbed):
    facts = {}
    for on in (False, True):
        recipe = RECIPE.model_copy(update={"test_time_augmentation": on})
        model, outcome = train(recipe=recipe)
        assert (digest(model), untimed(outcome.history)) == undisturbed
        outcome.save(tmp_path)
        facts[on] = read_json(tmp_path / "outcome.json")
    tta = facts[True].pop("tta_accuracy")
    data = tiny_data()
    arguments = {"mean": data.mean, "std": data.std, "mirror": True, "batch_size": 30}
    assert tta == tta_accuracy(model, data.test_images, data.test_labels, **arguments)
    for found in facts.values():
        del found["train_seconds"]
    assert facts[True] == facts[False]


def test_a_finished_training_is_not_trained_again(tmp_path, undisturbed):
    train(run_dir=tmp_path)
    model = network(seed=5)
    model.register_forward_pre_hook(lambda module, _: pytest.fail("trained again") if module.training else None)
    model, outcome = train(model, run_dir=tmp_path)
    assert (digest(model), untimed(outcome.history)) == undisturbed
    assert outcome.evaluation.accuracy == undisturbed[1][-1]["test_accuracy"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "deleted"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(tmp_path, undisturbed, damage):
    model = network()
    StopAt(model, 2 * STEPS + 2)
    with pytest.raises(ConnectionAbortedError):
        train(model, run_dir=tmp_path)
    newest = tmp_path / checkpoint.NEWEST
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        newest.write_bytes(content[:-1000])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, outcome = train(run_dir=tmp_path)
    assert (digest(model), untimed(outcome.history)) == undisturbed
    named = [str(warning.message) for warning in caught if str(newest) in str(warning.message)]
    assert bool(named) == (damage != "deleted")
    assert (tmp_path / "checkpoint.pt.damaged").exists() == (damage != "deleted")


def test_with_both_checkpoints_damaged_it_starts_over(tmp_path, undisturbed):
    train(run_dir=tmp_path)
    for name in (checkpoint.NEWEST, checkpoint.PREVIOUS):
        (tmp_path / name).write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning, match="damaged"):
        model, outcome = train(run_dir=tmp_path)
    assert (digest(model), untimed(outcome.history)) == undisturbed


def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path):
    train(run_dir=tmp_path, config_hash="one")
    before = (tmp_path / checkpoint.NEWEST).read_bytes()
    with pytest.raises(checkpoint.CheckpointMismatch, match="config was 'one', is 'two'; seed was 0, is 3"):
        train(run_dir=tmp_path, config_hash="two", seed=3)
    assert (tmp_path / checkpoint.NEWEST).read_bytes() == before, "nothing is lost by a refusal"


@pytest.fixture(scope="module")
def half_way(tmp_path_factory):
    """A run's folder as a kill in the second epoch leaves it."""
    folder = tmp_path_factory.mktemp("half_way")
    model = network()
    StopAt(model, STEPS + 4)
    with pytest.raises(ConnectionAbortedError):
        train(model, run_dir=folder, config_hash="one", threads=1)
    return folder


def of_other_data(data):
    return replace(data, fingerprints={**data.fingerprints, "train": "other"})


@pytest.mark.parametrize("key", ["data", "threads", "torch"])
def test_a_resume_elsewhere_is_refused_by_name_and_recorded_where_it_is_demanded(half_way, tmp_path, monkeypatch, key):
    folder = tmp_path / "run"
    shutil.copytree(half_way, folder)
    data = of_other_data(tiny_data()) if key == "data" else tiny_data()
    if key == "torch":
        monkeypatch.setattr(torch, "__version__", "1.0")
    options = {"run_dir": folder, "config_hash": "one", "progress": "none", "device": "cpu"}
    options["threads"] = 2 if key == "threads" else 1
    try:
        with pytest.raises(checkpoint.CheckpointMismatch, match=f"cannot resume: {key} was [^;]*RESUME_ANYWAY=1"):
            fit(network(), data, RECIPE, **options)
        model = network()
        StopAt(model, STEPS, signal.SIGTERM)
        with pytest.raises(TrainingStopped):
            fit(model, data, RECIPE, resume_anyway=True, **options)
        outcome = fit(network(), data, RECIPE, **options)  # by now it is its own checkpoint, and remembers
    finally:
        torch.set_num_threads(1)
    (deviation,) = outcome.environment["resumed_anyway"]
    assert deviation.startswith(f"after epoch 1, step 0: {key} was ")
    assert len(outcome.history) == 3


def test_an_undisturbed_or_rightly_resumed_run_records_no_deviation(half_way, tmp_path):
    shutil.copytree(half_way, tmp_path / "run")
    _, outcome = train(run_dir=tmp_path / "run", config_hash="one", threads=1, resume_anyway=True)
    assert "resumed_anyway" not in outcome.environment


@pytest.mark.parametrize("other", [{"config_hash": "two"}, {"config_hash": "one", "seed": 1}])
def test_another_config_or_seed_is_another_run_whatever_is_demanded(half_way, other):
    with pytest.raises(checkpoint.CheckpointMismatch, match="(config|seed) was") as refusal:
        train(run_dir=half_way, threads=1, resume_anyway=True, **other)
    assert "RESUME_ANYWAY" not in str(refusal.value), "it would not help"


def test_resumed_anyway_with_more_images_the_epoch_in_hand_starts_anew(tmp_path):
    model = network()
    StopAt(model, STEPS + 4, signal.SIGTERM)
    with pytest.raises(TrainingStopped):
        train(model, run_dir=tmp_path)
    more = replace(tiny_data(images=120), fingerprints={"train": "more"})
    outcome = fit(network(), more, RECIPE, run_dir=tmp_path, progress="none", device="cpu", resume_anyway=True)
    assert "data was" in outcome.environment["resumed_anyway"][0]
    assert [row["epoch"] for row in outcome.history] == [1, 2, 3]


WRITTEN = (checkpoint.DIGESTS, "checkpoint.next.pt", "history.csv", "weights.safetensors")


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("time", [1, 2])
def test_a_full_disk_is_an_error_with_the_path_and_afterwards_it_ends_at_the_same_weights(
    tmp_path, undisturbed, monkeypatch, name, time
):
    """The disk is full the first or second time that a file of this name is written, as its fsync would say."""
    real, left = os.fsync, time

    def fsync(handle):
        nonlocal left
        if any(path.name.startswith(f".{name}.") for path in tmp_path.glob("*.tmp")):
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    if (name, time) == ("weights.safetensors", 2):  # written once a training
        train(run_dir=tmp_path)
    with pytest.raises(OSError, match="No space left") as error:
        train(run_dir=tmp_path)
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / name)
    assert not list(tmp_path.glob("*.tmp")), "half a file is not left behind"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is there is whole
        model, outcome = train(run_dir=tmp_path)
    assert (digest(model), untimed(outcome.history)) == undisturbed


def test_a_file_that_may_not_grow_leaves_the_earlier_checkpoint_whole(tmp_path):
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


def test_a_checkpoint_is_data_and_never_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    checkpoint.save(tmp_path, {"identity": {}, "trap": Trap()})
    with pytest.raises(Exception, match="[Ww]eights"):
        checkpoint.load(tmp_path, {})
    assert not (tmp_path / "trapped").exists()


def test_a_killed_write_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    """Interrupted at each of the renames a write is made of, there is always a checkpoint that counts."""
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


def test_a_loss_that_is_not_finite_stops_with_epoch_step_and_lr_and_keeps_the_checkpoint(tmp_path):
    recipe = RECIPE.model_copy(update={"lr": 0.05, "schedule": "constant", "warmup_epochs": 0.0})
    model = network()
    seen = 0

    def poison(module, inputs):
        nonlocal seen
        seen += module.training
        return (inputs[0] * math.nan,) if seen == STEPS + 3 and module.training else None

    model.register_forward_pre_hook(poison)
    with pytest.raises(NonFiniteLoss, match=f"nan in epoch 2, step 3 of {STEPS}, learning rate 0.05"):
        train(model, recipe, run_dir=tmp_path)
    newest = torch.load(tmp_path / checkpoint.NEWEST, weights_only=True)
    assert len(newest["history"]) == 1
    assert all(tensor.isfinite().all() for tensor in newest["model"].values())


class Known(nn.Module):
    """Says class 1 with probability 3/4 of every image."""

    def forward(self, x):
        return torch.tensor([0.0, math.log(3.0)]).expand(len(x), 2)


def test_evaluation_of_a_model_with_known_answers():
    images = torch.zeros(8, 28, 28, 3, dtype=torch.uint8)
    labels = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0])
    result = evaluate(Known(), images, labels, mean=(0.5,) * 3, std=(0.5,) * 3, batch_size=3)
    assert result.accuracy == 0.75
    assert result.predicted.tolist() == [1] * 8
    assert result.confidence.tolist() == pytest.approx([0.75] * 8)
    assert result.loss == pytest.approx(-(6 * math.log(0.75) + 2 * math.log(0.25)) / 8)


def test_evaluation_leaves_the_network_alone_unless_it_repeats_source_bs_defect():
    model, data = network(), tiny_data()
    before = digest(model)
    arguments = {"mean": data.mean, "std": data.std, "batch_size": 10}
    first = evaluate(model, data.test_images, data.test_labels, **arguments)
    assert digest(model) == before
    assert evaluate(model, data.test_images, data.test_labels, **arguments).loss == first.loss
    assert evaluate(model, data.test_images, data.test_labels, training_mode=True, **arguments).loss != first.loss
    assert digest(model) != before, "source B's evaluation moves the running statistics"


def test_evaluated_images_are_the_last_epochs(undisturbed):
    model, outcome = train()
    data = tiny_data()
    again = evaluate(model, data.test_images, data.test_labels, mean=data.mean, std=data.std)
    assert (again.predicted == outcome.evaluation.predicted).all()
    assert again.accuracy == outcome.history[-1]["test_accuracy"]


def test_a_holdout_leaves_the_test_set_unused():
    data = tiny_data()
    data.test_images.fill_(0)
    outcome = fit(
        network(), data, RECIPE.model_copy(update={"holdout": 30, "epochs": 1, "warmup_epochs": 0.0}), progress="none"
    )
    assert outcome.evaluated_on == "holdout" and outcome.evaluated == "validation"
    assert len(outcome.evaluation.label) == 30
    assert outcome.environment["data"]["fingerprints"] != data.fingerprints


@pytest.mark.parametrize(
    "changes",
    [
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
    ],
)
def test_every_switch_of_the_recipe_changes_the_weights(undisturbed, changes):
    model, _ = train(recipe=RECIPE.model_copy(update=changes))
    assert digest(model) != undisturbed[0]


def test_bn_momentum_moves_the_running_statistics_alone(undisturbed):
    model, _ = train(recipe=RECIPE.model_copy(update={"bn_momentum": 0.4}))
    usual, _ = train()
    for (name, mine), theirs in zip(model.state_dict().items(), usual.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs) != ("running" in name), name


def test_clipping_bounds_the_gradients_norm():
    """With plain SGD without momentum and decay a step's length is lr times the clipped norm."""
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "schedule": "constant", "warmup_epochs": 0.0}
    recipe = Recipe(epochs=1, batch_size=90, lr=0.5, clip_norm=0.01, precision="fp32", **plain)
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, recipe)
    moved = math.sqrt(
        sum(float((a.detach() - b).square().sum()) for a, b in zip(model.parameters(), before, strict=True))
    )
    assert moved == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_learning_rates_by_hand():
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


def test_precision_auto_is_bf16_only_where_the_hardware_computes_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("fp32", "cpu") == "fp32"


def test_bf16_trains_and_keeps_its_weights_in_fp32():
    model, outcome = train(recipe=RECIPE.model_copy(update={"precision": "bf16", "epochs": 1, "warmup_epochs": 0.0}))
    assert outcome.environment["precision"] == "bf16"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert math.isfinite(outcome.history[0]["train_loss"])


def test_headless_training_prints_one_plain_line_an_epoch(capsys):
    fit(network(), tiny_data(), RECIPE, progress="lines")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(part in lines[0] for part in ("epoch 1/3", "train loss", "test loss", "images/s", "left"))


def test_nothing_advises_to_give_up_precision_on_a_gpu(monkeypatch, caplog):
    from lightning_fabric.accelerators import cuda

    monkeypatch.setattr(cuda, "_is_ampere_or_later", lambda device: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    with caplog.at_level("INFO"):
        cuda._check_cuda_matmul_precision.__wrapped__(torch.device("cuda"))
        cuda.rank_zero_info("another line")
    assert [record.getMessage() for record in caplog.records] == ["another line"]


def test_held_out_images_are_not_called_the_test_set(capsys):
    fit(network(), tiny_data(), RECIPE.model_copy(update={"holdout": 30}), progress="lines")
    printed = capsys.readouterr().out
    assert "validation loss" in printed
    assert "test loss" not in printed


def test_epochs_of_small_images_are_not_taken_for_the_time_that_full_size_ones_need(capsys, monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("senet_lib.training.progress.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    row = dict.fromkeys(("train_loss", "train_accuracy", "test_loss", "test_accuracy"), 0.5)
    reporter = Reporter([0.25, 1.0, 1.0], "test", 0, lines=True)
    reporter.epoch(row | {"epoch": 1, "train_seconds": 9.0, "images_per_second": 100.0})
    assert capsys.readouterr().out.rstrip().endswith("1 min 20 s left")


def test_it_trains_outside_the_main_thread_too(undisturbed):
    results = []
    thread = threading.Thread(target=lambda: results.append(train()))
    thread.start()
    thread.join()
    assert digest(results[0][0]) == undisturbed[0]


@pytest.mark.parametrize("width", [0.25, 0.5, 0.31])
def test_narrow_networks_get_the_right_gradients(width):
    """oneDNN writes past its workspace on a strided 1x1 convolution of few channels in channels_last: wrong gradients,
    a crash or a hang. train() keeps such networks contiguous, so its gradients are the reference's."""
    model, data = create_model("resnet20", num_classes=3, width=width), tiny_data()
    recipe = Recipe(epochs=1, batch_size=90, lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, crop_padding=0)
    recipe = recipe.model_copy(update={"flip": "never", "precision": "fp32"})
    before = [parameter.detach().clone() for parameter in model.parameters()]
    reference = copy.deepcopy(model).double()
    fit(model, data, recipe, progress="none", device="cpu")
    x = (data.train_images.double() / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
    loss = nn.functional.cross_entropy(reference(x.permute(0, 3, 1, 2).contiguous()), data.train_labels)
    loss.backward()
    for old, new, parameter in zip(before, model.parameters(), reference.parameters(), strict=True):
        expected = old.double() - parameter.grad
        assert float((new.detach() - expected).norm()) <= 1e-2 * float(parameter.grad.norm()) + 1e-6


def test_torchs_own_switches_are_given_back():
    train(recipe=RECIPE.model_copy(update={"epochs": 1, "warmup_epochs": 0.0}))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_the_final_weights_are_kept_and_vouched_for(tmp_path):
    model, _ = train(run_dir=tmp_path, recipe=RECIPE.model_copy(update={"epochs": 1}))
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
def test_a_step_allocates_again_what_the_step_before_freed():
    code = """
import resource
from senet_lib.training.runtime import keep_freed_memory
keep_freed_memory()
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(2**27)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(step(), step())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    first, second = map(int, found.split())
    assert second < first / 100
