"""Rotation: the drill from the first key to the end of it, and everything that must keep a key alive."""

import json
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated

import boto3
import pytest

from include.contracts import LoadedContracts
from include.contracts.user_logins import Secret
from include.queue_etl import steps
from include.queue_etl.cli import privacy as privacy_commands
from include.queue_etl.contract import Normalization, Personal, Scheme
from include.queue_etl.errors import KeyInUse, KeysetError, PreflightError, WarehouseRefused
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.keys.token_format import token_prefixes
from include.queue_etl.operations.redrive import redrive
from include.queue_etl.operations.store import Selection
from include.queue_etl.privacy import rotation
from include.queue_etl.privacy.audit import AuditLog
from include.queue_etl.privacy.remask_store import RemaskStore
from include.queue_etl.staging.area import Kind
from include.queue_etl.transform.masking import Masker
from tests.integration.privacy import PURPOSE, WHY, PrivacyProject, login, logins, project
from tests.integration.project import Killed
from tests.support.contracts import redeclared

pytestmark = pytest.mark.slow

__all__ = ["project"]
BAD = [b'{"user_id": "bad1", "ip": "192.0.2.200"', login("bad2", app_version="v2", ip="192.0.2.201")]


def primary(project: PrivacyProject) -> int:
    return project.document().key_ids[0]


def tokens_of(project: PrivacyProject, key: int) -> int:
    prefixes = "', '".join(token_prefixes(key))
    return project.database.rows(
        f"SELECT count(*) FILTER (WHERE left(masked_ip, 7) IN ('{prefixes}')) + count(*) FILTER"  # noqa: S608
        f" (WHERE left(masked_device_id, 7) IN ('{prefixes}')) FROM public.user_logins"
    )[0][0]


def rotate(project: PrivacyProject) -> tuple[int, int]:
    """Add a key and promote it; the old and the new one."""
    old = primary(project)
    assert project.command("keys", "add") == 0
    new = project.document().key_ids[1]
    assert project.command("keys", "promote", str(new)) == 0
    return old, new


def remask(project: PrivacyProject) -> dict[str, int]:
    with project.remasker() as resources:
        return rotation.remask(resources, AuditLog(resources.database), project.contracts(), PURPOSE)


# The drill --------------------------------------------------------------------------------------------------


def test_the_drill(project: PrivacyProject, capsys):
    """Create, load, add, promote, load, remask, destroy: all originals back, the old key useless."""
    project.key_file.unlink()
    assert project.command("keys", "create") == 0
    assert stat.S_IMODE(project.key_file.stat().st_mode) == 0o600
    first, later = logins("a", 250), logins("b", 150)
    project.send(*first, *BAD)
    project.drain()
    stolen = project.database.rows("SELECT masked_ip FROM public.user_logins LIMIT 1")[0][0]
    with_old_key = project.key_file.read_text()

    old, new = rotate(project)
    project.send(*later)
    project.drain()
    assert (tokens_of(project, old), tokens_of(project, new)) == (500, 300)
    capsys.readouterr()
    assert project.command("keys", "destroy", str(old), *WHY) == 1
    refusal = capsys.readouterr().err
    for place in ("masked_ip: 250", "masked_device_id: 250", "quarantined messages: 2", "staged files: "):
        assert place in refusal

    assert project.command("remask", *WHY, "--json") == 0
    moved = json.loads(capsys.readouterr().out)
    assert moved["rows"] == 250
    assert moved["payloads"] == 2
    assert moved["files"] > 0
    assert moved["left"] == moved["unopened"] == moved["one_way"] == moved["open_runs"] == 0
    assert (tokens_of(project, old), tokens_of(project, new)) == (0, 800)
    assert project.command("keys", "destroy", str(old), *WHY) == 0
    assert project.document().key_ids == [new]

    assert project.originals() == {*first.values(), *later.values()}
    column = project.contract.personal[0]
    assert Masker(project.contract, Keyset.from_json(with_old_key)).unmask(column, stolen).startswith("10.0.")
    with pytest.raises(KeysetError, match=f"key id {old}"):
        Masker(project.contract, Keyset.from_json(project.key_file.read_text())).unmask(column, stolen)
    selection = Selection(project.contract.queue)
    with project.open_redrive() as context:  # the quarantine opens with the new key alone
        assert redrive(context, selection)["messages"] == 2
        assert "does not open" not in json.dumps(redrive(context, selection))
    assert [action for action, _ in project.audit()] == ["remask", "destroy key"]
    # The pipeline goes on with the keyset that lacks the old key, and refuses the one that has it as primary.
    project.send(login("c1"))
    assert project.drain()["loaded"] == 1
    project.key_file.write_text(with_old_key)
    with pytest.raises(PreflightError, match=f"lacks key {new}"):
        project.drain()


