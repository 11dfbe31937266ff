"""Gates: recorded as the blocks compute them, measured by their formulas, Grad-CAM as in captum, their notebook."""

import matplotlib

matplotlib.use("agg")

import captum.attr
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats as distributions
from synthetic import write_study
from test_report import run_notebook

from senet_lib.data import load_dataset
from senet_lib.files import read_json, write_json
from senet_lib.gates import figures, measures, sentences
from senet_lib.gates.explore import gate_menus
from senet_lib.gates.grad_cam import grad_cam, maps
from senet_lib.gates.images import coarsened, enlarged, picture, sharpness
from senet_lib.gates.record import (
    NoImages,
    evaluated_data,
    extents,
    record,
    recorded,
    study_images,
    trained_network,
)
from senet_lib.models import create_model
from senet_lib.models.blocks import SelectiveKernelConv, SqueezeExcitation
from senet_lib.models.inspection import block_name
from senet_lib.project import project_root
from senet_lib.results import load_results, write_summary
from senet_lib.running.notebook import execute
from senet_lib.training.checkpoint import save_weights

BLOCKS = [f"{stage}.{block}" for stage in (1, 2, 3) for block in (1, 2, 3)]
KNOBS = {"resnet20": {}, "se_resnet20": {"reduction": 4}, "sk_resnet20": {}}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", cache=False)


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def network(name, **knobs):
    torch.manual_seed(0)
    return create_model(name, width=0.5, **knobs).eval()


# Recording


def test_gates_are_recorded_in_any_batches(digits):
    model, images = network("se_resnet20", reduction=4), digits.test_images[:10]
    whole, parts = record(model, images, digits), record(model, images, digits, batch_size=3)
    assert (list(whole.gates), whole.weights) == (BLOCKS, {})
    assert [whole.gates[block].shape for block in ("1.1", "2.1", "3.3")] == [(10, 8), (10, 16), (10, 32)]
    for block in BLOCKS:
        assert whole.gates[block] == pytest.approx(parts.gates[block], abs=1e-5)
    assert (whole.predicted == parts.predicted).all()
    per_pixel = record(network("se_resnet20", reduction=4, squeeze="none"), images[:2], digits)
    assert per_pixel.gates["1.1"].shape == (2, 8)  # the mean over pixels


def test_constant_gates_are_recorded_as_constants(digits):
    model = network("se_resnet20", reduction=4)
    for bias, value in ((1e4, 1.0), (0.0, 0.5), (np.log(3), 0.75)):
        for module in model.modules():
            if isinstance(module, SqueezeExcitation):
                module.fc2.weight.data.zero_()
                module.fc2.bias.data.fill_(bias)
        found = record(model, digits.test_images[:4], digits)
        assert all(gates == pytest.approx(value) for gates in found.gates.values())
        row = measures.gate_table({"se": found.gates}, digits.test_labels[:4].numpy(), 10).iloc[0]
        assert (row["mean"], row["between"], row["within"]) == pytest.approx((value, 0, 0))
        assert np.isnan(row["share"]) and row["open"] == (value == 1.0)


def test_kernel_weights_of_each_branch(digits):
    model = network("sk_resnet20")
    for module in model.modules():
        if isinstance(module, SelectiveKernelConv):
            module.select.weight.data.zero_()  # equal logits
    found = record(model, digits.test_images[:5], digits)
    assert list(found.weights) == BLOCKS and found.weights["3.1"].shape == (5, 2, 32)
    assert all(weights == pytest.approx(0.5) for weights in found.weights.values())
    three = record(network("sk_resnet20", branches=3), digits.test_images[:5], digits)
    assert three.weights["1.1"].shape == (5, 3, 8)
    assert all(weights.sum(1) == pytest.approx(1) for weights in three.weights.values())
    assert record(network("sk_resnet20", branches=1), digits.test_images[:2], digits).weights == {}
    assert extents(network("sk_resnet20", kernels="3x3+3x3d2"))["2.2"] == [3, 5]
    spans = extents(network("sk_resnet20", kernels="5x5+3x3"))["1.1"]
    weights = np.stack([np.full((4, 6), 0.8), np.full((4, 6), 0.2)], 1)  # (N, M, C)
    assert measures.larger_kernel(weights, spans) == pytest.approx(0.8)


