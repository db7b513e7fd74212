"""What DAGs have in common: schedules, the params of the form, how often tasks are tried.

Apart from the DAG files so that these are wiring only.
"""

import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, DeltaTriggerTimetable, Param
from queue_etl_connections import queue_to_watch
from sqs_queue_depth import SqsMessagesTrigger

from include.queue_etl.contract import Contract
from include.queue_etl.contract.contract import CONTINUOUS
from include.queue_etl.errors import PermanentError, SettingsError, TransientError
from include.queue_etl.settings import PREFIX, limits, read_some

# Of a continuous DAG: a run that looks, also where no triggerer watches the queue.
LOOK = timedelta(hours=1)
CAUGHT_UP_SECONDS = 2.0
WORTH_A_RUN = ("min_messages", "freshness_seconds")
START = datetime(2025, 1, 1, tzinfo=UTC)
# Airflow validates all params of a DAG, and their schemas too, whenever a task or a listener asks for the
# task's context. By the newest draft, which is the default, that takes three times as long.
DRAFT: dict[str, Any] = {"$schema": "http://json-schema.org/draft-07/schema#"}


def _setting(name: str, title: str, meaning: str) -> Param:
    """The param of a number among the settings: within the limits of it, and left empty it is not used."""
    least, most = limits(name)
    return Param(
        None,
        **DRAFT,
        type=["null", "integer"],
        minimum=least,
        maximum=most,
        title=title,
        description=f"{meaning}; empty: as {PREFIX}{name.upper()} says.",
    )


PARAMS = {
    "max_messages": _setting("max_messages", "Most messages", "The run takes at most so many"),
    "receive_seconds": _setting(
        "receive_seconds", "Longest time of receiving (seconds)", "From the first message on"
    ),
    "min_messages": Param(
        1,
        **DRAFT,
        type="integer",
        minimum=1,
        title="Fewest messages",
        description="The run starts when so many wait. When a continuous pipeline begins a run by itself: as "
        f"{PREFIX}MIN_MESSAGES says.",
    ),
    "max_age_seconds": Param(
        900,
        **DRAFT,
        type="integer",
        minimum=60,
        title="Longest wait of a message (seconds)",
        description="The run also starts when CloudWatch says that the oldest message is older.",
    ),
    # At most 240: the next run of the five-minute schedule must not find this one still waiting.
    "wait_seconds": Param(
        0,  # a run that waits in vain would look longer than one that loads
        **DRAFT,
        type="integer",
        minimum=0,
        maximum=240,
        title="Wait for messages (seconds)",
        description="After this long without enough messages the run is skipped; 0: it looks once.",
    ),
}

# What the sensor waits for, as its arguments. Runs that nobody starts have the form's defaults.
WAITS_FOR: dict[str, Any] = {
    "min_messages": "{{ params.min_messages }}",
    "max_age_seconds": "{{ params.max_age_seconds }}",
    "timeout": "{{ params.wait_seconds }}",
}

# Of a Param that takes text: it says something.
NOT_BLANK = {"type": "string", "pattern": r".*\S.*"}


def _retry_policy() -> dict[str, Any]:
    """What is not worth a retry, as a default argument of tasks.

    Empty before Airflow 3.3, which has no such policy: an error that a person has to correct then fails its
    task after all retries, some minutes later.
    """
    try:
        from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
    except ImportError:
        return {}
    rules = [
        RetryRule([PermanentError, SettingsError], RetryAction.FAIL, reason="a person has to correct it"),
        RetryRule(TransientError, RetryAction.RETRY, reason="the same call may succeed in a minute"),
    ]
    return {"retry_policy": ExceptionRetryPolicy(rules)}


def pace(contract: Contract) -> dict[str, Any]:
    """When the contract's DAG runs, how many runs at once and for how long, as arguments of the DAG."""
    return {
        "schedule": _continuous(contract) if contract.schedule == CONTINUOUS else contract.schedule,
        "max_active_runs": contract.runs_at_once,
        "dagrun_timeout": timedelta(seconds=contract.run_seconds),
    }


def _continuous(contract: Contract) -> AssetOrTimeSchedule:
    """A run whenever the watcher of the contract's queue says that it is worth it, and one each hour."""
    queue = queue_to_watch(contract)
    trigger = SqsMessagesTrigger(
        dag_id=contract.name,
        queue=queue["sqs_queue"],
        account=queue["queue_account"],
        aws_conn_id=queue["aws_conn_id"],
        region_name=queue["region_name"],
        **_worth_a_run(contract.settings),
    )
    messages = Asset(
        name=f"messages of {contract.name}",
        uri=f"x-sqs://{contract.name}/{contract.queue}",
        watchers=[AssetWatcher(name=f"watcher of {contract.queue}", trigger=trigger)],
    )
    return AssetOrTimeSchedule(timetable=DeltaTriggerTimetable(LOOK), assets=[messages])


def _worth_a_run(settings: Mapping[str, int]) -> dict[str, int]:
    """What the settings say; of wrong ones the defaults, as each run then fails with the list of them all."""
    try:
        return read_some(os.environ, settings, *WORTH_A_RUN)
    except SettingsError:
        return read_some({}, {}, *WORTH_A_RUN)


def caught_up_seconds(contract: Contract) -> float:
    """How long the running extract goes on receiving messages that come as fast as it takes them.

    The next run of a continuous pipeline follows soon, and rows are to be there soon.
    """
    from airflow.sdk import get_current_context

    is_manual = get_current_context()["dag_run"].run_type == "manual"
    return math.inf if is_manual or contract.schedule != CONTINUOUS else CAUGHT_UP_SECONDS


def task_args(contract: Contract) -> dict[str, Any]:
    """The default arguments of its tasks."""
    return {
        **DEFAULT_ARGS,
        "owner": contract.owner,
        "retries": contract.retries,
        "execution_timeout": timedelta(seconds=contract.task_seconds),
    }


DEFAULT_ARGS: dict[str, Any] = {
    "owner": "data-platform",
    "execution_timeout": timedelta(minutes=15),
    "retries": 4,
    # 10, 20, 40, 80 s, each with up to as much again of jitter, which Airflow adds.
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=3),
    **_retry_policy(),
}
# The DAGs that operate all contracts; each has a schedule and a time limit of its own.
OPERATES: dict[str, Any] = {
    "start_date": START,
    "catchup": False,
    "max_active_runs": 1,
    "is_paused_upon_creation": False,
    "default_args": DEFAULT_ARGS,
}
