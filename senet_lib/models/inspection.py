"""For the notebooks: the source code of a block and the intermediate shapes of a network."""

import inspect
from collections.abc import Iterable

import pandas as pd
import torch
from IPython.display import Code
from torch import nn

from senet_lib.metrics import count_params, run_on_meta


def source(thing: object) -> Code:
    """The source code of a class or function, for display."""
    return Code(inspect.getsource(thing), language="python")


def last_of_each_stage(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    """Name of the last submodule of type `kind` in each stage that has one, in stage order."""
    last = {}
    for name, module in model.stages.named_modules():
        if isinstance(module, kind):
            last[name.partition(".")[0]] = f"stages.{name}"
    return list(last.values())


def shapes(model: nn.Module, input_size: tuple[int, ...], modules: Iterable[str]) -> pd.DataFrame:
    """Output shape and parameter count of the named submodules for one image of `input_size` (C, H, W).

    Columns: module, type, output (as '16 x 32 x 32'), params. The pass runs on the meta device, without arithmetic.
    Raises ValueError when the model has no submodule of that name.
    """
    found, rows = dict(model.named_modules()), []
    modules = list(modules)
    for name in modules:
        if name not in found:
            raise ValueError(
                f"no module {name!r}; known: {', '.join(n for n, _ in model.named_children())} and their submodules"
            )

    def record(name: str, module: nn.Module, output: torch.Tensor) -> None:
        size = " x ".join(map(str, output.shape[1:]))  # without the batch axis
        rows.append({"module": name, "type": type(module).__name__, "output": size, "params": count_params(module)})

    hooks = [
        found[name].register_forward_hook(lambda m, _, output, name=name: record(name, m, output)) for name in modules
    ]
    try:
        run_on_meta(model, input_size)
    finally:
        for hook in hooks:
            hook.remove()
    return pd.DataFrame(rows)
