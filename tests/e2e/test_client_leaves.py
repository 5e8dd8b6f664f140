"""A client that leaves takes its KV with it: soon, neither engine holds a block for it, and no lease had to run out.

A finished prefill keeps its blocks for whoever fetches them, for 30 s when nobody does. The sidecar must not leave it
at that, so the bound here is far below the lease, and the engines' count of expired leases must stand still.
"""

import itertools
import random
import time
from collections import Counter

import pytest
from cases import CHAT, COMPLETIONS, chat, completion
from harness.vllm import LEASE_S
from stage import Stage

RELEASED_S = 8.0
assert RELEASED_S < LEASE_S / 3

# Enough tries to meet every leg and the moments between them; each takes about half a second.
TRIES = 40
LONG_PROMPT = 1800
# How far from the end of prefill a try that aims at it may miss it: as far as prefill's length itself varies.
AIM_MS = 60.0


@pytest.fixture(autouse=True)
def _idle(stage: Stage) -> None:
    """Begins with nothing held, also after a test that failed and left KV to its lease."""
    stage.assert_nothing_held(LEASE_S + 5)


def test_leaving_at_any_moment_leaves_no_blocks_held(stage: Stage) -> None:
    stage.forget_prompts()
    expired = stage.expired()
    assert stage.ask_apart(COMPLETIONS, completion(LONG_PROMPT, "how long"), "usual").status == 200
    usual = stage.front.logged("usual")
    rng = random.Random(29)
    for attempt in range(TRIES):
        body = completion(LONG_PROMPT, f"leaving {attempt}", max_tokens=100, stream=attempt % 2 == 0)
        exchange = stage.begin_apart(COMPLETIONS, body, f"leaving-{attempt}")
        time.sleep(when_to_leave(rng, usual))
        exchange.close()
        stage.assert_nothing_held(RELEASED_S)
    met = Counter(where(stage.front.logged(f"leaving-{attempt}")) for attempt in range(TRIES))
    print(f"left during: {dict(met)}")
    assert met["prefill"] > 0
    assert met["handover or decode"] > 0
    assert stage.expired() == expired


def when_to_leave(rng: random.Random, usual: dict) -> float:
    """A moment in seconds: one time in two anywhere in the request, else close to the end of prefill.

    That end is where KV exists that nobody fetched yet, and where a slip would strand it.
    """
    if rng.random() < 0.5:
        return rng.random() * usual["total_ms"] / 1000
    return max(rng.gauss(usual["prefill_ms"], AIM_MS) / 1000, 0)


def where(line: dict) -> str:
    """Where in its life a request was when its client left, by the sidecar's log."""
    if line["outcome"] != "client_left":
        return "nothing, it was done"
    if line.get("decode_ms") is not None:
        return "handover or decode"
    return "between the legs" if line.get("prefill_ms") is not None else "prefill"


@pytest.mark.parametrize("frames", [1, 5, 20])
def test_leaving_during_decode_leaves_no_blocks_held(stage: Stage, frames: int) -> None:
    expired = stage.expired()
    with stage.begin_apart(CHAT, chat(600, f"decode {frames}", max_tokens=800, stream=True)) as exchange:
        for _ in itertools.islice(exchange.events(), frames):
            pass
        assert stage.decode.kv_usage() > 0, "decode was over before the client could leave"
    stage.assert_nothing_held(RELEASED_S)
    assert stage.expired() == expired


@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
def test_many_clients_leaving_at_once_leave_no_blocks_held(stage: Stage, after_s: float) -> None:
    """A batch of prefills ends in one step of the engine, and its answers wait in line to be written.

    So some of these clients leave when their KV is ready and its handle on the way, as a single client hardly can.
    """
    expired = stage.expired()
    rng = random.Random(31)
    exchanges = []
    for i in range(12):
        body = completion(900, f"crowd {after_s} {i}", max_tokens=50, stream=True)
        exchanges.append(stage.begin_apart(COMPLETIONS, body))
        time.sleep(rng.random() * 0.05)
    time.sleep(after_s)
    for exchange in exchanges:
        exchange.close()
    stage.assert_nothing_held(RELEASED_S)
    assert stage.expired() == expired
    assert stage.apart(COMPLETIONS, completion(50, "after the crowd")).status == 200
