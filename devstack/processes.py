"""Long-lived children that outlive ./dev: start them, find them again, stop them without leftovers."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack.errors import StackError

PROC = Path("/proc")
MARK = "DEV_STACK_PART"


@dataclass(frozen=True)
class Process:
    """One row of the process table. `started` tells a process from a later one with the same pid."""

    pid: int
    session: int
    started: str


@dataclass(frozen=True)
class Part:
    """One child of one stack: its name, where its record, log and working folder are.

    `program` is the file name of an executable that only this part runs in its `folder`, if there is one.
    """

    name: str
    state: Path
    log: Path
    folder: Path
    program: str | None = None

    @property
    def record_file(self) -> Path:
        """Holds pid, start time and port of the last start."""
        return self.state / "run" / f"{self.name}.json"

    @property
    def mark(self) -> str:
        """In the environment of the child and all it starts, which finds those that left its session."""
        return f"{MARK}={self.state}/{self.name}"

    def record(self) -> dict[str, Any]:
        """Return what the last start wrote, or an empty dict."""
        try:
            return dict(json.loads(self.record_file.read_text()))
        except (OSError, ValueError):
            return {}

    def pid(self) -> int | None:
        """Return the pid of the running child; None when it is gone, a zombie, or its pid is another's."""
        record = self.record()
        process = find(record.get("pid", 0))
        return process.pid if process and process.started == record["started"] else None

    def died(self) -> bool:
        """Whether it was started and is gone without having been stopped."""
        return bool(self.record()) and self.pid() is None

    def is_older_than(self, other: "Part") -> bool:
        """Whether it was started before the other part's last start."""
        records = [part.record_file for part in (self, other)]
        own, others = [record.stat().st_mtime if record.exists() else 0 for record in records]
        return own < others

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def start(part: Part, command: list[str], env: dict[str, str], port: int, user: int | None = None) -> int:
    """Start the child in a session of its own, appending to its log; return its pid.

    `user` is the uid (and gid) to become first; only root can.
    """
    part.log.parent.mkdir(parents=True, exist_ok=True)
    name, _, value = part.mark.partition("=")
    with part.log.open("ab") as log:
        child = subprocess.Popen(
            command,
            cwd=part.folder,
            env={**env, name: value},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=[] if user is not None else None,
        )
    # Its parent at the end reaps it; without this the interpreter would warn about it at exit.
    child.returncode = 0
    process = find(child.pid)
    record = {"pid": child.pid, "started": process.started if process else "", "port": port}
    part.record_file.parent.mkdir(parents=True, exist_ok=True)
    part.record_file.write_text(json.dumps(record))
    return child.pid


def stop(
    parts: list[Part], first_signal: signal.Signals = signal.SIGTERM, patience: float = 15.0
) -> list[str]:
    """Stop the parts and everything they started; return the names of those that were running.

    Each leader gets `first_signal` and `patience` seconds to end its own children; what is left then is
    terminated, then killed. Works on what a dead leader left behind too. Raises StackError if any survives.
    """
    stopped = [part.name for part in parts if members(part)]
    for part in parts:
        _send(first_signal, [part.pid() or 0])
    wait_until(lambda: not any(part.pid() for part in parts), patience)
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        for part in parts:
            _send(number, members(part))
        if wait_until(lambda: not any(map(members, parts)), seconds):
            break
    survivors = [pid for part in parts for pid in members(part)]
    if survivors:
        raise StackError(f"could not stop process {', '.join(map(str, survivors))}")
    for part in parts:
        part.record_file.unlink(missing_ok=True)
    return stopped


def members(part: Part) -> list[int]:
    """Return the pids of everything that belongs to the part.

    By session (what the leader started), by mark (what left the session), by program and working folder
    (Postgres backends leave the session and overwrite their environment with their title).
    """
    record = part.record()
    leader = find(record.get("pid", 0))
    # Another process has our leader's pid: a pid is not reused while a session of that number has members.
    session = record.get("pid") if leader is None or leader.started == record.get("started") else None
    return [process.pid for process in table() if process.session == session or _belongs(process.pid, part)]


def table() -> Iterator[Process]:
    """Yield every process but zombies and this one."""
    if PROC.joinpath("self", "stat").exists():
        pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
        processes: Iterator[Process | None] = map(_from_proc, pids)
    else:
        processes = from_ps()
    return (process for process in processes if process and process.pid != os.getpid())


def find(pid: int) -> Process | None:
    """Return the live process of this pid, if any."""
    if PROC.joinpath("self", "stat").exists():
        return _from_proc(pid)
    return next((process for process in from_ps() if process.pid == pid), None)


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
    """Wait for the condition, looking `every` so many seconds; False when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


def _from_proc(pid: int) -> Process | None:
    try:
        # The name, in parentheses, may hold spaces; fields are counted after it (proc(5)).
        fields = PROC.joinpath(str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, session, started = fields[0], int(fields[3]), fields[19]
    return None if state in "ZX" else Process(pid, session, started)


def from_ps() -> Iterator[Process]:
    """Read the table where there is no /proc (macOS); the process group stands in for the session."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,pgid=,stat=,lstart="], capture_output=True, text=True, check=True
    )
    for line in listing.stdout.splitlines():
        pid, group, state, started = line.split(None, 3)
        if not state.startswith("Z"):
            yield Process(int(pid), int(group), started)


def _belongs(pid: int, part: Part) -> bool:
    process = PROC / str(pid)
    try:
        if part.program and (process / "exe").readlink().name == part.program:
            return (process / "cwd").readlink() == part.folder
        return part.mark.encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False  # ended meanwhile, or another user's


def _send(number: int, pids: list[int]) -> None:
    for pid in filter(None, pids):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