# What keeps a key -------------------------------------------------------------------------------------------


def retire(project: PrivacyProject, key: int, **options: bool) -> KeysetDocument:
    with project.remasker() as resources:
        return rotation.retire(
            resources, AuditLog(resources.database), project.contracts(), key, PURPOSE, **options
        )


def is_retired(project: PrivacyProject, key: int) -> bool:
    return project.database.rows(f"SELECT retired_at IS NOT NULL FROM etl.keys WHERE key_id = {key}")[0][0]  # noqa: S608


def test_a_primary_key_is_never_destroyed(project: PrivacyProject):
    with pytest.raises(KeysetError, match="promote another one first"):
        retire(project, primary(project))


def test_a_key_that_is_not_there_is_not_destroyed(project: PrivacyProject):
    with pytest.raises(KeysetError, match="has no key 5"):
        retire(project, 5)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ("UPDATE public.user_logins SET masked_ip = NULL", "masked_device_id: 1 are encrypted with it"),
        ("UPDATE public.user_logins SET masked_device_id = NULL", "masked_ip: 1 are encrypted with it"),
        ("TRUNCATE public.user_logins", "quarantined messages: 2 are encrypted with it"),
        ("TRUNCATE public.user_logins, etl.quarantine", "staged files: 2 are encrypted with it"),
    ],
)
def test_whatever_still_uses_the_key_keeps_it(last, told, project: PrivacyProject):
    project.send(login("u1"), *BAD)
    project.drain()
    old, _ = rotate(project)
    with project.database.owner() as connection:
        connection.execute(last)
    with pytest.raises(KeyInUse, match=told):
        retire(project, old)
    assert not is_retired(project, old)


def test_an_open_run_keeps_every_key(project: PrivacyProject):
    project.send(login("u1"))
    with project.open_run("open") as context:
        steps.extract(context)
    old, _ = rotate(project)
    with pytest.raises(KeyInUse, match="1 runs are open"):
        retire(project, old)
    assert not is_retired(project, old)


def test_a_run_with_an_outdated_keyset_is_refused_and_messages_come_back(project: PrivacyProject):
    """It was given the keyset before the new key was promoted, and starts after the old one was destroyed."""
    stale = project.open_run("late")  # has read the keyset
    old, _ = rotate(project)
    project.key_file.write_text(retire(project, old).text)
    project.send(login("u1"))
    with stale as context, pytest.raises(KeysetError, match=f"key {old} is retired"):
        steps.extract(context)
    assert project.waiting() == (1, 0)
    assert project.drain("fresh")["loaded"] == 1


@pytest.fixture
def retired(project: PrivacyProject) -> Iterator[tuple[int, str]]:
    """A key that only the table of a pipeline whose file is gone still needs, and that table."""
    table = f"public.retired_{secrets.token_hex(4)}"
    own = replace(project.contract, name="retired", table=table, partition_by=None)
    with project.database.owner() as connection:
        connection.execute(f"CREATE TABLE {table} (LIKE public.user_logins)")
        connection.execute(
            "SELECT etl.grant_contract(%s::regclass, '{masked_ip, masked_device_id}')", [table]
        )
    project.send(login("u1"), login("u2"), *BAD)
    assert replace(project, contract=own).drain()["loaded"] == 2
    with project.database.owner() as connection:
        connection.execute("TRUNCATE etl.quarantine")
        connection.execute(f"UPDATE {table} SET masked_ip = NULL")  # noqa: S608
    shutil.rmtree(project.settings.staging)
    old, _ = rotate(project)
    yield old, table
    with project.database.owner() as connection:
        connection.execute(f"DROP TABLE IF EXISTS {table}")
        connection.execute("DELETE FROM etl.masked_columns WHERE contract = 'retired'")


