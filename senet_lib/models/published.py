"""Compare published parameters and multiply-adds with the counts of this implementation.

reference/published_complexity.csv has one row per published figure: the network, its options, the resolution, the
number of classes, the figures with the step they are rounded to (1: an exact count), the source, and the reason where
the difference exceeds the rounding.
"""

import math
from importlib.resources import files

import pandas as pd
import yaml

from senet_lib.metrics import count_macs, count_params
from senet_lib.models.registry import create_model


def published_complexity() -> pd.DataFrame:
    """The table of published figures: `knobs` as dicts, params and macs as integers, <NA> where not published."""
    path = files("senet_lib") / "reference" / "published_complexity.csv"
    whole = dict.fromkeys(("params", "params_step", "macs", "macs_step"), "Int64")
    table = pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys(whole, ""), dtype=whole)
    table["knobs"] = [yaml.safe_load(f"{{{text}}}") for text in table["knobs"]]
    return table


def compare_with_published() -> pd.DataFrame:
    """`published_complexity` with counted_params, counted_macs, and the differences in percent of the published value.

    A difference within the rounding of the published figure is 0. Only shapes are computed, at most 0.5 s per network.
    """
    table = published_complexity()
    networks = {}  # network -> its rows in the table
    for row in table.itertuples():
        networks.setdefault((row.name, tuple(row.knobs.items()), row.pixels, row.classes), []).append(row.Index)
    for (name, knobs, pixels, classes), rows in networks.items():
        model = on_meta(name, num_classes=classes, **dict(knobs))
        table.loc[rows, "counted_params"] = count_params(model)
        if table.loc[rows, "macs"].notna().any():  # counting multiply-adds takes most of the time
            table.loc[rows, "counted_macs"] = count_macs(model, (3, pixels, pixels))
    for what in ("params", "macs"):
        published, counted = table[what], table[f"counted_{what}"].astype("Int64")
        off = counted - published
        beyond = off.abs() > table[f"{what}_step"] / 2
        table[f"counted_{what}"] = counted.where(published.notna())
        table[f"{what}_off_percent"] = (100 * off / published).where(beyond, 0.0).where(published.notna())
    return table


def reference_table(compared: pd.DataFrame) -> pd.DataFrame:
    """`compare_with_published` formatted as text; empty where nothing was published."""
    columns = {
        "network": compared.name,
        "settings": [", ".join(f"{knob}={value}" for knob, value in knobs.items()) for knobs in compared.knobs],
        "pixels": compared.pixels,
        "classes": compared.classes,
    }
    for what, title in (("params", "params"), ("macs", "M macs")):
        figures = compared[[what, f"{what}_step", f"counted_{what}", f"{what}_off_percent"]]
        texts = [
            ("", "", "") if pd.isna(row[0]) else figure_texts(what, *row) for row in figures.itertuples(index=False)
        ]
        columns[f"{title}, published"], columns[f"{title}, counted"], columns[f"{what} off"] = zip(*texts, strict=True)
    return pd.DataFrame(columns | {"source": compared.source, "reason": compared.reason})


def figure_texts(what: str, published: int, step: int, counted: int, off_percent: float) -> tuple[str, str, str]:
    """The published figure at its published precision, the counted figure, and their difference, as text."""
    unit = 10**6 if what == "macs" or step > 1 else 1
    digits = max(0, round(math.log10(unit / step)))
    suffix = " M" if what == "params" and step > 1 else ""
    off = f"{off_percent:+.2f}%" if off_percent else "0" if step == 1 else "rounded"
    return (
        f"{published / unit:,.{digits}f}{suffix}",
        f"{counted:,}" if what == "params" else f"{counted / unit:,.1f}",
        off,
    )


def count(name: str, pixels: int = 32, **settings) -> tuple[int, int]:
    """(params, macs) of one network for images of pixels x pixels; settings as in `create_model`."""
    model = on_meta(name, **settings)
    return count_params(model), count_macs(model, (3, pixels, pixels))


def on_meta(name: str, **settings):
    """The network on the meta device: shapes without values."""
    import torch

    with torch.device("meta"):
        return create_model(name, **settings)