def test_recorded_values_are_those_applied():
    torch.manual_seed(0)
    gate, x = SqueezeExcitation(16, reduction=4).eval(), torch.randn(3, 16, 5, 5)
    with recorded(gate) as last:
        y = gate(x)
    assert torch.allclose(y, x * last[""].reshape(3, 16, 1, 1))
    block, x = SelectiveKernelConv(8, 16, groups=1).eval(), torch.randn(3, 8, 5, 5)
    with recorded(block) as last:
        y = block(x)
    branches = torch.stack([branch(x) for branch in block.branches], 1)  # (N, M, C, H, W)
    assert torch.allclose(y, (branches * last[""][..., None, None]).sum(1), atol=1e-6)


def test_recording_leaves_the_model_unchanged(digits):
    model, x = network("sk_se_resnet20", reduction=4), torch.randn(4, 3, 32, 32)
    before = model(x)
    with recorded(model) as last:
        assert torch.equal(model(x), before)
        assert len(last) == 2 * len(BLOCKS)
    record(model.train(), digits.test_images[:4], digits)
    assert model.training
    assert not [m for m in model.modules() if {"excite", "attend"} & vars(m).keys()]
    assert torch.equal(model.eval()(x), before)  # no running statistics were updated


def test_block_names():
    for module, name in (("stages.0.2.gate", "1.3"), ("stages.2.0.body.0", "3.1"), ("layers.4", "layers.4")):
        assert block_name(module) == name
    assert measures.last_blocks(BLOCKS) == ["1.3", "2.3", "3.3"]
    assert (measures.spread_out(10, 4), measures.spread_out(3, 4)) == ([0, 3, 6, 9], [0, 1, 2])


# Images


def test_enlarged_images():
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(enlarged(images, 1.0), images)
    # Enlarged 2x, an output pixel lies at 1/4 from one pixel of the crop and at 3/4 from the next
    image = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    image[:, 2:6, 2:6] = 200  # the central half of each side
    found = enlarged(image, 2.0)[0, :, :, 0]
    assert (found[1:-1, 1:-1] == 200).all()
    assert found[4].tolist() == [150, *[200] * 6, 150]
    assert found[0, 0] == 112  # 200 * 0.75 * 0.75 = 112.5, to even
    ramp = (8 * torch.arange(32)).to(torch.uint8).expand(1, 3, 32, 32).permute(0, 2, 3, 1)
    found = enlarged(ramp, 1.5)[0, 0, :, 0].double()
    assert found.numpy() == pytest.approx(8 * 15.5 + 8 / 1.5 * (np.arange(32) - 15.5), abs=0.51)


def test_coarsened_images():
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(coarsened(images, 1.0), images)
    rows = torch.arange(32).remainder(2) * 200
    stripes = rows.to(torch.uint8).expand(1, 3, 32, 32).permute(0, 2, 3, 1)
    found = coarsened(stripes, 2.0).double()
    assert found[:, 4:-4, 4:-4].std() < 10 < stripes.double().std()
    assert found.mean() == pytest.approx(100, abs=2)
    halves = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    halves[:, :, 16:] = 255
    edge = coarsened(halves, 2.0)[0, 8, :, 0]
    assert (edge[:13].max(), edge[19:].min()) == (0, 255)  # in the same place
    for change in (enlarged, coarsened):
        with pytest.raises(ValueError, match=r"zoom is 0\.5"):
            change(images, 0.5)
        with pytest.raises(ValueError, match=r"\(N, H, W, 3\) uint8"):
            change(torch.zeros(1, 3, 8, 8), 1.5)


def test_pictures_are_upright_central_squares(tmp_path):
    pixels = np.zeros((64, 128, 3), dtype=np.uint8)  # the outer quarters left and right are cut off
    pixels[:32, 32:96], pixels[:, :32], pixels[:, 96:] = 200, 90, 90
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = picture(tmp_path / "wide.png")
    assert (found.shape, found.dtype) == ((1, 32, 32, 3), torch.uint8)
    assert (found[0, :15] == 200).all() and (found[0, 17:] == 0).all()
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(picture(tmp_path / "turned.png"), found.flip(1, 2))
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(tmp_path / "sixteen.png")
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    for name in ("text.png", "missing.png", "sixteen.png", "moving.gif"):
        with pytest.raises(ValueError, match=name):
            picture(tmp_path / name)


