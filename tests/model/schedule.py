"""One random schedule: overlapping runs, retries, zombies, clears of old runs; then calm, then the count."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Annotated, Any
from unittest import mock
from uuid import UUID

from include.contracts.user_logins import CONTRACT, major
from include.queue_etl import steps
from include.queue_etl.contract import Contract, Derived, Rejected
from include.queue_etl.contract.contract import QueuePlace
from include.queue_etl.errors import QueueEtlError, TransientError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.run_context import Run, RunContext
from include.queue_etl.settings import Settings
from include.queue_etl.staging.area import Kind, StagingArea
from tests.model.doubles import Queue, Store, Tables, Warehouse
from tests.model.world import CALM, VISIBILITY_SECONDS, FaultProbabilities, World
from tests.support.contracts import redeclared

MESSAGES = 24
EARLY = 8  # of them are sent before the first run, the others while runs are under way
RUNS = 3  # that overlap
CLEARS = 2  # of tasks of runs that may be closed, or not
CALM_RUNS = 12
ATTEMPTS = 3
SETTINGS = Settings(
    staging="/unused",
    max_messages=12,
    batch_messages=4,
    receive_seconds=30,
    visibility_timeout_seconds=VISIBILITY_SECONDS,
    max_receives=5,
)
POISON = "6.6.6"  # a version that kills the process that parses it


@dataclass(frozen=True)
class Design:
    """How messages are moved."""

    name: str
    queue: type[Queue] = Queue
    warehouse: type[Warehouse] = Warehouse


@dataclass
class Outcome:
    """What became of the messages of one schedule, or the sum over many."""

    messages: int = 0
    lost: int = 0
    duplicate: int = 0
    wrong_kind: int = 0
    left_on_queue: int = 0
    open_runs: int = 0
    raw_files: int = 0  # personal data that outlives its run
    worn_out: int = 0  # good, but received too often while processes were killed

    def __add__(self, other: "Outcome") -> "Outcome":
        sums = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Outcome(*(one + two for one, two in sums))

    @property
    def wrong(self) -> int:
        messages = self.lost + self.duplicate + self.wrong_kind + self.left_on_queue
        return messages + self.open_runs + self.raw_files


@cache
def keyset() -> Keyset:
    return Keyset.from_json(KeysetDocument.new().text)


class ModelResources:
    """The doubles of one schedule, in place of Resources."""

    settings = SETTINGS

    def __init__(self, schedule: "Schedule") -> None:
        self.schedule = schedule
        self.keyset = keyset()
        self.staging_store = schedule.store
        self.staging = StagingArea(schedule.store, self.keyset)
        self.warehouse: Warehouse | None = None

    def queue(self, name: str, place: QueuePlace) -> Queue:
        return self.schedule.queue

    def archive_days(self, contract: Contract) -> int:
        return 0

    def production_problems(self, contracts: object) -> list[str]:
        return []

    def loading_problems(self, contract: Contract) -> list[str]:
        assert self.warehouse is not None
        return self.warehouse.problems(contract)


def model_context(schedule: "Schedule", name: str) -> RunContext:
    """The context of a real run on the doubles of one schedule."""
    resources = ModelResources(schedule)
    context = RunContext(resources, schedule.contract, name)  # type: ignore[arg-type]
    resources.warehouse = schedule.design.warehouse(schedule.world, schedule.tables, context.staging)
    context.__dict__["store"] = resources.warehouse
    return context


class Schedule:
    """The world, what is in it, and the runs that go through it."""

    def __init__(self, seed: int, design: Design, probabilities: FaultProbabilities | None = None) -> None:
        self.world = World(seed, probabilities or FaultProbabilities())
        self.design = design
        self.queue = design.queue(self.world)
        self.tables = Tables()
        self.store = Store(self.world)
        version = Annotated[str | None, Derived(self._version, int)]
        self.contract = redeclared(CONTRACT, app_version=version)
        self.expected: dict[str, tuple[str, bool]] = {}  # message id -> user, and whether it is good
        self.batches: dict[str, list[str]] = {}

    def run(self) -> Outcome:
        # Chance and clocks outside the world: without them, a seed always gives one schedule.
        clock = SimpleNamespace(time=lambda: self.world.now, monotonic=lambda: self.world.now)
        with (
            mock.patch.object(steps, "batch_name", self._batch_name),
            mock.patch.object(steps, "time", clock),
            mock.patch.object(steps._Intake, "is_due", self._is_due(steps._Intake.is_due)),
        ):
            return self._run()

    def _run(self) -> Outcome:
        for number in range(EARLY):
            self._send(number)
        self.world.start(self._go_on_sending)
        for number in range(RUNS):
            self.world.start(partial(self._airflow_run, f"run{number}"))
        for number in range(CLEARS):
            self.world.start(partial(self._clear, f"run{number}"))
        self.world.start(self._maintenance)
        self.world.run()
        self.world.probabilities = CALM
        for number in range(CALM_RUNS):
            self.world.now += 2 * VISIBILITY_SECONDS
            if self.queue.waiting():
                self._airflow_run(f"calm{number}")
        self._maintain()
        return self._outcome()

    def _go_on_sending(self) -> None:
        for number in range(EARLY, MESSAGES):
            self.world.wait(self.world.chance.randint(1, 4))
            self._send(number)

    def _send(self, number: int) -> None:
        message_id, user = str(UUID(int=self.world.chance.getrandbits(128))), f"user{number}"
        event = {
            "user_id": user, "app_version": "2.3.0", "device_type": "ios", "ip": "10.0.0.1",
            "locale": None, "device_id": "000-00-0000",
        }  # fmt: skip
        if number % 8 == 0:
            del event["ip"]
        elif number == 1:
            event["app_version"] = POISON
        self.expected[message_id] = user, not (number % 8 == 0 or number == 1)
        self.queue.send(message_id, json.dumps(event).encode())

    def _version(self, version: str | None) -> int | Rejected | None:
        if version == POISON:
            self.world.events["poisoned"] += 1
            self.world.kill()
        return major(version)

    def _is_due(self, original: Callable[..., bool]) -> Callable[..., bool]:
        """The real one; that only its age made a batch due is counted."""

        def is_due(intake: steps._Intake, settings: Settings) -> bool:
            due = original(intake, settings)
            self.world.events["sealed_by_age"] += due and len(intake.open) < settings.batch_messages
            return due

        return is_due

    def _batch_name(self, number: int) -> str:
        return f"{number:04d}-{self.world.chance.getrandbits(24):06x}"

    # What Airflow does

    def _airflow_run(self, name: str) -> None:
        """extract, then mask and load of each batch, then finish whatever happened; each with its retries."""
        extracted, batches = self._task(name, steps.extract)
        if self._gives_up():
            return
        failed = not extracted
        self.batches[name] = [batch["batch"] for batch in batches or []]
        for batch in self.batches[name]:
            failed |= not self._mask_and_load(name, batch)
            if self._gives_up():
                return
        if failed or self.batches[name]:  # with an empty list, Airflow skips all that follows
            self._finish(name, failed)

    def _mask_and_load(self, name: str, batch: str) -> bool:
        masked, _ = self._task(name, lambda context: steps.mask(context, batch))
        return masked and self._task(name, lambda context: steps.load(context, batch))[0]

    def _finish(self, name: str, failed: bool) -> None:
        attempts = iter(range(1, ATTEMPTS + 1))
        self._task(
            name,
            lambda context: steps.finish(
                context, upstream_failed=failed, last_attempt=next(attempts, ATTEMPTS) == ATTEMPTS
            ),
        )

    def _clear(self, name: str) -> None:
        """Someone clears tasks of a run, perhaps when its staged files are gone."""
        self.world.wait(self.world.chance.randint(1, 100))
        if self.world.maybe(0.3):
            folder = str(Run(self.contract.name, name).id)
            self.store.files = {
                path: content for path, content in self.store.files.items() if not path.startswith(folder)
            }
            self.world.events["staging_gone"] += 1
        self.world.events["clear"] += 1
        if self.world.maybe(0.5):
            self._airflow_run(name)
            return
        for batch in self.batches.get(name, []):
            self._mask_and_load(name, batch)
        self._finish(name, failed=False)

    def _maintenance(self) -> None:
        """Comes at any time, and takes whatever runs it meets for orphans: also those that are alive."""
        self.world.wait(self.world.chance.randint(1, 100))
        self._maintain()

    def _maintain(self) -> None:
        """What maintenance does to unfinished runs."""
        for number in range(RUNS):
            self.world.events["settled"] += 1
            self._attempt(
                f"run{number}",
                lambda context: steps.finish(context, upstream_failed=True, last_attempt=False),
            )

    def _task(self, name: str, step: Callable[[RunContext], Any]) -> tuple[bool, Any]:
        """Up to ATTEMPTS attempts; now and then one outlives its replacement."""
        if self.world.probabilities.switch and self.world.maybe(0.05):
            self.world.events["second_attempt_alive"] += 1
            self.world.start(lambda: self._attempt(name, step))
        for _ in range(ATTEMPTS):
            done, result = self._attempt(name, step)
            if done or (isinstance(result, QueueEtlError) and not isinstance(result, TransientError)):
                return done, result if done else None
        return False, None

    def _attempt(self, name: str, step: Callable[[RunContext], Any]) -> tuple[bool, Any]:
        def process() -> tuple[bool, Any]:
            try:
                return True, step(model_context(self, name))
            except QueueEtlError as error:
                return False, error

        ended, outcome = self.world.attempt(process)
        return outcome if ended else (False, None)

    def _gives_up(self) -> bool:
        """The DAG run's timeout, or a person: no task of it is started any more."""
        if self.world.probabilities.switch and self.world.maybe(0.03):
            self.world.events["abandoned"] += 1
            return True
        return False

    def _outcome(self) -> Outcome:
        rows = Counter(user for _, user in self.tables.rows)
        rejected = Counter(message_id for _, message_id in self.tables.quarantine)
        outcome = Outcome(
            messages=len(self.expected),
            left_on_queue=self.queue.waiting(),
            open_runs=sum(state == "running" for state in self.tables.runs.values()),
            raw_files=sum(name.endswith(Kind.RAW) for name in self.store.files),
        )
        for message_id, (user, is_good) in self.expected.items():
            found = rows[user] + rejected[message_id]
            # Whatever is in it, a message received too often is quarantined unparsed.
            worn_out = self.queue.messages[message_id].receives > SETTINGS.max_receives
            outcome.lost += found == 0
            outcome.duplicate += max(found - 1, 0)
            outcome.wrong_kind += bool(rejected[message_id] and is_good and not worn_out)
            outcome.wrong_kind += bool(rows[user] and not is_good)
            outcome.worn_out += bool(rejected[message_id] and is_good)
        return outcome
