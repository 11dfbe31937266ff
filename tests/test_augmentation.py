"""Batches against a slow, simple reference, and their dependence on seed and epoch only."""

import itertools

import numpy as np
import pytest
import torch

from senet_lib.data import Augmenter, eval_batches, normalise
from senet_lib.data.augment import pad

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def some_images(n=50, height=9, width=7, seed=0):
    generator = np.random.default_rng(seed)
    images = torch.from_numpy(generator.integers(0, 256, (n, height, width, 3), dtype=np.uint8))
    return images, torch.from_numpy(generator.integers(0, 10, n))


def augmenter(images, labels, batch_size=16, padding=2, flip=True, mean=MEAN, std=STD, **switches):
    return Augmenter(images, labels, batch_size=batch_size, padding=padding, flip=flip, mean=mean, std=std, **switches)


def reference_epoch(images, labels, *, batch_size, padding, flip, seed, epoch):
    """One image at a time: pad with black, crop, flip, normalise, channels first."""
    images, labels = images.numpy(), labels.numpy()
    n, height, width, _ = images.shape
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(n)
    mirrored = generator.integers(0, 2, n)
    down, right = generator.integers(0, 2 * padding + 1, (2, n))
    for start in range(0, n, batch_size):
        x, y = [], []
        for place in range(start, min(start + batch_size, n)):
            black = np.zeros((height + 2 * padding, width + 2 * padding, 3), np.uint8)
            black[padding : padding + height, padding : padding + width] = images[order[place]]
            crop = black[down[place] : down[place] + height, right[place] : right[place] + width]
            if flip and mirrored[place]:
                crop = crop[:, ::-1]
            x.append(((crop / 255 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1))
            y.append(labels[order[place]])
        yield np.stack(x), np.array(y)


def test_batches_equal_the_reference():
    images, labels = some_images()
    for batch_size, padding, flip in itertools.product((16, 1, 1000), (0, 1, 4), (True, False)):
        case = {"batch_size": batch_size, "padding": padding, "flip": flip}
        ours = augmenter(images, labels, **case)
        batches = list(ours.epoch(seed=3, epoch=5))
        assert len(batches) == ours.steps == -(-50 // batch_size), case
        reference = reference_epoch(images, labels, **case, seed=3, epoch=5)
        for (x, y), (expected_x, expected_y) in zip(batches, reference, strict=True):
            np.testing.assert_allclose(x.numpy(), expected_x, atol=2e-6, err_msg=str(case))
            np.testing.assert_array_equal(y.numpy(), expected_y, err_msg=str(case))
            assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
            assert y.dtype == torch.int64 and len(y) == len(x)


def whole(batches):
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


def same(one, other):
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_batches_depend_on_seed_and_epoch_only():
    images, labels = some_images()
    ours = augmenter(images, labels)
    first = whole(ours.epoch(seed=1, epoch=2))
    torch.manual_seed(99)  # the global generators have no effect
    np.random.seed(99)  # noqa: NPY002
    whole(ours.epoch(seed=7, epoch=7))
    assert same(first, whole(ours.epoch(seed=1, epoch=2)))
    assert same(first, whole(augmenter(images, labels).epoch(seed=1, epoch=2)))
    for seed, epoch in ((1, 3), (2, 2), (2, 1), (0, 2)):
        assert not same(first, whole(ours.epoch(seed=seed, epoch=epoch)))


def test_two_epochs_can_be_read_alternately():
    ours = augmenter(*some_images())
    one, other = ours.epoch(seed=0, epoch=0), ours.epoch(seed=0, epoch=1)
    mixed = list(zip(one, other, strict=True))
    assert same(whole(batch for batch, _ in mixed), whole(ours.epoch(seed=0, epoch=0)))
    assert same(whole(batch for _, batch in mixed), whole(ours.epoch(seed=0, epoch=1)))


def test_start_step_continues_the_same_epoch():
    ours = augmenter(*some_images())
    batches = list(ours.epoch(seed=4, epoch=1))
    for start_step in range(ours.steps + 1):
        rest = list(ours.epoch(seed=4, epoch=1, start_step=start_step))
        assert len(rest) == ours.steps - start_step
        assert all(same(one, other) for one, other in zip(rest, batches[start_step:], strict=True))
    for start_step in (-1, ours.steps + 1):  # an error at once, not at the first batch
        with pytest.raises(ValueError, match=f"start_step={start_step}.*0 to {ours.steps}"):
            ours.epoch(seed=4, epoch=1, start_step=start_step)


def test_every_epoch_contains_each_image_once():
    for n in (1, 2, 31, 32, 33, 49, 64, 65):
        ours = augmenter(torch.zeros((n, 4, 4, 3), dtype=torch.uint8), torch.arange(n), batch_size=16)
        labels = [y for _, y in ours.epoch(seed=0, epoch=0)]
        sizes = [len(y) for y in labels]
        assert len(sizes) == ours.steps
        assert sorted(torch.cat(labels).tolist()) == list(range(n))
        # a single remaining image would have no batch statistics where a map is 1x1: it joins the previous batch
        assert n == 1 or min(sizes) > 1, n
        assert max(sizes) <= 17 and (max(sizes) == 17) == (n % 16 == 1 and n > 1), n


def test_cutout_zeroes_one_square_per_image():
    images, labels = some_images(400)
    plain_x, plain_y = whole(augmenter(images, labels).epoch(seed=3, epoch=5))
    for cutout in (1, 4, 7):
        x, y = whole(augmenter(images, labels, cutout=cutout).epoch(seed=3, epoch=5))
        assert torch.equal(y, plain_y) and x.is_contiguous(memory_format=torch.channels_last)
        before, after = cutout // 2, cutout - cutout // 2
        squares = {
            (row, column): square(9, 7, row - before, row + after, column - before, column + after)
            for row in range(9)
            for column in range(7)
        }
        stacked = torch.stack(list(squares.values()))
        zeroed = (x == 0).all(1)  # (N, H, W): zero is the mean colour
        matches = (zeroed[:, None] == stacked).flatten(2).all(2)  # (N, squares)
        assert matches.any(1).all(), f"cutout={cutout}: a zeroed region is no square around a pixel"
        assert matches.any(0).all(), f"cutout={cutout}: a pixel is never a centre"
        kept = ~zeroed[:, None].expand_as(x)
        assert torch.equal(x[kept], plain_x[kept])


def square(height, width, top, bottom, left, right):
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[max(top, 0) : bottom, max(left, 0) : right] = True
    return inside


def test_cutout_squares_differ_between_epochs():
    images, labels = some_images(400)
    squares = [
        (whole(augmenter(images, labels, cutout=3).epoch(seed=0, epoch=epoch))[0] == 0).all(1).float().mean(0)
        for epoch in (0, 1)
    ]
    assert not torch.equal(*squares)
    assert abs(squares[0][4, 3] - 9 / 63) < 0.06  # far from the border a pixel is under 9 of 63 squares


def test_order_is_independent_of_padding_and_flip():
    images, _ = some_images()
    labels = torch.arange(len(images))
    orders = [
        whole(augmenter(images, labels, padding=padding, flip=flip).epoch(seed=5, epoch=0))[1].tolist()
        for padding, flip in ((0, False), (2, True), (4, False), (0, True))
    ]
    assert all(order == orders[0] for order in orders)
    assert orders[0] != sorted(orders[0])


def test_crops_and_flips_are_uniform():
    # each pixel's colour is its position, so that a crop shows its origin and whether it is flipped
    height = width = 8
    positions = torch.stack(torch.meshgrid(torch.arange(1, 9), torch.arange(1, 9), indexing="ij"), -1)
    image = torch.cat((positions, positions[..., :1]), -1).to(torch.uint8)
    n, padding = 4000, 2
    ours = augmenter(
        image.expand(n, height, width, 3).contiguous(),
        torch.zeros(n, dtype=torch.int64),
        batch_size=512,
        padding=padding,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    x = (whole(ours.epoch(seed=0, epoch=0))[0] * 255).round().to(torch.int64)
    row, column = x[:, 0, 4, 4], x[:, 1, 4, 4]
    flipped = x[:, 1, 4, 3] > x[:, 1, 4, 5]
    assert abs(int(flipped.sum()) - n / 2) < 4 * (n / 4) ** 0.5
    # not flipped, the pixel at 4 shows the image's 5th, shifted by -2..2; if flipped, the one at 3
    right = column - torch.where(flipped, 4, 5)
    down = row - 5
    counts = torch.bincount((down + 2) * 5 + right + 2, minlength=25)
    assert len(counts) == 25 and (counts - n / 25).abs().max() < 5 * (n / 25) ** 0.5


def by_image(ours, seed, epoch):
    """(N, 3, H, W): the epoch's images in the order of the data set; labels must be the image indices."""
    x, y = whole(ours.epoch(seed=seed, epoch=epoch))
    return x[y.argsort()]


def test_alternating_flip_inverts_every_epoch():
    images, _ = some_images()
    ours = augmenter(images, torch.arange(50), padding=0, alternating=True)
    x = normalise(images, MEAN, STD)
    flips = [(by_image(ours, 3, epoch) == x.flip(3)).flatten(1).all(1) for epoch in range(4)]
    for epoch, flipped in enumerate(flips):
        shown = torch.where(flipped[:, None, None, None], x.flip(3), x)
        assert torch.equal(by_image(ours, 3, epoch), shown)
        assert torch.equal(flipped, flips[0] ^ (epoch % 2 == 1))
    assert 10 < int(flips[0].sum()) < 40, "not random in the first epoch"
    other = (by_image(ours, 4, 0) == x.flip(3)).flatten(1).all(1)
    assert not torch.equal(other, flips[0]), "another seed has the same flips"


def test_alternating_flip_changes_nothing_else():
    image = torch.arange(1, 10, dtype=torch.uint8)[:, None, None].expand(9, 9, 3)  # symmetric: a flip has no effect
    images = image.expand(50, 9, 9, 3).contiguous()
    ours, random = (augmenter(images, torch.arange(50), fill="reflect", alternating=on) for on in (True, False))
    assert same(whole(ours.epoch(seed=3, epoch=5)), whole(random.epoch(seed=3, epoch=5)))
    images, labels = some_images()
    ours, plain = (augmenter(images, labels, flip=False, alternating=on) for on in (True, False))
    assert same(whole(ours.epoch(seed=3, epoch=5)), whole(plain.epoch(seed=3, epoch=5)))


def test_padding_equals_numpy():
    images, _ = some_images()
    for padding in (0, 1, 4, 6):
        for fill, mode in (("black", "constant"), ("reflect", "reflect")):
            expected = np.pad(images.numpy(), ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)
            np.testing.assert_array_equal(pad(images, padding, fill).numpy(), expected, err_msg=f"{fill} {padding}")


def test_crops_are_windows_of_the_padded_image():
    images, _ = some_images()
    for padding, size in ((2, None), (0, 5), (2, 5)):
        switches = {"padding": padding, "flip": False, "fill": "reflect", "crop_size": size}
        crops = by_image(augmenter(images, torch.arange(50), **switches), 3, 5)
        height, width = (size, size) if size else (9, 7)
        assert crops.shape == (50, 3, height, width)
        windows = normalise(pad(images, padding, "reflect"), MEAN, STD).unfold(2, height, 1).unfold(3, width, 1)
        found = (windows == crops[:, :, None, None]).all(5).all(4).all(1)  # (N, rows, columns): each crop's origin
        assert (found.sum((1, 2)) == 1).all(), switches
        assert found.any(0).any(0).all() and found.any(0).any(1).all(), f"{switches}: an origin never occurs"


def test_without_augmentation_only_the_order_changes():
    images, _ = some_images()
    x, y = whole(augmenter(images, torch.arange(50), padding=0, flip=False).epoch(seed=0, epoch=0))
    assert torch.equal(x, normalise(images, MEAN, STD)[y])


def test_images_are_not_modified():
    images, labels = some_images()
    before = images.clone()
    for padding in (0, 2):
        for x, _ in augmenter(images, labels, padding=padding).epoch(seed=0, epoch=0):
            x.zero_()
        assert torch.equal(images, before)


def test_normalise_gives_zero_mean_unit_std():
    images, _ = some_images(200)
    pixels = images.double() / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2), correction=0)
    x = normalise(images, mean.tolist(), std.tolist())
    assert x.shape == (200, 3, 9, 7) and x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.double(), ((pixels - mean) / std).permute(0, 3, 1, 2), atol=2e-6, rtol=0)
    torch.testing.assert_close(normalise(images[:, ::2, 1:], MEAN, STD), normalise(images, MEAN, STD)[:, :, ::2, 1:])


