"""The watch: what it sees when nothing runs, whom it tells, once; and a drill from an alert to its end."""

import json
import logging
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.contracts import LoadedContracts
from include.queue_etl import steps
from include.queue_etl.cli import app as cli
from include.queue_etl.cli import arguments as cli_arguments
from include.queue_etl.cli import operations, wiring
from include.queue_etl.cli import pipeline as pipeline_commands
from include.queue_etl.cli import watch as watch_commands
from include.queue_etl.errors import QueueRefused, QueueUnavailable, RunFailed
from include.queue_etl.operations import watch as engine
from include.queue_etl.operations.alerts import AlertStore
from include.queue_etl.operations.metrics import Metric
from include.queue_etl.operations.notices import VARIABLE, receivers
from include.queue_etl.operations.watch import Outside
from include.queue_etl.sqs.client import SqsQueue
from tests.integration.project import KEYSET, Project, login, project
from tests.support.receiver import Inbox, inbox
from tests.support.wait import wait_until

__all__ = ["inbox", "project"]
OPEN = "SELECT kind, subject FROM etl.alerts WHERE ended_at IS NULL ORDER BY 1, 2"
BAD = b'{"foo": "no login"}'
DAY = 86_400


def watched(project: Project, *to: str, **outside: Any) -> dict[str, int]:
    """One pass; `to` are addresses."""
    given = Outside(receivers=receivers({VARIABLE: " ".join(to)}), **outside)
    with project.resources() as resources:
        return engine.watch(resources, {project.contract.name: project.contract}, given)


def change(project: Project, statement: str, *values: object) -> None:
    with project.database.owner() as connection:
        connection.execute(statement, values)


def opened(project: Project) -> list[str]:
    return [kind for kind, _ in project.database.rows(OPEN)]


def wait_for_messages(project: Project, count: int = 1) -> None:
    wait_until(lambda: project.waiting()[0] >= count)


# What it sees


def test_without_any_run_it_sees_depth_and_dead_letters(project: Project) -> None:
    project.send(login("a"), login("b"))
    with project.resources() as resources:
        resources.queue(project.contract.dead_letter_queue).send([BAD])
    wait_for_messages(project, 2)
    given: list[Metric] = []
    assert watched(project, emit=given.append)["contracts"] == 1
    values = {one.name.removeprefix("queue_etl.queue."): one.value for one in given}
    assert (values["visible"], values["dead_letters"], values["up"]) == (2, 1, 1)
    assert values["queue_etl.alerts.open"] == 1
    assert opened(project) == ["dead_letters"]
    assert project.waiting() == (2, 0)  # it received none
    assert project.database.rows(
        "SELECT contract, queue, visible, in_flight, dead_letters, waiting_since = seen_at"
        " FROM etl.queue_states"
    ) == [("user_logins", project.contract.queue, 2, 0, 1, True)]


def test_a_queue_without_dead_letter_queue_has_none(project: Project) -> None:
    lonely = replace(project.contract, name="lonely")
    object.__setattr__(lonely, "queue", project.contract.dead_letter_queue)
    assert watched(replace(project, contract=lonely))["unseen"] == 0
    assert project.database.rows("SELECT dead_letters FROM etl.queue_states") == [(None,)]


def test_messages_wait_until_a_run_moves_some(project: Project) -> None:
    project.send(login("a"))
    wait_for_messages(project)
    since = "SELECT waiting_since FROM etl.queue_states"
    watched(project)
    first = project.database.rows(since)
    watched(project)
    assert project.database.rows(since) == first
    project.drain()
    project.send(login("b"))
    wait_for_messages(project)
    watched(project)
    assert project.database.rows(since) == project.database.rows("SELECT finished_at FROM etl.runs")


def test_a_failed_run_is_told_until_one_succeeds(project: Project) -> None:
    project.send(login("a"))
    with project.open_run("run__bad") as context:
        steps.extract(context)
        with pytest.raises(RunFailed):
            steps.finish(context, upstream_failed=True)
    watched(project)
    assert opened(project) == ["failed"]
    (what,) = project.database.rows("SELECT what FROM etl.alerts")
    assert what == ("run run__bad of user_logins failed, and none succeeded since",)
    wait_for_messages(project)
    project.drain()
    assert watched(project)["ended"] == 1
    assert opened(project) == []


