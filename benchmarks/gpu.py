"""Section `gpu`: a training step of `fit` on a GPU, beside its floor and the loop that most people would write.

The parts run in the order of their interest and stop at a time limit. Every row is written as soon as it is measured,
so that a run that is cut off keeps what it has. A case that fails, for example because the GPU's memory does not
suffice, ends alone; the page names it. `plan(tiny=True)` runs every part in small on any device, to test the section.
"""

import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import airbench
import floor
import profiling
import reference_loop
import torch
from fit_steps import STUDIES, FitSteps, fit_steps
from gpu_plan import Plan, plan
from measuring import MEAN, MISSING, STD, Page, Table, random_images, synchronise
from sharing import workers

from senet_lib.data import DataError, Dataset, load_dataset
from senet_lib.models import create_model
from senet_lib.results import environment_record
from senet_lib.study import Recipe, load_study
from senet_lib.training import evaluate, fit
from senet_lib.training.checkpoint import NEWEST
from senet_lib.training.runtime import resolve_precision

HOST_BATCH = 8  # so small that the GPU waits for the host
KERNELS = ("deterministic", "fastest")
MINUTES = 8.0
NOT_MEASURED = "Not measured. `make bench SECTIONS=gpu` fills this page on a machine with a CUDA GPU.\n"


def no_gpu(page: Path) -> str:
    """Write the page as 'not measured', unless it holds measurements; return the line for the user."""
    if not page.exists() or page.read_text(encoding="utf-8").startswith("Not measured."):
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(NOT_MEASURED, encoding="utf-8")
    return "gpu: PyTorch finds no CUDA GPU here, so nothing was measured; run this section on a machine that has one"


@dataclass
class Bench:
    """One run of the section."""

    plan: Plan
    ends: float  # time.monotonic()
    page: Page = field(default_factory=Page)
    rates: dict[str, float] = field(default_factory=dict)  # floor.measured_rates
    measured: dict[tuple[str, int, str], float] = field(default_factory=dict)  # network, batch, kernels -> s per step

    def __post_init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if resolve_precision("auto") == "bf16" else torch.float32
        self.data = random_images(self.plan.images).to(self.device)

    @contextmanager
    def case(self, what: str, seconds: float) -> Iterator[bool]:
        """Whether a case that takes about `seconds` may start. A failure within it is reported and ends only it."""
        if time.monotonic() + seconds > self.ends:
            self.page.leave_out(what, "time limit")
            yield False
            return
        try:
            yield True
        except Exception as error:  # the other cases still count
            traceback.print_exc()
            self.page.leave_out(what, f"failed with {type(error).__name__}")
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def steps(self, network: str, batch: int, **options: object):
        """A context with the training steps of one case."""
        return fit_steps(network, self.data, batch, width=self.plan.width, **options)


def measure(minutes: float = MINUTES, tiny: bool = False) -> Iterator[list[Table]]:
    """Run the section; yield its tables whenever a row is added."""
    bench = Bench(plan(tiny), time.monotonic() + 60 * minutes)
    own = bench.plan
    first, *others = own.batches
    parts: list[tuple[Callable, tuple]] = [
        (machine, ()),
        (step_times, (first,)),
        (references, (first,)),
        (breakdown, ()),
        (rest_of_a_run, ()),
        (to_94_percent, ()),
        *((step_times, (batch,)) for batch in others[:1]),
        (sharing, ()),
        (compiled, ()),
        *((step_times, (batch,)) for batch in others[1:]),
        *((references, (batch,)) for batch in others),
    ]
    describe(bench)
    for part, arguments in parts:
        for _ in part(bench, *arguments):
            yield bench.page.tables()
    yield bench.page.tables()


