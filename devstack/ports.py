"""Ports on 127.0.0.1: is one free, and which one is."""

import itertools
import socket
from collections.abc import Collection

from devstack.errors import StackError

HOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port now."""
    with socket.socket() as probe:
        # Without it a connection closed a moment ago would make a free port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def require_free(port: int, variable: str, what: str, reserved: Collection[int] = ()) -> None:
    """Unless the port is free, raise StackError with the port, the variable that changes it, and a free one.

    `reserved` are ports that are meant for something else, though nothing may listen there yet.
    """
    if not is_free(port):
        raise StackError(
            f"port {port} is taken by another program, {what} cannot use it; "
            f"choose another with {variable}, for example {variable}={_next_free(port, reserved)}"
        )


def _next_free(port: int, reserved: Collection[int]) -> int:
    candidates = itertools.chain(range(port + 1, 65536), range(port - 1, 1023, -1))
    return next(candidate for candidate in candidates if candidate not in reserved and is_free(candidate))


def free_ports(names: list[str]) -> dict[str, int]:
    """Return one free port a name, all different."""
    probes = [socket.create_server((HOST, 0)) for _ in names]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return dict(zip(names, ports, strict=True))
