"""Messages that go from a raw batch, with all that the batch has of them."""

from msgspec import field

from include.contracts.user_logins import CONTRACT
from include.queue_etl.privacy.archived_files import _mentioned
from include.queue_etl.privacy.subjects import Subject
from include.queue_etl.transform.batches import RawBatch, chosen

ANNA = Subject(CONTRACT, "user_id", "anna").mentions


class Wider(RawBatch, kw_only=True):
    """A raw batch of a later version: it has more of each message."""

    attributes: list[dict[str, str | bytes]] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)


def wider() -> Wider:
    return Wider(
        1,
        ["a", "b", "c", "d", "e"],
        [1, 2, 3, 4, 5],
        [1, 1, 1, 1, 1],
        [b"anna", b"bert", b"carl", b"dora", b"hanna"],
        attributes=[{}, {"who": "anna"}, {"who": b"anna"}, {"who": "hanna"}, {"who": "hanna"}],
        groups=[None, None, None, "anna", "hanna"],
    )


def test_every_part_of_a_message_is_looked_at():
    assert _mentioned(wider(), ANNA.are_in) == [True, True, True, True, False]


def test_what_goes_takes_every_part_with_it():
    left = chosen(wider(), [True, False, False, False, True])
    assert left == Wider(
        1,
        ["a", "e"],
        [1, 5],
        [1, 1],
        [b"anna", b"hanna"],
        attributes=[{}, {"who": "hanna"}],
        groups=[None, "hanna"],
    )


def test_a_part_that_no_message_has_stays_empty():
    raw = Wider(1, ["a", "b"], [1, 2], [1, 1], [b"anna", b"bert"])
    assert chosen(raw, [False, True]) == Wider(1, ["b"], [2], [1], [b"bert"])
    assert _mentioned(raw, ANNA.are_in) == [True, False]
