"""Fill the README's results from results/published/, between `<!-- results:STUDY -->` and `<!-- /results -->`.

`make publish` runs it; a test fails when the README is stale, so no number in it is typed by hand.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECTION = re.compile(r"(<!-- results:(?P<study>[\w.+-]+) -->\n)(?P<content>.*?)(<!-- /results -->)", re.DOTALL)
FIGURE = "accuracy_curves.png"


def results(study: str, root: Path) -> str:
    """The published table and figure of a study, as Markdown."""
    folder = root / "results" / "published" / study
    asked = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    table = (folder / "tables" / "networks.md").read_text(encoding="utf-8").strip()
    place = folder.relative_to(root).as_posix()
    seeds, epochs = ", ".join(map(str, asked["seeds"])), asked["recipe"]["epochs"]
    return (
        f"*{asked['question']}*\n\n"
        f"{asked['data']}, {epochs} epochs, the last one's accuracy, seeds: {seeds}. {asked['notes']}\n\n"
        f"{table}\n\n"
        f"![Accuracy of every epoch, all networks of {study}]({place}/figures/{FIGURE})\n\n"
        f"The whole report is `{place}/report.html`, every prediction and history is under `{place}/runs/`.\n"
    )


def filled(readme: str, root: Path) -> str:
    """The README with every results section as the published results have it."""
    return SECTION.sub(lambda match: match[1] + results(match["study"], root) + match[4], readme)


def main(root: Path = ROOT) -> int:
    path = root / "README.md"
    path.write_text(filled(path.read_text(encoding="utf-8"), root), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
