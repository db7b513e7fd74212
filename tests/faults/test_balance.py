"""The instruments of the fault tests themselves: a scale that always shows nought proves nothing."""

import base64
import gzip
import os
from pathlib import Path
from urllib.parse import quote

import pytest
import zstandard

from tests.faults import bodies, canaries, documents, flows, reconciliation, worker
from tests.faults.bodies import ADDRESS_MARK, DEVICE_MARK
from tests.faults.kill_points import POINTS, STEPS, KillPoint
from tests.faults.report import Report
from tests.faults.servers import QueueUnderTest, Servers

TEXT = f'{{"ip": "{ADDRESS_MARK}::1", "device_id": "{DEVICE_MARK}-00000001"}}'.encode()


@pytest.mark.parametrize(
    "hidden",
    [
        TEXT,
        TEXT.hex().encode(),
        base64.b64encode(TEXT),
        base64.b64encode(b"1" + TEXT),
        base64.b64encode(b"12" + TEXT),
        quote(TEXT).encode(),
        TEXT.decode().encode("utf-16-le"),
        b"head" + zstandard.compress(TEXT),
        b"head" + gzip.compress(TEXT),
    ],
    ids=["raw", "hex", "base64", "base64 + 1", "base64 + 2", "url", "utf-16", "zstd", "gzip"],
)
def test_a_canary_is_found_in_any_form(hidden: bytes) -> None:
    # Between other bytes, so that it is not found by luck of position.
    assert canaries.hits(os.urandom(31) + hidden + os.urandom(17)) >= 2


def test_no_canary_is_found_where_there_is_none() -> None:
    assert canaries.hits(os.urandom(500_000)) == 0


def test_the_balance_shows_each_kind_of_mistake(tested: QueueUnderTest) -> None:
    sent = bodies.some(tested.tag, 20)
    tested.send(bodies.texts(sent[:10]))
    assert worker.run(tested, "drain").code == 0
    tested.send([sent[0].body, sent[10].body])  # one is sent twice as another message, one is left alone
    good = next(one for one in sent[:10] if one.reason is None)
    tested.servers.rows(
        "INSERT INTO public.user_logins (user_id, masked_ip, masked_device_id, create_date)"
        " SELECT 'no-' || user_id, masked_ip, masked_device_id, create_date FROM public.user_logins"
        " WHERE user_id = %s RETURNING 1",
        good.user_id,
    )
    tested.servers.rows(
        "UPDATE public.user_logins SET user_id = substr(user_id, 4) WHERE user_id = %s RETURNING 1",
        f"no-{good.user_id}",
    )
    tested.servers.rows(
        "UPDATE public.user_logins SET masked_ip ="
        " (SELECT masked_ip FROM public.user_logins WHERE user_id LIKE %s AND user_id <> %s LIMIT 1)"
        " WHERE user_id = %s RETURNING 1",
        f"{tested.tag}-%",
        good.user_id,
        good.user_id,
    )

    assert reconciliation.balance(tested, sent) == reconciliation.Balance(
        lost=10, duplicate=1, wrong_kind=1, left_on_queue=2
    )


def test_the_balance_of_orders_shows_a_stale_key_and_a_changed_row(servers: Servers) -> None:
    _, of_orders, _ = flows.FLOWS
    tested = servers.new_queue(contract=of_orders.contract)
    sent = documents.some_orders(tested.tag, 40)
    tested.send(bodies.texts(sent[:30]))
    assert worker.run(tested, "drain").code == 0
    tested.send([sent[4].body])  # a bad one is there twice, as another message
    assert worker.run(tested, "drain").code == 0
    change = "UPDATE public.orders SET items = jsonb_set(items, '{0,price}', '7') WHERE order_id = %s"
    assert tested.servers.rows(f"{change} RETURNING 1", sent[11].key)

    # Ten are not sent, two of them bad; the good ones would be the newest of keys, one of which is changed.
    assert of_orders.balance(tested, sent) == reconciliation.Balance(
        lost=8 + 2, duplicate=1, wrong_kind=1, left_on_queue=0, stale=7
    )