def test_eval_batches_keep_order():
    images, labels = some_images(33)
    batches = list(eval_batches(images, labels, batch_size=16, mean=MEAN, std=STD))
    assert [len(y) for _, y in batches] == [16, 16, 1]  # evaluation needs no batch statistics
    x, y = whole(batches)
    assert torch.equal(y, labels) and torch.equal(x, normalise(images, MEAN, STD))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches)


INVALID = [  # arguments, facts in the message
    ({"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, ["images", "(N, H, W, 3)", "(4, 3, 8, 8)"]),
    ({"images": torch.zeros(4, 8, 8, 3)}, ["images", "uint8", "float32"]),
    ({"images": torch.zeros(0, 8, 8, 3, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)}, ["images"]),
    ({"labels": torch.zeros(3, dtype=torch.int64)}, ["labels", "(4,) int64", "(3,)"]),
    ({"labels": torch.zeros(4, dtype=torch.int32)}, ["labels", "int32"]),
    ({"labels": torch.zeros(4, dtype=torch.int64, device="meta")}, ["labels", "on cpu", "on meta"]),
    ({"batch_size": 0}, ["batch_size=0"]),
    ({"batch_size": 2.0}, ["batch_size=2.0"]),
    ({"padding": -1}, ["padding=-1"]),
    ({"padding": 8, "fill": "reflect"}, ["padding=8", "reflect", "8x8", "0 to 7"]),
    ({"cutout": 9}, ["cutout=9", "0 to 8"]),
    ({"cutout": -1}, ["cutout=-1"]),
    ({"crop_size": 9}, ["crop_size=9", "1 to 8"]),
    ({"crop_size": 0}, ["crop_size=0"]),
    ({"fill": "reflekt"}, ["fill='reflekt'", "'black', 'reflect'"]),
    ({"std": (0.2, 0.0, 0.2)}, ["std", "above zero"]),
    ({"mean": (0.5,)}, ["mean", "three numbers"]),
]


def test_invalid_arguments_are_rejected():
    for change, facts in INVALID:
        arguments = {
            "images": torch.zeros(4, 8, 8, 3, dtype=torch.uint8),
            "labels": torch.zeros(4, dtype=torch.int64),
            "batch_size": 2,
            "mean": MEAN,
            "std": STD,
        } | change
        augmented = {"padding", "fill", "cutout", "crop_size"} & set(change)
        calls = [lambda given: Augmenter(**{"padding": 1, "flip": True, **given})]
        for call in calls if augmented else [*calls, lambda given: eval_batches(**given)]:
            with pytest.raises(ValueError) as error:
                call(arguments)
            assert all(fact in str(error.value) for fact in facts), (facts, str(error.value))
