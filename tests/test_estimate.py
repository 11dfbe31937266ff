"""A run's estimated cost: what is computed from its recipe, what is measured, and what finished runs teach."""

import csv
import io
import json
import signal
import zipfile
from types import SimpleNamespace

import pytest

from senet_lib.files import write_json
from senet_lib.metrics import count_macs
from senet_lib.models import create_model
from senet_lib.project import project_root
from senet_lib.results import HISTORY_COLUMNS, write_history
from senet_lib.running import estimate, pace
from senet_lib.running.inputs import outline
from senet_lib.study import Recipe, RunConfig

CIFAR10 = outline("cifar10")


def run(label="a", seed=0, model="resnet20", knobs=None, **recipe):
    recipe = Recipe(**{"batch_size": 8, **recipe})
    return RunConfig(study="s", label=label, model=model, knobs=knobs or {}, seed=seed, data="cifar10", recipe=recipe)


def h100_seconds(**recipe):
    return estimate.cost(run(**recipe), CIFAR10, 1.0).h100_seconds[0]


def test_macs_are_those_of_the_images():
    """Neither wide nor high images count as square ones."""
    model = create_model("resnet20", width=0.25)
    for height, width in ((8, 24), (24, 8)):
        data = SimpleNamespace(num_classes=10, image_shape=(3, height, width))
        assert estimate.count(run(knobs={"width": 0.25}), data)[1] == count_macs(model, (3, height, width))


def test_fewer_and_smaller_images_cost_less():
    whole = 50_000 + 10_000 / 3  # images per epoch: evaluating one costs a third of training on it
    plain = h100_seconds(epochs=10)
    assert h100_seconds(epochs=10, holdout=5_000) / plain == pytest.approx((45_000 + 5_000 / 3) / whole)
    resolutions = [16, 16, 20, 24, 28, 32, 32, 32, 32, 32]
    pixels = sum(resolution**2 for resolution in resolutions) / (10 * 32**2)
    smaller = h100_seconds(epochs=10, crop_size=28)
    assert smaller / plain == pytest.approx((50_000 * (28 / 32) ** 2 + 10_000 / 3) / whole)
    growing = h100_seconds(epochs=10, first_size=16, full_size_from=0.5)
    assert growing / plain == pytest.approx((50_000 * pixels + 10_000 / 3) / whole)


def test_the_rest_of_a_run_is_what_its_checkpoint_leaves(tmp_path):
    """A run that is almost finished is worth starting where a whole one is not."""
    pending = run(epochs=10, first_size=16, full_size_from=0.5)
    known, run_dir = pace.Pace([pending], CIFAR10, 1), tmp_path / pending.run_id
    assert known.rest(pending, run_dir) is None
    known.learn(pending, known.start + 100)
    shares = [size**2 for size in (16, 16, 20, 24, 28, 32, 32, 32, 32, 32)]
    write_json(run_dir / "config.json", pending.record())
    write_history(run_dir, [dict.fromkeys(HISTORY_COLUMNS, epoch) for epoch in range(1, 9)])
    assert known.rest(pending, run_dir) == known.start + 100, "without a checkpoint it begins again"
    (run_dir / "checkpoint.pt").touch()
    assert known.rest(pending, run_dir) == pytest.approx(known.start + 100 * sum(shares[8:]) / sum(shares))
    (run_dir / "history.csv").write_bytes(b"\xff")
    assert known.rest(pending, run_dir) == pytest.approx(known.start + 100), "a damaged history stops no launcher"
    other = run(epochs=10, first_size=16, full_size_from=0.5, lr=0.2)
    assert known.rest(other, run_dir) == known.start + 100, "of another configuration"


def test_h100_layers_are_those_of_a_recorded_run():
    """The upper end of the range, for ResNet-20 at the recorded run's batch size, is that run's time per epoch."""
    with zipfile.ZipFile(project_root() / "results" / "archive" / "resnet20_fast.zip") as archive:
        read = lambda name: archive.read(f"runs/resnet20-seed4/{name}").decode()  # noqa: E731
        recipe = json.loads(read("config.json"))["recipe"]
        recorded = min(float(row["train_seconds"]) for row in csv.DictReader(io.StringIO(read("history.csv"))))
        assert "H100" in json.loads(read("environment.json"))["device"]
    steps = CIFAR10.train_labels.numel() // recipe["batch_size"]
    layers = estimate.count(run(), CIFAR10)[2]
    assert pytest.approx(recorded / steps / layers, rel=0.002) == estimate.LAYER_SECONDS
    least, most = estimate.cost(run(batch_size=recipe["batch_size"], epochs=10), CIFAR10, 1.0).h100_seconds
    assert most - least == pytest.approx(10 * recorded, rel=0.01)


