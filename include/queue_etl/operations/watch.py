"""One pass of the watch: look at the queues and runs of all contracts, raise and end alerts, tell people.

Also when nothing runs. It receives no message. Runs never wait for it, and it never waits for a receiver for
longer than `notices` allows. Any number of passes may be made at once: what an older look found does not
overwrite what a newer one did.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, LiteralString

from include.queue_etl.contract import Contract
from include.queue_etl.contract.contract import QueuePlace
from include.queue_etl.errors import (
    KeyServiceUnavailable,
    KeysetError,
    QueueEtlError,
    QueueMissing,
    QueueUnavailable,
)
from include.queue_etl.operations import causes, metrics
from include.queue_etl.operations.alerts import AlertStore, report
from include.queue_etl.operations.causes import EXPIRES_WITHIN, Finding, QueueState, RunFacts, Seen
from include.queue_etl.operations.metrics import Metric
from include.queue_etl.operations.notices import Receiver, deliver
from include.queue_etl.postgres.connection import Connection
from include.queue_etl.resources import Resources

log = logging.getLogger(__name__)


def _nobody_knows(contract: Contract) -> int | None:
    return None


def _no_metrics(metric: Metric) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Outside:
    """What a pass has from outside of the warehouse.

    Attributes:
        broken: name of each contract that cannot be loaded -> why
        receivers: who is told
        cloudwatch_age: given a contract, the age of the oldest message on its queue in seconds, or None
        emit: takes each metric
    """

    broken: Mapping[str, str] = field(default_factory=dict)
    receivers: Sequence[Receiver] = ()
    cloudwatch_age: Callable[[Contract], int | None] = _nobody_knows
    emit: Callable[[Metric], None] = _no_metrics


def watch(resources: Resources, contracts: Mapping[str, Contract], outside: Outside) -> dict[str, int]:
    """One pass over the contracts of a warehouse.

    Args:
        resources: as role etl_maintainer
        contracts: by name
        outside: see there; broken contracts are told of in the default warehouse

    Returns:
        "contracts" looked at; "unseen": those whose queue could not be asked; "raised" and "ended" alerts,
        and those that are "open" now; notices "sent" and "unsent"

    Raises:
        WarehouseUnavailable, WarehouseRefused: nobody was told; the next pass does it
    """
    database = resources.database
    ((started,),) = database.execute("SELECT clock_timestamp()")
    before = dict(database.execute(SELECT_WAITING))
    seen = dict(_look(resources, contracts, before, started, outside))
    for name, one in seen.items():
        for metric in metrics.of_queue(name, one):
            outside.emit(metric)
    findings = [
        *(
            found
            for name, one in seen.items()
            for found in causes.findings(contracts[name], one, resources.settings)
        ),
        *_general_findings(resources, outside.broken, started),
    ]
    changed = database.transaction(
        lambda connection: _report(connection, started, seen, contracts, findings, outside.broken)
    )
    ((count,),) = database.execute(COUNT_OPEN)
    outside.emit(metrics.open_alerts(resources.warehouse, count))
    told = deliver(AlertStore(database), outside.receivers)
    return {
        "contracts": len(seen),
        "unseen": sum(one.queue is None for one in seen.values()),
        **changed,
        "open": count,
        **told,
    }


def _look(
    resources: Resources,
    contracts: Mapping[str, Contract],
    before: Mapping[str, datetime | None],
    at: datetime,
    outside: Outside,
) -> Iterator[tuple[str, Seen]]:
    silent: dict[QueuePlace, str] = {}  # where SQS does not answer: each further question would take a minute
    for name, contract in contracts.items():
        runs = _run_facts(resources, contract)
        problem = silent.get(contract.place, "")
        queue = None
        if not problem:
            try:
                queue = _queue_state(resources, contract, outside)
            except QueueUnavailable as error:
                problem = silent[contract.place] = str(error)
            except QueueEtlError as error:
                problem = str(error)
        if queue is None:
            log.warning("queue of %s: %s", name, problem)
            yield name, Seen(at, runs, None, before.get(name), problem)
        else:
            yield (
                name,
                Seen(at, runs, queue, causes.waiting_since(before.get(name), at, queue, runs.moved_at)),
            )


def _queue_state(resources: Resources, contract: Contract, outside: Outside) -> QueueState:
    queue = resources.queue(contract.queue, contract.place)
    depth = queue.depth()
    age = outside.cloudwatch_age(contract) if depth.visible else None
    try:
        dead = resources.queue(contract.dead_letter_queue, contract.place).depth()
    except QueueMissing:
        dead = None
    dead_letters = None if dead is None else dead.visible + dead.in_flight
    return QueueState(**asdict(depth), dead_letters=dead_letters, retention_seconds=queue.retention_seconds(),
                      cloudwatch_age=age)  # fmt: skip


def _run_facts(resources: Resources, contract: Contract) -> RunFacts:
    days = resources.settings.quarantine_days
    (line,) = resources.database.execute(
        FACTS,
        contract=contract.name,
        queue=contract.queue,
        expiring_days=days - min(days, EXPIRES_WITHIN.days),
    )
    return RunFacts(*line)


def _general_findings(resources: Resources, broken: Mapping[str, str], at: datetime) -> Iterator[Finding]:
    ((is_behind,),) = resources.database.execute(LEDGER_IS_BEHIND)
    yield causes.ledger_finding(is_behind, at)
    try:
        key = resources.database.execute(SELECT_KEY, key_id=resources.keyset.primary_key_id)
        yield causes.key_finding(key[0][0] if key else None, at, resources.settings.alert_key_days)
    except (KeysetError, KeyServiceUnavailable) as error:  # then runs fail, which is told
        log.warning("age of the primary key: %s", error)
    if not resources.warehouse:
        for name, problem in broken.items():
            yield causes.broken_finding(name, problem, at)


def _report(
    connection: Connection,
    started: datetime,
    seen: Mapping[str, Seen],
    contracts: Mapping[str, Contract],
    findings: Sequence[Finding],
    broken: Mapping[str, str],
) -> dict[str, int]:
    # The row is locked until the end: of two passes, the one that began to look later has the last word.
    if connection.execute(CLAIM_PASS, {"started": started}).rowcount == 0:
        log.info("another pass has looked since: this one reports nothing")
        return {"raised": 0, "ended": 0}
    for name, one in seen.items():
        if one.queue is not None:
            connection.execute(STORE_STATE, _state(contracts[name], one, one.queue))
    counts = report(connection, findings)
    gone = connection.execute(END_GONE, {"contracts": [*contracts, causes.ALL], "broken": [*broken]})
    return {**counts, "ended": counts["ended"] + gone.rowcount}


def _state(contract: Contract, one: Seen, queue: QueueState) -> dict[str, Any]:
    facts = asdict(queue)
    del facts["cloudwatch_age"]
    return {
        **facts,
        "contract": contract.name,
        "queue": contract.queue,
        "seen_at": one.at,
        "oldest_age_seconds": one.oldest_age,
        "waiting_since": one.waiting_since,
    }


# The statements

SELECT_WAITING: LiteralString = "SELECT contract, waiting_since FROM etl.queue_states"
CLAIM_PASS: LiteralString = "UPDATE etl.last_watch SET looked_at = %(started)s WHERE looked_at < %(started)s"
STORE_STATE: LiteralString = """
    INSERT INTO etl.queue_states (contract, queue, seen_at, visible, in_flight, delayed, dead_letters,
                                  oldest_age_seconds, retention_seconds, waiting_since)
    VALUES (%(contract)s, %(queue)s, %(seen_at)s, %(visible)s, %(in_flight)s, %(delayed)s, %(dead_letters)s,
            %(oldest_age_seconds)s, %(retention_seconds)s, %(waiting_since)s)
    ON CONFLICT (contract) DO UPDATE
    SET queue = excluded.queue, seen_at = excluded.seen_at, visible = excluded.visible,
        in_flight = excluded.in_flight, delayed = excluded.delayed, dead_letters = excluded.dead_letters,
        oldest_age_seconds = excluded.oldest_age_seconds, retention_seconds = excluded.retention_seconds,
        waiting_since = excluded.waiting_since
