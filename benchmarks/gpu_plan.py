"""What the section `gpu` measures, and at what scale."""

import os
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Plan:
    """Networks, batch sizes and durations of the section's parts."""

    networks: tuple[str, ...]
    batches: tuple[int, ...]
    profiled: tuple[tuple[str, int], ...]
    compiled: tuple[tuple[str, int], ...]
    shared: tuple[str, ...]
    processes: tuple[int, ...]
    images: int  # random training images
    seconds: float  # of a round
    rounds: int
    width: float
    sharing_batch: int
    sharing_seconds: float
    workers: int  # of the reference loop
    reference_seconds: float
    matrix: int  # rows of the matrix product for the floor
    seeds: int  # of the trainings to 94 %
    tiny: bool


def plan(tiny: bool = False) -> Plan:
    """The full plan; tiny: every part, on a few small images and networks."""
    full = Plan(
        networks=("resnet50", "sknet50", "fast", "resnet18", "resnet20", "se_resnet50", "resnext50_32x4d"),
        batches=(256, 1024, 128),
        profiled=(("resnet50", 256), ("sknet50", 256), ("fast", 1024), ("resnext50_32x4d", 256), ("resnet20", 128)),
        compiled=(("resnet50", 256), ("sknet50", 256), ("fast", 1024)),
        shared=("resnet20", "resnet50"),
        processes=(1, 2, 4, 8),
        images=50_000,
        seconds=0.25,
        rounds=5,
        width=1,
        sharing_batch=128,
        sharing_seconds=3,
        workers=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        reference_seconds=2,
        matrix=8192,
        seeds=3,
        tiny=False,
    )
    if not tiny:
        return full
    return replace(
        full,
        networks=("resnet20", "fast"),
        batches=(8,),
        profiled=(("fast", 8),),
        compiled=(),
        shared=("resnet20",),
        processes=(1, 2),
        images=48,
        seconds=0.0,
        rounds=2,
        width=0.25,
        sharing_batch=8,
        sharing_seconds=0.2,
        workers=1,
        reference_seconds=0.1,
        matrix=64,
        seeds=1,
        tiny=True,
    )
