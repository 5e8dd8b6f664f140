"""Starts the sidecar in front of a decode engine, and reads what it logs about each request."""

import time
from dataclasses import dataclass

from harness import client
from harness.engine import Engine
from harness.paths import LOGS, SIDECAR
from harness.ports import HOST, free_ports
from harness.procs import Child, Failed, Fleet

READY_S = 10.0
# A line is written when the answer is through; the log is a file, so only the scheduler is between it and us.
LOG_LINE_S = 5.0
PREFILL_HEADER = "x-prefiller-host-port"


@dataclass
class Sidecar:
    """A running sidecar."""

    url: str
    child: Child

    def requests(self) -> list[dict]:
        """The fields of its per-request log lines so far, in order of completion."""
        lines = (line.get("fields", {}) for line in self.child.log_json())
        return [fields for fields in lines if fields.get("message") == "request"]

    def next_request(self, seen: int) -> dict:
        """The line that comes after the first `seen` ones; waits for it."""
        end = time.monotonic() + LOG_LINE_S
        while len(lines := self.requests()) <= seen:
            if time.monotonic() > end:
                raise self.child.failure(f"logged no line for a request within {LOG_LINE_S:.0f} s")
            time.sleep(0.01)
        return lines[seen]


def start(fleet: Fleet, decode: Engine, *flags: str, name: str = "sidecar") -> Sidecar:
    """Starts a sidecar in front of the decode engine, and waits until it answers."""
    if not SIDECAR.exists():
        raise Failed(f"{SIDECAR} is missing; run: cargo build --release -p kvferry-sidecar")
    (port,) = free_ports(1)
    engine_port = decode.url.rpartition(":")[2]
    command = [str(SIDECAR), "--port", str(port), "--model-server-port", engine_port]
    command += ["--kv-connector", "nixlv2", "--secure-proxy=false", *flags]
    child = fleet.start(name, command, LOGS / f"{name}.log")
    url = f"http://{HOST}:{port}"
    child.wait_until(lambda: client.answers(url, "/health"), READY_S)
    return Sidecar(url, child)


def via(prefill: Engine) -> dict[str, str]:
    """The header that sends a request's prompt through this prefill engine."""
    return {PREFILL_HEADER: prefill.host_port}
