"""Results as statistics, tables, figures and sentences. No torch: an analysis loads in seconds.

stats.py              confidence intervals and tests: arrays in, records out
contrasts.py          the linear model of a study's runs and its simultaneous intervals
rule.py               the rule that turns an interval into a verdict
power.py              what a number of seeds can find, and the seeds that a difference needs
comparisons.py        the planned comparisons, their verdicts and caveats
interactions.py       whether differences change from one study to its twin, such as on another data set
learning_rates.py     whether the sign of a difference depends on the common learning rate
tables.py             a study's results as tables of numbers
shown_tables.py       those tables as text, with units
sentences.py          sentences whose wording and numbers follow from the results
class_sentences.py    those on confusion matrices and classes
captions.py           captions of what is shown, and alternative texts with the finding
format.py             single quantities as text: percent, percentage points, seconds, p values
markup.py             tables of text as escaped HTML and Markdown
plots/                the figures
examples.py           selects the misclassified images that a report shows
against_published.py  compares a user's own results with the published ones
"""
