"""What a study's confusion matrices and classes show, as sentences in Markdown; all external text is escaped."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from senet_lib.analysis.format import difference, percent, points
from senet_lib.analysis.markup import escape_markdown
from senet_lib.results import StudyResults


def most_confused(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> str:
    """Each network's most frequent single confusion; `matrices` from `tables.confusions`."""
    found = []
    for label, shares in matrices.items():
        errors = np.nan_to_num(shares.copy())
        np.fill_diagonal(errors, 0)
        true, predicted = np.unravel_index(errors.argmax(), errors.shape)
        if errors[true, predicted] > 0:
            found.append(
                f"{escape_markdown(label)}: {percent(errors[true, predicted])} % of {escape_markdown(classes[true])}"
                f" misclassified as {escape_markdown(classes[predicted])}"
            )
    return f"Most frequent confusion of each network: {'; '.join(found)}." if found else ""


def class_effects(results: StudyResults, table: pd.DataFrame) -> str:
    """Each network's highest and lowest difference from its control by class, and how many CIs exclude 0; `table` from
    `tables.class_accuracies`."""
    changed = table.dropna(subset=["difference"])
    if changed.empty:
        return ""
    found, some, controls = [], changed["difference_low"].notna().any(), changed["control"].unique()
    for label, rows in changed.groupby("label", sort=False):
        best, worst = rows.loc[rows["difference"].idxmax()], rows.loc[rows["difference"].idxmin()]
        apart = rows[(rows["difference_low"] > 0) | (rows["difference_high"] < 0)]
        known = rows["difference_low"].notna().sum()
        counted = f"; {len(apart)} of {known} CIs exclude 0" if known else ""
        ends = [_class_difference(row, with_interval=some) for row in (best, worst)]
        of = "" if len(controls) == 1 else f" minus {escape_markdown(rows['control'].iloc[0])}"
        found.append(f"- {escape_markdown(label)}{of}: highest {ends[0]}; lowest {ends[1]}{counted}")
    classes = len(results.study["classes"])
    intervals = (
        f" (Welch 95 % CI over seeds, not corrected for multiple comparisons: about {0.05 * classes:.2g} of {classes}"
        " would exclude 0 by chance)"
    )
    one = escape_markdown(controls[0]) if len(controls) == 1 else "each network's control"
    return f"Difference from {one} by class, in percentage points{intervals if some else ''}:\n\n" + "\n".join(found)


def _class_difference(row: pd.Series, *, with_interval: bool) -> str:
    ends = (row["difference_low"], row["difference_high"])
    found = difference(row["difference"], *ends) if with_interval else points(row["difference"])
    return f"{escape_markdown(row['class'])}, {found}"
