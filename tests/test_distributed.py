"""One training on several devices: the mathematics of one device, a file written once, an orderly end."""

import copy
import dataclasses
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.distributed as dist
from torch import nn

from senet_lib.data import Augmenter, load_dataset
from senet_lib.errors import UserError
from senet_lib.models import create_model
from senet_lib.results import read_history
from senet_lib.study import Recipe
from senet_lib.training import NonFiniteLoss, TrainingStopped, distributed, fit, loop
from senet_lib.training.batch_norm import SynchronisedBatchNorm, synchronise
from senet_lib.training.distributed import DONE

# So small a rate that rounding does not grow: at 0.05, a change of 1e-7 in the weights changes the third loss by 2e-3,
# and at 0.001 the losses of an epoch differ by 1e-4 on some processors
STEADY = {"batch_size": 50, "lr": 2e-4, "precision": "fp32"}
CPU = {"device": "cpu", "threads": 1, "progress": "lines"}


@pytest.fixture(scope="module")
def ten_steps():
    """Images for ten steps per epoch, the last one with 30 images, and an odd number of test images."""
    data = load_dataset("digits")
    images = {"train_images": data.train_images[:480], "train_labels": data.train_labels[:480]}
    return dataclasses.replace(data, **images, test_images=data.test_images[:77], test_labels=data.test_labels[:77])


def network():
    torch.manual_seed(0)
    return create_model("sk_resnet20", num_classes=10, width=0.5, min_hidden=4)


def stop_when(condition):
    """Signal this process and those of its training, as the launcher of a run does, once the condition holds."""

    def wait():
        while not condition():
            time.sleep(0.05)
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            if process == this or any("device_process" in word for word in process.cmdline()):
                process.terminate()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.slow
