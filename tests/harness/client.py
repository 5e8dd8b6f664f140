"""An HTTP client that a test can trust with time: every streamed event carries the moment its bytes arrived.

It also does what polite clients do not: leave in the middle of an answer, or before it began.
"""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

# Longer than any deadline that a test sets for the server, so that a hang shows as the server's, not the client's.
TIMEOUT_S = 120.0
_READ_BYTES = 65536


@dataclass(frozen=True)
class Answer:
    """A whole answer, and how long it took from sending to the last byte."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float

    def json(self) -> dict:
        """The body as JSON; what it was instead, if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise AssertionError(f"status {self.status}, and no JSON: {self.body[:300]!r}") from None


@dataclass(frozen=True)
class Event:
    """One server-sent event: its name ("" where it has none), its data, and seconds since the request was sent."""

    name: str
    data: str
    at: float

    def json(self) -> dict:
        """The data as JSON."""
        return json.loads(self.data)


class Exchange:
    """One request on a connection of its own. Close it early to be the client that left."""

    def __init__(self, base_url: str, path: str, body: dict, headers: dict[str, str], timeout_s: float):
        at = urlsplit(base_url)
        self._connection = http.client.HTTPConnection(at.hostname, at.port, timeout=timeout_s)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = time.monotonic()
        self._connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
        self._response: http.client.HTTPResponse | None = None

    def __enter__(self) -> "Exchange":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def response(self) -> http.client.HTTPResponse:
        """The answer's head; waits for it."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def events(self) -> Iterator[Event]:
        """The events of a streamed answer, each as soon as its last byte is there."""
        response = self.response()
        rest = b""
        while chunk := response.read1(_READ_BYTES):
            at = time.monotonic() - self.sent_at
            *frames, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
            yield from (parse_event(frame, at) for frame in frames)

    def close(self) -> None:
        """Leaves; what is still unread is lost. The server sees the connection end at once."""
        if self._response is not None:
            self._response.close()
        self._connection.close()


def parse_event(frame: bytes, at: float) -> Event:
    """Reads one event's lines; several data lines are one text with line breaks, comments are passed over."""
    name, data = "", []
    for line in frame.decode(errors="replace").split("\n"):
        field, _, value = line.partition(":")
        if field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))
    return Event(name, "\n".join(data), at)


def begin(
    base_url: str, path: str, body: dict, headers: dict[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> Exchange:
    """Sends a request and returns without waiting for anything."""
    return Exchange(base_url, path, body, headers or {}, timeout_s)


def post(
    base_url: str, path: str, body: dict, headers: dict[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> Answer:
    """Sends a request and waits for the whole answer."""
    with begin(base_url, path, body, headers, timeout_s) as exchange:
        response = exchange.response()
        text = response.read()
        return Answer(response.status, response.headers, text, time.monotonic() - exchange.sent_at)


def get(base_url: str, path: str, timeout_s: float = TIMEOUT_S) -> Answer:
    """Fetches a path."""
    at = urlsplit(base_url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=timeout_s)
    begun = time.monotonic()
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read(), time.monotonic() - begun)
    finally:
        connection.close()


def answers(base_url: str, path: str) -> bool:
    """Whether a GET of the path gives 200 right now."""
    try:
        return get(base_url, path, timeout_s=2.0).status == 200
    except (OSError, http.client.HTTPException):
        return False
