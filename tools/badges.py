"""Write Colab badges and the git address of the Colab cells for a repository: `make badges REPO=owner/name`."""

import json
import re
import sys
from pathlib import Path

from senet_lib.files import write_text

ROOT = Path(__file__).resolve().parent.parent
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
ADDRESS = re.compile(r'^address = "[^"]*"', re.MULTILINE)


def badge(repo: str, notebook: str) -> str:
    address = f"https://colab.research.google.com/github/{repo}/blob/main/notebooks/{notebook}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"


def with_badge(content: dict, repo: str, name: str) -> dict:
    """The notebook with the badge below its title and the git address in its Colab cell."""
    title, colab = content["cells"][0], next(cell for cell in content["cells"] if cell["id"] == "colab")
    text = BADGE.sub("", "".join(title["source"])).rstrip("\n")
    heading, _, rest = text.partition("\n")
    text = f"{heading}\n\n{badge(repo, name)}\n{rest.lstrip(chr(10)) and chr(10) + rest.lstrip(chr(10))}"
    title["source"] = text.splitlines(keepends=True)
    cell = ADDRESS.sub(f'address = "https://github.com/{repo}"', "".join(colab["source"]))
    colab["source"] = cell.splitlines(keepends=True)
    return content


def with_badges(readme: str, repo: str, names: list[str]) -> str:
    """The README with a badge after each notebook's name in the table of notebooks."""
    for name in names:
        line = re.compile(rf"^(\| \[`{re.escape(name)}`\]\([^)]*\))( {BADGE.pattern})?", re.MULTILINE)
        readme = line.sub(lambda match, name=name: f"{match[1]} {badge(repo, name)}", readme, count=1)
    return readme


def main(repo: str, root: Path = ROOT) -> int:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        print(f"error: REPO is {repo!r}; write `make badges REPO=owner/name`", file=sys.stderr)
        return 2
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    for path in notebooks:
        content = with_badge(json.loads(path.read_text(encoding="utf-8")), repo, path.name)
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    readme = root / "README.md"
    write_text(readme, with_badges(readme.read_text(encoding="utf-8"), repo, [p.name for p in notebooks]))
    print(f"wrote badges for {repo} into README.md and {len(notebooks)} notebooks")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
