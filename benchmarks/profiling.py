"""Where the time of a step goes: torch.profiler's kernels by the kind of operator that started them."""

import re
from collections import Counter
from typing import NamedTuple

import torch
from fit_steps import FitSteps
from measuring import synchronise
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity

OPTIMIZER, OTHER, UNKNOWN = "optimizer", "elementwise and reductions", "not attributed"
KINDS = {  # the first pattern that the operator's name contains
    "convolution": r"conv",
    "batch norm": r"batch_norm",
    "pooling": r"pool",
    "matrix product": r"::(addmm|mm|bmm|baddbmm|linear|matmul)\b",
    "copies and casts": r"copy|::(fill_|zero_|cat|stack|index_select)\b|Memcpy|Memset",
}
COLUMNS = (*KINDS, OTHER, OPTIMIZER, UNKNOWN)


class Profile(NamedTuple):
    """Per step: seconds in kernels by kind, and how many kernels were started. Without a GPU, operators instead."""

    seconds: dict[str, float]
    kernels: float


def profiled(steps: FitSteps, count: int) -> Profile:
    """Profile `count` steps, after one that is not profiled."""
    on_gpu = steps.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    steps.run(1)
    synchronise(steps.device)
    with torch.profiler.profile(activities=activities) as profile:
        steps.run(count)
        synchronise(steps.device)
    return by_kind(profile.events(), count, on_gpu)


def by_kind(events: list[FunctionEvent], steps: int, on_gpu: bool) -> Profile:
    """Sum up a profile. Kernels that belong to no operator are UNKNOWN, so that the sum is complete."""
    seconds, kernels, whole = Counter(), 0, 0.0
    for event in events:
        if event.device_type != DeviceType.CPU:
            whole += event.time_range.elapsed_us() if is_kernel(event) else 0
            continue
        durations = [kernel.duration for kernel in event.kernels] if on_gpu else [event.self_cpu_time_total]
        seconds[kind(event)] += sum(durations)
        kernels += len(durations)
    seconds[UNKNOWN] = max(0.0, whole - seconds.total())
    return Profile({name: seconds[name] / steps / 1e6 for name in COLUMNS}, kernels / steps)


def is_kernel(event: FunctionEvent) -> bool:
    """Whether an event of the GPU is a kernel or copy, not the range of an annotation such as Optimizer.step."""
    annotation = getattr(event, "is_user_annotation", False) or event.name.startswith(("Optimizer.", "ProfilerStep"))
    return not annotation


def kind(event: FunctionEvent) -> str:
    """The kind of an operator; everything within Optimizer.step is the optimizer's."""
    outer = event
    while outer is not None:
        if outer.name.startswith("Optimizer.step#"):
            return OPTIMIZER
        outer = outer.cpu_parent
    return next((name for name, pattern in KINDS.items() if re.search(pattern, event.name)), OTHER)
