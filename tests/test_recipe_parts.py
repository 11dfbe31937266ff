"""The parts of a fast recipe, each compared with its formula computed in another way."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from senet_lib.data import normalise
from senet_lib.models import create_model
from senet_lib.study import Recipe
from senet_lib.training.averaging import WeightAverage
from senet_lib.training.optimizer import MUON_MOMENTUM, Muon, make_optimizers, orthogonal, set_learning_rate
from senet_lib.training.resizing import image_size, pixel_shares, resized
from senet_lib.training.tta import tta_accuracy
from senet_lib.training.whitening import EPS, patch_covariance, whiten_stem

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
PLAIN = {"momentum": 0.0, "nesterov": False}


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].bias.fill_(0.7)
    return model


def steps(model, recipe, lr, gradient, count=1, settled=False):
    """Every parameter before and after `count` SGD steps under a constant gradient. settled: the momentum has reached
    its limit under that gradient."""
    (optimizer,) = make_optimizers(model, recipe, fused=False)
    if settled:
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, gradient / (1 - recipe.momentum))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(count):
        set_learning_rate(optimizer, lr)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    return before, {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_bias_lr_factor():
    recipe = Recipe(lr=0.1, momentum=0.5, weight_decay=0.02, bias_lr_factor=8)
    before, after = steps(small(), recipe, 0.05, 2.0)
    for name, old in before.items():
        factor = 8 if name == "1.bias" else 1
        # Nesterov's first step: (1 + momentum) times the gradient
        expected = old - 0.05 * factor * 1.5 * (2.0 + 0.02 / factor * old)
        torch.testing.assert_close(after[name], expected, msg=name)


def test_batch_norm_without_bias_is_allowed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4))
    (optimizer,) = make_optimizers(model, Recipe(bias_lr_factor=2), fused=False)
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 1]


def test_each_parameter_is_in_one_group():
    model = create_model("sk_se_resnet20", width=0.25, reduction=2)
    for recipe, kinds in (
        (Recipe(), [nn.Module]),
        (Recipe(bias_lr_factor=2), [nn.Module, nn.BatchNorm2d]),
        (Recipe(bias_lr_factor=2, muon_lr=0.1), [nn.Module, nn.BatchNorm2d, nn.Conv2d]),
    ):
        optimizers = make_optimizers(model, recipe, fused=False)
        groups = [group["params"] for optimizer in optimizers for group in optimizer.param_groups]
        ids = [id(parameter) for group in groups for parameter in group]
        assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())
        assert len(groups) == len(kinds)
        for group, kind in list(zip(groups, kinds, strict=True))[1:]:
            count = sum(isinstance(module, kind) for module in model.modules())
            assert len(group) == count - (kind is nn.Conv2d), "all convolutions except the first"


def test_decoupled_lr_is_per_1024_images():
    for batch_size in (128, 1024):
        for momentum in ({"momentum": 0.9}, {"momentum": 0.6, "nesterov": False}, PLAIN):
            recipe = Recipe(lr=0.4, weight_decay=0.0, decoupled=True, batch_size=batch_size, **momentum)
            before, after = steps(small(), recipe, 0.4, 0.5, 1024 // batch_size, settled=True)
            for name, old in before.items():
                torch.testing.assert_close(after[name], old - 0.4 * 0.5, msg=f"{name}, {recipe}")


def test_decoupled_decay_is_per_1024_images():
    for lr in (0.4, 4.0):
        for factor in (1, 64):
            recipe = Recipe(lr=lr, weight_decay=0.03, decoupled=True, batch_size=512, bias_lr_factor=factor, **PLAIN)
            before, after = steps(small(), recipe, lr, 0.0, count=2)
            for name, old in before.items():
                torch.testing.assert_close(after[name], old * (1 - 0.03 / 2) ** 2, msg=f"{name}, {lr}, {factor}")


def test_orthogonal_keeps_directions():
    for shape in ((5, 12), (12, 5), (6, 6)):
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        u, s, vt = torch.linalg.svd(x, full_matrices=False)
        x = u @ torch.diag(torch.linspace(3.0, 0.6, len(s), dtype=torch.float64)) @ vt
        inside = u.T @ orthogonal(x[None])[0] @ vt.T
        torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-9, rtol=0)
        assert inside.diagonal().min() > 0.5
        assert inside.diagonal().max() < 1.5


def test_muon_in_bfloat16():
    updates = {}
    for dtype in (None, torch.bfloat16):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(16, 8, 3, 3))
        weight.grad = torch.randn(16, 8, 3, 3)
        scaled = weight.detach() * 4 / weight.detach().norm()
        Muon([weight], lr=1.0, dtype=dtype).step()
        updates[dtype] = (scaled - weight.detach()).flatten()
        assert updates[dtype].dtype == torch.float32
    assert not torch.equal(*updates.values())
    assert torch.cosine_similarity(*updates.values(), dim=0) > 0.999


def test_muon_follows_its_formula():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, bias=False), nn.Flatten(), nn.Linear(6, 2)).double()
    recipe = Recipe(lr=0.5, weight_decay=0.1, momentum=0.0, nesterov=False, muon_lr=0.2)
    optimizers = make_optimizers(model, recipe, fused=False)
    generator = torch.Generator().manual_seed(1)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    buffer = torch.zeros_like(model[1].weight)
    for lr in (0.5, 0.25):
        for name, p in model.named_parameters():
            gradient = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            p.grad = gradient.clone()
            if name != "1.weight":
                expected[name] = expected[name] - lr * (gradient + 0.1 * expected[name])
                continue
            buffer = MUON_MOMENTUM * buffer + gradient
            update = orthogonal((gradient + MUON_MOMENTUM * buffer).flatten(1)[None]).view(p.shape)
            scaled = expected[name] * 6**0.5 / expected[name].norm()
            expected[name] = scaled - 0.2 * lr / 0.5 * update
        for optimizer in optimizers:
            set_learning_rate(optimizer, lr)
            optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], msg=name)


class Operations(TorchDispatchMode):
    """Counts the operations that compute or copy something."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def test_muon_moves_equal_shapes_together():
    """As one weight at a time does, in whatever memory order, but with operations that grow with the shapes alone."""
    counts = {}
    for name in ("resnet20", "resnet56"):
        torch.manual_seed(0)
        model = create_model(name, num_classes=10, width=0.5).to(memory_format=torch.channels_last)
        weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
        weights[1].data = weights[1].data.contiguous()
        for weight in weights:
            weight.grad = torch.randn(weight.shape).contiguous(memory_format=torch.channels_last)
        alone = []
        for weight in weights if name == "resnet20" else ():
            one = nn.Parameter(weight.detach().clone())
            one.grad = weight.grad
            alone.append(one)
            Muon([one], lr=0.1).step()
        together = Muon(weights, lr=0.1)
        together.step()
        for one, weight in zip(alone, weights, strict=False):
            torch.testing.assert_close(weight, one)
        with Operations() as operations:
            together.step()
        counts[name] = operations.count
    assert counts["resnet20"] == counts["resnet56"] < 250


