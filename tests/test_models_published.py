"""The counts against published ones, of the papers and of other implementations."""

import pytest
from torch import nn

from senet_lib.models import list_models
from senet_lib.models.arch import ARCHS
from senet_lib.models.published import (
    compare_with_published,
    count,
    figure_texts,
    published_complexity,
    reference_table,
)


@pytest.fixture(scope="module")
def compared():
    with pytest.MonkeyPatch.context() as patch:
        for kind in (nn.Conv2d, nn.Linear):  # only shapes are counted; initialising takes half of the time
            patch.setattr(kind, "reset_parameters", lambda self: None)
        return compare_with_published()


def test_counts_match_published_or_give_reason(compared):
    differs = (compared.params_off_percent.fillna(0) != 0) | (compared.macs_off_percent.fillna(0) != 0)
    assert (differs == (compared.reason != "")).all(), compared[differs != (compared.reason != "")].name.tolist()
    exact = compared[(compared.params_step == 1) & (compared.reason == "")]
    assert len(exact) > 35 and (exact.params == exact.counted_params).all()
    assert (compared.macs.isna() == compared.counted_macs.isna()).all()


def test_published_rows_name_source_and_network():
    table = published_complexity()
    assert (table.source != "").all()
    assert set(table.name) <= set(list_models())
    assert not table.source.str.contains("verified").any()
    assert not (table.params.isna() & table.macs.isna()).any()
    # Only these have no published figure of their own that could be verified
    without = {arch for arch in ARCHS if arch not in set(table.name)}
    assert without == {"resnext26_32x4d", "resnext29_16x32d", "fast"}
    without = {arch for arch in ARCHS if f"se_{arch}" not in set(table.name)}
    assert without == {"resnet32", "resnet44", "resnext26_32x4d", "wrn16_8", "wrn28_10", "fast"}


def test_reference_table_shows_published_digits(compared):
    for arguments, texts in {
        ("params", 272474, 1, 272474, 0.0): ("272,474", "272,474", "0"),
        ("params", 27700000, 100000, 37638372, 35.8786): ("27.7 M", "37,638,372", "+35.88%"),
        ("params", 270000, 10000, 269722, 0.0): ("0.27 M", "269,722", "rounded"),
        ("macs", 3860000000, 10**7, 4089184256, 5.937): ("3,860", "4,089.2", "+5.94%"),
        ("macs", 40810000, 10000, 40813184, 0.0): ("40.81", "40.8", "rounded"),
    }.items():
        assert figure_texts(*arguments) == texts, arguments
    table = reference_table(compared)
    assert len(table) == len(compared)
    row = table[(table.network == "resnet50") & (table.source == "torchvision, timm")].iloc[0]
    assert (row["params, published"], row["params off"], row["M macs, published"]) == ("25,557,032", "0", "")


def test_count_depends_on_resolution_and_options():
    assert count("resnet20") == (272_474, 40_813_184)  # moskomule/senet.pytorch: 40.81 M
    assert count("resnet20", 64) == (272_474, 4 * (40_813_184 - 640) + 640)  # the head is applied once per image
    assert count("resnet20", num_classes=100)[0] == 272_474 + 90 * 65
