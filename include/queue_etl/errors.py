"""Everything the engine raises on purpose.

    QueueEtlError
    ├── SettingsError            settings are missing or wrong; lists every one of them
    ├── TransientError           the same call may succeed in a minute: retry
    │   ├── QueueUnavailable         SQS did not answer, or throttled, for longer than the retries last
    │   ├── WarehouseUnavailable     Postgres refused or dropped the connection, or asked for a retry
    │   ├── StagingUnavailable       the staging folder or bucket cannot be written or read
    │   └── KeyServiceUnavailable    KMS did not answer, or throttled
    └── PermanentError           a retry cannot help: a person has to change something
        ├── PreflightError           a run must not start; lists every reason
        ├── ContractBroken           a contract's file cannot be used; names file, line and reason
        ├── BreakingChange           a table cannot become what its contract says; names what to do instead
        ├── QueueRefused             SQS said no: access denied, bad request
        │   └── QueueMissing             there is no such queue in that region and account
        ├── WarehouseRefused         Postgres said no: SQLSTATE and constraint, never the values
        ├── KeysetError              the keyset is missing, unreadable, or not the one used so far
        ├── KeyInUse                 a key must stay: something is still encrypted with it
        ├── AuditBroken              an entry of the audit was changed, removed or put in
        ├── RateExceeded             more tokens an hour than one officer may unmask
        ├── NumbersDisagree          tables, ledger and runs do not tell the same; lists each difference
        ├── StagedFileDamaged        a staged file is truncated, changed, swapped, foreign or gone
        └── RunFailed                finish ran, but a task before it had failed

No message of these errors holds a value from a queue message. They are raised `from None` where a foreign
exception could carry one: JSON, Unicode, ipaddress and psycopg errors all print the input they choked on.
"""

from collections.abc import Sequence


class QueueEtlError(Exception):
    """Base of all errors of the engine."""


class _ProblemsError(QueueEtlError):
    """An error that lists several problems, one a line."""

    heading = "problems"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([f"{self.heading}:", *(f"  - {problem}" for problem in self.problems)]))


class SettingsError(_ProblemsError):
    """Settings are missing or wrong; `problems` names each, and how to fix it."""

    heading = "invalid settings"


class TransientError(QueueEtlError):
    """The same call may succeed later."""


class QueueUnavailable(TransientError):
    """SQS did not answer, or throttled, for longer than the retries last."""


class WarehouseUnavailable(TransientError):
    """Postgres refused or dropped the connection, or asked for a retry (SQLSTATE classes 08, 40, 53, 57)."""


class StagingUnavailable(TransientError):
    """The staging folder or bucket cannot be written or read."""


class KeyServiceUnavailable(TransientError):
    """KMS did not answer, or throttled."""


class PermanentError(QueueEtlError):
    """A retry cannot help: a person has to change something."""


class PreflightError(_ProblemsError, PermanentError):
    """The run must not start; nothing has been received."""

    heading = "not started, nothing received"


class ContractBroken(_ProblemsError, PermanentError):
    """A file of include/contracts cannot be used; `problems` names file, line and reason."""

    heading = "broken contracts"


class BreakingChange(_ProblemsError, PermanentError):
    """A table cannot become what its contract says without losing something; `problems` says what to do."""

    heading = "breaking changes"


class NumbersDisagree(_ProblemsError, PermanentError):
    """Tables, ledger and runs do not tell the same; `problems` has a sentence for each difference."""

    heading = "the numbers do not agree"


class QueueRefused(PermanentError):
    """SQS said no: the queue is missing, access is denied, or the request is wrong."""


class QueueMissing(QueueRefused):
    """There is no queue of that name in that region and account."""


class WarehouseRefused(PermanentError):
    """Postgres said no.

    Attributes:
        sqlstate: five characters, https://www.postgresql.org/docs/current/errcodes-appendix.html
        constraint: name of the violated constraint, or None
    """

    def __init__(self, message: str, sqlstate: str | None = None, constraint: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint


class KeysetError(PermanentError):
    """The keyset is missing, unreadable, or not the one that earlier runs masked with."""


class KeyInUse(_ProblemsError, PermanentError):
    """The key must stay; `problems` names what is still encrypted with it."""

    heading = "the key stays"


class AuditBroken(PermanentError):
    """The chain of the audit does not hold: names the first entry that was changed, removed or put in."""


class RateExceeded(PermanentError):
    """The officer asked for more tokens than are allowed within an hour; the attempt is in the audit."""


class StagedFileDamaged(PermanentError):
    """A staged file is not what was sealed under its name, or is gone while its run is still open."""


class RunFailed(PermanentError):
    """The run is closed as failed: each message is deleted, released, or comes back by itself."""
