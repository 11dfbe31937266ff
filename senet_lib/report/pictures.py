"""The pictures that a report shows of misclassified images, written while the data is at hand."""

from pathlib import Path

import numpy as np

from senet_lib.analysis.examples import choose, stored_pictures
from senet_lib.files import write_arrays
from senet_lib.results import EXAMPLES, load_results

LARGEST = 64  # pixels of a side; larger images are made smaller


def save(folder: Path, root: str | None) -> None:
    """Write the pictures of what the predictions choose now, if the data is at hand; nothing is downloaded for them.

    root: where the data lies. The file is left as it is where it holds the chosen images already.
    """
    results = load_results(folder)
    wanted = np.unique(choose(results)["image"].to_numpy(dtype=np.int64))
    if not len(wanted) or np.array_equal(wanted, stored_pictures(folder).get("image", [])):
        return
    from senet_lib.data import DataError, load_dataset

    try:
        data = load_dataset(results.study["data"], root, download=False)
        held_out = results.study["recipe"].get("holdout")
        data = data.holdout(held_out) if held_out else data
    except (DataError, ValueError):
        return
    labels = results.predictions.drop_duplicates("image").set_index("image")["true"].sort_index().to_numpy()
    if not np.array_equal(labels, data.test_labels.numpy()):
        return  # other images than were evaluated
    write_arrays(
        folder / EXAMPLES,
        {"image": wanted, "true": labels[wanted].astype(np.uint8), "pixels": _small(data.test_images[wanted])},
    )


def _small(images) -> np.ndarray:
    """images: a tensor (n, h, w, 3) uint8; averaged down to a resolution of LARGEST where they are larger."""
    from torch.nn.functional import interpolate

    height, width = images.shape[1:3]
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return images.numpy()
    size = max(1, round(scale * height)), max(1, round(scale * width))
    averaged = interpolate(images.permute(0, 3, 1, 2).float(), size, mode="area")
    return averaged.round().byte().permute(0, 2, 3, 1).contiguous().numpy()
