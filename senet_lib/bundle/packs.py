"""Finished runs as zip files of at most 16 MiB, named after their content, with a manifest; and back into results.

out/manifest.json             study, and the sha256 and the runs of each file
out/runs-<16 digits>.zip      <study>/study.json, <study>/runs/<run>/...
"""

import hashlib
import io
import json
import shlex
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from senet_lib.errors import DamagedFile, UserError
from senet_lib.files import read_json, read_record, replacing, sha256_of, unpacked, write_json
from senet_lib.results import (
    EXAMPLES,
    NOTEBOOK,
    PUBLISHED_RUN_FILES,
    SUMMARY,
    WEIGHTS,
    altered_files,
    is_done,
    is_intact,
    read_study,
)
from senet_lib.running.run import put_in_place, run_lock

MOST = 16 * 2**20  # bytes of a file: what services that lend a machine for minutes bring back
SPARE = 2**18  # of them, for study.json, examples.npz and the zip file's own table
MANIFEST = "manifest.json"
ANY_PACK = "runs-*.zip"


def finished(folder: Path, sent: Collection[str] = (), known: Collection[str] = ()) -> list[str]:
    """The run_ids of the finished, unaltered runs in a results folder, in the order in which they finished, without
    those whose config hash is in `sent`. known: runs that need not be compared with their digests again."""
    if not (folder / "study.json").is_file():
        return []
    done = []
    for planned in read_study(folder)["runs"]:
        run, config_hash = planned["run_id"], planned["config_hash"]
        run_dir = folder / "runs" / run
        if config_hash not in sent and (run in known or is_intact(run_dir, config_hash)):
            done.append(((run_dir / SUMMARY).stat().st_mtime_ns, run))
    return [run for _, run in sorted(done)]


def check_out(out: Path, study: str) -> None:
    """Raise UserError if `out` holds the packed runs of another study, which `pack` would replace."""
    if (other := (read_record(out / MANIFEST) or {}).get("study", study)) != study:
        raise UserError(f"OUT={out} holds finished runs of {other}: name another folder")


