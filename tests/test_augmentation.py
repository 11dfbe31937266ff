"""Batches against a slow and obvious reference, and what they depend on: the seed and the epoch, nothing else."""

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
    """One image at a time: pad with black, crop, mirror, normalise, channels first."""
    images, labels = images.numpy(), labels.numpy()
    n, height, width, _ = images.shape
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(n)
    mirrored = generator.integers(0, 2, n)
    down, right = generator.integers(0, 2 * padding + 1, (2, n))
    starts = list(range(0, n, batch_size))
    for start in starts:
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


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("batch_size", [16, 25, 1, 1000])
def test_batches_equal_the_reference(batch_size, padding, flip):
    images, labels = some_images()
    ours = augmenter(images, labels, batch_size, padding, flip)
    reference = reference_epoch(images, labels, batch_size=batch_size, padding=padding, flip=flip, seed=3, epoch=5)
    steps = 0
    for (x, y), (expected_x, expected_y) in zip(ours.epoch(seed=3, epoch=5), reference, strict=True):
        np.testing.assert_allclose(x.numpy(), expected_x, atol=2e-6)
        np.testing.assert_array_equal(y.numpy(), expected_y)
        steps += 1
    assert steps == ours.steps == -(-50 // batch_size)


def test_a_batch_is_float32_in_channels_last_and_labels_are_int64():
    for x, y in augmenter(*some_images()).epoch(seed=0, epoch=0):
        assert x.dtype == torch.float32 and x.shape[1:] == (3, 9, 7)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert y.dtype == torch.int64 and y.shape == x.shape[:1]


def whole(batches):
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


def same(one, other):
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_batches_are_a_function_of_seed_and_epoch():
    images, labels = some_images()
    ours = augmenter(images, labels)
    first = whole(ours.epoch(seed=1, epoch=2))
    torch.manual_seed(99)  # no generator outside has a say
    np.random.seed(99)  # noqa: NPY002
    whole(ours.epoch(seed=7, epoch=7))
    assert same(first, whole(ours.epoch(seed=1, epoch=2)))
    assert same(first, whole(augmenter(images, labels).epoch(seed=1, epoch=2)))
    for seed, epoch in ((1, 3), (2, 2), (2, 1), (0, 2)):
        assert not same(first, whole(ours.epoch(seed=seed, epoch=epoch)))


def test_two_epochs_can_be_read_side_by_side():
    ours = augmenter(*some_images())
    one, other = ours.epoch(seed=0, epoch=0), ours.epoch(seed=0, epoch=1)
    mixed = list(zip(one, other, strict=True))
    assert same(whole(batch for batch, _ in mixed), whole(ours.epoch(seed=0, epoch=0)))
    assert same(whole(batch for _, batch in mixed), whole(ours.epoch(seed=0, epoch=1)))


def test_start_step_gives_the_rest_of_the_same_epoch():
    ours = augmenter(*some_images())
    batches = list(ours.epoch(seed=4, epoch=1))
    for start_step in range(ours.steps + 1):
        rest = list(ours.epoch(seed=4, epoch=1, start_step=start_step))
        assert len(rest) == ours.steps - start_step
        assert all(same(one, other) for one, other in zip(rest, batches[start_step:], strict=True))


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 49, 64, 65])
def test_every_image_comes_once_an_epoch(n):
    images = torch.zeros((n, 4, 4, 3), dtype=torch.uint8)
    labels = torch.arange(n)
    ours = augmenter(images, labels, batch_size=16)
    sizes = [len(y) for _, y in ours.epoch(seed=0, epoch=0)]
    assert len(sizes) == ours.steps
    _, y = whole(ours.epoch(seed=0, epoch=0))
    assert sorted(y.tolist()) == list(range(n))
    # one image alone would have no batch statistics where a map is 1x1: it joins the batch before
    assert n == 1 or min(sizes) > 1
    assert max(sizes) <= 17 and (max(sizes) == 17) == (n % 16 == 1 and n > 1)


@pytest.mark.parametrize("cutout", [1, 4, 5, 7])
def test_cutout_is_the_mean_colour_in_a_square_around_a_pixel_and_changes_nothing_else(cutout):
    images, labels = some_images(400)
    x, y = whole(augmenter(images, labels, cutout=cutout).epoch(seed=3, epoch=5))
    plain_x, plain_y = whole(augmenter(images, labels).epoch(seed=3, epoch=5))
    assert torch.equal(y, plain_y) and x.is_contiguous(memory_format=torch.channels_last)

    before, after = cutout // 2, cutout - cutout // 2
    seen = set()
    for cut, plain in zip(x, plain_x, strict=True):
        painted = (cut == 0).all(0)
        possible = [
            (row, column)
            for row in range(9)
            for column in range(7)
            if torch.equal(painted, square(9, 7, row - before, row + after, column - before, column + after))
        ]
        assert possible, painted
        seen.update(possible)
        assert torch.equal(cut[:, ~painted], plain[:, ~painted])
    assert len(seen) == 9 * 7, "every pixel is a centre"


