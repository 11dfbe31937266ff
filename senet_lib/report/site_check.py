"""Checks a static site without a browser: every link leads somewhere inside it, and nothing loads from another host."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
NO_LOAD = {"canonical", "next", "prev", "index", "search", "author", "license"}  # relations that name a page


class _Page(HTMLParser):
    """The anchors of a page, its links, and the addresses that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif found.get(LOADING.get(tag, "")) and not NO_LOAD & set(found.get("rel", "").split()):
            self.loaded.append(found[LOADING[tag]])

    handle_startendtag = handle_starttag


def problems(folder: Path) -> list[str]:
    """One line for each link without a target and for each address outside the site that a page loads."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    return [
        f"{path.relative_to(folder)}: {problem}" for path, page in pages.items() for problem in _of(path, page, pages)
    ]


def _of(path: Path, page: _Page, pages: dict[Path, _Page]) -> Iterator[str]:
    for address in dict.fromkeys(page.loaded):
        where = urlsplit(address)
        if where.netloc or where.scheme not in ("", "data"):
            yield f"loads {address}"
        elif where.path and not (path.parent / unquote(where.path)).is_file():
            yield f"loads {address}, which does not exist"
    for address in dict.fromkeys(page.links):
        where = urlsplit(address)
        if where.netloc or where.scheme:
            continue
        target = (path.parent / unquote(where.path)).resolve() if where.path else path
        if not target.is_file():
            yield f"links to {address}, which does not exist"
        elif where.fragment and target in pages and unquote(where.fragment) not in pages[target].anchors:
            yield f"links to {address}, a place that the page does not have"
