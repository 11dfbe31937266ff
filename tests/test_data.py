"""The five data sets: where they are found, that their content is checked, and that one order and split come out."""

import gzip
import hashlib
import io
import itertools
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from senet_lib.data import DATASETS, DataError, content_fingerprint, load_dataset
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
    """An empty project folder; no data set from elsewhere and no network comes into a test by accident."""
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
# small data sets, written here


def write_tree(folder, images, suffix=".png", splits=("train", "test")):
    """images: {class: list of (H, W, 3) arrays}; the test split gets each image plus one, so that the splits differ."""
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
    """Writes str and bytes as Python 2's str (BINSTRING), as the official archives have them."""

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
    """A made-up CIFAR: the official files' layout and number of classes, two training and one test image a class."""

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


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def slow_fingerprint(images, labels):
    """The definition, word for word."""
    digests = []
    for image, label in zip(np.asarray(images), labels.tolist(), strict=True):
        digests.append(hashlib.sha256(bytes([label]) + image.tobytes(order="C")).hexdigest())
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(), digests


def check_invariants(dataset):
    """What every loaded data set is, whatever its name."""
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


@pytest.mark.parametrize(
    ("wrong", "near"), [("cifar-10", "cifar10"), ("fashionmnist", "fashion_mnist"), ("digit", "digits")]
)
def test_an_unknown_name_is_told_the_nearest_ones(wrong, near):
    with pytest.raises(ValueError) as error:
        load_dataset(wrong)
    message = one_line(error)
    assert repr(wrong) in message and f"did you mean {near!r}" in message
    assert all(name in message for name in DATASETS)


# ---------------------------------------------------------------------------------------------------------------------
# digits


def test_digits():
    digits = load_dataset("digits")
    assert digits.name == "digits" and digits.classes == tuple("0123456789") and not digits.flip
    assert digits.train_images.shape == (1415, 32, 32, 3) and digits.test_images.shape == (382, 32, 32, 3)
    assert torch.bincount(digits.test_labels).min() >= 35
    assert digits.image_shape == (3, 32, 32)
    check_invariants(digits)


def test_digits_are_the_bundled_ones_split_in_the_files_order():
    from sklearn.datasets import load_digits

    bundle, digits = load_digits(), load_dataset("digits")
    # averaging each 4x4 field nearly undoes the enlargement: enough to recognise every digit in its split
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


@pytest.mark.parametrize("found_by", ["debian", "SENET_DATA", "project", "root"])
def test_fashion_mnist_is_found(small_fashion, project, monkeypatch, found_by):
    root = None
    if found_by == "debian":
        monkeypatch.setattr(load_module, "DEBIAN_FOLDER", small_fashion)
    elif found_by == "SENET_DATA":
        monkeypatch.setenv("SENET_DATA", str(small_fashion.parent))
    elif found_by == "project":
        small_fashion.parent.rename(project / "data")
    else:
        root = small_fashion.parent
    fashion = load_dataset("fashion_mnist", root)
    assert fashion.train_images.shape == (30, 28, 28, 3) and fashion.test_images.shape == (10, 28, 28, 3)
    assert fashion.classes[0] == "T-shirt/top" and fashion.classes[9] == "Ankle boot" and fashion.flip
    assert (fashion.train_images[..., :1] == fashion.train_images).all()
    check_invariants(fashion)


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


def test_fashion_mnist_of_other_content_names_file_expected_and_found(small_fashion):
    file = small_fashion / "t10k-labels-idx1-ubyte"
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(DataError) as error:
        load_dataset("fashion_mnist", small_fashion)
    message = one_line(error)
    assert str(file) in message and expected in message
    assert hashlib.sha256(file.read_bytes()).hexdigest() in message


def test_fashion_mnist_damaged_or_in_part(small_fashion):
    file = small_fashion / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="train-images-idx3-ubyte.gz' cannot be read"):
        load_dataset("fashion_mnist", small_fashion)
    file.unlink()
    with pytest.raises(DataError, match="train-images-idx3-ubyte.gz is missing"):
        load_dataset("fashion_mnist", small_fashion)


def test_fashion_mnist_nowhere_says_where_it_was_looked_for(project):
    with pytest.raises(DataError) as error:
        load_dataset("fashion_mnist")
    message = one_line(error)
    assert str(project / "data") in message and "no-debian-package" in message and "SENET_DATA" in message