def test_quarantine_undeclared_fields_and_personal_data_of_a_day_are_told(project: Project) -> None:
    project.send(*(login(f"u{number}", os="x") for number in range(8)), *[BAD] * 2)
    project.drain()
    change(project, "UPDATE etl.runs SET personal_data_found = %s", json.dumps({"locale": {"email": 3}}))
    watched(project)
    assert opened(project) == ["personal", "quarantined", "undeclared"]
    texts = dict(project.database.rows("SELECT kind, what FROM etl.alerts"))
    assert "20% of the messages of user_logins within a day wait in quarantine (2)" in texts["quarantined"]
    assert texts["undeclared"].endswith("have fields that nobody declared: os 8")
    assert texts["personal"].endswith("nobody declared it: email in locale 3")
    change(project, "UPDATE etl.quarantine SET redriven_at = now()")
    change(project, "UPDATE etl.runs SET finished_at = finished_at - interval '2 days'")
    assert watched(project)["ended"] == 3


def test_messages_that_maintenance_will_delete_soon_are_told(project: Project) -> None:
    project.send(*[login(f"u{number}") for number in range(9)], BAD)
    project.drain()
    change(project, "UPDATE etl.quarantine SET quarantined_at = now() - interval '28 days'")
    watched(project)
    assert opened(project) == ["expiring"]


def test_a_ledger_without_tomorrow_and_an_old_key_are_told(project: Project) -> None:
    project.send(login("a"))
    project.drain()
    change(project, "UPDATE etl.keys SET first_used_at = now() - interval '366 days'")
    change(project, "UPDATE etl.runs SET started_at = started_at - interval '3 days'")
    change(project, "SELECT etl.ensure_ledger_partition(current_date + 1)")
    watched(project)
    assert opened(project) == ["key"]
    name = project.database.rows("SELECT to_char(current_date + 1, 'YYYYMMDD')")[0][0]
    change(project, f"DROP TABLE etl.ledger_{name}")
    watched(project)
    assert opened(project) == ["key", "ledger"]


def test_a_broken_contract_is_told_until_it_is_good(project: Project) -> None:
    watched(project, broken={"orders": "orders.py, line 3: wrong"})
    assert project.database.rows(OPEN) == [("broken", "orders")]
    assert watched(project)["ended"] == 1
    assert opened(project) == []


def test_alerts_of_a_contract_that_is_gone_are_ended(project: Project) -> None:
    with project.resources() as resources:
        resources.queue(project.contract.dead_letter_queue).send([BAD])
    watched(project)
    assert opened(project) == ["dead_letters"]
    with project.resources() as resources:
        assert engine.watch(resources, {}, Outside(broken={"user_logins": "wrong"}))["ended"] == 0
        assert engine.watch(resources, {}, Outside())["ended"] == 2
    assert opened(project) == []


# What it cannot see


