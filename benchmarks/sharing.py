"""Several trainings that share a device: images per second, summed over processes.

    python benchmarks/sharing.py NETWORK ... --batch B --images N --width W --threads T

is one of the processes, a worker. It prepares its networks, prints `ready` and then answers every line
`NETWORK SECONDS` with the images per second of that long a training, until its input ends.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from fit_steps import fit_steps
from measuring import random_images, synchronise

HERE = Path(__file__).resolve().parent
ROUND = 0.2  # seconds of steps between two looks at the clock, which wait for the device


class Workers:
    """Processes that have prepared the same networks; any number of them train at a time."""

    def __init__(self, processes: list[subprocess.Popen]) -> None:
        """Wait until all are ready. Raises RuntimeError if one has failed."""
        self._processes = processes
        if any(self._answer(process) != "ready" for process in processes):
            raise RuntimeError("a process that was to share the device has failed; its error is above")

    @staticmethod
    def _answer(process: subprocess.Popen) -> str:
        return process.stdout.readline().strip()

    def images_per_second(self, network: str, at_once: int, seconds: float) -> float:
        """The sum over `at_once` processes that train `network` for the same `seconds`."""
        used = self._processes[:at_once]
        for process in used:
            process.stdin.write(f"{network} {seconds}\n")
            process.stdin.flush()
        return sum(float(self._answer(process) or "nan") for process in used)


@contextmanager
def workers(
    count: int, networks: tuple[str, ...], *, batch: int, images: int, width: float, threads: int
) -> Iterator[Workers]:
    """Start `count` workers and wait until they are ready; end them afterwards."""
    options = {"--batch": batch, "--images": images, "--width": width, "--threads": threads}
    command = [sys.executable, str(HERE / "sharing.py"), *networks]
    command += [str(part) for option in options.items() for part in option]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        yield Workers(processes)
    finally:
        for process in processes:
            process.kill()  # it waits for its next line, and keeps nothing
        for process in processes:
            process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(description="A process of the section `gpu` that trains when it is told to.")
    parser.add_argument("networks", nargs="+")
    for name, kind in (("batch", int), ("images", int), ("width", float), ("threads", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = random_images(options.images)
    with ExitStack() as stack:
        own, rounds = {}, {}
        for name in options.networks:
            own[name] = stack.enter_context(fit_steps(name, data, options.batch, width=options.width))
            rounds[name] = max(1, round(ROUND / own[name].timed(ROUND, rounds=1)))
        print("ready", flush=True)
        for line in sys.stdin:
            name, seconds = line.split()
            steps, done = own[name], 0
            started = time.perf_counter()
            while (passed := time.perf_counter() - started) < float(seconds):
                steps.run(rounds[name])
                synchronise(steps.device)
                done += rounds[name]
            print(done * options.batch / passed, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