def test_the_balance_of_deliveries_shows_a_changed_jsonb_column(servers: Servers) -> None:
    flows.make_tables(servers)
    _, _, of_deliveries = flows.FLOWS
    tested = servers.new_queue(contract=of_deliveries.contract)
    sent = documents.some_deliveries(tested.tag, 15)
    tested.send(bodies.texts(sent))
    assert worker.run(tested, "drain").code == 0
    assert of_deliveries.balance(tested, sent) == reconciliation.Balance(0, 0, 0, 0)
    for number, change in {
        1: "UPDATE public.deliveries SET notes = jsonb_set(notes, '{by,0,at}', '2') WHERE parcel = %s",
        2: "DELETE FROM public.deliveries WHERE parcel = %s",
        3: "INSERT INTO public.deliveries SELECT * FROM public.deliveries WHERE parcel = %s",
    }.items():
        assert tested.servers.rows(f"{change} RETURNING 1", sent[number].key)

    assert of_deliveries.balance(tested, sent) == reconciliation.Balance(
        lost=1, duplicate=1, wrong_kind=1, left_on_queue=0
    )


def test_the_table_of_all_faults_sums_up_the_mistakes_of_each() -> None:
    report = Report(pii_hits={"a log": 3})
    for test, lost in (("test_one", 0), ("test_other_one", 2), ("test_one", 5)):
        report.add(test, 10, reconciliation.Balance(lost, duplicate=1, wrong_kind=0, left_on_queue=4))
    assert [line.split(maxsplit=7) for line in report.lines()[1:4]] == [
        ["2", "20", "5", "2", "0", "8", "0", "one"],
        ["1", "10", "2", "1", "0", "4", "0", "other one"],
        ["3", "30", "7", "3", "0", "12", "0", "all of them"],
    ]
    assert report.lines()[4:] == [
        "pii_hits in staging, logs, tables and Postgres's files: 3",
        "  3 in a log",
    ]


def test_a_value_in_a_table_log_staged_file_or_write_ahead_log_is_found(
    tested: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not a canary, which would stay in the write-ahead log, but what every user id here begins with.
    monkeypatch.setattr(canaries, "NEEDLES", [tested.tag.encode()])
    tested.send(bodies.texts(bodies.some(tested.tag, 5)))
    assert worker.run(tested, "drain", "-v").code == 0
    for folder in (tested.staging, tested.servers.output):
        (folder / "planted").write_text(tested.tag)
    bucket = tested.in_bucket().staging_url.split("/")[2]
    tested.servers.client("s3").put_object(Bucket=bucket, Key="planted", Body=tested.tag.encode())

    found = canaries.everywhere(tested.servers)

    assert "etl.queues" in found
    assert any(place.startswith("public.user_logins_") for place in found)  # a partition
    assert f"s3://{bucket}/planted" in found
    places = {str(Path(place).parent.name) for place in found if place.startswith("/")}
    assert {"output", "pg_wal", tested.tag} <= places


@pytest.mark.parametrize("step", list(STEPS))
def test_each_step_can_be_killed_at_each_of_its_points(tested: QueueUnderTest, step: str) -> None:
    sent = bodies.some(tested.tag, 10)
    tested.send(bodies.texts(sent))
    arguments = worker.step("extract", tested.tag)
    if step != "extract":
        batch = worker.run(tested, *arguments).output.split('"')[3]
        before = {"mask": [], "load": ["mask"], "finish": ["mask", "load"]}[step]
        for earlier in before:
            assert worker.run(tested, *worker.step_of_batch(earlier, tested.tag, batch)).code == 0
        whole = step == "finish"
        arguments = worker.step(step, tested.tag) if whole else worker.step_of_batch(step, tested.tag, batch)

    survived = [
        point
        for point in STEPS[step]
        if not worker.start(tested, arguments, KillPoint(point, 1, "before")).wait().was_killed
    ]
    assert survived == []
    assert set(STEPS[step]) <= set(POINTS)
