"""The digest that stands for a batch's messages."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.transform.batches import ReceiptHandles, ids_digest

ids = st.lists(st.uuids().map(str), max_size=8, unique=True)


@given(ids, st.randoms())
def test_the_order_of_the_messages_does_not_matter(given_ids, random):
    shuffled = list(given_ids)
    random.shuffle(shuffled)
    assert ids_digest(shuffled) == ids_digest(given_ids)


@given(ids, ids)
def test_other_messages_have_another_digest(one, other):
    assert (ids_digest(one) == ids_digest(other)) == (sorted(one) == sorted(other))


def test_a_message_more_or_twice_is_another_batch():
    assert len({ids_digest(given) for given in ([], ["a"], ["a", "a"], ["a", "b"], ["ab"])}) == 5


@given(ids)
def test_receipt_handles_and_messages_agree_on_the_digest(given_ids):
    assert ReceiptHandles(given_ids, ["receipt"] * len(given_ids)).digest == ids_digest(given_ids)


def test_the_digest_never_changes():
    # Batches committed before an update of this code must be recognised after it.
    expected = "7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78"
    assert ids_digest(["b", "a"]).hex() == expected


def test_receipt_handles_staged_by_a_version_without_ages_open_as_new():
    staged = msgspec.msgpack.encode({"ids": ["a"], "receipts": ["r"]})
    assert msgspec.msgpack.decode(staged, type=ReceiptHandles) == ReceiptHandles(
        ["a"], ["r"], oldest_age_seconds=0
    )


def test_receipt_handles_with_ages_open_in_a_version_without_them():
    class EarlierReceipts(msgspec.Struct):
        ids: list[str]
        receipts: list[str]

    staged = msgspec.msgpack.encode(ReceiptHandles(["a"], ["r"], oldest_age_seconds=7))
    assert msgspec.msgpack.decode(staged, type=EarlierReceipts).receipts == ["r"]
