"""Fill the README from results/published/: the verdicts between `<!-- verdicts -->` and `<!-- /verdicts -->`, the
tables and figures of every published study between `<!-- results -->` and `<!-- /results -->`.

`make publish` runs it; a test fails when the README is stale, so no number in it is typed by hand, and a study that is
published comes into both without an edit.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from senet_lib import sentences, stats, tables
from senet_lib.results import StudyResults, load_study

ROOT = Path(__file__).resolve().parent.parent
# First of all; then others by name, then what was only tuned
ORDER = ("fast", "resnet20_fast", "thin", "fashion", "source_a_quarter")
SECTION = re.compile(r"(<!-- (?P<name>verdicts|results) -->\n)(?P<content>.*?)(<!-- /(?P=name) -->)", re.DOTALL)


def published(root: Path) -> list[StudyResults]:
    """Every published study, in the README's order."""
    studies = [load_study(path.parent) for path in (root / "results" / "published").glob("[!.]*/study.json")]
    return sorted(studies, key=_place)


def _place(study: StudyResults) -> tuple:
    name = study.study["name"]
    return bool(study.study["recipe"].get("holdout")), ORDER.index(name) if name in ORDER else len(ORDER), name


# ------------------------------------------------------------------------------------------------------------ verdicts


def verdicts(root: Path) -> str:
    """What each published study found, comparison by comparison, with its interval; or that none has one."""
    studies = [study for study in published(root) if not study.study["recipe"].get("holdout")]
    decided = {study.study["name"]: text for study in studies if (text := _verdict(study, root))}
    without = [study for study in studies if study.study["name"] not in decided]
    if not decided:
        listed = ", ".join(f"`{study.study['name']}` ({sentences.sample_sizes(study)})" for study in without)
        found = f"no published study has a comparison with an interval{f': {listed}' if listed else ''}."
        return f"**Verdict so far: none**, since {found}\n"
    listed = ", ".join(f"`{study.study['name']}`" for study in without)
    also = f"\nPublished without an interval of a difference, and so without a verdict: {listed}.\n" if listed else ""
    return f"**What was found**, each with its 95 % interval:\n\n{''.join(decided.values())}\n{stats.rule()}\n{also}"


def _verdict(study: StudyResults, root: Path) -> str:
    """A study's question and its comparisons as a list; empty when none has an interval."""
    comparisons = tables.compare(study)
    if not any(pair.difference.exists for pair in comparisons):
        return ""
    asked = study.study
    report = (study.path / "report.html").relative_to(root).as_posix()
    setting = f"{asked['data']}, {sentences.last_epoch(study)}, {sentences.sample_sizes(study)}"
    found = "".join(f"  - {sentences.one_verdict(pair)}\n" for pair in comparisons)
    return f"- *{asked['question']}* ([`{asked['name']}`]({report}): {setting})\n{found}"


# ------------------------------------------------------------------------------------------------------------- results


def results(root: Path) -> str:
    """Table and figures of every published study."""
    return "\n".join(_section(study, root) for study in published(root))


def _section(study: StudyResults, root: Path) -> str:
    asked, folder = study.study, study.path
    table = (folder / "tables" / "networks.md").read_text(encoding="utf-8").strip()
    place = folder.relative_to(root).as_posix()
    seeds, epochs = ", ".join(map(str, asked["seeds"])), asked["recipe"]["epochs"]
    n = sentences.sample_sizes(study)
    metric = f"{tables.evaluated(study)} accuracy after {sentences.last_epoch(study)}, {n}"
    figures = [("accuracy_curves", f"Accuracy of every epoch, all networks of {asked['name']}, {n}")]
    if any(pair.difference.exists for pair in tables.compare(study)):
        compared = f"Differences in {metric}, with Welch 95 % intervals"
        against = f"{metric.capitalize()}, against parameters and multiply-adds, with 95 % intervals"
        if (folder / "figures/accuracy_against_cost.png").is_file():  # not where all networks cost the same
            figures = [("accuracy_against_cost", against), *figures]
        figures = [("differences", compared), *figures]
    pictures = "\n\n".join(f"![{alt}]({place}/figures/{name}.png)" for name, alt in figures)
    return (
        f"### `{asked['name']}`\n\n"
        f"*{asked['question']}*\n\n"
        f"{asked['data']}, {epochs} epochs, the last one's accuracy, seeds: {seeds}. {asked['notes']}\n\n"
        f"{table}\n\n"
        f"{pictures}\n\n"
        f"The whole report is `{place}/report.html`, every prediction and history is under `{place}/runs/`.\n"
    )


# ---------------------------------------------------------------------------------------------------------- the README

CONTENTS: dict[str, Callable[[Path], str]] = {"verdicts": verdicts, "results": results}


def filled(readme: str, root: Path) -> str:
    """The README with both sections as the published results have them."""
    return SECTION.sub(lambda match: match[1] + CONTENTS[match["name"]](root) + match[4], readme)


def main(root: Path = ROOT) -> int:
    path = root / "README.md"
    path.write_text(filled(path.read_text(encoding="utf-8"), root), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
