"""Plan a study, execute its runs, render its report, publish or archive its results: the commands behind `make`.

    python -m senet_lib.cli reproduce quick --jobs 2
    python -m senet_lib.cli plan source_a
    python -m senet_lib.cli report quick
    python -m senet_lib.cli publish thin
    python -m senet_lib.cli archive thin
    python -m senet_lib.cli restore thin
    python -m senet_lib.cli verify thin

Exit codes: 0 done, or stopped at the time limit; 2 bad input, found before anything is started or written; 130, 143
stopped by Ctrl-C, SIGTERM; 1 any other failure. If a run fails, the others are executed first.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from senet_lib.errors import DamagedFile, UserError
from senet_lib.files import check_writable, read_arrays, read_record, set_aside, write_json
from senet_lib.process import SUPERVISED, die_with_parent, leave_ascii
from senet_lib.report import publish as publishing
from senet_lib.report.build import build_report
from senet_lib.report.html_page import ReportError
from senet_lib.results import (
    EXAMPLES,
    NOTEBOOK,
    WEIGHTS,
    StudyResults,
    altered_files,
    is_intact,
    load_results,
    read_study,
)
from senet_lib.running import create_executor
from senet_lib.running.arguments import (
    OneLineParser,
    data_root_in,
    executor_options,
    read_executor_options,
    resolve_study,
    study_options,
    time_limit,
)
from senet_lib.running.run import keep_relabelled, relabelled
from senet_lib.running.time_limit import TimeLimit
from senet_lib.study import RunConfig, Study

if TYPE_CHECKING:
    from senet_lib.data import Dataset
    from senet_lib.running.executor import Executor


def reproduce(options: argparse.Namespace) -> int:
    study, runs, folder = resolve_study(options)
    earlier = relabelled(runs, folder)
    pending = unfinished(runs, folder, earlier)
    known = None if pending else known_data(study, folder)
    if known is None:
        from senet_lib.data import load_dataset
        from senet_lib.running.inputs import check_inputs

        data = load_dataset(study.data, data_root_in(options.data))
        check_inputs(runs, data)
        known = data.classes, data.fingerprints
    with create_executor(options, folder) as executor:
        if pending:  # check before training, not after
            run_dirs = [folder / "runs" / run.run_id for run in pending]
            for place in (folder, folder / "runs", *filter(Path.exists, run_dirs)):
                check_writable(place)
            executor.check(pending)
        for run in runs:
            if run.run_id in earlier:
                keep_relabelled(run, runs, folder)
        write_study(folder, study.record(*known))
        print(f"{study.name}: {len(runs)} runs, {len(runs) - len(pending)} already done")
        failed = execute(executor, runs, pending, data) if pending else {}

    try:
        if not options.whole_runs:
            _save_pictures(folder, options)
            report = build_report(folder)
            print_table(load_results(folder))
            print(f"report: {_shown(report)}")
    finally:  # even if the report fails, for example on a full disk
        for run_id, why in failed.items():
            print(f"failed: {run_id}: {why}", file=sys.stderr)
        if executor.left:
            finished = f"{len(runs) - len(executor.left) - len(failed)} of {len(runs)} runs finished"
            print(f"{executor.why_left}: {finished}; the same command continues")
    return 1 if failed else 0


def execute(executor: "Executor", runs: list[RunConfig], pending: list[RunConfig], data: "Dataset") -> dict[str, str]:
    """Execute the pending runs. Return run_id -> reason for those that failed."""
    from senet_lib.running.pace import Conditions, Pace

    options = executor.options
    pace = Pace(pending, data, executor.jobs)
    here = Conditions(executor.device, executor.threads, options.devices, executor.runs_per_gpu)
    finished = [run for run in runs if run not in pending]
    for run, seconds in here.recorded(executor.folder, finished, data):
        pace.learn(run, pace.start + seconds)
    executor.pace, executor.limit = pace, options.time_limit
    return executor.execute(pending, runs)


def plan(options: argparse.Namespace) -> int:
    """Print a study's runs and their estimated cost on this machine."""
    study, runs, folder = resolve_study(options)
    left = unfinished(runs, folder, relabelled(runs, folder))
    if left:
        from senet_lib.running.inputs import check_inputs, outline

        data = outline(study.data, data_root_in(options.data))
        check_inputs(runs, data)
    print(f"{study.name}: {study.question}\n")
    recipe = study.recipe
    print(f"data {study.data}; {recipe.epochs} epochs, batch {recipe.batch_size}, {recipe.schedule}, lr {recipe.lr:g}")

    if left:
        from senet_lib.running.plan import print_estimates

        with create_executor(options, folder) as executor:
            print_estimates(executor, runs, left, data)
    else:  # the data may be absent
        print("\nNothing is left to train.")
    try:
        _print_power(study, folder)
    except DamagedFile as error:
        print(f"\nThe power of the comparisons is unknown: {error}")
    print()
    width = max(len(run.label) for run in runs)
    for run in runs:
        print(f"  {run.run_id:<{width + 8}}  {run.hash}  {'to do' if run in left else 'done'}")
    return 0


