"""The prefill engine dies in the middle of requests: clients get a typed error in time, and its successor is used.

Last in the run: the engine that comes back is another one as far as its peers can tell. To the decode engine it is
a stranger, whose hand has to be shaken before KV can move, so this is also where a pair's warm-up can be seen.
"""

import threading
import time

from answer import Answer
from cases import COMPLETIONS, completion
from harness import client, sidecar, vllm
from harness.engine import seconds_until_idle
from harness.procs import Fleet
from harness.scripted import Front
from harness.sidecar import PREFILL_HEADER
from stage import BYTES, REQUEST_TIMEOUT_S, Stage

# The deadline, and what a client needs to notice.
ANSWERED_S = REQUEST_TIMEOUT_S + 5
# Refused connections need no deadline to be noticed.
REFUSED_S = 5.0
TYPED = {"prefill_unreachable", "prefill_broke", "decode_broke", "request_timeout"}
# The sidecar's own limit for one warm-up.
WARM_S = 60
WARM_UP = ("--pair-warm-up", "--prefill-failure-policy", "retry-other", "--request-timeout", f"{REQUEST_TIMEOUT_S}s")


def test_killed_prefill_is_a_typed_error_to_everybody_whom_it_served(stage: Stage) -> None:
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


def test_first_user_of_a_successor_finds_the_pair_warmed_up(stage: Stage, fleet: Fleet) -> None:
    stage.prefill = vllm.launch(fleet, stage.prefill.plan)
    vllm.wait_ready(stage.prefill)
    front = sidecar.start(fleet, stage.decode, *WARM_UP, name="sidecar-warm-up")
    served = {engine.name: engine.served() for engine in (stage.prefill, stage.decode)}
    bytes_before = stage.decode.metrics().total(BYTES)
    # Its first candidate refuses the request, so the engine is named without serving anybody.
    begun = time.monotonic()
    with Front(stage.prefill, after=400) as refuses:
        candidates = {PREFILL_HEADER: f"{refuses.host_port},{stage.prefill.host_port}"}
        assert client.post(front.url, COMPLETIONS, completion(40, "refused"), candidates).status == 400
        while front.count("pair_warm_ups", outcome="ok") == 0:
            assert time.monotonic() - begun < WARM_S, front.child.log_text()
            time.sleep(0.05)
        warmed = time.monotonic() - begun
    for engine in (stage.prefill, stage.decode):
        assert engine.served() == served[engine.name] + 1, f"the {engine.name} did not serve the warm-up's request"
    end = time.monotonic() + REFUSED_S
    while stage.decode.metrics().total(BYTES) == bytes_before:
        assert time.monotonic() < end, "no KV moved in the warm-up"
        time.sleep(0.05)

    stage.front = front
    seconds = []
    for user in ("first", "second", "third"):
        body = completion(300, f"successor's {user}")
        stage.forget_prompts()

        def ask(body: dict = body, user: str = user) -> Answer:
            begun = time.monotonic()
            answer = stage.ask_apart(COMPLETIONS, body)
            seconds.append(f"{user} user {time.monotonic() - begun:.2f} s")
            return answer

        answer, moved = stage.watch(ask, lambda moved: moved.kv_bytes > 0)
        assert answer.status == 200, answer.error
        assert moved.kv_bytes >= stage.decode.kv_bytes(300)
        stage.forget_prompts()
        answer.assert_same_as(stage.ask_alone(COMPLETIONS, body))
    print(f"warm-up {warmed:.2f} s; {', '.join(seconds)}")
    stage.assert_nothing_held(within_s=5)