# Grad-CAM


def test_grad_cam_equals_captum():
    for name, stage in (("resnet20", -1), ("se_resnet20", -1), ("sk_resnet20", 0), ("preresnet110", -1)):
        model = network(name, **KNOBS.get(name, {}))
        x, classes = torch.randn(3, 3, 32, 32), torch.tensor([0, 7, 3])
        found = grad_cam(model, model.stages[stage], x, classes)
        oracle = captum.attr.LayerGradCam(model, model.stages[stage])
        expected = oracle.attribute(x, target=classes, relu_attributions=True)[:, 0].detach()
        assert found.shape == expected.shape and expected.max() > 0, name
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6 * float(expected.max())), name
        assert not model.stages[stage]._forward_hooks
        assert all(parameter.grad is None for parameter in model.parameters())


def test_maps_have_image_size_and_unit_maximum(digits):
    model = network("resnet20")
    predicted = record(model, digits.test_images[:7], digits).predicted
    found = maps(model, digits.test_images[:7], predicted, digits, batch_size=4)
    assert found.shape == (7, 32, 32) and found.min() >= 0
    assert set(found.max((1, 2)).round(5)) <= {0.0, 1.0}


def test_centre_share():
    even, corner, middle, empty = np.ones((8, 8)), *np.zeros((3, 8, 8))
    corner[0, 0] = middle[3, 4] = 2
    shares = measures.centre_share(np.stack([even, corner, middle, empty]))
    assert shares == pytest.approx([0.25, 0, 1, np.nan], nan_ok=True)
    table = measures.centre_table({"a": shares}, {"a": np.array([True, False, True, True])})
    assert table[["images", "n", "mean"]].to_numpy().tolist() == [["right", 2, 0.625], ["wrong", 1, 0.0]]
    assert np.isnan(table["low"][1])  # one image
    assert "62.5 %" in sentences.centre(table) and "0.0 % for 1 misclassified image." in sentences.centre(table)


def test_chosen_images_are_the_first():
    labels = np.array([0, 1, 2, 0, 1])
    predicted = {"a": np.array([0, 1, 0, 1, 1]), "b": np.array([0, 0, 1, 2, 1])}
    chosen = measures.chosen_images(predicted, labels, 5)
    assert {name: index.tolist() for name, index in chosen.items()} == {"right": [0, 4], "wrong": [2, 3]}
    assert measures.chosen_images(predicted, labels, 1)["wrong"].tolist() == [2]


# Measures


def test_class_moments_by_hand():
    gates = np.array([[0.1, 0.5], [0.3, 0.5], [0.9, 0.1], [0.7, 0.3], [0.4, 0.4]])
    found = measures.class_moments(gates, np.array([0, 0, 2, 2, 1]), 4)
    assert found.count.tolist() == [2, 1, 2, 0]
    assert found.mean[:3] == pytest.approx(np.array([[0.2, 0.5], [0.4, 0.4], [0.8, 0.2]]))
    assert np.isnan(found.mean[3]).all()
    assert found.sd[0] == pytest.approx([0.2 / np.sqrt(2), 0])
    assert np.isnan(found.sd[[1, 3]]).all()  # one image, and none


def test_share_of_informed_and_random_gates():
    rng, labels = np.random.default_rng(0), np.arange(400) % 10
    informed = measures.class_spread(np.outer(labels, [0.05, 0.1]), labels, 10)
    assert (informed.share.point, informed.within) == pytest.approx((1, 0), abs=1e-6)
    shares = [measures.class_spread(rng.normal(size=(400, 3)), labels, 10).share for _ in range(100)]
    assert np.mean([share.point for share in shares]) == pytest.approx(0, abs=0.005)  # unbiased
    assert np.mean([share.low <= 0 <= share.high for share in shares]) > 0.9


