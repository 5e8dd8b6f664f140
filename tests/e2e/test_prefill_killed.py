"""The prefill engine dies in the middle of requests: clients get a typed error in time, and its successor is used.

Last in the run: the engine that comes back is another one as far as its peers can tell.
"""

import threading
import time

from answer import Answer
from cases import COMPLETIONS, completion
from conftest import REQUEST_TIMEOUT_S
from harness import vllm
from harness.engine import seconds_until_idle
from harness.procs import Fleet
from stage import Stage

# The deadline, and what a client needs to notice.
ANSWERED_S = REQUEST_TIMEOUT_S + 5
# Refused connections need no deadline to be noticed.
REFUSED_S = 5.0
TYPED = {"prefill_unreachable", "prefill_broke", "decode_broke", "request_timeout"}


def test_killed_prefill_is_a_typed_error_and_its_successor_serves(stage: Stage, fleet: Fleet) -> None:
    answers: dict[int, tuple[Answer, float]] = {}

    def ask(i: int) -> None:
        begun = time.monotonic()
        answer = stage.ask_apart(COMPLETIONS, completion(1900, f"killed {i}"), f"killed-{i}")
        answers[i] = answer, time.monotonic() - begun

    # Several, so that one is computing, some wait, and some may already be past their prefill.
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.4)
    stage.prefill.child.kill()
    for thread in threads:
        thread.join(ANSWERED_S)
    assert len(answers) == len(threads), f"a request hangs {ANSWERED_S} s after its prefill engine died"
    failed = [answer for answer, _ in answers.values() if answer.status != 200]
    assert failed, "the engine was killed too late to break anything"
    for answer in failed:
        assert answer.status in (500, 502, 504), answer
        assert answer.error, answer
    outcomes = [stage.front.logged(f"killed-{i}")["outcome"] for i in range(len(threads))]
    print(f"outcomes {outcomes}; slowest answer {max(seconds for _, seconds in answers.values()):.1f} s")
    assert any(outcome in TYPED for outcome in outcomes)

    begun = time.monotonic()
    refused = stage.ask_apart(COMPLETIONS, completion(40, "nobody there"), "nobody")
    assert time.monotonic() - begun < REFUSED_S
    assert refused.status == 502
    assert stage.front.logged("nobody")["outcome"] == "prefill_unreachable"
    seconds_until_idle([stage.decode], within_s=ANSWERED_S)

    restart_prefill(stage, fleet)
    body = completion(300, "successor")
    stage.forget_prompts()
    served, moved = stage.watch(lambda: stage.ask_apart(COMPLETIONS, body), lambda m: m.kv_bytes > 0)
    assert served.status == 200, served.error
    assert moved.kv_bytes >= stage.decode.kv_bytes(300)
    stage.forget_prompts()
    served.assert_same_as(stage.ask_alone(COMPLETIONS, body))


def restart_prefill(stage: Stage, fleet: Fleet) -> None:
    """A new prefill engine where the dead one was, as a restarted pod would have it."""
    stage.prefill = vllm.launch(fleet, stage.prefill.plan)
    vllm.wait_ready(stage.prefill)
