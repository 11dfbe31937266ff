"""The counts against published ones: the papers', and those of code that nobody here wrote."""

import pytest

from senet_lib.models import list_models
from senet_lib.models.arch import ARCHS
from senet_lib.models.published import compare_with_published, figure_texts, published_complexity, reference_table


@pytest.fixture(scope="module")
def compared():
    return compare_with_published()


def test_every_figure_is_met_or_the_reason_is_given(compared):
    off = compared[(compared.params_off_percent.fillna(0) != 0) | (compared.macs_off_percent.fillna(0) != 0)]
    assert not list(off[off.reason == ""].itertuples(index=False))


def test_no_reason_is_given_where_there_is_no_difference(compared):
    met = compared[(compared.params_off_percent.fillna(0) == 0) & (compared.macs_off_percent.fillna(0) == 0)]
    assert not list(met[met.reason != ""].itertuples(index=False))


def test_exact_counts_of_other_code_are_met_to_the_parameter(compared):
    exact = compared[(compared.params_step == 1) & (compared.reason == "")]
    assert len(exact) > 35
    assert (exact.params == exact.counted_params).all()


def test_every_row_has_a_source_and_a_known_network():
    table = published_complexity()
    assert (table.source != "").all()
    assert set(table.name) <= set(list_models())
    assert table.params.notna().any() and not (table.params.isna() & table.macs.isna()).any()


def test_every_plain_arch_and_its_se_twin_but_few_have_a_published_figure():
    known = set(published_complexity().name)
    plain = {arch for arch in ARCHS if arch not in known}
    gated = {arch for arch in ARCHS if f"se_{arch}" not in known}
    assert plain == {"resnext26_32x4d", "fast"}
    assert gated == {"resnet32", "resnet44", "resnext26_32x4d", "wrn16_8", "wrn28_10", "fast"}


def test_figures_are_shown_with_the_digits_that_were_published():
    assert figure_texts("params", 272474, 1, 272474, 0.0) == ("272,474", "272,474", "0")
    assert figure_texts("params", 27700000, 100000, 37638372, 35.8786) == ("27.7 M", "37,638,372", "+35.88%")
    assert figure_texts("params", 270000, 10000, 269722, 0.0) == ("0.27 M", "269,722", "rounded")
    assert figure_texts("macs", 3860000000, 10**7, 4089184256, 5.937) == ("3,860", "4,089.2", "+5.94%")
    assert figure_texts("macs", 40810000, 10000, 40813184, 0.0) == ("40.81", "40.8", "rounded")


def test_the_table_for_readers_has_every_row(compared):
    table = reference_table(compared)
    assert len(table) == len(compared)
    row = table[(table.network == "resnet50") & (table.source == "torchvision, timm")].iloc[0]
    assert (row["params, published"], row["params off"], row["M macs, published"]) == (
        "25,557,032",
        "0",
        "",
    )
