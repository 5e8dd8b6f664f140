"""NixlPushConnector: the prefill engine writes KV to a decode engine that has registered with it.

The first request to a prefill engine is served one leg after the other, and its answer says who the engine is. All
later ones are served with both legs at once. Both ways have to give the decode engine's own answers.
"""

import itertools
import time

import cases
import pytest
from cases import CHAT, COMPLETIONS, GENERATE, MESSAGES, RESPONSES, Case, chat, completion, token_ids, words
from compare import check
from harness import client, sidecar
from harness.engine import MODEL, seconds_until_idle
from harness.procs import Fleet
from harness.scripted import LATE, Front
from harness.sidecar import PREFILL_HEADER
from harness.vllm import Transfer
from stage import METRIC_S, Stage

# An engine that pushes frees the KV of a request that nobody registered for when its lease ends, and not before: no
# request is known that makes it. Short, so that a test can wait for it; long enough for a handshake on a busy machine.
LEASE_S = 8
PUSH = Transfer("push", "NixlPushConnector", {"kv_lease_duration": LEASE_S})
FLAGS = ("--nixl-push-mode", "--request-timeout", "60s")

USAGE = {"stream": True, "stream_options": {"include_usage": True}}
TWO = {"n": 2, "temperature": 0.8, "seed": 7}
GREEDY = {"model": MODEL, "max_tokens": 12, "temperature": 0}
SAMPLING = {"sampling_params": {"max_tokens": 12, "temperature": 0}}
RESPOND = {"model": MODEL, "max_output_tokens": 12, "temperature": 0, "store": False}
TO_SAY = {"messages": [{"role": "user", "content": [{"type": "text", "text": words(150, "push")}]}]}


def by_length(topic: str) -> list[Case]:
    """Prompts around the borders of blocks, of 32 tokens, and long ones."""
    counts = [1, 31, 32, 33, 65, 300, 1900]
    return [Case(f"completion-{n}", COMPLETIONS, completion(n, topic), prompt_tokens=n) for n in counts]


def by_api() -> list[Case]:
    """Each API, since the engines pair the legs by ids that each makes in its own way."""
    return [
        Case("chat", CHAT, chat(70, "push")),
        Case("chat-stream", CHAT, chat(71, "push", **USAGE)),
        Case("completion-stream", COMPLETIONS, completion(200, "push", **USAGE), prompt_tokens=200),
        # Engines make a request of each sample, under an id of its own.
        Case("completion-n2", COMPLETIONS, completion(100, "push n2", **TWO)),
        Case("chat-n2", CHAT, chat(70, "push n2", **TWO)),
        Case("generate", GENERATE, {"model": MODEL, "token_ids": token_ids(300, "push")} | SAMPLING),
        Case("responses", RESPONSES, RESPOND | {"input": words(150, "push")}),
        Case("messages", MESSAGES, GREEDY | TO_SAY),
    ]


@pytest.fixture(scope="module")
def stage(fleet: Fleet, start_pair) -> Stage:
    """The pair behind a sidecar that knows the prefill engine by its first answer."""
    prefill, decode = start_pair(PUSH)
    made = Stage(prefill, decode, sidecar.start(fleet, decode, *FLAGS, name="sidecar-push"), pushes=True)
    begun = time.monotonic()
    made.warm_up()
    print(f"first request of the pair: {time.monotonic() - begun:.2f} s")
    return made


@pytest.fixture
def stranger(fleet: Fleet, stage: Stage) -> Stage:
    """The same pair behind a sidecar that has just started and knows nobody."""
    front = sidecar.start(fleet, stage.decode, *FLAGS, name="sidecar-push-stranger")
    yield Stage(stage.prefill, stage.decode, front, pushes=True)
    front.child.stop()


@pytest.mark.parametrize("case", by_length("serial"), ids=lambda case: case.name)
def test_first_request_to_an_engine_is_served_serially_and_as_by_decode_alone(stranger: Stage, case: Case) -> None:
    check(stranger, case)
    assert stranger.front.count("nixl_push_dispatches", mode="serial", reason="cache_miss") == 1


@pytest.mark.parametrize("case", by_length("overlapped") + by_api(), ids=lambda case: case.name)
def test_later_requests_overlap_and_are_answered_as_by_decode_alone(stage: Stage, case: Case) -> None:
    overlapped = stage.front.count("nixl_push_dispatches", mode="parallel")
    check(stage, case)
    assert stage.front.count("nixl_push_dispatches", mode="parallel") == overlapped + 1
    stage.assert_nothing_held(within_s=5)


def test_decode_computes_only_what_it_has_not_cached(stage: Stage) -> None:
    """The decode engine registers for the blocks it lacks; the prefill engine must write those and no others."""
    start = cases.token_ids(320, "push prefix")
    stage.forget_prompts()
    first = completion(0, "") | {"prompt": start}
    assert stage.ask_apart(COMPLETIONS, first).status == 200
    longer = completion(0, "") | {"prompt": start + cases.token_ids(100, "push suffix")}
    answer, moved = stage.watch(lambda: stage.ask_apart(COMPLETIONS, longer), lambda m: m.kv_bytes > 0)
    assert answer.status == 200
    assert (moved.cached, moved.computed) == (320, 0)
    assert moved.kv_bytes == stage.decode.kv_bytes(420) - stage.decode.kv_bytes(320)
    stage.forget_prompts()
    answer.assert_same_as(stage.ask_alone(COMPLETIONS, longer))


def test_leaving_while_the_legs_overlap_leaves_no_blocks_held(stage: Stage) -> None:
    """The prefill goes on to its end and writes: that is what frees the blocks of the decode engine.

    A client may leave before the decode engine has registered. The prefill engine then waits for nobody, for a lease.
    """
    for attempt, after_s in enumerate([0.02, 0.1, 0.2, 0.3, 0.5]):
        body = completion(1800, f"push leaving {attempt}", max_tokens=100, stream=True)
        exchange = stage.begin_apart(COMPLETIONS, body, f"push-leaving-{attempt}")
        time.sleep(after_s)
        exchange.close()
        assert stage.front.logged(f"push-leaving-{attempt}")["outcome"] == "client_left"
        seconds_until_idle([stage.decode], within_s=5)
        stage.assert_nothing_held(within_s=LEASE_S + 5)


def test_leaving_during_decode_leaves_no_blocks_held(stage: Stage) -> None:
    with stage.begin_apart(CHAT, chat(600, "push decode", max_tokens=800, stream=True)) as exchange:
        for _ in itertools.islice(exchange.events(), 5):
            pass
        assert stage.decode.kv_usage() > 0, "decode was over before the client could leave"
    stage.assert_nothing_held(within_s=5)


def test_kv_of_a_serial_prefill_that_nobody_waited_for_is_held_no_longer_than_its_lease(stranger: Stage) -> None:
    expired, served = stranger.expired(), stranger.prefill.served()
    with Front(stranger.prefill, after=LATE) as late:
        body = completion(1800, "push alone", stream=True)
        exchange = client.begin(stranger.front.url, COMPLETIONS, body, {PREFILL_HEADER: late.host_port})
        end = time.monotonic() + METRIC_S
        while stranger.prefill.served() == served:
            assert time.monotonic() < end, "the prefill engine does not get done"
            time.sleep(0.02)
        exchange.close()
        seconds = stranger.assert_nothing_held(within_s=LEASE_S + 5)
    print(f"held for {seconds:.1f} s")
    assert stranger.expired() == expired + 1
