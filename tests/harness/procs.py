"""Starts child processes and makes sure that none outlives us.

Three nets, each for what the one before cannot catch: `Fleet` stops everything when its `with` block ends, also by
Ctrl-C or SIGTERM; each child leads a process group of its own, and the whole group is ended, so that an engine's
workers go with it; and the kernel sends a child SIGTERM when this process dies without a word (`kill -9`).

Groups, but no new sessions: Linux shares the CPU between sessions first (autogroups), and an engine's NIXL progress
thread spins. With each engine in a session of its own on two cores, whole seconds passed in which nothing else ran:
handshakes timed out, `/metrics` took 10 s. In one session the same requests take a fraction of a second.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# A vLLM engine that serves ends in a second or two; one that is still starting may not listen at all.
STOP_GRACE_S = 10.0
HELPERS_GRACE_S = 1.0
POLL_S = 0.05
LOG_TAIL_LINES = 25

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """Something that was to run did not. The text says what, and shows the end of its log."""


class Child:
    """One process and the group it leads. All it writes goes to one log file."""

    def __init__(self, name: str, command: list[str], log: Path, env: dict[str, str] | None = None):
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as sink:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(env or {})},
                    process_group=0,
                    preexec_fn=_end_with_parent,  # noqa: PLW1509 - one call of prctl, and nothing that could lock
                )
            except OSError as error:
                raise Failed(f"{name} cannot be started: {command[0]}: {error.strerror}") from error
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def log_text(self) -> str:
        """All that it has written so far."""
        return self.log.read_text(errors="replace")

    def log_json(self) -> Iterator[dict]:
        """The lines of its log that are JSON objects."""
        for line in self.log_text().splitlines():
            if line.startswith("{"):
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def failure(self, what: str) -> Failed:
        """An error that says `what` and shows the end of the log."""
        tail = "\n".join("    " + line for line in self.log_text().splitlines()[-LOG_TAIL_LINES:])
        return Failed(f"{self.name} {what}; its log {self.log} ends:\n{tail or '    (empty)'}")

    def wait_until(self, ready: Callable[[], bool], deadline_s: float, what: str = "become ready") -> None:
        """Waits until `ready()` holds; fails when the process ends first or `deadline_s` seconds have passed."""
        end = time.monotonic() + deadline_s
        while not ready():
            if (code := self.exit_code()) is not None:
                raise self.failure(f"ended with {describe_exit(code)} before it could {what}")
            if time.monotonic() > end:
                raise self.failure(f"did not {what} within {deadline_s:.0f} s")
            time.sleep(POLL_S)

    def terminate(self) -> None:
        """Asks it to stop; returns at once."""
        self._signal_leader(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the whole group with SIGKILL, as a crash or the kernel's memory killer would, and reaps it."""
        self._end_group()

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Ends it politely, then by force; on return no process of its group is left."""
        self.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
        # Helpers of the leader, such as the one that removes its shared memory, end a moment after it.
        end = time.monotonic() + HELPERS_GRACE_S
        while _living_members(self.pid) and time.monotonic() < end:
            time.sleep(POLL_S)
        self._end_group()

    def _end_group(self) -> None:
        # The dead cannot remove their shared memory, and an engine maps hundreds of MB of it.
        shared = _shared_memory_of(self.pid)
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        while _living_members(self.pid):
            time.sleep(POLL_S)
        for name in shared:
            name.unlink(missing_ok=True)

    def _signal_leader(self, number: signal.Signals) -> None:
        # `send_signal` polls first, so a pid that was reaped and given to someone else is never hit.
        self._process.send_signal(number)

    def _signal_group(self, number: signal.Signals) -> None:
        # The group's id stays ours for as long as a member lives, also when its leader is gone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Fleet:
    """The processes of one run. Leaving its `with` block ends them all, whatever the reason for leaving."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._starting = False
        self._interrupted = False

    def __enter__(self) -> "Fleet":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not cut the clean-up short.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.stop_all()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def start(self, name: str, command: list[str], log: Path, env: dict[str, str] | None = None) -> Child:
        """Starts a child that ends with this fleet."""
        # A signal between the fork and the entry in the list would leave a child that nobody knows.
        self._starting = True
        try:
            child = Child(name, command, log, env)
            self._children.append(child)
        finally:
            self._starting = False
        if self._interrupted:
            raise KeyboardInterrupt
        return child

    def stop_all(self) -> None:
        """Ends all children, the last started first. All are asked before any is waited for."""
        for child in reversed(self._children):
            child.terminate()
        end = time.monotonic() + STOP_GRACE_S
        for child in reversed(self._children):
            child.stop(max(end - time.monotonic(), 0))
        self._children.clear()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._interrupted = True
        if not self._starting:
            raise KeyboardInterrupt


def describe_exit(code: int) -> str:
    """An exit code in words; negative ones are signals."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _living_members(group: int) -> list[int]:
    """The pids of a process group, less those that are dead and merely not yet reaped by whoever adopted them."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # pid (comm) state ppid pgrp ...; the name may hold spaces and brackets, so split after its last one.
            state, _parent, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state not in ("Z", "X"):
                members.append(int(entry.name))
    return members


def _shared_memory_of(group: int) -> set[Path]:
    """The files in /dev/shm that members of the group have mapped.

    By inode: a semaphore is mapped under a temporary name, and linked to the one it has later.
    """
    mapped = set()
    for pid in _living_members(group):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                # address perms offset device inode path
                _, _, _, _, inode, *path = line.split(maxsplit=5)
                if path and path[0].startswith("/dev/shm/"):
                    mapped.add(int(inode))
    # From scandir rather than stat: another process may remove its own file in between.
    return {Path(entry.path) for entry in os.scandir("/dev/shm") if entry.inode() in mapped}