def test_a_queue_that_cannot_be_asked_leaves_its_alerts_as_they_are(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with project.resources() as resources:
        resources.queue(project.contract.dead_letter_queue).send([BAD])
    watched(project)

    def refuse(*_: object) -> None:
        raise QueueRefused("queue 'q': AccessDenied")

    with monkeypatch.context() as broken:
        broken.setattr(SqsQueue, "depth", refuse)
        assert watched(project)["unseen"] == 1
    assert opened(project) == ["dead_letters", "queue"]
    assert watched(project)["ended"] == 1
    assert opened(project) == ["dead_letters"]


def test_a_silent_sqs_is_asked_once_for_all_contracts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def silent(queue: SqsQueue) -> None:
        asked.append(queue.name)
        raise QueueUnavailable("no answer")

    monkeypatch.setattr(SqsQueue, "depth", silent)
    other = replace(project.contract, name="other", table="public.other")
    with project.resources() as resources:
        both = {project.contract.name: project.contract, "other": other}
        assert engine.watch(resources, both, Outside())["unseen"] == 2
    assert asked == [project.contract.queue]


# Whom it tells


def test_an_alert_is_told_once_to_each_and_so_is_its_end(project: Project, inbox: Inbox) -> None:
    to = (inbox.address("a"), inbox.address("b"))
    with project.resources() as resources:
        resources.queue(project.contract.dead_letter_queue).send([BAD])
    assert watched(project, *to)["sent"] == 2
    assert watched(project, *to)["sent"] == 0
    with project.resources() as resources:
        queue = resources.queue(project.contract.dead_letter_queue)
        handles = [one.receipt_handle for some in queue.receive(10, 60) for one in some]
        queue.delete(handles)
    wait_until(lambda: watched(project, *to)["open"] == 0)
    watched(project, *to)
    for path in ("/a", "/b"):
        assert inbox.titles(path) == [
            "queue_etl alert: user_logins: dead_letters", "queue_etl ended: user_logins: dead_letters",
        ]  # fmt: skip


def test_a_cause_that_comes_again_is_told_again(project: Project, inbox: Inbox) -> None:
    for broken in ({"orders": "wrong"}, {}, {"orders": "wrong"}):
        watched(project, inbox.address(), broken=broken)
    assert inbox.titles() == [f"queue_etl {word}: orders: broken" for word in ("alert", "ended", "alert")]


def test_two_passes_at_once_tell_it_once(project: Project, inbox: Inbox) -> None:
    inbox.delays["/"] = 0.3
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: watched(project, inbox.address(), broken={"orders": "wrong"}), range(4)))
    watched(project, inbox.address(), broken={"orders": "wrong"})
    assert inbox.titles() == ["queue_etl alert: orders: broken"]


