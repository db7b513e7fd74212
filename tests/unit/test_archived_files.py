"""Messages that go from a raw batch, with all that the batch has of them."""

from include.contracts.user_logins import CONTRACT
from include.queue_etl.privacy.archived_files import _mentioned
from include.queue_etl.privacy.subjects import Subject
from include.queue_etl.transform.batches import RawBatch, chosen

ANNA = Subject(CONTRACT, "user_id", "anna").mentions


def batch() -> RawBatch:
    return RawBatch(
        1,
        ["a", "b", "c", "d", "e"],
        [1, 2, 3, 4, 5],
        [1, 1, 1, 1, 1],
        [b"anna", b"bert", b"carl", b"dora", b"hanna"],
        facts={
            "attribute:who": [None, "anna", b"anna", "hanna", "hanna"],
            "MessageGroupId": ["anna"] * 4 + ["g"],
        },
    )


def test_body_and_attributes_of_a_message_are_looked_at():
    raw = batch()
    raw.facts["MessageGroupId"] = [None, None, None, "anna", "hanna"]
    assert _mentioned(raw, ANNA.are_in) == [True, True, True, True, False]


def test_what_goes_takes_its_attributes_with_it():
    assert chosen(batch(), [True, False, False, False, True]) == RawBatch(
        1,
        ["a", "e"],
        [1, 5],
        [1, 1],
        [b"anna", b"hanna"],
        facts={"attribute:who": [None, "hanna"], "MessageGroupId": ["anna", "g"]},
    )


def test_a_batch_without_attributes_has_none_afterwards():
    raw = RawBatch(1, ["a", "b"], [1, 2], [1, 1], [b"anna", b"bert"])
    assert chosen(raw, [False, True]) == RawBatch(1, ["b"], [2], [1], [b"bert"])
    assert _mentioned(raw, ANNA.are_in) == [True, False]
