"""What the gates showed, as sentences in Markdown. All numbers come from the tables; all external text is escaped."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from senet_lib.analysis.format import points
from senet_lib.analysis.markup import escape_markdown
from senet_lib.analysis.sentences import names
from senet_lib.gates.measures import OPEN, ClassMoments, last_blocks


def shares_by_depth(table: pd.DataFrame) -> str:
    """Gate variance between classes at the end of each stage, and whether it grows; `measures.gate_table`."""
    found = []
    for label, rows in table.groupby("label", sort=False):
        stages = rows.set_index("block").loc[last_blocks(rows["block"])]
        listed = ", ".join(f"{_share(row)} in block {block}" for block, row in stages.iterrows())
        found.append(f"- {escape_markdown(label)}: {listed}; {_trend(stages.iloc[0], stages.iloc[-1])}.")
    return "Variance of the gates over images that lies between classes:\n\n" + "\n".join(found) if found else ""


def _share(row: pd.Series) -> str:
    if pd.isna(row["share"]):
        return "nothing to share out (the same gate for every image)"
    span = "" if pd.isna(row["low"]) else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{100 * row['share']:.1f} %{span}"


def _trend(first: pd.Series, last: pd.Series) -> str:
    if pd.isna([first["low"], last["low"]]).any():
        return "there is no interval to tell whether it grows with depth"
    if last["low"] > first["high"]:
        return "the last stage's gates follow the class **more** than the first's, as in the paper"
    if last["high"] < first["low"]:
        return "the last stage's gates follow the class **less** than the first's, unlike in the paper"
    return "the intervals of the first and the last stage overlap, so **no growth with depth is shown**"


def spread_within(table: pd.DataFrame) -> str:
    """The spread between class means against the spread within a class; `measures.gate_table`."""
    found = []
    for label, rows in table.groupby("label", sort=False):
        stages = rows.set_index("block").loc[last_blocks(rows["block"])]
        listed = ", ".join(
            f"{row['between']:.3f} against {row['within']:.3f} in block {block}" for block, row in stages.iterrows()
        )
        nearest = rows.loc[(rows["between"] / rows["within"]).fillna(0).idxmax(), "block"]
        verdict = (
            f"in no block do the classes lie further apart than a class's own images (nearest to it: {nearest})"
            if (rows["between"] <= rows["within"]).all()
            else "in "
            + ", ".join(rows.loc[rows["between"] > rows["within"], "block"])
            + " the classes lie further apart than a class's own images"
        )
        found.append(f"- {escape_markdown(label)}: {listed}; {verdict}.")
    return "Standard deviation between the classes' means against that within a class:\n\n" + "\n".join(found)


def furthest_apart(moments: Mapping[str, Mapping[str, ClassMoments]], classes: Sequence[str]) -> str:
    """Per block, the two classes whose mean gates differ most in any one channel; label -> block -> moments."""
    found = []
    for label, blocks in moments.items():
        listed = []
        for block, moment in blocks.items():
            apart = np.nanmax(moment.mean, 0) - np.nanmin(moment.mean, 0)  # (K, C) -> (C,)
            channel = moment.mean[:, int(apart.argmax())]
            pair = (classes[int(np.nanargmax(channel))], classes[int(np.nanargmin(channel))])
            listed.append(f"{apart.max():.3f} in block {block} ({' and '.join(map(escape_markdown, pair))})")
        found.append(f"- {escape_markdown(label)}: {', '.join(listed)}.")
    return "The furthest that two classes' mean gates are apart in any channel:\n\n" + "\n".join(found) if found else ""


def open_gates(table: pd.DataFrame) -> str:
    """The share of open gates over all images; the SE paper reports saturated gates in its last stage."""
    found = []
    for label, rows in table.groupby("label", sort=False):
        most = rows.loc[rows["open"].idxmax()]
        found.append(f"{escape_markdown(label)} {100 * most['open']:.1f} % in block {most['block']}")
    if not found:
        return ""
    if not table["open"].any():
        return f"No gate of any image is above {OPEN:g}, in any block of {names(table['label'].unique())}."
    return f"Largest share of gates above {OPEN:g} in any block: {', '.join(found)}."


def kernel_preference(table: pd.DataFrame) -> str:
    """Which kernel each block prefers in the original images; `measures.kernel_table`."""
    rows = table[table["kind"] == "as it is"]
    larger, smaller = rows[rows["low"] > 0.5], rows[rows["high"] < 0.5]
    most, least = rows.loc[rows["weight"].idxmax()], rows.loc[rows["weight"].idxmin()]
    return (
        f"In {len(larger)} of {len(rows)} blocks the larger kernel has more than half of the weight, in {len(smaller)}"
        f" less than half (95 % CIs over images that leave 0.5 out); most in block {most['block']}"
        f" ({most['weight']:.3f}), least in block {least['block']} ({least['weight']:.3f})."
    )


def kernel_changes(table: pd.DataFrame) -> str:
    """Whether the larger kernel's weight rises when the centre is enlarged, and the effect of coarser pixels alone."""
    found = []
    for zoom in sorted(set(table["zoom"]) - {1.0}):
        rows = table[table["zoom"] == zoom].set_index("block")
        bigger, coarser = rows[rows["kind"] == "enlarged"], rows[rows["kind"] == "coarser"]
        rises, falls = bigger[bigger["change_low"] > 0], bigger[bigger["change_high"] < 0]
        text = (
            f"- {zoom:g}x: the larger kernel's weight rises in {len(rises)} of {len(bigger)} blocks"
            f"{_listed(rises.index)} and falls in {len(falls)}{_listed(falls.index)}; it rises in most channels of"
            f" {(bigger['rising'] > 0.5).sum()} blocks; over the blocks the mean change is"
            f" {points(bigger['change'].mean())} pp"
        )
        if len(coarser):
            more, less = bigger[bigger["beyond_low"] > 0], bigger[bigger["beyond_high"] < 0]
            text += (
                f". Coarser pixels alone change it by {points(coarser['change'].mean())}; beyond what they do,"
                f" enlarging raises it in {len(more)} of {len(bigger)} blocks{_listed(more.index)} and lowers it in"
                f" {len(less)}{_listed(less.index)}, by {points(bigger['beyond'].mean())} pp over the blocks"
            )
        found.append(f"{text}.")
    if not found:
        return ""
    return "By paired 95 % CIs over images that leave 0 out, not corrected for the number of blocks:\n\n" + "\n".join(
        found
    )