def test_rows_of_a_pipeline_that_is_gone_keep_their_key(
    project: PrivacyProject, retired: tuple[int, str], capsys
):
    """Its file, quarantine and staged files are gone; its rows are not."""
    old, table = retired
    hint = "restore the file of contract retired and remask, or drop the column"
    told = f"{table}.masked_device_id: 2 are encrypted with it: no contract masks it today; {hint}"
    assert project.command("keys", "destroy", str(old), *WHY) == 1
    assert capsys.readouterr().err == f"keys destroy: the key stays:\n  - {told}\n"
    assert not is_retired(project, old)
    assert old in project.document().key_ids
    assert project.command("keys", "status", "--json") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {key["key_id"]: key["in_use"] for key in shown}[old] == {f"{table}.masked_device_id": 2}
    assert remask(project)["left"] == 2


def test_a_table_that_was_dropped_needs_no_key(project: PrivacyProject, retired: tuple[int, str], caplog):
    old, table = retired
    with project.database.owner() as connection:
        connection.execute(f"DROP TABLE {table}")
    assert project.command("keys", "destroy", str(old), *WHY) == 0
    gone = "of contract retired does not exist any more: it holds nothing"
    assert [f"{table}.{column} {gone}" for column in ("masked_device_id", "masked_ip")] == caplog.messages


def test_a_column_that_may_not_be_read_keeps_every_key(
    project: PrivacyProject, retired: tuple[int, str], capsys
):
    old, table = retired
    with project.database.owner() as connection:
        connection.execute(f"REVOKE ALL ON {table} FROM etl_remasker")
    assert project.command("keys", "destroy", str(old), *WHY) == 1
    told = capsys.readouterr().err
    assert f"role etl_remasker may not read {table}.masked_device_id" in told
    assert f"GRANT SELECT (masked_device_id) ON {table} TO etl_remasker" in told
    assert not is_retired(project, old)


def test_no_key_is_destroyed_while_a_contract_is_broken(project: PrivacyProject, monkeypatch, capsys):
    problem = "include/contracts/orders.py, line 9: contract orders: no such event field: total"
    loaded = LoadedContracts(project.contracts(), {"orders": problem})
    monkeypatch.setattr(privacy_commands, "load_contracts", lambda: loaded)
    project.send(login("u1"))
    project.drain()
    old, _ = rotate(project)
    assert remask(project)["left"] == 0
    capsys.readouterr()
    assert project.command("keys", "destroy", str(old), *WHY) == 1
    assert capsys.readouterr().err == f"keys destroy: broken contracts:\n  - {problem}\n"
    assert old in project.document().key_ids


