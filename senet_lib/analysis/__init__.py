"""Results as statistics, tables, figures and sentences. No torch here: an analysis opens in seconds.

stats.py              intervals, comparisons and the rule of a verdict: arrays in, records out
tables.py             a study's results as tables of numbers, and as text
sentences.py          sentences chosen by the numbers
plots.py              the figures
examples.py           which misclassified images a report shows
against_published.py  one's own results beside the published ones
"""
