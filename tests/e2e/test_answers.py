"""An answer by way of two engines is the answer of one, and its KV did move.

Asking the decode engine alone fills its prefix cache, and a later request through the sidecar would then be right
even if no byte of KV moved. So the order is: by way of both engines first, on an empty cache, with the proof from the
decode engine's metrics; then the cache is emptied again and the engine asked alone, with the proof that this time it
did compute.
"""

import cases
import pytest
from answer import Answer
from cases import CHAT, COMPLETIONS, Case, chat, completion
from compare import check
from stage import Stage


@pytest.mark.parametrize("case", cases.by_length(), ids=lambda case: case.name)
def test_prompt_of_any_length_is_answered_as_by_decode_alone(stage: Stage, case: Case) -> None:
    check(stage, case)


@pytest.mark.parametrize("case", cases.by_feature(), ids=lambda case: case.name)
def test_request_feature_survives_the_handoff(stage: Stage, case: Case) -> None:
    check(stage, case)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("path", "make"), [(COMPLETIONS, completion), (CHAT, chat)], ids=["completion", "chat"])
def test_answer_ends_at_the_stop_string(stage: Stage, path: str, make, stream: bool) -> None:
    body = make(80, f"stop{stream}")
    spoken = stage.ask_alone(path, body).choices[0].text.split()
    # A word that did not come before, so that the answer cannot end earlier.
    stop = next(word for at, word in enumerate(spoken[3:-1], 3) if word not in spoken[:at])
    case = Case("stop", path, body | {"stop": [stop], "stream": stream})
    check(stage, case)
    ended = stage.ask_apart(path, case.body).choices[0]
    assert ended.finish == "stop"
    assert stop not in ended.text.split()
    assert spoken[0] in ended.text


@pytest.mark.parametrize("lengths", [(40, 50), (40, 200), (200, 40)], ids=str)
def test_several_prompts_in_one_completion_are_each_answered_from_their_own_kv(
    stage: Stage, lengths: tuple[int, int]
) -> None:
    """Engines make a request of each prompt, and one handle names the KV of one: it must not be given to all."""
    body = completion(0, "") | {"prompt": [cases.token_ids(count, f"several {at}") for at, count in enumerate(lengths)]}
    stage.forget_prompts()
    answer = stage.ask_apart(COMPLETIONS, body)
    stage.assert_nothing_held(within_s=5)
    stage.forget_prompts()
    answer.assert_same_as(stage.ask_alone(COMPLETIONS, body))


def test_second_identical_prompt_reports_the_prefill_engines_cache_hits(stage: Stage) -> None:
    body = completion(320, "cached tokens")
    first = stage.ask_apart(COMPLETIONS, body)
    stage.forget_prompts()
    second = stage.ask_apart(COMPLETIONS, body)
    third = stage.ask_apart(COMPLETIONS, body | {"stream": True, "stream_options": {"include_usage": True}})
    assert not first.cached_tokens
    # All blocks but the last: a prompt that is cached as a whole still needs its last token computed.
    assert second.cached_tokens == 320 - stage.prefill.block_size
    assert third.cached_tokens == second.cached_tokens
    second.assert_same_as(first)


def test_conversation_moves_only_what_decode_lacks(stage: Stage) -> None:
    stage.forget_prompts()
    history = completion(640, "history")
    stage.ask_apart(COMPLETIONS, history)
    longer = history | {"prompt": history["prompt"] + cases.token_ids(64, "next turn")}
    answer, moved = stage.watch(lambda: stage.ask_apart(COMPLETIONS, longer), lambda m: m.kv_bytes > 0)
    assert answer.status == 200
    assert 0 < moved.kv_bytes < stage.decode.kv_bytes(640)
    assert moved.computed <= 1
    stage.forget_prompts()
    answer.assert_same_as(stage.ask_alone(COMPLETIONS, longer))


def test_without_the_prefill_header_decode_answers_alone(stage: Stage) -> None:
    body = chat(100, "aggregated")
    stage.forget_prompts()
    answer, moved = stage.watch(lambda: Answer.ask(stage.front.url, CHAT, body, {}), lambda m: m.computed > 0)
    assert answer.status == 200
    assert moved.kv_bytes == 0
    stage.forget_prompts()
    answer.assert_same_as(stage.ask_alone(CHAT, body))


def test_engine_refusals_reach_the_client_unchanged_and_hold_nothing(stage: Stage) -> None:
    body = completion(3000, "too long for the model")
    apart, alone = stage.apart(COMPLETIONS, body), stage.ask_alone(COMPLETIONS, body)
    assert (apart.status, apart.json()["error"]) == (alone.status, alone.error)
    assert apart.status == 400
    stage.assert_nothing_held(within_s=5)
