"""TCP ports of this machine's loopback address."""

import random
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"

#: Below the ports that the kernel gives to clients (from 32768, ip_local_port_range). A client, even one that
#: by chance connects to itself, could hold such a port while the server it belongs to is being restarted.
UNCLAIMED: Final = range(20_000, 32_000)


def port_problem(port: int) -> str | None:
    """Why no server can listen on this port now, or None if one can."""
    with socket.socket() as probe:
        # As servers do: connections of an earlier server that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def free_port() -> int:
    """A port that nobody listens on. Raises OSError if there seems to be none."""
    for port in random.sample(UNCLAIMED, 100):
        if port_problem(port) is None:
            return port
    raise OSError(f"no free port between {UNCLAIMED.start} and {UNCLAIMED.stop}")
