"""Links in reports: sources by number, other studies by name, a table's numbers; and the live notebook's menu."""

import os

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from senet_lib.menus import HEADLESS
from senet_lib.report.explore import class_menu
from senet_lib.report.html_page import foreign_content, to_page
from senet_lib.report.links import (
    study_page,
    with_source_links,
    with_source_links_in_markdown,
    with_study_links,
)
from senet_lib.running.notebook import execute

HE, REPOSITORY = "https://arxiv.org/abs/1512.03385", "https://github.com/Jyouhou/SENet-cifar10"


def test_sources_become_links():
    for text, linked in {
        "see arXiv:1512.03385 Table 6": f"see [arXiv:1512.03385]({HE}) Table 6",
        "github:Jyouhou/SENet-cifar10.": f"[github:Jyouhou/SENet-cifar10]({REPOSITORY}).",
        f"[arXiv:1512.03385]({HE})": f"[arXiv:1512.03385]({HE})",
        "`arXiv:1512.03385`": "`arXiv:1512.03385`",
        "arXiv:none": "arXiv:none",
    }.items():
        assert with_source_links_in_markdown(text) == linked
    for page, linked in {
        "<td>arXiv:1512.03385 Table 6</td>": f'<td><a href="{HE}">arXiv:1512.03385</a> Table 6</td>',
        '<img alt="arXiv:1512.03385">': '<img alt="arXiv:1512.03385">',
        f'<a href="{HE}">arXiv:1512.03385</a>': f'<a href="{HE}">arXiv:1512.03385</a>',
        "github:a/b&quot; onclick=": '<a href="https://github.com/a/b">github:a/b</a>&quot; onclick=',
    }.items():
        assert with_source_links(page) == linked


def test_names_of_other_studies_become_links():
    pages = {"fast": "fast.md", "fast_tuning": "tuning.md", "fast_tuning_2": "two.md", "se_fast": "se.md"}
    text = "fast_tuning, fast_tuning_2 and `fast_tuning` tuned fast, not se_fast or my_fast_tuning: [fast_tuning](x)"
    assert with_study_links(text, pages, but=["se_fast"]) == text.replace(
        "fast_tuning, fast_tuning_2 and", "[fast_tuning](tuning.md), [fast_tuning_2](two.md) and"
    )
    assert with_study_links(text, {}, but=[]) == text
    assert study_page({"name": "a_b", "recipe": {"holdout": 5000}}) == "tuning.md"
    assert study_page({"name": "a_b", "recipe": {"holdout": 0}}) == "README.md#a_b"


def test_a_table_links_to_its_numbers():
    shown = [
        new_output(
            "display_data", data={"text/markdown": "**Table 1.** x"}, metadata={"caption": "table", "file": "runs"}
        ),
        new_output("display_data", data={"text/html": "<table><tr><td>arXiv:1512.03385</td></tr></table>"}),
        new_output("display_data", data={"text/html": "<table><tr><td>without a caption</td></tr></table>"}),
    ]
    page = to_page(new_notebook(cells=[new_code_cell("", outputs=shown)]), "x")
    assert page.count("tables/") == page.count('<a href="tables/runs.csv">') == 1
    assert f'<td><a href="{HE}">' in page
    for elsewhere in ("../tables/runs.csv", "tables/../../runs.csv", "tables/runs.html", "file:///tables/runs.csv"):
        assert foreign_content(f'<a href="{elsewhere}">x</a>'), elsewhere


def test_menus_draw_nothing_in_a_headless_kernel(tmp_path):
    cell = new_code_cell("from senet_lib.menus import interactive\ninteractive(lambda x: print('drawn'), x=(0, 1))")
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    executed = execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {})
    (output,) = executed.cells[-1].outputs  # and nothing is drawn
    assert output["data"]["text/plain"] == "HTML(value='')"
    assert HEADLESS not in os.environ


def test_menu_draws_the_mistakes_of_the_chosen_class():
    matrices = {"a": np.array([[0.7, 0.1, 0.2], [0, 1, 0], [0, 0, 1]]), "b": np.eye(3)}
    menu = class_menu(matrices, {"a": "resnet20", "b": "se_resnet20"}, ("cat", "dog", "frog"))
    assert menu.children[0].options == (("cat", 0), ("dog", 1), ("frog", 2))
    menu.f(true=0)
    axes = plt.gcf().axes[0]
    rows = dict(zip([tick.get_text() for tick in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    assert list(rows) == ["frog", "dog"]  # the most frequent mistake on top
    drawn = {line.get_label(): line.get_xdata() for line in axes.get_lines()}
    assert drawn["a"] == pytest.approx([20, 10]) and drawn["b"] == pytest.approx([0, 0])
    assert rows["frog"] > rows["dog"]
