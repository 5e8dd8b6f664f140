"""What the sidecar does when prefill fails, on engines whose KV is real: the answer stays the decode engine's own.

In front of the prefill engine stands a front that fails when it is told to, and otherwise passes requests on. So an
attempt that succeeds after others failed hands over KV that really was computed for it.
"""

from collections.abc import Callable, Iterator

import pytest
from answer import Answer
from cases import COMPLETIONS, completion
from harness import client, sidecar
from harness.ports import HOST, free_ports
from harness.procs import Fleet
from harness.scripted import HANG_UP, Front
from harness.sidecar import PREFILL_HEADER, Sidecar
from stage import Stage

PROMPT = 300
# Nothing is lost by being quick here: the front is scripted, not overloaded.
BACKOFF = ("--prefill-retry-backoff", "20ms")
IDLE_S = 5.0

StartSidecar = Callable[..., Sidecar]


@pytest.fixture
def start_front(fleet: Fleet, stage: Stage) -> Iterator[StartSidecar]:
    """Starts a sidecar with flags of its own before the pair."""
    started: list[Sidecar] = []

    def start(*flags: str) -> Sidecar:
        flags = (*flags, *BACKOFF, "--request-timeout", "60s")
        started.append(sidecar.start(fleet, stage.decode, *flags, name="sidecar-failover"))
        return started[-1]

    yield start
    for front in started:
        front.child.stop()


def nobody() -> str:
    """A `host:port` where nobody listens."""
    return f"{HOST}:{free_ports(1)[0]}"


def assert_handed_over(stage: Stage, front: Sidecar, candidates: str, topic: str) -> None:
    """The request is answered as by decode alone, and from KV that another engine computed."""
    body = completion(PROMPT, topic)
    stage.forget_prompts()
    answer, moved = stage.watch(
        lambda: Answer.ask(front.url, COMPLETIONS, body, {PREFILL_HEADER: candidates}), lambda moved: moved.kv_bytes > 0
    )
    assert answer.status == 200, answer.error
    assert moved.kv_bytes >= stage.decode.kv_bytes(PROMPT)
    assert moved.computed <= 1, "the decode engine computed the prompt itself"
    stage.assert_nothing_held(IDLE_S)
    stage.forget_prompts()
    answer.assert_same_as(stage.ask_alone(COMPLETIONS, body))


@pytest.mark.parametrize("failure", [503, 502, 504, HANG_UP])
def test_a_prefill_that_fails_once_is_tried_again_at_the_same_engine(
    stage: Stage, start_front: StartSidecar, failure: int | str
) -> None:
    front = start_front("--prefill-max-retries", "1")
    with Front(stage.prefill, [failure]) as before:
        assert_handed_over(stage, front, before.host_port, f"again {failure}")
        assert before.requests == 2
    assert front.count("retries", kind="same") == 1


def test_without_retries_the_client_gets_prefills_own_error(stage: Stage, start_front: StartSidecar) -> None:
    front = start_front()
    with Front(stage.prefill, [503]) as before:
        answer = client.post(front.url, COMPLETIONS, completion(PROMPT, "once"), {PREFILL_HEADER: before.host_port})
        assert (answer.status, answer.json()) == (503, {"error": {"message": "scripted"}})
        assert before.requests == 1
    stage.assert_nothing_held(IDLE_S)


def test_after_the_last_retry_the_client_gets_prefills_own_error(stage: Stage, start_front: StartSidecar) -> None:
    front = start_front("--prefill-max-retries", "2")
    with Front(stage.prefill, after=503) as before:
        answer = client.post(front.url, COMPLETIONS, completion(PROMPT, "never"), {PREFILL_HEADER: before.host_port})
        assert (answer.status, answer.json()) == (503, {"error": {"message": "scripted"}})
        assert before.requests == 3
    stage.assert_nothing_held(IDLE_S)


def test_a_dead_first_candidate_is_made_up_for_by_the_next(stage: Stage, start_front: StartSidecar) -> None:
    front = start_front("--prefill-failure-policy", "retry-other")
    assert_handed_over(stage, front, f"{nobody()},{stage.prefill.host_port}", "dead first")
    assert front.count("prefill_failover", outcome="other") == 1


def test_an_overloaded_first_candidate_is_made_up_for_by_the_next(stage: Stage, start_front: StartSidecar) -> None:
    front = start_front("--prefill-failure-policy", "retry-other", "--prefill-max-retries", "1")
    with Front(stage.prefill, after=503) as before:
        assert_handed_over(stage, front, f"{before.host_port},{stage.prefill.host_port}", "overloaded first")
        assert before.requests == 2


def test_with_all_candidates_dead_the_decode_engine_computes_the_prompt(
    stage: Stage, start_front: StartSidecar
) -> None:
    front = start_front("--prefill-failure-policy", "local")
    body = completion(PROMPT, "all dead")
    stage.forget_prompts()
    candidates = {PREFILL_HEADER: f"{nobody()},{nobody()}"}
    answer, moved = stage.watch(
        lambda: Answer.ask(front.url, COMPLETIONS, body, candidates), lambda moved: moved.computed > 0
    )
    assert answer.status == 200, answer.error
    assert (moved.kv_bytes, moved.computed) == (0, PROMPT)
    assert front.count("prefill_failover", outcome="local") == 1
    stage.assert_nothing_held(IDLE_S)
    stage.forget_prompts()
    answer.assert_same_as(stage.ask_alone(COMPLETIONS, body))
