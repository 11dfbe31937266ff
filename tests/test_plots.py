"""Figures: what is drawn is what was given, for few and many networks, seeds and classes, and for none."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from senet_lib.analysis import plots
from senet_lib.analysis.stats import Interval, t_interval
from senet_lib.models.registry import NETWORKS

MODELS = {"plain": "resnet20", "gated": "se_resnet20", "selective": "sk_resnet20"}
CLASSES = ("cat", "dog", "frog")
HOSTILE = r"$\frac{<script>alert(1)</script>" + "\n" + "_" * 50


@pytest.fixture(autouse=True)
def _no_window_and_no_leak(monkeypatch):
    def shown(*arguments, **options):
        raise AssertionError("a plot must not show itself")

    monkeypatch.setattr(plt, "show", shown)
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


def named_lines(ax):
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def texts(ax):
    return [text.get_text() for text in ax.texts]


# Styles


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_registered_network_has_its_familys_style(name):
    family = NETWORKS[name].family
    if family is None:
        expected = "other"
    else:
        expected = {("conv", None): "resnet", ("conv", "se"): "se", ("sk", None): "sk", ("sk", "se"): "sk+se"}[
            family.spatial, family.gate
        ]
    assert plots.family_of(name) == expected


def test_networks_of_one_family_are_told_apart_and_the_first_keeps_the_palette():
    styles = plots.network_styles({f"n{i}": "se_resnet20" for i in range(4)} | {"plain": "resnet20"})
    assert styles["n0"] == plots.PALETTE["se"]
    assert styles["plain"] == plots.PALETTE["resnet"]
    family = [styles[f"n{i}"] for i in range(4)]
    assert len({style.colour for style in family}) == len({style.marker for style in family}) == 4
    assert {style.line for style in family} == {plots.PALETTE["se"].line}


def test_many_networks_of_one_family_alone_have_colours_of_their_own():
    many = {f"n{i}": "fast" for i in range(14)}
    styles = plots.network_styles(many)
    assert styles["n0"] == plots.PALETTE["resnet"]
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(many)
    assert len({style.colour for style in list(styles.values())[:9]}) == 9
    beside = plots.network_styles(many | {"se": "se_fast"})  # a colour is then a family's
    assert beside["n4"].colour == plots.PALETTE["resnet"].colour
    assert beside["se"] == plots.PALETTE["se"]


def test_families_differ_without_colour():
    for attribute in ("colour", "marker", "line"):
        assert len({getattr(style, attribute) for style in plots.PALETTE.values()}) == len(plots.PALETTE)


# Curves


def test_accuracy_curves_draw_the_mean_and_its_interval():
    table = history()
    axes = plots.accuracy_curves(table, MODELS)
    for ax, column in zip(axes, ("train_accuracy", "test_accuracy"), strict=True):
        lines = named_lines(ax)
        assert list(lines) == list(MODELS)
        for label, line in lines.items():
            rows = table[table["label"] == label]
            assert line.get_xdata() == pytest.approx([1, 2, 3, 4, 5])
            assert line.get_ydata() == pytest.approx(100 * rows.groupby("epoch")[column].mean().to_numpy())
            assert to_rgb(line.get_color()) == to_rgb(plots.PALETTE[plots.family_of(MODELS[label])].colour)
        last = t_interval(100 * table[(table["label"] == "plain") & (table["epoch"] == 5)][column])
        band = ax.collections[0].get_paths()[0].vertices
        at_the_end = band[band[:, 0] == 5][:, 1]
        assert (at_the_end.min(), at_the_end.max()) == pytest.approx((last.low, last.high))
        assert "(%)" in ax.get_ylabel()


@pytest.mark.parametrize(("seeds", "thin_lines"), [((0,), 0), ((0, 1), 2)])
def test_few_seeds_are_thin_lines_without_a_band(seeds, thin_lines):
    ax = plots.accuracy_curves(history(seeds), MODELS)[1]
    assert not ax.collections
    assert len(ax.get_lines()) == len(MODELS) * (1 + thin_lines)


def test_a_mean_is_only_over_epochs_that_every_seed_has():
    table = history(labels=("plain",))
    table = table[(table["seed"] > 0) | (table["epoch"] <= 3)]
    line = named_lines(plots.accuracy_curves(table, MODELS)[1])["plain"]
    assert list(line.get_xdata()) == [1, 2, 3]


def test_given_axes_are_used_and_no_figure_is_made():
    figure, axes = plt.subplots(1, 2)
    assert plots.accuracy_curves(history(), MODELS, axes=axes)[0] is axes[0]
    assert plots.loss_curves(history(), MODELS, axes=axes)[1] is axes[1]
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match=r"needs 2 axes, got shape \(1,\)"):
        plots.accuracy_curves(history(), MODELS, axes=axes[:1])


def test_a_published_number_is_a_labelled_line_only_where_it_fits():
    ax = plots.accuracy_curves(history(), MODELS, published={"plain": 0.93, "gated": 0.2})[1]
    levels = [line.get_ydata()[0] for line in ax.get_lines() if len(set(line.get_ydata())) == 1]
    assert levels == [93.0]
    assert texts(ax) == ["plain\npublished: 93.00"]
    assert ax.get_ylim()[1] > 93


def test_labels_of_close_published_numbers_do_not_cover_one_another():
    ax = plots.accuracy_curves(history(), MODELS, published={"plain": 0.93, "gated": 0.9301})[1]
    places = sorted(text.xy[1] for text in ax.texts)
    assert places[1] - places[0] > 0.05 * np.ptp(ax.get_ylim())


def test_a_long_trainings_first_climb_is_left_out_of_the_accuracies():
    ax = plots.accuracy_curves(history(epochs=12).assign(test_accuracy=lambda t: t["epoch"] / 13), MODELS)[1]
    assert ax.get_ylim()[0] > 100 * 4 / 13
    assert plots.accuracy_curves(history(epochs=5), MODELS)[1].get_ylim()[0] < 61


def test_accuracy_against_seconds_has_a_mark_for_every_epoch_at_its_mean_cumulative_seconds():
    table = history(epochs=24).sample(frac=1, random_state=0)  # whatever the order of the rows
    for ax, epochs in zip(plots.accuracy_against_seconds(table, MODELS), (range(1, 25), range(13, 25)), strict=True):
        lines = named_lines(ax)
        assert list(lines) == list(MODELS)
        # Epoch e of seed s takes 10 + s + e - 1 seconds; the mean of s is 1
        assert lines["gated"].get_xdata() == pytest.approx([sum(11 + e for e in range(last)) for last in epochs])
        means = table[table["label"] == "gated"].groupby("epoch")["test_accuracy"].mean()
        assert lines["gated"].get_ydata() == pytest.approx(100 * means.loc[list(epochs)].to_numpy())
        assert lines["gated"].get_markevery() == 1
        assert (lines["gated"].get_marker(), lines["gated"].get_linestyle()) == ("s", "--")
        last = t_interval(100 * table[(table["label"] == "plain") & (table["epoch"] == 24)]["test_accuracy"])
        band = ax.collections[0].get_paths()[0].vertices
        at_the_end = band[band[:, 0] == band[:, 0].max()][:, 1]
        assert (at_the_end.min(), at_the_end.max()) == pytest.approx((last.low, last.high))
        assert ax.get_xlabel() == "seconds of training, without evaluation"
    assert [ax.get_title(loc="left") for ax in ax.figure.axes] == ["All epochs", "Second half of the epochs"]


def test_of_a_long_training_a_tenth_of_the_epochs_is_marked_and_each_is_a_point():
    long, rest = plots.accuracy_against_seconds(history(seeds=(0,), epochs=plots.ALL_MARKED + 10), MODELS)
    assert {len(line.get_xdata()) for line in named_lines(long).values()} == {plots.ALL_MARKED + 10}
    assert {line.get_markevery() for line in named_lines(long).values()} == {5}
    assert {line.get_markevery() for line in named_lines(rest).values()} == {1}


def test_accuracy_against_seconds_of_one_epoch_is_a_point_each():
    table = history(seeds=(0,), epochs=1)
    for ax in plots.accuracy_against_seconds(table, MODELS, evaluated="validation"):
        assert [list(line.get_xdata()) for line in named_lines(ax).values()] == [[10.0]] * 3
        assert ax.get_ylabel() == "validation accuracy (%)"


def test_network_curves_take_one_runs_plain_history():
    axes = plots.network_curves(history(seeds=(0,), labels=("gated",)).drop(columns=["label", "seed"]), "se_resnet20")
    for ax in axes:
        assert list(named_lines(ax)) == ["test images", "training images"]
    assert named_lines(axes[0])["test images"].get_marker() == plots.PALETTE["se"].marker


def test_network_grid_has_a_row_each_on_common_axes():
    axes = plots.network_grid(history(labels=("plain", "selective")), MODELS, evaluated="validation")
    assert axes.shape == (2, 2)
    assert [ax.get_title(loc="left") for ax in axes[:, 0]] == ["plain", "selective"]
    for column in axes.T:
        assert len({ax.get_ylim() for ax in column}) == 1
    assert "validation images" in named_lines(axes[0, 0])


# Confusion


def test_confusion_matrices_share_one_scale_and_show_percent():
    first, second = np.array([[0.9, 0.1, 0], [0, 1, 0], [0.004, 0, 0.996]]), np.eye(3)
    axes = plots.confusion_matrices({"a": first, "b": second}, CLASSES)
    images = [ax.images[0] for ax in axes]
    assert np.allclose(images[0].get_array(), 100 * first)
    assert images[0].norm is images[1].norm
    assert (images[0].norm.vmin, images[0].norm.vmax) == (0, 100)
    assert texts(axes[0]) == ["90", "10", "100", "100"]  # 0.4 % stays empty
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list(CLASSES)
    assert (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("predicted class", "true class")


def test_confusion_difference_is_centred_at_zero():
    baseline, other = np.eye(3), np.array([[0.9, 0.1, 0], [0, 1, 0], [0, 0, 1]])
    (ax,) = plots.confusion_difference({"other": other}, baseline, CLASSES, "plain")
    norm = ax.images[0].norm
    assert (norm.vcenter, -norm.vmin) == (0, norm.vmax)
    assert texts(ax) == ["\N{MINUS SIGN}10", "+10"]
    assert ax.get_title(loc="left") == "other minus plain"


def test_equal_matrices_have_a_difference_of_nothing():
    (ax,) = plots.confusion_difference({"same": np.eye(3)}, np.eye(3), CLASSES)
    assert not ax.images[0].get_array().any()
    assert texts(ax) == []


def test_a_class_without_images_is_an_empty_row():
    matrix = np.array([[1, 0, 0], [np.nan] * 3, [0, 0, 1]])
    axes = plots.confusion_difference({"a": matrix}, np.eye(3), CLASSES)
    axes[0].figure.draw_without_rendering()
    assert texts(plots.confusion_matrices({"a": matrix}, CLASSES)[0]) == ["100", "100"]


def test_a_hundred_classes_stay_readable():
    names = [f"class {i}" for i in range(100)]
    axes = plots.confusion_matrices({"a": np.eye(100), "b": np.eye(100)}, names)
    assert len(axes) == 2
    for ax in axes:
        assert texts(ax) == []
        assert 20 <= len(ax.get_xticks()) <= 50
        assert ax.get_position().width * ax.figure.get_figwidth() > 4  # inches


def test_per_class_accuracy_puts_the_baselines_hardest_class_on_top():
    means = {"plain": (0.9, 0.7, 0.8), "gated": (0.91, 0.75, 0.79)}
    rows = [
        {"label": label, "class": name, "mean": mean, "low": mean - 0.01, "high": mean + 0.01}
        for label, values in means.items()
        for name, mean in zip(CLASSES, values, strict=True)
    ]
    ax = plots.per_class_accuracy(pd.DataFrame(rows), MODELS, baseline="plain")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cat", "frog", "dog"]  # from the bottom up
    plain = next(c for c in ax.containers if c.get_label() == "plain")
    assert sorted(plain[0].get_xdata()) == pytest.approx([70, 80, 90])
    few = plots.per_class_accuracy(pd.DataFrame(rows), MODELS, baseline="plain", most=1)
    assert [label.get_text() for label in few.get_yticklabels()] == ["dog"]  # where the two lie furthest apart


# Accuracy against cost


@pytest.mark.parametrize(("draw", "column"), [(plots.params_vs_accuracy, "params"), (plots.macs_vs_accuracy, "macs")])
def test_accuracy_against_cost(draw, column):
    ax = draw(networks(), metric="validation accuracy")
    points = {container.get_label(): container for container in ax.containers}
    assert list(points) == list(MODELS)
    for row in networks().itertuples():
        (x,), (y,) = points[row.label][0].get_data()
        assert (x, y) == pytest.approx((getattr(row, column) / 1e6, 100 * row.mean))
    low, high = points["plain"][2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((89.5, 90.5))
    assert np.ptp(points["selective"][2][0].get_segments()[0][:, 1]) == 0  # no interval, so no bar
    assert ax.get_ylabel() == "validation accuracy (%)"
    assert "million" in ax.get_xlabel()


def test_a_network_looks_the_same_where_another_of_its_family_is_missing():
    table = networks(model=["se_resnet20", "se_resnet20", "sk_resnet20"], mean=[np.nan, 0.91, 0.92])
    (point, _) = plots.params_vs_accuracy(table).containers
    assert point[0].get_marker() == plots.network_styles({"a": "se_resnet20", "b": "se_resnet20"})["b"].marker


def test_every_mean_lies_inside_the_axes_with_its_interval():
    ax = plots.accuracy_against_cost(networks())[0]
    low, high = ax.get_ylim()
    assert low < 89.5
    assert high > 92


def test_costs_far_apart_are_drawn_on_a_logarithmic_axis():
    assert plots.macs_vs_accuracy(networks()).get_xscale() == "linear"
    assert plots.macs_vs_accuracy(networks(macs=[92e6, 1300e6, 1420e6])).get_xscale() == "log"


def test_networks_of_almost_the_same_cost_are_moved_apart():
    ax = plots.macs_vs_accuracy(networks())
    ax.figure.draw_without_rendering()
    places = [c[0].get_transform().transform(np.column_stack(c[0].get_data()))[0, 0] for c in ax.containers]
    assert places[1] - places[0] > 5


def test_difference_intervals_show_zero_the_margin_and_what_has_no_interval():
    differences = {
        ("gated", "plain"): Interval(0.004, 0.001, 0.007),
        ("selective", "plain"): Interval(-0.01, reason="n = 1: no interval"),
    }
    ax = plots.difference_intervals(differences, MODELS, margin=0.003)
    assert texts(ax) == ["\N{MINUS SIGN}1.00  (no interval)", "+0.40"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["selective", "gated"]
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-0.3, 0.3))
    assert ax.get_xlabel() == "difference to plain (pp)"


def test_a_difference_that_rounds_to_nothing_has_no_sign():
    differences = {("gated", "plain"): Interval(-0.00001, -0.001, 0.001)}
    assert texts(plots.difference_intervals(differences, MODELS, margin=0.003)) == ["0.00"]


def test_differences_to_several_baselines_name_each_in_its_row():
    differences = {("selective", "plain"): Interval(0.01), ("selective", "gated"): Interval(0.002)}
    ax = plots.difference_intervals(differences | {("a sum", "no network"): Interval(0.0)}, MODELS, margin=0.003)
    rows = [label.get_text() for label in ax.get_yticklabels()][::-1]
    assert rows == [f"{a} \N{MINUS SIGN} {b}" for a, b in [*differences, ("a sum", "no network")]]
    assert [text.split()[0] for text in texts(ax)] == ["0.00", "+0.20", "+1.00"]
    assert ax.get_xlabel() == "difference (pp)"


def test_crossed_draws_a_line_a_network_with_its_intervals():
    cells = {
        "plain": {"small": Interval(0.9, 0.89, 0.91), "large": Interval(0.7, reason="n = 1: no interval")},
        "selective": {"large": Interval(0.6, 0.58, 0.62)},
    }
    ax = plots.crossed(cells, MODELS, factor="stem")
    means = {container.get_label(): list(container[0].get_ydata()) for container in ax.containers}
    assert means == {"plain": pytest.approx([90, 70]), "selective": pytest.approx([60])}
    bars = [segment[:, 1].tolist() for segment in ax.containers[0][2][0].get_segments()]
    assert bars == [pytest.approx([89, 91]), pytest.approx([70, 70])]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["small", "large"]
    assert round(ax.containers[1][0].get_xdata()[0]) == 1, "at its level, though it has only that one"


def test_example_images_have_a_row_a_pair_and_say_what_they_were_taken_for():
    columns = ["first", "second", "image", "true", "taken", "runs"]
    rows = [("cat", "dog", 7, "cat", 3, 4), ("cat", "dog", 2, "dog", 1, 4), ("cat", HOSTILE, 5, HOSTILE, 1, 4)]
    chosen = pd.DataFrame(rows, columns=columns)
    pictures = {image: np.full((6, 4, 3), image, np.uint8) for image in (2, 5, 7)}
    axes = plots.example_images(chosen, pictures)
    assert axes.shape == (2, 2)
    assert [ax.get_title() for ax in axes[0]] == ["cat\nas dog: 3 of 4", "dog\nas cat: 1 of 4"]
    assert axes[1, 0].get_title().endswith("\nas cat: 1 of 4")
    assert [ax.get_images()[0].get_array()[0, 0, 0] for ax in (*axes[0], axes[1, 0])] == [7, 2, 5]
    axes[0, 0].figure.draw_without_rendering()


def test_seconds_per_epoch_names_the_factor_to_the_baseline():
    ax = plots.seconds_per_epoch(networks(), baseline="plain")
    assert sorted(texts(ax)) == ["100 s   2.50x", "40 s", "50 s   1.25x"]


# What comes from outside, and what is not there


def test_names_from_outside_are_drawn_as_they_are():
    models = {HOSTILE: "se_resnet20", r"$broken": "resnet20"}
    names = {"plain": HOSTILE, "gated": r"$broken"}
    table = history().replace({"label": names})
    figures = [
        plots.accuracy_curves(table, models, published={HOSTILE: 0.9}),
        plots.network_grid(table, models),
        plots.accuracy_against_seconds(table, models),
        plots.accuracy_against_cost(networks().replace({"label": names}).assign(published=0.9)),
        plots.confusion_matrices({HOSTILE: np.eye(2)}, (HOSTILE, "$a$ and $")),
        plots.difference_intervals({(HOSTILE, HOSTILE): Interval(0.1)}, models, margin=0.003),
        plots.seconds_per_epoch(networks().replace({"label": names}), baseline=HOSTILE),
    ]
    for axes in figures:
        np.asarray(axes).flat[0].figure.draw_without_rendering()
    assert len(plots.plain(HOSTILE)) <= 42
    assert "\n" not in plots.plain(HOSTILE)


def test_everything_draws_without_any_finished_run():
    nothing = history().iloc[:0]
    empty = networks().iloc[:0]
    recalls = pd.DataFrame(columns=["label", "class", "mean", "low", "high"])
    drawn = [
        plots.accuracy_curves(nothing, MODELS, published={"plain": 0.9}),
        plots.loss_curves(nothing, MODELS),
        plots.accuracy_against_seconds(nothing, MODELS),
        plots.network_curves(nothing, "resnet20"),
        plots.network_grid(nothing, MODELS),
        plots.confusion_matrices({}, CLASSES),
        plots.per_class_accuracy(recalls, MODELS, baseline="plain"),
        plots.accuracy_against_cost(empty),
        plots.seconds_per_epoch(empty, baseline="plain"),
        plots.crossed({}, MODELS, factor="stem"),
        plots.example_images(pd.DataFrame(columns=["first", "second", "image", "true", "taken", "runs"]), {}),
    ]
    compared = [plots.confusion_difference({}, None, CLASSES), plots.difference_intervals({}, MODELS, margin=0.003)]
    for figures, said in ((drawn, "no finished run"), (compared, "nothing to compare")):
        for ax in [ax for axes in figures for ax in np.asarray(axes).flat]:
            assert texts(ax) == [said]
            ax.figure.draw_without_rendering()
