"""Runtime settings of training: device, precision, memory format, kernels, compilation, memory."""

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from senet_lib.errors import UserError
from senet_lib.study import Recipe

# cuBLAS is deterministic only with a fixed workspace; it reads this variable when CUDA starts
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Fabric would tell in every run's notebook that it uses bf16 and, on a GPU, advise to lower the precision of fp32
# products. The precision is the recipe's and recorded.
NOISE = ("Tensor Cores", "Automatic Mixed Precision")
logging.getLogger("lightning_fabric.utilities.rank_zero").addFilter(
    lambda log: not any(part in log.getMessage() for part in NOISE)
)

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
PRECISION_VARIABLE = "SENET_PRECISION"  # environment variable: what 'auto' means here


def device_kind(device: str = "auto") -> str:
    """'cuda', 'mps' or 'cpu': what a device's name, or 'auto', stands for on this machine."""
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "cuda"
    return "mps" if device == "mps" or (device == "auto" and torch.backends.mps.is_available()) else "cpu"


def resolve_precision(precision: str, device: str = "auto") -> str:
    """'auto' becomes 'bf16' where the hardware supports it (CUDA, CPUs with AVX512-BF16 or AMX), otherwise 'fp32'.

    The environment variable SENET_PRECISION, if set, replaces this choice. UserError: it is no precision.
    """
    if precision != "auto":
        return precision
    if chosen := os.environ.get(PRECISION_VARIABLE):
        if chosen not in PRECISIONS:
            raise UserError(f"{PRECISION_VARIABLE} is {chosen}; allowed: {', '.join(PRECISIONS)}")
        return chosen
    kind = device_kind(device)
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if native else "fp32"


def choose_memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """channels_last, the faster format, except where oneDNN computes wrong gradients in it or crashes: on a CPU, for a
    strided 1x1 convolution with fewer input channels than a vector register holds
    (github:uxlfoundation/oneDNN#6035)."""
    for module in model.modules() if device.type == "cpu" else ():
        strided = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
        if strided and module.in_channels // module.groups < 16:
            return torch.contiguous_format
    return torch.channels_last


@contextmanager
def chosen_kernels(recipe: Recipe) -> Iterator[None]:
    """Use the recipe's kernels inside the block; restore torch's settings afterwards.

    deterministic: without them, CUDA's backward passes differ from run to run. fastest: cuDNN also measures its
    algorithms at the first batch of every shape and keeps the fastest. A CPU computes the same with either.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(recipe.gpu_kernels == "deterministic")
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over each tensor
    torch.backends.cudnn.benchmark = recipe.gpu_kernels == "fastest"
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filling
        torch.backends.cudnn.benchmark = benchmark


class CompiledTraining(nn.Module):
    """`model`, compiled for training batches of `images` images: one graph per resolution, with static shapes.

    Other batches, such as the short last one of an epoch, and the evaluation use the model as it is: they would need
    graphs of their own. The weights are those of `model`. memory_format: that of the weights and the images.
    """

    def __init__(self, model: nn.Module, images: int, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.model, self.images = model, images
        # Inductor would change to channels_last on a CPU, also where `choose_memory_format` excludes it
        options = {"layout_optimization": False} if memory_format == torch.contiguous_format else None
        compiled = torch.compile(model, dynamic=False, options=options)
        self._compiled = (compiled,)  # in a tuple, so that no parameter is registered twice

    def forward(self, x: Tensor) -> Tensor:
        compiled = self.training and torch.is_grad_enabled() and len(x) == self.images
        return self._compiled[0](x) if compiled else self.model(x)


@contextmanager
def compiled_or_error() -> Iterator[None]:
    """Inside the block, torch.compile raises FailOnRecompileLimitHit where it would use eager mode from then on without
    an error. By default that is after 8 graphs of one function, which growing images can exceed."""
    limit = torch._dynamo.config.accumulated_recompile_limit  # of all graphs of one function in this process
    with torch._dynamo.config.patch(recompile_limit=limit, fail_on_recompile_limit_hit=True):
        yield


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next allocation.

    By default it returns every tensor above 32 MiB to the operating system, which clears the pages of each new one:
    a tenth to a third of a training step on a CPU. Keeping the memory raises the process's peak by up to a seventh.
    Does nothing if the C library has no mallopt.
    """
    if not sys.platform.startswith("linux") or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    trim_threshold, mmap_max = -1, -4  # malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)  # never


def print_device(device: str) -> None:
    """Print one line that names the device that `fit(..., device=device)` will use."""
    kind = device_kind(device)
    if kind == "cuda":
        print(f"Training runs on {torch.cuda.get_device_name()}.")
    elif kind == "mps":
        print("Training runs on this machine's GPU, by MPS.")
    elif device == "cpu":
        print("Training runs on the CPU.")
    else:
        hint = " (Runtime > Change runtime type)" if "google.colab" in sys.modules else ""
        print(f"No GPU here: training runs on the CPU{hint}.")
