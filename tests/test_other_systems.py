"""Opening and running the notebooks needs nothing that only Linux, or only POSIX, has, and no network."""

import ast
import subprocess
import sys

import nbformat
import pytest

from senet_lib.project import project_root

NOTEBOOKS = project_root() / "notebooks"

# Imported first: other libraries decide at their import what the system has
LIBRARIES = """
import ctypes, importlib, os, pathlib, signal, socket, sys
import IPython.display, PIL.Image, joblib, lightning_fabric, matplotlib.pyplot, nbclient, numpy, pandas, pydantic
import safetensors.torch, scipy.stats, sklearn.datasets, torch, torchvision, tqdm, yaml
"""

# Takes away what Windows lacks; some of it also macOS
TAKE_AWAY = """
for name in ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for name in ("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP",
             "SIGUSR1", "SIGUSR2", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait"):
    delattr(signal, name)
for name in ("O_DIRECTORY", "O_NOFOLLOW", "chown", "fchmod", "fdatasync", "fork", "forkpty", "geteuid", "getloadavg",
             "getpgid", "getuid", "killpg", "mkfifo", "posix_fallocate", "pread", "register_at_fork",
             "sched_getaffinity", "sched_setaffinity", "setsid", "statvfs", "sync", "sysconf", "uname", "wait"):
    delattr(os, name)
sys.platform = "win32"

def refusing(call, refused):
    def guarded(first, *rest, **options):
        if refused(first):
            raise PermissionError(13, "Permission denied", str(first))
        return call(first, *rest, **options)
    return guarded

class Library(ctypes.CDLL):
    def __init__(self, name, *rest, **options):
        if name is None:  # the C library of the process: prctl, mallopt
            raise TypeError("argument of type 'NoneType' is not iterable")
        super().__init__(name, *rest, **options)

os.open = refusing(os.open, os.path.isdir)  # so no folder can be synchronised
signal.signal = refusing(signal.signal, lambda number: number not in (signal.SIGINT, signal.SIGTERM, signal.SIGABRT))
ctypes.CDLL = Library
socket.socket.connect = socket.getaddrinfo = None
"""

TRAIN = """
import senet_lib.cli  # reads results everywhere; parallel runs need POSIX file locks
from dataclasses import replace
from senet_lib.data import load_dataset
from senet_lib.models import create_model
from senet_lib.results import read_history
from senet_lib.study import Recipe
from senet_lib.training import fit

folder = pathlib.Path(sys.argv[1])
data = load_dataset("digits", cache=folder)
data = replace(data, train_images=data.train_images[:32], train_labels=data.train_labels[:32])
for call in ("trains", "resumes"):
    fit(create_model("resnet20", width=0.25), data, Recipe(epochs=1, batch_size=16), run_dir=folder, device="cpu")
assert len(read_history(folder)) == 1
"""


def imports():
    """Every import of the library in the notebooks, as a program."""
    lines = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and cell.id != "colab":
                nodes = ast.walk(ast.parse(cell.source))
                lines += [ast.unparse(node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    return [line for line in dict.fromkeys(lines) if "senet_lib" in line]


@pytest.mark.slow
def test_notebooks_need_nothing_of_linux(tmp_path):
    code = "\n".join([LIBRARIES, TAKE_AWAY, *imports(), TRAIN])
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "epoch 1/1" in done.stdout
    assert "Warning" not in done.stderr, "such as: the data set could not be cached"
    assert (tmp_path / "checkpoint.pt").is_file()
