"""The tree of errors is the one its docstring draws, and what it says is kept."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.contracts.user_logins import CONTRACT, LoginEvent
from include.queue_etl import errors
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.settings import Settings
from include.queue_etl.staging.area import BatchFile, Kind, StagedRun
from include.queue_etl.staging.stores import LocalFolder
from include.queue_etl.transform import copy_text
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import MaskedBatch, RawBatch, ReceiptHandles, RejectedBatch
from include.queue_etl.transform.masking import Masker

KEYSET_JSON = KeysetDocument.new().text


def drawn() -> dict[str, str]:
    """Error -> parent, from the drawing."""
    parents, path = {}, ["QueueEtlError"]
    for line in str(errors.__doc__).splitlines():
        if found := re.match(r"    (?P<stem>[ │]*)[├└]── (?P<name>\w+)", line):
            depth = len(found["stem"]) // 4 + 1
            path[depth:] = [found["name"]]
            parents[found["name"]] = path[depth - 1]
    return parents


def test_the_drawing_is_the_tree():
    classes = {
        name: error
        for name, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, Exception) and not name.startswith("_") and error is not errors.QueueEtlError
    }
    tree = drawn()
    assert set(tree) == set(classes)
    assert len(tree) > 10
    for name, parent in tree.items():
        assert issubclass(classes[name], getattr(errors, parent))


def test_no_error_is_both_worth_a_retry_and_not():
    for error in (getattr(errors, name) for name in drawn()):
        assert not issubclass(error, errors.TransientError) or not issubclass(error, errors.PermanentError)


@pytest.mark.parametrize("error", [errors.SettingsError, errors.PreflightError])
def test_an_error_with_several_problems_lists_each_on_a_line_of_its_own(error):
    raised = error(["one thing", "another"])
    assert raised.problems == ("one thing", "another")
    assert str(raised).splitlines() == [f"{error.heading}:", "  - one thing", "  - another"]


def test_a_refusal_of_the_warehouse_keeps_sqlstate_and_constraint():
    raised = errors.WarehouseRefused("refused", "23505", "ledger_pkey")
    assert (str(raised), raised.sqlstate, raised.constraint) == ("refused", "23505", "ledger_pkey")


def test_a_refusal_of_the_warehouse_may_have_no_sqlstate():
    raised = errors.WarehouseRefused("refused")
    assert (raised.sqlstate, raised.constraint) == (None, None)


# What an error shows ----------------------------------------------------------------------------------------


def shown(error: BaseException | None) -> str:
    """Everything that a log or an error tracker could print of it and of what it is chained to."""
    seen = []
    while error is not None:
        seen.append(f"{error} {error!r} {error.args} {vars(error)}")
        error = error.__cause__ or error.__context__
    return " ".join(seen)


def actions(canary: str, keyset: Keyset, folder: Path) -> dict[str, Callable[[], object]]:
    """Things that fail while they hold a personal value or a key."""
    masker, field = Masker(CONTRACT, keyset), CONTRACT.personal[0]
    staging = StagedRun(LocalFolder(folder), UUID(int=1), keyset)
    raw, receipts = BatchFile("0000-abcdef", Kind.RAW), BatchFile("0000-abcdef", Kind.RECEIPT_HANDLES)
    staging.seal(raw, RejectedBatch(canary.encode()))
    staging.seal(receipts, ReceiptHandles([canary], [canary]))
    event = LoginEvent(canary, canary, canary, canary, canary, None)
    batch = RawBatch(1, [canary], [1], [], [canary.encode()])
    return {
        "a token that is none": lambda: masker.unmask(field, canary),
        "a token of another field": lambda: masker.unmask(
            field, masker.mask(CONTRACT.personal[1], [canary], "")[0]
        ),
        "a keyset that is none": lambda: Keyset.from_json(canary),
        "a keyset with a foreign field": lambda: Keyset.from_json(json.dumps({canary: 1})),
        "a keyset with a foreign value": lambda: Keyset.from_json(json.dumps({"primaryKeyId": canary})),
        "sealed bytes in another context": lambda: keyset.decrypt(
            keyset.encrypt(canary.encode(), b"a"), b"b"
        ),
        "sealed bytes that are none": lambda: keyset.decrypt(canary.encode(), b""),
        "a staged file of another content": lambda: staging.open(raw, RawBatch),
        "receipts of another content": lambda: staging.open(receipts, MaskedBatch),
        "rows without a day": lambda: copy_text.row_lines(
            CONTRACT, [event], copy_text.Facts([], [], [], []), masker.mask
        ),
        "a batch that does not fit together": lambda: mask_batch(
            batch, CONTRACT, keyset, Settings(staging="/"), UUID(int=1)
        ),
    }


@settings(max_examples=15)  # each example fails in eleven ways
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_no_error_shows_a_personal_value_or_a_key(text):
    keyset = Keyset.from_json(KEYSET_JSON)
    with TemporaryDirectory() as folder:
        for what, act in actions(f"canary-4711{text}", keyset, Path(folder)).items():
            with pytest.raises((errors.QueueEtlError, ValueError)) as caught:
                act()
            assert "canary" not in shown(caught.value), what


def test_the_search_for_values_would_find_one():
    try:
        int("canary-4711")
    except ValueError:
        with pytest.raises(errors.KeysetError) as caught:
            raise errors.KeysetError("no key") from None
    assert "canary" in shown(caught.value)
