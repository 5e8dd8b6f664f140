"""A few answers of our own before a real engine: what an overloaded or half-dead prefill engine does on the wire.

Real engines fail when they like; a test of what the sidecar does then needs one that fails when it is told to.
"""

import http.client
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from harness.engine import Engine
from harness.ports import HOST

# Of a request or an answer, what belongs to one connection or is written anew.
_OWN = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", "date", "server"}
RELAY_TIMEOUT_S = 60.0

RELAY = "relay"
LATE = "relay late"
HANG_UP = "hang up"
# How long the engine's answer is kept back by `LATE`: long enough for a client to leave meanwhile.
LATE_S = 1.0


class Front:
    """Listens before an engine. Each request meets the next step of the script; those after its end are relayed.

    A step is a status to answer with, `HANG_UP`, `RELAY`, or `LATE`.
    """

    def __init__(self, engine: Engine, script: Sequence[int | str] = (), after: int | str = RELAY):
        self.requests = 0
        self._script = list(script)
        self._after = after
        self._lock = threading.Lock()
        front, upstream = self, urlsplit(engine.url)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                step = front.step()
                if step == HANG_UP:
                    self.close_connection = True
                elif step in (RELAY, LATE):
                    answer = self.relayed(body)
                    time.sleep(LATE_S if step == LATE else 0)
                    self.answer(*answer)
                else:
                    self.answer(int(step), [("content-type", "application/json")], b'{"error":{"message":"scripted"}}')

            def relayed(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                connection = http.client.HTTPConnection(upstream.hostname, upstream.port, timeout=RELAY_TIMEOUT_S)
                try:
                    headers = {k: v for k, v in self.headers.items() if k.lower() not in _OWN}
                    connection.request("POST", self.path, body, headers)
                    answer = connection.getresponse()
                    return answer.status, answer.getheaders(), answer.read()
                finally:
                    connection.close()

            def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in _OWN:
                        self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.host_port = f"{HOST}:{self._server.server_port}"

    def step(self) -> int | str:
        """What the request that has just come meets."""
        with self._lock:
            self.requests += 1
            return self._script.pop(0) if self._script else self._after

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "Front":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
