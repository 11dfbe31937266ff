"""A small Slurm on this machine, for tests and for trying EXECUTOR=slurm: a controller and some nodes on loopback.

    python tools/slurm_cluster.py up FOLDER --nodes 2 --cpus 2
    export SLURM_CONF=FOLDER/slurm.conf        # the Slurm commands then use it
    python tools/slurm_cluster.py down FOLDER

Everything is in FOLDER: configuration, state, logs, process ids. Needs slurmctld, slurmd and the client commands (on
Debian: `apt-get install slurmctld slurmd slurm-client`). All jobs run as the user who starts it, and nothing checks who
submits them, so it is for one machine and one user.
"""

import argparse
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ReturnToService=2
SlurmdTimeout=10
SchedulerParameters=sched_interval=2,bf_interval=2
"""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")  # stand for GPUs
UP_SECONDS = 60  # until all nodes must be idle


def up(folder: Path, nodes: int, cpus: int, gpus: int = 0) -> None:
    """Start the controller and the nodes, and wait until they are idle. Raises SystemExit with a reason."""
    if missing := [name for name in PROGRAMS if not find(name)]:
        sys.exit(f"error: {', '.join(missing)} not found; on Debian: apt-get install slurmctld slurmd slurm-client")
    folder = folder.resolve()
    (folder / "state").mkdir(parents=True, exist_ok=True)
    names = [f"node{number}" for number in range(1, nodes + 1)]
    ports = free_ports(1 + nodes)
    lines = [CONFIGURATION.format(folder=folder, ports=ports, user=getpass.getuser(), host=host_name())]
    gres = f" Gres=gpu:{gpus}" if gpus else ""
    lines += ["GresTypes=gpu\n"] if gpus else []
    for name, port in zip(names, ports[1:], strict=True):
        (folder / f"spool.{name}").mkdir(exist_ok=True)
        lines.append(f"NodeName={name} NodeHostname={host_name()} NodeAddr=127.0.0.1 Port={port} CPUs={cpus}{gres}\n")
    lines.append(f"PartitionName=all Nodes={','.join(names)} Default=YES MaxTime=INFINITE State=UP\n")
    (folder / "slurm.conf").write_text("".join(lines))
    # Slurm asks for device files, and no job opens these
    (folder / "gres.conf").write_text(f"Name=gpu File={','.join(DEVICES[:gpus])}\n" if gpus else "")
    subprocess.run([find("slurmctld")], env=environment(folder), check=True)
    for name in names:
        start_node(folder, name)
    end = time.monotonic() + UP_SECONDS
    while states(folder) != ["idle"] * nodes:
        if time.monotonic() > end:
            down(folder)
            sys.exit(f"error: the nodes are not idle after {UP_SECONDS} s; see the logs in {folder}")
        time.sleep(0.2)


def start_node(folder: Path, name: str) -> None:
    subprocess.run([find("slurmd"), "-N", name], env=environment(folder), check=True)


def kill_node(folder: Path, name: str) -> None:
    """SIGKILL the node's daemon, its step daemons and their processes, as if the machine lost power."""
    import psutil

    spool, daemon = f"{folder.resolve()}/spool.{name}/", pid_in(folder / f"slurmd.{name}.pid")
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            below = process.children(recursive=True)
            # A step daemon hides its arguments and variables, but not the path of the script that it executes
            is_step = process.name().startswith("slurmstepd") and any(spool in " ".join(p.cmdline()) for p in below)
            if is_step or process.pid == daemon:
                for each in (process, *below):
                    with suppress(psutil.NoSuchProcess):
                        each.kill()


def down(folder: Path) -> None:
    """Cancel all jobs and end all daemons."""
    import psutil

    folder = folder.resolve()
    subprocess.run([find("scancel"), "--full", "--signal=KILL", "--user", str(os.getuid())], env=environment(folder))
    pid_files = sorted(folder.glob("slurmd.*.pid")) + [folder / "slurmctld.pid"]
    pids = [pid for path in pid_files if (pid := pid_in(path))]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pid in pids:
        for _ in range(200):
            if not Path(f"/proc/{pid}").exists():
                break
            time.sleep(0.05)
        else:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for process in psutil.process_iter():  # without its controller, the daemon of a job's step would stay
        with suppress(psutil.Error):
            if process.name().startswith("slurmstepd") and Path(process.cwd()) == folder:
                for each in (process, *process.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        each.kill()


def states(folder: Path) -> list[str]:
    command = [find("sinfo"), "--noheader", "--Node", "--format=%T"]
    return subprocess.run(command, env=environment(folder), capture_output=True, text=True).stdout.split()


def environment(folder: Path) -> dict[str, str]:
    """The environment in which the Slurm commands use the cluster in `folder`."""
    return {**os.environ, "SLURM_CONF": str(folder.resolve() / "slurm.conf")}


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def host_name() -> str:
    return socket.gethostname().split(".")[0]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def pid_in(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("up", "down"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=2, help="of each node, whatever the machine has")
    parser.add_argument("--gpus", type=int, default=0, choices=range(5), help="of each node; none need exist")
    options = parser.parse_args()
    if options.command == "down":
        down(options.folder)
        return
    up(options.folder, options.nodes, options.cpus, options.gpus)
    print(f"export SLURM_CONF={options.folder.resolve() / 'slurm.conf'}")


if __name__ == "__main__":
    main()
