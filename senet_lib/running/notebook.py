"""Execute a notebook headless with papermill, in a kernel of this interpreter with a private connection.

The user's own Jupyter, IPython and matplotlib settings have no effect on it.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet_lib.files import naming, write_text

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
    # imported here: takes a second, which a command with nothing to do should not spend
    import papermill

    from senet_lib.running.kernel import own_kernel, private_connection, short_folder

    logging.getLogger("papermill").addFilter(_says_more_than_the_exception)
    unknown = parameters.keys() - papermill.inspect_notebook(_literal(source)).keys()
    if unknown:
        raise UnknownParameter(f"{source.name} has no parameter {', '.join(sorted(unknown))}")
    with short_folder() as folder, naming(target):
        return papermill.execute_notebook(
            _literal(source),
            _literal(target),
            dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            config=private_connection(folder),
            kernel_manager_class=own_kernel(folder),
            **options,
        )


def _says_more_than_the_exception(record: logging.LogRecord) -> bool:
    """False for nbclient's line about a dead kernel: it also raises DeadKernelError, and a run that is stopped while
    its kernel starts is no error."""
    return not record.getMessage().startswith("Kernel died")


def without_execution_record(notebook: "NotebookNode") -> None:
    """Remove what papermill and Jupyter record of an execution: times and paths."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)


def write_notebook(notebook: "NotebookNode", path: Path) -> None:
    import nbformat

    write_text(path, nbformat.writes(notebook) + "\n")


def _literal(path: Path) -> str:
    """The path with braces escaped: papermill substitutes parameters for {names} in paths."""
    return str(path).replace("{", "{{").replace("}", "}}")
