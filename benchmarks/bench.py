"""Measure speed, memory and accuracy: `make bench`, or `python benchmarks/bench.py SECTION ...`.

Machines are shared and noisy. Measurements that are compared with each other therefore alternate within one run. The
tables show the median, minimum and maximum of the pairwise ratios. Each section writes benchmarks/results/SECTION.md.
Nothing else may run on the machine at the same time.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import accuracy
import airbench
import gpu
import grouped
import reference_loop
import scale as large
import torch
from measuring import BATCH, MEAN, STD, Table, alternate, markdown, median, random_images, ratio

from senet_lib.data import Augmenter, Dataset
from senet_lib.files import read_json, write_json, write_text
from senet_lib.metrics import count_macs
from senet_lib.models import create_model
from senet_lib.results import environment_record
from senet_lib.study import Recipe, load_study
from senet_lib.training import fit
from senet_lib.training.runtime import resolve_precision

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FAST = ("fast", "se_fast", "sk_fast")


def fit_speed(network: torch.nn.Module, data: Dataset, batch: int = BATCH, **recipe: object) -> float:
    """Training throughput of `fit` in images per second, in the second of two epochs; the first is the warm-up."""
    recipe = Recipe(**{"epochs": 2, "batch_size": batch, "lr": 1e-3, **recipe})
    return fit(network, data, recipe, progress="none").history[-1]["images_per_second"]


def reference_speed(network: torch.nn.Module, data: Dataset, warmup: int = 3) -> float:
    """Training throughput of the reference loop in images per second, without the first `warmup` steps."""
    batches = reference_loop.loader(data.train_images, data.train_labels, MEAN, STD, BATCH)
    return reference_loop.images_per_second(network, batches, warmup)


def steps(repeats: int) -> list[Table]:
    rows = []
    cases = {"resnet50": (1, 1), "resnet18": (2, 1), "se_resnet18": (2, 1)}
    cases |= dict.fromkeys(("resnet20", "se_resnet20", "sk_resnet20"), (10, 3))
    for name, (measured, warmup) in cases.items():
        data, longer = random_images(measured * BATCH), random_images((measured + warmup) * BATCH)
        ours, theirs = create_model(name), create_model(name)
        measures = {
            "reference": lambda network=theirs, data=longer, warmup=warmup: reference_speed(network, data, warmup),
            "fit": lambda network=ours, data=data: fit_speed(network, data),
        }
        values = alternate(measures, repeats)
        reference, own = values["reference"], values["fit"]
        rows.append([name, median(reference), median(own), ratio(own, reference)])
    caption = (
        f"Whole training steps including the data, batch size {BATCH}: images per second, and the ratio of senet_lib "
        "to the reference loop."
    )
    return [(caption, ["network", "reference loop", "senet_lib", "ratio: median (min to max)"], rows)]


def data(repeats: int) -> list[Table]:
    images = random_images(40 * BATCH)
    augmenter = Augmenter(
        images.train_images, images.train_labels, batch_size=BATCH, padding=4, flip=True, mean=MEAN, std=STD
    )
    batches = reference_loop.loader(images.train_images, images.train_labels, MEAN, STD, BATCH)

    def rate(epoch: Callable) -> float:
        source = iter(epoch())
        for _ in range(3):  # warm-up
            next(source)
        started, count = time.perf_counter(), sum(len(y) for _, y in source)
        return count / (time.perf_counter() - started)

    step = random_images(12 * BATCH)
    network = create_model("resnet20")
    measures = {
        "loader": lambda: rate(lambda: batches),
        "augmenter": lambda: rate(lambda: augmenter.epoch(seed=0, epoch=0)),
        "step": lambda: fit_speed(network, step),
    }
    values = alternate(measures, repeats)
    share = [100 * step / alone for step, alone in zip(values["step"], values["augmenter"], strict=True)]
    rows = [
        [
            median(values["loader"]),
            median(values["augmenter"]),
            ratio(values["augmenter"], values["loader"]),
            f"{statistics.median(share):.1f} % ({min(share):.1f} to {max(share):.1f})",
        ]
    ]
    header = ["DataLoader, two workers", "senet_lib", "ratio", "share of a ResNet-20 step"]
    return [("Augmentation and batching alone: images per second.", header, rows)]


def gates(repeats: int) -> list[Table]:
    pairs = [
        ("se_resnet50", "resnet50", {}, 1),
        ("se_resnet50", "resnet50", {"width": 0.25}, 2),
        ("se_resnet20", "resnet20", {}, 6),
        ("sk_resnet20", "resnet20", {}, 6),
    ]
    rows = []
    for gated, plain, knobs, images in pairs:
        data = random_images(images * BATCH)
        networks = {name: create_model(name, **knobs) for name in (gated, plain)}

        def by_autograd(network=networks[gated], data=data) -> float:
            with reference_loop.plain_gates():
                return fit_speed(network, data)

        measures = {
            "plain": lambda network=networks[plain], data=data: fit_speed(network, data),
            "gated": lambda network=networks[gated], data=data: fit_speed(network, data),
            "autograd": by_autograd,
        }
        values = alternate(measures, repeats)
        macs = [count_macs(networks[name], (3, 32, 32)) for name in (gated, plain)]
        name = f"{gated} / {plain}" + "".join(f", {key} {value}" for key, value in knobs.items())
        rows.append(
            [
                name,
                f"{macs[0] / macs[1]:.2f}",
                ratio(values["plain"], values["gated"]),
                ratio(values["plain"], values["autograd"]),
            ]
        )
    header = ["networks", "MACs", "step time, fused pass", "step time, plain operations"]
    return [("The cost of SE and SK: MACs and step time relative to the plain network.", header, rows)]


def matrix_product() -> tuple[str, Callable[[], float]]:
    """A label, and a function that multiplies two square matrices and returns the achieved FLOP/s."""
    dtype = torch.bfloat16 if resolve_precision("auto") == "bf16" else torch.float32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 4096 if dtype == torch.bfloat16 or device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def product() -> float:
        started = time.perf_counter()
        (a @ b).sum().item()
        return 2 * size**3 / (time.perf_counter() - started)

    return f"{str(dtype)[6:]} {size}³", product


def roofline(repeats: int) -> list[Table]:
    kind, product = matrix_product()
    rows = []
    for name, images in {"resnet18": 2, "resnet50": 1, "resnet20": 6}.items():
        network, data = create_model(name), random_images(images * BATCH)
        per_image = 6 * count_macs(network, (3, 32, 32))  # FLOP: 2 per MAC forward, 4 backward

        def step(network=network, data=data, per_image=per_image) -> float:
            return per_image * fit_speed(network, data)

        values = alternate({"product": product, "step": step}, repeats)
        reached = [statistics.median(values[key]) / 1e9 for key in ("step", "product")]
        rows.append([name, f"{reached[0]:,.0f}", f"{reached[1]:,.0f}", ratio(values["step"], values["product"])])
    caption = f"Achieved GFLOP/s of a training step and of a {kind} matrix product."
    return [(caption, ["network", "step", "product", "ratio"], rows)]


def fast(repeats: int) -> list[Table]:
    data, batch, epoch = random_images(2 * airbench.BATCH), airbench.BATCH, airbench.IMAGES
    target, plain = "airbench94", "airbench94, plain PyTorch loop"
    recipe = load_study("fast", ROOT / "studies").recipe.model_dump() | {"epochs": 2, "first_size": None}
    networks = {target: airbench.Airbench94()} | {name: create_model(name) for name in FAST}
    kind, product = matrix_product()
    measures = {"product": product, plain: plain_airbench_seconds}
    for label, network in networks.items():
        options = {} if label == target else recipe
        measures[label] = lambda network=network, options=options: epoch / fit_speed(network, data, batch, **options)
    values = alternate(measures, repeats)
    rows = []
    for label in (target, plain, *FAST):
        macs = count_macs(networks[target if label == plain else label], (3, 32, 32))
        seconds = f"{statistics.median(values[label]):.1f}"
        relative = [ratio(values[label], values[other]) for other in (target, plain)]
        rows.append([label, f"{macs / 1e6:.0f}", seconds, *relative])
    whole = [airbench.EPOCHS * statistics.median(values[label]) for label in (target, plain)]
    caption = (
        f"The time of an epoch of {epoch:,} images of 32x32, batch size {batch}. fast, se_fast and sk_fast use their "
        "study's recipe, except its smaller images. At this rate, the "
        f"{airbench.EPOCHS} epochs of airbench94 take {whole[0]:,.0f} s in senet_lib's loop. They take {whole[1]:,.0f} "
        "s in a plain PyTorch loop, without augmentation and with glibc's default allocator settings. A "
        f"{kind} matrix product reached {statistics.median(values['product']) / 1e9:,.0f} GFLOP/s in the same run."
    )
    header = ["network", "MACs (M)", "seconds", "relative to airbench94", "relative to the plain PyTorch loop"]
    return [(caption, header, rows)]


def plain_airbench_seconds() -> float:
    """Time of an airbench94 epoch in a plain PyTorch loop, in seconds.

    Runs in a separate process, because `fit` changes glibc's allocator settings for the whole process.
    """
    command = [sys.executable, "airbench.py"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE).stdout)


def memory() -> list[Table]:
    rows = []
    for name in ("resnet20", "se_resnet20", "resnet18"):
        peaks = {}
        for speed in (reference_speed, fit_speed):
            code = (
                "import bench, resource; from senet_lib.models import create_model;"
                f"bench.{speed.__name__}(create_model({name!r}), bench.random_images({6 * BATCH}));"
                "status = open('/proc/self/status').read();"  # ru_maxrss would include the parent process
                "print(status.split('VmHWM:')[1].split()[0], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
            )
            found = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True)
            alone, worker = map(int, found.stdout.split())
            peaks[speed] = alone / 1024, worker / 1024
        (reference, worker), (own, _) = peaks[reference_speed], peaks[fit_speed]
        workers = f"{reference_loop.WORKERS} workers of up to {worker:,.0f}"
        rows.append([name, f"{reference:,.0f} + {workers}", f"{own:,.0f}"])
    caption = "Peak resident memory in MiB. Memory that a worker shares with its parent counts for both."
    return [(caption, ["network", "reference loop", "senet_lib"], rows)]


def fixed(repeats: int) -> list[Table]:
    """The time of a run minus its training time, and the import time of the networks, each in a new process."""
    rows, imports, overheads = [], [], []
    for _ in range(repeats):
        started = time.perf_counter()
        code = "from senet_lib.models import create_model, list_models; list_models(); create_model('resnet20')"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        imports.append(time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "senet_lib.running.run", "quick", "resnet20-seed0", "--limit-epochs", "1"]
            started = time.perf_counter()
            subprocess.run([*command, "--results", folder], check=True, cwd=ROOT, capture_output=True)
            whole = time.perf_counter() - started
            history = next(Path(folder).rglob("history.csv")).read_text().splitlines()
            trained = float(dict(zip(history[0].split(","), history[1].split(","), strict=True))["train_seconds"])
            overheads.append(whole - trained)
    for what, seconds in (
        ("a run without its training (kernel, imports, data, evaluation, plots)", overheads),
        ("a new process that calls create_model and list_models", imports),
    ):
        rows.append([what, f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"])
    return [("Fixed costs in seconds.", ["what", "median (min to max)"], rows)]


def scaling(repeats: int) -> list[Table]:
    tables = []
    sweeps = {
        "Batch size, ResNet-20": [(f"{batch}", "resnet20", {}, batch) for batch in (32, 64, 128, 256, 512, 1024)],
        "Width, ResNet-20": [(f"{width:g}", "resnet20", {"width": width}, BATCH) for width in (0.5, 1, 2)],
        "Depth": [(name, name, {}, BATCH) for name in ("resnet20", "resnet32", "resnet44", "resnet56")],
    }
    for caption, cases in sweeps.items():
        networks = {label: create_model(name, **knobs) for label, name, knobs, _ in cases}
        measures = {
            label: lambda network=networks[label], batch=batch: fit_speed(
                network, random_images(max(512, batch)), batch
            )
            for label, _, _, batch in cases
        }
        values = alternate(measures, repeats)
        macs = {label: count_macs(networks[label], (3, 32, 32)) / 1e6 for label in networks}
        rows = [
            [label, f"{macs[label]:.1f}", median(rate), f"{macs[label] * statistics.median(rate) / 1e3:.1f}"]
            for label, rate in values.items()
        ]
        header = [caption.split(",")[0].lower(), "MACs (M)", "images/s", "GMAC/s, forward pass only"]
        tables.append((f"{caption}.", header, rows))
    return tables


def study_of(seeds: int, folder: Path) -> Path:
    """A results folder with three networks and any number of seeds: the published runs of `thin`, repeated."""
    source = ROOT / "results" / "published" / "thin"
    study = read_json(source / "study.json")
    labels, runs = ("resnet20", "se_resnet20", "sk_resnet20"), []
    for seed in range(seeds):
        for run in study["runs"]:
            if run["label"] in labels and run["seed"] == study["seeds"][seed % len(study["seeds"])]:
                runs.append({**run, "seed": seed, "run_id": f"{run['label']}-seed{seed}"})
                shutil.copytree(source / "runs" / run["run_id"], folder / "runs" / runs[-1]["run_id"])
    networks = {label: study["networks"][label] for label in labels}
    changes = {"name": "bench", "seeds": list(range(seeds)), "runs": runs, "networks": networks, "comparisons": []}
    write_json(folder / "study.json", {**study, **changes})
    return folder


def analysis() -> list[Table]:
    rows = []
    for seeds in (1, 10, 100):
        with tempfile.TemporaryDirectory() as folder:
            study = study_of(seeds, Path(folder))
            code = (
                "import resource, sys, time; from senet_lib.report.build import build_report;"
                f"started = time.perf_counter(); report = build_report({str(study)!r});"
                "print(time.perf_counter() - started, report.stat().st_size,"
                "max(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]),"
                "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))"
            )
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
            seconds, size, peak = map(float, done.stdout.split()[-3:])
            rows.append([str(3 * seeds), f"{seconds:.0f}", f"{size / 2**20:.1f}", f"{peak / 1024:,.0f}"])
    header = ["runs", "seconds", "report (MiB)", "peak memory of a process (MiB)"]
    return [("Rendering the report of a study: three networks, 10,000 predictions per run.", header, rows)]


def scale() -> list[Table]:
    tables = [large.overheads()]
    with tempfile.TemporaryDirectory() as folder:
        tables.append(large.report(study_of(large.RUNS // 3, Path(folder)), 3 * (large.RUNS // 3)))
    with tempfile.TemporaryDirectory() as folder:
        tables.append(large.large_folder(study_of(large.LARGE_FOLDER // 3, Path(folder))))
    return [*tables, large.estimate()]


SECTIONS = {
    "steps": steps,
    "data": data,
    "gates": gates,
    "roofline": roofline,
    "fast": fast,
    "memory": memory,
    "fixed": fixed,
    "scaling": scaling,
    "grouped": grouped.measure,
    "analysis": analysis,
    "scale": scale,
    "accuracy": accuracy.measure,
}
ONCE = {"memory": "measured once", "analysis": "measured once", "scale": "measured once", "accuracy": "each seed once"}
SLOW = "accuracy"  # takes about 45 minutes, so it runs only when named
GPU = "gpu"  # writes its page row by row within a time limit
RESULTS = HERE / "results"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = (*SECTIONS, GPU)
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"{', '.join(known)}; default: all except {SLOW}, and {GPU} only where there is a CUDA GPU",
    )
    of_repeats = f"measurements per value, not in {', '.join(ONCE)}; default: %(default)s"
    parser.add_argument("--repeats", type=int, default=3, help=of_repeats)
    parser.add_argument("--minutes", type=float, default=gpu.MINUTES, help=f"time limit of {GPU}; default: %(default)g")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the pages; default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help=f"run {GPU} in small on any device, as a test of its code")
    options = parser.parse_args(arguments)
    if unknown := set(options.sections) - set(known):
        parser.error(f"unknown section {min(unknown)!r}; known: {', '.join(known)}")
    if options.tiny and options.results == RESULTS:
        parser.error("--tiny measures nothing worth keeping; name another folder with --results")
    found_gpu = torch.cuda.is_available()
    record = environment_record()
    machine = (
        f"{record['processor']}, {record['cores']} cores, {torch.get_num_threads()} threads, "
        f"{resolve_precision('auto')}, torch {record['versions']['torch']}"
    )
    for name in options.sections or [*(name for name in SECTIONS if name != SLOW), *([GPU] if found_gpu else [])]:
        page = options.results / f"{name}.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        if name == GPU and not found_gpu and not options.tiny:
            print(gpu.no_gpu(page), flush=True)
            continue
        started = time.perf_counter()
        if name == GPU:
            states, note = gpu.measure(options.minutes, options.tiny), "."
        elif name in ONCE:
            states, note = [SECTIONS[name]()], f"; {ONCE[name]}."
        else:
            states, note = [SECTIONS[name](options.repeats)], f"; {options.repeats} repeats."
        for tables in states:
            text = f"{markdown(tables)}\n{machine}{note}\n"
            write_text(page, text)
        print(f"{text}({name}: {time.perf_counter() - started:.0f} s)\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