"""
# What is about a contract that is gone, or about a file that is not broken any more.
END_GONE: LiteralString = """
    UPDATE etl.alerts SET ended_at = now()
    WHERE ended_at IS NULL AND kind <> 'verify'
      AND (kind = 'broken' AND contract <> ALL (%(broken)s)
           OR kind <> 'broken' AND contract <> ALL (%(contracts)s) AND contract <> ALL (%(broken)s))
"""
COUNT_OPEN: LiteralString = "SELECT count(*) FROM etl.alerts WHERE ended_at IS NULL"
SELECT_KEY: LiteralString = "SELECT first_used_at FROM etl.keys WHERE key_id = %(key_id)s"
# A warehouse that is younger than two days has had no maintenance yet.
LEDGER_IS_BEHIND: LiteralString = """
    SELECT to_regclass('etl.ledger_' || to_char(current_date + 1, 'YYYYMMDD')) IS NULL
       AND EXISTS (SELECT FROM etl.runs WHERE started_at < now() - interval '2 days')
"""
# In the order of the fields of RunFacts.
FACTS: LiteralString = """
    WITH closed AS MATERIALIZED (
        SELECT state, airflow_run_id, finished_at, oldest_age_seconds FROM etl.runs
        WHERE contract = %(contract)s AND kind = 'queue' AND state <> 'running'
        ORDER BY finished_at DESC LIMIT 1
    ), success AS MATERIALIZED (
        SELECT max(finished_at) AS at FROM etl.runs
        WHERE contract = %(contract)s AND kind = 'queue' AND state = 'succeeded'
    ), recent AS MATERIALIZED (
        SELECT * FROM etl.runs
        WHERE contract = %(contract)s AND kind = 'queue' AND finished_at > now() - interval '1 day'
    ), waiting AS MATERIALIZED (
        SELECT quarantined_at FROM etl.quarantine JOIN etl.queues USING (queue_id)
        WHERE name = %(queue)s AND redriven_at IS NULL
    )
    SELECT
        coalesce((SELECT airflow_run_id FROM closed WHERE state = 'failed'), ''),
        (SELECT min(runs.finished_at) FROM etl.runs, success, closed
         WHERE closed.state = 'failed' AND runs.contract = %(contract)s AND kind = 'queue'
           AND runs.state = 'failed' AND runs.finished_at > coalesce(success.at, '-infinity')),
        (SELECT oldest_age_seconds + extract(epoch FROM now() - finished_at)::bigint FROM closed
         WHERE state = 'failed' AND oldest_age_seconds > 0),
        (SELECT max(finished_at) FROM etl.runs
         WHERE contract = %(contract)s AND kind = 'queue' AND deleted > 0),
        (SELECT coalesce(sum(loaded), 0)::bigint FROM recent),
        (SELECT count(*) FROM waiting WHERE quarantined_at > now() - interval '1 day'),
        (SELECT min(quarantined_at) FROM waiting WHERE quarantined_at > now() - interval '1 day'),
        (SELECT count(*) FROM waiting
         WHERE quarantined_at < now() - make_interval(days => %(expiring_days)s)),
        (SELECT coalesce(jsonb_object_agg(path, messages), '{}') FROM (
            SELECT key AS path, sum(value::bigint)::bigint AS messages
            FROM recent, jsonb_each_text(unknown_fields) GROUP BY key ORDER BY 2 DESC LIMIT 10
        ) AS paths),
        (SELECT coalesce(jsonb_object_agg(path, kinds), '{}') FROM (
            SELECT path, jsonb_object_agg(kind, messages) AS kinds FROM (
                SELECT places.key AS path, found.key AS kind, sum(found.value::bigint)::bigint AS messages
                FROM recent, jsonb_each(personal_data_found) AS places, jsonb_each_text(places.value) AS found
                GROUP BY places.key, found.key
            ) AS counts GROUP BY path LIMIT 10
        ) AS by_path),
        (SELECT at FROM success)
"""
