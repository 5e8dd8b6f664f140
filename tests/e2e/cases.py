"""The requests that must be answered alike through the sidecar and by the decode engine alone."""

import random
from dataclasses import dataclass

from harness.engine import MODEL
from harness.tiny_model import WORDS

ANSWER_TOKENS = 12
# Around every kind of edge: one token, block borders (blocks hold 32), and long prompts of many blocks.
LENGTHS = [1, 2, 7, 16, 31, 32, 33, 48, 63, 64, 65, 90, 127, 128, 129, 200, 256, 320, 411, 512]
LENGTHS += [640, 777, 1000, 1024, 1300, 1600, 1900]
# Ids of ordinary tokens: past the special ones, within the vocabulary.
TOKEN_IDS = range(16, 1000)

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
GENERATE = "/inference/v1/generate"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "tide_table",
            "description": "When the tide is high in a harbor",
            "parameters": {
                "type": "object",
                "properties": {"harbor": {"type": "string", "enum": ["north", "south"]}},
                "required": ["harbor"],
            },
        },
    }
]


@dataclass(frozen=True)
class Case:
    """One request. `prompt_tokens` is set where the request fixes their number."""

    name: str
    path: str
    body: dict
    prompt_tokens: int | None = None


def token_ids(count: int, topic: object) -> list[int]:
    """A prompt of exactly that many tokens; another for each topic."""
    return random.Random(f"{topic}/{count}").choices(TOKEN_IDS, k=count)


def words(count: int, topic: object) -> str:
    """A prompt of that many words; a word is one token for most words, two or three for the rest."""
    return " ".join(random.Random(f"{topic}/{count}").choices(WORDS, k=count))


def completion(count: int, topic: object, **more: object) -> dict:
    """A greedy completion of a prompt of exactly `count` tokens."""
    body = {"model": MODEL, "prompt": token_ids(count, topic), "max_tokens": ANSWER_TOKENS, "temperature": 0}
    return body | {"return_token_ids": True} | more


def chat(count: int, topic: object, **more: object) -> dict:
    """A greedy chat about `count` words."""
    messages = [
        {"role": "system", "content": "answer like the captain of a ferry"},
        {"role": "user", "content": words(count, topic)},
    ]
    body = {"model": MODEL, "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0}
    return body | {"return_token_ids": True} | more


def by_length() -> list[Case]:
    """Every length, as completion and as chat, streamed and not."""
    cases = []
    for count in LENGTHS:
        for stream in (False, True):
            how = "stream" if stream else "whole"
            more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
            cases.append(
                Case(f"completion-{count}-{how}", COMPLETIONS, completion(count, how, **more), prompt_tokens=count)
            )
            # Words and the template around them are more tokens than words; keep within the model's context.
            cases.append(Case(f"chat-{count}-{how}", CHAT, chat(count * 7 // 10, how, **more)))
    return cases


def by_feature() -> list[Case]:
    """What requests may ask for, one thing each."""
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    # vLLM has no n > 1 for greedy sampling; a seed makes sampling repeatable instead.
    two = {"n": 2, "temperature": 0.8, "seed": 7}
    named = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "tide_table"}}, "max_tokens": 60}
    generate = {"model": MODEL, "sampling_params": {"max_tokens": ANSWER_TOKENS, "temperature": 0}}
    respond = {"model": MODEL, "max_output_tokens": ANSWER_TOKENS, "temperature": 0, "store": False}
    logged = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    message = {"model": MODEL, "max_tokens": ANSWER_TOKENS, "temperature": 0}
    said = [{"role": "user", "content": [{"type": "text", "text": words(150, "messages")}]}]
    return [
        Case("completion-n2", COMPLETIONS, completion(100, "n2", **two)),
        Case("completion-n2-stream", COMPLETIONS, completion(100, "n2s", **two, **usage)),
        Case("chat-n2", CHAT, chat(70, "n2", **two)),
        Case("chat-n2-stream", CHAT, chat(70, "n2s", **two, **usage)),
        Case("completion-logprobs", COMPLETIONS, completion(100, "lp", logprobs=3)),
        Case("completion-logprobs-stream", COMPLETIONS, completion(100, "lps", logprobs=3, **usage)),
        Case("completion-echo", COMPLETIONS, completion(60, "echo", echo=True)),
        Case("chat-logprobs", CHAT, chat(70, "lp", logprobs=True, top_logprobs=3)),
        Case("chat-logprobs-stream", CHAT, chat(70, "lps", logprobs=True, top_logprobs=3, **usage)),
        Case("chat-sampled", CHAT, chat(70, "sampled", temperature=1.0, top_p=0.9, seed=3)),
        Case("chat-max-completion-tokens", CHAT, chat(70, "mct", max_completion_tokens=5)),
        Case("chat-min-tokens", CHAT, chat(70, "min", min_tokens=8)),
        Case("chat-stream-without-usage", CHAT, chat(70, "plain", stream=True)),
        Case(
            "chat-continuous-usage", CHAT, chat(70, "cu", stream=True, stream_options={"continuous_usage_stats": True})
        ),
        Case("chat-tools-auto", CHAT, chat(50, "tools", tools=TOOLS)),
        Case("chat-tools-auto-stream", CHAT, chat(50, "toolss", tools=TOOLS, **usage)),
        Case("chat-tools-named", CHAT, chat(50, "named", **named)),
        Case("chat-tools-named-stream", CHAT, chat(50, "nameds", **named, **usage)),
        Case("chat-many-turns", CHAT, chat(20, "turns") | {"messages": turns()}),
        Case("generate", GENERATE, generate | {"token_ids": token_ids(300, "gen")}, prompt_tokens=300),
        Case("generate-stream", GENERATE, generate | {"token_ids": token_ids(301, "gens"), "stream": True}),
        Case("responses", RESPONSES, respond | {"input": words(150, "responses")}),
        Case("responses-logprobs", RESPONSES, respond | {"input": words(150, "rlp")} | logged),
        Case("responses-stream", RESPONSES, respond | {"input": words(150, "rs"), "stream": True}),
        Case("messages", MESSAGES, message | {"messages": said}),
        Case("messages-system-stream", MESSAGES, message | {"messages": said, "system": "be brief", "stream": True}),
    ]


def turns() -> list[dict]:
    """A conversation of several turns."""
    roles = ["user", "assistant"] * 4 + ["user"]
    return [{"role": role, "content": words(25, f"turn{i}")} for i, role in enumerate(roles)]
