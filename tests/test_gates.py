"""What the gates learned: recorded as the blocks compute it, measured as by hand, Grad-CAM against captum, and the
notebook from its first cell to its last on made-up results."""

import json
import subprocess
import sys

import matplotlib

matplotlib.use("agg")

import captum.attr
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats as distributions
from synthetic import write_study

from senet_lib.data import load_dataset
from senet_lib.files import read_json, write_json
from senet_lib.gates import figures, measures, sentences
from senet_lib.gates.grad_cam import grad_cam, maps
from senet_lib.gates.images import coarsened, enlarged
from senet_lib.gates.record import block_name, evaluated_data, extents, record, recorded, trained_network
from senet_lib.models import create_model
from senet_lib.models.blocks import SelectiveKernelConv, SqueezeExcitation
from senet_lib.project import project_root
from senet_lib.results import load_results, write_summary
from senet_lib.running import notebook
from senet_lib.training.checkpoint import save_weights

BLOCKS = [f"{stage}.{block}" for stage in (1, 2, 3) for block in (1, 2, 3)]


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


def test_every_gate_of_every_image_is_recorded_whatever_the_batches(digits):
    model = network("se_resnet20", reduction=4)
    images = digits.test_images[:10]
    whole, parts = record(model, images, digits), record(model, images, digits, batch_size=3)
    assert list(whole.gates) == BLOCKS
    assert whole.weights == {}
    assert [whole.gates[block].shape for block in ("1.1", "2.1", "3.3")] == [(10, 8), (10, 16), (10, 32)]
    for block in BLOCKS:
        assert whole.gates[block] == pytest.approx(parts.gates[block], abs=1e-5)
        assert ((whole.gates[block] > 0) & (whole.gates[block] < 1)).all()
    assert (whole.predicted == parts.predicted).all()


@pytest.mark.parametrize(("held", "value"), [(1e4, 1.0), (0.0, 0.5), (np.log(3), 0.75)])
def test_a_gate_held_at_a_constant_is_recorded_as_that_constant(digits, held, value):
    model = network("se_resnet20", reduction=4)
    for module in model.modules():
        if isinstance(module, SqueezeExcitation):
            module.fc2.weight.data.zero_()
            module.fc2.bias.data.fill_(held)
    found = record(model, digits.test_images[:4], digits)
    assert all(gates == pytest.approx(value) for gates in found.gates.values())
    row = measures.gate_table({"se": found.gates}, digits.test_labels[:4].numpy(), 10).iloc[0]
    assert (row["mean"], row["between"], row["within"]) == pytest.approx((value, 0, 0))
    assert np.isnan(row["share"]), "no variance, so no share of it"
    assert row["open"] == (value == 1.0)


def test_what_is_recorded_is_what_the_block_multiplies_by():
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


def test_recording_changes_nothing_and_leaves_nothing_behind(digits):
    model = network("sk_se_resnet20", reduction=4).train()
    x = torch.randn(4, 3, 32, 32)
    model.eval()
    before = model(x)
    with recorded(model) as last:
        assert torch.equal(model(x), before)
        assert len(last) == 2 * len(BLOCKS)
    model.train()
    record(model, digits.test_images[:4], digits)
    assert model.training
    assert not [m for m in model.modules() if {"excite", "attend"} & vars(m).keys()]
    assert torch.equal(model.eval()(x), before), "no running statistics moved"


def test_a_gate_for_every_pixel_is_recorded_as_its_mean(digits):
    model = network("se_resnet20", reduction=4, squeeze="none")
    found = record(model, digits.test_images[:2], digits)
    assert found.gates["1.1"].shape == (2, 8)


def test_sk_with_equal_logits_gives_each_branch_its_half(digits):
    model = network("sk_resnet20")
    for module in model.modules():
        if isinstance(module, SelectiveKernelConv):
            module.select.weight.data.zero_()
    found = record(model, digits.test_images[:5], digits)
    assert list(found.weights) == BLOCKS
    assert all(weights == pytest.approx(0.5) for weights in found.weights.values())
    assert found.weights["3.1"].shape == (5, 2, 32)


