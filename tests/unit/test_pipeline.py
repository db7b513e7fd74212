"""The parts of a run: connected on first use, checked before the first message, closed at the end."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.batches import RejectedBatch
from include.queue_etl.errors import KeysetError, PreflightError, QueueUnavailable
from include.queue_etl.keyset import Keyset
from include.queue_etl.pipeline import Pipeline, Run
from include.queue_etl.settings import Settings
from include.queue_etl.staging import BatchFile, Kind


class FakeQueue:
    """Stands where the queue would be connected; may be out of reach."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.closed = error, False

    def depth(self) -> None:
        if self.error:
            raise self.error

    def close(self) -> None:
        self.closed = True


class FakeWarehouse:
    """Stands where the warehouse would be connected."""

    def __init__(self, problems: list[str], checks: dict[int, str]) -> None:
        self.found, self.checks, self.closed = problems, checks, False

    def problems(self, contract: object) -> list[str]:
        return self.found

    def key_checks(self) -> dict[int, str]:
        return self.checks

    def close(self) -> None:
        self.closed = True


def no_session() -> None:
    pytest.fail("nothing here may talk to AWS")


@pytest.fixture
def pipeline(logins, keyset_json, tmp_path):
    return Pipeline(
        logins,
        Run("user_logins", "manual__1"),
        Settings(staging=str(tmp_path / "staging")),
        session=no_session,
        endpoint_urls={},
        warehouse_dsn="host=127.0.0.1 port=1",
        keyset_json=keyset_json,
    )


def give(pipeline, *, queue_error=None, problems=(), checks=None):
    pipeline.__dict__["queue"] = FakeQueue(queue_error)
    pipeline.__dict__["warehouse"] = FakeWarehouse(list(problems), checks or {})
    return pipeline


def test_a_pipeline_that_was_not_used_connects_to_nothing(pipeline):
    with pipeline:
        pass
    assert {"queue", "warehouse", "keyset", "staging"}.isdisjoint(vars(pipeline))


def test_what_was_opened_is_closed(pipeline):
    with pytest.raises(RuntimeError), give(pipeline):
        raise RuntimeError
    assert pipeline.queue.closed
    assert pipeline.warehouse.closed


def test_a_pipeline_in_order_starts(pipeline):
    give(pipeline, checks={pipeline.keyset.primary_key_id: pipeline.keyset.check_value()}).preflight()


def test_every_part_that_is_not_ready_is_named_at_once(pipeline, tmp_path):
    (tmp_path / "staging").write_text("in the way")
    give(pipeline, queue_error=QueueUnavailable("the queue is away"), problems=["no schema", "no table"])
    pipeline._keyset_json = "broken"
    with pytest.raises(PreflightError) as caught:
        pipeline.preflight()
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "the queue is away",
        "no schema",
        "no table",
        "the keyset cannot be read",
        "staging",
    ]


def unread_keyset() -> str:
    raise KeysetError("the keyset's file is gone")


def test_a_keyset_that_cannot_be_fetched_is_named_beside_what_else_is_not_ready(pipeline):
    give(pipeline, queue_error=QueueUnavailable("the queue is away"), problems=["no schema"])
    pipeline._given_keyset = unread_keyset
    with pytest.raises(PreflightError) as caught:
        pipeline.preflight()
    assert caught.value.problems == ("the queue is away", "no schema", "the keyset's file is gone")


def test_in_production_too_a_keyset_that_cannot_be_fetched_is_named_and_nothing_else_said_of_it(pipeline):
    give(pipeline)
    pipeline.settings = replace(pipeline.settings, env="production")
    pipeline._warehouse_dsn = "host=h user=u password=long-and-random sslmode=verify-full"
    pipeline._endpoints = lambda: ["https://sqs.eu-west-1.amazonaws.com"]
    pipeline._given_keyset = unread_keyset
    with pytest.raises(PreflightError) as caught:
        pipeline.preflight()
    assert caught.value.problems == ("the keyset's file is gone",)


def test_a_keyset_is_fetched_once_and_only_when_it_is_needed(pipeline, keyset_json):
    fetched: list[int] = []

    def fetch() -> str:
        fetched.append(1)
        return keyset_json

    pipeline._given_keyset = fetch
    give(pipeline)
    assert fetched == []
    pipeline.preflight()
    assert pipeline.keyset_json == keyset_json
    assert fetched == [1]


def test_a_keyset_that_does_not_open_what_earlier_runs_masked_does_not_start(pipeline):
    other = Keyset.from_json(Keyset.new_json())
    give(pipeline, checks={other.primary_key_id: other.check_value()})
    with pytest.raises(PreflightError, match=f"the keyset lacks key {other.primary_key_id}"):
        pipeline.preflight()


def test_the_keys_are_not_looked_at_in_a_warehouse_that_is_not_ready(pipeline):
    give(pipeline, problems=["no schema"], checks={1: "not to be read"})
    with pytest.raises(PreflightError) as caught:
        pipeline.preflight()
    assert caught.value.problems == ("no schema",)


def test_a_broken_keyset_is_named_when_it_is_first_needed(pipeline):
    pipeline._keyset_json = "broken"
    with pytest.raises(KeysetError):
        pipeline.staging.batches(Kind.RAW)


def test_the_staged_files_are_in_a_folder_of_the_run(pipeline, tmp_path):
    pipeline.staging.seal(BatchFile("0000-abcdef", Kind.RAW), RejectedBatch(b"x"))
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [str(pipeline.run.id)]


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
