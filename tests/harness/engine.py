"""What an engine is to the rest of the harness, real or emulated: a URL, a process and its metrics."""

import time
from dataclasses import dataclass

from harness import client
from harness.procs import Child
from harness.prom import Metrics

MODEL = "tiny"
USAGE = "vllm:kv_cache_usage_perc"


@dataclass
class Engine:
    """A running engine that serves `MODEL`."""

    name: str
    url: str
    child: Child
    block_size: int
    kv_bytes_per_token: int

    @property
    def host_port(self) -> str:
        """As the prefill header wants it."""
        return self.url.removeprefix("http://")

    def metrics(self) -> Metrics:
        """Its metrics now."""
        return Metrics.scrape(self.url)

    def is_healthy(self) -> bool:
        """Whether it says that it serves."""
        return client.answers(self.url, "/health")

    def kv_usage(self) -> float:
        """The part of its KV cache that some request holds, 0 to 1; blocks merely cached for later do not count."""
        return self.metrics().total(USAGE)

    def served(self) -> float:
        """How many requests it has completed."""
        return self.metrics().total("vllm:request_success_total")

    def kv_bytes(self, tokens: int) -> int:
        """The bytes of the blocks that this many tokens fill."""
        blocks = -(-tokens // self.block_size)
        return blocks * self.block_size * self.kv_bytes_per_token


def seconds_until_idle(engines: list[Engine], within_s: float) -> float:
    """Waits until no engine holds KV for any request, and says how long that took; fails after `within_s`."""
    begun = time.monotonic()
    while held := {e.name: usage for e in engines if (usage := e.kv_usage())}:
        if time.monotonic() - begun > within_s:
            raise AssertionError(f"KV is still held after {within_s:.0f} s, as a part of each cache: {held}")
        time.sleep(0.05)
    return time.monotonic() - begun
