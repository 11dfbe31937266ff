"""Carry a study to a machine without internet access, and bring its finished runs back: `make bundle`, `make unpack`.

    python -m senet_lib.bundle write quick --part 60M --python 3.12 --installed pip-list.txt --to bundle
    python -m senet_lib.bundle unpack out

Exit codes: 0 done; 2 bad input, nothing written; 1 a damaged file or run was refused, or another failure.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from senet_lib.bundle import packs
from senet_lib.errors import UserError
from senet_lib.process import leave_ascii
from senet_lib.project import project_root
from senet_lib.running.arguments import OneLineParser, study_options


def write(options: argparse.Namespace) -> int:
    from senet_lib.bundle.write import SCRIPT, SUMS, parts_of, write_bundle  # imports torch to read the data set

    folder = write_bundle(options)
    for path in (folder / SUMS, *parts_of(folder), folder / SCRIPT):
        print(f"  {path.name:<20} {path.stat().st_size / 1e6:6.1f} MB")
    print(f"bundle: {os.path.relpath(folder)}; carry it to the other machine and start `bash run.sh` there")
    return 0


def run(options: argparse.Namespace) -> int:
    from senet_lib.bundle import there

    return there.run(options)


def unpack(options: argparse.Namespace) -> int:
    results = (options.results or project_root() / "results").resolve()
    taken = packs.take(options.sources, results)
    for name, why in taken.refused.items():
        print(f"refused: {name}: {why}", file=sys.stderr)
    print(f"{len(taken.new)} finished runs taken, {len(taken.known)} were here already")
    for selected in taken.studies.values():
        print(
            f"`make report {selected}` renders the report; `make publish {selected}` keeps the seeds that all networks"
            f" have finished, `make archive {selected}` every finished run; `make reproduce {selected}` trains the rest"
        )
    return 1 if taken.refused else 0


def main(arguments: list[str] | None = None) -> int:
    parser = OneLineParser(prog="python -m senet_lib.bundle", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser("write", help="write a study, its data and the missing packages into a folder")
    study_options(sub)
    sub.add_argument("--part", default="60M", help="the largest file, for example 60M")
    sub.add_argument("--python", default="", help="the other machine's version of Python, such as 3.12")
    sub.add_argument("--installed", default="", help="its `pip list --format=freeze`; default: nothing is there")
    sub.add_argument("--to", default="", help="the folder to write; default: build/bundle-STUDY")
    sub.add_argument("--checkpoints", action="store_true", help="with the checkpoints of unfinished runs")
    sub.set_defaults(command=write)
    sub = commands.add_parser("run", help="on the other machine: what run.sh starts")
    for name in ("--bundle", "--work", "--out"):
        sub.add_argument(name, type=Path, required=True)
    sub.add_argument("--started", type=int, default=round(time.time()))
    for name in ("--time-limit", "--jobs", "--threads", "--device"):
        sub.add_argument(name)
    sub.add_argument("--weights", action="store_true")
    sub.set_defaults(command=run)
    sub = commands.add_parser("unpack", help="take the finished runs that were brought back")
    sub.add_argument("sources", nargs="*", help="the folder `out` of run.sh, or files from it")
    sub.add_argument("--results", type=Path, default=None, help="results folder; default: the project's results/")
    sub.set_defaults(command=unpack)
    options = parser.parse_args(arguments)
    try:
        return options.command(options)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    leave_ascii()
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.exit(main())
