"""The `openai` Python client, which most users speak through, works through the sidecar as against the engine."""

from collections.abc import Iterator

import cases
import openai
import pytest
from harness import sidecar
from harness.engine import MODEL
from stage import Stage


@pytest.fixture
def clients(stage: Stage) -> Iterator[tuple[openai.OpenAI, openai.OpenAI]]:
    """One through the sidecar by way of both engines, one to the decode engine alone."""
    more = {"api_key": "none", "max_retries": 0, "timeout": 60}
    apart = openai.OpenAI(base_url=f"{stage.front.url}/v1", default_headers=sidecar.via(stage.prefill), **more)
    alone = openai.OpenAI(base_url=f"{stage.decode.url}/v1", **more)
    with apart, alone:
        yield apart, alone


def both(stage: Stage, clients: tuple[openai.OpenAI, openai.OpenAI], ask) -> list:
    """What `ask` gets through each client, each time on an empty cache."""
    answers = []
    for client in clients:
        stage.forget_prompts()
        answers.append(ask(client))
    return answers


def test_chat(stage: Stage, clients) -> None:
    def ask(client: openai.OpenAI):
        body = cases.chat(200, "openai chat")
        del body["return_token_ids"]
        return client.chat.completions.create(**body, extra_body={"return_token_ids": True})

    apart, alone = both(stage, clients, ask)
    assert apart.choices[0].message.content == alone.choices[0].message.content
    assert apart.choices[0].model_extra["token_ids"] == alone.choices[0].model_extra["token_ids"]
    assert len(apart.choices[0].model_extra["token_ids"]) == cases.ANSWER_TOKENS


def test_streamed_chat(stage: Stage, clients) -> None:
    def ask(client: openai.OpenAI) -> tuple[list[int], int]:
        body = cases.chat(200, "openai stream", stream=True, stream_options={"include_usage": True})
        del body["return_token_ids"]
        ids, total = [], 0
        for chunk in client.chat.completions.create(**body, extra_body={"return_token_ids": True}):
            total = chunk.usage.total_tokens if chunk.usage else total
            for choice in chunk.choices:
                ids += (choice.model_extra or {}).get("token_ids") or []
        return ids, total

    apart, alone = both(stage, clients, ask)
    assert apart == alone
    assert len(apart[0]) == cases.ANSWER_TOKENS


def test_completion(stage: Stage, clients) -> None:
    def ask(client: openai.OpenAI) -> str:
        made = client.completions.create(
            model=MODEL, prompt=cases.words(120, "openai"), max_tokens=cases.ANSWER_TOKENS, temperature=0
        )
        return made.choices[0].text

    apart, alone = both(stage, clients, ask)
    assert apart == alone
    assert apart


def test_streamed_response(stage: Stage, clients) -> None:
    def ask(client: openai.OpenAI) -> str:
        text = ""
        with client.responses.stream(
            model=MODEL,
            input=cases.words(120, "openai responses"),
            max_output_tokens=cases.ANSWER_TOKENS,
            temperature=0,
        ) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    text += event.delta
        return text

    apart, alone = both(stage, clients, ask)
    assert apart == alone
    assert apart


def test_unknown_model_is_the_clients_usual_error(clients) -> None:
    for client in clients:
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="no such model", prompt="the ferry", max_tokens=1)
