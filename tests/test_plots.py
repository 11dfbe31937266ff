"""Figures: the drawn values equal the given ones, for few and many networks, seeds and classes, and for none."""

import warnings

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch

from senet_lib.analysis import plots
from senet_lib.analysis.plots import fonts
from senet_lib.analysis.plots.axes import separated
from senet_lib.analysis.stats import Interval, t_interval
from senet_lib.models.description import Description, Paths, Step
from senet_lib.models.registry import NETWORKS, family_name

MODELS = {"plain": "resnet20", "gated": "se_resnet20", "selective": "sk_resnet20"}
CLASSES = ("cat", "dog", "frog")
HOSTILE = r"$\frac{<script>alert(1)</script>" + "\n" + "_" * 50
MINUS = "\N{MINUS SIGN}"


@pytest.fixture(autouse=True)
def _no_window_and_no_leak(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *arguments, **options: pytest.fail("a plot must not show itself"))
    with plt.rc_context(plots.house_style()):
        yield
    plt.close("all")


def history(seeds=(0, 1, 2), epochs=5, labels=tuple(MODELS)):
    rng = np.random.default_rng(0)
    rows = [
        {"label": label, "seed": seed, "epoch": epoch + 1}
        | {f"{part}_accuracy": 0.6 + 0.07 * epoch + 0.01 * rng.uniform() for part in ("train", "test")}
        | {f"{part}_loss": 1.5 - 0.2 * epoch + 0.01 * rng.uniform() for part in ("train", "test")}
        | {"train_seconds": 10.0 + seed + epoch}
        for label in labels
        for seed in seeds
        for epoch in range(epochs)
    ]
    return pd.DataFrame(rows)


def networks(**changes):
    table = pd.DataFrame(
        {
            "label": list(MODELS),
            "model": list(MODELS.values()),
            "params": [272_474, 274_847, 493_000],
            "macs": [40.8e6, 40.83e6, 75e6],
            "mean": [0.90, 0.91, 0.92],
            "low": [0.895, 0.905, np.nan],
            "high": [0.905, 0.915, np.nan],
            "seconds_per_epoch": [40.0, 50.0, 100.0],
        }
    )
    return table.assign(**changes)


def examples(*rows):
    return pd.DataFrame(rows, columns=["first", "second", "image", "true", "wrong", "runs"])


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def texts(ax):
    return [text.get_text() for text in ax.texts]


def names(ticks):
    return [label.get_text() for label in ticks]


def band_at_the_end(ax):
    """The lower and upper edge of the first band at its largest x."""
    vertices = ax.collections[0].get_paths()[0].vertices
    edges = vertices[vertices[:, 0] == vertices[:, 0].max()][:, 1]
    return edges.min(), edges.max()


# Styles


def test_registered_networks_have_family_styles():
    assert {family_name(name) for name in NETWORKS} == set(plots.PALETTE)
    for attribute in ("colour", "marker", "line"):  # distinguishable without colour, too
        assert len({getattr(style, attribute) for style in plots.PALETTE.values()}) == len(plots.PALETTE)


def test_house_style_replaces_user_settings():
    users = {"text.usetex": True, "axes.facecolor": "black", "savefig.bbox": "tight", "font.family": ["fantasy"]}
    with plt.rc_context(users):
        plt.rcParams.update(plots.house_style())
        assert all(plt.rcParams[key] == matplotlib.rcParamsDefault[key] for key in users)


def test_networks_of_one_family_differ():
    styles = plots.network_styles({f"n{i}": "se_resnet20" for i in range(4)} | {"plain": "resnet20"})
    assert (styles["n0"], styles["plain"]) == (plots.PALETTE["se"], plots.PALETTE["resnet"])
    family = [styles[f"n{i}"] for i in range(4)]
    assert len({style.colour for style in family}) == len({style.marker for style in family}) == 4
    assert {style.line for style in family} == {plots.PALETTE["se"].line}
    many = {f"n{i}": "fast" for i in range(14)}
    styles = plots.network_styles(many)
    assert styles["n0"] == plots.PALETTE["resnet"]
    assert len({(style.colour, style.marker) for style in styles.values()}) == 14
    assert len({style.colour for style in list(styles.values())[:9]}) == 9
    mixed = plots.network_styles(many | {"se": "se_fast"})  # colours now belong to families
    assert mixed["n4"].colour == plots.PALETTE["resnet"].colour
    assert mixed["se"] == plots.PALETTE["se"]