def test_share_equals_analysis_of_variance():
    """For one channel, 1 - within mean square / total mean square follows from scipy's F."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 120)
    gates = 0.3 * labels[:, None] / 4 + 0.1 * rng.normal(size=(120, 1))
    f = distributions.f_oneway(*(gates[labels == k, 0] for k in range(4))).statistic
    ratio = f * 3 / 116  # between sum of squares / within sum of squares
    expected = 1 - (1 / 116) / ((1 + ratio) / 119)
    found = measures.class_spread(gates, labels, 4)
    assert found.share.point == pytest.approx(expected)
    assert found.share.low < expected < found.share.high
    assert found.between**2 + found.within**2 == pytest.approx(gates.var(ddof=1))


def test_kernel_table_pairs_images():
    before = {"1.1": np.array([[0.4, 0.6], [0.5, 0.7], [0.6, 0.8]])}
    after = {("enlarged", 1.5): {"1.1": before["1.1"] + np.array([0.1, -0.02])}}
    table = measures.kernel_table(before, after).set_index("kind")
    assert table["weight"].to_dict() == pytest.approx({"original": 0.6, "enlarged": 0.64})
    assert table["change"].to_dict() == pytest.approx({"original": 0, "enlarged": 0.04})
    assert table["rising"]["enlarged"] == 0.5
    half = distributions.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert (table["low"]["original"], table["high"]["original"]) == pytest.approx((0.6 - half, 0.6 + half))
    by_class = measures.class_changes(before, after["enlarged", 1.5], np.array([0, 0, 1]), 3)
    assert by_class.shape == (3, 1)
    assert by_class[:, 0] == pytest.approx([0.04, 0.04, np.nan], nan_ok=True)
    said = sentences.classes_alike(by_class, ["1.1"], 1.5)
    assert said.endswith("rises for every class in 1 of 1 blocks (1.1) and falls for every class in 0."), (
        "of those seen"
    )
    mixed = sentences.classes_alike(np.array([[0.1, 0.1], [-0.1, 0.1]]), ["1.1", "1.2"], 1.5)
    assert mixed.endswith("in 0; in the other blocks the direction depends on the class.")


# Sentences and figures


def gates_by_block(*strengths):
    """Gates of 400 images in four classes: in the last block of each stage, they follow the class this strongly."""
    rng, labels = np.random.default_rng(0), np.arange(400) % 4
    noise = rng.normal(size=(len(strengths), 400, 6))
    gates = [0.5 + 0.01 * (strength * labels[:, None] + x) for strength, x in zip(strengths, noise, strict=True)]
    return dict(zip(("1.3", "2.3", "3.3"), gates, strict=True)), labels


def test_trend_with_depth_needs_separate_intervals():
    for early, late, word in ((0, 3, "**larger**"), (3, 0, "**smaller**"), (1, 1, "**inconclusive**")):
        gates, labels = gates_by_block(early, 0.5, late)
        table = measures.gate_table({"se_a": gates}, labels, 4)
        assert word in sentences.shares_by_depth(table)
    gates, labels = gates_by_block(0, 0.5, 3)
    table = measures.gate_table({"se_a": gates}, labels, 4)
    assert table.loc[table["between"] > table["within"], "block"].tolist() == ["3.3"]
    assert sentences.spread_within(table).endswith("in 3.3.")
    assert "0.95" in sentences.open_gates(table)


def test_kernel_changes_subtract_the_control():
    rng = np.random.default_rng(0)
    moved = {"1.1": 0.05, "2.1": 0.05, "3.1": -0.05}
    before = {block: 0.5 + 0.01 * rng.normal(size=(50, 4)) for block in moved}
    noise = 0.001 * np.resize([1, -1], (50, 1))  # of mean zero
    larger = {block: before[block] + moved[block] + noise for block in before}
    coarser = {block: before[block] + (moved[block] if block == "1.1" else 0) for block in before}
    table = measures.kernel_table(before, {("enlarged", 2.0): larger, ("coarser", 2.0): coarser})
    beyond = table[table["kind"] == "enlarged"].set_index("block")["beyond"]
    assert beyond.to_dict() == pytest.approx({"1.1": 0, "2.1": 0.05, "3.1": -0.05})
    text = sentences.kernel_changes(table)
    raised = [part.split(")")[0] for part in text.split(" (")[2:]]  # after the rule's own brackets
    assert raised == ["1.1, 2.1", "3.1", "2.1", "3.1"]  # rises, falls; above and below the control
    assert "+1.67 pp, in the coarser images +1.67 pp; enlarged minus coarser: 0.00 pp, above 0 in 1 of 3 blocks" in text


def test_sharpness_is_that_of_neighbouring_pixels():
    ramp = torch.arange(4, dtype=torch.uint8).repeat(1, 4, 1)[..., None].expand(1, 4, 4, 3)  # 1 per column, 0 per row
    assert sharpness(ramp) == sharpness(ramp.transpose(1, 2)) == 0.5
    text = sentences.sharpness(
        {("enlarged", 2.0): 8.0, ("enlarged", 1.5): 10.0, ("coarser", 2.0): 6.0, ("coarser", 1.5): 9.0}
    )
    assert "by 10 % at 1.5x, 25 % at 2x." in text


def test_figures_draw_the_given_values():
    gates, labels = gates_by_block(0, 1, 3)
    moments = {"se_a": {b: measures.class_moments(g, labels, 4) for b, g in gates.items()}}
    classes = ("cat", "dog", "$frog", "<b>")
    axes = figures.class_profiles(moments, classes, [0, 3])
    assert axes.shape == (1, 3)
    (line,) = [line for line in axes[0, 2].get_lines() if line.get_label() == "cat"]
    mean = moments["se_a"]["3.3"].mean
    assert line.get_ydata() == pytest.approx(mean[0, np.argsort(mean.mean(0))])
    assert len(axes[0, 2].get_lines()) == 4
    figures.class_bands(moments, classes, [0, 3])[0, 0].figure.draw_without_rendering()

    table = measures.gate_table({"se_a": gates}, labels, 4)
    ax = figures.class_shares(table, {"plain": "resnet20", "se_a": "se_resnet20"})
    assert ax.containers[0][0].get_ydata() == pytest.approx(100 * table["share"].to_numpy())

    before = {block: values[:, :3] for block, values in gates.items()}
    after = {block: values + 0.02 for block, values in before.items()}
    table = measures.kernel_table(before, {("enlarged", 1.5): after, ("coarser", 1.5): before})
    left, right = figures.kernel_weights(table)
    assert [c.get_label() for c in left.containers] == ["original", "enlarged 1.5x"]
    assert right.containers[0][0].get_ydata() == pytest.approx(2)
    assert right.containers[1][0].get_ydata() == pytest.approx(0)
    ax = figures.kernel_changes_by_class(np.array([[0.012, -0.0001]]), ["cat"], ["1.1", "1.2"])
    assert [text.get_text() for text in ax.texts] == ["+1.2", "0.0"]

    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    axes = figures.cam_grid(images, ["cat", "dog"], {"se_a": np.ones((2, 8, 8))}, {"se_a": ["dog", "$x"]})
    assert [ax.get_title() for ax in axes.flat] == ["cat", "dog", "dog", r"\$x"]
    axes[0, 0].figure.draw_without_rendering()


# A study's weights, and the notebook


@pytest.fixture
def with_weights(tmp_path, digits):
    """A study on the digits with made-up results, and random weights of each network's first seed."""
    folder = tmp_path / "results"
    facts = {"params": 1, "macs": 1, "accuracy": 0.5, "seconds": 1.0}
    knobs = {name: {"width": 0.5, **options} for name, options in KNOBS.items()}
    networks = {name: {"model": name, "knobs": knobs[name], **facts} for name in KNOBS}
    count = len(digits.test_labels)
    write_study(folder, networks, seeds=(4, 0), classes=digits.classes, images=count, epochs=2, data="digits")
    write_json(folder / "study.json", read_json(folder / "study.json") | {"fingerprints": digits.fingerprints})
    for name in KNOBS:
        run_dir = folder / "runs" / f"{name}-seed4"
        torch.manual_seed(1)
        save_weights(run_dir, create_model(name, num_classes=10, **knobs[name]))
        summary = {key: value for key, value in read_json(run_dir / "summary.json").items() if key != "files"}
        write_summary(run_dir, summary)
    return folder


