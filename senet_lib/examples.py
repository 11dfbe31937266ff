"""Pictures of the most confused images: chosen from the predictions, left beside the results, shown by the report.

The analysis loads no data set, so what it shows of one is `examples.npz` in the results folder, which the launcher
writes while the data is at hand: `image` (n,), indices into the evaluated images; `true` (n,), their classes; `pixels`
(n, h, w, 3) uint8. Who took an image for what is in the runs' predictions. Without the file there is no figure.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from senet_lib.results import EXAMPLES, StudyResults, load_results, write_arrays
from senet_lib.tables import confused_pairs

PAIRS, EACH = 4, 6  # pairs of classes, and images of each
LARGEST = 64  # pixels of a side; larger images are made smaller


def choose(results: StudyResults) -> pd.DataFrame:
    """For each of the most confused pairs of classes, the images that most runs took for the other class of the pair:
    first, second, image, true, taken (runs), runs. Ties: the earlier image. Empty where runs saw different images."""
    columns = ["first", "second", "image", "true", "taken", "runs"]
    classes, predictions = results.study["classes"], results.predictions
    runs = predictions["run_id"].nunique()
    seen = predictions.groupby("image")["true"].agg(["nunique", "size"])
    if not runs or (seen["nunique"] > 1).any() or (seen["size"] != runs).any():
        return pd.DataFrame(columns=columns)
    rows = []
    for pair in confused_pairs(results, PAIRS).itertuples():
        both = {classes.index(pair.first), classes.index(pair.second)}
        wrong = predictions[predictions["true"] != predictions["predicted"]]
        wrong = wrong[wrong["true"].isin(both) & wrong["predicted"].isin(both)]
        taken = wrong.groupby("image")["true"].agg(["first", "size"])  # by ascending image
        for image, true, count in taken.sort_values("size", ascending=False, kind="stable").head(EACH).itertuples():
            rows.append((pair.first, pair.second, image, classes[true], count, runs))
    return pd.DataFrame(rows, columns=columns)


def leave(folder: Path, root: str | None) -> None:
    """Write the pictures of what the predictions choose now, if the data is at hand; nothing is downloaded for them.

    root: where the data lies. The file is left as it is where it holds the chosen images already.
    """
    results = load_results(folder)
    wanted = np.unique(choose(results)["image"].to_numpy(dtype=np.int64))
    if not len(wanted) or np.array_equal(wanted, _stored(folder).get("image", [])):
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


def pictures(results: StudyResults) -> dict[int, np.ndarray]:
    """image -> pixels (h, w, 3) uint8, of what examples.npz holds of the evaluated images; empty without the file."""
    stored = _stored(results.path)
    true = results.predictions.drop_duplicates("image").set_index("image")["true"]
    return {
        int(image): pixels
        for image, label, pixels in zip(*(stored.get(key, ()) for key in ("image", "true", "pixels")), strict=True)
        if true.get(int(image)) == label
    }


def by_network(results: StudyResults, chosen: pd.DataFrame) -> pd.DataFrame:
    """The chosen images as text: how many runs of each network took each for the other class of its pair."""
    rows = []
    classes, by_image = results.study["classes"], results.predictions.groupby("image")
    for row in chosen.itertuples():
        other = row.second if row.true == row.first else row.first
        seen = by_image.get_group(row.image)
        seen = (seen["predicted"] == classes.index(other)).groupby(seen["label"]).agg(["sum", "size"])
        counts = {label: f"{seen.loc[label, 'sum']} of {seen.loc[label, 'size']}" for label in seen.index}
        text = {"Image": str(row.image), "True class": row.true, "Taken for": other}
        rows.append(text | {label: counts[label] for label in results.labels if label in counts})
    return pd.DataFrame(rows)


def _stored(folder: Path) -> dict[str, np.ndarray]:
    path = folder / EXAMPLES
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _small(images) -> np.ndarray:
    """images: a tensor (n, h, w, 3) uint8; averaged down to LARGEST pixels a side where they are larger."""
    from torch.nn.functional import interpolate

    height, width = images.shape[1:3]
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return images.numpy()
    size = max(1, round(scale * height)), max(1, round(scale * width))
    averaged = interpolate(images.permute(0, 3, 1, 2).float(), size, mode="area")
    return averaged.round().byte().permute(0, 2, 3, 1).contiguous().numpy()
