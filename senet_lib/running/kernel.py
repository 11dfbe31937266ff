"""The kernel of a headless execution: this interpreter, a private connection, and a client that misses no reply."""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets import Type
from traitlets.config import Config

from senet_lib.menus import HEADLESS

LOOK_AGAIN_SECONDS = 1.0


class AttentiveChannel(AsyncZMQSocketChannel):
    """A channel that looks for messages itself, once a second, in addition to being woken by asyncio.

    jupyter_client sends on the socket past asyncio. If a reply arrives at that moment, the send consumes its wake-up
    call and asyncio never reports the reply. nbclient sends while it waits for a cell's reply, in answer to an
    ipywidgets.Output, and would then wait without end.
    """

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """The next message; `queue.Empty` after `timeout` seconds. None waits for as long as it takes."""
        while timeout is None or timeout > LOOK_AGAIN_SECONDS:
            if await self.socket.poll(int(LOOK_AGAIN_SECONDS * 1000)):
                return await super().get_msg(0)
            timeout = None if timeout is None else timeout - LOOK_AGAIN_SECONDS
        return await super().get_msg(timeout)


class AttentiveClient(AsyncKernelClient):
    shell_channel_class = Type(AttentiveChannel)


def own_kernel(folder: str) -> type[AsyncKernelManager]:
    """The class of a kernel manager that starts this interpreter. By its name alone, `python3` may be a kernel of
    another environment that JUPYTER_PATH lists first."""
    startup, settings = Path(folder) / "ipython", Path(folder) / "matplotlibrc"
    settings.touch()  # empty, and so is the folder of startup files
    environment = {"IPYTHONDIR": str(startup), "MATPLOTLIBRC": str(settings), HEADLESS: "1"}

    class OwnKernelManager(AsyncKernelManager):
        client_factory = Type(AttentiveClient)

        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="Python 3", language="python", env=environment)

    return OwnKernelManager


def short_folder() -> tempfile.TemporaryDirectory:
    """A private temporary folder, with a path short enough for a socket's if possible. That of $TMPDIR may be long."""
    for place in (None, "/tmp", "/var/tmp", "/dev/shm"):
        with suppress(OSError):
            folder = tempfile.TemporaryDirectory(prefix="kernel-", dir=place)
            if _has_room_for_sockets(folder.name):
                return folder
            folder.cleanup()
    return tempfile.TemporaryDirectory(prefix="kernel-")


def _has_room_for_sockets(folder: str) -> bool:
    return os.name == "posix" and len(os.fsencode(os.path.join(folder, "kernel-ipc-1"))) <= zmq.IPC_PATH_MAX_LEN


def private_connection(folder: str) -> Config:
    """Unix sockets in a private folder. TCP ports are chosen before they are bound, so two kernels may get the same
    port. Without a separate connection file, every kernel's sockets have the same names (`kernel-ipc-1`, ...)."""
    if not _has_room_for_sockets(folder):
        return Config()  # TCP
    return Config({"KernelManager": {"transport": "ipc", "connection_file": os.path.join(folder, "kernel.json")}})