def test_shaded_mixes_with_white_or_black():
    for towards, expected in ((0.0, "#804020"), (1.0, "#ffffff"), (-1.0, "#000000"), (-0.5, "#402010")):
        assert plots.shaded("#804020", towards) == expected


# Curves


def test_accuracy_curves_show_means_and_intervals():
    table = history(seeds=range(5))
    figure, axes = plt.subplots(1, 2)
    assert plots.loss_curves(table, MODELS, axes=axes)[1] is axes[1]
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match=r"\(1,\); this figure needs \(2,\)"):
        plots.accuracy_curves(table, MODELS, axes=axes[:1])
    axes = plots.accuracy_curves(table, MODELS, published={"plain": 0.93, "gated": 0.2})
    for ax, column in zip(axes, ("train_accuracy", "test_accuracy"), strict=True):
        assert list(lines(ax)) == list(MODELS)
        for label, line in lines(ax).items():
            rows = table[table["label"] == label]
            assert line.get_xdata() == pytest.approx([1, 2, 3, 4, 5])
            assert line.get_ydata() == pytest.approx(100 * rows.groupby("epoch")[column].mean().to_numpy())
            assert to_rgb(line.get_color()) == to_rgb(plots.PALETTE[family_name(MODELS[label])].colour)
        last = t_interval(100 * table[(table["label"] == "plain") & (table["epoch"] == 5)][column])
        assert band_at_the_end(ax) == pytest.approx((last.low, last.high))
        assert "(%)" in ax.get_ylabel()
    levels = [line.get_ydata()[0] for line in axes[1].get_lines() if len(set(line.get_ydata())) == 1]
    assert levels == [93.0] < [axes[1].get_ylim()[1]]  # 20 % is too far away
    assert "93.00" in axes[1].texts[0].get_text()


def test_close_labels_are_spread_out():
    assert separated([93.01, 93.0, 95.0], gap=1.0) == [94.0, 93.0, 95.0]


def test_curves_of_few_seeds_and_unequal_epochs():
    for seeds, thin_lines in ((1, 0), (2, 2), (4, 4)):
        table = history(range(seeds))
        ax = plots.accuracy_curves(table, MODELS)[1]
        assert not ax.collections
        assert len(ax.get_lines()) == len(MODELS) * (1 + thin_lines)
        key = plots.curve_key(table)
        assert "bands" not in key and ("thin lines" in key) == ("means" in key) == (seeds > 1)
    table = history(labels=("plain",))
    table = table[(table["seed"] > 0) | (table["epoch"] <= 3)]
    line = lines(plots.accuracy_curves(table, MODELS)[1])["plain"]
    assert list(line.get_xdata()) == [1, 2, 3]  # only the epochs that every seed has
    mixed = pd.concat([history(range(5), labels=("plain",)), history((0, 1), labels=("gated",))])
    assert "bands" in plots.curve_key(mixed) and "thin lines" in plots.curve_key(mixed)


def test_two_epochs_are_points():
    table = history(range(5), epochs=2)
    for axes in (
        plots.accuracy_curves(table, MODELS),
        plots.network_curves(table[table["label"] == "plain"], "resnet20"),
    ):
        for ax in axes:
            assert not ax.collections
            assert {line.get_linestyle() for line in ax.get_lines()} == {"None"}
            assert all(line.get_marker() not in ("", "None") for line in ax.get_lines())
    assert plots.curve_key(table).startswith("Points") and "small points" in plots.curve_key(table)


def test_long_training_hides_its_first_rise():
    long = history(epochs=12).assign(test_accuracy=lambda table: table["epoch"] / 13)
    assert plots.accuracy_curves(long, MODELS)[1].get_ylim()[0] > 100 * 4 / 13
    assert plots.accuracy_curves(history(epochs=5), MODELS)[1].get_ylim()[0] < 61


