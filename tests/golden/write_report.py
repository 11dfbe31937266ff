"""Write report.md: the report page of a synthetic study as text, with every sentence, caption and table.

    python tests/golden/write_report.py

Run it when the words or numbers of the report were meant to change, and read the difference. test_report.py compares.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the modules of the tests

from test_report import GOLDEN, golden_page

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text, _, _ = golden_page(Path(folder))
    GOLDEN.write_text(text, encoding="utf-8")
