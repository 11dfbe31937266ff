"""Selects the images that a report shows as examples of misclassification, and reads their stored pixels.

The analysis loads no data set. `report/pictures.py` stores the pixels in the results folder while the data is
available, in `examples.npz`: `image` (n,), indices into the evaluated images; `true` (n,), their classes; `pixels`
(n, h, w, 3) uint8. Without this file the report has no such figure.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from senet_lib.analysis.tables import CLASS_PAIR, confused_pairs
from senet_lib.errors import DamagedFile
from senet_lib.files import read_arrays
from senet_lib.results import EXAMPLES, StudyResults

PAIRS, EACH = 4, 6  # number of class pairs, and of images per pair


def choose(results: StudyResults) -> pd.DataFrame:
    """For each of the most confused class pairs, the images that most runs misclassified as the other class.

    Columns: first, second, image, true, wrong (runs that misclassified it so), runs. Ties go to the lower image index.
    Empty without runs, or if runs were evaluated on different images.
    """
    columns = ["first", "second", "image", "true", "wrong", "runs"]
    classes, predictions = results.study["classes"], results.predictions
    runs = predictions["run_id"].nunique()
    per_image = predictions.groupby("image")["true"].agg(["nunique", "size"])
    if not runs or (per_image["nunique"] > 1).any() or (per_image["size"] != runs).any():
        return pd.DataFrame(columns=columns)
    rows = []
    for first, second in confused_pairs(results, PAIRS)[list(CLASS_PAIR)].itertuples(index=False):
        both = {classes.index(first), classes.index(second)}
        wrong = predictions[predictions["true"] != predictions["predicted"]]
        wrong = wrong[wrong["true"].isin(both) & wrong["predicted"].isin(both)]
        errors = wrong.groupby("image")["true"].agg(["first", "size"])  # sorted by image: ties keep the lower index
        for image, true, count in errors.sort_values("size", ascending=False, kind="stable").head(EACH).itertuples():
            rows.append((first, second, image, classes[true], count, runs))
    return pd.DataFrame(rows, columns=columns)


def pictures(results: StudyResults) -> dict[int, np.ndarray]:
    """image -> pixels (h, w, 3) uint8, for the pictures in examples.npz that match the evaluated images; empty
    without the file."""
    stored = stored_pictures(results.path)
    true = results.predictions.drop_duplicates("image").set_index("image")["true"]
    return {
        int(image): pixels
        for image, label, pixels in zip(*(stored.get(key, ()) for key in ("image", "true", "pixels")), strict=True)
        if true.get(int(image)) == label
    }


def by_network(results: StudyResults, chosen: pd.DataFrame) -> pd.DataFrame:
    """The chosen images as text: how many runs of each network misclassified each as the other class of its pair."""
    rows = []
    classes, by_image = results.study["classes"], results.predictions.groupby("image")
    for row in chosen.itertuples():
        other = row.second if row.true == row.first else row.first
        rows_of_image = by_image.get_group(row.image)
        wrong = rows_of_image["predicted"] == classes.index(other)
        wrong = wrong.groupby(rows_of_image["label"]).agg(["sum", "size"])
        counts = {label: f"{wrong.loc[label, 'sum']} of {wrong.loc[label, 'size']}" for label in wrong.index}
        text = {"Image number": str(row.image), "True class": row.true, "Misclassified as": other}
        rows.append(text | {label: counts[label] for label in results.labels if label in counts})
    return pd.DataFrame(rows)


def stored_pictures(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of examples.npz; empty if the file is missing or damaged."""
    try:
        return read_arrays(folder / EXAMPLES)
    except (FileNotFoundError, NotADirectoryError, DamagedFile):  # an archive is not a folder
        return {}
