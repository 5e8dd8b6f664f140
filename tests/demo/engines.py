"""Brings up the pair of engines that the demo was asked for."""

import time

from harness import client, emulator, vllm
from harness.engine import Engine
from harness.procs import Fleet
from terminal import Terminal

# Speeds at which every phase of the picture can be seen: a prompt of some thousand tokens takes a few hundred
# milliseconds to compute and some ten to move, and an answer runs about as fast as one reads.
EMULATED = ["--prefill-rate", "20000", "--itl", "15ms", "--transfer-rate", "500000000", "--no-prefix-cache"]

# What an engine's log says when a stage of its start begins; the last one found is where it is.
STAGES = [
    ("non-default args", "reading its configuration"),
    ("Initializing a V1 LLM engine", "starting its core"),
    ("Starting to load model", "loading the model"),
    ("Loading weights took", "making its KV cache"),
    ("Registering KV_Caches", "registering KV memory with NIXL"),
    ("Supported tasks", "opening its port"),
]
PLAIN_PROGRESS_S = 15.0


def emulated(fleet: Fleet, _: Terminal) -> tuple[Engine, Engine]:
    """A prefill and a decode emulator."""
    return emulator.start(fleet, "prefill", *EMULATED), emulator.start(fleet, "decode", *EMULATED)


def real(fleet: Fleet, terminal: Terminal) -> tuple[Engine, Engine]:
    """Two vLLM engines, started side by side."""
    vllm.ensure_model()
    terminal.line("starting two vLLM engines on the CPU; this takes one to two minutes")
    begun = time.monotonic()
    engines = [vllm.launch(fleet, plan) for plan in vllm.plan_pair()]
    last_plain = begun

    def progress(_: Engine) -> None:
        nonlocal last_plain
        now = time.monotonic()
        text = f"{now - begun:4.0f} s  " + "   ".join(f"{e.name}: {stage_of(e)}" for e in engines)
        terminal.status(text)
        if not terminal.is_tty and now - last_plain > PLAIN_PROGRESS_S:
            last_plain = now
            terminal.line(text)

    for engine in engines:
        vllm.wait_ready(engine, progress)
    terminal.end_status()
    terminal.line(f"both engines serve after {time.monotonic() - begun:.0f} s")
    return engines[0], engines[1]


def stage_of(engine: Engine) -> str:
    """What the engine is doing, as its log tells."""
    log = engine.child.log_text()
    if "Application startup complete" in log:
        return "serving"
    return next((label for needle, label in reversed(STAGES) if needle in log), "importing")


def forget_prompts(engine: Engine) -> None:
    """Empties an engine's prefix cache, so that it computes a prompt which it has seen before."""
    client.post(engine.url, "/reset_prefix_cache", {})
