"""Running a study: one idempotent command per run, and what starts it.

run.py        one run: its notebook executed by papermill under a lock, its summary written last
local.py      the runs of a study as subprocesses of this machine
arguments.py  which study was asked for, and how it deviates from its file
notebook.py   a notebook executed headless
estimate.py   what a run would cost here
"""