def square(height, width, top, bottom, left, right):
    painted = torch.zeros(height, width, dtype=torch.bool)
    painted[max(top, 0) : bottom, max(left, 0) : right] = True
    return painted


def test_cutouts_squares_lie_elsewhere_in_every_epoch():
    images, labels = some_images(400)
    squares = [
        (whole(augmenter(images, labels, cutout=3).epoch(seed=0, epoch=epoch))[0] == 0).all(1).float().mean(0)
        for epoch in (0, 1)
    ]
    assert not torch.equal(*squares)
    assert abs(squares[0][4, 3] - 9 / 63) < 0.06  # far from the border a pixel is under 9 of 63 squares


def test_the_order_does_not_depend_on_padding_and_flip():
    images, labels = some_images()
    labels = torch.arange(len(images))
    orders = [
        whole(augmenter(images, labels, padding=padding, flip=flip).epoch(seed=5, epoch=0))[1].tolist()
        for padding, flip in ((0, False), (2, True), (4, False), (0, True))
    ]
    assert all(order == orders[0] for order in orders)
    assert orders[0] != sorted(orders[0])


def test_crops_and_mirror_images_are_spread_evenly():
    # each pixel's colour is its place, so that a crop shows where it was taken and whether it is mirrored
    height = width = 8
    places = torch.stack(torch.meshgrid(torch.arange(1, 9), torch.arange(1, 9), indexing="ij"), -1)
    image = torch.cat((places, places[..., :1]), -1).to(torch.uint8)
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
    mirrored = x[:, 1, 4, 3] > x[:, 1, 4, 5]
    assert abs(int(mirrored.sum()) - n / 2) < 4 * (n / 4) ** 0.5
    # unmirrored, the pixel at 4 shows the image's 5th, shifted by -2..2; mirrored, the one at 3
    right = column - torch.where(mirrored, 4, 5)
    down = row - 5
    counts = torch.bincount((down + 2) * 5 + right + 2, minlength=25)
    assert len(counts) == 25 and (counts - n / 25).abs().max() < 5 * (n / 25) ** 0.5


def by_image(ours, seed, epoch):
    """(N, 3, H, W): the epoch's images in the data set's order; labels must be the images' numbers."""
    x, y = whole(ours.epoch(seed=seed, epoch=epoch))
    return x[y.argsort()]


def test_alternating_shows_each_image_once_as_it_is_and_once_mirrored_in_any_two_successive_epochs():
    images, _ = some_images()
    ours = augmenter(images, torch.arange(50), padding=0, alternating=True)
    x = normalise(images, MEAN, STD)
    sides = [(by_image(ours, 3, epoch) == x.flip(3)).flatten(1).all(1) for epoch in range(4)]
    for epoch, mirrored in enumerate(sides):
        shown = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        assert torch.equal(by_image(ours, 3, epoch), shown)
        assert torch.equal(mirrored, sides[0] ^ (epoch % 2 == 1))
    assert 10 < int(sides[0].sum()) < 40, "at random in the first epoch"
    other = (by_image(ours, 4, 0) == x.flip(3)).flatten(1).all(1)
    assert not torch.equal(other, sides[0]), "another seed, another side"


def test_alternating_changes_neither_order_nor_crops_and_needs_no_epoch_before_it():
    image = torch.arange(1, 10, dtype=torch.uint8)[:, None, None].expand(9, 9, 3)  # its own mirror image
    images = image.expand(50, 9, 9, 3).contiguous()
    ours, random = (augmenter(images, torch.arange(50), fill="reflect", alternating=on) for on in (True, False))
    assert same(whole(ours.epoch(seed=3, epoch=5)), whole(random.epoch(seed=3, epoch=5)))


def test_alternating_where_nothing_may_be_mirrored_mirrors_nothing():
    images, labels = some_images()
    ours, plain = (augmenter(images, labels, flip=False, alternating=on) for on in (True, False))
    assert same(whole(ours.epoch(seed=3, epoch=5)), whole(plain.epoch(seed=3, epoch=5)))


@pytest.mark.parametrize("padding", [0, 1, 4, 6])
@pytest.mark.parametrize("fill", ["black", "reflect"])
def test_padding_is_numpys(padding, fill):
    images, _ = some_images()
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    expected = np.pad(images.numpy(), sides, mode="constant" if fill == "black" else "reflect")
    np.testing.assert_array_equal(pad(images, padding, fill).numpy(), expected)


