"""MooncakeConnector over TCP: no RDMA, no GPU. Both legs are sent at once, and decode asks for the KV.

Skipped where Mooncake's transfer engine does not load (`make setup` installs it). It counts no bytes:
that KV moved is seen from the decode engine's prompt tokens, which came from elsewhere and were not computed.
"""

import itertools

import pytest
from cases import CHAT, COMPLETIONS, GENERATE, Case, chat, completion, token_ids
from compare import check
from harness import sidecar
from harness.engine import MODEL
from harness.ports import free_ports
from harness.procs import Fleet
from harness.vllm import Transfer
from stage import Stage

pytest.importorskip("mooncake.engine", exc_type=ImportError)

USAGE = {"stream": True, "stream_options": {"include_usage": True}}
LENGTHS = [1, 31, 32, 33, 65, 300, 1900]
SAMPLING = {"sampling_params": {"max_tokens": 12, "temperature": 0}}


def some() -> list[Case]:
    """Prompts around the borders of blocks, and other APIs."""
    by_length = [Case(f"completion-{n}", COMPLETIONS, completion(n, "mooncake"), prompt_tokens=n) for n in LENGTHS]
    return [
        *by_length,
        Case("chat", CHAT, chat(70, "mooncake")),
        Case("chat-stream", CHAT, chat(71, "mooncake", **USAGE)),
        Case("generate", GENERATE, {"model": MODEL, "token_ids": token_ids(300, "mooncake")} | SAMPLING),
    ]


@pytest.fixture(scope="module")
def stage(fleet: Fleet, start_pair) -> Stage:
    """The pair, whose prefill engine has a bootstrap server beside it."""
    port = str(free_ports(1)[0])
    extra = {"mooncake_protocol": "tcp"}
    env = {"VLLM_MOONCAKE_BOOTSTRAP_PORT": port}
    prefill, decode = start_pair(Transfer("mooncake", "MooncakeOnCpu", extra, "harness.mooncake_on_cpu", env))
    flags = ("--kv-connector", "mooncake", "--mooncake-bootstrap-port", port, "--request-timeout", "60s")
    made = Stage(prefill, decode, sidecar.start(fleet, decode, *flags, name="sidecar-mooncake"), counts_bytes=False)
    made.warm_up()
    return made


@pytest.mark.parametrize("case", some(), ids=lambda case: case.name)
def test_request_is_answered_as_by_decode_alone(stage: Stage, case: Case) -> None:
    check(stage, case)
    stage.assert_nothing_held(within_s=5)


def test_leaving_during_decode_leaves_no_blocks_held(stage: Stage) -> None:
    with stage.begin_apart(CHAT, chat(600, "mooncake decode", max_tokens=800, stream=True)) as exchange:
        for _ in itertools.islice(exchange.events(), 5):
            pass
        assert stage.decode.kv_usage() > 0, "decode was over before the client could leave"
    stage.assert_nothing_held(within_s=5)
