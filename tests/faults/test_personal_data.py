"""After good, malformed and hostile messages no personal value is readable, and the officer has them all."""

import csv
import json
import logging
from pathlib import Path

import pytest

from include.contracts import user_logins
from tests.faults import canaries, flows, worker
from tests.faults.bodies import ADDRESS_MARK, DEVICE_MARK, Sent, login, some, texts
from tests.faults.flows import Flow
from tests.faults.kill_points import KillPoint
from tests.faults.reconciliation import GOOD, balance
from tests.faults.runs import empty_the_queue
from tests.faults.servers import QueueUnderTest, Servers


def hostile(tag: str) -> list[Sent]:
    """Messages that make careless programs print what they choke on."""
    one = login(tag, 900_000)
    ip, device = one.ip, one.device_id
    bodies = {
        "bad_json": [
            f'{{"user_id": "{tag}", "ip": "{ip}", "device_id": "{device}", ',
            f"ip={ip} device_id={device}",
            f'{{"ip": NaN, "device_id": "{device}"}}',
            f'{{"ip": "{ip}"}} {{"device_id": "{device}"}}',
        ],
        "not_object": [f'"{ip} {device}"', f'["{ip}", "{device}"]'],
        "missing_field user_id": [
            json.dumps({"ip": ip, "device_id": device}),
            json.dumps({ip: device, device: ip}),
        ],
        "bad_type user_id": [_changed(one, user_id={"ip": ip, "device": device})],
        "bad_type ip": [_changed(one, ip=[ip, device])],
        "bad_type device_id": [_changed(one, device_id={"id": device})],
        "bad_type locale": [_changed(one, locale=7)],
        "nul_char device_id": [_changed(one, device_id=f"{device}\0")],
        "nul_char ip": [_changed(one, ip=f"\0{ip}")],
        "too_long user_id": [_changed(one, user_id=f"{ip} {device}" * 5)],
        "too_long device_id": [_changed(one, device_id=device * 20)],
        "too_long ip": [_changed(one, ip=ip * 20)],
        "too_long locale": [_changed(one, locale=f"{ip} {device}")],
        "bad_version app_version": [
            _changed(one, app_version=f"{ip}"),
            _changed(one, app_version=f"2.{device}"),
        ],
        "version_range app_version": [_changed(one, app_version="99999999999")],
        "too_deep": ["[" * 50_000 + device],
    }
    return [
        Sent(f"{tag}-none", body.encode(), reason, ip, device)
        for reason, group in bodies.items()
        for body in group
    ]


def unusual(tag: str) -> list[Sent]:
    """Messages that load although something about them is unusual."""
    first = 800_000
    found = []
    for number, ip in enumerate(
        [
            f"{ADDRESS_MARK}::1/64",
            f"[{ADDRESS_MARK}::1]:443",
            f"host {ADDRESS_MARK}",
            f"' OR {ADDRESS_MARK} --",
        ]
    ):
        good = login(tag, first + number, ip=ip, extra={"ip": ip, "device": DEVICE_MARK})
        found.append(Sent(good.user_id, good.body, None, ip, good.device_id))
    for number, device in enumerate(
        [f"{DEVICE_MARK}\t\\N\n\\.", f"{DEVICE_MARK}'); DROP", f"{DEVICE_MARK} é ü"]
    ):
        good = login(tag, first + 100 + number, device_id=device)
        found.append(Sent(good.user_id, good.body, None, good.ip, device))
    return found


def _changed(one: Sent, **fields: object) -> str:
    return json.dumps({**json.loads(one.body), **fields})


@pytest.fixture
def messages(tested: QueueUnderTest) -> list[Sent]:
    """Of every kind, on the queue."""
    sent = [*some(tested.tag, 100), *unusual(tested.tag), *hostile(tested.tag)]
    tested.send(texts(sent))
    return sent


