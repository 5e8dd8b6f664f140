"""With --first-token-forwarding a client reads the same as without it, and the first of it sooner.

Two sidecars stand before the same pair of engines, one with the flag. Every prompt goes by way of both, and is new to
both engines each time: a cache would spare the transfer that the flag is about.
"""

import json
import re
import statistics
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from answer import Answer
from cases import COMPLETIONS, GENERATE, completion, token_ids, words
from harness import client, sidecar
from harness.engine import MODEL, Engine
from harness.procs import Fleet
from harness.sidecar import PREFILL_HEADER, REQUEST_ID_HEADER, Sidecar
from stage import Stage

USAGE = {"stream": True, "stream_options": {"include_usage": True}}
# Every length around the borders of several blocks (of 32 tokens), and some of many blocks.
LENGTHS = [1, 2, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 255, 256, 257, 500, 511, 512, 513, 1023, 1024, 1025]
ANSWER_TOKENS = 12
# For the medians of the time to the first token.
TIMED_LENGTHS = [64, 512, 1536]
TIMED_REPEATS = 25
_TEXT = re.compile(r'"(text|token_ids)":("(?:[^"\\]|\\.)*"|\[[0-9, ]*\])')
WORD = " light"  # one token of the tiny model's
_CREATED = re.compile(r'"created":[0-9]+')


@pytest.fixture(scope="module")
def ahead(fleet: Fleet, engines: tuple[Engine, Engine]) -> Sidecar:
    """A second sidecar, with the flag."""
    return sidecar.start(fleet, engines[1], "--first-token-forwarding", name="sidecar-ahead")


def new_to_both(stage: Stage) -> None:
    """Empties both engines' prefix caches."""
    stage.assert_nothing_held(within_s=10)
    stage.forget_prompts()
    assert client.post(stage.prefill.url, "/reset_prefix_cache", {}).json()["success"]


def events(front: Sidecar, prefill: str, path: str, body: dict, request_id: str) -> list[client.Event]:
    """All events of an answer by way of both engines."""
    headers = {PREFILL_HEADER: prefill, REQUEST_ID_HEADER: request_id}
    with client.begin(front.url, path, body, headers) as exchange:
        assert exchange.response().status == 200, exchange.response().read()
        assert exchange.response().headers["content-type"] == "text/event-stream; charset=utf-8"
        return [event for event in exchange.events() if event.data]


def shapes(found: list[client.Event]) -> list[str]:
    """The events' bytes but for what they say and when; equal neighbours count once.

    How many tokens one event tells of is a matter of the engine's load, and differs from run to run.
    """
    bare = [_CREATED.sub('"created":0', _TEXT.sub(r'"\1":0', event.data)) for event in found]
    return [shape for shape, before in zip(bare, [None, *bare], strict=False) if shape != before]


def ask_both(stage: Stage, ahead: Sidecar, path: str, body: dict) -> tuple[list[client.Event], list[client.Event], str]:
    """The same request by the ordinary way and with the first token ahead, under one id."""
    request_id = str(uuid.uuid4())
    new_to_both(stage)
    ordinary = events(stage.front, stage.prefill.host_port, path, body, request_id)
    new_to_both(stage)
    forwarded = events(ahead, stage.prefill.host_port, path, body, request_id)
    return ordinary, forwarded, request_id


def read(path: str, found: list[client.Event]) -> Answer:
    """What the events say together."""
    answer = Answer(200)
    for event in found:
        if event.data != "[DONE]":
            answer.take(path, event.json())
    return answer


def assert_same(path: str, ordinary: list[client.Event], forwarded: list[client.Event]) -> None:
    """Fails unless a client could not tell the two apart but by how the tokens are cut into events."""
    one, other = read(path, ordinary), read(path, forwarded)
    other.assert_same_as(one)
    assert other.cached_tokens == one.cached_tokens
    assert shapes(forwarded) == shapes(ordinary)


@pytest.fixture(scope="module")
def word(stage: Stage) -> int:
    """A token that is a whole word.

    Behind a prompt that ends within a character, vLLM's first text is the prompt itself. A first token of that kind
    does not go ahead, so prompts that must have one end with this.
    """
    (token,) = client.post(stage.decode.url, "/tokenize", {"model": MODEL, "prompt": WORD}).json()["tokens"]
    return token


def greedy(count: int, topic: str, word: int, **more: object) -> dict:
    """A streamed completion of exactly `count` tokens that ends with a whole word."""
    body = completion(count, topic, max_tokens=ANSWER_TOKENS, **USAGE) | more
    del body["return_token_ids"]
    body["prompt"][-1] = word
    return body


@pytest.mark.parametrize("count", LENGTHS)
def test_a_completion_is_the_same_with_its_first_token_ahead(
    stage: Stage, ahead: Sidecar, word: int, count: int
) -> None:
    ordinary, forwarded, request_id = ask_both(stage, ahead, COMPLETIONS, greedy(count, "ahead", word))
    assert ahead.logged(request_id)["first_token_ahead"] is True
    assert_same(COMPLETIONS, ordinary, forwarded)


@pytest.mark.parametrize("count", [1, 20, 21, 22, 40, 200])
def test_a_prompt_of_text_is_the_same_with_its_first_token_ahead(stage: Stage, ahead: Sidecar, count: int) -> None:
    body = {"model": MODEL, "prompt": words(count, "ahead"), "max_tokens": ANSWER_TOKENS, "temperature": 0}
    ordinary, forwarded, request_id = ask_both(stage, ahead, COMPLETIONS, body | USAGE)
    assert ahead.logged(request_id)["first_token_ahead"] is True
    assert_same(COMPLETIONS, ordinary, forwarded)


