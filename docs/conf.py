"""Sphinx's settings for the site, which `make site` builds from the pages that senet_lib/report/site.py collects."""

import os

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = "ResNet, SENet, SKNet"
author = "The senet-lib authors"
copyright = author
html_title = project
language = "en"

extensions = ["myst_nb"]
nb_execution_mode = "off"  # the executed copies are committed
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nitpicky = True
suppress_warnings = ["myst.header"]  # a notebook's cell may start with a heading of the third level

html_theme = "sphinx_book_theme"
html_math_renderer = "mathml"
html_show_sphinx = False
html_sourcelink_suffix = ""  # a downloaded notebook keeps its name
html_last_updated_fmt = None
repository = os.environ.get("SITE_REPOSITORY", "")  # owner/name on GitHub; empty: pages without links to it
html_favicon = "site_icon.svg"
html_context = {"default_mode": "auto"}
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_use_index = False
html_sidebars = {"**": ["navbar-logo.html", "sbt-sidebar-nav.html"]}  # the search is in the bar at the top
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if repository:
    html_theme_options |= {
        "repository_url": f"https://github.com/{repository}",
        "use_repository_button": True,
        "path_to_docs": "",
        "launch_buttons": {"colab_url": "https://colab.research.google.com", "notebook_interface": "jupyterlab"},
    }


def mathml(node, display):
    return convert(node.astext().replace("{aligned}", "{split}"), display=display)  # the converter's name for it


def setup(app):
    """Formulas as MathML, which browsers show without a script."""

    def inline(writer, node):
        writer.body.append(mathml(node, "inline"))
        raise SkipNode

    def displayed(writer, node):
        writer.body.append(f'<div class="math" tabindex="0">{mathml(node, "block")}</div>')
        raise SkipNode

    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