@pytest.mark.skipif(
    not fashion_module.DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_itself():
    fashion = load_dataset("fashion_mnist", fashion_module.DEBIAN_FOLDER, cache=False)
    assert fashion.train_images.shape == (60_000, 28, 28, 3) and fashion.test_images.shape == (10_000, 28, 28, 3)
    assert torch.bincount(fashion.train_labels).tolist() == [6000] * 10
    assert fashion.mean[0] == pytest.approx(0.2860, abs=5e-5) and fashion.std[0] == pytest.approx(0.3530, abs=5e-5)


# ---------------------------------------------------------------------------------------------------------------------
# cifar10, cifar100


def test_cifar_is_the_same_from_every_container(small_cifar, tmp_path, monkeypatch):
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


def test_cifar_pickled_by_python_3(tmp_path, small_cifar10):
    modern = SmallCifar("cifar10", tmp_path / "modern", dump=python3_pickle)
    assert modern.files != small_cifar10.files
    folder = modern.unpacked(tmp_path / "modern")
    assert load_dataset("cifar10", folder).fingerprints == small_cifar10.fingerprints


def test_the_written_pickles_are_python_2s(small_cifar10):
    content = small_cifar10.files["data_batch_1"]
    assert b"cnumpy.core.multiarray\n_reconstruct" in content and b"_codecs" not in content
    assert not {opcode.name for opcode, _, _ in pickletools.genops(content)} & {"BINUNICODE", "SHORT_BINBYTES"}


@pytest.mark.parametrize("found_by", ["SENET_DATA folder", "SENET_DATA file", "project"])
def test_cifar_is_found_by_default(small_cifar10, tmp_path, project, monkeypatch, found_by):
    tree = small_cifar10.tree(tmp_path / "tree")
    if found_by == "project":
        (project / "data").mkdir()
        tree.rename(project / "data" / "cifar10")
    elif found_by == "SENET_DATA folder":
        monkeypatch.setenv("SENET_DATA", str(tree))
    else:
        monkeypatch.setenv("SENET_DATA", str(pack(tree, tmp_path / "cifar10.tar", "cifar10")))
    assert load_dataset("cifar10").fingerprints == small_cifar10.fingerprints


def test_cifar_is_downloaded_whole_or_not_at_all(small_cifar, tmp_path, project, monkeypatch, capsys):
    name, cifar = small_cifar.name, small_cifar.cifar
    archive = small_cifar.archive(tmp_path / "server" / cifar.archive)
    url = archive.as_uri()
    monkeypatch.setitem(cifar_module.CIFAR, name, cifar._replace(url=url))  # the md5 is still the real archive's
    with pytest.raises(DataError) as error:
        load_dataset(name)
    message = one_line(error)
    assert cifar.md5 in message and hashlib.md5(archive.read_bytes()).hexdigest() in message and url in message
    assert not list((project / "data").glob("*cifar*tmp")) and not (project / "data" / cifar.archive).exists()

    expect_md5_of(archive, name, monkeypatch, url)
    dataset = load_dataset(name)
    assert dataset.fingerprints == small_cifar.fingerprints
    assert (project / "data" / cifar.archive).read_bytes() == archive.read_bytes()
    assert url in capsys.readouterr().err
    archive.unlink()  # the next load needs no download
    assert same_tensors(load_dataset(name, cache=False), dataset)


def test_cifar_nowhere_says_what_was_looked_for_where_and_what_to_do(project, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("SENET_DATA", str(elsewhere))
    with pytest.raises(DataError) as error:
        load_dataset("cifar10")
    message = one_line(error)
    for part in (
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py/",
        "cifar10.tar",
        "train/<class>/*",
        str(elsewhere),
        str(project / "data"),
        "file:///nowhere/cifar-10-python.tar.gz",
        "SENET_DATA",
    ):
        assert part in message


def test_a_root_that_is_given_is_the_only_place(small_cifar10, tmp_path, project):
    small_cifar10.unpacked(project / "data")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="leave root out") as error:
        load_dataset("cifar10", empty)
    assert str(empty) in one_line(error) and str(project) not in str(error.value)
    with pytest.raises(DataError, match="does not exist"):
        load_dataset("cifar10", tmp_path / "missing")


def test_a_missing_SENET_DATA_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SENET_DATA", str(tmp_path / "missing"))
    with pytest.raises(DataError, match="correct SENET_DATA") as error:
        load_dataset("cifar10")
    assert str(tmp_path / "missing") in one_line(error)


def test_an_official_archive_of_another_md5_names_both(small_cifar10, tmp_path):
    archive = small_cifar10.archive(tmp_path / "cifar-10-python.tar.gz")
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", archive)
    message = one_line(error)
    assert str(archive) in message and hashlib.md5(archive.read_bytes()).hexdigest() in message
    assert "c58f30108f718f92721af3b95e74349a" in message


@pytest.mark.parametrize("damage", ["truncated", "not an archive", "empty"])
def test_a_damaged_archive_is_named(small_cifar10, tmp_path, damage):
    archive = small_cifar10.archive(tmp_path / "copy.tar.gz")
    content = archive.read_bytes()
    archive.write_bytes(
        {"truncated": content[: len(content) // 2], "not an archive": b"hello" * 400, "empty": b""}[damage]
    )
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", archive)
    assert str(archive) in one_line(error)


def test_a_truncated_tar_of_a_tree_is_named(small_cifar10, tmp_path):
    archive = pack(small_cifar10.tree(tmp_path / "tree"), tmp_path / "cifar10.tar")
    content = archive.read_bytes()
    for length in (len(content) // 2, len(content) // 2 + 700):
        archive.write_bytes(content[:length])
        with pytest.raises(DataError) as error:
            load_dataset("cifar10", archive)
        assert str(archive) in one_line(error)


def test_other_images_are_refused_with_both_fingerprints(small_cifar, tmp_path, monkeypatch):
    name = small_cifar.name
    tree = small_cifar.tree(tmp_path / "tree")
    known = small_cifar.fingerprints
    changed = tree / "test" / small_cifar.names[3] / "3.webp"
    pixels = small_cifar.test[3].copy()
    pixels[0, 0, 0] ^= 1  # the smallest change there is
    Image.fromarray(pixels).save(changed, lossless=True)
    with pytest.raises(DataError) as error:
        load_dataset(name, tree)
    message = one_line(error)
    small_cifar.test[3] = pixels
    assert known["test"] in message and small_cifar.fingerprints["test"] in message and "test images" in message
    assert not list((tmp_path / "project").rglob("*.safetensors")), "what is refused must not be kept"


def test_an_exchanged_label_is_noticed(small_cifar10, tmp_path):
    tree = small_cifar10.tree(tmp_path / "tree")
    first, second = (tree / "train" / name for name in small_cifar10.names[:2])
    (first / "0.webp").rename(second / "0.webp")
    (second / "2.webp").rename(first / "2.webp")
    with pytest.raises(DataError, match="train images .* fingerprint"):
        load_dataset("cifar10", tree)


def test_the_wrong_cifar_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    other = SmallCifar("cifar100", tmp_path / "small")
    monkeypatch.setattr(tree_module, "_decode", None)
    tree = other.tree(tmp_path / "tree")
    with pytest.raises(DataError, match="holds 100 classes, expected 10"):
        load_dataset("cifar10", tree)
    with pytest.raises(DataError, match="holds 100 classes, expected 10"):
        load_dataset("cifar10", pack(tree, tmp_path / "cifar10.tar"))
    archive = other.archive(tmp_path / "cifar-100.tar.gz")
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", archive)
    assert str(archive) in one_line(error)


def test_a_missing_batch_is_named(small_cifar10, tmp_path):
    folder = small_cifar10.unpacked(tmp_path)
    (folder / "data_batch_3").unlink()
    for root in (tmp_path, folder, pack(folder, tmp_path / "part.tar", folder.name)):
        with pytest.raises(DataError, match="data_batch_3 is missing"):
            load_dataset("cifar10", root)


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: batch.update({b"data": batch[b"data"][:, :3071]}),
        lambda batch: batch.update({b"data": batch[b"data"].astype(np.float32)}),
        lambda batch: batch.update({b"labels": batch[b"labels"][1:]}),
        lambda batch: batch.update({b"labels": [10] * len(batch[b"labels"])}),
        lambda batch: batch.update({b"labels": ["0"] * (len(batch[b"labels"]) - 1) + ["x"]}),
        lambda batch: batch.pop(b"data"),
        lambda batch: batch.pop(b"labels"),
    ],
)
def test_a_batch_of_the_wrong_make_is_named(small_cifar10, tmp_path, change):
    folder = small_cifar10.unpacked(tmp_path)
    batch = small_cifar10.batch(small_cifar10.test, small_cifar10.test_labels)
    change(batch)
    (folder / "test_batch").write_bytes(python2_pickle(batch))
    with pytest.raises(DataError, match="test_batch of .* does not hold images and labels"):
        load_dataset("cifar10", folder)


class Malicious:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("attack", ["os.system", "open", "getattr of numpy"])
def test_a_malicious_pickle_is_not_executed(small_cifar10, tmp_path, attack, packed):
    marker = tmp_path / "executed"
    payload = {
        "os.system": Malicious(os.system, f"touch '{marker}'"),
        "open": Malicious(open, str(marker), "w"),
        "getattr of numpy": Malicious(np.save, str(marker), np.zeros(1)),
    }[attack]
    small_cifar10.files["data_batch_2"] = pickle.dumps({b"data": payload}, protocol=2)
    root = small_cifar10.archive(tmp_path / "copy.tar.gz") if packed else small_cifar10.unpacked(tmp_path)
    with pytest.raises(DataError, match="data_batch_2 of .* is not a pickle of plain arrays") as error:
        load_dataset("cifar10", root)
    one_line(error)
    assert not list(tmp_path.glob("executed*"))
    pickle.loads(small_cifar10.files["data_batch_2"])  # but it would have run
    assert list(tmp_path.glob("executed*"))


@pytest.mark.parametrize("content", [b"", b"\x80\x02}", b"not a pickle", pickle.dumps([1, 2])])
def test_a_damaged_pickle_is_named(small_cifar10, tmp_path, content):
    folder = small_cifar10.unpacked(tmp_path)
    (folder / "data_batch_5").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_5 of ") as error:
        load_dataset("cifar10", folder)
    one_line(error)


def real_cifar10():
    """Where CIFAR-10 lies on this machine, if anywhere: SENET_TEST_DATA, SENET_DATA, data/ or a shared/data/ beside."""
    named = [Path(REAL_DATA)] if REAL_DATA else []
    for place in (*named, PROJECT / "data", PROJECT.parent / "shared" / "data"):
        if place.exists() and cifar_module.find_cifar("cifar10", place):
            return place
    return None


@pytest.mark.skipif(
    real_cifar10() is None, reason="CIFAR-10 is not at hand: set SENET_TEST_DATA to a folder or archive with it"
)
def test_cifar10_itself():
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


def test_a_folder_of_images(tmp_path):
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


def test_a_relative_folder_is_meant_from_the_project_or_root(project, tmp_path, monkeypatch):
    write_tree(project / "mine", two_classes())
    write_tree(tmp_path / "other" / "mine", two_classes(5))
    monkeypatch.chdir(tmp_path)
    mine, other = load_dataset("folder:mine"), load_dataset("folder:mine", tmp_path / "other")
    assert mine.fingerprints != other.fingerprints
    assert other.fingerprints == load_dataset(f"folder:{tmp_path / 'other' / 'mine'}").fingerprints


def test_images_of_every_mode_become_rgb(tmp_path):
    for split in ("train", "test"):
        folder = tmp_path / split / "only"
        folder.mkdir(parents=True)
        grey = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
        grey.save(folder / "grey.png")
        grey.convert("RGBA").save(folder / "alpha.png")
        grey.convert("P").save(folder / "palette.gif")
        grey.convert("1").save(folder / "bits.PNG")
        (folder / "notes.txt").write_text("not an image")
        (folder / ".hidden.png").write_bytes(b"not an image")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert len(dataset.train_images) == 4
    expected = torch.arange(16, dtype=torch.uint8).reshape(4, 4, 1).expand(4, 4, 3)
    assert sum(torch.equal(image, expected) for image in dataset.train_images) == 3


def break_tree(folder, how):
    """Damage a tree of the classes ant and bee; the words that the message must have."""
    if how == "missing":
        return folder / "nowhere", ["nowhere", "does not exist", "train/<class>"]
    if how == "empty":
        empty = folder / "empty"
        empty.mkdir()
        return empty, [str(empty), "train/<class>/*"]
    if how == "no test":
        (folder / "test").rename(folder / "validation")
        return folder, ["test/<class>/*", str(folder)]
    if how == "class in train only":
        (folder / "test" / "bee").rename(folder / "elsewhere")
        return folder, ["'bee'", "train/", "not in test/", str(folder)]
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
    if how == "another size":
        Image.new("RGB", (8, 3)).save(folder / "test" / "ant" / "2.png")
        return folder, ["test/ant/2.png", "8x3", "5x6"]
    raise AssertionError(how)


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


@pytest.mark.parametrize(("how", "packed"), [("missing", False), *itertools.product(BREAKAGES, (False, True))])
def test_a_broken_tree_is_named_in_one_line(tmp_path, how, packed):
    folder, words = break_tree(write_tree(tmp_path / "tree", two_classes()), how)
    if packed:
        words = [word for word in words if word != str(folder)] + ["tree.tar"]
        folder = pack(folder, tmp_path / "tree.tar")
    with pytest.raises(DataError) as error:
        load_dataset(f"folder:{folder}")
    message = one_line(error)
    for word in words:
        assert word in message


def test_a_folder_without_a_name():
    with pytest.raises(DataError, match="names no folder"):
        load_dataset("folder:")


def test_too_many_classes(tmp_path, monkeypatch):
    folder = write_tree(tmp_path / "tree", two_classes())
    monkeypatch.setattr(tree_module, "MAX_CLASSES", 1)
    with pytest.raises(DataError, match="2 classes; at most 1"):
        load_dataset(f"folder:{folder}")


@pytest.mark.parametrize("member", ["../evil.png", "/etc/evil.png", "train/../../evil.png"])
def test_a_tar_with_members_outside_is_refused(tmp_path, member):
    archive = pack(write_tree(tmp_path / "tree", two_classes()), tmp_path / "tree.tar")
    with tarfile.open(archive, "a") as tar:
        tar.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(DataError, match="outside") as error:
        load_dataset(f"folder:{archive}")
    assert repr(member) in one_line(error)


def test_links_in_a_tar_are_not_followed(tmp_path):
    folder = write_tree(tmp_path / "tree", two_classes())
    secret = tmp_path / "secret.png"
    Image.new("RGB", (5, 6)).save(secret)
    (folder / "train" / "ant" / "link.png").symlink_to(secret)
    archive = pack(folder, tmp_path / "tree.tar")
    assert len(load_dataset(f"folder:{archive}").train_images) == 7


def test_two_trees_in_one_tar_are_refused(tmp_path):
    folder = write_tree(tmp_path / "tree", two_classes())
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        tar.add(folder, "one")
        tar.add(folder, "two")
    with pytest.raises(DataError, match="more than one image tree: 'one', 'two'"):
        load_dataset(f"folder:{tmp_path / 'two.tar'}")


def test_a_constant_channel_has_std_one(tmp_path):
    black = {"only": [np.zeros((4, 4, 3), np.uint8)]}
    dataset = load_dataset(f"folder:{write_tree(tmp_path, black)}")
    assert dataset.mean == (0.0, 0.0, 0.0) and dataset.std == (1.0, 1.0, 1.0)


# ---------------------------------------------------------------------------------------------------------------------
# fingerprint and holdout


def test_the_fingerprint_depends_on_content_only():
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


def test_holdout_comes_out_of_the_training_images_only():
    digits = load_dataset("digits")
    tuned = digits.holdout(200)
    assert tuned.evaluation_split == "holdout" and (len(tuned.train_labels), len(tuned.test_labels)) == (1215, 200)
    whole, rest = as_set(digits.train_images, digits.train_labels), as_set(tuned.train_images, tuned.train_labels)
    aside, test = as_set(tuned.test_images, tuned.test_labels), as_set(digits.test_images, digits.test_labels)
    assert rest | aside == whole and not rest & aside and not aside & test
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


def test_holdout_of_impossible_size(tmp_path):
    digits = load_dataset("digits")
    for n in (0, -1, 1415, 2.5, "200"):
        with pytest.raises(ValueError, match="between 1 and 1414"):
            digits.holdout(n)
    with pytest.raises(ValueError, match="already"):
        digits.holdout(100).holdout(100)
    small = load_dataset(f"folder:{write_tree(tmp_path, two_classes())}")  # 3 and 4 images
    assert torch.bincount(small.holdout(1).test_labels, minlength=2).tolist() == [0, 1]
    assert torch.bincount(small.holdout(5).test_labels, minlength=2).tolist() == [2, 3]
    with pytest.raises(ValueError, match="no training image of class 'ant'"):
        small.holdout(6)


def test_to_moves_every_tensor():
    moved = load_dataset("digits").to("meta")
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        assert getattr(moved, field).device.type == "meta"


# ---------------------------------------------------------------------------------------------------------------------
# the cache


@pytest.fixture
def no_decoding(monkeypatch):
    """Call it to make every further decoding an error."""

    def fail(*arguments):
        raise AssertionError("the images were decoded again")

    return lambda: monkeypatch.setattr(tree_module, "_decode_image", fail)


def cache_file(project):
    (file,) = (project / "data" / "cache").glob("*.safetensors")
    return file


def test_the_second_load_comes_from_the_cache(tmp_path, project, no_decoding):
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


@pytest.mark.parametrize("packed", [False, True])
def test_a_changed_source_is_read_again(tmp_path, project, packed):
    folder = write_tree(tmp_path / "tree", two_classes())
    place = pack(folder, tmp_path / "tree.tar") if packed else folder
    first = load_dataset(f"folder:{place}")
    Image.fromarray(random_images(1, seed=9)[0]).save(folder / "train" / "ant" / "0.png")
    if packed:
        pack(folder, place)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = load_dataset(f"folder:{place}")
    assert second.fingerprints["train"] != first.fingerprints["train"]
    assert second.fingerprints["test"] == first.fingerprints["test"]
    assert load_dataset(f"folder:{place}", cache=False).fingerprints == second.fingerprints
    cache_file(project)  # still one file: the old one was replaced


def test_a_flipped_byte_in_the_cache_is_noticed_wherever_it_is(tmp_path, project):
    name = f"folder:{write_tree(tmp_path / 'tree', two_classes())}"
    first = load_dataset(name)
    file = cache_file(project)
    sound = file.read_bytes()
    header = int.from_bytes(sound[:8], "little") + 8
    for place in [*range(0, header, 7), *range(header, len(sound), (len(sound) - header) // 60), len(sound) - 1]:
        damaged = bytearray(sound)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged"):
            again = load_dataset(name)
        assert same_tensors(first, again) and again.classes == first.classes, place
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_dataset(name)


def test_another_order_in_the_cache_is_noticed(tmp_path, project):
    name = f"folder:{write_tree(tmp_path / 'tree', two_classes())}"
    first = load_dataset(name)
    with safe_open(cache_file(project), framework="pt") as stored:
        metadata, tensors = stored.metadata(), {key: stored.get_tensor(key).clone() for key in stored.keys()}  # noqa: SIM118
    for field in ("train_images", "train_labels"):
        tensors[field] = tensors[field].flip(0).contiguous()
    save_file(tensors, cache_file(project), metadata)
    with pytest.warns(UserWarning, match="damaged"):
        assert same_tensors(load_dataset(name), first)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100])
def test_a_cache_file_that_is_none_is_built_again(tmp_path, project, content):
    name = f"folder:{write_tree(tmp_path / 'tree', two_classes())}"
    first = load_dataset(name)
    cache_file(project).write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        assert same_tensors(load_dataset(name), first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_tensors(load_dataset(name), first)


def test_an_unwritable_cache_costs_a_warning_only(tmp_path, project):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be kept"):
        dataset = load_dataset("digits", cache=tmp_path / "file" / "cache")
    assert len(dataset.train_labels) == 1415 and not (project / "data").exists()


def test_where_the_cache_is(tmp_path, project, monkeypatch):
    load_dataset("digits", cache=False)
    assert not (project / "data").exists()
    load_dataset("digits", cache=tmp_path / "given")
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "named"))
    load_dataset("digits")
    assert len(list((tmp_path / "given").glob("*.safetensors"))) == len(
        list((tmp_path / "named").glob("*.safetensors"))
    )
    assert not (project / "data").exists()


def test_nothing_is_left_of_a_killed_writer(tmp_path, project):
    name = f"folder:{write_tree(tmp_path / 'tree', two_classes())}"
    load_dataset(name)
    file = cache_file(project)
    left = file.with_name(f".{file.name}.12345.tmp")
    left.write_bytes(b"half")
    file.unlink()
    load_dataset(name)
    assert file.exists() and not left.exists()


def test_a_killed_or_failed_build_leaves_no_cache(tmp_path, project, monkeypatch):
    folder = write_tree(tmp_path / "tree", two_classes())
    monkeypatch.setattr(os, "replace", lambda *arguments: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.warns(UserWarning, match="disk full"):
        load_dataset(f"folder:{folder}")
    assert [path.suffix for path in (project / "data" / "cache").iterdir()] == [".lock"]


def test_a_second_process_waits_for_the_first_ones_work(tmp_path, monkeypatch):
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
        time.sleep(0.5)  # it would have decoded by now, if nothing held it back
        return decode(*arguments)

    monkeypatch.setattr(tree_module, "_decode", start_the_second_and_decode)
    first = load_dataset(f"folder:{folder}")
    answer, _ = second[0].communicate(timeout=120)
    assert json.loads(answer) == [first.fingerprints, 0]