def test_remask_goes_on_without_a_broken_contract_and_says_so(
    project: PrivacyProject, monkeypatch, capsys, caplog
):
    loaded = LoadedContracts(project.contracts(), {"orders": "include/contracts/orders.py: it is empty"})
    monkeypatch.setattr(privacy_commands, "load_contracts", lambda: loaded)
    project.send(login("u1"))
    project.drain()
    rotate(project)
    capsys.readouterr()
    assert project.command("remask", *WHY, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 1
    assert "contract orders is left out: include/contracts/orders.py: it is empty" in caplog.messages


def test_a_token_that_does_not_open_stays_and_keeps_its_key(project: PrivacyProject):
    project.send(login("u1"), login("u2"))
    project.drain()
    old, _ = rotate(project)
    with project.database.owner() as connection:
        connection.execute(
            "UPDATE public.user_logins SET masked_ip = left(masked_ip, 30) || 'AAAAAAAAAAAAAAAAAAAAA'"
            " WHERE user_id = 'u1'"
        )
    counts = remask(project)
    assert (counts["rows"], counts["unopened"], counts["left"]) == (2, 1, 1)
    assert remask(project)["rows"] == 0
    with pytest.raises(KeyInUse, match="masked_ip: 1 are encrypted with it"):
        retire(project, old)


def test_one_way_tokens_keep_their_key_unless_they_are_abandoned(project: PrivacyProject):
    one_way = Personal(Normalization.IP, "masked_ip", token_chars=256, scheme=Scheme.ONE_WAY)
    contract = redeclared(project.contract, ip=Annotated[Secret | None, one_way])
    project = replace(project, contract=contract)
    project.send(login("u1"), login("u2"))
    project.drain()
    old, _ = rotate(project)
    counts = remask(project)
    assert (counts["rows"], counts["one_way"], counts["left"]) == (2, 2, 0)
    with pytest.raises(KeyInUse, match=r"masked_ip \(one-way\): 2 are encrypted with it"):
        retire(project, old)
    assert retire(project, old, abandon_one_way=True).key_ids == [primary(project)]


# Remask -----------------------------------------------------------------------------------------------------


def test_remask_goes_on_where_it_was_stopped(project: PrivacyProject, monkeypatch):
    sent = logins("a", 300)
    project.send(*sent)
    project.drain()
    old, _ = rotate(project)
    monkeypatch.setattr("include.queue_etl.privacy.remask_store.BLOCKS", 1)
    move, calls = RemaskStore.move_rows, []

    def stops(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return move(self, *arguments)

    monkeypatch.setattr(RemaskStore, "move_rows", stops)
    with pytest.raises(Killed):
        remask(project)
    left = tokens_of(project, old)
    assert 0 < left < 600
    counts = remask(project)
    assert counts["rows"] == left / 2
    assert tokens_of(project, old) == 0
    assert project.originals() == set(sent.values())


def test_rows_loaded_while_remask_is_at_work_are_whole_and_moved(project: PrivacyProject):
    first, later = logins("a", 1_000), logins("b", 300)
    project.send(*first)
    project.drain()
    old, new = rotate(project)
    project.send(*later)
    loading = threading.Thread(target=project.drain)
    loading.start()
    counts = remask(project)
    loading.join()
    assert counts["rows"] == 1_000
    assert tokens_of(project, old) == 0
    assert tokens_of(project, new) == 2_600
    assert project.originals() == {*first.values(), *later.values()}


OtherTable = Callable[[str], PrivacyProject]


@pytest.fixture
def other_table(project: PrivacyProject) -> Iterator[OtherTable]:
    """Puts another table of the same columns in place of user_logins, which the engine does not partition."""

    def put(kind: str) -> PrivacyProject:
        with project.database.owner() as connection:
            connection.execute("ALTER TABLE public.user_logins RENAME TO months_of_logins")
            connection.execute(
                f"CREATE TABLE public.user_logins (LIKE public.months_of_logins INCLUDING ALL) {kind}"
            )
            connection.execute(
                "SELECT etl.grant_contract('public.user_logins', '{masked_ip, masked_device_id}')"
            )
        return replace(project, contract=replace(project.contract, partition_by=None))

    yield put
    with project.database.owner() as connection:
        connection.execute("DROP TABLE public.user_logins CASCADE")
        connection.execute("ALTER TABLE public.months_of_logins RENAME TO user_logins")


@pytest.fixture
def partitioned(other_table: OtherTable) -> PrivacyProject:
    """The table in four partitions, by user id, one of them partitioned itself."""
    project = other_table("PARTITION BY HASH (user_id)")
    with project.database.owner() as connection:
        for number in range(4):
            of = f"PARTITION OF public.user_logins FOR VALUES WITH (MODULUS 4, REMAINDER {number})"
            below = " PARTITION BY HASH (user_id)" if number == 3 else ""
            connection.execute(f"CREATE TABLE public.part_{number} {of}{below}")
        connection.execute(
            "CREATE TABLE public.part_3_0 PARTITION OF public.part_3 FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
        )
    return project


@pytest.mark.parametrize("blocks", [1, 128])
def test_remask_moves_the_rows_of_every_partition(blocks: int, partitioned: PrivacyProject, monkeypatch):
    monkeypatch.setattr("include.queue_etl.privacy.remask_store.BLOCKS", blocks)
    sent = logins("a", 400)
    # Equal tokens at equal places of two partitions, too.
    partitioned.send(*sent, *(login(f"twin{n}", ip="10.9.9.9", device_id="twin") for n in range(40)))
    partitioned.drain()
    old, new = rotate(partitioned)
    assert remask(partitioned)["rows"] == 440
    assert (tokens_of(partitioned, old), tokens_of(partitioned, new)) == (0, 880)
    twins = {(f"twin{n}", "10.9.9.9", "twin") for n in range(40)}
    assert partitioned.originals() == {*sent.values(), *twins}
    assert remask(partitioned)["rows"] == 0


def test_remask_does_not_reread_a_partitioned_table_in_each_transaction(
    partitioned: PrivacyProject, monkeypatch
):
    """A plan that reads whole partitions for each of the 40 transactions reads each row 40 times."""
    monkeypatch.setattr("include.queue_etl.privacy.remask_store.BLOCKS", 1)
    partitioned.send(*logins("a", 80))
    partitioned.drain()
    with partitioned.database.owner() as connection:
        connection.execute(
            "INSERT INTO public.user_logins SELECT login.* FROM public.user_logins AS login,"
            " generate_series(1, 99)"
        )
    rotate(partitioned)
    assert remask(partitioned)["rows"] == 8_000
    others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    while partitioned.database.rows(others):  # a session tells its counts when it ends
        time.sleep(0.02)
    ((read,),) = partitioned.database.rows(
        "SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname LIKE 'part\\_%'"
    )
    assert 8_000 < read < 10 * 8_000


@pytest.fixture
def child(other_table: OtherTable) -> Iterator[Callable[..., PrivacyProject]]:
    """Makes a child table of user_logins, as partitions were before they had a syntax."""
    project = other_table("")
    with project.database.owner() as connection:
        connection.execute("CREATE FOREIGN DATA WRAPPER nowhere")
        connection.execute("CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere")

    def make(kind: str, place: str = "") -> PrivacyProject:
        with project.database.owner() as connection:
            connection.execute(f"CREATE {kind} public.child () INHERITS (public.user_logins) {place}")
        return project

    yield make
    with project.database.owner() as connection:
        connection.execute("DROP FOREIGN DATA WRAPPER nowhere CASCADE")


def test_remask_moves_the_rows_of_child_tables(child):
    project = child("TABLE")
    project.send(*logins("a", 80))
    project.drain()
    with project.database.owner() as connection:
        connection.execute("INSERT INTO public.child SELECT * FROM public.user_logins")
        connection.execute("TRUNCATE ONLY public.user_logins")
    old, _ = rotate(project)
    counts = remask(project)
    assert (counts["rows"], counts["left"], tokens_of(project, old)) == (80, 0, 0)


def test_remask_says_that_it_cannot_walk_foreign_tables(child):
    project = child("FOREIGN TABLE", "SERVER nowhere")
    rotate(project)
    with pytest.raises(WarehouseRefused, match="user_logins has foreign parts"):
        remask(project)


def test_remask_without_another_key_changes_nothing(project: PrivacyProject):
    project.send(login("u1"), *BAD)
    project.drain()
    before = project.database.rows("SELECT ctid, * FROM public.user_logins")
    assert set(remask(project).values()) == {0}
    assert project.database.rows("SELECT ctid, * FROM public.user_logins") == before


def test_equal_values_stay_equal_and_others_different(project: PrivacyProject):
    project.send(*(login(f"u{n}", ip=f"10.1.1.{n % 7}") for n in range(70)))
    project.drain()
    distinct = "SELECT count(DISTINCT masked_ip), count(DISTINCT masked_device_id) FROM public.user_logins"
    assert project.database.rows(distinct) == [(7, 1)]
    rotate(project)
    remask(project)
    assert project.database.rows(distinct) == [(7, 1)]


def test_the_retained_files_open_with_the_new_key_alone(project: PrivacyProject):
    project.send(login("u1"), *BAD)
    project.drain("kept")
    old, _ = rotate(project)
    remask(project)
    project.key_file.write_text(retire(project, old).text)
    with project.open_run("kept") as context:
        for kind in (Kind.MASKED, Kind.REJECTED):
            assert context.staging.batches(kind)
    with project.remasker() as resources:
        assert set(rotation.staged_keys(resources.staging)) == {primary(project)}


def test_status_says_what_uses_each_key(project: PrivacyProject, capsys):
    project.send(login("u1"), *BAD)
    project.drain()
    old, new = rotate(project)
    capsys.readouterr()
    assert project.command("keys", "status", "--json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(key["key_id"], key["state"]) for key in told] == [(new, "primary"), (old, "secondary")]
    assert told[0]["in_use"] == {}
    assert told[1]["in_use"] == {
        "staged files": 2,
        "public.user_logins.masked_ip": 1,
        "public.user_logins.masked_device_id": 1,
        "quarantined messages": 2,
    }


# Wrapped by KMS ---------------------------------------------------------------------------------------------


@pytest.fixture
def kms_key(monkeypatch):
    """The address of a new key of the emulator's KMS, in the settings."""
    arn = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
    monkeypatch.setenv("QUEUE_ETL_KMS_KEY_URI", f"aws-kms://{arn}")
    return f"aws-kms://{arn}"


def test_a_wrapped_keyset_is_created_rotated_and_used(project: PrivacyProject, kms_key):
    project = replace(project, settings=replace(project.settings, kms_key_uri=kms_key))
    project.key_file.unlink()
    assert project.command("keys", "create") == 0
    file = json.loads(project.key_file.read_text())
    assert set(file) == {"encryptedKeyset", "keysetInfo"}
    project.send(login("u1", ip="192.0.2.77"))
    assert project.drain()["loaded"] == 1
    old = file["keysetInfo"]["primaryKeyId"]
    assert project.command("keys", "add") == 0
    (new,) = {key["keyId"] for key in json.loads(project.key_file.read_text())["keysetInfo"]["keyInfo"]} - {
        old
    }
    assert project.command("keys", "promote", str(new)) == 0
    assert project.command("remask", *WHY) == 0
    assert project.command("keys", "destroy", str(old), *WHY) == 0
    ((token,),) = project.database.rows("SELECT masked_ip FROM public.user_logins")
    with project.officer() as resources:
        assert (
            Masker(project.contract, resources.keyset).unmask(project.contract.personal[0], token)
            == "192.0.2.77"
        )


def test_a_clear_keyset_is_wrapped_in_place_or_printed_for_a_backend(
    project: PrivacyProject, kms_key, capsys
):
    clear = project.key_file.read_text()
    assert project.command("keys", "wrap", "--print") == 0
    assert "encryptedKeyset" in capsys.readouterr().out
    assert project.key_file.read_text() == clear
    assert project.command("keys", "wrap") == 0
    wrapped = project.key_file.read_text()
    secret = json.loads(clear)["key"][0]["keyData"]["value"]
    assert secret not in wrapped
    project = replace(project, settings=replace(project.settings, kms_key_uri=kms_key))
    with project.officer() as resources:
        assert resources.keyset.opens(Keyset.from_json(clear).check_value())


def test_without_the_kms_key_a_wrapped_keyset_is_no_use(
    project: PrivacyProject, kms_key, monkeypatch, capsys
):
    assert project.command("keys", "wrap") == 0
    monkeypatch.delenv("QUEUE_ETL_KMS_KEY_URI")
    with project.open_run() as context, pytest.raises(KeysetError, match="set QUEUE_ETL_KMS_KEY_URI"):
        _ = context.keyset
    other = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
    foreign = replace(project, settings=replace(project.settings, kms_key_uri=f"aws-kms://{other}"))
    with foreign.open_run() as context, pytest.raises(KeysetError):
        _ = context.keyset


def test_a_kms_that_does_not_answer_is_worth_a_retry(project: PrivacyProject, kms_key, monkeypatch):
    from include.queue_etl.errors import KeyServiceUnavailable

    assert project.command("keys", "wrap") == 0
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")
    project = replace(project, settings=replace(project.settings, kms_key_uri=kms_key))
    with project.open_run() as context, pytest.raises(KeyServiceUnavailable, match="EndpointConnectionError"):
        _ = context.keyset
    with project.open_run() as context, pytest.raises(PreflightError, match="KMS did not answer"):
        context.preflight()
