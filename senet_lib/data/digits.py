"""`digits`: scikit-learn's bundled handwritten digits, 8x8, enlarged to 32x32; needs no download.

1,797 images with 17 grey levels, the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
Digits", UCI Machine Learning Repository, 1998 (sklearn.datasets.load_digits).
Split: the first 1,415 images in file order are for training, the last 382 (21 %, 35 to 39 per class) for testing.
The file is ordered by form, and each form was filled in by one person. A form repeats the sequence 0123456789; a new
form starts at row 1,415, so no form is in both splits. A shuffled split would put every writer in both and inflate the
accuracy.
"""

from importlib.metadata import version

import numpy as np

from senet_lib.data.dataset import Decoded, Split
from senet_lib.data.sources import Source

TEST_IMAGES = 382
SIZE = 32


def find_digits() -> Source:
    return Source("scikit-learn's bundled digits", ["scikit-learn", version("scikit-learn")], read_digits)


def read_digits() -> Decoded:
    from sklearn.datasets import load_digits  # slow to import, and not needed when the images are cached

    bundle = load_digits()
    images, labels = enlarge(bundle.images.astype(np.int64)), bundle.target.astype(np.uint8)
    return Decoded(
        classes=tuple("0123456789"),
        train=Split(images[:-TEST_IMAGES], labels[:-TEST_IMAGES]),
        test=Split(images[-TEST_IMAGES:], labels[-TEST_IMAGES:]),
    )


def enlarge(levels: np.ndarray) -> np.ndarray:
    """Bilinear interpolation (half-pixel centres, edges repeated) of (N, 8, 8) levels 0..16 to (N, 32, 32, 3) uint8.

    Uses integer arithmetic only, so that pixels and fingerprint are the same on every machine.
    """
    scale = SIZE // levels.shape[1]
    # the centre of target pixel i is at (i + 1/2) / scale - 1/2 source pixels, here in units of 1 / (2 * scale)
    unit = 2 * scale
    centre = (2 * np.arange(SIZE) + 1 - scale).clip(0, unit * (levels.shape[1] - 1))
    source = np.arange(levels.shape[1])
    weight = (unit - np.abs(centre[:, None] - unit * source)).clip(0)  # (32, 8), each row sums to `unit`
    enlarged = weight @ levels @ weight.T  # (N, 8, 8) -> (N, 32, 32), times unit**2
    white = 16 * unit**2
    pixels = (2 * 255 * enlarged + white) // (2 * white)  # 0..255, rounded half up
    return np.repeat(pixels.astype(np.uint8)[..., None], 3, axis=-1)  # grey in all three channels
