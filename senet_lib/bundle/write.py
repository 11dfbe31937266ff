"""Write a bundle: a folder with the project, its data and the wheels that another machine lacks, in parts.

run.sh               what to start there
SHA256SUMS           the digests of the parts
payload.tar.gz.001   the first of the parts, which joined are a tar file:
    bundle.json      what to run
    needs.txt        the packages that runs need
    project/         the library, the notebooks, the studies
    wheels/          packages for that machine
    data/            the data set (not for digits, which scikit-learn has)
    results/         finished runs, and checkpoints if asked for
"""

import argparse
import gzip
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from senet_lib.bundle import wheels
from senet_lib.data.catalog import DATASETS, FOLDER
from senet_lib.errors import UserError
from senet_lib.files import naming, sha256_of, write_json, write_text
from senet_lib.project import project_root
from senet_lib.results import PUBLISHED_RUN_FILES, environment_record, is_intact
from senet_lib.running.arguments import data_root_in, data_set_in, resolve_study
from senet_lib.study import RunConfig, Study

SCRIPT, SUMS, PAYLOAD = "run.sh", "SHA256SUMS", "payload.tar.gz"
# What runs and reports need: neither results, tests, documentation nor benchmarks
PROJECT = ("senet_lib", "notebooks", "studies", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")
CHECKPOINT = ("config.json", "history.csv", "checkpoint.pt", "checkpoint.sha256")
SMALLEST_PART = 10**5
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def write_bundle(options: argparse.Namespace) -> Path:
    """Write the bundle that `options` describe, and return its folder. Raises UserError, with nothing written."""
    study, runs, results = resolve_study(options)
    size, python = part_size(options.part), python_version(options.python)
    root = project_root()
    packages = wheels.select(root, wheels.read_installed(Path(options.installed)) if options.installed else {}, python)
    target = Path(options.to or root / "build" / f"bundle-{study.name}").expanduser().absolute()
    check_target(target)
    files = project_files(root)
    with naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as place:
            content, fresh = Path(place) / "content", Path(place) / "bundle"
            fresh.mkdir()
            _gather(content, root, files)
            _add_data(content, study, options)
            sent = _add_results(content, runs, results, options.checkpoints)
            print(f"packages for that machine: {', '.join(entry.name for entry in packages) or 'none'}", flush=True)
            wheels.download(packages, python, content / "wheels")
            write_text(content / "needs.txt", "\n".join(wheels.requirements(root)) + "\n")
            facts = {"study": _study_argument(options.study), "name": study.name, "data_set": study.data, "sent": sent}
            facts["data"] = options.data if data_set_in(options.data) else ""
            write_json(content / "bundle.json", {**facts, "limit_epochs": options.limit_epochs})
            _write_parts(content, fresh / PAYLOAD, size)
            script = Path(__file__).with_name(SCRIPT).read_text(encoding="utf-8").replace("@PYTHON@", python)
            write_text(fresh / SCRIPT, script)
            write_text(fresh / SUMS, "".join(f"{sha256_of(part)}  {part.name}\n" for part in parts_of(fresh)))
            for line in _contents(content):
                print(line)
            if target.exists():
                shutil.rmtree(target)
            fresh.rename(target)
    return target


def parts_of(folder: Path) -> list[Path]:
    """The parts of a bundle's payload, in the order in which they are joined: .999 before .1000."""
    return sorted(folder.glob(f"{PAYLOAD}.*"), key=lambda part: int(part.suffix[1:]))


def check_target(folder: Path) -> None:
    """Raise UserError if `folder` holds anything but a bundle, which is replaced."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"TO={folder} is a file: name another folder")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    if other := sorted(name for name in names if name not in (SCRIPT, SUMS) and not name.startswith(f"{PAYLOAD}.")):
        raise UserError(f"TO={folder} holds {other[0]}, which is not of a bundle: move it away, or name another folder")


def part_size(text: str) -> int:
    """The bytes in '60M'. Raises UserError."""
    found = re.fullmatch(r"(\d{1,12})([KMG]?)B?", text.upper(), re.ASCII)
    size = int(found[1]) * UNITS[found[2]] if found else 0
    if size < SMALLEST_PART:
        raise UserError(f"PART is {text[:40] or 'empty'}; allowed: a size from 100K up, such as 60M")
    return size


def python_version(text: str) -> str:
    """'3.12' from PYTHON=3.12; this Python's without one. Raises UserError."""
    if not text:
        return ".".join(platform.python_version_tuple()[:2])
    if not (found := re.fullmatch(r"3\.(\d{1,2})", text, re.ASCII)) or int(found[1]) < 11:
        raise UserError(f"PYTHON is {text[:40]}; allowed: that machine's version, 3.11 or newer, such as 3.12")
    return text


def project_files(root: Path) -> list[PurePosixPath]:
    """The project's files in their present state that git tracks, or would with the next commit. Raises UserError."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PROJECT]
    try:
        listed = subprocess.run(command, check=True, capture_output=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{root} is no git checkout, which tells the project's files from others: clone it") from error
    files = sorted({PurePosixPath(name) for name in listed if name and (root / name).is_file()})
    if PurePosixPath("senet_lib/cli.py") not in files:
        raise UserError(f"{root} does not hold the library senet_lib: start this in the project's checkout")
    return files


def _gather(content: Path, root: Path, files: list[PurePosixPath]) -> None:
    project = content / "project"
    for name in files:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, project / name)
    record = environment_record()
    # What an editable install leaves: from it, runs there record the library's version
    facts = f"Metadata-Version: 2.1\nName: senet-lib\nVersion: {record['versions']['senet-lib'] or '0'}\n"
    write_text(project / "senet_lib.egg-info" / "PKG-INFO", facts)
    write_text(project / "COMMIT", f"{record['git_commit'] or ''}\n")


def _study_argument(study: str) -> str:
    """How the study is called there: a file comes from a folder of its own."""
    return f"studies/{Path(study).name}" if study.endswith((".yaml", ".yml")) else study


def _add_data(content: Path, study: Study, options: argparse.Namespace) -> None:
    """Check the study's data set, and copy it in a compact form. A study given as a file goes along."""
    from senet_lib.data import load_dataset
    from senet_lib.data.load import image_folder
    from senet_lib.running.inputs import check_inputs

    if options.study.endswith((".yaml", ".yml")):
        shutil.copyfile(options.study, content / "project" / _study_argument(options.study))
    root = data_root_in(options.data)
    data = load_dataset(study.data, root)
    check_inputs(study.runs(), data)
    folder = content / "data"
    if study.data == "fashion_mnist":
        for path in _fashion_mnist_files(root):
            folder.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / path.name)
    elif study.data.startswith(FOLDER):
        path = PurePosixPath(study.data.removeprefix(FOLDER))
        if path.is_absolute() or ".." in path.parts or str(path).startswith("~"):
            raise UserError(f"{study.data} is a place of this machine; give a path in the project: folder:data/NAME")
        source = image_folder(str(path), root)
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        (content / "project" / path).parent.mkdir(parents=True, exist_ok=True)
        copy(source, content / "project" / path)
    elif study.data != "digits":
        from senet_lib.bundle.images import write_sheets

        print(f"{study.data}: compressing {DATASETS[study.data].train_images:,} images and the test set", flush=True)
        write_sheets(data, folder)


