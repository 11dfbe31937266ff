"""Results folders of made-up studies, written without training by the library's own writers."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from senet_lib.files import write_json
from senet_lib.results import environment_record, write_history, write_predictions, write_summary

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
THREE = {
    "resnet20": {"model": "resnet20", "params": 272_474, "macs": 40_810_000, "accuracy": 0.86, "seconds": 40.0},
    "se_resnet20": {"model": "se_resnet20", "params": 274_847, "macs": 40_830_000, "accuracy": 0.868, "seconds": 50.0},
    "sk_resnet20": {"model": "sk_resnet20", "params": 493_000, "macs": 75_100_000, "accuracy": 0.879, "seconds": 105.0},
}
# As in studies/source_a_quarter.yaml; sizes and accuracies are made up
SOURCE_A = {
    "resnet50": {"model": "resnet50", "params": 1_500_000, "macs": 83_000_000, "accuracy": 0.72, "seconds": 90.0},
    "se_resnet50": {
        "model": "se_resnet50",
        "params": 1_650_000,
        "macs": 84_000_000,
        "accuracy": 0.71,
        "seconds": 170.0,
    },
    "source_a_senet50": {
        "model": "source_a_senet50",
        "params": 1_650_000,
        "macs": 84_000_000,
        "accuracy": 0.66,
        "seconds": 165.0,
    },
    "se_resnet18": {"model": "se_resnet18", "params": 710_000, "macs": 36_000_000, "accuracy": 0.75, "seconds": 60.0},
    "sknet50": {"model": "sknet50", "params": 1_700_000, "macs": 92_000_000, "accuracy": 0.73, "seconds": 270.0},
    "resnet50_imagenet_stem": {
        "model": "resnet50",
        "knobs": {"stem": "imagenet"},
        "params": 1_510_000,
        "macs": 6_000_000,
        "accuracy": 0.58,
        "seconds": 16.0,
    },
    "sknet50_imagenet_stem": {
        "model": "sknet50",
        "knobs": {"stem": "imagenet", "select_bias": True},
        "params": 1_710_000,
        "macs": 6_500_000,
        "accuracy": 0.5,
        "seconds": 40.0,
    },
}
SOURCE_A_COMPARISONS = (
    ("se_resnet50", "resnet50"),
    ("source_a_senet50", "se_resnet50"),
    ("se_resnet18", "se_resnet50"),
    ("sknet50", "resnet50"),
    ("sknet50_imagenet_stem", "sknet50"),
    ("resnet50_imagenet_stem", "resnet50"),
)
RECIPE = {"epochs": 10, "batch_size": 128, "lr": 0.1, "schedule": "cosine", "precision": "auto", "holdout": 0}


def write_study(
    folder: Path,
    networks: Mapping[str, Mapping] = THREE,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    classes: Sequence[str] = CIFAR10,
    epochs: int = 10,
    images: int = 1000,
    failed: Mapping[str, str] | None = None,
    missing: Sequence[str] = (),
    holdout: int = 0,
    spread: float = 0.003,
    question: str = "Under one recipe, do SE and SK improve on the plain network?",
    notes: str = "Synthetic numbers.",
    name: str = "synthetic",
    data: str = "cifar10",
    baseline: str | None = None,
    comparisons: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write a study's results to `folder` and return it.

    networks: label -> {model, params, macs, accuracy, seconds[, knobs, recipe, published, tta_gain]}.
    failed: run_id -> error. missing: run_ids. Every other run is done; its accuracy is the network's with noise of
        standard deviation `spread`.
    """
    failed = failed or {}
    planned = [
        {
            "run_id": f"{label}-seed{seed}".replace("/", "_"),
            "label": label,
            "model": network["model"],
            "knobs": network.get("knobs", {}),
            "data": data,
            "seed": seed,
            "config_hash": hashlib.sha256(f"{label} {seed} {epochs}".encode()).hexdigest()[:16],
        }
        for seed in seeds
        for label, network in networks.items()
    ]
    study = {
        "name": name,
        "question": question,
        "data": data,
        "classes": list(classes),
        "seeds": list(seeds),
        "recipe": {**RECIPE, "epochs": epochs, "holdout": holdout},
        "networks": {
            label: {key: network.get(key) for key in ("model", "knobs", "recipe", "published")}
            for label, network in networks.items()
        },
        "baseline": baseline or next(iter(networks)),
        "comparisons": [list(pair) for pair in comparisons],
        "notes": notes,
        "fingerprints": {"train": "ab" * 32, "test": "cd" * 32},
        "runs": planned,
    }
    write_json(folder / "study.json", study)
    for index, run in enumerate(planned):
        if run["run_id"] in missing:
            continue
        run_dir = folder / "runs" / run["run_id"]
        write_json(run_dir / "config.json", {"run_id": run["run_id"], "hash": run["config_hash"]})
        rng = np.random.default_rng((index, 7))
        network = networks[run["label"]]
        accuracy = float(np.clip(network["accuracy"] + spread * rng.standard_normal(), 0.01, 1))
        label, predicted = _predictions(accuracy, images, len(classes), rng)
        accuracy = float((label == predicted).mean())
        history = _history(accuracy, epochs, network["seconds"], rng)
        if run["run_id"] in failed:
            write_history(run_dir, history[: epochs // 2])
            write_json(run_dir / "failure.json", {"error": failed[run["run_id"]], "time": "2026-01-01 00:00:00"})
            continue
        write_history(run_dir, history)
        write_predictions(run_dir, label, predicted, np.full(images, 0.9))
        fingerprints = {"name": data, "fingerprints": study["fingerprints"]}
        measured = {"device": "cpu", "precision": "fp32", "threads": 2, "data": fingerprints}
        write_json(run_dir / "environment.json", {**_environment(), **measured})
        gain = network.get("tta_gain")
        write_summary(
            run_dir,
            {
                "hash": run["config_hash"],
                "run_id": run["run_id"],
                "test_accuracy": accuracy,
                "test_loss": history[-1]["test_loss"],
                "params": network["params"],
                "macs": network["macs"],
                "epochs": epochs,
                "train_seconds": sum(row["train_seconds"] for row in history),
                "evaluated_on": "holdout" if holdout else "test",
                **({} if gain is None else {"tta_accuracy": accuracy + gain}),
            },
        )
    return folder


@functools.cache
def _environment() -> dict:
    """Once per process: every record asks git for the commit."""
    return environment_record()


def _predictions(accuracy: float, images: int, classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """label, predicted: (images,). Classes differ in difficulty, and each is confused mostly with a few others."""
    label = np.arange(images) % classes
    hardness = 1 + 0.8 * np.sin(2.1 * np.arange(classes))  # mean about 1
    error = np.clip((1 - accuracy) * hardness / hardness.mean(), 0, 1)
    wrong = rng.random(images) < error[label]
    step = rng.choice([1, 2, classes - 2, classes // 2], size=images, p=[0.5, 0.25, 0.15, 0.1])
    return label, np.where(wrong, (label + np.maximum(step, 1)) % classes, label)


def _history(accuracy: float, epochs: int, seconds: float, rng: np.random.Generator) -> list[dict]:
    rows = []
    for epoch in range(1, epochs + 1):
        rise = 1 - np.exp(-4 * epoch / epochs) + np.exp(-4)
        noise = 0.012 * rng.standard_normal() * (1 - epoch / epochs)
        test = accuracy * min(1.0, 0.35 + 0.65 * rise + noise) if epoch < epochs else accuracy
        train = min(1.0, test * (0.93 + 0.1 * epoch / epochs))
        rows.append(
            {
                "epoch": epoch,
                "lr": 0.05 * (1 + np.cos(np.pi * epoch / epochs)),
                "train_loss": float(2.2 * (1 - train) + 0.05),
                "train_accuracy": float(train),
                "test_loss": float(2.4 * (1 - test) + 0.08),
                "test_accuracy": float(test),
                "train_seconds": round(seconds * (1 + 0.02 * rng.standard_normal()), 3),
                "images_per_second": 1000.0,
            }
        )
    return rows
