"""The run directory, the only interface between training and analysis, and its readers. Does not import torch.

layout.py       file names and contents; whether a run is finished and unaltered
environment.py  the environment record: what a result depends on besides its config
records.py      what study.json and summary.json must hold
load.py         reads a results folder, finished or not, as tables (`StudyResults`)
"""

from senet_lib.results.environment import UNRECORDED, continued, environment_record, part_records
from senet_lib.results.layout import (
    ANALYSED_FILES,
    CHECKPOINT_FILES,
    EXAMPLES,
    HISTORY_COLUMNS,
    NOTEBOOK,
    PUBLISHED_RUN_FILES,
    RECORDED_FILES,
    SPLITS,
    SUMMARY,
    WEIGHTS,
    altered_files,
    is_done,
    is_intact,
    write_history,
    write_predictions,
    write_summary,
)
from senet_lib.results.load import (
    TIMED_UNDER,
    StudyResults,
    load_results,
    read_history,
    read_predictions,
    read_study,
    twin_folder,
)

__all__ = [
    "ANALYSED_FILES",
    "CHECKPOINT_FILES",
    "EXAMPLES",
    "HISTORY_COLUMNS",
    "NOTEBOOK",
    "PUBLISHED_RUN_FILES",
    "RECORDED_FILES",
    "SPLITS",
    "SUMMARY",
    "TIMED_UNDER",
    "UNRECORDED",
    "WEIGHTS",
    "StudyResults",
    "altered_files",
    "continued",
    "environment_record",
    "is_done",
    "is_intact",
    "load_results",
    "part_records",
    "read_history",
    "read_predictions",
    "read_study",
    "twin_folder",
    "write_history",
    "write_predictions",
    "write_summary",
]
