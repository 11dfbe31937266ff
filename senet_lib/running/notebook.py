"""Execute a notebook headless, by papermill, in a kernel that no other one can reach."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet_lib.files import naming

if TYPE_CHECKING:
    from nbformat import NotebookNode


class UnknownParameter(ValueError):
    """The notebook has no such parameter; papermill itself would only warn, and run the notebook's defaults."""


def execute(source: Path, target: Path, parameters: Mapping[str, Any], **options: Any) -> "NotebookNode":
    """Execute `source` with `parameters` into `target`, cell by cell as it goes; returns the executed notebook.

    options: papermill's own (cwd, stdout_file, execution_timeout, ...). Raises UnknownParameter before anything runs,
    papermill.PapermillExecutionError when a cell fails, nbclient's DeadKernelError when the kernel dies. Beware that a
    notebook whose kernel was killed is saved with every cell 'completed': its being there proves nothing.
    """
    import papermill  # here, since it takes a second that a command with nothing to do should not

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
    """Sockets in a folder of their own: TCP ports are chosen before they are taken, and two kernels may be given the
    same; without a connection file of its own every kernel's sockets are called `kernel-ipc-1` and so on."""
    from traitlets.config import Config

    if os.name != "posix":
        return Config()
    return Config({"KernelManager": {"transport": "ipc", "connection_file": os.path.join(folder, "kernel.json")}})


def _literal(path: Path) -> str:
    """papermill fills {names} in paths with parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")
