"""Links that a report adds to its text: sources by their number, and the repository's other studies by their name."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

SOURCE = r"arXiv:(?P<paper>\d{4}\.\d{4,5})|github:(?P<repository>[\w-]+/[\w.-]*\w)"
IN_HTML = re.compile(rf"<a .*?</a>|<[^>]*>|{SOURCE}", re.DOTALL)
CODE_OR_LINK = r"`[^`\n]*`|!?\[(?:[^\[\]]|!\[[^\[\]]*\])*\]\([^()]*\)"  # a link's text may be a picture
IN_MARKDOWN = re.compile(rf"{CODE_OR_LINK}|{SOURCE}")


def with_source_links(page: str) -> str:
    """HTML in which arXiv numbers and GitHub repositories of the text are links."""
    return IN_HTML.sub(lambda m: f'<a href="{_address(m)}">{m[0]}</a>' if _address(m) else m[0], page)


def with_source_links_in_markdown(text: str) -> str:
    """Markdown in which arXiv numbers and GitHub repositories, outside of code and links, are links."""
    return IN_MARKDOWN.sub(lambda m: f"[{m[0]}]({_address(m)})" if _address(m) else m[0], text)


def _address(found: re.Match) -> str:
    if found["paper"]:
        return f"https://arxiv.org/abs/{found['paper']}"
    return f"https://github.com/{found['repository']}" if found["repository"] else ""


def with_study_links(text: str, pages: Mapping[str, str], *, but: Iterable[str]) -> str:
    """Markdown in which the names of other studies are links. pages: name -> link. Names in `but`, those within code or
    a link, and names of one word, which could be that word, stay text."""
    names = sorted((name for name in pages if "_" in name and name not in but), key=len, reverse=True)
    if not names:
        return text
    named = re.compile(rf"{CODE_OR_LINK}|\b({'|'.join(map(re.escape, names))})\b")
    return named.sub(lambda m: f"[{m[1]}]({pages[m[1]]})" if m[1] else m[0], text)


def study_page(study: Mapping[str, Any]) -> str:
    """The page in results/ that lists a study, given its study.json: tuning.md has those evaluated on a validation
    split."""
    return "tuning.md" if study["recipe"].get("holdout") else f"README.md#{study['name']}"