def averaged(kind, values, *, every, decay):
    """(weights after the last step, average): a model whose one weight is moved by `values`, step by step."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 10.0)
    recipe = Recipe(averaging=kind, averaging_steps=every, averaging_decay=decay)
    average = WeightAverage(model, recipe, len(values))
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            model.weight += value
        average.update(step)
    return model.weight.item(), average.state["weight"].item()


def test_average_follows_its_recurrence():
    values = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0]
    for kind in ("ema", "lookahead"):
        weight = average = 10.0
        for step, value in enumerate(values, start=1):
            weight += value
            if step in (1, 3, 5, 7):  # every second step, including the last
                share = 0.9**2 * (step / 7) ** 3
                average = share * average + (1 - share) * weight
                weight = average if kind == "lookahead" else weight
        assert averaged(kind, values, every=2, decay=0.9) == pytest.approx((weight, average)), kind


def test_average_without_decay():
    assert averaged("ema", [1.0, 2.0], every=1, decay=0.0) == (13.0, 13.0)


def test_batch_norm_statistics_are_averaged():
    model = nn.BatchNorm2d(2)
    average = WeightAverage(model, Recipe(averaging="ema", averaging_steps=1, averaging_decay=0.5), 2)
    for step, mean in enumerate((1.0, 3.0), start=1):
        model.running_mean.fill_(mean)
        model.num_batches_tracked.fill_(step)
        average.update(step)
    # after step 1 of 2: 0.5 / 8 of 0 and the rest of 1; after step 2: half of that and half of 3
    expected = 0.5 * (1 - 0.5 / 8) + 0.5 * 3
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with average.in_the_model():
        assert model.running_mean.tolist() == pytest.approx([expected] * 2)
        assert model.num_batches_tracked == 2
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


class OnePixel(nn.Module):
    """Two logits: a threshold, and the red of the pixel in row 1, column 1."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        assert not self.training
        seen = x[:, 0, 1, 1]
        return torch.stack((torch.full_like(seen, self.threshold), seen), 1)


