"""The table of `make plan`: what the runs of a study cost on this machine."""

from collections.abc import Sequence

from senet_lib import durations
from senet_lib.data import Dataset
from senet_lib.running.estimate import LAYER_SECONDS, SHARE, estimates
from senet_lib.running.executor import Executor
from senet_lib.running.pace import START, Conditions
from senet_lib.study import RunConfig
from senet_lib.training.runtime import resolve_precision

MARKS = {"measured": " ", "recorded": "*", "scaled": "~"}
NOTES = {
    "measured": "Measured on a few training steps per network.",
    "recorded": "*: recorded by finished runs on this machine.",
    "scaled": "~: not measured but computed from the multiply-adds, at the speed of measured networks: perhaps half or "
    "twice as long.",
}


def print_estimates(executor: Executor, runs: Sequence[RunConfig], left: Sequence[RunConfig], data: Dataset) -> None:
    """Print one row per configuration with runs `left`, the time of all of them, and where they would be executed.
    data: only its sizes are used."""
    options, threads, device = executor.options, executor.threads, executor.device
    here = Conditions(device, threads, options.devices, executor.runs_per_gpu)
    finished = [run for run in runs if run not in left]
    recorded = {run.label: seconds for run, seconds in here.recorded(executor.folder, finished, data)}
    networks = list({run.label: run for run in left}.values())
    costs = estimates(networks, data, recorded, device, threads)

    width = max(len(run.label) for run in networks)
    columns = f"{'params':>11}  {'MACs':>8}   {'ms/image':>8}  {'per epoch':>10}  {'per run':>10}  runs left"
    print(f"\n{'network':<{width}}  {columns}")
    total, h100 = 0.0, [0.0, 0.0]  # seconds; at least and at most
    for run in networks:
        cost, todo = costs[run.label], sum(other.label == run.label for other in left)
        total += todo * (cost.run_seconds + START)
        h100 = [seconds + todo * more for seconds, more in zip(h100, cost.h100_seconds, strict=True)]
        print(
            f"{run.label:<{width}}  {cost.params:>11,}  {cost.macs / 1e6:>7.1f}M  "
            f"{MARKS[cost.source]}{cost.seconds_per_image * 1e3:>8.2f}  "
            f"{_cell(cost.epoch_seconds):>10}  {_cell(cost.run_seconds):>10}  "
            f"{todo} of {sum(other.label == run.label for other in runs)}"
        )
    jobs = f", {executor.jobs} runs at a time that do not slow each other down" if executor.jobs > 1 else ""
    precision = " and ".join(sorted({resolve_precision(run.recipe.precision, device) for run in networks}))
    used = {cost.source for cost in costs.values()}
    one = " It is that of one device per run." if options.devices > 1 and used != {"recorded"} else ""
    print(
        f"\nEstimated time on this machine: {durations.about(total / executor.jobs)} in {precision}{jobs}. "
        f"It includes {START:.0f} s per run for the start and the figures.{one}",
        *(note for source, note in NOTES.items() if source in used),
    )
    print(
        f"Estimated time on one H100: {' to '.join(map(durations.rough, h100))}. Not measured: the first from the "
        f"multiply-adds at {SHARE:.2f} of its bf16 peak, which large networks approach; the second with "
        f"{LAYER_SECONDS * 1e3:.1f} ms more per layer and step, as ResNet-20 needed on an H100 that other runs shared."
    )
    many = "The run" if len(left) == 1 else f"The {len(left)} runs"
    print(f"\n{many} would be executed {executor.describe()}.")


def _cell(seconds: float) -> str:
    return durations.rough(seconds) if seconds >= 1 else "under 1 s"
