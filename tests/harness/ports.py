"""Finds TCP ports that nobody listens on. Always on the loopback address: nothing here may be reached from outside.

An engine binds some of its ports a minute after it was told them. A port of the range from which the kernel serves
outgoing connections would by then have gone to somebody's connection, so ports come from below that range.
"""

import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
LOWEST = 10_000
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """That many different free ports. All are held until the last is found, so that none comes twice.

    Another process may take one before it is used; whoever starts a server on it then sees that server fail to bind,
    which its log says.
    """
    held: list[socket.socket] = []
    try:
        for port in random.sample(range(LOWEST, first_ephemeral()), k=1000):
            if len(held) == count:
                break
            tried = socket.socket()
            held.append(tried)
            try:
                tried.bind((HOST, port))
            except OSError:
                held.pop().close()
        if len(held) < count:
            raise RuntimeError(f"fewer than {count} of 1,000 ports from {LOWEST} on are free")
        return [tried.getsockname()[1] for tried in held]
    finally:
        for tried in held:
            tried.close()


def first_ephemeral() -> int:
    """Where the kernel's own choice begins."""
    try:
        return max(int(EPHEMERAL.read_text().split()[0]), LOWEST + 2_000)
    except (OSError, ValueError):
        return 32_768
