"""The demo: messages onto the queue, one run of the DAG, and what came of it in numbers."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack import dag_run, engine, postgres, processes, stack
from devstack.console import Console
from devstack.errors import StackError
from devstack.settings import ROOT, Settings

STAGES = ("extract", "mask", "load", "finish")

# Our own run, which Airflow names manual__..., or else whichever run took the messages before it: with
# `./dev up` the scheduler may have one under way.
NEWEST_RUN = """
select row_to_json(run) from etl.run_summary run
 where contract = :'contract' and started_at >= :'since'::timestamptz and received > 0
 order by airflow_run_id like 'manual%' desc, started_at desc limit 1
"""
OTHER_RUN_SECONDS = 120


@dataclass(frozen=True)
class Shown:
    """What the demo of a contract sends, and how its rows are shown.

    Attributes:
        sample: file of message bodies, one a line
        table: schema-qualified
        rows: SELECT list and order of the newest rows; tokens are long and differ only in what nobody can
            read, so their beginning is enough to see repeats
    """

    sample: Path
    table: str
    rows: str


SAMPLES = ROOT / "include" / "samples"
DEMOS = {
    "user_logins": Shown(
        SAMPLES / "login_messages.jsonl",
        "public.user_logins",
        """
select left(user_id, 8) || '…' as user_id, device_type, left(masked_ip, 20) || '…' as masked_ip,
       left(masked_device_id, 20) || '…' as masked_device_id, locale, app_version, create_date
  from public.user_logins order by ctid desc limit 5
""",
    ),
    "orders": Shown(
        SAMPLES / "order_messages.jsonl",
        "public.orders",
        """
select order_id, status, total, currency, customer_id, left(customer_email, 20) || '…' as customer_email,
       jsonb_array_length(items) as items, sent_at::timestamptz(0)
  from public.orders order by sent_at desc, order_id limit 5
""",
    ),
}


@dataclass(frozen=True)
class Outcome:
    """One demo: the run's row of etl.run_summary, what the queue still holds, and Airflow's exit code."""

    contract: str
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


def run(settings: Settings, console: Console, contract: str, messages: Path) -> Outcome:
    """Bring the stack up, send the messages, run the contract's DAG once and read what it recorded.

    Whatever the queue held before is part of the run. Raises StackError for a messages file that is missing
    or empty.
    """
    if not messages.is_file():
        raise StackError(f"no such file: {messages}")
    if not messages.read_bytes().strip():
        raise StackError(f"{messages} is empty: put one message body on each line")
    stack.ensure(settings, console, airflow_database=True)
    with console.step(f"send {messages.name}"):
        engine.output(settings, "send", "--contract", contract, str(messages))
    since = postgres.query(settings, "select now()")
    log = settings.logs / f"demo-{time.strftime('%Y%m%d-%H%M%S')}.log"
    with console.step(f"run the DAG {contract}"):
        exit_code = dag_run.run(settings, console, log, contract)
    record = _finished_run(settings, contract, since)
    left = sum(engine.depth(settings, contract).values())
    return Outcome(contract, record, left, exit_code, log)


def _finished_run(settings: Settings, contract: str, since: str) -> dict[str, Any]:
    """Return the record of the run that took the messages; empty when none did."""
    found: list[dict[str, Any]] = []

    def finished() -> bool:
        row = postgres.query(settings, NEWEST_RUN, variables={"since": since, "contract": contract})
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
        console.note("\n" + postgres.table(settings, DEMOS[outcome.contract].rows))
        console.note("\n" + "\n".join(_numbers(outcome)))
    console.note(
        "\nPostgres and the SQS emulator keep running. Next: ./dev psql, ./dev demo again, ./dev up for the"
        f"\nAirflow UI with queues and quarantine at {stack.page_address(settings)},"
        "\n./dev down to stop everything."
    )


def _numbers(outcome: Outcome) -> list[str]:
    run = outcome.run
    reasons = ", ".join(f"{reason} {count}" for reason, count in (run["quarantined_by_reason"] or {}).items())
    seconds = ", ".join(f"{stage} {run[f'{stage}_seconds'] or 0:.3f}" for stage in STAGES)
    return [
        f"  received      {run['received']}",
        f"  loaded        {run['loaded']}   into {DEMOS[outcome.contract].table}",
        f"  quarantined   {run['quarantined']}   {reasons}",
        f"  duplicates    {run['duplicates']}",
        f"  deleted       {run['deleted']}   from the queue",
        f"  left on queue {outcome.left_on_queue}",
        f"  seconds       {run['total_seconds'] or 0:.3f}   {seconds}",
    ]
