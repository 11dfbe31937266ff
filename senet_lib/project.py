"""The project's root folder, which contains studies/, notebooks/, data/ and results/."""

import os
from pathlib import Path


def project_root() -> Path:
    """The project's folder: $SENET_ROOT, else the checkout around the current folder, else the current folder.

    A checkout is the nearest folder upwards with `studies/` and `pyproject.toml`. There is none in Colab, for example.
    """
    if override := os.environ.get("SENET_ROOT"):
        return Path(override).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "studies").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return here