def test_branch_weights_sum_to_one_and_one_branch_has_none(digits):
    found = record(network("sk_resnet20", branches=3), digits.test_images[:5], digits)
    assert all(weights.sum(1) == pytest.approx(1) for weights in found.weights.values())
    assert found.weights["1.1"].shape == (5, 3, 8)
    assert record(network("sk_resnet20", branches=1), digits.test_images[:2], digits).weights == {}


def test_the_larger_kernel_is_the_one_that_spans_more_pixels():
    assert extents(network("sk_resnet20", kernels="3x3+3x3d2"))["2.2"] == [3, 5]
    spans = extents(network("sk_resnet20", kernels="5x5+3x3"))["1.1"]
    weights = np.stack([np.full((4, 6), 0.8), np.full((4, 6), 0.2)], 1)  # (N, M, C)
    assert measures.larger_kernel(weights, spans) == pytest.approx(0.8)


def test_block_names():
    assert block_name("stages.0.2.gate") == "1.3"
    assert block_name("stages.2.0.body.0") == "3.1"
    assert block_name("layers.4") == "layers.4"
    assert measures.last_blocks(BLOCKS) == ["1.3", "2.3", "3.3"]
    assert measures.spread_out(10, 4) == [0, 3, 6, 9]
    assert measures.spread_out(3, 4) == [0, 1, 2]


# Images


def test_zoom_one_is_the_identity(digits):
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(enlarged(images, 1.0), images)
    assert torch.equal(coarsened(images, 1.0), images)


def test_zoom_two_shows_the_central_quarter():
    """Enlarged 2x, an output pixel lies at 1/4 from one pixel of the crop and at 3/4 from the next."""
    image = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    image[:, 2:6, 2:6] = 200  # the central half of each side
    found = enlarged(image, 2.0)[0, :, :, 0]
    assert (found[1:-1, 1:-1] == 200).all()
    assert found[4].tolist() == [150, *[200] * 6, 150]
    assert found[0, 0] == 112  # 200 * 0.75 * 0.75 = 112.5, to even


def test_enlarging_keeps_a_gradients_middle_and_slope():
    ramp = (8 * torch.arange(32)).to(torch.uint8).expand(1, 3, 32, 32).permute(0, 2, 3, 1)
    found = enlarged(ramp, 1.5)[0, 0, :, 0].double()
    middle = 8 * 15.5
    assert found.numpy() == pytest.approx(middle + 8 / 1.5 * (np.arange(32) - 15.5), abs=0.51)


def test_coarser_images_keep_their_place_and_brightness_and_lose_detail():
    rows = torch.arange(32).remainder(2) * 200
    stripes = rows.to(torch.uint8).expand(1, 3, 32, 32).permute(0, 2, 3, 1)
    found = coarsened(stripes, 2.0).double()
    assert found[:, 4:-4, 4:-4].std() < 10 < stripes.double().std()
    assert found.mean() == pytest.approx(100, abs=2)
    halves = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    halves[:, :, 16:] = 255
    edge = coarsened(halves, 2.0)[0, 8, :, 0]
    assert edge[:13].max() == 0
    assert edge[19:].min() == 255


@pytest.mark.parametrize("change", [enlarged, coarsened])
def test_what_cannot_be_enlarged_is_refused(change):
    with pytest.raises(ValueError, match=r"zoom is 0\.5; allowed: 1 and more"):
        change(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), 0.5)
    with pytest.raises(ValueError, match=r"\(N, H, W, 3\) uint8"):
        change(torch.zeros(1, 3, 8, 8), 1.5)


