"""Example images: the right ones, from the data that was evaluated, and none where that is not at hand."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from synthetic import THREE, write_study

from senet_lib import data
from senet_lib.analysis import examples, plots, tables
from senet_lib.data import Dataset
from senet_lib.files import read_json
from senet_lib.report import pictures
from senet_lib.results import EXAMPLES, load_results, write_predictions, write_summary

CLASSES = ("cat", "dog", "frog")
TRUE = [0, 0, 1, 1, 2, 2]


def predicted_by(folder, run_id, predicted):
    run_dir = folder / "runs" / run_id
    write_predictions(run_dir, np.array(TRUE[: len(predicted)]), np.array(predicted), np.full(len(predicted), 0.5))
    write_summary(run_dir, read_json(run_dir / "summary.json"))


@pytest.fixture
def folder(tmp_path):
    """Two networks, one seed, six images: both take image 1 for a dog, one takes 0 for a dog and 3 for a cat."""
    two = {label: THREE[label] for label in ("resnet20", "se_resnet20")}
    write_study(tmp_path, two, seeds=(0,), classes=CLASSES, images=6)
    predicted_by(tmp_path, "resnet20-seed0", [1, 1, 1, 0, 2, 2])
    predicted_by(tmp_path, "se_resnet20-seed0", [0, 1, 1, 1, 2, 0])
    return tmp_path


@pytest.fixture
def at_hand(monkeypatch):
    """A data set of six images in place of the real one; what it was asked for."""
    asked = []

    def make(labels=TRUE, side=4):
        pixels = torch.arange(len(labels) * side * side * 3).reshape(-1, side, side, 3).to(torch.uint8)
        labels = torch.tensor(labels)
        images = {"train_images": pixels, "train_labels": labels, "test_images": pixels, "test_labels": labels}
        made = Dataset("made up", CLASSES, mean=(0.5,) * 3, std=(0.5,) * 3, flip=False, fingerprints={}, **images)

        def load(name, root=None, *, download=True):
            asked.append((name, root, download))
            return made

        monkeypatch.setattr(data, "load_dataset", load)
        return pixels, asked

    return make


def test_the_images_are_those_that_most_runs_got_wrong(folder):
    chosen = examples.choose(load_results(folder))
    rows = chosen[["first", "second", "image", "true", "taken", "runs"]].to_numpy().tolist()
    assert rows == [
        ["cat", "dog", 1, "cat", 2, 2],
        ["cat", "dog", 0, "cat", 1, 2],
        ["cat", "dog", 3, "dog", 1, 2],
        ["cat", "frog", 5, "frog", 1, 2],
    ]
    pairs = tables.confused_pairs(load_results(folder))
    assert list(pairs["first"] + pairs["second"]) == ["catdog", "catfrog"], "in the order of the table"


def test_a_pair_has_no_more_images_than_fit(tmp_path):
    chosen = examples.choose(load_results(write_study(tmp_path, images=1000)))
    sizes = chosen.groupby(["first", "second"]).size()
    assert len(sizes) == examples.PAIRS
    assert sizes.max() == examples.EACH
    for _, pair in chosen.groupby(["first", "second"]):
        assert pair["taken"].is_monotonic_decreasing


def test_runs_that_saw_different_images_have_no_examples(folder):
    predicted_by(folder, "se_resnet20-seed0", [0, 1, 1, 1])
    assert examples.choose(load_results(folder)).empty


def test_what_is_left_is_what_the_report_shows(folder, at_hand):
    pixels, asked = at_hand()
    pictures.save(folder, "a place")
    assert asked == [("cifar10", "a place", False)], "nothing is downloaded for a picture"
    study = load_results(folder)
    shown = examples.pictures(study)
    assert sorted(shown) == [0, 1, 3, 5]
    for image, found in shown.items():
        assert np.array_equal(found, pixels[image].numpy())
    written = (folder / EXAMPLES).stat().st_mtime_ns
    pictures.save(folder, "a place")
    assert (folder / EXAMPLES).stat().st_mtime_ns == written
    assert len(asked) == 1, "the data is not loaded for what is there"

    chosen = examples.choose(study)
    axes = plots.example_images(chosen, shown)
    assert axes.shape == (2, 3)
    assert axes[0, 0].get_title() == "cat\nas dog: 2 of 2"
    assert np.array_equal(axes[1, 0].get_images()[0].get_array(), pixels[5])
    plt.close("all")
    listed = examples.by_network(study, chosen)
    assert listed.loc[2].tolist() == ["3", "dog", "cat", "1 of 1", "0 of 1"]


def test_other_predictions_choose_again(folder, at_hand):
    at_hand()
    pictures.save(folder, None)
    predicted_by(folder, "resnet20-seed0", [0, 0, 1, 1, 0, 2])
    pictures.save(folder, None)
    assert sorted(examples.pictures(load_results(folder))) == [1, 4, 5]


def test_the_same_choice_gives_the_same_bytes(folder, at_hand):
    at_hand()
    pictures.save(folder, None)
    first = (folder / EXAMPLES).read_bytes()
    (folder / EXAMPLES).unlink()
    pictures.save(folder, None)
    assert (folder / EXAMPLES).read_bytes() == first


def test_other_data_than_was_evaluated_leaves_nothing(folder, at_hand):
    at_hand(labels=TRUE[::-1])
    pictures.save(folder, None)
    assert not (folder / EXAMPLES).exists()


def test_without_the_data_nothing_is_left_and_nothing_fails(folder, tmp_path):
    pictures.save(folder, str(tmp_path / "nowhere"))
    assert not (folder / EXAMPLES).exists()
    assert examples.pictures(load_results(folder)) == {}


def test_pictures_of_other_labels_are_not_shown(folder, at_hand):
    at_hand()
    pictures.save(folder, None)
    for run_id in ("resnet20-seed0", "se_resnet20-seed0"):
        run_dir = folder / "runs" / run_id
        write_predictions(run_dir, np.array(TRUE[::-1]), np.array(TRUE), np.full(6, 0.5))
        write_summary(run_dir, read_json(run_dir / "summary.json"))
    assert set(examples.pictures(load_results(folder))) == {3}, (
        "the only one whose class is the same the other way round"
    )


def test_large_images_are_made_smaller(folder, at_hand):
    at_hand(side=2 * pictures.LARGEST)
    pictures.save(folder, None)
    assert {found.shape for found in examples.pictures(load_results(folder)).values()} == {(64, 64, 3)}


def test_a_held_out_study_shows_the_images_that_were_held_out(tmp_path, at_hand):
    """Nine training images of three classes, three of them set aside: the first of each class."""
    two = {label: THREE[label] for label in ("resnet20", "se_resnet20")}
    labels = [2, 0, 1] * 3
    write_study(tmp_path, two, seeds=(0,), classes=CLASSES, images=3, holdout=3)
    for run_id in ("resnet20-seed0", "se_resnet20-seed0"):
        run_dir = tmp_path / "runs" / run_id
        write_predictions(run_dir, np.array([2, 0, 1]), np.array([2, 1, 1]), np.full(3, 0.5))
        write_summary(run_dir, read_json(run_dir / "summary.json"))
    pixels, _ = at_hand(labels)
    pictures.save(tmp_path, None)
    assert np.array_equal(examples.pictures(load_results(tmp_path))[1], pixels[1].numpy())


def test_an_unfinished_study_has_none(tmp_path):
    write_study(tmp_path, seeds=(0,), missing=[f"{label}-seed0" for label in THREE])
    pictures.save(tmp_path, None)
    assert examples.choose(load_results(tmp_path)).empty
