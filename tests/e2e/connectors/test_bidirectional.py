"""Bidirectional KV: a decode engine keeps the KV of a chat, and the prefill of the chat's next turn reads it.

The engine offers its KV in every answer and keeps it for a while, whoever comes. The sidecar hands the offer to the
prefill engine if the next turn says by its session token that it was here before.

Before each turn the prefill engine forgets what it has seen, as if another one had been picked: it then has the turn
before from the decode engine, or has to compute it. Which of the two, its metrics say.
"""

import base64
from dataclasses import dataclass

import pytest
from answer import Answer
from cases import CHAT, chat, words
from harness import sidecar
from harness.procs import Fleet
from harness.vllm import Transfer
from stage import Moved, Stage

# How long the decode engine keeps KV of a turn, and how long the sidecar offers it: the engine refuses those who come
# within its last 5 s. As short as busy machines allow, since tests wait for the end of it.
KEPT_S = 16
OFFERED_S = 10
BIDIRECTIONAL = Transfer(
    "bidirectional",
    "NixlConnector",
    {"bidirectional_kv_xfer": True, "decoder_kv_blocks_ttl": KEPT_S, "kv_recompute_threshold": 1},
)
POD = ("--pod-namespace", "harbor", "--pod-name", "decode-0")
SESSION_HEADER = "x-session-token"
HERE = base64.b64encode(b"harbor/decode-0-rank-0").decode()
ELSEWHERE = base64.b64encode(b"harbor/decode-1-rank-0").decode()

# A reply that ends by itself, and has no white space in front: only such a reply is sure to be made of the same tokens
# when it comes back as part of the next prompt.
PLAIN_REPLY = {"structured_outputs": {"regex": "a( [a-z]+){8}"}, "max_tokens": 40}


@dataclass
class Turn:
    """One turn: what was asked, what came, and what that did on each engine."""

    body: dict
    answer: Answer
    prefill: Moved
    decode: Moved


@pytest.fixture(scope="module")
def stage(fleet: Fleet, start_pair) -> Stage:
    """The pair behind a sidecar with the flag."""
    prefill, decode = start_pair(BIDIRECTIONAL)
    flags = ("--bidirectional-kv", "--bidirectional-cache-ttl", f"{OFFERED_S}s", "--request-timeout", "60s", *POD)
    made = Stage(prefill, decode, sidecar.start(fleet, decode, *flags, name="sidecar-bidirectional"))
    made.warm_up()
    return made


def talk(stage: Stage, topic: str, token: str | None, turns: int = 3, **more: object) -> list[Turn]:
    """A chat of some turns, with the scheduler's session token from the second one on."""
    done: list[Turn] = []
    messages = chat(150, topic)["messages"]
    for number in range(turns):
        body = chat(0, topic, **PLAIN_REPLY, **more) | {"messages": list(messages)}
        stage.forget_prompts(stage.prefill)
        headers = sidecar.via(stage.prefill) | ({SESSION_HEADER: token} if token and number else {})
        done.append(ask(stage, body, headers))
        reply = {"role": "assistant", "content": done[-1].answer.choices[0].text}
        messages += [reply, {"role": "user", "content": words(40, f"{topic} {number}")}]
    return done


def ask(stage: Stage, body: dict, headers: dict[str, str]) -> Turn:
    """Sends one turn through the sidecar."""
    decode = Moved.so_far(stage.decode.metrics(), stage.decode.metrics())
    answer, prefill = stage.watch_on(
        stage.prefill,
        lambda: Answer.ask(stage.front.url, CHAT, body, headers),
        lambda moved: moved.computed > 0,
    )
    assert answer.status == 200, answer.error
    return Turn(body, answer, prefill, Moved.so_far(stage.decode.metrics(), stage.decode.metrics()) - decode)


def assert_as_by_decode_alone(stage: Stage, turns: list[Turn]) -> None:
    """The decode engine's own answers are the same. Asked last, when it keeps nothing of the chat any more."""
    held = stage.assert_nothing_held(within_s=KEPT_S + 5)
    print(f"kept for {held:.1f} s more")
    for turn in turns:
        stage.forget_prompts()
        turn.answer.assert_same_as(stage.ask_alone(CHAT, turn.body))


def test_a_chats_next_turns_are_prefilled_from_what_decode_has(stage: Stage) -> None:
    turns = talk(stage, "goes back", HERE)
    first, *later = turns
    assert (first.prefill.kv_bytes, first.prefill.computed) == (0, first.answer.prompt_tokens)
    for before, turn in zip(turns, later, strict=False):
        # All of the turn before but its last token, the end: that one was never computed by anyone.
        known = before.answer.prompt_tokens + before.answer.completion_tokens - 1
        assert turn.prefill.transferred == known
        assert turn.prefill.kv_bytes >= stage.decode.kv_bytes(known)
        assert turn.prefill.computed == turn.answer.prompt_tokens - known
        assert turn.decode.computed == 0, "the decode engine computed some of the prompt itself"
        assert turn.decode.kv_bytes > 0
    assert stage.prefill.kv_usage() == 0
    assert_as_by_decode_alone(stage, turns)


def test_a_chat_that_was_not_here_before_is_prefilled_anew(stage: Stage) -> None:
    turns = talk(stage, "no token", None, turns=2) + talk(stage, "another pod's token", ELSEWHERE, turns=2)
    for turn in turns:
        assert (turn.prefill.kv_bytes, turn.prefill.computed) == (0, turn.answer.prompt_tokens)
    assert_as_by_decode_alone(stage, turns)


def test_a_streamed_chat_is_answered_as_by_decode_alone(stage: Stage) -> None:
    turns = talk(stage, "streamed", HERE, turns=2, stream=True, stream_options={"include_usage": True})
    print(f"read back by prefill: {turns[1].prefill.kv_bytes:.0f} bytes")
    assert turns[1].prefill.computed + turns[1].prefill.transferred == turns[1].answer.prompt_tokens
    assert_as_by_decode_alone(stage, turns)
