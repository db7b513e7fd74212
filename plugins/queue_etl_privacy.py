"""What the DAG `pii_unmask` makes of its form: who asked and who approved, and a file of values."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.queue_etl.errors import PermanentError, SettingsError

if TYPE_CHECKING:
    from include.queue_etl.privacy.officer import OfficerPipeline

FOLDER = "QUEUE_ETL_UNMASKED_FOLDER"


class NotApproved(PermanentError):
    """The same person asked and approved, or nobody knows who did."""


def two_people(approval: Mapping[str, Any]) -> dict[str, str]:
    """Who asked for this DAG run, and who approved it: two people.

    Args:
        approval: result of the approval's task

    Raises:
        NotApproved: they are one, or one of them is unknown
    """
    from airflow.sdk import get_current_context

    asked = get_current_context()["dag_run"].triggering_user_name
    user = approval.get("responded_by_user") or {}
    names = {user.get("id"), user.get("name")} - {None, ""}
    if not asked or not names or approval.get("timedout"):
        raise NotApproved("it has to be known who asked for this and who approved it")
    if asked in names:
        raise NotApproved(f"{asked} asked for this and approved it: a second person has to")
    return {"requested_by": asked, "approved_by": str(user.get("name") or user.get("id"))}


def unmask_to_file(
    pipeline: "OfficerPipeline", people: Mapping[str, str], params: Mapping[str, Any]
) -> dict[str, Any]:
    """Recover the tokens of the run's form into a file that its owner alone can read.

    Returns:
        "file", "values" (how many), "audit_entry": never a value

    Raises:
        SettingsError: QUEUE_ETL_UNMASKED_FOLDER names no folder of this machine
    """
    from include.queue_etl.privacy import unmask
    from include.queue_etl.privacy.audit import Purpose

    folder = Path(os.environ.get(FOLDER, ""))
    if not folder.is_absolute() or not folder.is_dir():
        raise SettingsError([f"{FOLDER} must name a folder on the worker that officers alone can read"])
    pipeline.check_warehouse()
    column = unmask.personal_field(pipeline.contract, params["field"])
    tokens = [(column, token) for token in params["tokens"]]
    entry, values = unmask.unmask(pipeline, tokens, Purpose(params["reason"], params["ticket"]), **people)
    path = folder / f"unmasked-{entry.id}.csv"
    with unmask.private_file(path) as file:
        count = unmask.write_csv(values, file)
    return {"file": str(path), "values": count, "audit_entry": entry.mark}