def test_accuracy_against_cumulative_seconds():
    table = history(range(5), epochs=24).sample(frac=1, random_state=0)  # in any order of rows
    axes = plots.accuracy_against_seconds(table, MODELS, evaluated="validation")
    for ax, epochs in zip(axes, (range(1, 25), range(13, 25)), strict=True):
        assert list(lines(ax)) == list(MODELS)
        line = lines(ax)["gated"]
        # Epoch e of seed s takes 10 + s + e - 1 seconds; the mean of s is 2
        assert line.get_xdata() == pytest.approx([sum(12 + e for e in range(last)) for last in epochs])
        means = table[table["label"] == "gated"].groupby("epoch")["test_accuracy"].mean()
        assert line.get_ydata() == pytest.approx(100 * means.loc[list(epochs)].to_numpy())
        assert (line.get_marker(), line.get_linestyle(), line.get_markevery()) == ("s", "--", 1)
        last = t_interval(100 * table[(table["label"] == "plain") & (table["epoch"] == 24)]["test_accuracy"])
        assert band_at_the_end(ax) == pytest.approx((last.low, last.high))
        assert "validation" in ax.get_ylabel()
    long, rest = plots.accuracy_against_seconds(history(seeds=(0,), epochs=plots.ALL_MARKED + 10), MODELS)
    assert {len(line.get_xdata()) for line in lines(long).values()} == {plots.ALL_MARKED + 10}
    assert {line.get_markevery() for line in lines(long).values()} == {5}
    assert {line.get_markevery() for line in lines(rest).values()} == {1}
    for ax in plots.accuracy_against_seconds(history(seeds=(0,), epochs=1), MODELS):
        assert [list(line.get_xdata()) for line in lines(ax).values()] == [[10.0]] * 3


def test_network_grid_shares_its_axes():
    axes = plots.network_grid(history(labels=("plain", "selective")), MODELS, evaluated="validation")
    assert axes.shape == (2, 2)
    assert [ax.get_title(loc="left") for ax in axes[:, 0]] == ["plain", "selective"]
    for column in axes.T:
        assert len({ax.get_ylim() for ax in column}) == 1
    assert "validation images" in lines(axes[0, 0])
    one_run = history(seeds=(0,), labels=("gated",)).drop(columns=["label", "seed"])  # a plain history.csv
    for ax in plots.network_curves(one_run, "se_resnet20"):
        assert list(lines(ax)) == ["test images", "training images"]
        assert lines(ax)["test images"].get_marker() == plots.PALETTE["se"].marker


# Confusion


def test_confusion_matrices_share_one_scale():
    first = np.array([[0.9, 0.1, 0], [np.nan] * 3, [0.004, 0, 0.996]])  # no image of class dog
    axes = plots.confusion_matrices({"a": first, "b": np.eye(3)}, CLASSES)
    images = [ax.images[0] for ax in axes]
    assert np.allclose(images[0].get_array().filled(np.nan), 100 * first, equal_nan=True)
    assert images[0].norm is images[1].norm
    assert (images[0].norm.vmin, images[0].norm.vmax) == (0, 100)
    assert texts(axes[0]) == ["90", "10", "100"]  # 0.4 % stays empty
    assert names(axes[0].get_yticklabels()) == list(CLASSES)
    many = plots.confusion_matrices({"a": np.eye(100), "b": np.eye(100)}, [f"class {i}" for i in range(100)])
    for ax in many:
        assert texts(ax) == []
        assert 20 <= len(ax.get_xticks()) <= 50
    assert many[0].get_position().width * many[0].figure.get_figwidth() > 4  # inches


def test_confusion_difference_is_centred_at_zero():
    matrices = {"other": np.array([[0.9, 0.1, 0], [np.nan] * 3, [0, 0, 1]]), "same": np.eye(3)}
    matrices["plain"], controls = np.eye(3), {"other": "plain", "same": "plain"}
    other, same = plots.confusion_difference(matrices, controls, CLASSES)
    norm = other.images[0].norm
    assert (norm(0), -norm.vmin) == (0.5, norm.vmax) and norm(norm.vmax / 4) == pytest.approx(0.75)
    assert other.get_title(loc="left") == "other minus plain"
    assert texts(other) == [f"{MINUS}10", "+10"]
    assert texts(same) == []
    assert not same.images[0].get_array().any()
    (alone,) = plots.confusion_difference(matrices, {"same": "plain"}, CLASSES)
    alone.figure.draw_without_rendering()  # a scale without any difference


def test_per_class_accuracy_sorts_by_baseline():
    means = {"plain": (0.9, 0.7, 0.8), "gated": (0.91, 0.75, 0.79)}
    rows = [
        {"label": label, "class": name, "mean": mean, "low": mean - 0.01, "high": mean + 0.01}
        for label, values in means.items()
        for name, mean in zip(CLASSES, values, strict=True)
    ]
    ax = plots.per_class_accuracy(pd.DataFrame(rows), MODELS, baseline="plain")
    assert names(ax.get_yticklabels()) == ["cat", "frog", "dog"]  # from the bottom up
    plain = next(c for c in ax.containers if c.get_label() == "plain")
    assert sorted(plain[0].get_xdata()) == pytest.approx([70, 80, 90])
    few = plots.per_class_accuracy(pd.DataFrame(rows), MODELS, baseline="plain", most=1)
    assert names(few.get_yticklabels()) == ["dog"]  # the largest range over networks


