"""Example images: selected from the predictions, and stored only from the data that was evaluated."""

import matplotlib

matplotlib.use("agg")

import numpy as np
import pytest
import torch
from synthetic import THREE, write_study

from senet_lib import data
from senet_lib.analysis import examples, tables
from senet_lib.data import Dataset
from senet_lib.files import read_json
from senet_lib.report import pictures
from senet_lib.results import EXAMPLES, load_results, write_predictions, write_summary

CLASSES = ("cat", "dog", "frog")
TRUE = [0, 0, 1, 1, 2, 2]
RUNS = ("resnet20-seed0", "se_resnet20-seed0")
TWO = {label: THREE[label] for label in ("resnet20", "se_resnet20")}


def write(folder, run_id, predicted, true=TRUE):
    run_dir = folder / "runs" / run_id
    write_predictions(run_dir, np.array(true[: len(predicted)]), np.array(predicted), np.full(len(predicted), 0.5))
    write_summary(run_dir, read_json(run_dir / "summary.json"))


@pytest.fixture
def folder(tmp_path):
    """Six images: both networks misclassify cat 1 as dog, one of them cat 0 as dog and dog 3 as cat."""
    write_study(tmp_path, TWO, seeds=(0,), classes=CLASSES, images=6)
    write(tmp_path, RUNS[0], [1, 1, 1, 0, 2, 2])
    write(tmp_path, RUNS[1], [0, 1, 1, 1, 2, 0])
    return tmp_path


@pytest.fixture
def available(monkeypatch):
    """Replaces the data set by six made-up images; returns their pixels and the calls of `load_dataset`."""
    calls = []

    def make(labels=TRUE, side=4):
        pixels = torch.arange(len(labels) * side * side * 3).reshape(-1, side, side, 3).to(torch.uint8)
        labels = torch.tensor(labels)
        images = {"train_images": pixels, "train_labels": labels, "test_images": pixels, "test_labels": labels}
        made = Dataset("made up", CLASSES, mean=(0.5,) * 3, std=(0.5,) * 3, flip=False, fingerprints={}, **images)

        def load(name, root=None, *, download=True):
            calls.append((name, root, download))
            return made

        monkeypatch.setattr(data, "load_dataset", load)
        return pixels, calls

    return make


def test_most_misclassified_images_are_chosen(folder, tmp_path_factory):
    results = load_results(folder)
    chosen = examples.choose(results)
    assert chosen[["first", "second", "image", "true", "wrong", "runs"]].to_numpy().tolist() == [
        ["cat", "dog", 1, "cat", 2, 2],
        ["cat", "dog", 0, "cat", 1, 2],
        ["cat", "dog", 3, "dog", 1, 2],
        ["cat", "frog", 5, "frog", 1, 2],
    ]
    pairs = tables.confused_pairs(results)
    assert list(pairs["first class"] + pairs["second class"]) == ["catdog", "catfrog"]  # in the same order
    assert examples.by_network(results, chosen).loc[2].tolist() == ["3", "dog", "cat", "1 of 1", "0 of 1"]
    many = examples.choose(load_results(write_study(tmp_path_factory.mktemp("many"), TWO, images=1000)))
    pairs = [pair["wrong"] for _, pair in many.groupby(["first", "second"])]
    assert (len(pairs), max(map(len, pairs))) == (examples.PAIRS, examples.EACH)
    assert all(wrong.is_monotonic_decreasing for wrong in pairs)


def test_nothing_is_chosen_without_common_images(folder, tmp_path_factory):
    write(folder, RUNS[1], [0, 1, 1, 1])  # fewer images than the other run
    assert examples.choose(load_results(folder)).empty
    unfinished = write_study(tmp_path_factory.mktemp("none"), TWO, seeds=(0,), missing=RUNS)
    pictures.save(unfinished, None)
    assert examples.choose(load_results(unfinished)).empty


def test_stored_pictures_are_those_evaluated(folder, available):
    pixels, calls = available()
    pictures.save(folder, "a place")
    assert calls == [("cifar10", "a place", False)]  # never downloads
    shown = examples.pictures(load_results(folder))
    assert sorted(shown) == [0, 1, 3, 5]
    assert all(np.array_equal(found, pixels[image].numpy()) for image, found in shown.items())
    content, written = (folder / EXAMPLES).read_bytes(), (folder / EXAMPLES).stat().st_mtime_ns
    pictures.save(folder, "a place")
    assert (folder / EXAMPLES).stat().st_mtime_ns == written and len(calls) == 1
    (folder / EXAMPLES).unlink()
    pictures.save(folder, None)
    assert (folder / EXAMPLES).read_bytes() == content
    write(folder, RUNS[0], [0, 0, 1, 1, 0, 2])  # other predictions, other choice
    pictures.save(folder, None)
    assert sorted(examples.pictures(load_results(folder))) == [1, 4, 5]


def test_other_data_stores_nothing(folder, available, tmp_path):
    pictures.save(folder, str(tmp_path / "nowhere"))  # no data at all
    assert examples.pictures(load_results(folder)) == {}
    available(labels=TRUE[::-1])
    pictures.save(folder, None)
    assert not (folder / EXAMPLES).exists()


def test_pictures_of_other_labels_are_hidden(folder, available):
    available()
    pictures.save(folder, None)
    for run_id in RUNS:
        write(folder, run_id, TRUE, true=TRUE[::-1])
    assert set(examples.pictures(load_results(folder))) == {3}  # the only one with the same class in reverse order


def test_large_images_are_reduced(folder, available):
    available(side=2 * pictures.LARGEST)
    pictures.save(folder, None)
    shapes = {found.shape for found in examples.pictures(load_results(folder)).values()}
    assert shapes == {(pictures.LARGEST, pictures.LARGEST, 3)}


def test_validation_split_shows_its_own_images(tmp_path, available):
    """Of nine training images in three classes, the first of each class are the validation split."""
    write_study(tmp_path, TWO, seeds=(0,), classes=CLASSES, images=3, holdout=3)
    for run_id in RUNS:
        write(tmp_path, run_id, [2, 1, 1], true=[2, 0, 1])
    pixels, _ = available([2, 0, 1] * 3)
    pictures.save(tmp_path, None)
    assert np.array_equal(examples.pictures(load_results(tmp_path))[1], pixels[1].numpy())
