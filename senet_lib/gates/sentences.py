"""Findings on gates as sentences in Markdown. All numbers come from the tables; all external text is escaped."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from senet_lib.analysis.format import counted, points
from senet_lib.analysis.markup import escape_markdown
from senet_lib.analysis.sentences import names
from senet_lib.gates.measures import OPEN, ClassMoments, last_blocks

CLASSIFIED = {"right": "correctly classified", "wrong": "misclassified"}


def shares_by_depth(table: pd.DataFrame) -> str:
    """Gate variance between classes at the end of each stage, and its trend with depth; `measures.gate_table`."""
    found = []
    for label, rows in table.groupby("label", sort=False):
        stages = rows.set_index("block").loc[last_blocks(rows["block"])]
        listed = ", ".join(f"{_share(row)} in block {block}" for block, row in stages.iterrows())
        found.append(f"- {escape_markdown(label)}: {listed}; {_trend(stages.iloc[0], stages.iloc[-1])}.")
    return "Share of the gates' variance that lies between classes:\n\n" + "\n".join(found) if found else ""


def _share(row: pd.Series) -> str:
    if pd.isna(row["share"]):
        return "undefined (the gate is the same for every image)"
    span = "" if pd.isna(row["low"]) else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{100 * row['share']:.1f} %{span}"


def _trend(first: pd.Series, last: pd.Series) -> str:
    if pd.isna([first["low"], last["low"]]).any():
        return "a trend with depth cannot be assessed without intervals"
    if last["low"] > first["high"]:
        return "the share is **larger** in the last of these blocks than in the first"
    if last["high"] < first["low"]:
        return "the share is **smaller** in the last of these blocks than in the first"
    return "the CIs of the first and the last of these blocks overlap: **inconclusive**"


def spread_within(table: pd.DataFrame) -> str:
    """The spread between classes beside the spread within a class; `measures.gate_table`."""
    found = []
    for label, rows in table.groupby("label", sort=False):
        stages = rows.set_index("block").loc[last_blocks(rows["block"])]
        listed = ", ".join(
            f"{row['between']:.3f} and {row['within']:.3f} in block {block}" for block, row in stages.iterrows()
        )
        larger = rows.loc[rows["between"] > rows["within"], "block"]
        closest = rows.loc[(rows["between"] / rows["within"]).fillna(0).idxmax(), "block"]
        where = f"in {', '.join(larger)}" if len(larger) else f"in no block (closest: {closest})"
        found.append(f"- {escape_markdown(label)}: {listed}; classes differ more than the images of one class {where}.")
    return "Standard deviation between class means, and within a class:\n\n" + "\n".join(found) if found else ""


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
    return "Largest difference between two classes' mean gates in one channel:\n\n" + "\n".join(found) if found else ""


def open_gates(table: pd.DataFrame) -> str:
    """The share of open gates over all images; the SE paper reports saturated gates in the last stage."""
    found = []
    for label, rows in table.groupby("label", sort=False):
        most = rows.loc[rows["open"].idxmax()]
        found.append(f"{escape_markdown(label)} {100 * most['open']:.1f} % in block {most['block']}")
    if not found:
        return ""
    if not table["open"].any():
        return f"In {names(table['label'].unique())}, no block has a gate above {OPEN:g} for any image."
    return f"Largest share of gates above {OPEN:g}: {', '.join(found)}."


def kernel_preference(table: pd.DataFrame) -> str:
    """Which kernel each block prefers in the original images; `measures.kernel_table`."""
    rows = table[table["kind"] == "original"]
    larger, smaller = rows[rows["low"] > 0.5], rows[rows["high"] < 0.5]
    most, least = rows.loc[rows["weight"].idxmax()], rows.loc[rows["weight"].idxmin()]
    return (
        f"The larger kernel has more than half of the weight in {len(larger)} of {len(rows)} blocks and less than half"
        f" in {len(smaller)} (the 95 % CI over images excludes 0.5). Its weight is highest in block {most['block']}"
        f" ({most['weight']:.3f}) and lowest in block {least['block']} ({least['weight']:.3f})."
    )


def kernel_changes(table: pd.DataFrame) -> str:
    """Whether the larger kernel's weight rises with enlargement, and the effect of the lower resolution alone."""
    found = []
    for zoom in sorted(set(table["zoom"]) - {1.0}):
        rows = table[table["zoom"] == zoom].set_index("block")
        bigger, coarser = rows[rows["kind"] == "enlarged"], rows[rows["kind"] == "coarser"]
        rises, falls = bigger[bigger["change_low"] > 0], bigger[bigger["change_high"] < 0]
        text = (
            f"- Enlarged {zoom:g}x, the larger kernel's weight rises in {len(rises)} of {len(bigger)} blocks"
            f"{_listed(rises.index)} and falls in {len(falls)}{_listed(falls.index)}; it rises in most channels of"
            f" {(bigger['rising'] > 0.5).sum()} blocks. Its mean change over blocks is"
            f" {points(bigger['change'].mean())} pp"
        )
        if len(coarser):
            more, less = bigger[bigger["beyond_low"] > 0], bigger[bigger["beyond_high"] < 0]
            text += (
                f", in the coarser images {points(coarser['change'].mean())} pp; enlarged minus coarser:"
                f" {points(bigger['beyond'].mean())} pp, above 0 in {len(more)} of {len(bigger)} blocks"
                f"{_listed(more.index)} and below 0 in {len(less)}{_listed(less.index)}"
            )
        found.append(f"{text}.")
    if not found:
        return ""
    rule = "A block counts if its paired 95 % CI over images excludes 0 (not corrected for the number of blocks):"
    return f"{rule}\n\n" + "\n".join(found)


