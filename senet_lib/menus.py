"""Menus in a notebook, which call a function with the choice."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipywidgets import Widget

HEADLESS = "SENET_HEADLESS"  # environment variable of a kernel whose notebook is executed without a user


def interactive(draw: Callable[..., None], **menus: Any) -> "Widget":
    """ipywidgets.interactive; in a headless kernel, where nobody can choose, an empty widget that draws nothing."""
    import ipywidgets

    return ipywidgets.HTML() if os.environ.get(HEADLESS) else ipywidgets.interactive(draw, **menus)