def test_example_images_state_their_errors():
    rows = [("cat", "dog", 7, "cat", 3, 4), ("cat", "dog", 2, "dog", 1, 4), ("cat", "frog", 5, "frog", 1, 4)]
    pictures = {image: np.full((6, 4, 3), image, np.uint8) for image in (2, 5, 7)}
    axes = plots.example_images(examples(*rows), pictures)
    assert axes.shape == (2, 2)
    titles = [ax.get_title() for ax in axes.flat]
    assert titles == ["cat\nas dog: 3 of 4", "dog\nas cat: 1 of 4", "frog\nas cat: 1 of 4", ""]
    assert [ax.get_images()[0].get_array()[0, 0, 0] for ax in (*axes[0], axes[1, 0])] == [7, 2, 5]


# Comparisons


def test_accuracy_against_cost_shows_every_interval():
    for ax, column in zip(plots.accuracy_against_cost(networks()), ("params", "macs"), strict=True):
        drawn = {container.get_label(): container for container in ax.containers}
        assert list(drawn) == list(MODELS)
        for row in networks().itertuples():
            (x,), (y,) = drawn[row.label][0].get_data()
            assert (x, y) == pytest.approx((getattr(row, column) / 1e6, 100 * row.mean))
        assert drawn["plain"][2][0].get_segments()[0][:, 1] == pytest.approx([89.5, 90.5])
        assert np.ptp(drawn["selective"][2][0].get_segments()[0][:, 1]) == 0  # no interval, so no bar
        low, high = ax.get_ylim()
        assert low < 89.5 and high > 92
    ax.figure.draw_without_rendering()
    places = [c[0].get_transform().transform(np.column_stack(c[0].get_data()))[0, 0] for c in ax.containers]
    assert places[1] - places[0] > 5  # almost equal MACs, moved apart


def test_sorted_accuracies_rank_all():
    ax = plots.sorted_accuracies(networks(mean=[0.91, 0.90, 0.92], low=[0.9, 0.89, np.nan]), baseline="gated")
    assert names(ax.get_yticklabels()) == ["gated", "plain", "selective"]  # from the bottom up
    assert [container[0].get_xdata()[0] for container in ax.containers] == pytest.approx([90, 91, 92])
    assert ax.get_lines()[0].get_xdata() == pytest.approx([90, 90]) and plots.shows_baseline(ax)
    assert np.ptp(ax.containers[2][2][0].get_segments()[0][:, 0]) == 0  # no interval, so no bar


def test_sorted_accuracies_far_below_are_arrows():
    three = networks(mean=[0.87, 0.65, 0.88], low=np.nan, high=np.nan)
    ax = plots.sorted_accuracies(three, baseline="gated")  # 22 pp below, the others 1 pp apart
    assert [container[0].get_xdata()[0] for container in ax.containers] == pytest.approx([87, 88])
    (place,) = [line.get_xdata() for line in ax.get_lines() if line.get_marker() == "<"]
    assert place == pytest.approx([86.85]) and texts(ax) == ["beyond the axis"]
    assert not plots.shows_baseline(ax)
    assert "65.00" in names(ax.child_axes[0].get_yticklabels())  # its number is still there
    for close in (networks(mean=[0.87, 0.82, 0.88]), networks(mean=[0.88, 0.65, 0.65]), networks(mean=0.9)):
        assert not texts(plots.sorted_accuracies(close.assign(low=np.nan, high=np.nan)))


def test_published_lines_are_reported():
    assert plots.shows_published(plots.accuracy_curves(history(), MODELS, published={"plain": 0.9}))
    assert not plots.shows_published(plots.accuracy_curves(history(), MODELS, published={"plain": 0.1}))
    assert plots.shows_published(plots.accuracy_against_cost(networks(published=0.9)))


