"""The task of the DAG `pii_unmask`: it waits for a second person, then writes a file of values."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator  # noqa: TID253 - the base class
from airflow.sdk.exceptions import AirflowSkipException

from include.contracts import load_contract
from include.queue_etl.errors import PermanentError, SettingsError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.queue_etl.privacy.audit import AuditLog
    from include.queue_etl.resources import Resources

FOLDER = "QUEUE_ETL_UNMASKED_FOLDER"
ASKED = "unmask asked"
log = logging.getLogger(__name__)


class NotApproved(PermanentError):
    """No second person approved; what was asked for is on record as refused."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one run of the DAG asks for.

    Attributes:
        run: id of the run; the audit has it in each entry of this request
        asked: who triggered the run; empty where Airflow does not know
        params: the run's form
    """

    run: str
    asked: str
    params: Mapping[str, Any]

    @classmethod
    def of(cls, context: "Context") -> "Request":
        """The request that a task instance belongs to."""
        return cls(context["run_id"], context["dag_run"].triggering_user_name or "", context["params"])

    def record(self, audit: "AuditLog", action: str, **more: Any) -> None:
        """Enter the request into the audit, with what more there is to say of it."""
        from include.queue_etl.privacy.audit import Purpose

        details = {
            "contract": self.params["contract"],
            "fields": [self.params["field"]],
            "tokens": len(self.params["tokens"]),
            "requested_by": self.asked,
            "run": self.run,
        }
        audit.record(action, Purpose(self.params["reason"], self.params["ticket"]), {**details, **more})


class UnmaskWhenApproved(ApprovalOperator):
    """Asks for approval and, when a second person gives it, recovers the values.

    One task and not two: what one task tells another (XCom) can be edited by anybody who may start the DAG,
    and would then say that somebody else approved.

    A run asks once and is answered once, and the audit knows whether it was. A run that is made to go again
    keeps the name of its first asker, who need not know of it; and Airflow does not always count it: a task
    can be cleared without its run, or deleted and made anew.
    """

    def __init__(self, *, open_officer: "Callable[[], Resources]", **settings: Any) -> None:
        """Take `open_officer` too, which opens what the officer works with."""
        super().__init__(**settings)
        self.open_officer = open_officer

    def execute(self, context: "Context") -> Any:
        """Put the request on record and ask, once it is known that an approval would not be in vain.

        Raises:
            ValueError, SettingsError, PreflightError: it would be
            NotApproved: this run has asked before; that is on record
        """
        from include.queue_etl.privacy import unmask
        from include.queue_etl.privacy.audit import AuditLog

        request = Request.of(context)
        unmask.personal_field(load_contract(request.params["contract"]), request.params["field"])
        unmasked_folder()
        with self.open_officer() as resources:
            resources.require_schema()
            audit = AuditLog(resources.database)
            require_history(audit, request, [])
            request.record(audit, ASKED)
        return super().execute(context)

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> dict[str, Any]:
        """Go on with the answer, which comes from Airflow's own record of it.

        Raises:
            PreflightError: warehouse or keyset are not ready
            AirflowSkipException: somebody rejected it; that is on record
            NotApproved: no second person is known to have approved, or an answer was there before; on record
        """
        from include.queue_etl.privacy.audit import AuditLog

        request = Request.of(context)
        with self.open_officer() as resources:
            resources.require_schema()
            audit = AuditLog(resources.database)
            require_history(audit, request, [ASKED])
            if why := refusal(request.asked, event):
                record_refusal(audit, request, why, answered_by=next(iter(names(event)), None))
                rejected = event.get("chosen_options") == [self.REJECT]
                raise AirflowSkipException(why) if rejected else NotApproved(why)
            return unmask_to_file(resources, audit, request, approved_by=names(event)[0])


def require_history(audit: "AuditLog", request: Request, actions: list[str]) -> None:
    """Raise NotApproved, and put that on record, unless the audit has just these actions of the run."""
    if audit.actions_of_run(request.run) != actions:
        why = "cleared: a run asks once and is answered once; trigger the DAG again"
        record_refusal(audit, request, why)
        raise NotApproved(why)


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


def record_refusal(audit: "AuditLog", request: Request, why: str, **more: Any) -> None:
    """Enter into the audit what was asked for, by whom, and why it did not happen."""
    from include.queue_etl.privacy.audit import REFUSED

    request.record(audit, f"unmask{REFUSED}", why=why, **more)


def unmask_to_file(
    resources: "Resources", audit: "AuditLog", request: Request, approved_by: str
) -> dict[str, Any]:
    """Recover the tokens of the run's form into a file that its owner alone can read.

    Returns:
        "file", "values" (how many), "audit_entry": never a value

    Raises:
        SettingsError: QUEUE_ETL_UNMASKED_FOLDER names no folder of this machine
    """
    from include.queue_etl.privacy import unmask
    from include.queue_etl.privacy.audit import Purpose
    from include.queue_etl.private_files import new_text_file

    folder, params = unmasked_folder(), request.params
    contract = load_contract(params["contract"])
    column = unmask.personal_field(contract, params["field"])
    tokens = [(column, token) for token in params["tokens"]]
    told = {"requested_by": request.asked, "approved_by": approved_by, "run": request.run}
    purpose = Purpose(params["reason"], params["ticket"])
    entry, values = unmask.unmask(resources, audit, contract, tokens, purpose, **told)
    path = folder / f"unmasked-{entry.id}.csv"
    with new_text_file(path) as file:
        count = unmask.write_csv(values, file)
    log.info("%d values are in %s on this worker; audit entry %s", count, path, entry.mark)
    return {"file": str(path), "values": count, "audit_entry": entry.mark}


def unmasked_folder() -> Path:
    """Where the files go; raises SettingsError where there is no such folder, or it may not be written."""
    folder = Path(os.environ.get(FOLDER, ""))
    if not folder.is_absolute() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SettingsError(
            [f"{FOLDER} must name a folder that the worker can write and officers alone can read"]
        )
    return folder
