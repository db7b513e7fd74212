"""A run and its resources: connected on first use, checked before the first message, closed at the end."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.errors import KeysetError, PreflightError, QueueUnavailable
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.postgres import checks
from include.queue_etl.resources import Aws, Resources
from include.queue_etl.run_context import Run, RunContext
from include.queue_etl.settings import Settings
from include.queue_etl.staging.area import BatchFile, Kind
from include.queue_etl.transform.batches import RejectedBatch

SOUND_DSN = "host=h user=u password=long-and-random sslmode=verify-full"


class FakeQueue:
    """Stands where the queue would be connected; may be out of reach."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.closed = error, False

    def depth(self) -> None:
        if self.error:
            raise self.error

    def close(self) -> None:
        self.closed = True


def no_session() -> None:
    pytest.fail("nothing here may talk to AWS")


def unread_keyset() -> str:
    raise KeysetError("the keyset's file is gone")


@pytest.fixture
def make(keyset_json, tmp_path, logins, monkeypatch):
    """A context whose queue and warehouse answer, or not."""

    def context(*, queue_error=None, problems=(), key_checks=None, keyset=keyset_json, dsn="", **settings):
        monkeypatch.setattr(Aws, "queue", lambda *given: FakeQueue(queue_error))
        monkeypatch.setattr(checks, "loading_problems", lambda *given: list(problems))
        monkeypatch.setattr(checks, "key_checks", lambda *given: key_checks or {})
        chosen = Settings(staging=str(tmp_path / "staging"), **settings)
        resources = Resources(chosen, Aws(no_session), warehouse_dsn=dsn, keyset_json=keyset)
        return RunContext(resources, logins, "manual__1")

    return context


def problems_of(context: RunContext) -> tuple[str, ...]:
    with pytest.raises(PreflightError) as caught:
        context.preflight()
    return caught.value.problems


def test_resources_that_were_not_used_connect_to_nothing(make):
    with make().resources as resources:
        pass
    assert {"database", "keyset", "staging"}.isdisjoint(vars(resources))


def test_what_was_opened_is_closed(make):
    context = make()
    with context.resources:
        queue = context.queue
        assert context.queue is queue
        assert not queue.closed
    assert queue.closed


def test_a_run_whose_parts_are_in_order_starts(make, keyset):
    make(key_checks={keyset.primary_key_id: keyset.check_value()}).preflight()


def test_every_part_that_is_not_ready_is_named_at_once(make, tmp_path):
    (tmp_path / "staging").write_text("in the way")
    down = QueueUnavailable("the queue is away")
    context = make(queue_error=down, problems=["no schema", "no table"], keyset="broken")
    assert [problem.partition(":")[0] for problem in problems_of(context)] == [
        "the queue is away",
        "no schema",
        "no table",
        "the keyset cannot be read",
        "staging",
    ]


def test_a_keyset_that_cannot_be_fetched_is_named_beside_the_rest(make):
    down = QueueUnavailable("the queue is away")
    context = make(queue_error=down, problems=["no schema"], keyset=unread_keyset)
    assert problems_of(context) == ("the queue is away", "no schema", "the keyset's file is gone")


def test_in_production_an_unread_keyset_is_the_one_problem_of_it(make, monkeypatch):
    monkeypatch.setattr(Aws, "endpoints", lambda *given: ["https://sqs.eu-west-1.amazonaws.com"])
    context = make(keyset=unread_keyset, dsn=SOUND_DSN, env="production")
    assert problems_of(context) == ("the keyset's file is gone",)


def test_a_keyset_is_fetched_once_and_only_when_it_is_needed(make, keyset_json):
    fetched = []

    def fetch() -> str:
        fetched.append(1)
        return keyset_json

    context = make(keyset=fetch)
    assert fetched == []
    context.preflight()
    assert context.resources.keyset_document.text == keyset_json
    assert fetched == [1]


def test_a_keyset_that_lacks_a_key_of_earlier_runs_does_not_start(make):
    other = KeysetDocument.new().open()
    (problem,) = problems_of(make(key_checks={other.primary_key_id: other.check_value()}))
    assert problem.startswith(f"the keyset lacks key {other.primary_key_id}")


def test_keys_are_not_looked_at_in_a_warehouse_that_is_not_ready(make):
    assert problems_of(make(problems=["no schema"], key_checks={1: "not to be read"})) == ("no schema",)


def test_a_broken_keyset_is_named_when_it_is_first_needed(make):
    with pytest.raises(KeysetError):
        make(keyset="broken").staging.batches(Kind.RAW)


def test_the_staged_files_are_in_a_folder_of_the_run(make, tmp_path):
    context = make()
    context.staging.seal(BatchFile("0000-abcdef", Kind.RAW), RejectedBatch(b"x"))
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [str(context.run.id)]


@given(st.text(max_size=30))
def test_a_run_id_never_shows_in_paths(name):
    run_id = Run("user_logins", name).id
    assert isinstance(run_id, UUID)
    assert set(str(run_id)) <= set("0123456789abcdef-")


@given(st.text(max_size=8), st.text(max_size=8), st.sampled_from(["user_logins", "other"]))
def test_the_run_is_the_same_for_every_task_and_another_for_another_run(one, other, contract):
    assert Run(contract, one).id == Run(contract, one).id
    assert (Run(contract, one).id == Run(contract, other).id) == (one == other)
    assert Run("user_logins", one).id != Run("other", one).id


def test_run_ids_never_change():
    # A run that was open while this code was updated must find its files again.
    assert Run("user_logins", "manual__1").id == UUID("026c4322-72c7-5c4b-ac1f-261e2788a298")