def test_cost_scale_and_styles():
    assert plots.params_vs_accuracy(networks(), metric="validation accuracy").get_ylabel() == "validation accuracy (%)"
    assert plots.macs_vs_accuracy(networks()).get_xscale() == "linear"
    assert plots.macs_vs_accuracy(networks(macs=[92e6, 1300e6, 1420e6])).get_xscale() == "log"
    table = networks(model=["se_resnet20", "se_resnet20", "sk_resnet20"], mean=[np.nan, 0.91, 0.92])
    (point, _) = plots.params_vs_accuracy(table).containers  # the style of the second, though the first has no result
    assert point[0].get_marker() == plots.network_styles({"a": "se_resnet20", "b": "se_resnet20"})["b"].marker


def test_difference_intervals_show_the_margin():
    differences = {
        ("gated", "plain"): Interval(0.004, 0.001, 0.007),
        ("selective", "plain"): Interval(-0.01, reason="n = 1: no interval"),
        ("other", "plain"): Interval(-0.00001, -0.001, 0.001),
    }
    ax = plots.difference_intervals(differences, MODELS, margin=0.003)
    assert [text.split()[0] for text in texts(ax)] == ["0.00", f"{MINUS}1.00", "+0.40"]
    assert names(ax.get_yticklabels()) == ["other", "selective", "gated"]
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-0.3, 0.3))
    assert "plain" in ax.get_xlabel()
    differences[("selective", "plain")] = Interval(-0.17, -0.18, -0.16)  # far larger than the others: an arrow
    ax = plots.difference_intervals(differences, MODELS, margin=0.003)
    assert -1.5 < ax.get_xlim()[0] < ax.get_xlim()[1] < 1.5
    (arrow,) = [line for line in ax.lines if line.get_marker() == "<"]
    assert (arrow.get_xdata()[0], arrow.get_ydata()[0]) == (pytest.approx(-0.875), 1)
    assert texts(ax)[1] == f"{MINUS}17.00  ({MINUS}18.00 to {MINUS}16.00)"
    differences[("other", "plain")] = Interval(0.002, -0.5, 0.5)  # an interval that needs a long axis anyway
    ax = plots.difference_intervals(differences, MODELS, margin=0.003)
    assert not [line for line in ax.lines if line.get_marker() == "<"] and ax.get_xlim()[0] < -50
    differences = {("selective", "plain"): Interval(0.01), ("selective", "gated"): Interval(0.002)}
    ax = plots.difference_intervals(differences, MODELS, margin=0.003)  # several baselines: each row names its own
    assert names(ax.get_yticklabels())[::-1] == [f"{a} {MINUS} {b}" for a, b in differences]


def test_crossed_draws_one_line_per_network():
    cells = {
        "plain": {"small": Interval(0.9, 0.89, 0.91), "large": Interval(0.7, reason="n = 1: no interval")},
        "selective": {"large": Interval(0.6, 0.58, 0.62)},
    }
    ax = plots.crossed(cells, MODELS, factor="stem")
    means = {container.get_label(): list(container[0].get_ydata()) for container in ax.containers}
    assert means == {"plain": pytest.approx([90, 70]), "selective": pytest.approx([60])}
    bars = [segment[:, 1].tolist() for segment in ax.containers[0][2][0].get_segments()]
    assert bars == [pytest.approx([89, 91]), pytest.approx([70, 70])]
    assert names(ax.get_xticklabels()) == ["small", "large"]
    assert round(ax.containers[1][0].get_xdata()[0]) == 1  # at its own level


def test_seconds_per_epoch_shows_ratios():
    ax = plots.seconds_per_epoch(networks(), baseline="plain")
    assert sorted(texts(ax)) == ["100 s   2.50x", "40 s", "50 s   1.25x"]


# Diagrams


def test_diagram_shows_every_step_and_shape():
    branch = (Step("first step", "8 x 4 x 4", family="se"), Step("second step $x$", "9 x 4 x 4", head="Excite"))
    inner = Paths((branch, (), branch), Step("sum", "7 x 4 x 4"))
    described = Description("a block", "3 x 8 x 8", (Step("a long text " * 6, "6 x 8 x 8"), inner, Step("ReLU")))
    ax = plots.diagram(described)
    ax.figure.draw_without_rendering()
    drawn = " ".join(" ".join(texts(ax)).split())
    for part in ("A block", "input: 3 x 8 x 8", "6 x 8 x 8", "identity", "Excite", "a long text a long"):
        assert part in drawn, part
    assert (drawn.count("first step"), drawn.count("8 x 4 x 4"), drawn.count("7 x 4 x 4")) == (2, 2, 2)
    assert ax.get_label() == described.alt and "second step" in described.alt and "(2) identity" in described.alt
    boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == 7
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert 0 <= box.x0 < box.x1 <= ax.figure.bbox.width and 0 <= box.y0 < box.y1 <= ax.figure.bbox.height
    for text in ax.texts:
        extent = text.get_window_extent()
        assert extent.x0 >= 0 and extent.x1 <= ax.figure.bbox.width, text


