"""Ports on 127.0.0.1: is one free, and which one is."""

import socket

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


def require_free(port: int, variable: str, what: str) -> None:
    """Raise StackError naming the port and the variable that changes it, unless the port is free."""
    if not is_free(port):
        raise StackError(
            f"port {port} is taken by another program, {what} cannot use it; "
            f"choose another with {variable}, for example {variable}={port + 1 if port < 65535 else port - 1}"
        )


def free_ports(names: list[str]) -> dict[str, int]:
    """Return one free port a name, all different."""
    probes = [socket.create_server((HOST, 0)) for _ in names]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return dict(zip(names, ports, strict=True))