# position of a single bright pixel -> total weight of the views that show it in row 1, column 1
SEEN = {(1, 1): 0.25, (1, 2): 0.25, (0, 0): 0.125, (0, 1): 0.125, (2, 2): 0.125, (2, 3): 0.125}
SEEN_UNMIRRORED = {(1, 1): 0.5, (0, 0): 0.25, (2, 2): 0.25}


def test_tta_weights_of_views():
    images = torch.zeros(16, 4, 4, 3, dtype=torch.uint8)
    images.view(16, 16, 3)[range(16), range(16), 0] = 255  # a bright pixel in each place
    labels = torch.ones(16, dtype=torch.int64)
    for mirror, seen in ((True, SEEN), (False, SEEN_UNMIRRORED)):
        for threshold in (0.01, 0.12, 0.13, 0.24, 0.26, 0.49, 0.51):
            model = OnePixel(threshold).train()
            found = tta_accuracy(model, images, labels, mean=(0,) * 3, std=(1,) * 3, mirror=mirror, batch_size=5)
            assert found == sum(weight > threshold for weight in seen.values()) / 16, (mirror, threshold)
            assert model.training, "the mode is restored"


def test_tta_border_is_reflected():
    images = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    images[0, 1, 1, 0] = 255  # beyond the corner of a reflected border, too

    class Corner(OnePixel):
        def forward(self, x):
            return super().forward(x.roll((1, 1), (2, 3)))  # looks at row 0, column 0

    arguments = {"mean": (0,) * 3, "std": (1,) * 3, "mirror": False, "batch_size": 1}
    labels = torch.ones(1, dtype=torch.int64)
    assert tta_accuracy(Corner(0.49), images, labels, **arguments) == 1, "both moved views show it there: 1/4 + 1/4"
    assert tta_accuracy(Corner(0.51), images, labels, **arguments) == 0


def smooth_images(n=40):
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(n, 3, 16, 16, generator=generator)
    smooth = F.avg_pool2d(noise, 3, 1, 1) * 3 + noise.mean(1, keepdim=True)
    return (smooth / smooth.max() * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def test_patch_covariance_equals_numpy():
    images = smooth_images(7)
    x = normalise(images, MEAN, STD).double().numpy()
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))  # (N, 3, 14, 14, 3, 3)
    patches = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 27)
    found = patch_covariance(images, (3, 3), MEAN, STD)
    np.testing.assert_allclose(found.numpy(), np.cov(patches.T, bias=True), atol=1e-12)


