"""A project folder of a test's own, with what its commands left there."""

import os
import shutil
import subprocess
import sys

import numpy as np
import torch
import yaml
from PIL import Image

from senet_lib.project import project_root
from senet_lib.results import read_history

TINY = {
    "question": "Does it run?",
    "seeds": [0],
    "recipe": {"epochs": 1, "batch_size": 16, "lr": 0.02, "crop_padding": 2},
    "networks": {
        "resnet": {"model": "resnet20", "knobs": {"width": 0.5}},
        "se": {"model": "se_resnet20", "knobs": {"width": 0.5, "reduction": 4}},
    },
}
ONE_THREAD = ("--threads", "1", "--device", "cpu")


def write_images(folder):
    """An image tree: three classes that differ in brightness, one of them named to be trouble in HTML."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 8)):
        for brightness, name in enumerate(("dark", "grey <b>", "bright")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(60 * brightness, 60 * brightness + 120, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


class Project:
    """A project folder of its own: the real notebooks, a study of the test's."""

    def __init__(self, root, images):
        self.root, self.images = root, images
        (root / "studies").mkdir(parents=True)
        (root / "pyproject.toml").touch()
        shutil.copytree(project_root() / "notebooks", root / "notebooks")
        self.write_study("tiny", {**TINY, "data": f"folder:{images}"})

    def write_study(self, name, content):
        (self.root / "studies" / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def start(self, command, *arguments, **options):
        return self._start([sys.executable, "-m", "senet_lib.cli", command, *ONE_THREAD, *arguments], **options)

    def make(self, command, study, **options):
        """As a user does it, through the Makefile; with this interpreter, set up or not."""
        makefile = ["make", "--no-print-directory", "-f", str(project_root() / "Makefile"), "VENV="]
        return self._start([*makefile, command, f"OPTIONS={study} {' '.join(ONE_THREAD)}"], **options)

    def _start(self, command, **options):
        environment = {**os.environ, "SENET_ROOT": str(self.root), "SENET_CACHE": str(self.root / "cache")}
        environment.pop("PYTHONUNBUFFERED", None)  # which most users have not set, and which orders the output
        environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, cwd=self.root, **pipes, **options)

    def launch(self, *arguments, **options):
        process = self.start(*arguments, **options)
        output, _ = process.communicate(timeout=600)
        return process.returncode, output

    def run_dir(self, run_id, study="tiny"):
        return self.root / "results" / study / "runs" / run_id


def weights(run_dir):
    state = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    return {name: tensor.numpy().tobytes() for name, tensor in state["model"].items()}


def history(run_dir):
    return read_history(run_dir).drop(columns=["train_seconds", "images_per_second"])
