"""A queue that messages arrive on all the while, the runs that take them, and where each message is."""

import contextlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from include.queue_etl import steps
from include.queue_etl.run_context import RunContext
from include.queue_etl.sqs.client import Depth
from tests.bench import sqs_stub, stub_process
from tests.bench.feed import Feed
from tests.faults import worker
from tests.faults.servers import QueueUnderTest, Servers
from tests.support.traffic import Sent, traffic

HANGS_SECONDS = 120  # a process that takes so long is killed
ROWS = "SELECT user_id FROM public.user_logins WHERE user_id LIKE %s"


@dataclass(frozen=True)
class Account:
    """Where messages are; all numbers are 0 when each is in the table once."""

    lost: int = 0
    twice: int = 0
    left_on_queue: int = 0


ALL_LOADED = Account()


@dataclass(frozen=True)
class Drain:
    """A whole run: its row of etl.run_summary, and how long its process took."""

    summary: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Flow:
    """A queue and its runs.

    Attributes:
        tested: with a queue on the stack, which is used unless `endpoint_url` is another
        endpoint_url: of SQS
        settings: of every run
    """

    tested: QueueUnderTest
    endpoint_url: str
    settings: dict[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def sender(self, **pace: Any) -> Iterator[Sent]:
        """Sends as long as the block lasts; see `traffic`."""
        client = self.tested.session().client("sqs", endpoint_url=self.endpoint_url)
        url = client.get_queue_url(QueueName=self.tested.queue_name)["QueueUrl"]
        with contextlib.closing(client), traffic(client, url, self.tested.tag, **pace) as sent:
            yield sent

    def open_run(self, name: str | None = None) -> contextlib.AbstractContextManager[RunContext]:
        """A run in this process."""
        return self.tested.open_run(name, endpoint_url=self.endpoint_url, **self.settings)

    def start(self, *arguments: str) -> worker.Started:
        """A command in a process of its own."""
        chosen = {f"QUEUE_ETL_{name.upper()}": str(value) for name, value in self.settings.items()}
        return worker.start(self.tested, arguments, None, AWS_ENDPOINT_URL_SQS=self.endpoint_url, **chosen)

    def extract(self, name: str) -> worker.Started:
        """The first step of that run, in a process of its own."""
        return self.start("step", "extract", "--run-id", self.tested.run(name).name, "-v")

    def drain(self) -> Drain:
        """A whole run as the command line does it."""
        started = time.monotonic()
        ended = self.start("drain", "--json").wait(HANGS_SECONDS)
        seconds = time.monotonic() - started
        assert ended.code == 0, f"{seconds:.1f} s: {ended.last_line}"
        return Drain(json.loads(ended.output), seconds)

    def go_on(self, context: RunContext, batches: Iterable[str]) -> dict[str, Any]:
        """What follows extract; of a run without messages nothing does."""
        if context.store.run_state(context.run.id) is None:
            return {"loaded": 0}
        for batch in batches:
            steps.load(context, steps.mask(context, batch)["batch"])
        return steps.finish(context)

    def depth(self) -> Depth:
        with self.open_run() as context:
            return context.queue.depth()

    def account(self, sent: Sent) -> Account:
        rows = Counter(user for (user,) in self.tested.servers.rows(ROWS, f"{self.tested.tag}-%"))
        assert not rows.keys() - sent.messages.keys()
        lost, twice = len(sent.messages.keys() - rows.keys()), rows.total() - len(rows)
        return Account(lost, twice, self.depth().total)


@contextlib.contextmanager
def on_stub(servers: Servers, **settings: int) -> Iterator[tuple[Flow, sqs_stub.Stub]]:
    """A flow on a stub in a thread of this process: it counts calls, and misbehaves when told to."""
    tested = servers.new_queue()
    with sqs_stub.serving(name=tested.queue_name) as stub:
        stub.queue.seed = secrets.randbits(40)
        yield Flow(tested, stub.url, settings), stub


@contextlib.contextmanager
def on_fast_stub(servers: Servers, **settings: int) -> Iterator[Flow]:
    """A flow on a stub that has a process to itself, for many messages a second."""
    tested = servers.new_queue()
    folder = servers.folder / tested.tag
    folder.mkdir()
    with stub_process.serving(Feed([], 0), folder, 0.0, tested.queue_name, secrets.randbits(40)) as stub:
        yield Flow(tested, stub.url, settings)
