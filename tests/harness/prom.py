"""Reads Prometheus' text format, as far as engines write it: `name{labels} value`.

Values of one name are summed over their labels unless some labels are asked for: an engine labels its series with
model and engine index, which a test with one engine per process does not care about.
"""

import re
import urllib.request
from dataclasses import dataclass

TIMEOUT_S = 10.0
_LINE = re.compile(r"^(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Sample:
    """One line: a series' name, its labels and its value at the time of the scrape."""

    name: str
    labels: dict[str, str]
    value: float


class Metrics:
    """One scrape. Take two and subtract to see what a request did."""

    def __init__(self, samples: list[Sample]):
        self.samples = samples

    @classmethod
    def parse(cls, text: str) -> "Metrics":
        """Reads the text format; lines that are no samples (comments, blanks) are passed over."""
        samples = []
        for line in text.splitlines():
            match = None if line.startswith("#") else _LINE.match(line)
            if match:
                labels = dict(_LABEL.findall(match["labels"] or ""))
                samples.append(Sample(match["name"], labels, float(match["value"])))
        return cls(samples)

    @classmethod
    def scrape(cls, base_url: str) -> "Metrics":
        """Fetches `/metrics` of the server at `base_url`."""
        with urllib.request.urlopen(f"{base_url}/metrics", timeout=TIMEOUT_S) as response:
            return cls.parse(response.read().decode())

    def has(self, name: str) -> bool:
        """Whether any series of that name exists; a missing one and one at zero look the same to `total`."""
        return any(s.name == name for s in self.samples)

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of `name` that carry these labels; 0 where there is none."""
        return sum(
            s.value for s in self.samples if s.name == name and all(s.labels.get(k) == v for k, v in labels.items())
        )