# Names from outside, and missing results


def test_names_without_a_font_become_numbers():
    linear_a = "\N{LINEAR A SIGN AB001}"  # no installed font has it, or this test skips
    names_of_classes = ["Übermaß", linear_a, "кот"]
    if not fonts.undrawable([linear_a]):
        pytest.skip("a font for Linear A is installed")
    assert plots.drawable(names_of_classes) == ["Übermaß", "class 2", "кот"]
    assert plots.replaced(names_of_classes) == {"class 2": linear_a}
    assert plots.drawable(["class 2", linear_a]) == ["class 2", "class 2'"], "a stand-in is no other class's name"
    plt.rcParams.update(plots.house_style(names_of_classes))
    with warnings.catch_warnings():  # matplotlib warns of a missing character
        warnings.simplefilter("error")
        plt.figtext(0, 0, "".join(plots.drawable(names_of_classes)))
        plt.gcf().draw_without_rendering()


def test_installed_fonts_fill_in(monkeypatch):
    """As if the default font had Latin letters only, and one other installed font had Cyrillic ones."""
    latin = frozenset(map(chr, range(32, 127)))
    monkeypatch.setattr(fonts, "_glyphs", lambda file: latin | set("кот" if file.endswith("DejaVuSerif.ttf") else ""))
    for cached in (fonts._families, fonts._covered):
        cached.cache_clear()
    try:
        assert fonts.font_families(["cat"]) == ["sans-serif"]
        assert fonts.font_families(["cat", "кот"]) == ["sans-serif", "DejaVu Serif"]
        assert fonts.undrawable(["cat", "кот", "кит"]) == {"кит"}
    finally:
        for cached in (fonts._families, fonts._covered):
            cached.cache_clear()


def test_hostile_names_are_drawn_literally():
    models = {HOSTILE: "se_resnet20", r"$broken": "resnet20"}
    renamed = {"label": {"plain": HOSTILE, "gated": r"$broken"}}
    table, costs = history(epochs=2).replace(renamed), networks().replace(renamed)
    for axes in (
        plots.accuracy_curves(table, models, published={HOSTILE: 0.7}),
        plots.network_grid(table, models),
        plots.accuracy_against_cost(costs.assign(published=0.9)),
        plots.confusion_matrices({HOSTILE: np.eye(2)}, (HOSTILE, "$a$ and $")),
        plots.difference_intervals({(HOSTILE, HOSTILE): Interval(0.1)}, models, margin=0.003),
        plots.seconds_per_epoch(costs, baseline=HOSTILE),
        plots.example_images(examples(("cat", HOSTILE, 5, HOSTILE, 1, 4)), {5: np.zeros((2, 2, 3), np.uint8)}),
    ):
        np.asarray(axes).flat[0].figure.draw_without_rendering()  # a formula would raise
    assert len(plots.plain(HOSTILE)) <= 42 and "\n" not in plots.plain(HOSTILE)


def test_figures_without_finished_runs():
    nothing, empty = history(epochs=1).iloc[:0], networks().iloc[:0]
    recalls = pd.DataFrame(columns=["label", "class", "mean", "low", "high"])
    for axes in (
        plots.accuracy_curves(nothing, MODELS, published={"plain": 0.9}),
        plots.loss_curves(nothing, MODELS),
        plots.accuracy_against_seconds(nothing, MODELS),
        plots.network_curves(nothing, "resnet20"),
        plots.network_grid(nothing, MODELS),
        plots.confusion_matrices({}, CLASSES),
        plots.confusion_difference({}, {}, CLASSES),
        plots.per_class_accuracy(recalls, MODELS, baseline="plain"),
        plots.accuracy_against_cost(empty),
        plots.difference_intervals({}, MODELS, margin=0.003),
        plots.seconds_per_epoch(empty, baseline="plain"),
        plots.sorted_accuracies(empty),
        plots.crossed({}, MODELS, factor="stem"),
        plots.example_images(examples(), {}),
    ):
        for ax in np.asarray(axes).flat:
            assert len(ax.texts) == 1  # why it is empty
        ax.figure.draw_without_rendering()