def describe(bench: Bench) -> None:
    """Add the empty tables with their captions, in the order of the page."""
    page, own = bench.page, bench.plan
    page.table("machine", "What was measured, and the rates of the floor.", "what", "value")
    page.table(
        "steps",
        "Whole training steps as `fit` runs them, with augmentation: the median of "
        f"{own.rounds} rounds. `deterministic` and `fastest` are the recipe's `gpu_kernels`; `compiled` steps "
        "use the fastest. `fast` has its study's recipe, with Muon, at full resolution.",
        *("network", "batch", "deterministic ms", "deterministic images/s", "fastest ms", "fastest images/s"),
        *("compiled ms", "compiled images/s", "peak GiB"),
    )
    page.table(
        "beside",
        "The same steps (deterministic; fastest) beside two references. Floor: the time of the multiply-adds, or of "
        "reading and writing the weights and the maps of the convolutions and linear layers once per use, at the rates "
        "above; `benchmarks/floor.py` states what is counted. The DataLoader loop: `reference_loop.py` with "
        f"{own.workers} workers, in fp32 with PyTorch's defaults (convolutions in TF32), and with bf16 AMP and "
        "channels_last.",
        *("network", "batch", "floor by FLOP, ms", "floor by bytes, ms", "step relative to the larger floor"),
        *("DataLoader loop fp32, images/s", "senet_lib relative to it"),
        *("DataLoader loop AMP, images/s", "senet_lib relative to the AMP loop"),
    )
    page.table(
        "breakdown",
        "Where the time of a step goes, in ms of GPU kernels by the operator that started them (torch.profiler, "
        f"deterministic). Host: the time of a step at batch size {HOST_BATCH}, where the GPU waits for the host; no "
        "step without CUDA graphs is faster.",
        *("network", "batch", *profiling.COLUMNS, "all kernels", "kernels started", "host"),
    )
    page.table("rest", "What a run does beside its steps.", "what", "value")
    page.table(
        "to 94 %",
        "CIFAR-10 to 94 % with test-time augmentation (TTA), on this GPU in this run: seconds of the training steps, "
        "seconds in all, and test accuracy in percent; medians over the seeds. `fast` is trained by `fit`, whose whole "
        "time includes an evaluation after each epoch. airbench94 is trained by its own recipe in a plain loop, whose "
        "whole time includes its initialisation and TTA.",
        *("network", "seeds", "training s", "whole s", "accuracy", "accuracy with TTA"),
    )
    page.table(
        "sharing",
        f"Several trainings that share the GPU, one process each, no MPS, batch size {own.sharing_batch}: images per "
        "second in all, and relative to one process.",
        *("network", *(f"{count} at a time" for count in own.processes)),
    )


def machine(bench: Bench) -> Iterator[None]:
    """The device, and the rates that the floors are computed with."""
    record, page, cuda = environment_record(), bench.page, bench.device.type == "cuda"
    name = torch.cuda.get_device_name(bench.device) if cuda else f"no GPU: {record['processor']}"
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    page.put("machine", ("device",), {"value": name})
    page.put("machine", ("software",), {"value": f"{versions}, commit {(record['git_commit'] or 'unknown')[:12]}"})
    page.put("machine", ("host",), {"value": f"{record['processor']}, {record['cores']} cores"})
    bench.rates = floor.measured_rates(bench.device, bench.dtype, size=bench.plan.matrix)
    page.put("machine", ("copy, read and written",), {"value": f"{bench.rates['bytes'] / 1e12:.3g} TB/s"})
    kind = f"matrix product, {str(bench.dtype)[6:]} {bench.plan.matrix}³"
    page.put("machine", (kind,), {"value": f"{bench.rates['flop'] / 1e12:.3g} TFLOP/s"})
    yield


def step_times(bench: Bench, batch: int) -> Iterator[None]:
    """ms per step and images/s of every network, and the floor."""
    own = bench.plan
    for network in own.networks:
        for kernels in KERNELS:
            with bench.case(f"{network}, batch {batch}, {kernels}", 12) as may_start:
                if may_start:
                    if bench.device.type == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    with bench.steps(network, batch, gpu_kernels=kernels) as steps:
                        seconds = bench.measured[network, batch, kernels] = steps.timed(own.seconds, own.rounds)
                    cells = speed(kernels, batch, seconds)
                    if kernels == KERNELS[0] and bench.device.type == "cuda":
                        cells["peak GiB"] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"
                    bench.page.put("steps", (network, batch), cells)
                    yield
        with bench.case(f"{network}, batch {batch}, floor", 2) as may_start:
            times = timed_both(bench, network, batch)
            if may_start and times:
                model, element = create_model(network, width=own.width), bench.dtype.itemsize
                flop, moved = floor.seconds_per_step(model, batch, bench.rates, element)
                relative = "; ".join(f"{time / max(flop, moved):.2f}" for time in times)
                cells = {"floor by FLOP, ms": f"{1e3 * flop:.3g}", "floor by bytes, ms": f"{1e3 * moved:.3g}"}
                bench.page.put("beside", (network, batch), {**cells, "step relative to the larger floor": relative})
                yield


def timed_both(bench: Bench, network: str, batch: int) -> list[float]:
    """Seconds per step with each choice of kernels that was measured."""
    keys = [(network, batch, kernels) for kernels in KERNELS]
    return [bench.measured[key] for key in keys if key in bench.measured]


