"""Tables of text as HTML and as Markdown. All external text (labels, class names, errors) is escaped here."""

import html

import pandas as pd

from senet_lib.analysis.format import MINUS

_NUMERIC = set(f"0123456789.,+-±()%<=:n osx{MINUS}")

# Characters that Markdown may read as markup or as the start of a formula -> character references, always plain text
_MARKUP = {ord(c): f"&#{ord(c)};" for c in "\\`*[]{}|#$~!^"}


def escape(text: object) -> str:
    """External text made safe for HTML: printable, one line, no markup."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    return html.escape(" ".join(printable.split()))


def escape_markdown(text: object) -> str:
    """External text made safe for Markdown and for the HTML generated from it."""
    escaped = escape(text).replace("&#x27;", "'").translate(_MARKUP)
    # An underscore inside a word is not emphasis and is common in labels; a URL scheme or www would become a link
    escaped = "".join(
        "&#95;"
        if c == "_" and not (0 < i < len(escaped) - 1 and escaped[i - 1].isalnum() and escaped[i + 1].isalnum())
        else c
        for i, c in enumerate(escaped)
    )
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;")


def to_html(shown: pd.DataFrame) -> str:
    """A table of text as escaped HTML. Numeric columns are right-aligned; intervals do not wrap."""
    right = [_is_numeric(shown.iloc[:, i]) for i in range(shown.shape[1])]

    def cell(value: object, numeric: bool) -> str:
        text = str(value)
        short = len(text) <= 26 and any(c.isdigit() for c in text)
        kind = "number" if numeric else "short" if short else "long" if len(text) > 26 else ""
        return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"

    head = "".join(
        f"<th{kind}>{escape(name)}</th>"
        for name, kind in zip(shown.columns, [' class="number"' if numeric else "" for numeric in right], strict=True)
    )
    body = "\n".join(
        "<tr>" + "".join(cell(value, numeric) for value, numeric in zip(row, right, strict=True)) + "</tr>"
        for row in shown.itertuples(index=False)
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def to_markdown(shown: pd.DataFrame) -> str:
    """A table of text as an escaped Markdown table."""
    right = [_is_numeric(shown.iloc[:, i]) for i in range(shown.shape[1])]
    lines = [[escape_markdown(name) for name in shown.columns], ["--:" if numeric else "---" for numeric in right]]
    lines += [[escape_markdown(value) for value in row] for row in shown.itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _is_numeric(column: pd.Series) -> bool:
    texts = [text for text in column.astype(str) if text]
    return bool(texts) and all(set(text) <= _NUMERIC and any(c.isdigit() for c in text) for text in texts)
