"""Starts engine emulators. They say where they listen in their first line of output, so no port is guessed."""

from harness.engine import MODEL, Engine
from harness.paths import EMULATOR, LOGS
from harness.procs import Failed, Fleet

READY_S = 10.0


def start(fleet: Fleet, role: str, *flags: str, block_size: int = 16, kv_bytes_per_token: int = 4096) -> Engine:
    """Starts an emulator in the role `prefill` or `decode`, and waits until it serves."""
    if not EMULATOR.exists():
        raise Failed(f"{EMULATOR} is missing; run: cargo build --release -p kvferry-emulator")
    command = [str(EMULATOR), "--role", role, "--port", "0", "--model", MODEL]
    command += ["--block-size", str(block_size), "--kv-bytes-per-token", str(kv_bytes_per_token), *flags]
    child = fleet.start(f"{role} emulator", command, LOGS / f"emulator-{role}.log")
    child.wait_until(lambda: any("ready" in line for line in child.log_json()), READY_S)
    url = next(line["ready"] for line in child.log_json() if "ready" in line)
    return Engine(child.name, url, child, block_size, kv_bytes_per_token)