def classes_alike(changes: np.ndarray, blocks: Sequence[str], zoom: float) -> str:
    """In which blocks every class changes in the same direction; `measures.class_changes`."""
    up = [block for block, column in zip(blocks, changes.T, strict=True) if (column > 0).all()]
    down = [block for block, column in zip(blocks, changes.T, strict=True) if (column < 0).all()]
    return (
        f"Enlarged {zoom:g}x, the larger kernel's mean weight rises for every class in {len(up)} of {len(blocks)}"
        f" blocks{_listed(up)} and falls for every class in {len(down)}{_listed(down)}; elsewhere it goes either way."
    )


def centre(table: pd.DataFrame) -> str:
    """The share of the Grad-CAM maps in the central quarter; `measures.centre_table`."""
    found = []
    for label, rows in table.groupby("label", sort=False):
        listed = ", ".join(
            f"{_centre_share(row)} for the {row['n']} images it has {row['images']}" for _, row in rows.iterrows()
        )
        found.append(f"- {escape_markdown(label)}: {listed}.")
    return (
        "Share of the map in the central quarter of the image, where an even map has 25 % (mean, 95 % CI over"
        " images):\n\n" + "\n".join(found)
        if found
        else ""
    )


def _centre_share(row: pd.Series) -> str:
    span = "" if pd.isna(row["low"]) else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{100 * row['mean']:.1f} %{span}"


def _listed(blocks: Sequence[str]) -> str:
    return f" ({', '.join(blocks)})" if len(blocks) else ""