def test_trained_network_has_the_first_seeds_weights(with_weights, digits):
    results = load_results(with_weights)
    model, run_id = trained_network(results, "se_resnet20")
    assert (run_id, model.training) == ("se_resnet20-seed4", False)
    torch.manual_seed(1)
    made = create_model("se_resnet20", num_classes=10, width=0.5, reduction=4)
    assert torch.equal(model.head.weight, made.head.weight)
    assert evaluated_data(results, digits) is digits
    write_json(with_weights / "study.json", results.study | {"recipe": results.study["recipe"] | {"holdout": 100}})
    data = evaluated_data(load_results(with_weights), digits)
    assert (data.evaluation_split, len(data.test_labels)) == ("holdout", 100)


def test_missing_weights_name_the_command(with_weights, digits):
    results, runs = load_results(with_weights), with_weights / "runs"
    with pytest.raises(ValueError, match="'se_resnet2'.*'se_resnet20'"):
        trained_network(results, "se_resnet2")
    weights = runs / "sk_resnet20-seed4" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(ValueError, match="sk_resnet20-seed4.*sha256"):
        trained_network(results, "sk_resnet20")
    weights.unlink()
    with pytest.raises(ValueError, match="weights.safetensors.*`make reproduce STUDY=synthetic`"):
        trained_network(results, "sk_resnet20")
    (runs / "resnet20-seed4" / "summary.json").unlink()
    with pytest.raises(ValueError, match="resnet20-seed4.*`make reproduce STUDY=synthetic`"):
        trained_network(load_results(with_weights), "resnet20")
    write_json(with_weights / "study.json", results.study | {"fingerprints": {"train": "a", "test": "b"}})
    with pytest.raises(ValueError, match="'digits'.*fingerprints"):
        evaluated_data(load_results(with_weights), digits)


