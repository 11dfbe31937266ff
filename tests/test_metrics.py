"""Accuracy, confusion counts, parameters and multiply-adds, on cases that can be counted without a computer."""

import numpy as np
import pytest
import torch
from torch import nn

from senet_lib.metrics import accuracy, confusion_counts, count_macs, count_params


def test_accuracy_of_arrays_lists_and_tensors():
    assert accuracy([0, 1, 2, 2], [0, 1, 1, 1]) == 0.5
    assert accuracy(np.array([3]), np.array([3])) == 1.0
    assert accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 2])) == 0.75
    assert type(accuracy(torch.tensor([1, 0]), torch.tensor([1, 1]))) is float


def test_unequal_or_empty_labels_are_rejected():
    for labels, predicted in (([], []), ([0, 1], [0]), ([[0]], [[0]])):
        for metric in (accuracy, lambda a, b: confusion_counts(a, b, 2)):
            with pytest.raises(ValueError, match=r"\(N,\)"):
                metric(labels, predicted)


def test_confusion_rows_are_true_classes():
    counts = confusion_counts(labels=[0, 0, 0, 1, 2], predicted=[0, 1, 1, 1, 0], num_classes=4)
    assert counts.tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert counts.dtype == np.int64
    labels = np.full(300, 99, np.uint8)  # 99 * 100 + 99 overflows uint8
    assert confusion_counts(labels, labels, 100)[99, 99] == 300


def test_confusion_rejects_unknown_classes():
    for name, labels, predicted in (("labels", [0, 3], [0, 0]), ("predicted", [0, 0], [0, 3]), ("labels", [-1], [0])):
        with pytest.raises(ValueError, match=f"^{name} .*0 to 2"):
            confusion_counts(labels, predicted, 3)


def test_params_counts_trainable_ones():
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
    assert count_macs(nn.Conv2d(3, 1, 1).double(), (3, 2, 2)) == 4 * 3


def test_counting_leaves_model_unchanged():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout()).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (3, 8, 8))
    with pytest.raises(RuntimeError):
        count_macs(model, (4, 8, 8))  # an image with another number of channels
    assert model.training and model[2].training and not model[1].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[0].weight.device.type == "cpu"