def test_reflected_crops_are_windows_of_the_reflected_image():
    images, _ = some_images()
    padded = np.pad(images.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = normalise(torch.from_numpy(padded), MEAN, STD).unfold(2, 9, 1).unfold(3, 7, 1)  # (N, 3, 5, 5, 9, 7)
    crops = by_image(augmenter(images, torch.arange(50), flip=False, fill="reflect"), 3, 5)
    found = (windows == crops[:, :, None, None]).all(5).all(4).all(1)  # (N, 5, 5): where each crop was taken
    assert (found.sum((1, 2)) == 1).all()
    assert (found.sum(0) > 0).sum() > 12, "crops come from all over"


@pytest.mark.parametrize("padding", [0, 2])
def test_smaller_crops_are_windows_of_the_padded_image_from_all_over_it(padding):
    images, _ = some_images()
    padded = pad(images, padding, "reflect")
    windows = normalise(padded, MEAN, STD).unfold(2, 5, 1).unfold(3, 5, 1)  # (N, 3, 5 + 2p, 3 + 2p, 5, 5)
    crops = by_image(
        augmenter(images, torch.arange(50), padding=padding, flip=False, fill="reflect", crop_size=5), 3, 5
    )
    assert crops.shape == (50, 3, 5, 5)
    found = (windows == crops[:, :, None, None]).all(5).all(4).all(1)  # (N, 5 + 2p, 3 + 2p): where each crop was taken
    assert (found.sum((1, 2)) == 1).all()
    assert found.any(0).any(0).all() and found.any(0).any(1).all(), "every row and every column begins a crop"


def test_without_augmentation_only_the_order_changes():
    images, labels = some_images()
    x, y = whole(augmenter(images, torch.arange(50), padding=0, flip=False).epoch(seed=0, epoch=0))
    assert torch.equal(x, normalise(images, MEAN, STD)[y])


def test_the_images_themselves_are_left_alone():
    images, labels = some_images()
    before = images.clone()
    for padding in (0, 2):
        for x, _ in augmenter(images, labels, padding=padding).epoch(seed=0, epoch=0):
            x.zero_()
        assert torch.equal(images, before)


def test_normalise_gives_mean_zero_and_std_one():
    images, _ = some_images(200)
    pixels = images.double() / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2), correction=0)
    x = normalise(images, mean.tolist(), std.tolist())
    assert x.shape == (200, 3, 9, 7) and x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.double(), ((pixels - mean) / std).permute(0, 3, 1, 2), atol=2e-6, rtol=0)


def test_normalise_takes_strided_images():
    images, _ = some_images(10)
    torch.testing.assert_close(normalise(images[:, ::2, 1:], MEAN, STD), normalise(images, MEAN, STD)[:, :, ::2, 1:])


def test_eval_batches_are_all_images_in_order():
    images, labels = some_images(33)
    batches = list(eval_batches(images, labels, batch_size=16, mean=MEAN, std=STD))
    assert [len(y) for _, y in batches] == [16, 16, 1]  # alone, too: evaluation needs no batch statistics
    x, y = whole(batches)
    assert torch.equal(y, labels) and torch.equal(x, normalise(images, MEAN, STD))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, r"images must be \(N, H, W, 3\) uint8"),
        ({"images": torch.zeros(4, 8, 8, 3)}, "float32"),
        ({"images": torch.zeros(0, 8, 8, 3, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)}, "images"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels must be \(4,\) int64"),
        ({"labels": torch.zeros(4, dtype=torch.int32)}, "int32"),
        ({"labels": torch.zeros(4, dtype=torch.int64, device="meta")}, "on meta"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.0}, "batch_size"),
        ({"padding": -1}, "padding"),
        ({"padding": 8, "fill": "reflect"}, "padding 8 cannot be reflected from an image of 8x8 pixels"),
        ({"cutout": 9}, "cutout must be a whole number of pixels from 0 to 8, not 9"),
        ({"cutout": -1}, "cutout"),
        ({"crop_size": 9}, "crop_size must be a whole number from 1 to 8, not 9"),
        ({"crop_size": 0}, "crop_size"),
        ({"fill": "reflekt"}, "fill must be 'black' or 'reflect', not 'reflekt'"),
        ({"std": (0.2, 0.0, 0.2)}, "std above zero"),
        ({"mean": (0.5,)}, "three numbers"),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    arguments = {
        "images": torch.zeros(4, 8, 8, 3, dtype=torch.uint8),
        "labels": torch.zeros(4, dtype=torch.int64),
        "batch_size": 2,
        "padding": 1,
        "flip": True,
        "mean": MEAN,
        "std": STD,
    }
    arguments.update(change)
    with pytest.raises(ValueError, match=words):
        Augmenter(**arguments)
    if not {"padding", "fill", "cutout", "crop_size"} & set(change):
        del arguments["padding"], arguments["flip"]
        with pytest.raises(ValueError, match=words):
            eval_batches(**arguments)


@pytest.mark.parametrize("start_step", [-1, 5])
def test_a_start_step_outside_of_the_epoch_is_refused_at_once(start_step):
    ours = augmenter(*some_images())
    assert ours.steps == 4
    with pytest.raises(ValueError, match="start_step must be between 0 and the epoch's 4 steps"):
        ours.epoch(seed=0, epoch=0, start_step=start_step)


def test_a_network_trains_on_every_batch_it_is_given():
    # the batch shapes are good for BatchNorm over 1x1 maps, of which SK's fuse has one
    images, labels = some_images(33)
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(3))
    for x, _ in augmenter(images, labels, batch_size=16).epoch(seed=0, epoch=0):
        assert torch.isfinite(network(x)).all()
