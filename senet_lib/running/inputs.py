"""Check a study's networks and recipes against its data before anything starts: in seconds, without training."""

from collections.abc import Iterable
from dataclasses import replace

import torch

from senet_lib.data import Augmenter, Dataset, load_dataset
from senet_lib.data.catalog import DATASETS
from senet_lib.errors import UserError
from senet_lib.metrics import run_on_meta
from senet_lib.models import create_model
from senet_lib.study import RunConfig
from senet_lib.training.resizing import image_size
from senet_lib.training.runtime import resolve_precision
from senet_lib.training.whitening import whiten_stem

UNUSABLE = (ValueError, RuntimeError, TypeError, OverflowError)  # raised for sizes that torch cannot use


def outline(name: str, root: str | None = None) -> Dataset:
    """A data set in size and shape alone, from black images that take no memory, if these are known; else the data set
    itself. Raises data.DataError."""
    if name == "digits" or name not in DATASETS:  # part of scikit-learn; unknown
        return load_dataset(name, root)
    facts = DATASETS[name]
    pixels = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    return Dataset(
        name=name,
        classes=tuple(map(str, range(facts.classes))),
        train_images=pixels.expand(facts.train_images, facts.pixels, facts.pixels, 3),
        train_labels=torch.arange(facts.train_images) % facts.classes,
        test_images=pixels.expand(facts.test_images, facts.pixels, facts.pixels, 3),
        test_labels=torch.arange(facts.test_images) % facts.classes,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        flip=facts.flip,
        fingerprints={},
    )


def check_inputs(runs: Iterable[RunConfig], data: Dataset) -> None:
    """Build every network without allocating weights, and pass an image of each of its recipe's sizes through it.
    Raises UserError naming the configuration, and for an unknown precision in the environment variable."""
    resolve_precision("auto")
    for run in {run.label: run for run in runs}.values():
        try:
            _check(run, data)
        except UNUSABLE as error:
            said = str(error).partition("\n")[0]
            raise UserError(f"study {run.study!r}: networks.{run.label}: {said}") from error


def _check(run: RunConfig, data: Dataset) -> None:
    recipe = run.recipe
    with torch.device("meta"):
        network = create_model(run.model, num_classes=data.num_classes, **run.knobs)
    labels = data.train_labels
    if recipe.holdout:
        corners = replace(data, train_images=data.train_images[:, :1, :1])  # quick to copy
        labels = corners.holdout(recipe.holdout).train_labels
    Augmenter(  # checks the recipe's sizes in pixels
        data.train_images[:1],
        labels[:1],
        batch_size=recipe.batch_size,
        padding=recipe.crop_padding,
        fill=recipe.crop_fill,
        crop_size=recipe.crop_size,
        cutout=recipe.cutout,
        flip=False,
        mean=data.mean,
        std=data.std,
    )
    if recipe.whiten_stem:
        whiten_stem(network, data.train_images[:1], mean=data.mean, std=data.std)

    _, height, width = data.image_shape
    crop = (recipe.crop_size, recipe.crop_size) if recipe.crop_size else (height, width)
    smallest = image_size(recipe, 0, height)
    for size in {(height, width), crop, (smallest, round(crop[1] * smallest / crop[0]))}:
        try:
            run_on_meta(network, (3, *size))
        except UNUSABLE as error:
            raise UserError(
                f"the network cannot process images of {size[0]}x{size[1]} pixels ({error}); change the recipe's "
                "sizes or the network's options"
            ) from error