def _print_power(study: Study, folder: Path) -> None:
    """Print what the study's planned comparisons can find, at the spread of its finished runs here or published."""
    from senet_lib.analysis.power import power_lines
    from senet_lib.analysis.tables import planned_pairs, run_model

    pairs = planned_pairs(study.record())
    if not pairs:
        return
    ours = load_results(folder) if (folder / "study.json").is_file() else None
    best, source = None, ""  # of the results with the most runs
    for place, results in (("here", ours), ("published or archived", publishing.committed_results(study.name))):
        model = run_model(results) if results else None
        if model and model.sd is not None and (best is None or len(model.values) > len(best.values)):
            best, source = model, place
    print("", *power_lines(best, source, len(study.seeds), pairs, len(study.networks)), sep="\n")


def report(options: argparse.Namespace) -> int:
    study, _, folder = resolve_study(options)
    _save_pictures(_with_results(study, folder), options)
    content, known = publishing.as_configured(study, folder), read_study(folder)
    if all(run in content["runs"] for run in known["runs"]):
        write_study(folder, content)
    else:
        changed = "its file has changed since these runs were planned, and the report is of them"
        print(f"{study.name}: {changed}; `make reproduce STUDY={study.name}` trains the new ones", file=sys.stderr)
    print(f"report: {_shown(build_report(folder))}")
    return 0


def _save_pictures(folder: Path, options: argparse.Namespace) -> None:
    """Store the misclassified images that the report shows; runs of another machine come without them."""
    from senet_lib.report import pictures  # imports scipy: only after the runs

    set_aside_damaged_pictures(folder)
    pictures.save(folder, data_root_in(options.data))


def publish(options: argparse.Namespace) -> int:
    """Copy a study's published files (numbers and figures) to results/published/<study>/."""
    study, runs, folder = resolve_study(options)
    if (folder / "study.json").exists():
        read_study(folder)  # raises if it is damaged
        _save_pictures(folder, options)
    print(f"published: {_shown(publishing.publish(study, runs, folder))}")
    return 0


def archive(options: argparse.Namespace) -> int:
    """Pack a study's finished runs into results/archive/, or its published runs if it has no results here."""
    study, runs, folder = resolve_study(options)
    place = _with_results(study, folder, publishing.published_folder(study.name))
    print(f"archived: {_shown(publishing.archive(study, runs, place))}")
    return 0


def _with_results(study: Study, *folders: Path) -> Path:
    """The first of the folders that holds results. Raises UserError if none does."""
    for folder in folders:
        if (folder / "study.json").is_file():
            read_study(folder)  # raises if it is damaged
            return folder
    raise UserError(f"{_shown(folders[0])} has no results yet; `make reproduce STUDY={study.name}` writes them")


def restore(options: argparse.Namespace) -> int:
    """Copy a study's published or archived runs to its results, so that `reproduce` trains only the missing ones."""
    study, runs, folder = resolve_study(options)
    new = publishing.restore(study, runs, folder)
    print(f"restored: {len(new)} of {len(runs)} runs")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare every file of a study's finished runs, including published and archived ones, with the digest in the
    run's summary."""
    study, _, folder = resolve_study(options)
    with publishing.stored_folders(study.name) as places:
        summaries = [summary for kept in places for summary in kept.glob("runs/*/summary.json")]
        stored = {(read_record(summary) or {}).get("hash") for summary in summaries}
        counted = [_verify_runs(place, stored) for place in (folder, *places)]
    finished, damaged = (sum(numbers) for numbers in zip(*counted, strict=True))
    if not finished:
        raise UserError(f"{study.name} has no finished runs; `make reproduce STUDY={study.name}` trains them")
    print(f"{finished} finished runs, {damaged} damaged files")
    return 1 if damaged else 0


def _verify_runs(folder: Path, stored: set[str]) -> tuple[int, int]:
    """The number of finished runs in `folder`, and of their altered or missing files.

    Weights may be missing, as in runs that come from another machine. So may the notebook of a run with a `stored`
    hash, which is published or archived, and perhaps restored from there.
    """
    finished = damaged = 0
    for summary in sorted((folder / "runs").glob("[!.]*/summary.json")):
        finished += 1
        config_hash = (read_record(summary) or {}).get("hash")
        for name in altered_files(summary.parent):
            path = summary.with_name(name)
            if path.exists() or not (name == WEIGHTS or name == NOTEBOOK and config_hash in stored):
                damaged += 1
                what = "differs from its recorded digest" if path.exists() else "missing"
                print(f"{_shown(path)}: {what}", file=sys.stderr)
    return finished, damaged


def unfinished(runs: list[RunConfig], folder: Path, earlier: dict[str, Path]) -> list[RunConfig]:
    """The runs that are still to be trained. earlier: folders of runs under another label, as from `relabelled`."""
    return [run for run in runs if not is_intact(earlier.get(run.run_id, folder / "runs" / run.run_id), run.hash)]


