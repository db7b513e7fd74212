"""Replay: archived messages go through the current contract again, each once; nobody erased comes back."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from include.contracts import LoadedContracts
from include.queue_etl import steps
from include.queue_etl.cli import operations, wiring
from include.queue_etl.cli import privacy as privacy_commands
from include.queue_etl.contract import Contract, Normalization, Personal, SentAt, Subject
from include.queue_etl.errors import PreflightError, RunFailed, SettingsError
from include.queue_etl.operations import replay as engine
from include.queue_etl.operations.maintenance import maintain_partitions
from include.queue_etl.operations.replay import Request, replay
from include.queue_etl.operations.store import MaintenanceStore
from include.queue_etl.postgres import masked_columns, migrations, partitions, tables
from include.queue_etl.postgres.runs import RunStore, RunTotals
from include.queue_etl.privacy import rotation, unmask
from include.queue_etl.privacy.audit import AuditLog
from include.queue_etl.privacy.erase import erase
from include.queue_etl.privacy.remask_store import RemaskStore
from include.queue_etl.privacy.subjects import Search
from include.queue_etl.privacy.subjects import Subject as Whom
from tests.integration.privacy import PURPOSE, WHY, PrivacyProject, login, project
from tests.integration.project import Killed, killed_at
from tests.support.contracts import redeclared

pytestmark = pytest.mark.slow

__all__ = ["project"]
AGAIN = "public.user_logins_again"
CARTS = "public.replayed_carts"


class CartChanged(msgspec.Struct):
    """A cart, as it is after a change."""

    cart_id: str
    owner: Annotated[str, Subject()]
    status: str
    email: Annotated[str | None, Personal(Normalization.EMAIL)] = None


class CartWithNote(CartChanged):
    """The same, with what was declared later."""

    note: str | None = None


class CartWithLevel(CartChanged, kw_only=True):
    """The same, with what not every message has."""

    level: int


def create(project: PrivacyProject, contract: Contract) -> None:
    """Make the contract's table as `migrate` does."""
    with project.database.owner() as connection:
        connection.execute("\n".join(tables.create(contract)))
        masked_columns.register(connection, contract)
        partitions.register(connection, contract)


def drop(project: PrivacyProject, table: str) -> None:
    with project.database.owner() as connection:
        connection.execute(f"DROP TABLE {table}")
        connection.execute("DELETE FROM etl.masked_columns WHERE table_name = %s", [table])
        connection.execute("DELETE FROM etl.tables WHERE table_name = %s", [table])


def known(project: PrivacyProject, monkeypatch: pytest.MonkeyPatch) -> PrivacyProject:
    """The project, whose contract the commands know."""
    for module in (wiring, privacy_commands, operations):
        monkeypatch.setattr(module, "load_contract", lambda name: project.contract)
    loaded = LoadedContracts(project.contracts(), {})
    monkeypatch.setattr(privacy_commands, "load_contracts", lambda: loaded)
    monkeypatch.setenv("QUEUE_ETL_MAINTAINER_DSN", project.database.dsn("etl_maintainer"))
    return project


@pytest.fixture
def carts(project: PrivacyProject, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivacyProject]:
    """A contract with a key: its messages have a note that it does not declare yet."""
    contract = Contract(
        name=project.contract.name,  # which the commands take
        queue=project.contract.queue,
        table=CARTS,
        event=CartChanged,
        message=(SentAt("sent_at"),),
        key="cart_id",
    )
    create(project, contract)
    own = replace(project, contract=contract).with_settings(archive_days=30, batch_messages=10)
    yield known(own, monkeypatch)
    drop(project, CARTS)


@pytest.fixture
def logins(project: PrivacyProject, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivacyProject]:
    """A contract without a key, and a second table for it."""
    contract = replace(project.contract, replay_tables=(AGAIN,))
    create(project, replace(contract, table=AGAIN, replay_tables=()))
    own = replace(project, contract=contract).with_settings(archive_days=30, batch_messages=10)
    yield known(own, monkeypatch)
    drop(project, AGAIN)