def test_two_devices_train_as_one(ten_steps, tmp_path, monkeypatch, capfd):
    """Losses of the first ten steps, weights, batch-norm statistics and evaluation; begun on two devices, stopped in
    the second epoch and continued on one, and the reverse."""
    monkeypatch.setenv("SENET_CHECKPOINT_SECONDS", "0")
    recipe, alone = Recipe(epochs=2, **STEADY), network()
    one = fit(alone, ten_steps, recipe, **CPU)
    assert "devices" not in one.environment
    for before, after in ((2, 1), (1, 2)):
        model, run_dir = network(), tmp_path / str(before)
        run_dir.mkdir()
        stop_when(lambda run_dir=run_dir: (run_dir / "history.csv").exists())
        with pytest.raises(TrainingStopped, match="stopped by SIGTERM in epoch 2 after step"):
            fit(model, ten_steps, recipe, run_dir=run_dir, devices=before, **CPU)
        output = "".join(capfd.readouterr())
        assert "Traceback" not in output, output
        both = fit(model, ten_steps, recipe, run_dir=run_dir, devices=after, **CPU)
        output = capfd.readouterr().out
        assert output.count("epoch 2/2") == 1, "only the first process reports"
        assert f"of {before} devices on {after}: equal up to rounding" in output
        for ours, theirs in zip(one.history, both.history, strict=True):
            for key in ("train_loss", "test_loss", "train_accuracy", "lr"):
                assert ours[key] == pytest.approx(theirs[key], abs=1e-4), (before, after, key)
        for (name, ours), theirs in zip(alone.state_dict().items(), model.state_dict().values(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3, msg=name)
        assert (one.evaluation.label == both.evaluation.label).all()
        assert (one.evaluation.predicted == both.evaluation.predicted).mean() > 0.95
        assert isinstance(model.stem[1], nn.BatchNorm2d), "the caller's network has its own kind of batch norm"
        assert both.environment.get("devices", 1) == before
        assert [part["devices"] for part in both.environment["resumed_under"]] == [after]


@pytest.mark.slow
def test_what_goes_wrong_on_a_device_is_raised_here(ten_steps):
    for recipe, error, message in (
        (STEADY | {"lr": 1e30}, NonFiniteLoss, "the loss is nan in epoch 1, step . of 10"),
        (STEADY | {"batch_size": 478}, UserError, "DEVICES is 2, but the smallest batch has 2 images"),
    ):
        with pytest.raises(error, match=message):
            fit(network(), ten_steps, Recipe(epochs=1, nesterov=False, **recipe), devices=2, **CPU)


@pytest.mark.slow
def test_statistics_per_device_and_a_killed_caller(ten_steps, tmp_path):
    """Batch norm per device trains differently; and the processes end with the one that has started them."""
    torch.save((network(), ten_steps), tmp_path / "inputs.pt")
    code = (
        "import sys, torch; from senet_lib.study import Recipe; from senet_lib.training import fit;"
        "network, data = torch.load('inputs.pt', weights_only=False);"
        "recipe = Recipe(epochs=500, batch_size=50, lr=1e-3, precision='fp32', synchronise_batch_norm=False);"
        "fit(network, data, recipe, run_dir='.', device='cpu', threads=1, devices=2, progress='none')"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    while not (tmp_path / "history.csv").exists():
        assert caller.poll() is None
        time.sleep(0.05)
    processes = psutil.Process(caller.pid).children(recursive=True)
    assert len(processes) >= 3, "torchrun and two processes"
    caller.kill()
    caller.wait()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    alone = fit(network(), ten_steps, Recipe(epochs=1, **STEADY), **CPU).history[0]["train_loss"]
    assert 1e-4 < abs(read_history(tmp_path)["train_loss"][0] - alone) < 0.1


def test_processes_agree_to_stop_in_an_epoch_of_few_steps(monkeypatch):
    """On GPUs they ask each other only at some steps; the last step of an epoch is one of them."""
    asked = []
    monkeypatch.setattr(loop, "agreed", lambda fabric, *flags: asked.append(flags) or list(flags))
    fabric = SimpleNamespace(world_size=2, device=torch.device("cuda"))
    stop, seen = SimpleNamespace(received=signal.SIGTERM), []
    for step in range(1, 8):
        state = SimpleNamespace(fabric=fabric, step=step, batches=SimpleNamespace(steps=7), save_is_due=lambda: False)
        seen.append(loop._is_to_save(state, stop))
    assert seen == [False] * 6 + [True]
    assert asked == [(True, False)]


def test_a_stop_during_the_last_evaluation_loses_no_finished_training(ten_steps, monkeypatch):
    """The processes have handed over their outcome, although a signal came."""
    weights = network().state_dict()

    def start(folder, devices, threads):
        torch.save(("the outcome", weights), folder / DONE)

    def follow(process, stop):
        stop.received = signal.SIGTERM
        return 0

    monkeypatch.setattr(distributed, "_start", start)
    monkeypatch.setattr(distributed, "_follow", follow)
    model = network()
    assert distributed.train_on_devices(model, "cpu", 2, 1) == "the outcome"
    monkeypatch.setattr(distributed, "_start", lambda *_: None)
    with pytest.raises(TrainingStopped, match="before its processes had started; nothing is saved"):
        distributed.train_on_devices(model, "cpu", 2, 1)


def test_parts_of_a_batch_make_up_the_batch(ten_steps):
    def batches(part):
        options = {"batch_size": 50, "padding": 2, "flip": True, "cutout": 8, "mean": data.mean, "std": data.std}
        return list(Augmenter(data.train_images, data.train_labels, part=part, **options).epoch(seed=1, epoch=2))

    data = ten_steps
    whole, parts = batches((0, 1)), [batches((part, 3)) for part in range(3)]
    assert [len(y) for _, y in whole] == [50] * 9 + [30]
    for step, (x, y) in enumerate(whole):
        for part in range(3):
            torch.testing.assert_close(parts[part][step][0], x[part::3], rtol=0, atol=0)
            assert parts[part][step][1].equal(y[part::3])


@pytest.fixture
def only_process():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def test_synchronised_batch_norm_follows_pytorch(only_process):
    """Outputs, gradients and running statistics, with and without a map, for a batch that one process has alone."""
    for shape in ((8, 3, 4, 5), (8, 3)):
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(3, momentum=0.3) if len(shape) == 4 else nn.BatchNorm1d(3, momentum=0.3)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        model = nn.Sequential(copy.deepcopy(norm))
        synchronise(model, torch.device("cpu"))
        assert isinstance(model[0], SynchronisedBatchNorm)
        assert list(model[0].state_dict()) == list(norm.state_dict())
        x, found = (100 + torch.randn(shape)).requires_grad_(), []
        for one in (norm, model):
            y = one(x)
            (y**3).sum().backward()
            found.append([y.detach(), x.grad, *(parameter.grad for parameter in one.parameters())])
            x.grad = None
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        for ours, theirs in zip(model[0].buffers(), norm.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(model.eval()(x), norm.eval()(x))
