"""Draws phases of a request as bars on one time axis, one phase a row."""

from dataclasses import dataclass

from terminal import Terminal

LABEL_WIDTH = 10
# On a narrower terminal the notes wrap; without bars there would be no picture at all.
MIN_CELLS = 12
# Eighths of a cell, so that a bar of a few milliseconds beside one of a second is still seen for what it is.
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Phase:
    """One row: from `start` to `end`, in seconds since the request began, and a note to its right."""

    label: str
    start: float
    end: float
    colour: str
    note: str


def draw(terminal: Terminal, pictures: dict[str, list[Phase]]) -> None:
    """Prints pictures under their titles, all on one scale, so that the eye can compare them."""
    phases = [phase for picture in pictures.values() for phase in picture]
    axis = max(phase.end for phase in phases)
    cells = max(terminal.width - LABEL_WIDTH - max(len(phase.note) for phase in phases) - 2, MIN_CELLS)
    for title, picture in pictures.items():
        terminal.line()
        terminal.line(terminal.paint(title, "bold"))
        for phase in picture:
            bar = bar_of(phase.start / axis * cells, phase.end / axis * cells, cells, terminal.unicode)
            terminal.line(f"{phase.label:<{LABEL_WIDTH}}{terminal.paint(bar, phase.colour)}  {phase.note}")
    terminal.line()


def bar_of(start: float, end: float, cells: int, unicode: bool) -> str:
    """A bar from `start` to `end` in a row of `cells` cells; never invisible, however short."""
    first = min(int(start), cells - 1)
    length = min(max(end - start, 1 / 8), cells - first)
    whole = int(length)
    if unicode:
        bar = "█" * whole + _EIGHTHS[round((length - whole) * 8)].strip()
    else:
        bar = "#" * max(round(length), 1)
    return (" " * first + bar).ljust(cells)


def duration(seconds: float) -> str:
    """A duration for people."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def size(count: float) -> str:
    """A number of bytes for people, in decimal units as transfer rates use them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