def test_each_network_is_measured_once(monkeypatch, capsys):
    """One of each family first; without more time the others are scaled. A finished run's time is used as it is."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(estimate, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(estimate, "measure", lambda run, *_: 2e-9 * estimate.count(run, CIFAR10)[1])
    networks = [
        run("plain"),
        run("slow", lr=0.01, epochs=20),  # the same network
        run("deep", model="resnet56"),
        run("se", model="se_resnet20"),
        run("done", model="sk_resnet20"),
    ]
    costs = estimate.estimates(networks, CIFAR10, {"done": 50.0})
    assert capsys.readouterr().err.splitlines() == ["measuring 1 of 3: plain ...", "measuring 2 of 3: se ..."]
    sources = {label: cost.source for label, cost in costs.items()}
    assert sources == dict.fromkeys(("plain", "slow", "se"), "measured") | {"deep": "scaled", "done": "recorded"}
    assert costs["slow"].run_seconds == pytest.approx(2 * costs["plain"].run_seconds)
    assert costs["deep"].run_seconds / costs["plain"].run_seconds == pytest.approx(
        costs["deep"].macs / costs["plain"].macs
    )
    assert costs["done"].run_seconds == pytest.approx(50)


def test_measuring_leaves_a_stop_to_the_caller(monkeypatch):
    """`fit` records signals in order to save its state, which a measurement has none of."""
    received = []
    monkeypatch.setattr(estimate.signal, "raise_signal", received.append)
    for error in (estimate.TrainingStopped, KeyboardInterrupt):

        def stopped(*_, error=error, **__):
            raise error

        monkeypatch.setattr(estimate, "fit", stopped)
        with pytest.raises(error):
            estimate.measure(run(), CIFAR10)
    assert received == [signal.SIGTERM, signal.SIGINT]


def test_a_measurement_is_a_time():
    """Also of a network that gives the logits of one image without the axis of images."""
    for model, knobs in (("resnet20", {"width": 0.25}), ("source_a_sknet50_2021_01", {"width": 0.125})):
        assert 0 < estimate.measure(run(model=model, knobs=knobs), CIFAR10, device="cpu", threads=1) < 60, model


def test_recorded_times_are_those_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("SENET_PRECISION", "fp32")
    here = pace.Conditions("cpu", 1)
    write_json(tmp_path / "summary.json", {"train_seconds": 30.0})
    recorded = here.record | {"precision": "fp32"}
    del recorded["runs_per_gpu"], recorded["devices"]  # as in the record of a run on one device of its own
    evaluation = 10_000 / 3 / 50_000
    for changes, seconds in (
        ({}, pytest.approx(30 * (1 + evaluation))),
        ({"device": "NVIDIA H100"}, None),
        ({"cores": 1000}, None),
        ({"processor": "another"}, None),
        ({"cpu_capability": "another"}, None),
        ({"threads": 2}, None),
        ({"precision": "bf16"}, None),
        ({"runs_per_gpu": 2}, None),
        ({"resumed_under": [{"git_commit": "another"}]}, pytest.approx(30 * (1 + evaluation))),
        ({"resumed_under": [{"git_commit": "another"}, {"cores": 1000}]}, None),
        ({"resumed_under": [{"runs_per_gpu": 2}]}, None),
        ({"devices": 2}, None),
    ):
        write_json(tmp_path / "environment.json", recorded | changes)
        assert here.recorded_seconds(tmp_path, run(), CIFAR10) == seconds, changes
    assert pace.Conditions("cpu", 1, devices=2).recorded_seconds(tmp_path, run(), CIFAR10) is not None  # as then
    write_json(tmp_path / "environment.json", recorded)
    assert pace.Conditions("cpu", 1, runs_per_gpu=2).recorded_seconds(tmp_path, run(), CIFAR10), "no GPU is used"
    (tmp_path / "summary.json").unlink()
    assert here.recorded_seconds(tmp_path, run(), CIFAR10) is None


def test_time_left_is_learned(monkeypatch):
    """Two runs at a time of 10 s until they train and then 2 epochs of 60 s; one takes twice as long."""
    now = 0.0
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(pace, "image_steps", lambda *_: (1.0, 0.2))
    monkeypatch.setattr(pace, "count", lambda run, _: (1, 2.0 if run.label == "wide" else 1.0))
    first, second, third, wide = runs = [run("a", seed, epochs=2) for seed in range(3)] + [run("wide", epochs=2)]
    known = pace.Pace(runs, CIFAR10, jobs=2)

    def epoch(number, of=2):
        return (
            f"epoch {number}/{of}  train loss 0.1 accuracy 99.00%  test loss 0.1 accuracy 9.00%  50.0 s  8 images/s  "
        )

    known.started(first)
    known.started(second)
    assert known.line(first, "some text") == ""
    assert known.whole(third) is None
    assert known.left() is None
    now = 70.0
    # 60 s of the first, 60 s of the second, 130 s of the third, 10 + 240 s of the wide one
    assert known.line(first, epoch(1)) == "; about 4 min left in all"
    assert (known.start, known.whole(third), known.whole(wide)) == pytest.approx((10, 130, 250))
    assert known.left() == pytest.approx((60 + 60 + 130 + 250) / 2)
    now = 130.0
    known.line(first, epoch(2))
    known.ended(first, finished=True)
    known.ended(second, finished=False)
    known.started(third)
    known.started(wide)
    assert known.left() == pytest.approx(250)
    now = 140.0
    known.line(third, "resumed after epoch 1, step 0")
    assert known.left() == pytest.approx(240)
    now = 200.0
    known.ended(third, finished=True)
    assert known.whole(third) == pytest.approx(130), "a resumed run is not a whole one"
    assert known.line(wide, epoch(1)) == "", "no other run is left, and the line itself says how long this one takes"


def test_start_is_not_learned_from_a_resumed_run(monkeypatch):
    """Its first epoch's time includes steps of the process that was interrupted."""
    now = 0.0
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now))
    resumed, whole = runs = [run("a", seed, epochs=2) for seed in range(2)]
    known = pace.Pace(runs, CIFAR10, jobs=2)
    known.started(resumed)
    known.started(whole)
    epoch = "epoch 1/2  train loss 0.1 accuracy 99.00%  test loss 0.1 accuracy 9.00%  60.0 s  8 images/s  "
    known.line(resumed, "resumed after epoch 0, step 300")
    now = 40.0
    known.line(resumed, epoch)
    assert known.start == pace.START
    now = 90.0
    known.line(whole, epoch)
    assert known.start == pytest.approx(90 - 60 * (1 + 10_000 / 3 / 50_000))