# Grad-CAM


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20", "sk_resnet20", "preresnet110"])
@pytest.mark.parametrize("stage", [-1, 0])
def test_grad_cam_is_captums(name, stage):
    model = network(name, **({"reduction": 4} if name.startswith("se") else {}))
    x, classes = torch.randn(3, 3, 32, 32), torch.tensor([0, 7, 3])
    found = grad_cam(model, model.stages[stage], x, classes)
    oracle = captum.attr.LayerGradCam(model, model.stages[stage])
    expected = oracle.attribute(x, target=classes, relu_attributions=True)[:, 0].detach()
    assert found.shape == expected.shape
    assert expected.max() > 0
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))
    assert not model.stages[stage]._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_maps_have_the_images_size_and_a_largest_value_of_one(digits):
    model = network("resnet20")
    predicted = record(model, digits.test_images[:7], digits).predicted
    found = maps(model, digits.test_images[:7], predicted, digits, batch_size=4)
    assert found.shape == (7, 32, 32)
    assert found.min() >= 0
    assert set(found.max((1, 2)).round(5)) <= {0.0, 1.0}


def test_the_share_in_the_centre():
    even, corner, middle = np.ones((8, 8)), np.zeros((8, 8)), np.zeros((8, 8))
    corner[0, 0] = middle[3, 4] = 2
    shares = measures.centre_share(np.stack([even, corner, middle, np.zeros((8, 8))]))
    assert shares[:3] == pytest.approx([0.25, 0, 1])
    assert np.isnan(shares[3])
    right = {"a": np.array([True, False, True, True])}
    table = measures.centre_table({"a": shares}, right)
    assert table[["images", "n", "mean"]].to_numpy().tolist() == [["right", 2, 0.625], ["wrong", 1, 0.0]]
    assert np.isnan(table["low"][1]), "one image has no interval"


def test_the_first_images_that_all_have_right_or_wrong():
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
    assert found.mean[[0, 1, 2]] == pytest.approx(np.array([[0.2, 0.5], [0.4, 0.4], [0.8, 0.2]]))
    assert np.isnan(found.mean[3]).all()
    assert found.sd[0] == pytest.approx([0.2 / np.sqrt(2), 0])
    assert np.isnan(found.sd[[1, 3]]).all(), "one image has no spread"


def test_the_share_between_classes_of_gates_that_know_all_or_nothing():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 10
    knows_all = measures.class_spread(np.outer(labels, [0.05, 0.1]), labels, 10)
    assert knows_all.share.point == pytest.approx(1)
    assert knows_all.within == pytest.approx(0, abs=1e-6)
    shares = [measures.class_spread(rng.normal(size=(400, 3)), np.arange(400) % 10, 10).share for _ in range(200)]
    assert np.mean([share.point for share in shares]) == pytest.approx(0, abs=0.003), "chance alone adds nothing"
    assert np.mean([share.low <= 0 <= share.high for share in shares]) > 0.9


def test_the_share_is_that_of_an_analysis_of_variance():
    """Of one channel, 1 - within mean square / total mean square follows from scipy's F."""
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


def test_the_kernel_table_pairs_image_by_image():
    before = {"1.1": np.array([[0.4, 0.6], [0.5, 0.7], [0.6, 0.8]])}
    after = {("enlarged", 1.5): {"1.1": before["1.1"] + np.array([0.1, -0.02])}}
    table = measures.kernel_table(before, after).set_index("kind")
    assert table["weight"].to_dict() == pytest.approx({"as it is": 0.6, "enlarged": 0.64})
    assert table["change"].to_dict() == pytest.approx({"as it is": 0, "enlarged": 0.04})
    assert table["rising"]["enlarged"] == 0.5
    half = distributions.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert (table["low"]["as it is"], table["high"]["as it is"]) == pytest.approx((0.6 - half, 0.6 + half))
    by_class = measures.class_changes(before, after["enlarged", 1.5], np.array([0, 0, 1]), 3)
    assert by_class[:2] == pytest.approx(0.04)
    assert by_class.shape == (3, 1)
    assert np.isnan(by_class[2, 0])


# Words and figures