def speed(how: str, batch: int, seconds: float) -> dict[str, str]:
    """The cells of a step's time."""
    return {f"{how} ms": f"{1e3 * seconds:.2f}", f"{how} images/s": f"{batch / seconds:,.0f}"}


def references(bench: Bench, batch: int) -> Iterator[None]:
    """The DataLoader alone, then its loop in fp32 and with AMP and channels_last."""
    own, cuda = bench.plan, bench.device.type == "cuda"
    images, labels = bench.data.train_images.cpu(), bench.data.train_labels.cpu()
    batches = reference_loop.loader(images, labels, MEAN, STD, batch, own.workers, pin_memory=cuda)
    with bench.case(f"DataLoader alone, batch {batch}", 10) as may_start:
        if may_start:
            rate = loader_rate(batches, own.reference_seconds)
            what = f"DataLoader alone, {own.workers} workers, batch {batch}"
            bench.page.put("rest", (what,), {"value": f"{rate:,.0f} images/s"})
            yield
    columns = {
        False: ("DataLoader loop fp32, images/s", "senet_lib relative to it"),
        True: ("DataLoader loop AMP, images/s", "senet_lib relative to the AMP loop"),
    }
    for network in own.networks:
        for amp, (rate_column, relative) in columns.items():
            with bench.case(f"{network}, batch {batch}, DataLoader loop{' with AMP' if amp else ''}", 15) as may_start:
                if may_start:
                    model, device = create_model(network, width=own.width), bench.device.type
                    rate = reference_loop.images_per_second(model, batches, 3, device, amp, own.reference_seconds)
                    ratios = [f"{batch / time / rate:.2f}" for time in timed_both(bench, network, batch)]
                    cells = {rate_column: f"{rate:,.0f}", relative: "; ".join(ratios) or MISSING}
                    bench.page.put("beside", (network, batch), cells)
                    yield


def loader_rate(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], seconds: float) -> float:
    """Images per second of the batches alone, over `seconds` after the third batch."""
    source, images = iter(batches), 0
    for _ in range(3):
        next(source)
    started = time.perf_counter()
    for _, labels in source:
        images += len(labels)
        if time.perf_counter() - started > seconds:
            break
    return images / (time.perf_counter() - started)


def breakdown(bench: Bench) -> Iterator[None]:
    """GPU time by kind of operator."""
    for network, batch in bench.plan.profiled:
        with bench.case(f"{network}, batch {batch}, profile", 12) as may_start:
            if may_start:
                with bench.steps(network, batch) as steps:
                    steps.run(3)
                    profile = profiling.profiled(steps, 1 if bench.plan.tiny else 5)
                cells = {name: f"{1e3 * seconds:.2f}" for name, seconds in profile.seconds.items()}
                cells |= {"all kernels": f"{1e3 * sum(profile.seconds.values()):.2f}"}
                cells |= {"kernels started": f"{profile.kernels:,.0f}"}
                with bench.steps(network, HOST_BATCH) as steps:
                    cells |= {"host": f"{1e3 * steps.timed(bench.plan.seconds, bench.plan.rounds):.2f}"}
                bench.page.put("breakdown", (network, batch), cells)
                yield


def rest_of_a_run(bench: Bench) -> Iterator[None]:
    """Data, evaluation and checkpoints of one network."""
    network, batch = bench.plan.networks[0], bench.plan.batches[0]
    with bench.case("data, evaluation and checkpoint", 15) as may_start, tempfile.TemporaryDirectory() as folder:
        if not may_start:
            return
        with bench.steps(network, batch, folder=Path(folder)) as steps:
            steps.run(3)
            for what, seconds in rest_of(steps, bench.data, Path(folder)).items():
                bench.page.put("rest", (f"{network}: {what}",), {"value": f"{1e3 * seconds:,.1f} ms"})
        yield


def rest_of(steps: FitSteps, data: Dataset, folder: Path) -> dict[str, float]:
    """Seconds of everything that a run does beside its steps, by description."""
    state, seconds = steps.state, {}

    def timed(call: Callable[[], object]) -> float:
        synchronise(steps.device)
        started = time.perf_counter()
        call()
        synchronise(steps.device)
        return time.perf_counter() - started

    epoch = timed(lambda: [None for _ in state.batches.epoch(seed=0, epoch=1)])
    seconds[f"order and augmentation of an epoch of {len(state.data.train_labels):,} images"] = epoch
    images = data.train_images[:10_000], data.train_labels[:10_000]
    for _ in range(2):  # the first is the warm-up
        took = timed(lambda: evaluate(state.network, *images, mean=MEAN, std=STD))
    seconds[f"evaluation of {len(images[0]):,} images"] = took
    for _ in range(2):
        waiting, writing = timed(state.save), timed(state.writer.wait)
    megabytes = (folder / NEWEST).stat().st_size / 1e6
    seconds[f"checkpoint of {megabytes:,.0f} MB: training waits"] = waiting
    seconds["checkpoint: then written in the background"] = writing
    return seconds


