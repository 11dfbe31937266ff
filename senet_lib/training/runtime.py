"""What a training runs on: device, precision, memory format, deterministic kernels, memory."""

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# cuBLAS is deterministic only with a fixed workspace, and reads this when CUDA starts
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Fabric advises on a GPU to let fp32 products lose precision, in every run's notebook; here fp32 is meant
logging.getLogger("lightning_fabric.utilities.rank_zero").addFilter(lambda log: "Tensor Cores" not in log.getMessage())

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def resolve_precision(precision: str, device: str = "auto") -> str:
    """'auto' becomes 'bf16' where the hardware computes in it (CUDA, CPUs with AVX512-BF16 or AMX), else 'fp32'."""
    if precision != "auto":
        return precision
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device == "mps" or (device == "auto" and torch.backends.mps.is_available()):
        return "fp32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


def choose_memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """channels_last, the faster one, but where oneDNN would compute wrong gradients in it or crash: on a CPU, with a
    strided 1x1 convolution of fewer input channels than a vector register holds (github:uxlfoundation/oneDNN#6035)."""
    for module in model.modules() if device.type == "cpu" else ():
        strided = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
        if strided and module.in_channels // module.groups < 16:
            return torch.contiguous_format
    return torch.channels_last


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels for the while; without them CUDA's backward passes differ from run to run."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over each tensor
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filling
        torch.backends.cudnn.benchmark = benchmark


def keep_freed_memory() -> None:
    """Have glibc keep what this process frees for its next allocation.

    It hands every tensor above 32 MiB back to the operating system, which then clears a new one page by page: a tenth
    to a third of a training step on a CPU. The process's peak grows by up to a seventh. Nothing where the C library has
    no mallopt.
    """
    if not sys.platform.startswith("linux") or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    trim_threshold, mmap_max = -1, -4  # malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)  # never


def say_device() -> None:
    """One line about what training will run on."""
    if torch.cuda.is_available():
        print(f"Training runs on {torch.cuda.get_device_name()}.")
    else:
        print("No GPU here: training runs on the CPU (in Colab: Runtime > Change runtime type).")
