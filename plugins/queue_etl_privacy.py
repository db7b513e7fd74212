"""The task of the DAG `pii_unmask`: it waits for a second person, then writes a file of values."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator  # noqa: TID253 - the base class
from airflow.sdk.exceptions import AirflowSkipException

from include.contracts import load_contract
from include.queue_etl.errors import PermanentError, SettingsError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.queue_etl.privacy.officer import OfficerPipeline

FOLDER = "QUEUE_ETL_UNMASKED_FOLDER"


class NotApproved(PermanentError):
    """No second person approved; what was asked for is on record as refused."""


class UnmaskWhenApproved(ApprovalOperator):
    """Asks for approval and, when a second person gives it, recovers the values.

    One task and not two: what one task tells another (XCom) can be edited by whoever may start the DAG, and
    would then say that somebody else approved. For the same reason a cleared task asks again.
    """

    def __init__(self, *, open_pipeline: "Callable[[str], OfficerPipeline]", **settings: Any) -> None:
        """Take `open_pipeline` too, which opens the pipeline of a contract for the officer."""
        super().__init__(**settings)
        self.open_pipeline = open_pipeline

    def execute(self, context: "Context") -> Any:
        """Ask, once it is known that an approval would not be in vain."""
        from include.queue_etl.privacy import unmask

        params = context["params"]
        unmask.personal_field(load_contract(params["contract"]), params["field"])
        unmasked_folder()
        return super().execute(context)

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> dict[str, Any]:
        """Go on with the answer, which comes from Airflow's own record of it.

        Raises:
            PreflightError: warehouse or keyset are not ready
            AirflowSkipException: somebody rejected it; that is on record
            NotApproved: no second person is known to have approved; that is on record
        """
        asked, params = context["dag_run"].triggering_user_name or "", context["params"]
        with self.open_pipeline(params["contract"]) as pipeline:
            pipeline.check_warehouse()
            if why := refusal(asked, event):
                record_refusal(pipeline, why, asked, event, params)
                rejected = event.get("chosen_options") == [self.REJECT]
                raise AirflowSkipException(why) if rejected else NotApproved(why)
            return unmask_to_file(pipeline, {"requested_by": asked, "approved_by": names(event)[0]}, params)


def refusal(asked: str, answer: Mapping[str, Any]) -> str | None:
    """Why an answer is no approval by a second person; None where it is one.

    Args:
        asked: who triggered the DAG run; empty where Airflow does not know
        answer: Airflow's event: who responded with which option, or that nobody did in time
    """
    if answer.get("error") or answer.get("timedout"):
        return "nobody answered in time"
    people = names(answer)
    if not asked or not people:
        return "it has to be known who asked for this and who approved it"
    if answer.get("chosen_options") != [ApprovalOperator.APPROVE]:
        return f"{people[0]} rejected it"
    if asked in people:
        return f"{asked} asked for this and approved it: a second person has to"
    return None


def names(answer: Mapping[str, Any]) -> list[str]:
    """Name and id of who answered, those that are known."""
    user = answer.get("responded_by_user") or {}
    return [str(user[key]) for key in ("name", "id") if user.get(key)]


def record_refusal(
    pipeline: "OfficerPipeline",
    why: str,
    asked: str,
    answer: Mapping[str, Any],
    params: Mapping[str, Any],
) -> None:
    """Enter into the audit what was asked for, by whom, and why it did not happen."""
    from include.queue_etl.privacy.audit import REFUSED, Purpose

    details = {
        "contract": params["contract"],
        "fields": [params["field"]],
        "tokens": len(params["tokens"]),
        "requested_by": asked,
        "answered_by": next(iter(names(answer)), None),
        "why": why,
    }
    pipeline.warehouse.record(f"unmask{REFUSED}", Purpose(params["reason"], params["ticket"]), details)


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

    folder = unmasked_folder()
    column = unmask.personal_field(pipeline.contract, params["field"])
    tokens = [(column, token) for token in params["tokens"]]
    entry, values = unmask.unmask(pipeline, tokens, Purpose(params["reason"], params["ticket"]), **people)
    path = folder / f"unmasked-{entry.id}.csv"
    with unmask.private_file(path) as file:
        count = unmask.write_csv(values, file)
    return {"file": str(path), "values": count, "audit_entry": entry.mark}


def unmasked_folder() -> Path:
    """Where the files go; raises SettingsError where there is no such folder."""
    folder = Path(os.environ.get(FOLDER, ""))
    if not folder.is_absolute() or not folder.is_dir():
        raise SettingsError([f"{FOLDER} must name a folder on the worker that officers alone can read"])
    return folder
