"""Section `accuracy`: ResNet-20 on CIFAR-10 with the reference loop and with `fit` in fp32 and bf16, same recipe."""

import statistics
from collections.abc import Callable
from pathlib import Path

import reference_loop
import torch
from measuring import BATCH, Table

from senet_lib.data import load_dataset
from senet_lib.files import read_json, write_json
from senet_lib.models import create_model
from senet_lib.study import Recipe
from senet_lib.training import evaluate, fit
from senet_lib.training.runtime import resolve_precision

KEPT = Path(__file__).resolve().parent.parent / "results" / "bench_accuracy"


def measure() -> list[Table]:
    """Takes about 45 minutes on two cores. After an interruption, the next call trains only what is missing."""
    data = load_dataset("cifar10")
    common = {"epochs": 3, "batch_size": BATCH, "lr": 0.1, "schedule": "one_cycle", "warmup_epochs": 0.75}
    recipe = Recipe(**common, weight_decay=5e-4)

    def by_reference(seed: int, folder: Path) -> float:
        torch.manual_seed(seed)
        network = create_model("resnet20")
        batches = reference_loop.loader(data.train_images, data.train_labels, data.mean, data.std, BATCH)
        reference_loop.train(network, batches, recipe)
        return evaluate(network, data.test_images, data.test_labels, mean=data.mean, std=data.std).accuracy

    def by_fit(precision: str) -> Callable[[int, Path], float]:
        def run(seed: int, folder: Path) -> float:
            torch.manual_seed(seed)
            own = recipe.model_copy(update={"precision": precision})
            return fit(create_model("resnet20"), data, own, seed=seed, run_dir=folder).evaluation.accuracy

        return run

    ways = {"reference loop, fp32": by_reference, "senet_lib, fp32": by_fit("fp32")}
    if resolve_precision("auto") == "bf16":
        ways["senet_lib, bf16"] = by_fit("bf16")
    reached: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(3):
        for way, run in ways.items():
            folder = KEPT / f"{way.replace(', ', '-').replace(' ', '-')}-seed{seed}"
            done = folder / "accuracy.json"
            if not done.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                write_json(done, {"test_accuracy": run(seed, folder)})
            reached[way].append(100 * read_json(done)["test_accuracy"])
            print(f"seed {seed}, {way}: {reached[way][-1]:.2f} %", flush=True)
    rows = []
    for way, values in reached.items():
        mean = statistics.mean(values)
        difference = mean - statistics.mean(reached["reference loop, fp32"])
        listed = ", ".join(f"{value:.2f}" for value in values)
        rows.append([way, listed, f"{mean:.2f}", f"{statistics.stdev(values):.2f}", f"{difference:+.2f}"])
    caption = (
        f"ResNet-20 on CIFAR-10, {recipe.epochs} epochs, lr {recipe.lr}, seeds 0 to 2: test accuracy of the last epoch "
        "in percent. Both loops start a seed with the same initial weights, but draw different batches."
    )
    header = ["loop", "seeds 0, 1, 2", "mean", "standard deviation", "mean minus reference (pp)"]
    return [(caption, header, rows)]