def known_data(study: Study, folder: Path) -> tuple[list[str], dict[str, str]] | None:
    """The classes and fingerprints of the study's data, as recorded in its results here, published or archived."""
    with contextlib.ExitStack() as stack:
        places = [folder]
        with contextlib.suppress(DamagedFile):
            places += stack.enter_context(publishing.stored_folders(study.name))
        for place in places:
            with contextlib.suppress(FileNotFoundError, DamagedFile):
                known = read_study(place)
                if known["data"] == study.data and known["classes"] and known.get("fingerprints"):
                    return known["classes"], known["fingerprints"]
    return None


def write_study(folder: Path, content: dict) -> None:
    """Write study.json, unless it already has this content. A damaged one is set aside."""
    try:
        if read_study(folder) == content:
            return
    except FileNotFoundError:
        pass
    except DamagedFile as error:
        print(f"{error.path} is damaged: written again; the damaged one is kept as {set_aside(error.path).name}")
    write_json(folder / "study.json", content)


def set_aside_damaged_pictures(folder: Path) -> None:
    """Without examples.npz, the report has no pictures until `reproduce` stores them again."""
    try:
        read_arrays(folder / EXAMPLES)
    except FileNotFoundError:
        pass
    except DamagedFile as error:
        print(f"{error.path} is damaged: its pictures are not used; it is kept as {set_aside(error.path).name}")


def print_table(results: StudyResults) -> None:
    width = max(map(len, results.labels))
    print(f"\n{'network':<{width}}  {'params':>11}  {'MACs':>8}  accuracy of the last epoch")
    for label in results.labels:
        runs = results.runs[results.runs["label"] == label]
        done = runs[runs["status"] == "done"]
        if done.empty:
            print(f"{label:<{width}}  no finished run")
            continue
        accuracy = done["test_accuracy"].astype(float)
        spread = f" ± {accuracy.std():.2%} (sd)" if len(done) > 1 else ""
        missing = f", {len(runs) - len(done)} not finished" if len(done) < len(runs) else ""
        first = done.iloc[0]
        print(
            f"{label:<{width}}  {first['params']:>11,.0f}  {first['macs'] / 1e6:>7.1f}M  "
            f"{accuracy.mean():.2%}{spread}, n = {len(done)}{missing}"
        )
    print()
    if not results.study.get("verdicts", True):
        from senet_lib.analysis.sentences import NO_VERDICTS

        print(f"{NO_VERDICTS}\n")
    _print_beside_published(results)


def _print_beside_published(results: StudyResults) -> None:
    """Print these results beside the published ones, if the study has been published or archived."""
    try:
        published = publishing.committed_results(results.study["name"])
    except DamagedFile as error:
        print(f"not compared with the published results: {error}\n")
        return
    if published is not None:
        # Imports scipy, which takes a second: only if needed
        from senet_lib.analysis.against_published import beside_published

        print("these results beside the published ones (accuracy of the last epoch):")
        print("\n".join(beside_published(results, published)), end="\n\n")


def _shown(path: Path) -> str:
    """The path relative to the current folder."""
    return os.path.relpath(path)


def main(arguments: list[str] | None = None) -> int:
    parser = OneLineParser(prog="python -m senet_lib.cli", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, help_text in (
        (reproduce, "execute a study's unfinished runs, then render its report"),
        (plan, "print a study's runs and estimate their time on this machine"),
        (report, "render a study's report again"),
        (publish, "copy a study's numbers and figures to results/published/"),
        (archive, "pack a study's finished runs into results/archive/"),
        (restore, "copy a study's published or archived runs to its results, so that only missing runs are trained"),
        (verify, "compare the files of a study's finished runs with their recorded digests"),
    ):
        sub = commands.add_parser(command.__name__, help=help_text)
        study_options(sub)
        executor_options(sub)
        if command is reproduce:
            sub.add_argument("--time-limit", help="stop in time with checkpoints: a duration such as 90s, 10m or 1h30m")
            whole_runs = "for a machine whose results folder is lost: start only runs that can finish, write no report"
            sub.add_argument("--whole-runs", action="store_true", help=whole_runs)
        sub.set_defaults(command=command)
    started = time.monotonic()
    options = parser.parse_args(arguments)
    if os.environ.get("MAKELEVEL"):  # started by make: exit when make exits
        os.environ[SUPERVISED] = "1"
        die_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        read_executor_options(options)
        if limit := time_limit(getattr(options, "time_limit", None)):
            options.time_limit = TimeLimit(limit, started, options.whole_runs)
        return options.command(options)
    except (UserError, ReportError, OSError) as error:  # bad input; failed analysis; full disk or read-only folder
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except _Stopped:
        print("stopped", file=sys.stderr)
        raise


class _Stopped(SystemExit):
    """The command was stopped by a signal."""


def _stop(number: int, frame: object) -> NoReturn:
    for each in (signal.SIGTERM, signal.SIGINT):  # Ctrl-C may arrive a second time, from make
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(128 + number)


if __name__ == "__main__":
    leave_ascii()
    # Keep output and errors in order when redirected to a file; show what the encoding lacks as an escape sequence
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.exit(main())
