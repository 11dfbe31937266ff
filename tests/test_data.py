"""The data sets: where they are found, the check of their content, their order and splits, and the cache."""

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from senet_lib.data import DATASETS, DataError, content_fingerprint, load_dataset
from senet_lib.data import archive as archive_module
from senet_lib.data import cifar as cifar_module
from senet_lib.data import fashion_mnist as fashion_module
from senet_lib.data import image_tree as tree_module
from senet_lib.data import load as load_module
from senet_lib.data.digits import enlarge

PROJECT = Path(__file__).resolve().parents[1]
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
REAL_DATA = os.environ.get("SENET_TEST_DATA") or os.environ.get("SENET_DATA")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project folder; no test finds a data set elsewhere or uses the network."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.setenv("SENET_ROOT", str(root))
    monkeypatch.delenv("SENET_DATA", raising=False)
    monkeypatch.delenv("SENET_CACHE", raising=False)
    monkeypatch.setattr(load_module, "DEBIAN_FOLDER", tmp_path / "no-debian-package")
    monkeypatch.setattr(fashion_module, "URL", "file:///nowhere/")
    for name, cifar in cifar_module.CIFAR.items():
        monkeypatch.setitem(cifar_module.CIFAR, name, cifar._replace(url=f"file:///nowhere/{cifar.archive}"))
    return root


# ---------------------------------------------------------------------------------------------------------------------
# small data sets


def write_tree(folder, images, suffix=".png", splits=("train", "test")):
    """images: {class: list of (H, W, 3) arrays}; in the test split each image plus one, so that the splits differ."""
    for split in splits:
        for class_name, arrays in images.items():
            (folder / split / class_name).mkdir(parents=True, exist_ok=True)
            for number, array in enumerate(arrays):
                shifted = array if split == "train" else array + np.uint8(1)
                Image.fromarray(shifted).save(folder / split / class_name / f"{number}{suffix}", lossless=True)
    return folder


def random_images(n, height=6, width=5, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8))


def two_classes(seed=0):
    return {"ant": random_images(3, seed=seed), "bee": random_images(4, seed=seed + 1)}


def pack(folder, archive, top="", mode="w"):
    with tarfile.open(archive, mode) as tar:
        tar.add(folder, arcname=top or ".")
    return archive


class Python2Pickler(pickle._Pickler):
    """Writes str and bytes as Python 2's str (BINSTRING), as in the official archives."""

    def save_string(self, value):
        value = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}


def python2_pickle(value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")  # the module's name then


def python3_pickle(value):
    return pickle.dumps(value, protocol=2)


class SmallCifar:
    """A random CIFAR in the official layout: all classes, with two training images and one test image per class."""

    def __init__(self, name, folder, dump=python2_pickle):
        self.name, self.folder = name, folder
        self.cifar = cifar_module.CIFAR[name]
        classes = self.cifar.classes
        generator = np.random.default_rng(7)
        self.names = [f"class {number:03}" for number in range(classes)]
        self.train = generator.integers(0, 256, (2 * classes, 32, 32, 3), dtype=np.uint8)
        self.test = generator.integers(0, 256, (classes, 32, 32, 3), dtype=np.uint8)
        self.train_labels, self.test_labels = np.repeat(np.arange(classes), 2), np.arange(classes)
        shuffled = generator.permutation(2 * classes)
        parts = np.array_split(shuffled, len(self.cifar.train_files))
        files = {self.cifar.names_file: {self.cifar.names: self.names}}
        for file, part in zip(self.cifar.train_files, parts, strict=True):
            files[file] = self.batch(self.train[part], self.train_labels[part])
        files[self.cifar.test_file] = self.batch(self.test, self.test_labels)
        self.files = {file: dump(content) for file, content in files.items()}

    def batch(self, images, labels):
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
        names = [f"image_{number}.png" for number in range(len(images))]
        return {
            b"data": np.ascontiguousarray(planes),
            self.cifar.labels.encode(): labels.tolist(),
            b"filenames": names,
            b"batch_label": b"a batch",
        }

    @property
    def fingerprints(self):
        return {
            "train": content_fingerprint(self.train, self.train_labels),
            "test": content_fingerprint(self.test, self.test_labels),
        }

    def unpacked(self, parent):
        folder = parent / self.cifar.folder
        folder.mkdir(parents=True)
        for file, content in self.files.items():
            (folder / file).write_bytes(content)
        return folder

    def archive(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return pack(self.unpacked(self.folder / f"for {path.name}"), path, self.cifar.folder, "w:gz")

    def tree(self, folder):
        for split, images, labels in (
            ("train", self.train, self.train_labels),
            ("test", self.test, self.test_labels),
        ):
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                target = folder / split / self.names[label]
                target.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(target / f"{number}.webp", lossless=True)
        return folder


@pytest.fixture(params=["cifar10", "cifar100"])
def small_cifar(request, tmp_path, monkeypatch):
    small = SmallCifar(request.param, tmp_path / "small")
    monkeypatch.setitem(load_module.KNOWN_FINGERPRINTS, request.param, small.fingerprints)
    return small


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    small = SmallCifar("cifar10", tmp_path / "small")
    monkeypatch.setitem(load_module.KNOWN_FINGERPRINTS, "cifar10", small.fingerprints)
    return small


def expect_md5_of(archive, name, monkeypatch, url=None):
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    cifar = cifar_module.CIFAR[name]
    monkeypatch.setitem(cifar_module.CIFAR, name, cifar._replace(md5=md5, url=url or cifar.url))


def same_tensors(one, other):
    return all(
        torch.equal(getattr(one, field), getattr(other, field))
        for field in ("train_images", "train_labels", "test_images", "test_labels")
    )


def rejected(name, *arguments, facts):
    """Check that loading fails with a message of one line that contains the facts."""
    with pytest.raises(DataError) as error:
        load_dataset(name, *arguments)
    message = str(error.value)
    assert "\n" not in message
    missing = [fact for fact in facts if str(fact) not in message]
    assert not missing, (missing, message)
    return message


def slow_fingerprint(images, labels):
    """The definition of the fingerprint."""
    digests = []
    for image, label in zip(np.asarray(images), labels.tolist(), strict=True):
        digests.append(hashlib.sha256(bytes([label]) + image.tobytes(order="C")).hexdigest())
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(), digests


def check_invariants(dataset):
    """Properties of every loaded data set."""
    for split in ("train", "test"):
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        assert images.dtype == torch.uint8 and images.shape[3] == 3 and images.is_contiguous()
        assert labels.dtype == torch.int64 and labels.shape == images.shape[:1]
        assert set(labels.tolist()) == set(range(dataset.num_classes))
        fingerprint, digests = slow_fingerprint(images, labels)
        assert dataset.fingerprints[split] == fingerprint
        assert digests == sorted(digests)
    pixels = dataset.train_images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-10)
    np.testing.assert_allclose(dataset.std, pixels.std((0, 1, 2)), rtol=1e-10)
    assert dataset.evaluation_split == "test"


# ---------------------------------------------------------------------------------------------------------------------
# names


def test_unknown_names_get_the_nearest():
    for wrong, near in (("cifar-10", "cifar10"), ("fashionmnist", "fashion_mnist"), ("digit", "digits")):
        rejected(wrong, facts=[repr(wrong), f"did you mean {near!r}", *DATASETS])
    rejected("folder:", facts=["folder:PATH", "train/<class>/*"])


# ---------------------------------------------------------------------------------------------------------------------
# digits


def test_digits_keep_the_order_of_the_file():
    from sklearn.datasets import load_digits

    bundle, digits = load_digits(), load_dataset("digits")
    assert digits.name == "digits" and digits.classes == tuple("0123456789") and not digits.flip
    assert digits.train_images.shape == (1415, 32, 32, 3) and digits.test_images.shape == (382, 32, 32, 3)
    assert torch.bincount(digits.test_labels).min() >= 35
    assert digits.image_shape == (3, 32, 32)
    check_invariants(digits)
    # averaging each 4x4 field nearly undoes the enlargement, enough to recognise every digit in its split
    for split, rows in (("train", slice(0, 1415)), ("test", slice(1415, None))):
        expected = torch.from_numpy(bundle.images[rows]).reshape(-1, 64) * 255 / 16
        small = getattr(digits, f"{split}_images")[..., 0].double().unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4))
        nearest = torch.cdist(small.reshape(-1, 64), expected).argmin(1)
        assert len(set(nearest.tolist())) >= 0.99 * len(expected)
        assert (torch.from_numpy(bundle.target[rows])[nearest] == getattr(digits, f"{split}_labels")).all()