def cart(number: int, status: str = "new", **more: object) -> bytes:
    event = {"cart_id": f"c{number:02}", "owner": f"o{number:02}", "status": status}
    return json.dumps({**event, "email": f"o{number:02}@example.org", "note": f"{status}!", **more}).encode()


def noted(carts: PrivacyProject, event: type[CartChanged] = CartWithNote) -> PrivacyProject:
    """The project after the contract has got another field, and its table the column."""
    kind = {CartWithNote: "note text", CartWithLevel: "level bigint"}[event]
    with carts.database.owner() as connection:
        connection.execute(f"ALTER TABLE {CARTS} ADD COLUMN {kind}")
    return replace(carts, contract=replace(carts.contract, event=event))


def notes(project: PrivacyProject) -> dict[str, tuple[str, str | None]]:
    """Cart -> its status and note."""
    rows = project.database.rows(f"SELECT cart_id, status, note FROM {CARTS}")  # noqa: S608
    return {number: (status, note) for number, status, note in rows}


def replayed(project: PrivacyProject, name: str = "", *, dry_run: bool = False, **request: Any) -> dict:
    with project.open_redrive(name) as context:
        return replay(context, Request(**request), dry_run=dry_run)


def users(project: PrivacyProject, table: str = AGAIN) -> list[str]:
    return [user for (user,) in project.database.rows(f"SELECT user_id FROM {table} ORDER BY 1")]  # noqa: S608


def erased(project: PrivacyProject, field: str, value: str) -> dict:
    with project.officer() as resources:
        whom = Whom(project.contract, field, value)
        return erase(resources, AuditLog(resources.database), whom, PURPOSE, dry_run=False)


# Into the contract's own table --------------------------------------------------------------------


def test_a_column_that_is_declared_later_gets_its_past(carts: PrivacyProject):
    carts.send(*(cart(number) for number in range(12)))
    carts.drain()
    carts.send(cart(0, "paid"))
    carts.drain()
    later = noted(carts)
    assert set(notes(later).values()) == {("new", None), ("paid", None)}
    result = replayed(later)
    assert result == {
        "dry_run": False, "table": CARTS, "runs": 2, "batches": 3, "done_before": 0, "messages": 13,
        "first_day": result["last_day"], "last_day": result["last_day"], "rows": 12, "unchanged": 1,
        "rejected": {}, "forgotten": 0, "damaged": 0,
    }  # fmt: skip
    assert notes(later) == {f"c{n:02}": ("new", "new!") for n in range(1, 12)} | {"c00": ("paid", "paid!")}


def keeping(project: PrivacyProject) -> PrivacyProject:
    """The project, whose contract keeps what it does not declare."""
    return replace(project, contract=replace(project.contract, unknown_fields="keep"))


def kept(project: PrivacyProject) -> list[tuple]:
    return project.database.rows("SELECT * FROM etl.kept_fields ORDER BY message_id")


def test_a_field_that_was_kept_is_declared_and_gets_its_past(carts: PrivacyProject):
    before = keeping(carts)
    before.send(cart(1), cart(2))
    before.drain()
    lines = kept(before)
    assert len(lines) == 2
    later = noted(before)
    assert replayed(later)["rows"] == 2
    assert notes(later) == {"c01": ("new", "new!"), "c02": ("new", "new!")}
    assert kept(later) == lines


def test_a_replay_into_a_new_table_keeps_no_field_twice(logins: PrivacyProject):
    project = keeping(logins)
    project.send(login("anna", city="Bonn"), login("ben"))
    project.drain()
    lines = kept(project)
    assert len(lines) == 1
    assert replayed(project, table=AGAIN)["rows"] == 2
    assert kept(project) == lines


def test_replayed_again_it_changes_nothing(carts: PrivacyProject):
    carts.send(*(cart(number) for number in range(12)))
    carts.drain()
    later = noted(carts)
    replayed(later)
    before = later.database.rows(f"SELECT ctid, * FROM {CARTS} ORDER BY 2")  # noqa: S608
    again = replayed(later)
    assert (again["batches"], again["rows"], again["unchanged"]) == (2, 0, 12)
    assert later.database.rows(f"SELECT ctid, * FROM {CARTS} ORDER BY 2") == before  # noqa: S608


