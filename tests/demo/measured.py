"""Sends the demo's request and keeps what was seen of it from three sides: client, sidecar log, engine metrics."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from harness import client, sidecar
from harness.engine import Engine
from harness.procs import Failed
from harness.sidecar import Sidecar

# An engine counts a transfer in the step after it; the scrape that shows it comes a little later.
METRIC_S = 5.0
BYTES = "vllm:nixl_bytes_transferred_sum"
SECONDS = "vllm:nixl_xfer_time_seconds_sum"


@dataclass(frozen=True)
class Run:
    """One request. Times are seconds since the client sent it."""

    token_ids: list[int]
    prompt_tokens: int
    prefill_s: float | None
    first_token_s: float
    total_s: float
    kv_bytes: float
    kv_s: float


def run(front: Sidecar, decode: Engine, body: dict, prefill: Engine | None, on_text: Callable[[str], None]) -> Run:
    """Sends the body through the sidecar, by way of the prefill engine if there is one."""
    before, request_id = decode.metrics(), f"demo-{uuid.uuid4()}"
    headers = sidecar.via(prefill, request_id)
    token_ids: list[int] = []
    first_token, prompt_tokens, at = None, 0, 0.0
    with client.begin(front.url, "/v1/chat/completions", body, headers) as exchange:
        status = exchange.response().status
        if status != 200:
            raise Failed(f"the sidecar answered {status}: {exchange.response().read().decode(errors='replace')}")
        for event in exchange.events():
            if event.data == "[DONE]":
                break
            chunk = event.json()
            if "error" in chunk:
                raise Failed(f"the engine broke the stream off: {chunk['error']}")
            prompt_tokens = (chunk.get("usage") or {}).get("prompt_tokens", prompt_tokens)
            for choice in chunk["choices"]:
                at = event.at
                if choice.get("token_ids"):
                    first_token = first_token or at
                    token_ids += choice["token_ids"]
                on_text(choice["delta"].get("content") or "")
    if first_token is None:
        raise Failed("the stream ended without a token")
    line = front.logged(request_id)
    kv_bytes, kv_s = transferred(decode, before, expect=prefill is not None)
    prefill_ms = line.get("prefill_ms")
    return Run(
        token_ids,
        prompt_tokens,
        prefill_ms / 1000 if prefill_ms is not None else None,
        first_token,
        at,
        kv_bytes,
        kv_s,
    )


def transferred(decode: Engine, before, expect: bool) -> tuple[float, float]:
    """Bytes of KV that the decode engine pulled since `before`, and the seconds it took for them."""
    end = time.monotonic() + METRIC_S
    while True:
        now = decode.metrics()
        moved = now.total(BYTES) - before.total(BYTES)
        if moved or not expect:
            return moved, now.total(SECONDS) - before.total(SECONDS)
        if time.monotonic() > end:
            raise Failed(f"{decode.name} answered, but reports no KV transfer: the prompt was computed twice")
        time.sleep(0.05)