def test_what_boto3_would_log_of_messages_stays_out_of_logs(
    tested: QueueUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tested.send(texts(some(tested.tag, 10)))

    assert [record for record in caplog.records if record.name.startswith("botocore")]
    assert not canaries.hits(caplog.text.encode())


@pytest.mark.parametrize(("client", "flow"), zip(["boto3", "pycurl", "pycurl"], flows.FLOWS, strict=True))
def test_no_personal_value_is_readable_after_a_run_that_says_all_it_can(
    servers: Servers, client: str, flow: Flow
) -> None:
    flows.make_tables(servers)
    tested = servers.new_queue(contract=flow.contract)
    sent = flow.some(tested.tag, 100)
    is_login = flow.contract == user_logins.CONTRACT
    sent = [*sent, *unusual(tested.tag), *hostile(tested.tag)] if is_login else sent
    tested.send(texts(sent))
    ended = worker.run(tested, "drain", "-v", "--json", QUEUE_ETL_SQS_CLIENT=client)

    assert ended.code == 0, ended.errors
    if client == "boto3":
        assert "DEBUG:botocore" in ended.errors, "the log shows less than it could"
    assert all(canaries.hits(one.body) for one in sent)
    assert canaries.everywhere(servers) == {}
    assert flow.balance(tested, sent) == GOOD


def test_no_personal_value_is_readable_during_a_run_or_after_it_died(
    tested: QueueUnderTest, messages: list[Sent]
) -> None:
    name = tested.run("half way").name
    extract = worker.step("extract", name)
    assert worker.start(tested, extract, KillPoint("file write", 9, "half")).wait().was_killed
    worker.wait_until_visible(tested)
    extracted = worker.run(tested, *extract)
    batches = [one["batch"] for one in json.loads(extracted.output)]
    for batch in batches:
        assert worker.run(tested, *worker.step_of_batch("mask", name, batch)).code == 0
    load = worker.step_of_batch("load", name, batches[0])
    worker.start(tested, load, KillPoint("commit", 3, "before")).wait()

    assert any(path.suffix == ".raw" for path in tested.staging.rglob("*"))
    assert canaries.everywhere(tested.servers) == {}
    assert all(path.stat().st_mode & 0o077 == 0 for path in tested.staging.rglob("*"))
    assert worker.run(tested, *worker.step("finish", name, "--upstream-failed")).code == 1
    empty_the_queue(tested)
    assert balance(tested, messages) == GOOD


def test_no_personal_value_is_in_an_error_of_postgres_or_its_log(
    tested: QueueUnderTest, messages: list[Sent]
) -> None:
    # Every row is refused, after the whole batch went through COPY.
    column = "ALTER TABLE public.user_logins {} CONSTRAINT refuses_all {}"
    with tested.servers.owner() as connection:
        connection.execute(column.format("ADD", "CHECK (device_type = 'none') NOT VALID"))
    try:
        ended = worker.run(tested, "drain", "-v")
    finally:
        with tested.servers.owner() as connection:
            connection.execute(column.format("DROP", ""))

    assert ended.code == 1
    assert "refuses_all" in ended.errors
    assert tested.tag not in ended.last_line
    assert canaries.everywhere(tested.servers) == {}
    log = (tested.servers.folder / "postgres.log").read_text(errors="replace")
    assert tested.tag not in log, "the log quotes rows: not even user ids belong there"
    empty_the_queue(tested)
    assert balance(tested, messages) == GOOD


def test_the_officer_gets_every_value_back(
    tested: QueueUnderTest, messages: list[Sent], tmp_path: Path
) -> None:
    assert worker.run(tested, "drain").code == 0
    column = {"ip": "masked_ip", "device_id": "masked_device_id"}
    for name, masked in column.items():
        tokens = dict(
            tested.servers.rows(
                f"SELECT user_id, {masked} FROM public.user_logins WHERE user_id LIKE %s",  # noqa: S608
                f"{tested.tag}-%",
            )
        )
        file = tmp_path / f"{name}.csv"
        ended = worker.run(
            tested, "unmask", "--field", name, "--reason", "test", "--ticket", "T-1", "--output", str(file),
            *sorted(set(tokens.values())),
        )  # fmt: skip
        assert ended.code == 0, ended.errors

        with file.open(newline="") as lines:
            values = {line["token"]: line["value"] for line in csv.DictReader(lines)}
        expected = {one.user_id: getattr(one, name) for one in messages if one.reason is None}
        assert {user: values[token] for user, token in tokens.items()} == expected
        assert file.stat().st_mode & 0o077 == 0
    assert canaries.everywhere(tested.servers) == {}, "unmask left a value somewhere"


def test_what_the_engine_logs_at_debug_level_names_no_user(
    tested: QueueUnderTest, messages: list[Sent], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    empty_the_queue(tested)

    said = [record.getMessage() for record in caplog.records if record.name.startswith("include")]
    assert said
    assert not [line for line in said if f"{tested.tag}-0" in line]
    assert not canaries.hits(caplog.text.encode())