def test_whitened_stem_decorrelates():
    images = smooth_images()
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    before = stem.weight.detach().clone()
    whiten_stem(nn.Sequential(stem, nn.Conv2d(64, 3, 1)), images, mean=MEAN, std=STD)
    weight = stem.weight.detach()
    outputs = F.conv2d(normalise(images, MEAN, STD), weight[:27]).movedim(1, 0).flatten(1)  # (27, N*14*14)
    values = torch.linalg.eigvalsh(patch_covariance(images, (3, 3), MEAN, STD)).flip(0)
    expected = torch.diag((values / (values + EPS)).float())
    torch.testing.assert_close(outputs.cov(correction=0), expected, atol=1e-3, rtol=0)
    assert expected.diagonal().min() > 0.5, "the case is one in which eps decides little"
    assert torch.equal(weight[27:54], -weight[:27])
    assert torch.equal(weight[54:], before[54:]), "filters beyond the patch's numbers stay"


def test_narrow_stem_gets_largest_eigenvalues():
    images = smooth_images()
    wide, narrow = nn.Conv2d(3, 64, 3), nn.Conv2d(3, 9, 3)
    last = narrow.weight[8].detach().clone()
    for stem in (wide, narrow):
        whiten_stem(stem, images, mean=MEAN, std=STD)
    assert torch.equal(narrow.weight[:4], wide.weight[:4])
    assert torch.equal(narrow.weight[4:8], -wide.weight[:4])
    assert torch.equal(narrow.weight[8], last)
    sizes = wide.weight[:27].flatten(1).norm(dim=1)
    assert (sizes[1:] >= sizes[:-1] * (1 - 1e-5)).all(), "the larger the eigenvalue, the shorter the filter"


def test_whitening_needs_an_rgb_stem():
    for model in (nn.Linear(3, 2), nn.Conv2d(1, 4, 3), nn.Conv2d(3, 6, 3, groups=3)):
        with pytest.raises(ValueError, match="whiten_stem needs .* 3"):
            whiten_stem(model, smooth_images(2), mean=MEAN, std=STD)


def test_image_size_per_epoch():
    for first, full_from, epochs, sizes in (
        (16, 0.5, 8, [16, 20, 24, 28, 32, 32, 32, 32]),
        (20, 0.75, 8, [20, 20, 24, 24, 28, 28, 32, 32]),  # 20, 22, 24, 26, 28, 30, rounded down
        (18, 0.5, 4, [18, 24, 32, 32]),
        (None, 0.5, 3, [32, 32, 32]),
        (32, 0.9, 3, [32, 32, 32]),
        (20, 0.95, 4, [20, 20, 24, 32]),  # the last epoch, although 0.95 * 4 > 3
        (16, 0.5, 1, [32]),
    ):
        recipe = Recipe(epochs=epochs, first_size=first, full_size_from=full_from)
        assert [image_size(recipe, epoch, 32) for epoch in range(epochs)] == sizes, recipe


def test_image_size_of_crops():
    recipe = Recipe(epochs=6, crop_size=26, first_size=16, full_size_from=0.5)
    assert [image_size(recipe, epoch, 32) for epoch in range(6)] == [16, 16, 20, 26, 26, 26]
    assert pixel_shares(recipe, 32)[-1] == (26 / 32) ** 2, "of the whole image's pixels"


def test_first_size_above_full_resolution():
    with pytest.raises(ValueError, match="first_size=40 is larger than the images; allowed: 8 to 32"):
        image_size(Recipe(first_size=40), 0, 32)
    with pytest.raises(ValueError, match="first_size=30 is larger than the crops; allowed: 8 to 28"):
        image_size(Recipe(first_size=30, crop_size=28), 0, 32)


def test_resized_keeps_mean_and_position():
    x = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    assert resized(x, 32) is x
    small = resized(x, 16)
    assert small.shape == (2, 3, 16, 12)
    torch.testing.assert_close(small.mean((2, 3)), x.mean((2, 3)), atol=5e-3, rtol=0)
    spot = torch.zeros(1, 1, 8, 8)
    spot[0, 0, 2:4, 6:8] = 1.0
    assert resized(spot, 4).argmax() == 1 * 4 + 3, "row 1, column 3 of the halved image"
