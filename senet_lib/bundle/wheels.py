"""Which wheels another machine lacks, from its list of packages, and their download in the locked versions.

pip resolves for the machine that it runs on, and would fetch gigabytes of PyTorch that the other machine has. So the
requirements are followed here, through the metadata of the packages installed here, until something is installed there.
"""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from senet_lib.errors import UserError
from senet_lib.files import write_text

# What the platform tags of a wheel may say: glibc of 2014 (CentOS 7) to 2.34 (2021)
PLATFORMS = ("manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 35)))
NOT_FOR_RUNS = {"jupyterlab"}  # opens notebooks; runs and reports only execute them


@dataclass(frozen=True)
class Locked:
    """An entry of requirements.lock. hashes: its lines with hashes."""

    name: str
    version: str
    hashes: str


def environment(python: str, machine: str = "x86_64") -> dict[str, str]:
    """The variables of requirement markers on a Linux machine with this version of Python."""
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",  # the oldest of them: what it needs, the others accept
        "python_version": python,
        "sys_platform": "linux",
    }


def requirements(project: Path) -> list[str]:
    """What runs and reports need, from pyproject.toml."""
    content = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*content["dependencies"], *content["optional-dependencies"]["lab"]]
    return [line for line in listed if canonicalize_name(Requirement(line).name) not in NOT_FOR_RUNS]


def read_installed(path: Path) -> dict[str, str]:
    """name -> version from the output of `pip list --format=freeze`. Raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"INSTALLED={path} cannot be read ({error})") from error
    installed = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, version = line.strip().partition("==")
        try:
            installed[canonicalize_name(name, validate=True)] = str(Version(version))
        except (InvalidVersion, ValueError) as error:
            how = "write it with `python3 -m pip list --format=freeze`"
            said = f"line {number} is {line.strip()[:40]!r}, not name==version"
            raise UserError(f"INSTALLED={path}: {said}; {how}") from error
    if not installed:
        raise UserError(f"INSTALLED={path} lists no package; write it with `python3 -m pip list --format=freeze`")
    return installed


def read_lock(path: Path, variables: Mapping[str, str]) -> dict[str, Locked]:
    """name -> its entry of requirements.lock for the machine with these marker variables."""
    locked = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", path.read_text(encoding="utf-8").strip()):
        first, _, hashes = entry.partition(" \\\n")
        requirement = Requirement(first)
        if requirement.marker is None or requirement.marker.evaluate(dict(variables)):
            version = next(iter(requirement.specifier)).version
            locked[canonicalize_name(requirement.name)] = Locked(requirement.name, version, hashes)
    return locked


def missing(
    wanted: list[str],
    installed: Mapping[str, str],
    locked: Mapping[str, Locked],
    variables: Mapping[str, str],
    requires: Callable[[str], list[str] | None] = importlib.metadata.requires,
) -> list[Locked]:
    """The locked packages that satisfy the requirements `wanted` beside the `installed` ones, with what they need.

    requires: the requirements of a package in its locked version. Raises UserError if the lock lacks a package.
    """
    chosen: dict[str, Locked] = {}
    followed: set[tuple[str, frozenset[str]]] = set()
    left = [(Requirement(line), "") for line in wanted]
    while left:
        requirement, extra = left.pop()
        if requirement.marker and not requirement.marker.evaluate({**variables, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        there = installed.get(name)
        satisfied = there is not None and requirement.specifier.contains(there, prereleases=True)
        if satisfied and name not in chosen and not requirement.extras:
            continue
        if not satisfied and name not in chosen:
            if name not in locked:
                raise UserError(f"{name} is not in requirements.lock; write it again with `make lock`")
            chosen[name] = locked[name]
        if (step := (name, frozenset(requirement.extras))) in followed:
            continue
        followed.add(step)
        try:
            lines = requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # needed on that machine alone
            lines = []
        for line in lines:
            try:
                left += [(Requirement(line), each) for each in ("", *requirement.extras)]
            except InvalidRequirement:  # metadata of an old package
                continue
    return sorted(chosen.values(), key=lambda entry: entry.name)


def select(project: Path, installed: Mapping[str, str], python: str) -> list[Locked]:
    """The packages to send. Without a PyTorch there, these are all locked ones: its GPU libraries are known only to the
    lock."""
    variables = environment(python)
    locked = read_lock(project / "requirements.lock", variables)
    chosen = missing(requirements(project), installed, locked, variables)
    return list(locked.values()) if any(entry.name == "torch" for entry in chosen) else chosen


def download(packages: list[Locked], python: str, folder: Path, machine: str = "x86_64") -> None:
    """Download the wheels of these packages into `folder`. Raises UserError with pip's reason."""
    folder.mkdir(parents=True, exist_ok=True)
    if not packages:
        return
    listed = folder.with_name(f"{folder.name}.txt")
    write_text(listed, "".join(f"{entry.name}=={entry.version} \\\n{entry.hashes}\n" for entry in packages))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", str(listed)]
    command += ["--dest", str(folder), "--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_{machine}"]
    done = subprocess.run(command, capture_output=True, text=True)
    listed.unlink()
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
        raise UserError(f"the wheels could not be downloaded: {said[-1].removeprefix('ERROR: ')}")
