"""The prefill engine, the decode engine and the sidecar as one thing to send requests through and to look into."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from answer import Answer
from harness import client, sidecar
from harness.engine import USAGE, Engine, seconds_until_idle
from harness.prom import Metrics
from harness.sidecar import Sidecar

# The deadline of both legs together. Above what the slowest case needs on a busy machine with two cores; the tests
# of broken engines check that nothing takes longer.
REQUEST_TIMEOUT_S = 60
# Engines report what a step did in the step after it, or in the next report of their stats.
METRIC_S = 5.0
BYTES = "vllm:nixl_bytes_transferred_sum"
EXPIRED = "vllm:nixl_num_kv_expired_reqs_total"
BY_SOURCE = "vllm:prompt_tokens_by_source_total"


@dataclass(frozen=True)
class Moved:
    """What one or more requests did: bytes of KV moved, and an engine's prompt tokens by where they came from."""

    kv_bytes: float
    computed: float
    cached: float
    transferred: float

    @classmethod
    def so_far(cls, engine: Metrics, mover: Metrics) -> "Moved":
        """Since the engines started. `mover`: of the engine that does the transfers, since it alone counts bytes."""
        return cls(
            kv_bytes=mover.total(BYTES),
            computed=engine.total(BY_SOURCE, source="local_compute"),
            cached=engine.total(BY_SOURCE, source="local_cache_hit"),
            transferred=engine.total(BY_SOURCE, source="external_kv_transfer"),
        )

    def __sub__(self, before: "Moved") -> "Moved":
        return Moved(
            self.kv_bytes - before.kv_bytes,
            self.computed - before.computed,
            self.cached - before.cached,
            self.transferred - before.transferred,
        )


@dataclass
class Stage:
    """Everything that a test talks to."""

    prefill: Engine
    decode: Engine
    front: Sidecar
    # Prefill engines write KV to decode engines, instead of those reading it.
    pushes: bool = False
    # Not every connector counts bytes; all count prompt tokens by where they came from.
    counts_bytes: bool = True

    def warm_up(self) -> None:
        """One request by way of both engines."""
        body = {"model": "tiny", "prompt": "the ferry", "max_tokens": 2, "temperature": 0}
        assert self.apart("/v1/completions", body).status == 200, self.front.child.log_text()
        # A series that an engine renamed would read as 0 for ever, and tests that want 0 would pass for nothing.
        for engine in (self.prefill, self.decode):
            metrics = engine.metrics()
            names = [USAGE, BY_SOURCE] + ([BYTES, EXPIRED] if self.counts_bytes else [])
            missing = [name for name in names if not metrics.has(name)]
            assert not missing, f"{engine.name} has no {missing} in its metrics"

    def apart(self, path: str, body: dict) -> client.Answer:
        """Sends the body through the sidecar by way of both engines; gives the raw answer."""
        return client.post(self.front.url, path, body, sidecar.via(self.prefill))

    def begin_apart(self, path: str, body: dict, request_id: str = "") -> client.Exchange:
        """The same without waiting for anything."""
        return client.begin(self.front.url, path, body, sidecar.via(self.prefill, request_id))

    def ask_apart(self, path: str, body: dict, request_id: str = "") -> Answer:
        """Sends the body through the sidecar by way of both engines; reads the answer."""
        return Answer.ask(self.front.url, path, body, sidecar.via(self.prefill, request_id))

    def ask_alone(self, path: str, body: dict) -> Answer:
        """Asks the decode engine itself, past the sidecar and without a prefill engine."""
        return Answer.ask(self.decode.url, path, body, {})

    def forget_prompts(self, engine: Engine | None = None) -> None:
        """Empties an engine's prefix cache, decode's by default: what it answers next, it computed or was sent.

        The engine refuses while a request holds blocks, which the last one may for a moment after its answer.
        """
        engine = engine or self.decode
        end = time.monotonic() + METRIC_S
        while not client.post(engine.url, "/reset_prefix_cache", {}).json()["success"]:
            assert time.monotonic() < end, f"the {engine.name} does not empty its prefix cache"
            time.sleep(0.05)

    def watch(self, action: Callable[[], Answer], settled: Callable[[Moved], bool]) -> tuple[Answer, Moved]:
        """Runs the action and says what it did on the decode engine, once `settled` holds or time is up."""
        return self.watch_on(self.decode, action, settled)

    def watch_on(
        self, engine: Engine, action: Callable[[], Answer], settled: Callable[[Moved], bool]
    ) -> tuple[Answer, Moved]:
        """The same for either engine: what it was sent, and the prompts it dealt with."""

        def so_far() -> Moved:
            return Moved.so_far(engine.metrics(), (self.prefill if self.pushes else engine).metrics())

        before = so_far()
        answer = action()
        end = time.monotonic() + METRIC_S
        while not settled(moved := so_far() - before) and time.monotonic() < end:
            time.sleep(0.05)
        return answer, moved

    def expired(self) -> float:
        """How many times an engine had to let KV go because its lease ran out."""
        return sum(engine.metrics().total(EXPIRED) for engine in (self.prefill, self.decode))

    def assert_nothing_held(self, within_s: float) -> float:
        """Both engines hold no KV for anyone, soon; says how soon."""
        return seconds_until_idle([self.prefill, self.decode], within_s)