def _fashion_mnist_files(root: str | None) -> list[Path]:
    from senet_lib.data.fashion_mnist import DEBIAN_FOLDER, find_fashion_mnist
    from senet_lib.data.sources import search_paths

    found = (find_fashion_mnist(path) for path in (*search_paths("fashion_mnist", root), DEBIAN_FOLDER))
    return [Path(state[0]) for state in next(filter(None, found)).state]


def _add_results(content: Path, runs: list[RunConfig], results: Path, checkpoints: bool) -> list[str]:
    """Copy the finished runs, which are not trained again there, without weights; return their hashes. checkpoints:
    with what the unfinished ones need to be resumed."""
    done = []
    for run in runs:
        source, target = (place / "runs" / run.run_id for place in (results, content / "results" / results.name))
        names = CHECKPOINT if checkpoints else ()
        if is_intact(source, run.hash):
            done.append(run.hash)
            names = PUBLISHED_RUN_FILES
        for name in names:
            if (source / name).is_file():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, target / name)
    return done


class _Parts:
    """A file to write that is cut into `<path>.001`, `<path>.002`, ... of at most `size` bytes."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.number = self.room = 0
        self.file = None

    def write(self, content: bytes) -> int:
        start = 0
        while start < len(content):
            if not self.room:
                self.close()
                self.number, self.room = self.number + 1, self.size
                self.file = open(f"{self.path}.{self.number:03d}", "wb")  # noqa: SIM115 closed below
            start += (written := self.file.write(content[start : start + self.room]))
            self.room -= written
        return len(content)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        if self.file:
            self.file.close()


def _write_parts(content: Path, path: Path, size: int) -> None:
    parts = _Parts(path, size)
    # Level 1: wheels and images are compressed already
    with (
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=parts, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        for name in sorted(entry.name for entry in content.iterdir()):
            archive.add(content / name, arcname=name, filter=_anonymous)
    parts.close()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _contents(content: Path) -> list[str]:
    """A line with the size of each part of the content."""
    lines = []
    for name in ("project", "wheels", "data", "results"):
        files = [path for path in (content / name).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        lines.append(f"  {name:<8} {size / 1e6:6.1f} MB, {len(files)} files")
    return lines