def to_94_percent(bench: Bench) -> Iterator[None]:
    """`fast` and airbench94, each by its own recipe, alternating over the seeds."""
    own = bench.plan
    try:
        data = tiny_test_split(bench.data) if own.tiny else load_dataset("cifar10", download=False).to(bench.device)
    except DataError as error:
        print(error, flush=True)
        bench.page.leave_out("time to 94 %", "no CIFAR-10; set SENET_DATA to its folder")
        yield
        return
    recipe = load_study("fast", STUDIES).recipe
    if own.tiny:
        recipe = recipe.model_copy(update={"epochs": 1, "batch_size": 16, "warmup_epochs": 0.0})
    ways = {f"fast, {kernels}": recipe.model_copy(update={"gpu_kernels": kernels}) for kernels in KERNELS}
    ways["airbench94, its recipe"] = None
    found: dict[str, list[airbench.Trained]] = {way: [] for way in ways}
    for seed in range(own.seeds):
        for way, chosen in ways.items():
            with bench.case(f"{way}, seed {seed}", 25) as may_start:
                if may_start:
                    found[way].append(trained_once(data, chosen, seed))
                    put_trained(bench.page, way, found[way])
                    yield


def tiny_test_split(data: Dataset) -> Dataset:
    """The same images as training and test images."""
    return replace(data, test_images=data.train_images, test_labels=data.train_labels)


def trained_once(data: Dataset, recipe: Recipe | None, seed: int) -> airbench.Trained:
    """Train `fast` by a recipe, or airbench94 by its own (None), on CIFAR-10 on the device."""
    if recipe is None:
        size = {} if len(data.train_labels) > airbench.BATCH else {"epochs": 1, "batch": 16}
        with reference_loop.cudnn_benchmark():
            return airbench.train_by_its_recipe(data, seed, **size)
    started = time.perf_counter()
    torch.manual_seed(seed)
    outcome = fit(create_model("fast"), data, recipe, seed=seed, progress="none")
    whole = time.perf_counter() - started
    training = sum(row["train_seconds"] for row in outcome.history)
    return airbench.Trained(training, whole, outcome.evaluation.accuracy, outcome.tta_accuracy)


def put_trained(page: Page, way: str, runs: list[airbench.Trained]) -> None:
    training, whole, accuracy, tta = (statistics.median(values) for values in zip(*runs, strict=True))
    cells = {"training s": f"{training:.2f}", "whole s": f"{whole:.2f}", "accuracy": f"{100 * accuracy:.2f}"}
    page.put("to 94 %", (way,), {"seeds": str(len(runs)), **cells, "accuracy with TTA": f"{100 * tta:.2f}"})


def sharing(bench: Bench) -> Iterator[None]:
    """Images per second of several processes at a time."""
    own, counts = bench.plan, bench.plan.processes
    threads = max(1, own.workers // max(counts))
    options = {"batch": own.sharing_batch, "images": min(own.images, 5120), "width": own.width, "threads": threads}
    with bench.case("several trainings at a time", 75) as may_start:
        if not may_start:
            return
        with workers(max(counts), own.shared, **options) as processes:
            for network in own.shared:
                alone = None
                for count in counts:
                    rate = processes.images_per_second(network, count, own.sharing_seconds)
                    alone = alone or rate
                    cells = {f"{count} at a time": f"{rate:,.0f} ({rate / alone:.2f})"}
                    bench.page.put("sharing", (network,), cells)
                    yield


def compiled(bench: Bench) -> Iterator[None]:
    """Steps with `compile: true`."""
    for network, batch in bench.plan.compiled:
        with bench.case(f"{network}, batch {batch}, compiled", 75) as may_start:
            if may_start:
                with bench.steps(network, batch, gpu_kernels="fastest", compile=True) as steps:
                    seconds = steps.timed(bench.plan.seconds, bench.plan.rounds)
                bench.page.put("steps", (network, batch), speed("compiled", batch, seconds))
                yield
