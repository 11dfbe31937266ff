"""Bundles for a machine without a network: what goes along, what run.sh refuses, and finished runs brought back."""

import errno
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from synthetic import THREE
from synthetic import write_study as write_results

from senet_lib.bundle import needed, packs, there, wheels
from senet_lib.bundle.__main__ import main
from senet_lib.bundle.images import restore_cifar, write_sheets
from senet_lib.bundle.write import parts_of
from senet_lib.data.cifar import find_cifar
from senet_lib.data.dataset import Split, build_dataset, canonical
from senet_lib.files import read_json, write_json
from senet_lib.project import project_root
from senet_lib.results import is_intact

LIBRARY = project_root()
STUDY = {
    "question": "Does it travel?",
    "data": "digits",
    "seeds": [0],
    "recipe": {"epochs": 1, "batch_size": 256, "lr": 0.02},
    "networks": {"resnet20": {"knobs": {"width": 0.25}}},
}
LOCK = """one==2.0 \\
    --hash=sha256:11
two==1.1 ; python_full_version < '3.12' \\
    --hash=sha256:22
two==1.2 ; python_full_version >= '3.12' \\
    --hash=sha256:33
three==3.0 \\
    --hash=sha256:44
torch==2.9 \\
    --hash=sha256:55
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A git checkout with a study, and a library that only its file names make one."""
    root = tmp_path / "a project"
    for name in ("senet_lib/cli.py", "notebooks/05_train.ipynb", "docs/gpu.md", "results/archive/s.zip"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(np.random.default_rng(0).bytes(150_000))
    (root / "pyproject.toml").write_text(
        '[project]\ndependencies = ["one>=1"]\n[project.optional-dependencies]\nlab = ["three>=1", "jupyterlab>=4"]\n'
    )
    (root / "requirements.lock").write_text(LOCK)
    (root / "studies").mkdir()
    (root / "studies" / "s.yaml").write_text(yaml.safe_dump(STUDY))
    (root / "installed.txt").write_text("one==1.0\nThree==1.5+cu1\n")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    monkeypatch.setenv("SENET_ROOT", str(root))
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "cache"))
    return root


def write(root, *arguments):
    return main(["write", "s", "--installed", str(root / "installed.txt"), "--part", "100K", *arguments])


def run_sh(folder, **variables):
    variables = {"PYTHON": sys.executable, "WORK": str(folder.parent / "work"), **variables}
    command = ["bash", str(folder / "run.sh")]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)