def test_missing_images_are_one_line(with_weights, digits, monkeypatch):
    results = load_results(with_weights)
    assert study_images(results).fingerprints == digits.fingerprints
    elsewhere = {"data": "cifar10", "fingerprints": {"train": "a", "test": "b"}}
    write_json(with_weights / "study.json", results.study | elsewhere)
    with pytest.raises(NoImages) as error:
        study_images(load_results(with_weights), str(with_weights))
    (line,) = error.value._render_traceback_()  # all that Jupyter shows
    assert "\n" not in line and str(error.value) in line
    for fact in ("cifar10", "SENET_DATA", "DATA=", "../results/quick"):
        assert fact in line, fact


def test_menus_draw_the_chosen_gates():
    gates, labels = gates_by_block(0, 1, 3)
    menus = gate_menus({"se_a": gates}, labels, ("cat", "dog", "frog", "ship"))
    network, block, first, second, _ = menus.children
    assert (network.options, block.options) == (("se_a",), ("1.3", "2.3", "3.3"))
    block.value, first.value, second.value = "3.3", "cat", "ship"
    menus.f(**{menu.description: menu.value for menu in (network, block, first, second)})
    lines = {line.get_label(): line for line in plt.gcf().axes[0].get_lines()}
    mean = measures.class_moments(gates["3.3"], labels, 4).mean
    assert lines["ship"].get_ydata() == pytest.approx(mean[3, np.argsort(mean.mean(0))])


def test_notebook_shows_every_gate(with_weights, monkeypatch):
    parameters = {"results": str(with_weights), "images": 60, "examples": 2, "threads": 1, "zooms": [1.5]}
    Image.new("RGB", (40, 30)).save(with_weights.parent / "own.png")
    parameters |= {"picture": str(with_weights.parent / "own.png")}
    monkeypatch.setattr(plt, "show", lambda: plt.close())
    se, sk = ("class_profiles", "class_bands", "class_shares"), ("zoom_example", "kernel_weights", "kernel_changes")
    for networks, drawn in ([], (*se, *sk)), (["resnet20"], ()):
        shown, page = run_notebook("attention", parameters | {"networks": networks}, monkeypatch)
        names = {name.removeprefix("figures/").removesuffix(".png") for name in page.files if name.endswith(".png")}
        cams = {name for name in names if name.startswith("grad_cam")}
        assert cams
        assert len(names - cams) == len(drawn) == sum(name.startswith(drawn or ("-",)) for name in names)
        assert len(shown.images) == page.figures == len(names)
    assert not list(with_weights.rglob("*.png"))  # nothing is written into the results


@pytest.mark.slow
def test_notebook_runs_headless(with_weights, tmp_path):
    source, target = project_root() / "notebooks" / "09_attention.ipynb", tmp_path / "executed.ipynb"
    parameters = {"results": str(with_weights), "networks": [], "images": 60, "examples": 2, "threads": 1}
    executed = execute(source, target, parameters, cwd=str(source.parent))
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6
    assert not [output for output in outputs if output.get("name") == "stderr" and "Warning" in output["text"]]
