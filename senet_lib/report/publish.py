"""Stores finished studies in the repository, and restores them as finished runs.

results/published/<study>/     a study that answers a reader's question: numbers, predictions, the report
results/archive/<study>.zip    any other study that was run, as one file: its runs' own files, byte for byte

A study in progress may have both: published seeds, and an archive that also has the runs of incomplete seeds.
"""

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from senet_lib.files import as_json, replacing, unpacked, write_json, write_text
from senet_lib.project import project_root
from senet_lib.report.build import NOTEBOOK as EXECUTED
from senet_lib.report.build import build_report
from senet_lib.report.links import study_page, with_source_links_in_markdown, with_study_links
from senet_lib.results import (
    EXAMPLES,
    NOTEBOOK,
    PUBLISHED_RUN_FILES,
    WEIGHTS,
    StudyResults,
    altered_files,
    is_done,
    is_intact,
    load_results,
    read_study,
)
from senet_lib.running.run import put_in_place, relabelled, run_lock
from senet_lib.study import RunConfig, Study, StudyError

REPORT = "report.md"  # the report as a page for a code host and the site
MOST_WEIGHTS = 2 * 2**20  # bytes; larger final weights are not published, even of a network's first seed


def published_folder(name: str) -> Path:
    return project_root() / "results" / "published" / name


def archive_file(name: str) -> Path:
    return project_root() / "results" / "archive" / f"{name}.zip"


def committed(root: Path) -> list[StudyResults]:
    """The published studies below a project's root, then those that are only archived, each sorted by name."""
    folders = sorted(path.parent for path in (root / "results" / "published").glob("[!.]*/study.json"))
    published = {folder.name for folder in folders}
    archives = sorted(path for path in (root / "results" / "archive").glob("*.zip") if path.stem not in published)
    return [load_results(path) for path in (*folders, *archives)]


def committed_results(name: str) -> StudyResults | None:
    """The stored results of a study; None if the repository has none."""
    for path in (published_folder(name), archive_file(name)):
        if path.exists():
            return load_results(path)
    return None


