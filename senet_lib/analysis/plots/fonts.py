"""Fonts for names in any script: those of the installed fonts that have the characters, and what no font has.

matplotlib draws a character from the first font of `font.family` that has it, and a box if none has.
"""

import functools
from collections.abc import Iterable, Sequence

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font


def font_families(names: Iterable[str] = ()) -> list[str]:
    """The value of `font.family` for these names: matplotlib's default, then installed fonts for what it lacks."""
    return ["sans-serif", *_families(_characters(names))]


def undrawable(names: Iterable[str]) -> set[str]:
    """The names with a character that no installed font has."""
    return {name for name in names if not _characters([name]) <= _covered(tuple(font_families([name])))}


def drawable(names: Sequence[str], kind: str = "class") -> list[str]:
    """The names as figures can show them: 'class 3' in place of the third one if no installed font has its script."""
    boxes, shown = undrawable(names), []
    for place, name in enumerate(names, start=1):
        stand_in = f"{kind} {place}"
        while stand_in in names:  # another class has this very name
            stand_in += "'"
        shown.append(stand_in if name in boxes else name)
    return shown


def replaced(names: Sequence[str], kind: str = "class") -> dict[str, str]:
    """shown name -> name, of the names that `drawable` replaces."""
    return {shown: name for shown, name in zip(drawable(names, kind), names, strict=True) if shown != name}


def _characters(names: Iterable[str]) -> frozenset[str]:
    return frozenset(c for name in names for c in str(name) if c.isprintable() and not c.isspace())


@functools.lru_cache(maxsize=16)
def _families(characters: frozenset[str]) -> tuple[str, ...]:
    """Installed families, in the order of use, that together have every character that the default font lacks, as far
    as there are any."""
    missing, found = characters - _covered(("sans-serif",)), []
    if not missing:
        return ()
    regular = sorted({entry.name: entry.fname for entry in fontManager.ttflist if _is_regular(entry)}.items())
    while missing:  # the family that has the most of them first
        name, file = max(regular, key=lambda entry: len(missing & _glyphs(entry[1])), default=(None, None))
        if file is None or not missing & _glyphs(file):
            break
        found.append(name)
        missing -= _glyphs(file)
    return tuple(found)


def _is_regular(entry) -> bool:
    if entry.name.startswith("Last Resort"):  # comes with matplotlib and has a box for every character
        return False
    return entry.style == entry.stretch == "normal" and entry.weight in (400, "normal", "regular")


@functools.lru_cache(maxsize=16)
def _covered(families: tuple[str, ...]) -> frozenset[str]:
    return frozenset().union(*(_glyphs(findfont(FontProperties(family=[family]))) for family in families))


@functools.cache
def _glyphs(file: str) -> frozenset[str]:
    return frozenset(map(chr, get_font(file).get_charmap()))