def sharpness(found: Mapping[tuple[str, float], float]) -> str:
    """How much less sharp the coarser images are than the enlarged ones; (kind, zoom) -> `images.sharpness`."""
    lost = {zoom: 1 - found["coarser", zoom] / found["enlarged", zoom] for kind, zoom in found if kind == "enlarged"}
    listed = ", ".join(f"{100 * share:.0f} % at {zoom:g}x" for zoom, share in sorted(lost.items()))
    return (
        "The coarser images are less sharp than the enlarged ones, measured by the mean difference of neighbouring"
        f" pixels: by {listed}. A difference between the two kinds that is small beside the change in the coarser"
        " images can come from that, so it is no evidence of a response to the size of the object."
    )


def classes_alike(changes: np.ndarray, blocks: Sequence[str], zoom: float) -> str:
    """In which blocks every class changes in the same direction; `measures.class_changes`."""
    with_images = changes[~np.isnan(changes).all(axis=1)]  # of the classes
    up = [block for block, column in zip(blocks, with_images.T, strict=True) if (column > 0).all()]
    down = [block for block, column in zip(blocks, with_images.T, strict=True) if (column < 0).all()]
    others = len(blocks) - len(up) - len(down)
    return (
        f"Enlarged {zoom:g}x, the larger kernel's mean weight rises for every class in {len(up)} of {len(blocks)}"
        f" blocks{_listed(up)} and falls for every class in {len(down)}{_listed(down)}"
        f"{'; in the other blocks the direction depends on the class' if others else ''}."
    )


def centre(table: pd.DataFrame) -> str:
    """The share of the Grad-CAM maps in the central quarter; `measures.centre_table`."""
    found = []
    for label, rows in table.groupby("label", sort=False):
        listed = ", ".join(
            f"{_centre_share(row)} for {counted(row['n'], CLASSIFIED[row['images']] + ' image')}"
            for _, row in rows.iterrows()
        )
        found.append(f"- {escape_markdown(label)}: {listed}.")
    measure = (
        "Share of the map in the central quarter of the image (25 % for a uniform map); mean and 95 % CI over images:"
    )
    return f"{measure}\n\n" + "\n".join(found) if found else ""


def _centre_share(row: pd.Series) -> str:
    span = "" if pd.isna(row["low"]) else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{100 * row['mean']:.1f} %{span}"


def _listed(blocks: Sequence[str]) -> str:
    return f" ({', '.join(blocks)})" if len(blocks) else ""
