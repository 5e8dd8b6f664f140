"""What the terminal at hand can show: colour, block characters, width. A log file gets plain text."""

import os
import shutil
import sys

MAX_WIDTH = 100
_COLOURS = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "magenta": "35",
    "cyan": "36",
}


class Terminal:
    """Writes to stdout in the best way it can take."""

    def __init__(self) -> None:
        self.is_tty = sys.stdout.isatty()
        self.colour = self.is_tty and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self.width = min(shutil.get_terminal_size((80, 24)).columns, MAX_WIDTH)
        self._column = 0
        self._status = ""

    def paint(self, text: str, colour: str) -> str:
        """The text in that colour, where there is colour."""
        return f"\033[{_COLOURS[colour]}m{text}\033[0m" if self.colour else text

    def line(self, text: str = "") -> None:
        """Prints one line."""
        print(text, flush=True)

    def words(self, text: str) -> None:
        """Prints a piece of running text as it comes, and breaks lines between pieces."""
        if self._column + len(text) > self.width:
            print()
            self._column, text = 0, text.lstrip()
        # Random weights can say anything; a control character must not reach the terminal.
        print("".join(c if c.isprintable() else "?" for c in text), end="", flush=True)
        self._column += len(text)

    def end_words(self) -> None:
        """Ends running text."""
        if self._column:
            print(flush=True)
        self._column = 0

    def status(self, text: str) -> None:
        """Replaces the line that the last status wrote; only on a terminal, a log would fill up with them."""
        if self.is_tty and text != self._status:
            print(f"\r\033[K{text[: self.width - 1]}", end="", flush=True)
            self._status = text

    def end_status(self) -> None:
        """Removes the status line."""
        if self.is_tty:
            print("\r\033[K", end="", flush=True)
