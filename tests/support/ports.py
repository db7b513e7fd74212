"""Ports for servers that tests stop and start again."""

import itertools
import os
from collections.abc import Iterable, Iterator

from devstack import ports

# Below what kernels give to outgoing connections (from 32768 on Linux, 49152 on macOS): while a server is
# stopped, no connection of a test beside this one can be given its port.
FIRST, EACH, WORKERS = 10_000, 2_000, 10


def _candidates() -> Iterator[int]:
    """Ports of this worker alone, round and round, from a place that differs from process to process."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    start = os.getpid() % EACH
    for offset in itertools.count(start):
        yield FIRST + worker * EACH + offset % EACH


_next = _candidates()


def lasting_ports(names: Iterable[str]) -> dict[str, int]:
    """Return one free port a name, all different, none given twice before all of them were."""
    return {name: next(port for port in _next if ports.is_free(port)) for name in names}
