"""Pictures of the most confused images: chosen from the predictions, left beside the results, shown by the report.

The analysis loads no data set, so what it shows of one is `examples.npz` in the results folder, which the launcher
writes while the data is at hand: `image` (n,), indices into the evaluated images; `true` (n,), their classes; `pixels`
(n, h, w, 3) uint8. Who took an image for what is in the runs' predictions. Without the file there is no figure.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from senet_lib.analysis.tables import confused_pairs
from senet_lib.results import EXAMPLES, StudyResults

PAIRS, EACH = 4, 6  # pairs of classes, and images of each


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


def pictures(results: StudyResults) -> dict[int, np.ndarray]:
    """image -> pixels (h, w, 3) uint8, of what examples.npz holds of the evaluated images; empty without the file."""
    stored = stored_pictures(results.path)
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


def stored_pictures(folder: Path) -> dict[str, np.ndarray]:
    path = folder / EXAMPLES
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