def publish(study: Study, runs: list[RunConfig], folder: Path) -> Path:
    """Copy a study from its results `folder` to results/published/<study>/.

    Copies only runs whose seed every network has finished, so that all networks have the same seeds, and figures and
    tables of these runs alone. Copies the final weights of each network's first seed if they are small. In the study's
    archive only the runs that are not published stay; without any, it is deleted. Raises StudyError if no seed is
    complete, or if a stored run would be lost.
    """
    complete = complete_seeds(study, runs, folder / "runs")
    if not complete:
        left = [run.run_id for run in runs if not is_intact(folder / "runs" / run.run_id, run.hash)]
        raise StudyError(f"{study.name} has no seed that all of its networks have finished; missing: {', '.join(left)}")
    _keep_stored(study, runs, folder)
    target = published_folder(study.name)
    fresh = target.with_name(f".{study.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    write_json(fresh / "study.json", as_configured(study, folder))
    _copy(folder / EXAMPLES, fresh / EXAMPLES)
    for run in runs:
        if run.seed not in complete:
            continue
        for name in PUBLISHED_RUN_FILES:
            _copy(folder / "runs" / run.run_id / name, fresh / "runs" / run.run_id / name)
        weights = folder / "runs" / run.run_id / WEIGHTS
        if run.seed == study.seeds[0] and weights.is_file() and weights.stat().st_size <= MOST_WEIGHTS:
            _copy(weights, fresh / "runs" / run.run_id / WEIGHTS)
    import nbformat  # both imported here: other commands need no notebook

    from senet_lib.report.markdown_page import to_markdown_page

    build_report(fresh)
    page = to_markdown_page(nbformat.read(fresh / EXECUTED, as_version=4), fresh)
    others = {results.study["name"]: f"../../{study_page(results.study)}" for results in committed(project_root())}
    page = with_study_links(page, others, but=[study.name, *study.networks])
    write_text(fresh / REPORT, with_source_links_in_markdown(page))
    for path in (*fresh.glob("*.*"), *fresh.glob("figures/*"), *fresh.glob("tables/*")):
        if path.name not in ("study.json", EXAMPLES, REPORT) and path.suffix not in (".svg", ".csv"):
            path.unlink()
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    if archive_file(study.name).is_file():
        archived = load_results(archive_file(study.name))
        finished = set(archived.done["run_id"])
        hashes = {run["config_hash"] for run in archived.study["runs"] if run["run_id"] in finished}
        rest = _finished([run for run in runs if run.seed not in complete], folder)
        if hashes <= {run.hash for run in runs}:  # otherwise it has runs of another configuration
            if rest:
                _pack(rest, folder, as_configured(study, folder), archive_file(study.name))
            else:
                archive_file(study.name).unlink()
    return target


def complete_seeds(study: Study, runs: list[RunConfig], runs_folder: Path) -> list[int]:
    """The seeds for which every network has a finished, unaltered run."""
    missing = {run.seed for run in runs if not is_intact(runs_folder / run.run_id, run.hash)}
    return [seed for seed in study.seeds if seed not in missing]


def archive(study: Study, runs: list[RunConfig], folder: Path) -> Path:
    """Pack the finished runs of a results `folder` into results/archive/<study>.zip, without weights, figures and
    tables. The file's bytes depend only on its content. Raises StudyError if no run is finished, or if a stored run
    would be lost."""
    content, target = as_configured(study, folder), archive_file(study.name)
    if not (finished := _finished(runs, folder)):
        raise StudyError(f"no run of {study.name}, as it is configured now, is finished in {folder}")
    _keep_stored(study, runs, folder)
    _pack(finished, folder, content, target)
    return target


def _finished(runs: list[RunConfig], folder: Path) -> list[str]:
    """The ids of the runs that are finished and unaltered in a results folder."""
    return [run.run_id for run in runs if is_intact(folder / "runs" / run.run_id, run.hash)]


def _pack(finished: list[str], folder: Path, content: dict[str, Any], target: Path) -> None:
    """Pack these runs of a results folder, with `content` as study.json."""
    members = [f"runs/{run}/{file}" for run in finished for file in PUBLISHED_RUN_FILES]
    with replacing(target) as file, zipfile.ZipFile(file, "w") as packed:
        packed.writestr(zipfile.ZipInfo("study.json"), as_json(content), zipfile.ZIP_DEFLATED)
        for member in members:
            if (folder / member).is_file():
                kind = zipfile.ZIP_STORED if member.endswith(".npz") else zipfile.ZIP_DEFLATED
                packed.writestr(zipfile.ZipInfo(member), (folder / member).read_bytes(), kind)


def as_configured(study: Study, folder: Path) -> dict[str, Any]:
    """study.json of a results folder for the study as its file is now, which may have new seeds and notes."""
    known = read_study(folder)
    return study.record(known["classes"], known.get("fingerprints"))


def _keep_stored(study: Study, runs: list[RunConfig], folder: Path) -> None:
    """Raise StudyError if a published or archived run is not in the results `folder`, whose runs replace them. A run is
    found by its config hash, so also under an earlier label."""
    stored: set[str] = set()
    with stored_folders(study.name) as places:
        for kept in places:
            earlier = relabelled(runs, kept)
            stored |= {run.run_id for run in runs if is_intact(_kept(run, kept, earlier), run.hash)}
    there = set(_finished(runs, folder))
    lost = [run.run_id for run in runs if run.run_id in stored - there]
    if lost:
        raise StudyError(
            f"{', '.join(lost)}: published or archived, but not in {folder}, whose runs would replace the stored ones;"
            f" `make restore STUDY={study.name}` brings them here"
        )


def _kept(run: RunConfig, folder: Path, earlier: Mapping[str, Path]) -> Path:
    """Where a stored results folder has a run; `earlier`: `relabelled` of that folder."""
    return earlier.get(run.run_id, folder / "runs" / run.run_id)


@contextmanager
def stored_folders(name: str) -> Iterator[list[Path]]:
    """The folders, laid out like results/<study>/, with a study's stored results: the published one and, temporarily
    unpacked, the archived one; none if neither exists."""
    with ExitStack() as stack:
        found = [published_folder(name)] if published_folder(name).is_dir() else []
        if archive_file(name).is_file():
            found.append(stack.enter_context(unpacked(archive_file(name))))
        yield found


def restore(study: Study, runs: list[RunConfig], folder: Path) -> list[str]:
    """Copy a study's published and archived runs to its results `folder` as finished runs; returns the ids copied.

    A run is found by its config hash, so also under an earlier label. Runs that are finished there are left unchanged;
    a folder of the same name that is no intact run of this configuration is renamed. Raises StudyError if no run of the
    study is stored.
    """
    with stored_folders(study.name) as places:
        stored, damaged = {}, {}
        for kept in places:
            earlier = relabelled(runs, kept)
            for run in runs:
                place = _kept(run, kept, earlier)
                if is_intact(place, run.hash):
                    stored.setdefault(run.run_id, place)
                elif is_done(place, run.hash):
                    names = sorted(set(altered_files(place)) - {NOTEBOOK, WEIGHTS}) or [WEIGHTS]
                    damaged[run.run_id] = ", ".join(names)
        for run_id, names in damaged.items():
            if run_id not in stored:
                print(f"{run_id}: not restored, since the stored {names} is damaged; restore it from git")
        if not stored:
            raise StudyError(f"no finished run of {study.name}, as it is configured now, is published or archived")
        existing = relabelled(runs, folder)
        new = []
        for run in runs:
            run_dir = folder / "runs" / run.run_id
            if run.run_id not in stored or is_intact(existing.get(run.run_id, run_dir), run.hash):
                continue
            run_dir.parent.mkdir(parents=True, exist_ok=True)
            with run_lock(run_dir):
                if is_intact(run_dir, run.hash):  # by another process
                    continue
                beside = run_dir.with_name(f".{run.run_id}.restoring")
                shutil.rmtree(beside, ignore_errors=True)
                for name in (*PUBLISHED_RUN_FILES, WEIGHTS):
                    _copy(stored[run.run_id] / name, beside / name)
                put_in_place(beside, run_dir)
            new.append(run.run_id)
        if not (folder / "study.json").exists():  # so that `report` needs no data set
            write_json(folder / "study.json", as_configured(study, places[0]))
        for kept in places:
            if not (folder / EXAMPLES).exists():
                _copy(kept / EXAMPLES, folder / EXAMPLES)
    return new


def _copy(source: Path, target: Path) -> None:
    """Copy a file's content, if there is such a file, but not its permissions, which some file systems refuse."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
