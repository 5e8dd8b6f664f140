"""Reads an answer of any of the APIs, streamed or not, into one comparable form.

Token ids where the API can give them. Responses and messages cannot; for them the text stands in, which the tiny
model's vocabulary of whole words makes nearly as telling, and log probabilities where they were asked for.
"""

import json
from dataclasses import dataclass, field

import pytest
from harness import client

# Two correct runs may batch differently and then differ in a float's last bits; wrong KV differs in the first digits.
LOGPROB_TOLERANCE = 1e-3


@dataclass
class Choice:
    """One of an answer's choices."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    tool_calls: list[tuple[str, str]] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = ""

    def add_logprobs(self, found: dict | list | None) -> None:
        """Takes the log probabilities of the chosen tokens from the form that the API at hand gives them in."""
        if isinstance(found, dict):
            found = found.get("content") or found.get("token_logprobs")
        self.logprobs += [item["logprob"] if isinstance(item, dict) else item for item in found or []]

    def add_tool_calls(self, calls: list[dict] | None) -> None:
        """Takes whole calls, or the pieces of them that a stream sends; their ids are random and left out."""
        for call in calls or []:
            at, function = call.get("index", len(self.tool_calls)), call["function"]
            while len(self.tool_calls) <= at:
                self.tool_calls.append(("", ""))
            name, arguments = self.tool_calls[at]
            self.tool_calls[at] = (function.get("name") or name, arguments + (function.get("arguments") or ""))


@dataclass
class Answer:
    """What a client learns from an answer."""

    status: int
    choices: list[Choice] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    frames: int = 0
    error: dict | None = None

    @classmethod
    def ask(cls, base_url: str, path: str, body: dict, headers: dict[str, str]) -> "Answer":
        """Sends a request and reads what comes."""
        if not body.get("stream"):
            raw = client.post(base_url, path, body, headers)
            return cls(raw.status).take(path, raw.json())
        with client.begin(base_url, path, body, headers) as exchange:
            status = exchange.response().status
            if status != 200:
                return cls(status).take(path, json.loads(exchange.response().read()))
            answer = cls(status)
            for event in exchange.events():
                if event.data and event.data != "[DONE]":
                    answer.frames += 1
                    answer.take(path, event.json())
            return answer

    def take(self, path: str, part: dict) -> "Answer":
        """Adds a whole answer, or one event of a stream."""
        # The engine wraps its errors in a member; the sidecar's own are flat, as older engines wrote them.
        if error := part if part.get("object") == "error" else part.get("error"):
            self.error = error
            return self
        if path == "/v1/responses":
            self._take_response(part)
        elif path == "/v1/messages":
            self._take_message(part)
        else:
            self._take_choices(part)
        return self

    def _choice(self, index: int) -> Choice:
        while len(self.choices) <= index:
            self.choices.append(Choice())
        return self.choices[index]

    def _take_choices(self, part: dict) -> None:
        for found in part["choices"]:
            choice = self._choice(found["index"])
            said = found.get("message") or found.get("delta") or {"content": found.get("text")}
            choice.token_ids += found.get("token_ids") or []
            choice.text += said.get("content") or ""
            choice.add_tool_calls(said.get("tool_calls"))
            choice.add_logprobs(found.get("logprobs"))
            choice.finish = found.get("finish_reason") or choice.finish
        if usage := part.get("usage"):
            details = usage.get("prompt_tokens_details") or {}
            self._take_usage(usage["prompt_tokens"], usage["completion_tokens"], details.get("cached_tokens"))

    def _take_response(self, part: dict) -> None:
        if part.get("type", "").startswith("response.output_text.delta"):
            self._choice(0).text += part["delta"]
            self._choice(0).add_logprobs(part.get("logprobs"))
            return
        whole = part.get("response", part)
        for item in whole.get("output", []) if "type" not in part else []:
            for content in item["content"]:
                self._choice(0).text += content["text"]
                self._choice(0).add_logprobs(content.get("logprobs"))
        if part.get("type", "response.completed") in ("response.completed", "response.incomplete"):
            self._choice(0).finish = whole["status"]
            usage = whole["usage"]
            self._take_usage(usage["input_tokens"], usage["output_tokens"], None)

    def _take_message(self, part: dict) -> None:
        choice = self._choice(0)
        for block in part.get("content", []):
            choice.text += block["text"]
        delta = part.get("delta") or {}
        choice.text += delta.get("text") or ""
        choice.finish = delta.get("stop_reason") or part.get("stop_reason") or choice.finish
        if usage := part.get("usage") or part.get("message", {}).get("usage"):
            # This API counts what a cache held, or now holds, apart from the rest of the input.
            cached = usage.get("cache_read_input_tokens", 0) + usage.get("cache_creation_input_tokens", 0)
            self._take_usage(usage["input_tokens"] + cached, usage["output_tokens"], None)

    def _take_usage(self, prompt: int, completion: int, cached: int | None) -> None:
        self.prompt_tokens, self.completion_tokens, self.cached_tokens = prompt, completion, cached

    def assert_same_as(self, other: "Answer") -> None:
        """Fails unless a client could not tell the two apart. Cached tokens and the cut of frames may differ."""
        assert (self.status, self.error) == (other.status, other.error)
        assert len(self.choices) == len(other.choices)
        for mine, theirs in zip(self.choices, other.choices, strict=True):
            assert mine.token_ids == theirs.token_ids
            assert (mine.text, mine.tool_calls, mine.finish) == (theirs.text, theirs.tool_calls, theirs.finish)
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=LOGPROB_TOLERANCE)
        assert (self.prompt_tokens, self.completion_tokens) == (other.prompt_tokens, other.completion_tokens)
