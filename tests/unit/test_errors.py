"""The tree of errors is the one its docstring draws, and what it says is kept."""

import inspect
import re

import pytest

from include.queue_etl import errors


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


def test_nothing_is_raised_where_the_tree_is_not_told():
    """The root catches them all: the command line and the DAG turn them into one clear line."""
    assert all(issubclass(getattr(errors, name), errors.QueueEtlError) for name in drawn())