def test_a_row_that_a_later_message_made_stays_as_it_is(carts: PrivacyProject):
    carts.send(cart(1), cart(2))
    carts.drain()
    carts.with_settings(archive_days=0).send(cart(1, "paid"))
    carts.with_settings(archive_days=0).drain()
    later = noted(carts)
    result = replayed(later)
    assert (result["rows"], result["unchanged"]) == (1, 1)
    assert notes(later) == {"c01": ("paid", None), "c02": ("new", "new!")}


def test_of_messages_of_one_millisecond_the_first_that_loaded_stays(
    carts: PrivacyProject, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(steps, "_seal", sealed_at(steps._seal, 1_769_903_999_000))
    for status in ("first", "second"):
        carts.send(cart(1, status))
        carts.drain()
    later = noted(carts)
    assert notes(later) == {"c01": ("first", None)}
    replayed(later)
    assert notes(later) == {"c01": ("first", "first!")}


def sealed_at(seal: Any, sent_ms: int) -> Any:
    """A `seal` for which every message was sent then."""

    def same(context: Any, intake: Any) -> None:
        intake.open = [msgspec.structs.replace(one, sent_ms=sent_ms) for one in intake.open]
        seal(context, intake)

    return same


def test_a_killed_replay_goes_on_where_it_was(carts: PrivacyProject, monkeypatch: pytest.MonkeyPatch):
    carts.send(*(cart(number) for number in range(30)))
    carts.drain()
    later = noted(carts)
    for left in (20, 10):
        with monkeypatch.context() as patch:
            killed_at(MaintenanceStore, "replay", patch, after=True)
            with pytest.raises(Killed):
                replayed(later, "replay__1")
        assert Counter(note for _, note in notes(later).values())[None] == left
    last = replayed(later, "replay__1")
    assert (last["batches"], last["done_before"], last["rows"]) == (1, 2, 10)
    assert Counter(note for _, note in notes(later).values()) == {"new!": 30}
    assert replayed(later, "replay__1")["batches"] == 0
    runs = "SELECT state, kind, loaded, received FROM etl.run_summary WHERE kind = 'replay'"
    assert later.database.rows(runs) == [("succeeded", "replay", 30, 0)]


def test_under_its_name_another_time_is_another_replay(carts: PrivacyProject):
    carts.send(cart(1))
    carts.drain()
    later = noted(carts)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert replayed(later, "replay__1", since=tomorrow)["messages"] == 0
    assert replayed(later, "replay__1", until=tomorrow)["rows"] == 1
    assert replayed(later, "replay__1", until=tomorrow)["messages"] == 0  # done


def test_the_time_is_that_of_sending(carts: PrivacyProject):
    carts.send(cart(1))
    carts.drain()
    carts.send(cart(2))
    carts.drain()
    later = noted(carts)
    ((moment,),) = later.database.rows(f"SELECT sent_at FROM {CARTS} WHERE cart_id = 'c02'")  # noqa: S608
    assert replayed(later, until=moment)["messages"] == 1
    assert notes(later) == {"c01": ("new", "new!"), "c02": ("new", None)}
    assert replayed(later, since=moment, until=moment + timedelta(milliseconds=1))["rows"] == 1
    assert replayed(later, since=moment + timedelta(days=2))["messages"] == 0


def test_a_dry_run_says_what_would_become_of_them_and_changes_nothing(carts: PrivacyProject):
    carts.send(*(cart(number) for number in range(12)), cart(12, level=3))
    carts.drain()
    later = noted(carts, CartWithLevel)
    today = datetime.now(UTC).date()
    result = replayed(later, dry_run=True)
    assert result.pop("first_day") in (str(today), str(today - timedelta(days=1)))
    assert result.pop("last_day") in (str(today), str(today - timedelta(days=1)))
    assert result == {
        "dry_run": True, "table": CARTS, "runs": 1, "batches": 2, "done_before": 0, "messages": 13,
        "rejected": {"missing_field level": 12}, "forgotten": 0, "damaged": 0,
    }  # fmt: skip
    assert later.database.rows(f"SELECT count(level) FROM {CARTS}") == [(0,)]  # noqa: S608
    assert later.database.rows("SELECT kind FROM etl.runs") == [("queue",)]


def test_what_the_contract_rejects_is_counted_and_stays_in_the_archive(carts: PrivacyProject):
    carts.send(*(cart(number) for number in range(3)), cart(3, level=3), b"not json")
    carts.drain()
    quarantine = "SELECT reason, redriven_at FROM etl.quarantine"
    before = carts.database.rows(quarantine)
    later = noted(carts, CartWithLevel)
    for done in ((1, 0), (0, 1)):
        result = replayed(later)
        assert result["rejected"] == {"bad_json": 1, "missing_field level": 3}
        assert (result["messages"], result["rows"], result["unchanged"]) == (5, *done)
    assert later.database.rows(f"SELECT level FROM {CARTS} ORDER BY cart_id") == [(None,)] * 3 + [(3,)]  # noqa: S608
    assert later.database.rows(quarantine) == before == [("bad_json", None)]
    assert later.waiting() == (0, 0)


def test_a_damaged_batch_is_counted_and_the_others_are_replayed(
    carts: PrivacyProject, capsys: pytest.CaptureFixture[str]
):
    carts.send(*(cart(number) for number in range(12)))
    carts.drain()
    later = noted(carts)
    file = sorted(Path(carts.settings.staging).glob("*/*.raw"))[1]
    file.write_bytes(file.read_bytes()[:-1])
    result = replayed(later, "replay__1")
    assert (result["batches"], result["rows"], result["damaged"]) == (1, 10, 1)
    states = "SELECT state FROM etl.runs WHERE kind = 'replay'"
    assert later.database.rows(states) == [("failed",)]


def test_a_replay_that_was_closed_meanwhile_says_so(carts: PrivacyProject, monkeypatch: pytest.MonkeyPatch):
    """By maintenance, which took it for abandoned: what came after that was not loaded."""
    carts.send(cart(1))
    carts.drain()
    later = noted(carts)
    opened = engine._open_run

    def then_closed(target: Any) -> Any:
        run = opened(target)
        target.store.close_run(target.run.id, "failed", RunTotals())
        return run

    monkeypatch.setattr(engine, "_open_run", then_closed)
    with pytest.raises(RunFailed, match="closed meanwhile"):
        replayed(later)
    assert notes(later) == {"c01": ("new", None)}


# Into a table of its own ----------------------------------------------------------------------------


def test_a_contract_without_a_key_is_replayed_into_a_new_table(logins: PrivacyProject):
    logins.send(*(login(f"u{n:02}") for n in range(12)), login("v2", app_version="v2"))
    logins.drain()
    result = replayed(logins, table=AGAIN)
    assert (result["rows"], result["unchanged"], result["rejected"]) == (
        12,
        0,
        {"bad_version app_version": 1},
    )
    assert users(logins) == logins.users()
    assert logins.quarantined() == ["bad_version app_version"]
    both = f"SELECT * FROM user_logins EXCEPT ALL SELECT * FROM {AGAIN}"  # noqa: S608
    assert logins.database.rows(both) == []  # equal values have equal tokens, so that both tables join
    names = logins.database.rows("SELECT name FROM etl.queues ORDER BY queue_id")
    assert names == [(logins.contract.queue,), (f"replay:{AGAIN}:{logins.contract.queue}",)]


@pytest.mark.parametrize("name", ["replay__1", "replay__2"])
def test_a_killed_replay_into_a_new_table_loads_each_message_once(
    logins: PrivacyProject, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Done again under its own name or another, at whatever point it was killed."""
    logins.send(*(login(f"u{n:02}") for n in range(25)))
    logins.drain()
    for after in (True, False):
        with monkeypatch.context() as patch:
            killed_at(RunStore, "load", patch, after=after)
            with pytest.raises(Killed):
                replayed(logins, "replay__1", table=AGAIN)
    assert len(users(logins)) == 10 - 5  # the last batch, which is the first
    result = replayed(logins, name, table=AGAIN)
    assert users(logins) == logins.users()
    assert (result["done_before"], result["unchanged"]) == ((1, 0) if name == "replay__1" else (0, 5))


def test_a_message_that_two_runs_archived_is_loaded_once(logins: PrivacyProject):
    logins.send(*(login(f"u{n:02}") for n in range(8)))
    with logins.open_run() as context:
        messages = [message for some in context.queue.receive(100, 60) for message in some]
        context.queue.resend(messages[:3])
        context.queue.release([message.receipt_handle for message in messages])
    assert logins.drain()["duplicates"] == 3
    result = replayed(logins, table=AGAIN)
    assert (result["messages"], result["rows"], result["unchanged"]) == (11, 8, 3)
    assert users(logins) == logins.users()


def test_two_replays_at_once_load_each_message_once(logins: PrivacyProject):
    logins.send(*(login(f"u{n:02}") for n in range(40)))
    logins.drain()
    with ThreadPoolExecutor(2) as pool:
        names = ("replay__1", "replay__2")
        results = list(pool.map(lambda name: replayed(logins, name, table=AGAIN), names))
    assert sum(result["rows"] for result in results) == 40
    assert users(logins) == logins.users()


def test_messages_whose_day_the_ledger_may_forget_are_left_out(logins: PrivacyProject):
    logins.send(login("u"))
    logins.drain()
    forgetful = logins.with_settings(ledger_days=-1)  # all that was sent until today
    result = replayed(forgetful, table=AGAIN)
    assert (result["messages"], result["rows"], result["forgotten"]) == (0, 0, 1)
    assert users(logins) == []


def test_a_table_that_cannot_be_replayed_into_is_refused(logins: PrivacyProject):
    with pytest.raises(SettingsError, match=f"every row twice: give --table, one of {AGAIN}"):
        replayed(logins)
    with pytest.raises(SettingsError, match="every row twice"):
        replayed(logins, table=logins.contract.table)
    with pytest.raises(SettingsError, match=r"add the table, then run `contract migration user_logins` and"):
        replayed(logins, table="public.another")
    without = replace(logins, contract=replace(logins.contract, replay_tables=()))
    with pytest.raises(SettingsError, match="name a new one in its replay_tables"):
        replayed(without)
    missing = replace(logins, contract=replace(logins.contract, replay_tables=("public.missing",)))
    with pytest.raises(PreflightError, match=r"there is no table public\.missing: its migration is missing"):
        replayed(missing, table="public.missing")


def test_sums_over_the_runs_of_the_queue_count_each_message_once(logins: PrivacyProject):
    logins.send(*(login(f"u{n:02}") for n in range(12)), b"not json")
    logins.drain()
    replayed(logins, table=AGAIN)
    sums = "SELECT kind, sum(received), sum(loaded), sum(quarantined), sum(duplicates) FROM etl.run_summary"
    rows = logins.database.rows(f"{sums} GROUP BY kind ORDER BY kind")
    assert rows == [("queue", 13, 12, 1, 0), ("replay", 0, 12, 0, 0)]


def test_maintenance_keeps_the_partitions_of_every_table(logins: PrivacyProject):
    with logins.resources() as resources:
        made = maintain_partitions(resources, logins.contracts())["partitions_made"]
        assert maintain_partitions(resources, logins.contracts())["partitions_made"] == 0
    count = f"SELECT count(*) FROM pg_inherits WHERE inhparent = '{AGAIN}'::regclass"  # noqa: S608
    assert logins.database.rows(count) == [(2,)]  # of this month and the next
    assert made >= 2


def test_migrate_renews_the_rights_and_partitions_of_every_table(logins: PrivacyProject):
    with logins.database.owner() as connection:
        connection.execute(f"REVOKE ALL ON {AGAIN} FROM etl_loader, pii_officer")
        connection.execute("DELETE FROM etl.tables WHERE table_name = %s", [AGAIN])
    migrations.upgrade(logins.database.owner_dsn, {}, [logins.contract])
    logins.send(login("anna"))
    logins.drain()
    assert replayed(logins, table=AGAIN)["rows"] == 1
    assert erased(logins, "user_id", "anna")["rows"] == 2


# Personal data ----------------------------------------------------------------------------------------


def test_nobody_who_was_erased_comes_back_by_a_replay(carts: PrivacyProject):
    carts.send(cart(1), cart(2), cart(3))
    carts.drain()
    carts.send(cart(3, "paid", gift_for="o01"))
    carts.drain()
    later = noted(carts)
    counts = erased(later, "owner", "o01")
    # The order of o03 names o01, so it goes too: when in doubt a message goes.
    assert (counts["rows"], counts["file_messages"]) == (1, 2)
    assert replayed(later)["messages"] == 2
    rows = later.database.rows(f"SELECT cart_id, owner, email, note FROM {CARTS} ORDER BY 1")  # noqa: S608
    assert rows[0] == ("c01", None, None, None)
    assert [row[0] for row in rows if row[3]] == ["c02"]


def test_erase_reaches_every_table_that_was_replayed_into(logins: PrivacyProject):
    logins.send(login("anna"), login("bert"))
    logins.drain()
    replayed(logins, table=AGAIN)
    assert erased(logins, "user_id", "anna")["rows"] == 2
    for table in (AGAIN, "user_logins"):
        rows = logins.database.rows(f"SELECT user_id, masked_ip IS NULL FROM {table} ORDER BY 1")  # noqa: S608
        assert rows == [("bert", False), (None, True)]
    assert erased(logins, "ip", "192.0.2.7")["rows"] == 2


def test_erase_tells_of_a_replay_that_may_have_read_the_archive_before(logins: PrivacyProject):
    logins.send(login("anna"))
    logins.drain()
    with logins.open_redrive("replay__1") as context:
        engine._open_run(engine._target(context, Request(AGAIN)))
    assert erased(logins, "user_id", "anna")["open_runs"] == 1
    replayed(logins, "replay__1", table=AGAIN)
    assert erased(logins, "user_id", "anna")["open_runs"] == 0


def test_erase_names_what_is_missing_of_a_table_to_replay_into(logins: PrivacyProject):
    missing = replace(logins, contract=replace(logins.contract, replay_tables=(AGAIN, "public.missing")))
    with pytest.raises(PreflightError, match=r"there is no table public\.missing"):
        erased(missing, "user_id", "anna")
    with logins.database.owner() as connection:
        connection.execute(f"REVOKE UPDATE (user_id) ON {AGAIN} FROM pii_officer")
    with pytest.raises(PreflightError, match=re.escape(f"may not UPDATE (user_id) on {AGAIN}")):
        erased(logins, "user_id", "anna")


def test_unmask_and_mask_look_into_every_table(
    logins: PrivacyProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    logins.send(login("anna"), login("bert", ip="10.0.0.1"))
    logins.drain()
    replayed(logins, table=AGAIN)
    with logins.database.owner() as connection:
        connection.execute("DELETE FROM user_logins")
    with logins.officer() as resources:
        ((_, tokens),) = unmask.find(resources, [Search.of_field(logins.contract, "user_id", "anna")])
    assert [masked.field for masked, _ in tokens] == ["ip", "device_id"]
    addresses = tmp_path / "addresses.txt"
    addresses.write_text("192.0.2.7\n")
    assert logins.command("mask", "--field", "ip", "--file", str(addresses), "--count", "--json", *WHY) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 1


def test_a_new_key_reaches_every_table(logins: PrivacyProject):
    (old,) = logins.document().key_ids
    logins.send(login("anna"))
    logins.drain()
    replayed(logins, table=AGAIN)
    logins.promote_new_key()
    with logins.remasker() as resources:
        (status, *_) = [key for key in rotation.status(resources, logins.contracts()) if key["key_id"] == old]
        assert status["in_use"][f"{AGAIN}.masked_ip"] == 1
        columns = RemaskStore(resources.database).masked_columns(logins.contracts().values())
        assert {used.how_to_move for used in rotation.usage(resources, columns, old)} == {""}
        done = rotation.remask(resources, AuditLog(resources.database), logins.contracts(), PURPOSE)
        assert (done["rows"], done["files"], done["left"]) == (2, 2, 0)
        rotation.retire(resources, AuditLog(resources.database), logins.contracts(), old, PURPOSE)


# The command ------------------------------------------------------------------------------------------


def test_the_command_counts_then_does_it_and_says_so_in_one_line(
    carts: PrivacyProject,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):
    carts.send(*(cart(number) for number in range(3)), b"not json")
    carts.drain()
    later = known(noted(carts), monkeypatch)
    assert later.command("replay") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(
        rf"would be replayed into {CARTS}: runs 1, batches 1, done_before 0, messages 4, first_day \S+, "
        r"last_day \S+, forgotten 0, damaged 0; rejected: bad_json 1\n",
        out,
    )
    assert (err, notes(later)["c01"]) == ("", ("new", None))
    caplog.clear()
    monkeypatch.setattr(engine, "PROGRESS_SECONDS", 0.0)
    assert later.command("replay", "--apply", "--since", "2026-01-01", "--until", "2999-01-01") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"replayed into {CARTS}: runs 1, batches 1, ")
    assert "rows 3, unchanged 0" in out
    assert re.search(r"^after a stop, go on with --run-id (replay__\S+)$", err, re.MULTILINE)
    assert re.fullmatch(r"1 of 1 batches, \d+ messages a second", caplog.messages[-1])
    assert notes(later)["c01"] == ("new", "new!")


def test_the_command_goes_on_with_the_run_it_named(
    carts: PrivacyProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    carts.send(*(cart(number) for number in range(12)))
    carts.drain()
    later = known(noted(carts), monkeypatch)
    with monkeypatch.context() as patch:
        killed_at(MaintenanceStore, "replay", patch, after=True)
        with pytest.raises(Killed):
            later.command("replay", "--apply", "--json")
    out, err = capsys.readouterr()
    name = err.split()[-1]
    assert (out, later.command("replay", "--apply", "--json", "--run-id", name)) == ("", 0)
    result = json.loads(capsys.readouterr().out)
    assert (result["done_before"], result["batches"], result["rows"]) == (1, 1, 10)


def test_the_command_fails_where_not_everything_was_replayed(
    logins: PrivacyProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    logins.send(login("u"))
    logins.drain()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "datetime", Tomorrow)
        assert logins.command("replay", "--table", AGAIN) == 1
    assert "1 messages were left out: they were sent so long ago" in capsys.readouterr().err
    (file,) = Path(logins.settings.staging).glob("*/*.raw")
    file.write_bytes(b"damaged")
    assert logins.command("replay", "--table", AGAIN) == 1
    assert "replay: 1 archived batches could not be read" in capsys.readouterr().err


class Tomorrow(datetime):
    """A clock that is 40 days ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(days=40)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "every row twice: give --table"),
        (["--table", "public.another"], "not in the replay_tables"),
        (["--since", "yesterday"], "'yesterday' is no time"),
        (["--since", "2026-02-01", "--until", "2026-01-01"], "nothing lies between"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_read(
    logins: PrivacyProject, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
):
    assert logins.command("replay", *arguments) == 2
    assert problem in capsys.readouterr().err


def test_a_redeclared_column_shows_in_both_tables(logins: PrivacyProject):
    """As the contract is now, not as it was when the messages came."""
    logins.send(login("u", device_type=None))
    logins.drain()
    shorter = redeclared(logins.contract, device_type=Annotated[str, Meta(max_length=16)] | None)
    assert replayed(replace(logins, contract=shorter), table=AGAIN)["rows"] == 1
