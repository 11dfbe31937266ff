"""Where the project's folders lie: studies/, notebooks/, data/ and results/ are looked for below one root."""

import os
from pathlib import Path


def project_root() -> Path:
    """The project's folder: $SENET_ROOT, else the nearest folder above the current one that holds `studies/` and
    `pyproject.toml`, else the current folder (a notebook outside a checkout, for example in Colab)."""
    if override := os.environ.get("SENET_ROOT"):
        return Path(override).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "studies").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return here