def test_a_bundle_holds_the_project_in_parts_and_run_sh_checks_them(root, tmp_path):
    bundle = tmp_path / "there" / "bundle"
    for _ in range(2):  # a second one replaces the first
        assert write(root, "--to", str(bundle), "--limit-epochs", "1") == 0
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    (bundle / "out").mkdir()  # what run.sh writes beside itself
    assert write(root, "--to", str(bundle)) == 2
    (bundle / "out").rmdir()
    parts = sorted(bundle.glob("payload.tar.gz.*"))
    sums = dict(reversed(line.split()) for line in (bundle / "SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts}
    assert len(parts) > 2
    assert max(path.stat().st_size for path in parts) == 100_000
    joined = tmp_path / "joined.tar.gz"
    joined.write_bytes(b"".join(path.read_bytes() for path in parts))
    with tarfile.open(joined) as archive:
        names = archive.getnames()
        assert archive.extractfile("needs.txt").read() == b"one>=1\nthree>=1\n"
        sent = archive.extractfile("project/senet_lib/cli.py").read()
    assert sent == (root / "senet_lib" / "cli.py").read_bytes()
    for name in ("project/studies/s.yaml", "project/notebooks/05_train.ipynb", "wheels", "bundle.json"):
        assert name in names
    assert not [name for name in names if "docs" in name or "archive" in name]

    # What run.sh refuses, in one line, before it starts anything
    last = parts[-1].read_bytes()
    parts[-1].unlink()
    for content, variables, said in (
        (None, {}, f"missing: {parts[-1].name}"),
        (last[:-1] + b"?", {}, f"{parts[-1].name} is damaged"),
        (last, {"PYTHON": "no-such-python"}, "PYTHON=no-such-python"),
    ):
        if content is not None:
            parts[-1].write_bytes(content)
        done = run_sh(bundle, **variables)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert f"error: {said}" in done.stderr.splitlines()[-1]
    assert len(list((bundle.parent / "work" / "parts").iterdir())) == len(parts) - 1, "the whole ones are kept"


def test_only_missing_or_old_packages_are_sent(root):
    needs = {"one": ["two>=1.2", "three>=2 ; extra == 'x'", "absent ; sys_platform == 'win32'"], "torch": ["one"]}
    for python, installed, wanted, expected in (
        ("3.12", {}, ["one>=1"], {"one": "2.0", "two": "1.2"}),
        ("3.11", {}, ["one>=1"], {"one": "2.0", "two": "1.1"}),
        ("3.12", {"one": "1.0"}, ["one>=1"], {}),
        ("3.12", {"one": "0.9", "two": "1.2a1+local"}, ["one>=1"], {"one": "2.0", "two": "1.2"}),
        ("3.12", {"one": "0.9", "two": "1.3a1+local"}, ["one>=1"], {"one": "2.0"}),
        ("3.12", {"one": "1.0", "two": "1.2", "three": "1"}, ["one[x]>=1"], {"three": "3.0"}),
        ("3.12", {"one": "1.0"}, ["one", "torch>=2"], {"torch": "2.9"}),
    ):
        variables = wheels.environment(python)
        locked = wheels.read_lock(root / "requirements.lock", variables)
        found = wheels.missing(wanted, installed, locked, variables, lambda name: needs.get(name))
        assert {entry.name: entry.version for entry in found} == expected, (python, installed, wanted)


def test_images_make_the_round_trip(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (1100, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(colours, (1100, 32, 32, 3)).copy()
    images[:, 5, 7] += 1
    labels = (np.arange(1100) % 10).astype(np.uint8)
    data = build_dataset(
        "cifar10",
        tuple("abcdefghij"),
        train=Split(torch.from_numpy(images[:1000]), torch.from_numpy(labels[:1000])),
        test=Split(torch.from_numpy(images[1000:]), torch.from_numpy(labels[1000:])),
        flip=True,
    )
    write_sheets(data, tmp_path / "sheets")
    restore_cifar(tmp_path / "sheets", "cifar10", tmp_path / "data")
    back = canonical(find_cifar("cifar10", tmp_path / "data").read())
    assert (back.classes, back.fingerprints) == (data.classes, data.fingerprints)


def test_parts_are_joined_in_the_order_of_their_numbers(tmp_path):
    names = [f"payload.tar.gz.{number:03d}" for number in (1, 2, 100, 999, 1000, 1001)]
    for name in reversed(names):
        (tmp_path / name).touch()
    assert [part.name for part in parts_of(tmp_path)] == names


def test_a_failed_packing_does_not_end_the_training(root, tmp_path, monkeypatch, capsys):
    """As if OUT were full for a while: the next attempt packs."""
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    write_json(
        bundle / "bundle.json",
        {"study": "s", "name": "s", "data_set": "digits", "data": "", "sent": [], "limit_epochs": None},
    )
    for folder in (out, tmp_path / "work"):
        folder.mkdir()
    calls = []

    def pack(packer):
        calls.append(packer)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(there, "LOOK", 0.05)
    monkeypatch.setattr(there.Packer, "pack", pack)
    popen = subprocess.Popen
    monkeypatch.setattr(there.subprocess, "Popen", lambda command, **how: popen(["sleep", "0.4"]))
    monkeypatch.setattr(there.signal, "signal", lambda *_: None)
    arguments = ["run", "--bundle", bundle, "--work", tmp_path / "work", "--out", out, "--started", "0", "--jobs", "1"]
    assert main(list(map(str, arguments))) == 0
    assert len(calls) > 3
    assert capsys.readouterr().out.count("not packed yet: [Errno 28]") == 1


def packed(tmp_path, monkeypatch):
    """The results of three runs, and each run in a file of its own."""
    folder = write_results(tmp_path / "there" / "s", seeds=(0,), images=400, name="s")
    monkeypatch.setattr(packs, "MOST", packs.SPARE + 4000)
    runs = packs.finished(folder)
    files = packs.pack(folder, tmp_path / "out", runs)
    assert len(files) == len(runs) == 3
    assert packs.pack(folder, tmp_path / "out", runs) == files
    return folder, runs, files


def unpack(tmp_path, *sources, capsys):
    code = main(["unpack", *map(str, sources), "--results", str(tmp_path / "results")])
    done = sorted(path.parent.name for path in tmp_path.glob("results/s/runs/*/summary.json"))
    assert not list(tmp_path.glob("results/s/runs/.*.unpacking"))
    return code, done, capsys.readouterr().err.splitlines()


def test_finished_runs_come_back(tmp_path, monkeypatch, capsys):
    folder, runs, files = packed(tmp_path, monkeypatch)
    hashes = {run["run_id"]: run["config_hash"] for run in read_json(folder / "study.json")["runs"]}
    unfinished = tmp_path / "results" / "s" / "runs" / runs[0]
    shutil.copytree(folder / "runs" / runs[0], unfinished)
    (unfinished / "summary.json").unlink()
    own = tmp_path / "results" / "s" / "runs" / runs[1]
    shutil.copytree(folder / "runs" / runs[1], own)
    before = own.stat().st_mtime_ns
    assert unpack(tmp_path, tmp_path / "out", capsys=capsys) == (0, sorted(runs), [])
    assert own.stat().st_mtime_ns == before, "a run that is done here is left as it is"
    for run in runs:
        assert is_intact(tmp_path / "results" / "s" / "runs" / run, hashes[run])
    assert len(list(unfinished.parent.glob(f".{runs[0]}.superseded-*"))) == 1
    assert unpack(tmp_path, " ".join(map(str, files[:2])), capsys=capsys) == (0, sorted(runs), [])


def test_packed_runs_are_kept_without_their_work_folder(tmp_path, monkeypatch, capsys):
    """They are not trained again, and no file with a run that is packed nowhere else is deleted."""
    folder, runs, files = packed(tmp_path, monkeypatch)
    out, work = tmp_path / "out", tmp_path / "work"
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-9])  # a damaged one, which may have been whole where it came from
    there.take_packed(out, work)
    assert f"not taken from OUT: {files[0].name}: it is damaged" in capsys.readouterr().out
    assert set(packs.finished(work / "s")) == set(runs[1:])
    there.Packer(work / "s", out, [], weights=False).pack()
    listed = [entry["runs"] for entry in read_json(out / "manifest.json")["files"].values()]
    assert sorted(listed) == sorted([run] for run in runs)
    assert len(list(out.glob(packs.ANY_PACK))) == 3
    files[0].write_bytes(content)
    there.take_packed(out, work)
    assert set(packs.finished(work / "s")) == set(runs)

    # A run of the same name replaces one with another configuration
    path = work / "s" / "runs" / runs[0] / "config.json"
    for config in (read_json(path) | {"hash": "0" * 16}, read_json(path)):
        write_json(path, config)
        packs.pack(work / "s", out, runs)
        assert len(list(out.glob(packs.ANY_PACK))) == 3, config

    # Runs that the bundle brought need no file here
    hashes = {run["run_id"]: run["config_hash"] for run in read_json(folder / "study.json")["runs"]}
    for sent, left in (([], 3), ([hashes[runs[0]]], 2)):
        packs.pack(work / "s", out, runs[1:], sent=sent)
        assert len(list(out.glob(packs.ANY_PACK))) == left, sent


def test_damaged_files_and_runs_are_refused_by_name(tmp_path, monkeypatch, capsys):
    folder, runs, files = packed(tmp_path, monkeypatch)
    content = bytearray(files[0].read_bytes())
    content[len(content) // 2] ^= 1
    files[0].write_bytes(content)
    files[1].unlink()
    code, done, said = unpack(tmp_path, tmp_path / "out", capsys=capsys)
    assert (code, done, len(said)) == (1, [runs[2]], 2)
    for file in files[:2]:
        assert any(line.startswith(f"refused: {file.name}: ") for line in said)

    # Without a manifest, the digests in a run's summary decide
    with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
        archive.write(folder / "study.json", "s/study.json")
        for run in runs[:2]:
            for path in (folder / "runs" / run).iterdir():
                changed = run == runs[0] and path.name == "history.csv"
                archive.writestr(f"s/runs/{run}/{path.name}", path.read_bytes() + b"1" * changed)
        archive.writestr("s/runs/../../../escaped", b"")
    code, done, said = unpack(tmp_path, tmp_path / "changed.zip", capsys=capsys)
    assert (code, done, len(said)) == (1, sorted(runs[1:]), 1)
    assert said[0].startswith(f"refused: s/{runs[0]}: history.csv")
    assert not list(tmp_path.rglob("escaped"))

    # The folder as one file, as a browser may download it
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.write(files[2], f"out/{files[2].name}")
    code, _, said = unpack(tmp_path, tmp_path / "out.zip", capsys=capsys)
    assert code == 1
    assert said == ["refused: out.zip: it holds no packed runs; name the folder `out`, or its files runs-*.zip"]

    # Another run of the same name stays
    other = write_results(tmp_path / "other" / "s", THREE, seeds=(0,), epochs=5, images=400, name="s")
    shutil.rmtree(tmp_path / "results")
    shutil.copytree(other / "runs" / runs[2], tmp_path / "results" / "s" / "runs" / runs[2])
    code, done, said = unpack(tmp_path, files[2], capsys=capsys)
    assert (code, len(said)) == (1, 1)
    assert said[0].startswith(f"refused: s/{runs[2]}: ")


def test_bad_input_is_one_line_and_writes_nothing(root, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    (tmp_path / "list.txt").write_text("Package Version\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("[]")
    to = ("--to", str(tmp_path / "bundle"))
    for arguments, named in (
        (["write", "t", *to], "'t'"),
        (["write", "s", *to, "--part", "9x"], "PART is 9x"),
        (["write", "s", *to, "--part", "1K"], "PART is 1K"),
        (["write", "s", *to, "--python", "python3"], "PYTHON is python3"),
        (["write", "s", *to, "--python", "3.9"], "PYTHON is 3.9"),
        (["write", "s", *to, "--installed", str(tmp_path / "nothing")], "nothing"),
        (["write", "s", *to, "--installed", str(tmp_path / "list.txt")], "line 1"),
        (["write", "s", "--installed", str(root / "installed.txt"), "--to", str(tmp_path / "taken")], "taken"),
        (["write", "s", *to, "--installed", str(root / "installed.txt"), "--data", "folder:/x"], "/x"),
        (["unpack"], "FROM"),
        (["unpack", str(tmp_path / "absent")], "absent"),
        (["unpack", str(tmp_path / "taken")], "taken"),
        (["unpack", str(tmp_path / "out")], "manifest.json"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert main(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert said.startswith("error: "), arguments
        assert said.count("\n") == 1, said
        assert named in said, said
        assert sorted(tmp_path.rglob("*")) == before, arguments


ISOLATED = """
mount -t tmpfs none "$HOME"
for folder in senet_lib notebooks studies results tests data; do
  [ ! -d "$ROOT/$folder" ] || mount -t tmpfs none "$ROOT/$folder"
done
cd / && exec bash "$BUNDLE/run.sh"
"""


@pytest.mark.slow
def test_a_study_runs_without_a_network_and_comes_back(tmp_path, monkeypatch, capsys):
    """In namespaces without a network, and without this project; on a Python that is itself an environment."""
    unshare = ["unshare", "--map-root-user", "--net", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs `unshare` with user namespaces")
    installed = {each.name: each.version for each in importlib.metadata.distributions() if each.name != "senet-lib"}
    (tmp_path / "installed.txt").write_text("".join(f"{name}=={version}\n" for name, version in installed.items()))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(STUDY))
    machine, bundle = tmp_path / "machine", tmp_path / "bundle"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(machine)], check=True)
    packages = next(machine.glob("lib/*/site-packages"))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "senet_lib" not in path.name and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "cache"))
    arguments = ["--installed", str(tmp_path / "installed.txt"), "--part", "100K", "--to", str(bundle)]
    assert main(["write", str(tmp_path / "s.yaml"), *arguments]) == 0
    places = {"HOME": str(tmp_path / "home"), "ROOT": str(LIBRARY), "BUNDLE": str(bundle)}
    Path(places["HOME"]).mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SENET", "PIP", "PYTHON"))}
    environment |= {**places, "PYTHON": str(machine / "bin" / "python"), "TIME_LIMIT": "30m", "THREADS": "1"}
    done = subprocess.run([*unshare, "bash", "-c", ISOLATED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "packed 1 finished runs" in done.stdout
    code, runs, said = unpack(tmp_path, bundle / "out", capsys=capsys)
    assert (code, runs, said) == (0, ["resnet20-seed0"], [])
    assert read_json(tmp_path / "results/s/runs/resnet20-seed0/environment.json")["versions"]["senet-lib"]


def test_needed_packages_are_looked_for_on_the_other_machine(monkeypatch, capsys, tmp_path):
    """Also those that an installed package needs; what the machine's own packages ask of one another is its affair."""
    requires = {
        "one": ["two>=9", "three ; extra == 'x'", "gone ; sys_platform == 'nowhere'"],
        "two": ["four"],
        "three": [],
        "five": ["one", "six"],
    }

    def distribution(name):
        if name not in requires:
            raise needed.importlib.metadata.PackageNotFoundError(name)
        return SimpleNamespace(version="1.5", requires=requires[name])

    monkeypatch.setattr(needed.importlib.metadata, "distribution", distribution)
    assert needed.lacking(["one[x]>=1", "five>=2"]) == ["five>=2 (here: 1.5)", "four", "six"]
    listed = tmp_path / "needs.txt"
    for lines, code in (("three>=1\n", 0), ("one\n", 1)):
        listed.write_text(lines)
        assert needed.main(listed) == code
    assert capsys.readouterr().err == "missing: four\n"
