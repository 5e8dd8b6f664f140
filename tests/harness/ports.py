"""Finds TCP ports that nobody listens on. Always on the loopback address: nothing here may be reached from outside."""

import socket

HOST = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """That many different free ports. All are held until the last is found, so that none comes twice.

    Another process may take one before it is used; whoever starts a server on it then sees that server fail to bind,
    which its log says.
    """
    sockets = []
    try:
        for _ in range(count):
            held = socket.socket()
            held.bind((HOST, 0))
            sockets.append(held)
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()
