"""The demo: messages onto the queue, one run of the DAG, and what came of it in numbers."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack import dag_run, engine, orchestrator, postgres, processes, stack
from devstack.console import Console
from devstack.errors import StackError
from devstack.settings import ROOT, Settings

SAMPLE = ROOT / "include" / "samples" / "login_messages.jsonl"
STAGES = ("extract", "mask", "load", "finish")

# Our own run, which Airflow names manual__..., or else whichever run took the messages before it: with
# `./dev up` the scheduler may have one under way.
NEWEST_RUN = """
select row_to_json(run) from etl.run_summary run
 where started_at >= :'since'::timestamptz and received > 0
 order by airflow_run_id like 'manual%' desc, started_at desc limit 1
"""
OTHER_RUN_SECONDS = 120

# Tokens are long and differ only in what nobody can read: their beginning is enough to see repeats.
NEWEST_ROWS = """
select left(user_id, 8) || '…' as user_id, device_type, left(masked_ip, 20) || '…' as masked_ip,
       left(masked_device_id, 20) || '…' as masked_device_id, locale, app_version, create_date
  from public.user_logins order by ctid desc limit 5
"""


@dataclass(frozen=True)
class Outcome:
    """One demo: the run's row of etl.run_summary, what the queue still holds, and Airflow's exit code."""

    run: dict[str, Any]
    left_on_queue: int
    exit_code: int
    log: Path

    @property
    def succeeded(self) -> bool:
        """Airflow and the run's own record agree that it went well."""
        return self.exit_code == 0 and self.run.get("state") == "succeeded"

    def as_json(self) -> str:
        """Return the numbers as one JSON object."""
        names = ("received", "loaded", "quarantined", "duplicates", "deleted")
        numbers = {name: self.run.get(name) for name in names}
        left = {"left_on_queue": self.left_on_queue, "seconds": self.run.get("total_seconds")}
        return json.dumps({**numbers, **left})


def run(settings: Settings, console: Console, messages: Path) -> Outcome:
    """Bring the stack up, send the messages, run the DAG once and read what it recorded.

    Whatever the queue held before is part of the run. Raises StackError for a messages file that is missing
    or empty.
    """
    if not messages.is_file():
        raise StackError(f"no such file: {messages}")
    if not messages.read_bytes().strip():
        raise StackError(f"{messages} is empty: put one message body on each line")
    stack.ensure(settings, console, airflow_database=True)
    with console.step(f"send {messages.name}"):
        engine.output(settings, "send", str(messages))
    since = postgres.query(settings, "select now()")
    log = settings.logs / f"demo-{time.strftime('%Y%m%d-%H%M%S')}.log"
    with console.step(f"run the DAG {orchestrator.DAG}"):
        exit_code = dag_run.run(settings, console, log)
    record = _finished_run(settings, since)
    return Outcome(record, sum(engine.depth(settings).values()), exit_code, log)


def _finished_run(settings: Settings, since: str) -> dict[str, Any]:
    """Return the record of the run that took the messages; empty when none did."""
    found: list[dict[str, Any]] = []

    def finished() -> bool:
        row = postgres.query(settings, NEWEST_RUN, variables={"since": since})
        found[:] = [json.loads(row)] if row else []
        return not found or found[0]["state"] != "running"

    processes.wait_until(finished, OTHER_RUN_SECONDS, every=0.5)
    return found[0] if found else {}


def show(settings: Settings, console: Console, outcome: Outcome) -> None:
    """Print the outcome for a person: rows, numbers, seconds, and what to try next."""
    if outcome.exit_code == 0 and not outcome.run:
        console.note("\nThe run found no messages: something else took them. See ./dev status.")
    elif not outcome.succeeded:
        tail = [line[:200] for line in outcome.log.read_text(errors="replace").splitlines()[-15:]]
        console.note("\n".join(["", *tail, "", f"The run failed. Its whole output is in {outcome.log}"]))
    if outcome.run:
        console.note(f"\n  run           {outcome.run['airflow_run_id']}")
        console.note(rows(settings))
        console.note("\n" + "\n".join(_numbers(outcome)))
    console.note(
        "\nPostgres and the SQS emulator keep running. Next: ./dev psql, ./dev demo again, ./dev up for the"
        "\nAirflow UI, ./dev down to stop everything."
    )


def rows(settings: Settings) -> str:
    """Return the newest rows of the table as psql draws them."""
    return "\n" + postgres.table(settings, NEWEST_ROWS)


def _numbers(outcome: Outcome) -> list[str]:
    run = outcome.run
    reasons = ", ".join(f"{reason} {count}" for reason, count in (run["quarantined_by_reason"] or {}).items())
    seconds = ", ".join(f"{stage} {run[f'{stage}_seconds'] or 0:.3f}" for stage in STAGES)
    return [
        f"  received      {run['received']}",
        f"  loaded        {run['loaded']}   rows of public.user_logins",
        f"  quarantined   {run['quarantined']}   {reasons}",
        f"  duplicates    {run['duplicates']}",
        f"  deleted       {run['deleted']}   from the queue",
        f"  left on queue {outcome.left_on_queue}",
        f"  seconds       {run['total_seconds'] or 0:.3f}   {seconds}",
    ]
