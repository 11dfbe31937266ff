"""Execute a notebook headless with papermill, in a kernel with a private connection."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet_lib.files import naming

if TYPE_CHECKING:
    from nbformat import NotebookNode


class UnknownParameter(ValueError):
    """The notebook has no such parameter. Papermill itself only warns and uses the notebook's defaults."""


def execute(source: Path, target: Path, parameters: Mapping[str, Any], **options: Any) -> "NotebookNode":
    """Execute `source` with `parameters`, saving to `target` after every cell; return the executed notebook.

    options: passed to papermill (cwd, stdout_file, execution_timeout, ...). Raises UnknownParameter before anything
    runs, papermill.PapermillExecutionError if a cell fails, and nbclient's DeadKernelError if the kernel dies. A
    notebook whose kernel was killed is saved with every cell 'completed', so its existence does not prove success.
    """
    import papermill  # imported here: takes a second, which a command with nothing to do should not spend

    unknown = parameters.keys() - papermill.inspect_notebook(_literal(source)).keys()
    if unknown:
        raise UnknownParameter(f"{source.name} has no parameter {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder, naming(target):
        return papermill.execute_notebook(
            _literal(source),
            _literal(target),
            dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            config=_private_connection(folder),
            **options,
        )


def _private_connection(folder: str) -> Any:
    """Unix sockets in a private folder. TCP ports are chosen before they are bound, so two kernels may get the same
    port. Without a separate connection file, every kernel's sockets have the same names (`kernel-ipc-1`, ...)."""
    from traitlets.config import Config

    if os.name != "posix":
        return Config()
    return Config({"KernelManager": {"transport": "ipc", "connection_file": os.path.join(folder, "kernel.json")}})


def _literal(path: Path) -> str:
    """The path with braces escaped: papermill substitutes parameters for {names} in paths."""
    return str(path).replace("{", "{{").replace("}", "}}")