def gate_rows(**shares):
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    gates = {block: 0.5 + 0.01 * (s * labels[:, None] + rng.normal(size=(400, 6))) for block, s in shares.items()}
    return {f"{name[1]}.{name[2]}": values for name, values in gates.items()}, labels


@pytest.mark.parametrize(
    ("early", "late", "said"), [(0, 3, "**more** than"), (3, 0, "**less** than"), (1, 1, "**no growth with depth")]
)
def test_depth_is_put_into_words_only_where_the_intervals_part(early, late, said):
    gates, labels = gate_rows(b13=early, b23=0.5, b33=late)
    table = measures.gate_table({"se_a": gates}, labels, 4)
    assert said in sentences.shares_by_depth(table)
    if late == 3:
        assert "in 3.3 the classes lie further apart" in sentences.spread_within(table)
    assert "No gate of any image is above 0.95" in sentences.open_gates(table)


def test_a_change_that_coarser_pixels_share_is_not_put_down_to_size():
    rng = np.random.default_rng(0)
    before = {block: 0.5 + 0.01 * rng.normal(size=(50, 4)) for block in ("1.1", "2.1", "3.1")}
    moved = {"1.1": 0.05, "2.1": 0.05, "3.1": -0.05}
    noise = 0.001 * np.resize([1, -1], (50, 1))  # of mean zero
    larger = {block: before[block] + moved[block] + noise for block in before}
    coarser = {block: before[block] + (moved[block] if block == "1.1" else 0) for block in before}
    text = sentences.kernel_changes(
        measures.kernel_table(before, {("enlarged", 2.0): larger, ("coarser", 2.0): coarser})
    )
    assert "rises in 2 of 3 blocks (1.1, 2.1) and falls in 1 (3.1)" in text
    assert "beyond what they do, enlarging raises it in 1 of 3 blocks (2.1) and lowers it in 1 (3.1)" in text
    assert "\N{MINUS SIGN}" not in text.split("mean change")[1].split("points")[0]


def test_figures_draw_what_they_are_given():
    gates, labels = gate_rows(b13=0, b23=1, b33=3)
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
    assert [c.get_label() for c in left.containers] == ["as it is", "enlarged 1.5x"]
    assert right.containers[0][0].get_ydata() == pytest.approx(2)
    assert right.containers[1][0].get_ydata() == pytest.approx(0)
    ax = figures.kernel_changes_by_class(np.array([[0.012, -0.0001]]), ["cat"], ["1.1", "1.2"])
    assert [text.get_text() for text in ax.texts] == ["+1.2", "0.0"]

    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    axes = figures.cam_grid(images, ["cat", "dog"], {"se_a": np.ones((2, 8, 8))}, {"se_a": ["dog", "$x"]})
    assert [ax.get_title() for ax in axes.flat] == ["cat", "dog", "dog", r"\$x"]
    axes[0, 0].figure.draw_without_rendering()


def test_measures_figures_and_sentences_do_without_torch():
    modules = "; ".join(f"import senet_lib.gates.{name}" for name in ("measures", "figures", "sentences"))
    code = f"import sys; {modules}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"


# A study's weights, and the notebook


def write_weighed_study(folder, data, models=("resnet20", "se_resnet20", "sk_resnet20")):
    """A study on `data` with made-up numbers and random weights of each network's first seed."""
    facts = {"params": 1, "macs": 1, "accuracy": 0.5, "seconds": 1.0}
    knobs = {name: {"width": 0.5, **({"reduction": 4} if name.startswith("se") else {})} for name in models}
    networks = {name: {"model": name, "knobs": knobs[name], **facts} for name in models}
    count = len(data.test_labels)
    write_study(folder, networks, seeds=(4, 0), classes=data.classes, images=count, epochs=2, data=data.name)
    write_json(folder / "study.json", read_json(folder / "study.json") | {"fingerprints": data.fingerprints})
    for name in models:
        run_dir = folder / "runs" / f"{name}-seed4"
        torch.manual_seed(1)
        save_weights(run_dir, create_model(name, num_classes=data.num_classes, **knobs[name]))
        summary = {key: value for key, value in read_json(run_dir / "summary.json").items() if key != "files"}
        write_summary(run_dir, summary)
    return folder


