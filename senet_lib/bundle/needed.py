"""On the other machine: whether the packages that runs need are installed.

    python -m senet_lib.bundle.needed needs.txt

Prints those that are missing or too old, and then exits with code 1. Imports the standard library and packaging alone.
"""

import importlib.metadata
import sys
from pathlib import Path


def lacking(wanted: list[str]) -> list[str]:
    """The requirements `wanted` that are not satisfied, and the packages that these need, directly or through others,
    and that are not installed. A version that an installed package asks of another is not checked."""
    from packaging.requirements import Requirement

    found, seen = [], set()
    left = [(line, "", True) for line in wanted]
    while left:
        line, extra, direct = left.pop()
        requirement = Requirement(line)
        key = requirement.name, frozenset(requirement.extras)
        if (requirement.marker and not requirement.marker.evaluate({"extra": extra})) or (key in seen and not direct):
            continue
        seen.add(key)
        try:
            there = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(line)
            continue
        if direct and not requirement.specifier.contains(there.version, prereleases=True):
            found.append(f"{line} (here: {there.version})")
        left += [(needed, each, False) for needed in there.requires or () for each in ("", *requirement.extras)]
    return sorted(found)


def main(listed: Path) -> int:
    try:
        found = lacking(listed.read_text(encoding="utf-8").split("\n")[:-1])
    except ModuleNotFoundError as error:
        found = [str(error.name)]
    for line in found:
        print(f"missing: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
