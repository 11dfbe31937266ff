"""Write complexity.csv: parameters and multiply-adds of every network, with both stems, 10 classes, 32x32 pixels.

    python tests/golden/write_complexity.py

Run it when a network was changed on purpose, and review the difference. test_models.py compares with the table;
test_models_published.py verifies the counts against published ones.
"""

import csv
from pathlib import Path

import torch

from senet_lib.metrics import count_macs, count_params
from senet_lib.models import create_model, list_models

if __name__ == "__main__":
    with (Path(__file__).parent / "complexity.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "stem", "params", "macs"])
        for name in list_models():
            if name.startswith("source_"):
                continue
            for stem in ("cifar", "imagenet"):
                with torch.device("meta"):
                    model = create_model(name, stem=stem)
                writer.writerow([name, stem, count_params(model), count_macs(model, (3, 32, 32))])
