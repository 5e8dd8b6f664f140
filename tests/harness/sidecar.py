"""Starts the sidecar in front of a decode engine, and reads what it logs about each request."""

import time
from dataclasses import dataclass

from harness import client
from harness.engine import Engine
from harness.paths import LOGS, SIDECAR
from harness.ports import HOST, free_ports
from harness.procs import Child, Failed, Fleet
from harness.prom import Metrics

READY_S = 10.0
# A line is written when the answer is through; the log is a file, so only the scheduler is between it and us.
LOG_LINE_S = 5.0
PREFILL_HEADER = "x-prefiller-host-port"
REQUEST_ID_HEADER = "x-request-id"


@dataclass
class Sidecar:
    """A running sidecar."""

    url: str
    child: Child
    metrics_url: str

    def metrics(self) -> Metrics:
        """Its metrics now."""
        return Metrics.scrape(self.metrics_url)

    def count(self, name: str, **labels: str) -> float:
        """A counter of its own, by the name that follows the common prefix."""
        return self.metrics().total(f"llm_d_disagg_sidecar_{name}_total", **labels)

    def logged(self, request_id: str) -> dict:
        """The fields of the line about the request that carried this `x-request-id`; waits for it.

        Lines come in order of completion, and a client may have its answer before the line is written: only the id
        tells which is whose.
        """
        end = time.monotonic() + LOG_LINE_S
        while True:
            for line in self.child.log_json():
                fields = line.get("fields", {})
                if fields.get("message") == "request" and fields.get("request_id") == request_id:
                    return fields
            if time.monotonic() > end:
                raise self.child.failure(f"logged no line for request {request_id} within {LOG_LINE_S:.0f} s")
            time.sleep(0.01)


def start(fleet: Fleet, decode: Engine, *flags: str, name: str = "sidecar") -> Sidecar:
    """Starts a sidecar in front of the decode engine, and waits until it answers."""
    if not SIDECAR.exists():
        raise Failed(f"{SIDECAR} is missing; run: cargo build --release -p kvferry-sidecar")
    port, metrics_port = free_ports(2)
    engine_port = decode.url.rpartition(":")[2]
    command = [str(SIDECAR), "--port", str(port), "--model-server-port", engine_port]
    command += ["--kv-connector", "nixlv2", "--secure-proxy=false"]
    command += ["--metrics-port", str(metrics_port), *flags]
    child = fleet.start(name, command, LOGS / f"{name}.log")
    url = f"http://{HOST}:{port}"
    child.wait_until(lambda: client.answers(url, "/health"), READY_S)
    return Sidecar(url, child, f"http://{HOST}:{metrics_port}")


def via(prefill: Engine | None, request_id: str = "") -> dict[str, str]:
    """The headers that send a request's prompt through this prefill engine, and name the request in the log."""
    target = {PREFILL_HEADER: prefill.host_port} if prefill else {}
    return target | ({REQUEST_ID_HEADER: request_id} if request_id else {})
