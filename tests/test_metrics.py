"""Accuracy, confusion counts, parameters and multiply-adds, on cases that a person can count."""

import numpy as np
import pytest
import torch
from torch import nn

from senet_lib.metrics import accuracy, confusion_counts, count_macs, count_params


def test_accuracy_of_arrays_lists_and_tensors():
    assert accuracy([0, 1, 2, 2], [0, 1, 1, 1]) == 0.5
    assert accuracy(np.array([3]), np.array([3])) == 1.0
    assert accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 2])) == 0.75


def test_accuracy_is_a_python_float():
    assert type(accuracy(torch.tensor([1, 0]), torch.tensor([1, 1]))) is float


@pytest.mark.parametrize(("labels", "predicted"), [([], []), ([0, 1], [0]), ([[0]], [[0]])])
def test_accuracy_of_nothing_or_of_unlike_shapes_is_refused(labels, predicted):
    with pytest.raises(ValueError, match="one shape"):
        accuracy(labels, predicted)


def test_confusion_rows_are_the_true_class():
    counts = confusion_counts(labels=[0, 0, 0, 1, 2], predicted=[0, 1, 1, 1, 0], num_classes=3)
    assert counts.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]
    assert counts.dtype == np.int64


def test_confusion_of_uint8_does_not_overflow():
    labels = np.full(300, 99, np.uint8)
    assert confusion_counts(labels, labels, 100)[99, 99] == 300


def test_confusion_keeps_classes_that_never_occur():
    assert confusion_counts([0], [0], 4).shape == (4, 4)


@pytest.mark.parametrize(("labels", "predicted"), [([0, 3], [0, 0]), ([0, 0], [0, 3]), ([-1, 0], [0, 0])])
def test_confusion_of_a_class_out_of_range_is_refused(labels, predicted):
    with pytest.raises(ValueError, match="allowed: 0 to 2"):
        confusion_counts(labels, predicted, 3)


def test_params_are_the_trainable_ones():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 2))
    assert count_params(model) == 3 * 8 * 9 + 2 * 8 + 8 * 2 + 2
    model[0].weight.requires_grad_(False)
    assert count_params(model) == 2 * 8 + 8 * 2 + 2


def test_macs_of_each_kind_of_layer():
    assert count_macs(nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 10, 10)) == 10 * 10 * 8 * 3 * 9
    assert count_macs(nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=True), (3, 10, 10)) == 5 * 5 * 8 * 3 * 9
    assert count_macs(nn.Conv2d(8, 8, 3, padding=1, groups=4), (8, 10, 10)) == 10 * 10 * 8 * 2 * 9
    assert count_macs(nn.Conv2d(8, 8, 3, padding=2, dilation=2), (8, 10, 10)) == 10 * 10 * 8 * 8 * 9
    assert count_macs(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)) == 12 * 5
    assert count_macs(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1)), (3, 4, 4)) == 4 * 4 * 3


def test_counting_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout()).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (3, 8, 8))
    assert model.training and model[2].training and not model[1].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[0].weight.device.type == "cpu"


def test_a_failed_count_leaves_the_mode_as_it_was():
    model = nn.Sequential(nn.Linear(4, 2)).train()
    with pytest.raises(RuntimeError):
        count_macs(model, (3, 8, 8))
    assert model.training and model[0].training


def test_macs_of_a_double_precision_model():
    assert count_macs(nn.Conv2d(3, 1, 1).double(), (3, 2, 2)) == 12
