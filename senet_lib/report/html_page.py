"""The executed analysis notebook as one self-contained HTML page."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

from senet_lib.report.links import with_source_links

if TYPE_CHECKING:
    from nbformat import NotebookNode

TEMPLATE = Path(__file__).parent / "template"


class ReportError(RuntimeError):
    """The report could not be written; an existing report is unchanged. One-line message."""


def to_page(notebook: "NotebookNode", study: str) -> str:
    """The executed notebook as one HTML page. Raises ReportError if it has active or external content."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name=TEMPLATE.name, extra_template_basedirs=[str(TEMPLATE.parent)])
    exporter.register_filter("markdown", _markdown)
    exporter.register_filter("only_tables", _only_tables)
    exporter.register_filter("with_contents", _with_contents)
    exporter.register_filter("with_source_links", with_source_links)
    page, _ = exporter.from_notebook_node(notebook, resources={"study": study})
    problems = foreign_content(page)
    if problems:
        raise ReportError(f"the report would not be self-contained: {'; '.join(problems)}")
    return page


def foreign_content(page: str) -> list[str]:
    """The parts of an HTML page that would execute or load an external resource; empty if self-contained."""
    finder = _ForeignContent()
    finder.feed(page)
    finder.close()
    return finder.found


class _ForeignContent(HTMLParser):
    ACTIVE = frozenset(("script", "iframe", "object", "embed", "form", "link", "base", "audio", "video", "svg"))

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.ACTIVE:
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            value = "".join((value or "").split()).lower()
            if name.startswith("on"):
                self.found.append(f"{name}= in <{tag}>")
                continue
            # Loaded resources must be in the page; links may lead elsewhere, also to the report's own tables
            loads = name in ("src", "srcset", "background", "poster", "data")
            allowed = ("data:image/",) if loads else ("#", "https://", "http://")
            to_a_table = name == "href" and tag == "a" and re.fullmatch(r"tables/\w+\.csv", value)
            if (loads or name.endswith("href")) and not value.startswith(allowed) and not to_a_table:
                self.found.append(f"{name}={value[:60]!r} in <{tag}>")

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        if self.get_starttag_text() == "<style>" and re.search(r"@import|url\(", data):
            self.found.append("a style sheet that loads a resource")


def _markdown(text: str) -> str:
    """Markdown as HTML: formulas as MathML, headings with ids. HTML inside it is escaped."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def text(self, text: str) -> str:
            return html.escape(html.unescape(text), quote=False)  # character references are text, not markup

        def inline_math(self, body: str) -> str:
            return convert(body)

        def block_math(self, body: str) -> str:
            return convert(body, display="block")

        def latex_environment(self, name: str, body: str) -> str:
            return convert(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")

        def heading(self, text: str, level: int, **attrs: object) -> str:
            plain = html.unescape(re.sub(r"<[^>]+>", "", text)).lower()
            anchor = re.sub(r"\W+", "-", plain).strip("-")
            return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    renderer = Renderer(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(text)


def _only_tables(content: str) -> str:
    """HTML output unchanged if it could be from `markup.to_html`; anything else as escaped text."""
    allowed = {"div", "table", "thead", "tbody", "tr", "th", "td"}
    classes = {"", *(f' class="{name}"' for name in ("number", "short", "long", "scroll"))}
    tags = re.findall(r"<\s*/?\s*([^\s>/]*)([^>]*)>", content)
    plain = all(tag in allowed and attributes in classes for tag, attributes in tags)
    return content if plain else f"<pre>{html.escape(content)}</pre>"


def _with_contents(body: str) -> str:
    """The page's body with links to its sections, inserted before the first section."""
    sections = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', body)
    links = "\n".join(f'<a href="#{anchor}">{re.sub(r"<[^>]+>", "", title)}</a>' for anchor, title in sections)
    first = body.find('<div class="text"><h2 ')
    if not sections or first < 0:
        return body
    return f'{body[:first]}<nav aria-label="Contents">{links}</nav>\n{body[first:]}'
