"""A project folder for tests of the commands, and readers of what the commands leave there."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys

import nbformat
import numpy as np
import yaml
from PIL import Image

from senet_lib import cli
from senet_lib.project import project_root
from senet_lib.results import WEIGHTS, read_history

TINY = {
    "question": "Does it run?",
    "seeds": [0],
    "recipe": {"epochs": 1, "batch_size": 16, "lr": 0.02, "crop_padding": 2},
    "networks": {
        "resnet": {"model": "resnet20", "knobs": {"width": 0.5}},
        "se": {"model": "se_resnet20", "knobs": {"width": 0.5, "reduction": 4}},
    },
}
# Not inherited: most users have not set PYTHONUNBUFFERED, which orders the output; and make may run these tests
HIDDEN = ("PYTHONUNBUFFERED", "MAKELEVEL", "MAKEFLAGS")
ONE_THREAD = ("--threads", "1", "--device", "cpu")


def write_images(folder):
    """An image tree of three classes that differ in brightness; the name of one needs escaping in HTML."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 8)):
        for brightness, name in enumerate(("dark", "grey <b>", "bright")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(60 * brightness, 60 * brightness + 120, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


class Project:
    """A project folder with the notebooks, but without the cells that draw, and the study `tiny`."""

    def __init__(self, root, images):
        self.root, self.images = root, images
        self.variables = {}  # further environment variables of the commands
        (root / "studies").mkdir(parents=True)
        (root / "pyproject.toml").touch()
        shutil.copytree(project_root() / "notebooks", root / "notebooks")
        for name in ("05_train", "08_analysis"):
            path = root / "notebooks" / f"{name}.ipynb"
            notebook = nbformat.read(path, as_version=4)
            notebook.cells = [cell for cell in notebook.cells if not draws(cell)]
            nbformat.write(notebook, path)
        self.write_study("tiny", {})

    def write_study(self, name, changes):
        """Write a study file: `tiny` with changes."""
        content = {**TINY, "data": f"folder:{self.images}", **changes}
        (self.root / "studies" / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def environment(self):
        places = {"SENET_ROOT": str(self.root), "SENET_CACHE": str(self.root / "cache")}
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        return (
            {key: value for key, value in os.environ.items() if key not in HIDDEN}
            | places
            | {
                "PATH": path,
                **self.variables,
            }
        )

    def call(self, command, *arguments):
        """Exit code and output of a command, executed in this process: seconds faster than a process of its own."""
        before, cwd = os.environ.copy(), os.getcwd()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        environment = self.environment()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(self.root)
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                code = cli.main([command, *ONE_THREAD, *arguments])
        finally:
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return code, output.getvalue()

    def start(self, command, *arguments, **options):
        return self._start([sys.executable, "-m", "senet_lib.cli", command, *ONE_THREAD, *arguments], **options)

    def start_run(self, run_id, study, *arguments, **options):
        """Start one run, as the launcher or a scheduler does."""
        command = [sys.executable, "-m", "senet_lib.running.run", study, run_id, *ONE_THREAD, *arguments]
        return self._start(command, **options)

    def run(self, *arguments, **options):
        """Exit code and output of one run."""
        return completed(self.start_run(*arguments, **options))

    def make(self, command, study, **options):
        """Start a command through the Makefile, as a user does, with this interpreter."""
        makefile = ["make", "--no-print-directory", "-f", str(project_root() / "Makefile"), "VENV="]
        return self._start([*makefile, command, f"OPTIONS={study} {' '.join(ONE_THREAD)}"], **options)

    def _start(self, command, **options):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=self.environment(), cwd=self.root, **pipes, **options)

    def launch(self, *arguments, **options):
        """Exit code and output of a command in a process of its own."""
        return completed(self.start(*arguments, **options))

    def run_dir(self, run_id, study="tiny"):
        return self.root / "results" / study / "runs" / run_id


def completed(process):
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def draws(cell):
    return "figure" in cell.metadata.get("tags", [])


def weights(run_dir):
    return (run_dir / WEIGHTS).read_bytes()


def history(run_dir):
    return read_history(run_dir).drop(columns=["train_seconds", "images_per_second"])