def test_digits_are_enlarged_bilinearly():
    levels = np.random.default_rng(0).integers(0, 17, (20, 8, 8))
    ours = enlarge(levels)
    grey = torch.from_numpy(levels * 255 / 16)[:, None]
    reference = torch.nn.functional.interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    assert (torch.from_numpy(ours[..., 0]).double() - reference).abs().max() <= 0.5 + 1e-9
    assert (ours[..., 0] == ours[..., 1]).all() and (ours[..., 0] == ours[..., 2]).all()
    assert enlarge(np.full((1, 8, 8), 16)).min() == 255 and enlarge(np.zeros((1, 8, 8), int)).max() == 0


# ---------------------------------------------------------------------------------------------------------------------
# fashion_mnist


@pytest.fixture
def small_fashion(tmp_path, monkeypatch):
    """The four files of a small Fashion-MNIST in a folder, one of them not gzipped, and its training images."""
    folder = tmp_path / "fashion" / "fashion-mnist"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(3)
    arrays = {
        "train-images-idx3-ubyte": generator.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.repeat(np.arange(10, dtype=np.uint8), 3),
        "t10k-images-idx3-ubyte": generator.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
    }
    for name, array in arrays.items():
        content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        monkeypatch.setitem(fashion_module.SHA256, name, hashlib.sha256(content).hexdigest())
        zipped = gzip.compress(content)
        monkeypatch.setitem(fashion_module.MD5, name, hashlib.md5(zipped).hexdigest())
        if name.startswith("t10k-labels"):
            (folder / name).write_bytes(content)
        else:
            (folder / f"{name}.gz").write_bytes(zipped)
    fingerprints = {
        split: content_fingerprint(np.repeat(arrays[images][..., None], 3, -1), arrays[labels])
        for split, images, labels in (
            ("train", "train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
            ("test", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        )
    }
    monkeypatch.setitem(load_module.KNOWN_FINGERPRINTS, "fashion_mnist", fingerprints)
    return folder


def test_fashion_mnist_is_found_everywhere(small_fashion, project, monkeypatch):
    def check(root=None):
        fashion = load_dataset("fashion_mnist", root, cache=False)
        assert fashion.train_images.shape == (30, 28, 28, 3) and fashion.test_images.shape == (10, 28, 28, 3)
        assert fashion.classes[0] == "T-shirt/top" and fashion.classes[9] == "Ankle boot" and fashion.flip
        assert (fashion.train_images[..., :1] == fashion.train_images).all()
        check_invariants(fashion)

    check(small_fashion.parent)
    with monkeypatch.context() as patch:
        patch.setattr(load_module, "DEBIAN_FOLDER", small_fashion)
        check()
    with monkeypatch.context() as patch:
        patch.setenv("SENET_DATA", str(small_fashion.parent))
        check()
    small_fashion.parent.rename(project / "data")
    check()


def test_fashion_mnist_is_downloaded(small_fashion, project, monkeypatch):
    labels = small_fashion / "t10k-labels-idx1-ubyte"
    (small_fashion / f"{labels.name}.gz").write_bytes(gzip.compress(labels.read_bytes()))
    for name in fashion_module.MD5:
        md5 = hashlib.md5((small_fashion / f"{name}.gz").read_bytes()).hexdigest()
        monkeypatch.setitem(fashion_module.MD5, name, md5)
    monkeypatch.setattr(fashion_module, "URL", f"{small_fashion.as_uri()}/")
    assert load_dataset("fashion_mnist").fingerprints == load_module.KNOWN_FINGERPRINTS["fashion_mnist"]
    assert sorted(path.name for path in (project / "data" / "fashion-mnist").glob("*.gz")) == sorted(
        f"{name}.gz" for name in fashion_module.MD5
    )


def test_damaged_fashion_mnist_is_named(small_fashion):
    labels, images = small_fashion / "t10k-labels-idx1-ubyte", small_fashion / "train-images-idx3-ubyte.gz"
    sound = labels.read_bytes()
    expected = hashlib.sha256(sound).hexdigest()
    labels.write_bytes(sound[:-1] + b"\0")
    found = hashlib.sha256(labels.read_bytes()).hexdigest()
    rejected("fashion_mnist", small_fashion, facts=[labels, expected, found])
    labels.write_bytes(sound)
    images.write_bytes(images.read_bytes()[:1000])
    rejected("fashion_mnist", small_fashion, facts=[images])
    images.unlink()
    rejected("fashion_mnist", small_fashion, facts=[small_fashion, images.name, "missing"])


def test_missing_data_lists_searched_places(project, tmp_path, monkeypatch):
    rejected("fashion_mnist", facts=[project / "data", "no-debian-package", "SENET_DATA"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("SENET_DATA", str(elsewhere))
    layouts = ["cifar-10-python.tar.gz", "cifar-10-batches-py/", "cifar10.tar", "train/<class>/*"]
    places = [elsewhere, project / "data", "file:///nowhere/cifar-10-python.tar.gz"]
    rejected("cifar10", facts=[*layouts, *places, "SENET_DATA"])
    with pytest.raises(DataError, match="download=False"):
        load_dataset("cifar10", download=False)
    monkeypatch.setenv("SENET_DATA", str(tmp_path / "missing"))
    rejected("cifar10", facts=["SENET_DATA", tmp_path / "missing", "does not exist"])


@pytest.mark.skipif(
    not fashion_module.DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)
def test_debian_fashion_mnist_has_published_statistics():
    fashion = load_dataset("fashion_mnist", fashion_module.DEBIAN_FOLDER, cache=False)
    assert fashion.train_images.shape == (60_000, 28, 28, 3) and fashion.test_images.shape == (10_000, 28, 28, 3)
    assert torch.bincount(fashion.train_labels).tolist() == [6000] * 10
    assert fashion.mean[0] == pytest.approx(0.2860, abs=5e-5) and fashion.std[0] == pytest.approx(0.3530, abs=5e-5)


# ---------------------------------------------------------------------------------------------------------------------
# cifar10, cifar100


def test_cifar_is_equal_from_every_container(small_cifar, tmp_path, monkeypatch):
    name, cifar = small_cifar.name, small_cifar.cifar
    archive = small_cifar.archive(tmp_path / "packed" / cifar.archive)
    expect_md5_of(archive, name, monkeypatch)
    tree = small_cifar.tree(tmp_path / "tree")
    nested = tmp_path / "nested"
    nested.mkdir()
    (nested / name).symlink_to(tree)
    tar_folder = tmp_path / "tar"
    tar_folder.mkdir()
    containers = {
        "archive": archive,
        "folder with the archive": archive.parent,
        "unpacked archive": small_cifar.unpacked(tmp_path / "unpacked"),
        "folder with the unpacked archive": tmp_path / "unpacked",
        "archive packed again under another name": small_cifar.archive(tmp_path / "again.tgz"),
        "image tree": tree,
        "folder with the image tree": nested,
        "tar of the image tree": pack(tree, tar_folder / f"{name}.tar", "any/top"),
        "folder with that tar": tar_folder,
        "tar without a top folder": pack(tree, tmp_path / "plain.tar"),
    }
    loaded = {what: load_dataset(name, place, cache=False) for what, place in containers.items()}
    first = loaded["archive"]
    check_invariants(first)
    assert first.flip and list(first.classes) == small_cifar.names and first.fingerprints == small_cifar.fingerprints
    for what, dataset in loaded.items():
        assert same_tensors(dataset, first), what
        assert dataset.classes == first.classes, what
    # each image has kept its label
    label_of = {
        image.tobytes(): label for image, label in zip(small_cifar.train, small_cifar.train_labels, strict=True)
    }
    for image, label in zip(first.train_images.numpy(), first.train_labels.tolist(), strict=True):
        assert label_of[image.tobytes()] == label


def test_cifar_of_either_python_is_equal(tmp_path, small_cifar10):
    modern = SmallCifar("cifar10", tmp_path / "modern", dump=python3_pickle)
    assert modern.files != small_cifar10.files
    folder = modern.unpacked(tmp_path / "modern")
    assert load_dataset("cifar10", folder).fingerprints == small_cifar10.fingerprints
    # the other files have the opcodes of Python 2, as the official ones
    content = small_cifar10.files["data_batch_1"]
    assert b"cnumpy.core.multiarray\n_reconstruct" in content and b"_codecs" not in content
    assert not {opcode.name for opcode, _, _ in pickletools.genops(content)} & {"BINUNICODE", "SHORT_BINBYTES"}


def test_cifar_is_found_by_default(small_cifar10, tmp_path, project, monkeypatch):
    tree = small_cifar10.tree(tmp_path / "tree")
    for place in (tree, pack(tree, tmp_path / "cifar10.tar", "cifar10")):
        with monkeypatch.context() as patch:
            patch.setenv("SENET_DATA", str(place))
            assert load_dataset("cifar10").fingerprints == small_cifar10.fingerprints, place
    for suffix, mode in ((".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")):
        home = tmp_path / f"home with {suffix}"
        home.mkdir()
        pack(tree, home / f"cifar10{suffix}", mode=mode)
        monkeypatch.setenv("HOME", str(home))
        assert load_dataset("cifar10", "~", cache=False).fingerprints == small_cifar10.fingerprints, suffix
    (home / "mine").symlink_to(tree)
    assert load_dataset("folder:~/mine").fingerprints == small_cifar10.fingerprints
    rejected("folder:~nobody-of-this-name/mine", facts=["~nobody-of-this-name/mine", "home folder is not known"])
    (project / "data").mkdir(exist_ok=True)
    tree.rename(project / "data" / "cifar10")
    assert load_dataset("cifar10").fingerprints == small_cifar10.fingerprints


def test_cifar_download_is_complete_or_absent(small_cifar10, tmp_path, project, monkeypatch, capsys):
    name, cifar = small_cifar10.name, small_cifar10.cifar
    archive = small_cifar10.archive(tmp_path / "server" / cifar.archive)
    url = archive.as_uri()
    monkeypatch.setitem(cifar_module.CIFAR, name, cifar._replace(url=url))  # the md5 is still the official archive's
    rejected(name, facts=[cifar.md5, hashlib.md5(archive.read_bytes()).hexdigest(), url])
    assert not list((project / "data").glob("*cifar*tmp")) and not (project / "data" / cifar.archive).exists()

    expect_md5_of(archive, name, monkeypatch, url)
    dataset = load_dataset(name)
    assert dataset.fingerprints == small_cifar10.fingerprints
    assert (project / "data" / cifar.archive).read_bytes() == archive.read_bytes()
    assert url in capsys.readouterr().err
    archive.unlink()  # the next load needs no download
    assert same_tensors(load_dataset(name, cache=False), dataset)


def test_only_a_given_root_is_searched(small_cifar10, tmp_path, project):
    small_cifar10.unpacked(project / "data")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(project) not in rejected("cifar10", empty, facts=[empty, "root"])
    rejected("cifar10", tmp_path / "missing", facts=["root", tmp_path / "missing", "does not exist"])


def test_damaged_archives_are_named(small_cifar10, tmp_path):
    official = small_cifar10.archive(tmp_path / "cifar-10-python.tar.gz")
    found, expected = hashlib.md5(official.read_bytes()).hexdigest(), "c58f30108f718f92721af3b95e74349a"
    rejected("cifar10", official, facts=[official, found, expected])

    copy, tar = tmp_path / "copy.tar.gz", pack(small_cifar10.tree(tmp_path / "tree"), tmp_path / "cifar10.tar")
    for sound, archive in ((official.read_bytes(), copy), (tar.read_bytes(), tar)):
        half = len(sound) // 2
        for damaged in (sound[:half], sound[: half + 700], b"hello" * 400, b""):
            archive.write_bytes(damaged)
            rejected("cifar10", archive, facts=[archive])


def damaged_tars(archive, sound):
    """What can happen to an archive: {damage: its bytes}."""
    plain = (
        sound if archive.suffix == ".tar" else {".gz": gzip, ".bz2": bz2, ".xz": lzma}[archive.suffix].decompress(sound)
    )
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = tar.getmembers()
    middle = members[len(members) // 2]
    checksum = bytearray(plain)
    checksum[middle.offset + 148] ^= 1
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 1
    pack_again = {".tar": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[archive.suffix]
    damages = {
        "a wrong header checksum": pack_again(bytes(checksum)),
        "cut off before a member": pack_again(plain[: middle.offset]),
        "cut off in a member": pack_again(plain[: middle.offset_data + 1]),
        "no end mark": pack_again(plain.rstrip(b"\0") + bytes(-len(plain.rstrip(b"\0")) % 512)),
        "two archives in one": pack_again(plain + plain),
        "not a tar": pack_again(b"hello" * 400),
        "no content": pack_again(b""),
        "followed by rubbish": sound + b"rubbish",
        "no bytes": b"",
        "half": sound[: len(sound) // 2],
    }
    if archive.suffix != ".tar":
        ends = {"no last byte": sound[:-1], "no end": sound[:-9], "wrong end": sound[:-3] + bytes(3)}
        damages |= {"a flipped bit": bytes(flipped), **ends}
    return damages


def test_damage_of_any_archive_is_named(small_cifar10, tmp_path):
    folder = write_tree(tmp_path / "tree", two_classes())
    tree, unpacked = small_cifar10.tree(tmp_path / "cifar"), small_cifar10.unpacked(tmp_path / "files")
    for name, source in (("folder:", folder), ("cifar10", tree), ("cifar10", unpacked)):
        for mode in ("", "gz", "bz2", "xz") if name == "folder:" else ("gz",):
            archive = tmp_path / f"archive.tar{'.' * bool(mode)}{mode}"
            pack(source, archive, source.name, f"w:{mode}")
            sound = archive.read_bytes()
            arguments = (f"folder:{archive}",) if name == "folder:" else (name, archive)
            load_dataset(*arguments)
            for damage, content in damaged_tars(archive, sound).items():
                archive.write_bytes(content)
                with pytest.raises(DataError, match=r"^[^\n]* is damaged, or not a tar archive [^\n]*$") as error:
                    load_dataset(*arguments)
                    pytest.fail(damage)
                assert str(archive) in str(error.value)
            archive.write_bytes(sound + bytes(512 * (mode == "")))  # padding is not damage
            load_dataset(*arguments)


def test_changed_images_or_labels_are_rejected(small_cifar10, tmp_path, project):
    tree, known = small_cifar10.tree(tmp_path / "tree"), small_cifar10.fingerprints
    changed = tree / "test" / small_cifar10.names[3] / "3.webp"
    small_cifar10.test[3, 0, 0, 0] ^= 1  # the smallest possible change
    Image.fromarray(small_cifar10.test[3]).save(changed, lossless=True)
    rejected("cifar10", tree, facts=[tree, "test images", known["test"], small_cifar10.fingerprints["test"]])

    first, second = (tree / "train" / name for name in small_cifar10.names[:2])
    (first / "0.webp").rename(second / "0.webp")
    (second / "2.webp").rename(first / "2.webp")
    rejected("cifar10", tree, facts=["train images", known["train"]])
    assert not list(project.rglob("*.safetensors")), "rejected data was cached"


def test_another_cifar_is_rejected_before_decoding(tmp_path, monkeypatch):
    other = SmallCifar("cifar100", tmp_path / "small")
    monkeypatch.setattr(tree_module, "_decode", None)
    tree = other.tree(tmp_path / "tree")
    for place in (tree, pack(tree, tmp_path / "cifar10.tar")):
        rejected("cifar10", place, facts=[place, "100 classes", "10"])
    archive = other.archive(tmp_path / "cifar-100.tar.gz")
    rejected("cifar10", archive, facts=[archive])


def test_missing_batches_are_named(small_cifar10, tmp_path):
    folder = small_cifar10.unpacked(tmp_path)
    (folder / "data_batch_3").unlink()
    for root in (tmp_path, folder, pack(folder, tmp_path / "part.tar", folder.name)):
        rejected("cifar10", root, facts=["data_batch_3", "missing", root])


def test_damaged_batches_are_named(small_cifar10, tmp_path):
    folder = small_cifar10.unpacked(tmp_path)
    for change in (
        lambda batch: batch.update({b"data": batch[b"data"][:, :3071]}),
        lambda batch: batch.update({b"data": batch[b"data"].astype(np.float32)}),
        lambda batch: batch.update({b"labels": batch[b"labels"][1:]}),
        lambda batch: batch.update({b"labels": [10] * len(batch[b"labels"])}),
        lambda batch: batch.update({b"labels": ["0"] * (len(batch[b"labels"]) - 1) + ["x"]}),
        lambda batch: batch.pop(b"data"),
        lambda batch: batch.pop(b"labels"),
    ):
        batch = small_cifar10.batch(small_cifar10.test, small_cifar10.test_labels)
        change(batch)
        (folder / "test_batch").write_bytes(python2_pickle(batch))
        rejected("cifar10", folder, facts=["test_batch", folder, "CIFAR-10"])
    for content in (b"", b"\x80\x02}", b"not a pickle", pickle.dumps([1, 2])):
        (folder / "data_batch_5").write_bytes(content)
        rejected("cifar10", folder, facts=["data_batch_5", folder])
    for memo in (b"r\xff\xff\xff\x0f", b"p268435455\n", b"q\xff"):  # several gigabytes
        (folder / "data_batch_5").write_bytes(b"\x80\x02}" + memo + b".")
        rejected("cifar10", folder, facts=["data_batch_5", folder, "memo jumps to entry"])


class Malicious:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_malicious_pickles_are_not_executed(small_cifar10, tmp_path):
    marker = tmp_path / "executed"
    attacks = {
        "os": Malicious(os.system, f"touch '{marker}'"),
        "open": Malicious(open, str(marker), "w"),
        "numpy": Malicious(np.save, str(marker), np.zeros(1)),
    }
    for attack, payload in attacks.items():
        small = SmallCifar("cifar10", tmp_path / attack)
        small.files["data_batch_2"] = pickle.dumps({b"data": payload}, protocol=2)
        for root in (small.unpacked(tmp_path / attack), small.archive(tmp_path / attack / "copy.tar.gz")):
            rejected("cifar10", root, facts=["data_batch_2", root])
        assert not list(tmp_path.glob("executed*")), attack
        pickle.loads(small.files["data_batch_2"])  # the plain unpickler runs it
        (executed,) = tmp_path.glob("executed*")
        executed.unlink()


def real_cifar10():
    """Where CIFAR-10 is, or None: in SENET_TEST_DATA, SENET_DATA or data/."""
    named = [Path(REAL_DATA)] if REAL_DATA else []
    for place in (*named, PROJECT / "data"):
        if place.exists() and cifar_module.find_cifar("cifar10", place):
            return place
    return None


@pytest.mark.skipif(
    real_cifar10() is None, reason="CIFAR-10 was not found: set SENET_TEST_DATA to its folder or archive"
)
def test_real_cifar10_has_published_statistics():
    # through a cache that outlives the test, by default the project's: decoding takes half a minute the first time
    dataset = load_dataset(
        "cifar10", real_cifar10(), cache=os.environ.get("SENET_TEST_CACHE", PROJECT / "data" / "cache")
    )
    assert dataset.train_images.shape == (50_000, 32, 32, 3) and dataset.test_images.shape == (10_000, 32, 32, 3)
    assert dataset.classes == CIFAR10_CLASSES
    assert torch.bincount(dataset.train_labels).tolist() == [5000] * 10
    assert torch.bincount(dataset.test_labels).tolist() == [1000] * 10
    # the published values
    assert dataset.mean == pytest.approx((0.49139968, 0.48215841, 0.44653091), abs=5e-9)
    assert dataset.std == pytest.approx((0.24703223, 0.24348513, 0.26158784), abs=5e-9)
    tuned = dataset.holdout(5000)
    assert torch.bincount(tuned.test_labels).tolist() == [500] * 10 and len(tuned.train_labels) == 45_000


# ---------------------------------------------------------------------------------------------------------------------
# folder:PATH

ODD_NAMES = ('<b onclick="x">&amp;', "Größe 大", "a b'c", "naïve")


def test_image_folder_loads_with_odd_names(tmp_path):
    images = {name: random_images(3, 7, 9, seed) for seed, name in enumerate(ODD_NAMES)}
    folder = write_tree(tmp_path / "tree", images)
    dataset = load_dataset(f"folder:{folder}")
    assert dataset.name == f"folder:{folder}" and not dataset.flip
    assert dataset.classes == tuple(sorted(ODD_NAMES)) and dataset.image_shape == (3, 7, 9)
    check_invariants(dataset)
    label_of = {array.tobytes(): name for name, arrays in images.items() for array in arrays}
    for image, label in zip(dataset.train_images.numpy(), dataset.train_labels.tolist(), strict=True):
        assert label_of[image.tobytes()] == dataset.classes[label]
    assert same_tensors(load_dataset(f"folder:{pack(folder, tmp_path / 'tree.tar.gz', 'top', 'w:gz')}"), dataset)
    cached = load_dataset(f"folder:{folder}")
    assert cached.classes == dataset.classes and same_tensors(cached, dataset)


def test_relative_folders_start_at_project_or_root(project, tmp_path, monkeypatch):
    write_tree(project / "mine", two_classes())
    write_tree(tmp_path / "other" / "mine", two_classes(5))
    monkeypatch.chdir(tmp_path)
    mine, other = load_dataset("folder:mine"), load_dataset("folder:mine", tmp_path / "other")
    assert mine.fingerprints != other.fingerprints
    assert other.fingerprints == load_dataset(f"folder:{tmp_path / 'other' / 'mine'}").fingerprints
    for named, expected in ((tmp_path / "other", other), (tmp_path / "missing", mine), (tmp_path, mine)):
        monkeypatch.setenv("SENET_DATA", str(named))
        assert load_dataset("folder:mine").fingerprints == expected.fingerprints, named
    assert load_dataset("folder:mine", project).fingerprints == mine.fingerprints


def test_8_bit_images_keep_their_values(tmp_path):
    levels = np.arange(0, 240, 15, dtype=np.uint8).reshape(4, 4)
    grey = Image.fromarray(levels)
    colour = Image.merge("RGB", [grey, grey.rotate(90), grey.rotate(180)])
    alpha = colour.copy()
    alpha.putalpha(grey)
    kinds = {
        "1.PNG": (grey.convert("1"), grey.convert("1").convert("RGB")),
        "grey.png": (grey, Image.merge("RGB", [grey] * 3)),
        "grey and alpha.png": (Image.merge("LA", [grey, grey]), Image.merge("RGB", [grey] * 3)),
        "palette.gif": (grey.convert("P"), Image.merge("RGB", [grey] * 3)),
        "palette.png": (colour.quantize(16), colour),
        "colour.bmp": (colour, colour),
        "colour.ppm": (colour, colour),
        "colour.webp": (colour, colour),
        "alpha.Png": (alpha, colour),
        "alpha.tif": (alpha, colour),
        "cmyk.tiff": (colour.convert("CMYK"), colour),
    }
    for name, (stored, expected) in kinds.items():
        options = {"lossless": True} if name.endswith("webp") else {"transparency": 3} if "gif" in name else {}
        if name == "palette.png":
            options = {"transparency": bytes(range(0, 255, 17))}
        for split in ("train", "test"):
            file = tmp_path / name / split / "only" / name
            file.parent.mkdir(parents=True)
            stored.save(file, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = load_dataset(f"folder:{tmp_path / name}", cache=False).train_images[0].numpy()
        np.testing.assert_array_equal(found, np.asarray(expected), err_msg=name)


def test_every_mode_is_kept_or_named():
    values = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5)
    kept = set()
    for mode in Image.MODES:
        picture = Image.new(mode, (4, 4)) if mode in ("LAB", "La", "PA") or ";" in mode else values.convert(mode)
        try:
            np.testing.assert_array_equal(tree_module.to_rgb(picture, "a.png"), np.asarray(picture.convert("RGB")))
            kept.add(mode)
        except DataError as error:
            assert f"a.png has mode {mode}, " in str(error)
    assert {"1", "L", "P", "RGB", "CMYK"} <= kept and not kept & {"I", "F", "LAB", "I;16", "I;16B"}


def png_of(values, colour, depth=16):
    """A PNG of (H, W, channels) integers; colour: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff_of(values, photometric, sample_format=1):
    """A TIFF of (H, W, channels) numbers; photometric: 1 grey, 2 RGB; sample_format: 1 unsigned, 2 signed."""
    height, width, channels = values.shape
    data = values.tobytes()
    fields = {
        256: [width],
        257: [height],
        258: [8 * values.itemsize] * channels,
        259: [1],
        262: [photometric],
        273: [8],
    }
    fields |= {277: [channels], 278: [height], 279: [len(data)], 339: [sample_format] * channels}
    start = 8 + len(data)
    directory, longer = struct.pack("<H", len(fields)), b""
    for tag, numbers in fields.items():
        packed = struct.pack(f"<{len(numbers)}H", *numbers)
        if len(packed) > 4:
            packed, longer = struct.pack("<I", start + 6 + 12 * len(fields) + len(longer)), longer + packed
        directory += struct.pack("<HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", start) + data + directory + bytes(4) + longer


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_images_finer_than_8_bits_are_rejected(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (6, 5, 4))
    grey, rgb = values[..., :1].astype("<u2"), values[..., :3].astype("<u2")
    small = (values % 256).astype("u1")
    lab, integer = Image.new("LAB", (5, 6)), Image.fromarray(values[..., 0].astype(np.int32))
    other = Image.fromarray(small[..., :3]).rotate(180)
    kinds = {
        "grey.png": (png_of(grey, 0), "mode I;16"),
        "grey and alpha.png": (png_of(values[..., :2], 4), "with 16 bits"),
        "rgb.png": (png_of(rgb, 2), "mode RGB with 16 bits"),
        "rgba.png": (png_of(values, 6), "mode RGBA with 16 bits"),
        "grey.tiff": (tiff_of(grey, 1), "mode I;16"),
        "rgb.tiff": (tiff_of(rgb, 2), "mode RGB with 16 bits"),
        "signed.tiff": (tiff_of(small[..., :1], 1, 2), "mode L with signed numbers"),
        "integer.tiff": (saved(integer, "TIFF"), "mode I,"),
        "real.tiff": (saved(integer.convert("F"), "TIFF"), "mode F"),
        "lab.tiff": (saved(lab, "TIFF"), "mode LAB"),
        "grey.pgm": (b"P5 5 6 65535\n" + grey.astype(">u2").tobytes(), "mode I,"),
        "rgb.ppm": (b"P6 5 6 4095\n" + (rgb % 4096).astype(">u2").tobytes(), "mode RGB with 12 bits"),
        "plain.ppm": (b"P3 5 6 65535\n" + b" ".join(b"%d" % number for number in rgb.ravel()), "mode RGB with 16 bits"),
        "real.pnm": (b"Pf 5 6 -1.0\n" + grey.astype("<f4").tobytes(), "mode F"),
        "moving.gif": (saved(other, "GIF", save_all=True, append_images=[other.rotate(180)]), "2 frames"),
        "pages.tiff": (saved(other, "TIFF", save_all=True, append_images=[other, other]), "3 frames"),
    }
    folder = write_tree(tmp_path / "tree", two_classes())
    for name, (content, fact) in kinds.items():
        file = folder / "test" / "bee" / name
        file.write_bytes(content)
        rejected(f"folder:{folder}", facts=[f"test/bee/{name}", folder, fact])
        file.unlink()
    eight = folder / "test" / "bee" / "3.png"
    eight.write_bytes(png_of(small[..., :3], 2, depth=8))  # what these writers write is else in order
    first = load_dataset(f"folder:{folder}")
    eight.unlink()
    eight.with_suffix(".tiff").write_bytes(tiff_of(small[..., :3], 2))
    assert same_tensors(load_dataset(f"folder:{folder}"), first)


def test_png_checksums_are_compared(tmp_path):
    pixels = np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8) // 3
    folder = write_tree(tmp_path, {"only": [pixels]})
    file = folder / "train" / "only" / "0.png"
    sound, accepted = file.read_bytes(), 0
    for position in range(41, len(sound) - 16, 4):  # the compressed pixels
        damaged = bytearray(sound)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        rejected(f"folder:{folder}", facts=["train/only/0.png", "cannot be decoded"])
        with contextlib.suppress(OSError, SyntaxError):
            accepted += not np.array_equal(np.asarray(Image.open(file)), pixels)
    assert accepted, "Pillow alone finds this damage: the test or the check is no longer needed"


def test_stored_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    pixels = random_images(1)[0]
    for split in ("train", "test"):
        (tmp_path / split / "only").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / split / "only" / "0.png", exif=exif)
    assert np.array_equal(load_dataset(f"folder:{tmp_path}").train_images[0].numpy(), pixels)


def break_tree(folder, how):
    """Damage a tree of the classes ant and bee; the path to load, and the facts that the message must have."""
    if how == "empty":
        empty = folder / "empty"
        empty.mkdir()
        return empty, ["train/<class>/*"]
    if how == "no test":
        (folder / "test").rename(folder / "validation")
        return folder, ["test/<class>/*"]
    if how == "class in train only":
        (folder / "test" / "bee").rename(folder / "elsewhere")
        return folder, ["'bee'", "train/", "not in test/"]
    if how == "class in test only":
        (folder / "train" / "ant").rename(folder / "elsewhere")
        return folder, ["'ant'", "test/", "not in train/"]
    if how == "empty class":
        for file in (folder / "train" / "bee").iterdir():
            file.unlink()
        return folder, ["'bee'", "no images", "train/"]
    if how == "corrupt image":
        (folder / "test" / "bee" / "1.png").write_bytes(b"hello")
        return folder, ["test/bee/1.png", "not an image"]
    if how == "truncated image":
        file = folder / "train" / "ant" / "2.png"
        file.write_bytes(file.read_bytes()[:60])
        return folder, ["train/ant/2.png", "cannot be decoded"]
    assert how == "another size"
    Image.new("RGB", (8, 3)).save(folder / "test" / "ant" / "2.png")
    return folder, ["test/ant/2.png", "8x3", "5x6"]


BREAKAGES = (
    "empty",
    "no test",
    "class in train only",
    "class in test only",
    "empty class",
    "corrupt image",
    "truncated image",
    "another size",
)


def test_broken_image_trees_are_named(tmp_path, monkeypatch):
    for how in BREAKAGES:
        folder, facts = break_tree(write_tree(tmp_path / how, two_classes()), how)
        for place in (folder, pack(folder, tmp_path / f"{how}.tar")):
            rejected(f"folder:{place}", facts=[place, *facts])
    rejected(f"folder:{tmp_path / 'nowhere'}", facts=[tmp_path / "nowhere", "does not exist", "train/<class>"])
    monkeypatch.setattr(tree_module, "MAX_CLASSES", 1)
    folder = write_tree(tmp_path / "tree", two_classes())
    rejected(f"folder:{folder}", facts=[folder, "2 classes", "at most 1"])


def test_unsafe_or_ambiguous_tars_are_rejected(tmp_path):
    folder = write_tree(tmp_path / "tree", two_classes())
    for member in ("../evil.png", "/etc/evil.png", "train/../../evil.png"):
        archive = pack(folder, tmp_path / "tree.tar")
        with tarfile.open(archive, "a") as tar:
            tar.addfile(tarfile.TarInfo(member), io.BytesIO())
        rejected(f"folder:{archive}", facts=[archive, repr(member), "outside"])
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        tar.add(folder, "one")
        tar.add(folder, "two")
    rejected(f"folder:{tmp_path / 'two.tar'}", facts=["two.tar", "'one', 'two'"])


def test_image_formats_of_other_programs_are_rejected(tmp_path, monkeypatch):
    """Pillow opens EPS with Ghostscript, whatever the file's name is."""
    folder = write_tree(tmp_path / "tree", two_classes())
    hidden = next((folder / "train" / "ant").iterdir())
    with Image.open(hidden) as picture:
        picture.convert("RGB").save(hidden, format="EPS")
    monkeypatch.setattr(subprocess, "Popen", None)
    rejected(f"folder:{folder}", facts=[hidden.name, folder, "not an image"])


def linked_tree(folder):
    """The tree of two_classes() with links in the place of files and of a class folder, and a suffix in capitals."""
    write_tree(folder, two_classes())
    ants, store = folder / "train" / "ant", folder / "store"
    store.mkdir()
    (ants / "0.png").rename(store / "zero.png")
    (ants / "0.png").symlink_to("../../store/zero.png")
    os.link(store / "zero.png", ants / "again.png")
    (ants / "2.png").rename(ants / "2.PNG")
    (folder / "test" / "bee").rename(store / "bee")
    (folder / "test" / "bee").symlink_to("../store/bee")
    return folder


def test_links_count_alike_in_every_container(tmp_path):
    plain = write_tree(tmp_path / "plain", two_classes())
    (plain / "train" / "ant" / "again.png").write_bytes((plain / "train" / "ant" / "0.png").read_bytes())
    expected, folder = load_dataset(f"folder:{plain}"), linked_tree(tmp_path / "linked")
    places = [folder, *(pack(folder, tmp_path / f"{top}.tar", top) for top in ("", "top"))]
    places += [pack(folder, tmp_path / f"linked.tar.{mode}", mode=f"w:{mode}") for mode in ("gz", "bz2", "xz")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for place in places:
            assert same_tensors(load_dataset(f"folder:{place}"), expected), place
    with tarfile.open(places[1]) as tar:
        assert {tar.getmember("./train/ant/0.png").type, tar.getmember("./test/bee").type} == {tarfile.SYMTYPE}
        assert any(member.islnk() for member in tar)
    moved = tmp_path / "one split linked"
    (moved / "elsewhere").mkdir(parents=True)
    (plain / "test").rename(moved / "elsewhere" / "test")
    (plain / "train").rename(moved / "train")
    (moved / "test").symlink_to("elsewhere/test")
    for place in (moved, pack(moved, tmp_path / "moved.tar")):
        assert same_tensors(load_dataset(f"folder:{place}"), expected), place


def test_compressed_archives_are_read_forward(tmp_path, monkeypatch):
    folder = write_tree(tmp_path / "tree", two_classes())
    archive, read, offsets = tmp_path / "tree.tar.gz", archive_module.TarTree.read, []
    with tarfile.open(archive, "w:gz") as tar:
        for split, name in (("train", "bee"), ("test", "ant"), ("train", "ant"), ("test", "bee")):
            tar.add(folder / split / name, f"{split}/{name}")
    monkeypatch.setattr(
        archive_module.TarTree, "read", lambda tar, path: offsets.append(tar.position(path)) or read(tar, path)
    )
    assert same_tensors(load_dataset(f"folder:{archive}"), load_dataset(f"folder:{folder}"))
    first, *rest = offsets  # the first image is read before the others for its size
    assert len(rest) == 14 and rest == sorted(rest)


def test_invalid_sparse_members_are_named(tmp_path):
    archive = pack(write_tree(tmp_path / "tree", two_classes()), tmp_path / "tree.tar")
    sparse = tarfile.TarInfo("./train/ant/sparse.png")
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 1 << 20)  # the map: more bytes than are stored
    header[483:495] = b"%011o\0" % (1 << 20)
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    content = archive.read_bytes().rstrip(b"\0")
    padding = bytes(-len(content) % 512)
    archive.write_bytes(content + padding + header + bytes(512) + bytes(1024))
    rejected(f"folder:{archive}", facts=[archive, "train/ant/sparse.png", "cannot be"])


def test_unreadable_images_are_named(tmp_path, monkeypatch):
    kinds = {
        "dangling.png": (lambda file: file.symlink_to("nowhere.png"), "cannot be read"),
        "dangling.JPEG": (lambda file: file.symlink_to("../../../nowhere.png"), "cannot be read"),
        "loop.png": (lambda file: file.symlink_to("loop.png"), "Too many levels"),
        "folder.png": (lambda file: file.mkdir(), "is a folder"),
        "pipe.png": (os.mkfifo, "pipe"),  # reading it would wait for ever
        "to a pipe.png": (lambda file: file.symlink_to("hidden.pipe"), "pipe"),
    }
    for name, (create, fact) in kinds.items():
        folder = write_tree(tmp_path / name, two_classes())
        os.mkfifo(folder / "test" / "ant" / "hidden.pipe")
        create(folder / "test" / "ant" / name)
        for place in (folder, pack(folder, tmp_path / f"{name}.tar")):
            rejected(f"folder:{place}", facts=[f"test/ant/{name}", place, fact])
    folder = write_tree(tmp_path / "a link out", two_classes())
    Image.new("RGB", (5, 6)).save(tmp_path / "secret.png")
    for link in (tmp_path / "secret.png", "../../../secret.png"):
        (folder / "train" / "ant" / "link.png").symlink_to(link)
        assert len(load_dataset(f"folder:{folder}").train_images) == 8
        rejected(f"folder:{pack(folder, tmp_path / 'out.tar')}", facts=["train/ant/link.png", "out of the archive"])
        (folder / "train" / "ant" / "link.png").unlink()
    for link in ("train/cat", "test"):  # a class, a split
        folder = write_tree(tmp_path / f"without {link}".replace("/", " "), two_classes(), splits=("train",))
        if link != "test":
            write_tree(folder, two_classes(), splits=("test",))
        (folder / link).symlink_to("nowhere")
        for place in (folder, pack(folder, tmp_path / "link.tar")):
            rejected(f"folder:{place}", facts=[repr(link), place, "cannot be read"])

    def forbidden(path, *arguments):
        raise PermissionError(13, "Permission denied", str(path))

    folder = write_tree(tmp_path / "forbidden", two_classes())
    for function in ("read_bytes", "is_dir"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, function, forbidden)
            rejected(f"folder:{folder}", facts=[folder, "cannot be read", "Permission denied"])
    os.mkfifo(tmp_path / "pipe")
    for name, place in ((f"folder:{tmp_path / 'pipe'}", None), ("cifar10", tmp_path / "pipe")):
        rejected(name, place, facts=[tmp_path / "pipe", "not a regular file"])


def test_what_is_not_read_is_said(tmp_path):
    folder = write_tree(tmp_path / "tree", two_classes())
    expected = load_dataset(f"folder:{folder}", cache=False)
    ant = folder / "train" / "ant"
    for hidden in (folder / "train" / ".DS_Store", ant / "._0.png", folder / "README.txt"):
        hidden.write_bytes(b"")
    (ant / "below").mkdir()
    for extra in (folder / "test" / "0.png", ant / "0.avif", ant / "below" / "0.png"):
        extra.write_bytes((ant / "0.png").read_bytes())
    for place in (folder, pack(folder, tmp_path / "tree.tar")):
        with pytest.warns(UserWarning) as said:
            assert same_tensors(load_dataset(f"folder:{place}", cache=False), expected)
        (message,) = (str(warning.message) for warning in said)
        assert "3 files or folders" in message and str(place) in message and "\n" not in message
        assert all(repr(name) in message for name in ("train/ant/0.avif", "train/ant/below", "test/0.png"))


def test_class_names_that_differ_unseen_are_shown(tmp_path):
    composed, decomposed = "Gr\xf6\xdfe", "Gro\u0308\xdfe"  # as Linux and macOS write the same name
    images = {"ant": random_images(2), composed: random_images(2, seed=1)}
    folder = write_tree(tmp_path / "mixed", images)
    (folder / "test" / composed).rename(folder / "test" / decomposed)
    for place in (folder, pack(folder, tmp_path / "mixed.tar")):
        rejected(f"folder:{place}", facts=[ascii(composed), ascii(decomposed), "test/", "rename"])
    (folder / "test" / decomposed).rename(folder / "test" / f"{composed}\u200b")
    rejected(f"folder:{folder}", facts=[ascii(composed), ascii(f"{composed}\u200b"), "rename"])
    (folder / "test" / f"{composed}\u200b").rename(folder / "test" / "Ant ")
    rejected(f"folder:{folder}", facts=["not in test/", "add or delete it"])
    both = write_tree(tmp_path / "both", {**images, decomposed: random_images(2, seed=2)})
    rejected(f"folder:{both}", facts=["look the same", ascii(composed), ascii(decomposed)])
    stored = write_tree(tmp_path / "bytes", two_classes())
    for split in ("train", "test"):
        (stored / split / "bee").rename(stored / split / os.fsdecode(b"caf\xe9"))
    for place in (stored, pack(stored, tmp_path / "bytes.tar")):
        rejected(f"folder:{place}", facts=[r"b'caf\xe9'", "train/", place, "not UTF-8"])


def test_image_sets_of_one_colour_are_rejected(tmp_path):
    for split in ("train", "test"):
        folder = write_tree(tmp_path / split, two_classes())
        for file in folder.glob(f"{split}/*/*.png"):
            Image.new("RGB", (5, 6), (255, 255, 255)).save(file)
        rejected(f"folder:{folder}", facts=[f"all 7 {split} images", folder, "(255, 255, 255)"])
        Image.new("RGB", (5, 6), (255, 255, 254)).save(file)
        load_dataset(f"folder:{folder}")


def test_constant_channel_has_std_one(tmp_path):
    images = random_images(2)
    for image in images:
        image[..., 1] = 0
    dataset = load_dataset(f"folder:{write_tree(tmp_path, {'only': images})}")
    assert dataset.mean[1] == 0.0 and dataset.std[1] == 1.0 and dataset.std[0] != 1.0


# ---------------------------------------------------------------------------------------------------------------------
# fingerprint and holdout


def test_fingerprint_depends_on_content_only():
    images, labels = np.stack(random_images(10)), np.arange(10) % 3
    fingerprint = content_fingerprint(images, labels)
    assert fingerprint == slow_fingerprint(images, labels)[0]
    order = np.random.default_rng(0).permutation(10)
    assert content_fingerprint(torch.from_numpy(images[order]), torch.from_numpy(labels[order])) == fingerprint
    strided = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).permute(0, 2, 3, 1)
    assert content_fingerprint(strided, labels) == fingerprint
    one_bit = images.copy()
    one_bit[4, 2, 1, 0] ^= 1
    other_label = labels.copy()
    other_label[0] += 1
    assert len({fingerprint, content_fingerprint(one_bit, labels), content_fingerprint(images, other_label)}) == 3
    assert content_fingerprint(images[1:], labels[1:]) != fingerprint


def as_set(images, labels):
    return {(image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


def test_holdout_splits_the_training_images():
    digits = load_dataset("digits")
    tuned = digits.holdout(200)
    assert tuned.evaluation_split == "holdout" and (len(tuned.train_labels), len(tuned.test_labels)) == (1215, 200)
    whole, rest = as_set(digits.train_images, digits.train_labels), as_set(tuned.train_images, tuned.train_labels)
    held, test = as_set(tuned.test_images, tuned.test_labels), as_set(digits.test_images, digits.test_labels)
    assert rest | held == whole and not rest & held and not held & test
    # each class gives its share, to the image
    share = torch.bincount(digits.train_labels) * 200 / 1415
    assert ((torch.bincount(tuned.test_labels) - share).abs() < 1).all()
    for split in ("train", "test"):
        fingerprint, digests = slow_fingerprint(getattr(tuned, f"{split}_images"), getattr(tuned, f"{split}_labels"))
        assert tuned.fingerprints[split] == fingerprint and digests == sorted(digests)
    assert tuned.mean == pytest.approx(tuned.train_images.double().mean((0, 1, 2)).div(255).tolist())
    assert tuned.mean != digits.mean
    assert same_tensors(tuned, digits.holdout(200))
    assert (tuned.name, tuned.classes, tuned.flip) == (digits.name, digits.classes, digits.flip)


def test_impossible_holdout_is_rejected(tmp_path):
    digits = load_dataset("digits")
    for n in (0, -1, 1415, 2.5, "200"):
        with pytest.raises(ValueError, match=f"holdout={n!r}.*1 to 1414"):
            digits.holdout(n)
    with pytest.raises(ValueError, match="already"):
        digits.holdout(100).holdout(100)
    small = load_dataset(f"folder:{write_tree(tmp_path, two_classes())}")  # 3 and 4 images
    assert torch.bincount(small.holdout(1).test_labels, minlength=2).tolist() == [0, 1]
    assert torch.bincount(small.holdout(5).test_labels, minlength=2).tolist() == [2, 3]
    with pytest.raises(ValueError, match="holdout=6.*'ant'"):
        small.holdout(6)


def test_to_moves_every_tensor():
    moved = load_dataset("digits").to("meta")
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        assert getattr(moved, field).device.type == "meta"


# ---------------------------------------------------------------------------------------------------------------------
# the cache


@pytest.fixture
def no_decoding(monkeypatch):
    """A function after whose call decoding fails."""

    def fail(*arguments):
        raise AssertionError("the images were decoded again")

    return lambda: monkeypatch.setattr(tree_module, "_decode_image", fail)


def cache_file(project):
    (file,) = (project / "data" / "cache").glob("*.safetensors")
    return file


def test_second_load_uses_the_cache(tmp_path, project, no_decoding):
    folder = write_tree(tmp_path / "tree", two_classes())
    first = load_dataset(f"folder:{folder}")
    no_decoding()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = load_dataset(f"folder:{folder}")
    assert same_tensors(first, second) and first.classes == second.classes
    assert (first.mean, first.std, first.fingerprints) == (second.mean, second.std, second.fingerprints)
    check_invariants(second)
    assert cache_file(project).stat().st_mode & 0o777 == (folder / "train" / "ant" / "0.png").stat().st_mode & 0o777


def test_changed_source_is_read_again(tmp_path):
    for packed in (False, True):
        folder = write_tree(tmp_path / f"tree {packed}", two_classes())
        place, cache = pack(folder, tmp_path / "tree.tar") if packed else folder, tmp_path / f"cache {packed}"
        first = load_dataset(f"folder:{place}", cache=cache)
        Image.fromarray(random_images(1, seed=9)[0]).save(folder / "train" / "ant" / "0.png")
        if packed:
            pack(folder, place)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            second = load_dataset(f"folder:{place}", cache=cache)
        assert second.fingerprints["train"] != first.fingerprints["train"]
        assert second.fingerprints["test"] == first.fingerprints["test"]
        assert load_dataset(f"folder:{place}", cache=False).fingerprints == second.fingerprints
        assert len(list(cache.glob("*.safetensors"))) == 1, "the old file was not replaced"


def test_damaged_cache_is_rebuilt(tmp_path, project):
    name = f"folder:{write_tree(tmp_path / 'tree', two_classes())}"
    first = load_dataset(name)
    file = cache_file(project)
    sound = file.read_bytes()
    header = int.from_bytes(sound[:8], "little") + 8
    contents = {"no bytes": b"", "text": b"hello", "ones": b"\xff" * 100}
    positions = [*range(0, header, 15), *range(header, len(sound), (len(sound) - header) // 30), len(sound) - 1]
    for position in positions:
        contents[f"flipped byte {position}"] = flipped = bytearray(sound)
        flipped[position] ^= 1
    with safe_open(file, framework="pt") as stored:
        metadata, tensors = stored.metadata(), {key: stored.get_tensor(key).clone() for key in stored.keys()}  # noqa: SIM118
    for field in ("train_images", "train_labels"):
        tensors[field] = tensors[field].flip(0).contiguous()
    contents["another order"] = save(tensors, metadata)
    shapes = sound.replace(b"[7,6,5,3]", b"[7,5,6,3]"), sound.replace(b'"U8","shape":[7]', b'"I8","shape":[7]')
    assert sound not in shapes
    contents |= {"height for width": shapes[0], "signed labels": shapes[1]}
    contents |= {"half": sound[: len(sound) // 2], "more": sound + b"more"}
    for damage, content in contents.items():
        file.write_bytes(content)
        with pytest.warns(UserWarning, match=f"{file.name}.* is damaged .* is set aside as .*rebuilt"):
            again = load_dataset(name)
        assert file.with_name(f"{file.name}.damaged").read_bytes() == content
        assert same_tensors(first, again) and again.classes == first.classes, damage
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_dataset(name)
    file.unlink()
    os.mkfifo(file)  # opening it would wait for ever
    with pytest.warns(UserWarning, match="is damaged .not a file"):
        assert same_tensors(first, load_dataset(name))


def test_unwritable_cache_only_warns(tmp_path, project):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be cached in .*SENET_CACHE"):
        dataset = load_dataset("digits", cache=tmp_path / "file" / "cache")
    assert len(dataset.train_labels) == 1415 and not (project / "data").exists()


def test_cache_folder_can_be_chosen(tmp_path, project, monkeypatch):
    load_dataset("digits", cache=False)
    assert not (project / "data").exists()
    load_dataset("digits", cache=tmp_path / "given")
    monkeypatch.setenv("HOME", str(tmp_path))
    load_dataset("digits", cache="~/home")
    assert list((tmp_path / "home").glob("*.safetensors"))
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "named"))
    load_dataset("digits")
    assert len(list((tmp_path / "given").glob("*.safetensors"))) == len(
        list((tmp_path / "named").glob("*.safetensors"))
    )
    assert not (project / "data").exists()


def test_failed_builds_leave_no_files(tmp_path, project, monkeypatch):
    name = f"folder:{write_tree(tmp_path / 'tree', two_classes())}"
    load_dataset(name)
    file = cache_file(project)
    left = file.with_name(f".{file.name}.12345.tmp")  # as of a killed process
    left.write_bytes(b"half")
    file.unlink()
    load_dataset(name)
    assert file.exists() and not left.exists()

    file.unlink()
    monkeypatch.setattr(os, "replace", lambda *arguments: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.warns(UserWarning, match="disk full"):
        load_dataset(name)
    assert [path.suffix for path in (project / "data" / "cache").iterdir()] == [".lock"]


def test_second_process_waits_for_the_first(tmp_path, monkeypatch):
    folder = write_tree(tmp_path / "tree", two_classes())
    program = (
        "import json, sys; from senet_lib.data import image_tree, load_dataset\n"
        "decode, calls = image_tree._decode, []\n"
        "image_tree._decode = lambda *arguments: calls.append(1) or decode(*arguments)\n"
        "print('loading', flush=True)\n"
        "print(json.dumps([load_dataset(sys.argv[1]).fingerprints, len(calls)]))\n"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", program, f"folder:{folder}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    decode, second = tree_module._decode, []

    def start_the_second_and_decode(*arguments):
        second.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        assert second[0].stdout.readline() == "loading\n"
        time.sleep(0.5)  # without the lock it would have decoded by now
        return decode(*arguments)

    monkeypatch.setattr(tree_module, "_decode", start_the_second_and_decode)
    first = load_dataset(f"folder:{folder}")
    answer, _ = second[0].communicate(timeout=120)
    assert json.loads(answer) == [first.fingerprints, 0]
