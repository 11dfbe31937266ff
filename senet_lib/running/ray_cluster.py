"""Reach a Ray cluster without ever waiting for long, or start one of this machine; what its nodes have room for."""

import contextlib
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from senet_lib.errors import UserError

ADDRESS, LOG = "RAY_ADDRESS", "SENET_RAY_LOG"  # environment variables: the cluster; Ray's own messages are printed
AUTHENTICATION, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"  # those of Ray
LOCAL = "local"  # the address by which Ray means a new one
ANSWER = 20.0  # seconds to wait for the cluster
ATTEMPTS = 2  # to start a local Ray, which gives up after 30 s: not enough on a busy machine
SLOW = "rfc3987_syntax"  # imported by each of Ray's processes, unused, if Jupyter has installed it: 3 s every time
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # a client's first bytes: empty settings
SETTINGS = 4  # the type of a server's first frame, after its length in three bytes


@dataclass(frozen=True)
class Node:
    """What Ray calls a node: usually a machine. cpus and gpus: as Ray counts them."""

    name: str
    cpus: int
    gpus: float = 0.0
    node_id: str = ""

    def room(self, threads: int, gpus: float) -> int:
        """How many runs fit at the same time. gpus: of a run; a share of one is always of the same GPU."""
        by_cpus = self.cpus // threads
        if not gpus:
            return by_cpus
        return min(by_cpus, int(self.gpus) * int(1 / gpus) if gpus < 1 else int(self.gpus // gpus))


def nodes_of(ray: ModuleType) -> list[Node]:
    """The nodes with CPUs of the cluster that was joined."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    has = [node["Resources"] for node in alive]
    nodes = [
        Node(node["NodeManagerHostname"], int(own.get("CPU", 0)), own.get("GPU", 0.0), node["NodeID"])
        for node, own in zip(alive, has, strict=True)
    ]
    return [node for node in nodes if node.cpus]


def join(address: str) -> ModuleType:
    """Connect to the cluster; return Ray. Raises UserError."""
    check_answers(address)
    mode = os.environ.get(AUTHENTICATION, "not set")
    hint = f"; {AUTHENTICATION} is {mode} here and must be the same on all nodes"
    return _init(f"Ray at {address} could not be joined", hint, address=address)


def start(node: Node, memory: int, folder: Path) -> ModuleType:
    """Start a local Ray cluster with these CPUs and GPUs, which ends with this process; return it. memory: bytes of
    its object store. folder: for its files; a short path, since sockets are below it. Raises UserError."""
    (folder / f"{SLOW}.py").write_text("raise ImportError\n")
    if AUTHENTICATION not in os.environ:  # a token of its own: Ray would write one into the home folder
        os.environ |= {AUTHENTICATION: "token", TOKEN: secrets.token_hex(32)}
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
    how = {"num_cpus": node.cpus, "num_gpus": int(node.gpus), "object_store_memory": memory, "_temp_dir": str(folder)}
    try:
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(UserError):
                return _init("Ray could not be started", address=LOCAL, include_dashboard=False, **how)
        return _init("Ray could not be started", address=LOCAL, include_dashboard=False, **how)
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _init(failed: str, hint: str = "", **how: Any) -> ModuleType:
    """ray.init without usage statistics and, unless asked for, without Ray's messages. Raises UserError."""
    verbose = bool(os.environ.get(LOG))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with _kept_signal_handlers(), contextlib.nullcontext() if verbose else _without_stderr():
        absent = SLOW not in sys.modules
        if absent:
            sys.modules[SLOW] = None
        try:
            import ray
        finally:
            if absent:
                del sys.modules[SLOW]
        try:
            ray.init(log_to_driver=verbose, logging_level="INFO" if verbose else "ERROR", **how)
        except (Exception, SystemExit) as error:  # Ray exits the process if a cluster's head does not answer
            ray.shutdown()
            said = " ".join(str(error).split())[:300]
            raise UserError(f"{failed}: {said}; {LOG}=1 shows Ray's messages{hint}") from error
    return ray


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's C++ parts write there while they connect; what matters is in the exception."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _kept_signal_handlers() -> Iterator[None]:
    """Ray sets its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_answers(address: str) -> None:
    """Wait for the answer of a Ray cluster at 'host:port'. Raises UserError. Ray itself would wait for two minutes."""
    if address == "auto":  # the cluster of this machine, which Ray finds or not at once
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        said = "HOST:PORT of its head node, such as 10.0.0.1:6379, or empty for a local Ray cluster"
        raise UserError(f"{ADDRESS} is {address[:80]}; allowed: {said}")
    end = time.monotonic() + ANSWER
    while True:
        try:
            if _is_grpc(host.strip("[]"), int(port), max(0.1, end - time.monotonic())):
                return
            why = "what answers there is not Ray"
        except TimeoutError:
            why = "no answer"
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
        if time.monotonic() + 1 > end:
            raise UserError(
                f"{ADDRESS} is {address}; no Ray cluster there within {ANSWER:.0f} s ({why}): correct the address, or "
                "start one with `ray start --head`"
            )
        time.sleep(1)


def _is_grpc(host: str, port: int, seconds: float) -> bool:
    with socket.create_connection((host, port), timeout=seconds) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return True
        connection.sendall(HTTP2)
        frame = connection.recv(9)
        return len(frame) > 3 and frame[3] == SETTINGS
