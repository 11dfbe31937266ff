"""What every section of the benchmarks shares: random images, waiting for the device, alternation, ratios, tables."""

import statistics
from collections.abc import Callable

import torch

from senet_lib.data import Dataset

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
BATCH = 128

MISSING = "–"  # a cell without a value

Table = tuple[str, list[str], list[list[str]]]  # caption, header, rows


def random_images(count: int, size: int = 32) -> Dataset:
    """Random images (count, size, size, 3) in 10 classes. Their content does not affect the time of a step."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 10
    few = slice(0, 2)
    classes = tuple("abcdefghij")
    return Dataset("random", classes, pixels, labels, pixels[few], labels[few], MEAN, STD, True, {})


def alternate(measures: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call every measure `repeats` times, alternating between them, after one discarded warm-up round."""
    for measure in measures.values():
        measure()
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            values[name].append(measure())
    return values


def ratio(numerators: list[float], denominators: list[float]) -> str:
    """Format the pairwise ratios as 'median (min to max)'."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def median(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f}"


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def markdown(tables: list[Table]) -> str:
    """The tables with their captions. A table without columns is its caption alone."""
    lines = []
    for caption, header, rows in tables:
        lines += [caption, ""]
        if header:
            lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
            lines += ["| " + " | ".join(row) + " |" for row in rows]
            lines.append("")
    return "\n".join(lines)


class Page:
    """Tables whose rows fill up while a section runs."""

    def __init__(self) -> None:
        self._headers: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._rows: dict[str, dict[tuple[str, ...], dict[str, str]]] = {}
        self._left_out: dict[str, list[str]] = {}  # why -> what

    def table(self, name: str, caption: str, *columns: str) -> None:
        """Add an empty table. The first columns are those of the rows' keys."""
        self._headers[name], self._rows[name] = (caption, columns), {}

    def put(self, table: str, key: tuple[object, ...], cells: dict[str, str]) -> None:
        """Set cells of the row `key`, by column; print them."""
        key = tuple(str(part) for part in key)
        self._rows[table].setdefault(key, {}).update(cells)
        listed = ", ".join(f"{column} {value}" for column, value in cells.items())
        print(f"{table}: {', '.join(key)}: {listed}", flush=True)

    def leave_out(self, what: str, why: str) -> None:
        self._left_out.setdefault(why, []).append(what)

    def tables(self) -> list[Table]:
        """The tables that have rows, and a line for each reason why something was left out."""
        found = []
        for name, (caption, columns) in self._headers.items():
            rows = [
                [*key, *(cells.get(column, MISSING) for column in columns[len(key) :])]
                for key, cells in self._rows[name].items()
            ]
            if rows:
                found.append((caption, list(columns), rows))
        found += [(f"Left out ({why}): {'; '.join(what)}.\n", [], []) for why, what in self._left_out.items()]
        return found
