"""Ports that nobody else gets.

A port that was free a moment ago can be another's by the time a program listens on it, and so can the port of a program
that is started again. So each port is kept by a socket that is bound and does not listen: the system gives it to nobody
who asks for any port, and still to a program that asks for this one and allows its address to be reused (SO_REUSEADDR),
as every server does.
"""

from __future__ import annotations

import socket

_kept: list[socket.socket] = []


def keep(port: int = 0) -> int:
    """Keep this port of 127.0.0.1, or any free one, until the process ends. Raises OSError if it is in use."""
    holder = socket.socket()
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
    except OSError:
        holder.close()
        raise
    _kept.append(holder)
    found: int = holder.getsockname()[1]
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that stays free for what this test starts."""
    return keep()
