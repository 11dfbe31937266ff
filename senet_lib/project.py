"""The project's root folder, which holds studies/, notebooks/, data/ and results/."""

import os
from pathlib import Path


def project_root() -> Path:
    """The project's root: $SENET_ROOT, else the checkout that contains the current folder, else the current folder.

    The checkout is the nearest folder upwards with `studies/` and `pyproject.toml`. Colab, for example, has none.
    """
    if override := os.environ.get("SENET_ROOT"):
        return Path(override).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "studies").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return here
