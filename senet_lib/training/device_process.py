"""A process of a training on several devices; see distributed.py.

python -m senet_lib.training.device_process JOB --devices N    starts torchrun, and ends with the calling process
python -m senet_lib.training.device_process JOB                started by torchrun: trains one device's share
"""

import argparse
import contextlib
import logging
import os
import signal
import warnings
from pathlib import Path

import psutil
import torch

from senet_lib.errors import UserError
from senet_lib.process import StopRequest, die_with_parent
from senet_lib.training.distributed import DONE, FAILED
from senet_lib.training.loop import NonFiniteLoss, fit
from senet_lib.training.stopping import TrainingStopped

TOGETHER = (NonFiniteLoss, TrainingStopped, KeyboardInterrupt, UserError)  # raised in all processes at the same step


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("--devices", type=int)
    options = parser.parse_args(arguments)
    die_with_parent()
    if options.devices:
        start_processes(options.job, options.devices)
    else:
        train(options.job)


def start_processes(job: Path, devices: int) -> None:
    """Start torchrun, and pass signals to stop on to its processes. By itself it kills those that have not ended within
    30 s, or at the next signal, and with them the checkpoint that they are writing."""
    from torch.distributed import run  # torchrun
    from torch.distributed.launcher.api import LaunchConfig

    request = StopRequest()  # the launcher of a run signals every process, and then the calling process does

    def pass_on(number: int, frame: object) -> None:
        if not request.is_new():
            return
        if not (processes := psutil.Process().children()):  # they have not started yet, or have ended
            os._exit(128 + number)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    where = ["--nproc-per-node", str(devices), "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    where += ["--local-addr", "localhost"]
    if hasattr(LaunchConfig, "signals_to_handle"):  # earlier versions of torch always handle them
        where += ["--signals-to-handle", "SIGHUP,SIGQUIT"]
    run.main([*where, "-m", __spec__.name, str(job)])


def train(path: Path) -> None:
    # Fabric announces each process, and DDP a change of its options' names that this project's versions do not share
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
    job, folder = torch.load(path, weights_only=False), path.parent
    model, first = job.pop("model"), os.environ["RANK"] == "0"
    try:
        outcome = fit(model, **job)
    except BaseException as error:  # for the calling process to raise
        if first or not isinstance(error, TOGETHER):
            hand_over(error, folder / FAILED)
        if not isinstance(error, TOGETHER):
            raise  # torchrun then stops the other processes, which wait for this one
        return
    if first:
        state = {name: value.cpu() for name, value in model.state_dict().items()}
        hand_over((outcome, state), folder / DONE)


def hand_over(what: object, path: Path) -> None:
    """Write something for the calling process; the first file of a name stays."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save(what, own)
    if not path.exists():
        os.replace(own, path)


if __name__ == "__main__":
    main()