def test_a_pass_that_looked_earlier_does_not_raise_what_is_over(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began to look while the contract was broken, and another pass has begun and ended since."""
    original = engine._general_findings

    def overtaken(*given: Any) -> Any:
        monkeypatch.setattr(engine, "_general_findings", original)
        watched(project)
        return original(*given)

    monkeypatch.setattr(engine, "_general_findings", overtaken)
    assert watched(project, broken={"orders": "wrong"})["raised"] == 0
    assert opened(project) == []


def test_what_a_receiver_did_not_take_it_gets_in_order_by_a_later_pass(
    project: Project, inbox: Inbox
) -> None:
    inbox.answers["/"] = 503
    assert watched(project, inbox.address(), broken={"orders": "wrong"})["unsent"] == 1
    assert watched(project, inbox.address())["unsent"] == 2
    inbox.came.clear()
    del inbox.answers["/"]
    assert watched(project, inbox.address())["sent"] == 2
    assert inbox.titles() == ["queue_etl alert: orders: broken", "queue_etl ended: orders: broken"]


def test_a_pass_that_dies_while_it_sends_leaves_its_notices_to_another(project: Project) -> None:
    with project.resources() as resources:
        store = AlertStore(resources.database)
        watched(project, broken={"orders": "wrong"})
        store.enqueue(["json-1"])
        assert len(store.claim("json-1")) == 1
        assert store.claim("json-1") == []
        change(project, "UPDATE etl.alert_notices SET claimed_until = now() - interval '1 second'")
        assert len(store.claim("json-1")) == 1


def test_a_new_receiver_is_told_of_what_is_open_and_not_of_what_is_over(
    project: Project, inbox: Inbox
) -> None:
    watched(project, broken={"orders": "wrong"})
    watched(project, broken={"carts": "wrong"})
    assert watched(project, inbox.address(), broken={"carts": "wrong"})["sent"] == 1
    assert inbox.titles() == ["queue_etl alert: carts: broken"]


# The drill


@pytest.fixture
def command(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inbox: Inbox
) -> Callable[..., int]:
    """The command line, whose one contract is that of the project."""
    (tmp_path / "keyset.json").write_text(KEYSET)
    for variable, role in (
        ("WAREHOUSE", "etl_loader"), ("MAINTAINER", "etl_maintainer"), ("OPS", "ops_ro"),
    ):  # fmt: skip
        monkeypatch.setenv(f"QUEUE_ETL_{variable}_DSN", project.database.dsn(role))
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(tmp_path / "keyset.json"))
    monkeypatch.setenv("QUEUE_ETL_STAGING", project.settings.staging)
    monkeypatch.setenv("QUEUE_ETL_WAIT_SECONDS", "0")
    monkeypatch.setenv(VARIABLE, inbox.address())
    own = {project.contract.name: project.contract}
    for module in (wiring, operations, pipeline_commands, watch_commands):
        monkeypatch.setattr(module, "load_contract", own.__getitem__)
    for module in (operations, watch_commands):
        monkeypatch.setattr(module, "load_contracts", lambda: LoadedContracts(own, {}))
    monkeypatch.setattr(cli_arguments, "contract_names", lambda: list(own))
    return lambda *arguments: cli.main(arguments)


def test_a_drill_from_an_old_queue_to_the_notice_that_it_is_over(
    project: Project, command: Callable[..., int], inbox: Inbox, capsys: pytest.CaptureFixture[str]
) -> None:
    project.send(*(login(f"u{number}") for number in range(5)), BAD)
    wait_for_messages(project, 6)
    assert command("watch") == 0
    assert inbox.titles() == []
    # Three days on, in which nobody ran the pipeline; the queue keeps messages for four.
    change(project, "UPDATE etl.queue_states SET waiting_since = waiting_since - interval '3 days'")
    for _ in range(2):
        assert command("watch", "--json") == 0
    assert inbox.titles() == ["queue_etl alert: user_logins: age", "queue_etl alert: user_logins: stalled"]
    assert command("alerts", "list") == 0
    shown = capsys.readouterr().out
    (remedy,) = {line.partition("remedy")[2].strip() for line in shown.splitlines() if "or `python" in line}
    (told,) = [one for one in remedy.split("`") if " drain " in one]
    _, _, _, *arguments = shlex.split(told)
    assert command(*arguments) == 0
    # One in quarantine: 16 %, which is an alert of its own.
    assert command("watch") == 0
    assert inbox.titles()[2:] == [
        "queue_etl ended: user_logins: age", "queue_etl ended: user_logins: stalled",
        "queue_etl alert: user_logins: quarantined",
    ]  # fmt: skip
    today = project.database.rows("SELECT (now() AT TIME ZONE 'UTC')::date::text")[0][0]
    assert command("verify", "--day", today) == 0


def test_alerts_are_listed_for_people_and_programs(
    project: Project, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("alerts", "list") == 0
    assert capsys.readouterr().out == "no alert is open\n"
    watched(project, broken={"orders": "wrong"})
    watched(project)
    assert command("alerts", "list", "--json") == 0
    assert capsys.readouterr().out == ""
    assert command("alerts", "list", "--ended", "5", "--json") == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["kind"], line["contract"], line["what"]) == (
        "broken", "orders", "contract orders cannot be used: wrong",
    )  # fmt: skip
    assert line["ended_at"]


def test_a_test_alert_reaches_every_receiver_or_says_which_it_did_not(
    command: Callable[..., int],
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("alerts", "test") == 0
    assert inbox.titles() == ["queue_etl: test"]
    inbox.answers["/down"] = 500
    monkeypatch.setenv(VARIABLE, f"{inbox.address()} {inbox.address('down')}")
    capsys.readouterr()
    assert command("alerts", "test", "--json") == 1
    shown = capsys.readouterr()
    assert sorted(json.loads(shown.out).values()) == ["did not take it", "sent"]
    assert "1 of 2 receivers did not take the test: json-" in shown.err
    monkeypatch.delenv(VARIABLE)
    assert command("alerts", "test") == 1
    assert f"{VARIABLE} is not set" in capsys.readouterr().err


# No personal value


def test_nothing_that_is_told_holds_a_value_of_a_message(
    project: Project, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "canary-4711"
    bodies = [
        login(canary, ip="198.51.100.77", locale="jane.canary@example.org", device_id=canary),
        json.dumps({"user_id": canary, "foo": canary, canary: 1}).encode(),
        f"no JSON {canary}".encode(),
    ]
    project.send(*bodies)
    with project.resources() as resources:
        resources.queue(project.contract.dead_letter_queue).send(bodies)
    wait_for_messages(project, 3)
    project.with_settings(personal_data_sample=1).drain()
    given: list[Metric] = []
    caplog.clear()
    assert watched(project, inbox.address(), emit=given.append)["sent"] >= 2
    stored = project.database.rows("SELECT * FROM etl.alerts")
    for told in (str(inbox.came), str(stored), str(given), caplog.text):
        assert canary not in told
        assert "198.51.100.77" not in told
        assert "jane" not in told
