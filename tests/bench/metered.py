"""Runs one command and reports what it used.

    python -S tests/bench/metered.py COMMAND ARGUMENT...    # the command's output, then one line of JSON

A process of its own, and a small one: Linux counts the memory of a process that starts another towards the
peak of the one started (getrusage(2), ru_maxrss survives execve).
"""

import json
import os
import sys
import time


def main() -> int:
    """Returns the command's exit code."""
    started = time.perf_counter()
    pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    _, status, used = os.wait4(pid, 0)
    report = {
        "wall_seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_rss_mb": used.ru_maxrss / 1024,
    }
    print(json.dumps(report), flush=True)
    return os.waitstatus_to_exitcode(status) and 1


if __name__ == "__main__":
    sys.exit(main())
