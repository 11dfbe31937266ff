"""A study's report, and the results of finished studies that the repository shows and stores.

build.py          executes the analysis notebook, if its inputs changed
page.py           the notebook's numbered figures and tables
explore.py        a menu for the live notebook
html_page.py      the executed notebook as one self-contained HTML page
template/         the page's HTML template and style sheet
links.py          links to sources and to other studies
pictures.py       stores the misclassified images that the report shows
markdown_page.py  the executed notebook as a Markdown page beside its figures
publish.py        results/published/ and results/archive/
diagrams.py       the diagrams of the README
results_pages.py  the numbers in README.md, results/README.md and results/tuning.md
executed_notebooks.py  the notebooks with their outputs
site.py           the static site, and site_check.py its links
"""
