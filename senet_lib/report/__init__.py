"""A study's report, and what the repository shows and keeps of finished studies.

build.py          executes the analysis notebook, unless nothing changed
page.py           the numbered figures and tables of that notebook
html_page.py      the executed notebook as one self-contained HTML page
pictures.py       the misclassified images that the report shows
publish.py        results/published/ and results/archive/
results_pages.py  the numbers in README.md, results/README.md and results/tuning.md
"""
