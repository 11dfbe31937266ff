"""Random damage to image folders, archives, CIFAR's pickles and the cache: the same images, or a DataError.

`SENET_FUZZ_SECONDS=600 pytest tests/test_damaged_data.py -m slow` runs for longer; `SENET_FUZZ_SEED` repeats a run.
"""

import collections
import os
import pickle
import random
import shutil
import tarfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from damage import KINDS, budget, mutated, seed
from PIL import Image

from senet_lib.data import DataError, load_dataset
from senet_lib.data.cifar import CIFAR, _read_batch

FORMATS = ("png", "bmp", "gif", "jpg", "tif", "webp", "ppm")
ARCHIVES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz")
RUBBISH = [b"rubbish" * 100]
NAMES = ("9.png", "9.txt", "..png", "a\nb.png", "train", "\u00e9", "e\u0301", "x" * 200, "0.PNG", b"\xff.png")


def write_tree(folder, suffix):
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("apple", "pear"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.{suffix}")
    return folder


def packed(tree, path, layout=tarfile.PAX_FORMAT):
    compression = path.name.partition(".tar")[2].strip(".")
    with tarfile.open(path, f"w:{compression}", format=layout) as tar:
        for name in sorted(os.listdir(tree)):
            tar.add(tree / name, name)
    return path


def loaded(place, **options):
    """The number of images and the fingerprints, or None after a DataError, whose message is one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = load_dataset(f"folder:{place}", **({"cache": False} | options))
    except DataError as error:
        assert "\n" not in str(error), error
        return None
    return len(data.train_labels), len(data.test_labels), tuple(data.fingerprints.values())


def damage_image(folder, rng):
    """Only PNG has checksums; a changed byte of another format may show in the fingerprint alone."""
    suffix = rng.choice(FORMATS)
    tree = write_tree(folder / "tree", suffix)
    before = loaded(tree)
    path = rng.choice(sorted(path for path in tree.rglob("*") if path.is_file()))
    path.write_bytes(mutated(path.read_bytes(), rng, RUBBISH))
    after = loaded(tree)
    assert after is None or after[:2] == before[:2]
    assert after in (None, before) or suffix != "png"
    return after


def damage_names(folder, rng):
    """What is renamed, removed, linked or added counts alike in a folder and in an archive of it."""
    tree = write_tree(folder / "tree", "png")
    for _ in range(rng.randint(1, 3)):
        paths = sorted(tree.rglob("*"))
        if not paths:
            break
        path = rng.choice(paths)
        kind = rng.choice(("rename", "remove", "link", "pipe", "folder"))
        if kind == "rename":
            new = Path(os.fsdecode(rng.choice(NAMES)))
            if not os.path.lexists(path.with_name(new.name)):
                path.rename(path.with_name(new.name))
        elif kind == "folder":
            (path if path.is_dir() else path.parent).joinpath(rng.choice((".hidden", "more.png", "more"))).mkdir(
                exist_ok=True
            )
        else:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            if kind == "pipe":
                os.mkfifo(path)
            elif kind == "link":
                path.symlink_to(rng.choice(("/etc/hostname", "..", "../../..", "nothing", path.name, "0.png", "apple")))
    after, in_archive = loaded(tree), loaded(packed(tree, folder / "packed.tar"))
    assert None in (after, in_archive) or after == in_archive
    return after


def damage_archive(folder, rng):
    suffix = rng.choice(ARCHIVES)
    layout = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    archive = packed(write_tree(folder / "tree", "png"), folder / f"a{suffix}", layout)
    before = loaded(archive)
    # tar's checksum is a sum, in which two changes may cancel
    kinds = [kind for kind in KINDS if suffix != ".tar" or kind not in ("bytes", "digit")]
    archive.write_bytes(mutated(archive.read_bytes(), rng, RUBBISH, kinds))
    after = loaded(archive)
    assert after in (None, before)
    return after


def damage_pickle(folder, rng):
    batch = {b"data": np.arange(4 * 3072, dtype=np.int64).astype(np.uint8).reshape(4, 3072), b"labels": [0, 1, 2, 9]}
    content = pickle.dumps(batch, protocol=2)
    start = rng.choice((len(content), 200))  # most bytes are pixels; the structure is at the start and the end
    content = mutated(content[:start], rng, RUBBISH) + content[start:]
    try:
        split = _read_batch(CIFAR["cifar10"], folder, "data_batch_1", lambda _: content)
    except DataError as error:
        assert "\n" not in str(error), error
        return None
    assert split.images.shape == (len(split.labels), 32, 32, 3)
    assert split.images.dtype == split.labels.dtype == np.uint8
    assert split.labels.max() < 10
    return split


def damage_cache(folder, rng):
    tree, cache = write_tree(folder / "tree", "png"), folder / "cache"
    before = loaded(tree, cache=cache)
    (file,) = cache.glob("*.safetensors")
    file.write_bytes(mutated(file.read_bytes(), rng, RUBBISH))
    assert loaded(tree, cache=cache) == before
    return before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damaged_data_is_the_same_or_named(tmp_path):
    (rounds, seconds), outcomes = budget(200, 20), collections.Counter()
    end = time.monotonic() + seconds
    for number in range(rounds):
        rng, folder = random.Random(f"{seed()} {number}"), tmp_path / str(number)
        damage = rng.choice((damage_image, damage_names, damage_archive, damage_pickle, damage_cache))
        folder.mkdir()
        try:
            outcomes[damage.__name__, damage(folder, rng) is not None] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed()}, round {number}, {damage.__name__}") from error
        shutil.rmtree(folder)
        if time.monotonic() > end:
            break
    print(dict(outcomes))
