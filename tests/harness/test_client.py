"""The client reads events as they arrive, however their bytes are cut, and can leave in the middle."""

import contextlib
import itertools
import socket
import threading
import time
import unittest

from harness import client
from harness.ports import HOST

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class ScriptedServer:
    """Accepts one connection, sends the given pieces with pauses between them, and tells when the client left."""

    def __init__(self, pieces: list[bytes], pause_s: float = 0.0):
        self._listener = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"
        self.client_left = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(pieces, pause_s), daemon=True)
        self._thread.start()

    def _serve(self, pieces: list[bytes], pause_s: float) -> None:
        connection, _ = self._listener.accept()
        with connection, contextlib.suppress(ConnectionError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            connection.sendall(HEAD)
            for piece in pieces:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                time.sleep(pause_s)
            connection.sendall(b"0\r\n\r\n")
            while connection.recv(65536):
                pass
        self.client_left.set()

    def close(self) -> None:
        self._listener.close()
        self._thread.join(5)


class ReadsEventStreams(unittest.TestCase):
    def events(self, pieces: list[bytes], pause_s: float = 0.0) -> list[client.Event]:
        server = ScriptedServer(pieces, pause_s)
        self.addCleanup(server.close)
        with client.begin(server.url, "/", {}) as exchange:
            return list(exchange.events())

    def test_events_are_whole_however_their_bytes_are_cut(self):
        text = b'event: a\ndata: {"x": 1}\n\ndata: one\ndata: two\r\n\r\n: a comment\ndata:[DONE]\n\n'
        for size in (1, 2, 3, 7, len(text)):
            with self.subTest(size=size):
                events = self.events([text[i : i + size] for i in range(0, len(text), size)])
                self.assertEqual(
                    [(e.name, e.data) for e in events], [("a", '{"x": 1}'), ("", "one\ntwo"), ("", "[DONE]")]
                )
                self.assertEqual(events[0].json(), {"x": 1})

    def test_every_event_carries_the_time_at_which_it_came(self):
        events = self.events([b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"], pause_s=0.05)
        gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(events)]
        self.assertEqual(len(gaps), 2)
        for gap in gaps:
            self.assertGreater(gap, 0.04)

    def test_closing_early_ends_the_connection_at_once(self):
        server = ScriptedServer([b"data: 1\n\n"] * 3, pause_s=0.05)
        self.addCleanup(server.close)
        with client.begin(server.url, "/", {}) as exchange:
            next(exchange.events())
        self.assertTrue(server.client_left.wait(2))
