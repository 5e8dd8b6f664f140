"""Whether a request is answered by two engines as by one, and by means of KV that moved.

Asking the decode engine alone fills its prefix cache, and a later request through the sidecar would then be right
even if no byte of KV moved. So the order is: by way of both engines first, on an empty cache, with the proof from the
engines' metrics; then the cache is emptied again and the decode engine asked alone, with the proof that this time it
did compute.
"""

from cases import Case
from stage import Stage


def check(stage: Stage, case: Case) -> None:
    """Asks both ways and compares."""
    copies = case.body.get("n", 1)
    stage.forget_prompts()
    apart, moved = stage.watch(
        lambda: stage.ask_apart(case.path, case.body),
        lambda m: m.transferred + m.computed + m.cached > 0 and (m.kv_bytes > 0 or not stage.counts_bytes),
    )
    assert apart.status == 200, apart.error
    assert apart.error is None

    stage.forget_prompts()
    alone, local = stage.watch(lambda: stage.ask_alone(case.path, case.body), lambda m: m.computed > 0)
    apart.assert_same_as(alone)
    assert all(choice.text or choice.token_ids or choice.tool_calls for choice in apart.choices)

    prompt = case.prompt_tokens or local.computed + local.cached
    prompt_of_one = prompt if case.prompt_tokens else prompt / copies
    if stage.counts_bytes:
        assert moved.kv_bytes >= stage.decode.kv_bytes(int(prompt_of_one)), "KV did not move, or not all of it"
    assert moved.transferred >= prompt_of_one - 1, "the decode engine did not get the prompt from elsewhere"
    # The last token's logits are needed to begin, so an engine may compute that one itself.
    assert moved.computed <= copies, "the decode engine computed the prompt itself"
    assert local.kv_bytes == 0
    assert local.computed >= prompt_of_one - 1, "the comparison was not computed, but cached"
