"""Running a study: one idempotent command per run, and the launcher that starts the runs.

run.py        one run: executes its notebook with papermill under a lock, writes its summary last
local.py      runs a study's runs as subprocesses on this machine
inputs.py     checks networks and recipes against the data
arguments.py  command-line options that select a study and override its file
notebook.py   headless notebook execution
estimate.py   estimates a run's cost on this machine
plan.py       the table of `make plan`
pace.py       learns from finished and running runs how long the others take
time_limit.py when the runs of a study must stop
"""
