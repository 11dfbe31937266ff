"""Stores the misclassified images that a report shows, while the data set is available."""

from pathlib import Path

import numpy as np

from senet_lib.analysis.examples import choose, stored_pictures
from senet_lib.files import write_arrays
from senet_lib.results import EXAMPLES, load_results

LARGEST = 64  # pixels, maximum height and width; larger images are downsampled


def save(folder: Path, root: str | None) -> None:
    """Write the images currently chosen from the predictions, if the data set is stored locally; nothing is downloaded.

    root: the folder of the data. A file that already holds the chosen images is left unchanged.
    """
    results = load_results(folder)
    wanted = np.unique(choose(results)["image"].to_numpy(dtype=np.int64))
    if not len(wanted) or np.array_equal(wanted, stored_pictures(folder).get("image", [])):
        return
    from senet_lib.data import DataError, load_dataset

    try:
        data = load_dataset(results.study["data"], root, download=False)
        holdout = results.study["recipe"].get("holdout")
        data = data.holdout(holdout) if holdout else data
    except (DataError, ValueError):
        return
    labels = results.predictions.drop_duplicates("image").set_index("image")["true"].sort_index().to_numpy()
    if not np.array_equal(labels, data.test_labels.numpy()):
        return  # not the images that were evaluated
    write_arrays(
        folder / EXAMPLES,
        {"image": wanted, "true": labels[wanted].astype(np.uint8), "pixels": _small(data.test_images[wanted])},
    )


def _small(images) -> np.ndarray:
    """images: a tensor (n, h, w, 3) uint8, averaged down to a resolution of LARGEST if larger."""
    from torch.nn.functional import interpolate

    height, width = images.shape[1:3]
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return images.numpy()
    size = max(1, round(scale * height)), max(1, round(scale * width))
    averaged = interpolate(images.permute(0, 3, 1, 2).float(), size, mode="area")
    return averaged.round().byte().permute(0, 2, 3, 1).contiguous().numpy()