def test_a_networks_weights_are_those_of_its_first_seed(tmp_path, digits):
    study = load_results(write_weighed_study(tmp_path, digits))
    model, run_id = trained_network(study, "se_resnet20")
    assert run_id == "se_resnet20-seed4"
    assert not model.training
    torch.manual_seed(1)
    made = create_model("se_resnet20", num_classes=10, width=0.5, reduction=4)
    assert torch.equal(model.head.weight, made.head.weight)
    assert evaluated_data(study, digits) is digits


def test_what_is_missing_is_said_in_one_line_that_names_what_to_run(tmp_path, digits):
    folder = write_weighed_study(tmp_path, digits)
    study = load_results(folder)
    with pytest.raises(ValueError, match="unknown network 'se_resnet2'; did you mean 'se_resnet20'"):
        trained_network(study, "se_resnet2")
    weights = folder / "runs" / "sk_resnet20-seed4" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(ValueError, match="sk_resnet20-seed4.*sha256"):
        trained_network(study, "sk_resnet20")
    weights.unlink()
    with pytest.raises(ValueError, match="no weights.safetensors there; `make reproduce STUDY=synthetic`"):
        trained_network(study, "sk_resnet20")
    (folder / "runs" / "resnet20-seed4" / "summary.json").unlink()
    with pytest.raises(ValueError, match="resnet20-seed4: not a finished run; `make reproduce STUDY=synthetic`"):
        trained_network(load_results(folder), "resnet20")
    write_json(folder / "study.json", study.study | {"fingerprints": {"train": "a", "test": "b"}})
    with pytest.raises(ValueError, match="'digits' has the fingerprints .* allowed: 'digits'$"):
        evaluated_data(load_results(folder), digits)


def test_a_study_on_held_out_images_is_looked_at_on_those(tmp_path, digits):
    folder = write_weighed_study(tmp_path, digits)
    content = read_json(folder / "study.json")
    write_json(folder / "study.json", content | {"recipe": content["recipe"] | {"holdout": 100}})
    data = evaluated_data(load_results(folder), digits)
    assert (data.evaluation_split, len(data.test_labels)) == ("holdout", 100)


@pytest.mark.parametrize(
    ("models", "drawn"), [(("resnet20", "se_resnet20", "sk_resnet20"), 6), (("resnet20",), 0)], ids=["all", "plain"]
)
def test_the_notebook_runs_from_top_to_bottom(tmp_path, digits, models, drawn):
    folder = write_weighed_study(tmp_path / "results", digits, models)
    source = project_root() / "notebooks" / "attention.ipynb"
    target = tmp_path / "executed.ipynb"
    parameters = {"results": str(folder), "networks": [], "images": 60, "examples": 2, "threads": 1}
    notebook.execute(source, target, parameters, cwd=str(source.parent))
    executed = json.loads(target.read_text(encoding="utf-8"))
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    texts = [
        "".join(output["data"]["text/markdown"]) for output in outputs if "text/markdown" in output.get("data", {})
    ]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    captions = [text for text in texts if text.startswith("**Figure")]
    chosen = [text for text in captions if "images that all of these networks have" in text]
    assert len(images) == len(captions) == drawn + len(chosen)
    assert len(chosen) + sum("There is no image that all" in text for text in texts) == 2
    assert any("of 60 predictions are those that the run left behind" in text for text in texts)
    assert any("map in the central quarter" in text for text in texts)
    assert sum("None of these networks has" in text for text in texts) == (0 if drawn else 2)
    warnings = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in warnings if "Warning" in "".join(text)]
    assert not list((tmp_path / "results").rglob("*.png")), "nothing is written into the results"