@pytest.mark.parametrize("count", [3, 31, 32, 33, 80, 100, 150, 300])
def test_an_answer_is_the_same_whatever_it_begins_with(stage: Stage, ahead: Sidecar, count: int) -> None:
    """Among these are prompts that end within a character."""
    body = completion(count, "whatever", max_tokens=ANSWER_TOKENS, **USAGE)
    del body["return_token_ids"]
    ordinary, forwarded, request_id = ask_both(stage, ahead, COMPLETIONS, body)
    begins = ordinary[0].json()["choices"][0]["text"]
    assert ahead.logged(request_id).get("first_token_ahead", False) is ("\N{REPLACEMENT CHARACTER}" not in begins)
    assert_same(COMPLETIONS, ordinary, forwarded)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 300])
def test_generated_tokens_are_the_same_with_the_first_one_ahead(stage: Stage, ahead: Sidecar, count: int) -> None:
    sampling = {"max_tokens": ANSWER_TOKENS, "temperature": 0}
    body = {"model": MODEL, "token_ids": token_ids(count, "ahead"), "sampling_params": sampling} | USAGE
    ordinary, forwarded, request_id = ask_both(stage, ahead, GENERATE, body)
    assert ahead.logged(request_id)["first_token_ahead"] is True
    assert_same(GENERATE, ordinary, forwarded)


@pytest.mark.parametrize(
    "more",
    [{"temperature": 0.8, "seed": 7}, {"logprobs": 1}, {"stop": ["ferry"]}, {"max_tokens": 1}, {"echo": True}],
    ids=["sampled", "logprobs", "stop", "one-token", "echo"],
)
def test_what_is_not_exact_takes_the_ordinary_way(stage: Stage, ahead: Sidecar, word: int, more: dict) -> None:
    body = greedy(70, "ordinary", word, **more)
    ordinary, forwarded, request_id = ask_both(stage, ahead, COMPLETIONS, body)
    assert "first_token_ahead" not in ahead.logged(request_id)
    assert read(COMPLETIONS, forwarded).choices[0].text == read(COMPLETIONS, ordinary).choices[0].text


def test_nothing_is_held_and_no_lease_has_run_out(stage: Stage) -> None:
    stage.assert_nothing_held(within_s=10)
    assert stage.expired() == 0


@pytest.fixture
def forger(stage: Stage) -> Iterator[Callable[[int, str], str]]:
    """Puts a liar before the prefill engine: its first tokens are this one. Returns where it listens."""
    servers = []

    def start(token: int, text: str) -> str:
        class Liar(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request_id = {REQUEST_ID_HEADER: self.headers[REQUEST_ID_HEADER]}
                answer = client.post(stage.prefill.url, self.path, json.loads(body), request_id).json()
                answer["choices"][0] |= {"text": text, "token_ids": [token]}
                lie = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(lie)))
                self.end_headers()
                self.wfile.write(lie)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("count", [31, 32, 33, 200])
def test_an_answer_goes_on_from_a_first_token_that_decode_would_not_have_chosen(
    stage: Stage, ahead: Sidecar, forger: Callable[[int, str], str], word: int, count: int
) -> None:
    body, token, text = greedy(count, "forged", word), word, WORD
    prompt = body["prompt"]
    assert not stage.ask_alone(COMPLETIONS, body).choices[0].text.startswith(text)
    new_to_both(stage)
    request_id = str(uuid.uuid4())
    found = read(COMPLETIONS, events(ahead, forger(token, text), COMPLETIONS, body, request_id))
    assert ahead.logged(request_id)["first_token_ahead"] is True
    new_to_both(stage)
    on = body | {"prompt": [*prompt, token], "max_tokens": ANSWER_TOKENS - 1}
    expected = stage.ask_alone(COMPLETIONS, on)
    assert found.choices[0].text == text + expected.choices[0].text
    assert found.choices[0].finish == expected.choices[0].finish
    assert (found.prompt_tokens, found.completion_tokens) == (count, expected.completion_tokens + 1)
    stage.assert_nothing_held(within_s=10)


def test_the_first_token_comes_sooner(stage: Stage, ahead: Sidecar, word: int) -> None:
    """Measured and printed, not judged: the machine's load is not the sidecar's."""
    for count in TIMED_LENGTHS:
        times: dict[str, list[float]] = {"ordinary": [], "ahead": []}
        second: dict[str, list[float]] = {"ordinary": [], "ahead": []}
        for repeat in range(TIMED_REPEATS):
            for name, front in (("ordinary", stage.front), ("ahead", ahead)):
                body = greedy(count, f"timed-{name}-{repeat}", word, max_tokens=4)
                found = events(front, stage.prefill.host_port, COMPLETIONS, body, str(uuid.uuid4()))
                times[name].append(found[0].at * 1000)
                second[name].append(found[1].at * 1000)
        first = {name: statistics.median(values) for name, values in times.items()}
        later = {name: statistics.median(values) for name, values in second.items()}
        print(
            f"{count} tokens: first token {first['ordinary']:.1f} -> {first['ahead']:.1f} ms,"
            f" second event {later['ordinary']:.1f} -> {later['ahead']:.1f} ms"
        )
        assert min(map(min, times.values())) > 0