def pack(folder: Path, out: Path, runs: Iterable[str], weights: bool = False, sent: Collection[str] = ()) -> list[Path]:
    """Pack these runs of a results folder into `out`, without checkpoints; return the files. They replace those of an
    earlier call, except files with another run, unless its config hash is in `sent`.
    weights: with the final weights, unless a run would then exceed MOST."""
    groups: list[dict[str, list[Path]]] = []
    room = 0
    for run in runs:
        files = [folder / "runs" / run / name for name in (*PUBLISHED_RUN_FILES, NOTEBOOK)]
        files = [path for path in files if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        if weights and (path := folder / "runs" / run / WEIGHTS).is_file():
            if size + path.stat().st_size <= MOST - SPARE:
                files.append(path)
                size += path.stat().st_size
            else:
                print(f"{run}: its weights are not packed, since they exceed {MOST // 2**20} MiB")
        if size > room:
            groups.append({})
            room = MOST - SPARE
        groups[-1][run] = files
        room -= size
    written, manifest = [], {}
    for group in groups:
        content = _zipped(folder, [path for files in group.values() for path in files], with_examples=not written)
        digest = hashlib.sha256(content).hexdigest()
        written.append(out / f"runs-{digest[:16]}.zip")
        manifest[written[-1].name] = {"sha256": digest, "runs": list(group)}
        if not written[-1].is_file():
            with replacing(written[-1]) as file:
                file.write(content)
    old = set(out.glob(ANY_PACK)) - set(written)
    packed = {run for group in groups for run in group}
    kept = {path.name for path in old if not all(run in packed or key in sent for run, key in _runs(path))}
    listed = (read_record(out / MANIFEST) or {}).get("files")
    earlier = {name: entry for name, entry in listed.items() if name in kept} if isinstance(listed, dict) else {}
    write_json(out / MANIFEST, {"study": folder.name, "files": earlier | manifest})
    for path in old:  # only now: the manifest names complete files at all times
        if path.name not in kept:
            path.unlink()
    return written


def _runs(path: Path) -> list[tuple[str, str]]:
    """The run_id and config hash of each run in a file that `pack` has written; one without a name if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/config.json")]
            return [(name.split("/")[-2], json.loads(archive.read(name))["hash"]) for name in names]
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, KeyError, TypeError):
        return [("", "")]


def _zipped(folder: Path, files: list[Path], with_examples: bool) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in (folder / "study.json", *([folder / EXAMPLES] if with_examples else []), *files):
            if path.is_file():
                member = f"{folder.name}/{path.relative_to(folder).as_posix()}"
                compressed = path.suffix in (".npz", ".safetensors")
                kind = zipfile.ZIP_STORED if compressed else zipfile.ZIP_DEFLATED
                archive.writestr(zipfile.ZipInfo(member), path.read_bytes(), kind)  # without time: equal bytes
    return content.getvalue()


@dataclass
class Taken:
    """What `take` did. new, known: runs that were taken, and those that were done here already. refused: name of a file
    or run -> why. studies: name -> the arguments of make that select it."""

    new: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    studies: dict[str, str] = field(default_factory=dict)


def take(sources: Iterable[str], results: Path) -> Taken:
    """Take the finished runs in `sources`, folders or files that `pack` has written, into results/<study>/.

    Every file is compared with the manifest beside it, and every run with the digests in its summary. Damaged ones are
    refused, the others taken. Raises UserError if there are no files.
    """
    taken = Taken()
    packs = _packs(sources, taken)
    for path, digest in packs.items():
        if digest and sha256_of(path) != digest:
            taken.refused[path.name] = f"it is damaged: its sha256 is not the one in {MANIFEST}; bring it back again"
            continue
        try:
            with unpacked(path) as folder:
                studies = sorted(folder.glob("[!.]*/study.json"))
                for study in studies:
                    _take_study(study.parent, results / study.parent.name, taken)
                if not studies:
                    taken.refused[path.name] = "it holds no packed runs; name the folder `out`, or its files runs-*.zip"
        except DamagedFile as error:
            taken.refused[path.name] = f"it is damaged: {' '.join(str(error.__cause__ or error).split())}"
    return taken


def _packs(sources: Iterable[str], taken: Taken) -> dict[Path, str]:
    """The files to read -> their sha256 from a manifest; empty if there is none. A missing one is refused."""
    packs: dict[Path, str] = {}
    for place in _existing(sources):
        folder = place if place.is_dir() else place.parent
        listed = _manifest(folder / MANIFEST)
        if not place.is_dir():
            packs[place] = listed.get(place.name, "") if place.suffix == ".zip" else ""
            continue
        for name in sorted({*listed, *(path.name for path in folder.glob(ANY_PACK))}):
            if (folder / name).is_file():
                packs[folder / name] = listed.get(name, "")
            else:
                taken.refused[name] = f"it is missing from {folder}; bring it back, too"
    packs = {path: digest for path, digest in packs.items() if path.name != MANIFEST}
    if not packs and not taken.refused:
        raise UserError(f"no finished runs in {', '.join(sources)}: FROM is the folder `out` that run.sh has written")
    return packs


def _existing(sources: Iterable[str]) -> list[Path]:
    """Folders and files. What does not exist as it is may be several names, as in FROM="a.zip b.zip"."""
    places = []
    for source in sources:
        try:
            names = [source] if Path(source).exists() else shlex.split(source)
        except ValueError:
            names = [source]
        places += [Path(name).expanduser() for name in names]
    for place in places:
        if not place.exists():
            raise UserError(f"FROM={place} does not exist: name the folder that run.sh has written, or files from it")
    if not places:
        raise UserError("FROM is missing: make unpack FROM=folder")
    return places


def _manifest(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        files = {name: entry["sha256"] for name, entry in read_json(path)["files"].items()}
        if any(Path(name).name != name for name in files):
            raise ValueError("it names a file elsewhere")
        return files
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedFile(path, error, "bring it back again, or delete it to rely on the runs' own digests") from error


def _take_study(source: Path, target: Path, taken: Taken) -> None:
    study = read_study(source)
    if study["name"] != source.name:
        raise DamagedFile(source / "study.json", f"it is that of {study['name']}")
    variables = study.get("make_variables") or {"STUDY": study["name"]}
    taken.studies[study["name"]] = " ".join(f"{key}={shlex.quote(str(value))}" for key, value in variables.items())
    for planned in study["runs"]:
        run, config_hash = planned["run_id"], planned["config_hash"]
        if not (source / "runs" / run).is_dir():
            continue
        name = f"{study['name']}/{run}"
        if problem := _problem(source / "runs" / run, config_hash):
            taken.refused[name] = problem
            continue
        with run_lock(target / "runs" / run):
            problem = _place(source / "runs" / run, target / "runs" / run, config_hash)
        if problem is None:
            taken.new.append(name)
        elif problem:
            taken.refused[name] = problem
        else:
            taken.known.append(name)
    for name in ("study.json", EXAMPLES):  # so that `make report` works; `make reproduce` writes both again
        if not (target / name).exists() and (source / name).is_file():
            with replacing(target / name) as file:
                file.write((source / name).read_bytes())


def _problem(run_dir: Path, config_hash: str) -> str:
    """Why a run is not a finished one with this hash; empty if it is."""
    if not is_done(run_dir, config_hash):
        return "its summary.json is missing or that of another run"
    absent = set() if (run_dir / WEIGHTS).exists() else {WEIGHTS}
    if altered := sorted(set(altered_files(run_dir)) - absent):
        return f"{', '.join(altered)}: missing or not as recorded in its summary; bring it back again"
    return ""


def _place(source: Path, target: Path, config_hash: str) -> str | None:
    """Copy a run to `target`; None if that was done, '' if it is done there already, otherwise why it was not done."""
    if is_intact(target, config_hash):
        return ""
    if target.exists():
        here = (read_record(target / "config.json") or {}).get("hash")
        if here not in (None, config_hash):
            return f"{target} holds a run of this name with another configuration; move it away"
    beside = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copyfile(path, beside / path.name)  # the content alone: some file systems refuse permissions
    put_in_place(beside, target)
    return None
