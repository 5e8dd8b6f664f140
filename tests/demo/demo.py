"""`make demo`: one chat request across two engines, and the same request on one engine, drawn side by side.

Starts a prefill and a decode engine (emulated, or real with `--engine vllm`) and the sidecar, streams a request
through them, and shows where the time went. Ends everything it started, also on Ctrl-C.
"""

import argparse
import random
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - `python3` may be any; this one file says so in a sentence
    sys.exit(f"demo: error: needs Python 3.11 or newer; this is {sys.version.split()[0]}")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import engines
from harness import sidecar
from harness.engine import MODEL, Engine
from harness.paths import LOGS
from harness.procs import Failed, Fleet
from harness.tiny_model import WORDS
from measured import Run, run
from terminal import Terminal
from timeline import Phase, draw, duration, size

APART = "prefill and decode apart"
ALONE = "aggregated: the decode engine alone"

ANSWER_TOKENS = 48
# About 5,000 tokens for the emulator, whose tokens are shorter than words; close to what the real engines' 2,048
# tokens of context allow.
PROMPT_WORDS = {"emulator": 3500, "vllm": 1400}
# One deadline for both legs, far beyond what the demo needs: a hang ends with an error instead of staying.
DEADLINE = "60s"


def main() -> int:
    """Runs the demo; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["emulator", "vllm"], default="emulator")
    kind = parser.parse_args().engine
    terminal = Terminal()
    try:
        with Fleet() as fleet:
            try:
                return show(fleet, terminal, kind)
            except KeyboardInterrupt:
                # Engines take a few seconds, in which a silent terminal would look like a hang.
                terminal.line("\nstopping what was started")
                raise
    except KeyboardInterrupt:
        terminal.line("stopped; nothing was left running")
        return 130
    except (Failed, AssertionError, OSError) as error:
        terminal.end_words()
        print(f"demo: error: {error}", file=sys.stderr)
        return 1


def show(fleet: Fleet, terminal: Terminal, kind: str) -> int:
    """Brings everything up, sends the request both ways, draws both."""
    bring_up = engines.real if kind == "vllm" else engines.emulated
    prefill, decode = bring_up(fleet, terminal)
    front = sidecar.start(fleet, decode, "--request-timeout", DEADLINE)
    terminal.line(f"prefill {prefill.url}   decode {decode.url}   sidecar {front.url}   logs {LOGS}")
    body = request(kind)
    if kind == "vllm":
        terminal.line("first request, not shown: engines warm up, and a pair's first transfer pays for its handshake")
        run(front, decode, body | {"max_tokens": 2}, prefill, lambda _: None)

    runs = {}
    for title, via in ((APART, prefill), (ALONE, None)):
        if kind == "vllm":
            engines.forget_prompts(prefill)
            engines.forget_prompts(decode)
        terminal.line()
        terminal.line(terminal.paint(title, "bold"))
        runs[title] = run(front, decode, body, via, terminal.words)
        terminal.end_words()
    draw(terminal, {title: phases(seen) for title, seen in runs.items()})
    return verdict(terminal, runs[APART], runs[ALONE], decode)


def request(kind: str) -> dict:
    """A chat request with a long prompt, the same on every run."""
    words = random.Random(1).choices(WORDS, k=PROMPT_WORDS[kind])
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": " ".join(words)}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        # Text can hide a difference between answers; the ids cannot.
        "return_token_ids": True,
    }


def phases(seen: Run) -> list[Phase]:
    """The rows of one request's picture."""
    computed = f"{seen.prompt_tokens:,} tokens"
    first = seen.first_token_s
    answered = f"{len(seen.token_ids)} tokens, {duration((seen.total_s - first) / (len(seen.token_ids) - 1))} each"
    last = [
        Phase("decode", first, seen.total_s, "green", answered),
        Phase("total", 0, seen.total_s, "dim", f"{duration(seen.total_s)}, first token after {duration(first)}"),
    ]
    if seen.prefill_s is None:
        return [Phase("prefill", 0, first, "yellow", f"{duration(first)}, {computed}"), *last]
    end = seen.prefill_s
    rate = f", {seen.kv_bytes / seen.kv_s / 1e9:.2f} GB/s" if seen.kv_s else ""
    # The engine reports how long the pull took but not when it began: it is drawn from the first moment it could.
    return [
        Phase("prefill", 0, end, "yellow", f"{duration(end)}, {computed}"),
        Phase("KV moved", end, end + seen.kv_s, "cyan", f"{duration(seen.kv_s)}, {size(seen.kv_bytes)}{rate}"),
        Phase("handover", end, first, "magenta", f"{duration(first - end)} to the first token"),
        *last,
    ]


def verdict(terminal: Terminal, apart: Run, alone: Run, decode: Engine) -> int:
    """Says whether the two answers agree; they must, whoever computed the KV."""
    expected = decode.kv_bytes(apart.prompt_tokens)
    if apart.token_ids != alone.token_ids:
        terminal.line(terminal.paint("the two answers differ: the decode engine read wrong KV", "red"))
        return 1
    if apart.kv_bytes < expected:
        text = f"only {size(apart.kv_bytes)} of {size(expected)} of KV moved: decode computed the rest again"
        terminal.line(terminal.paint(text, "red"))
        return 1
    text = f"same answer both ways: {len(apart.token_ids)} of {len(alone.token_ids)} token ids are equal"
    terminal.line(terminal.paint(text, "green"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
