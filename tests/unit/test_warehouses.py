"""Contracts are grouped by warehouse; each warehouse has names, a folder and failures of its own."""

from dataclasses import replace
from typing import NoReturn

import pytest

from devstack import warehouses as stack
from devstack.settings import from_environment
from include.contracts.user_logins import CONTRACT
from include.queue_etl import warehouses
from include.queue_etl.contract.contract import QueuePlace
from include.queue_etl.errors import SettingsError, WarehouseUnavailable
from include.queue_etl.resources import Aws, Resources
from include.queue_etl.settings import Settings

ORDERS = replace(CONTRACT, name="orders", warehouse="orders")
REFUNDS = replace(CONTRACT, name="refunds", warehouse="orders")
EVENTS = replace(CONTRACT, name="events", warehouse="events")
ALL = {one.name: one for one in (REFUNDS, ORDERS, CONTRACT, EVENTS)}


# What a contract says


def test_without_connections_a_contract_uses_those_of_the_deployment():
    assert CONTRACT.place == QueuePlace()
    assert (CONTRACT.warehouse, CONTRACT.asset) == ("", "public.user_logins")
    assert ORDERS.asset == "orders.public.user_logins"


def test_a_contract_says_where_its_queue_is():
    one = replace(CONTRACT, aws="orders_aws", region="eu-west-1", queue_account="123456789012")
    assert one.place == QueuePlace("orders_aws", "eu-west-1", "123456789012")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("aws", "a b"),
        ("aws", "ä"),
        ("region", "Frankfurt"),
        ("region", "eu-west"),
        ("queue_account", "1234"),
        ("queue_account", "12345678901x"),
        ("warehouse", "Orders"),
        ("warehouse", "a__b"),
        ("warehouse", "a_"),
        ("warehouse", "1a"),
        ("warehouse", "../a"),
        ("warehouse", "a" * 31),
    ],
)
def test_a_connection_that_cannot_be_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"contract user_logins: {field}='.*': give "):
        replace(CONTRACT, **{field: value})


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-east-1", "ap-southeast-4", "cn-north-1"])
def test_every_region_of_aws_may_be_named(region):
    assert replace(CONTRACT, region=region).place.region == region


# Names and groups


@pytest.mark.parametrize(
    ("name", "warehouse", "expected"),
    [
        ("postgres_default", "", "postgres_default"),
        ("postgres_default", "orders", "postgres_default__orders"),
        ("QUEUE_ETL_OWNER_DSN", "orders_eu", "QUEUE_ETL_OWNER_DSN__ORDERS_EU"),
    ],
)
def test_a_warehouse_has_names_of_its_own(name, warehouse, expected):
    assert warehouses.of_warehouse(name, warehouse) == expected


@pytest.mark.parametrize(
    ("staging", "expected"),
    [("/srv/staging", "/srv/staging/orders"), ("s3://b/p/", "s3://b/p/orders"), ("/", "/orders")],
)
def test_a_warehouse_has_a_folder_of_its_own(staging, expected):
    settings = Settings(staging=staging)
    assert warehouses.staging_of(settings, "orders").staging == expected
    assert warehouses.staging_of(settings, "") is settings


def test_the_default_warehouse_is_always_there_and_first():
    assert list(warehouses.by_warehouse({})) == [""]
    groups = warehouses.by_warehouse(ALL)
    assert {name: sorted(own) for name, own in groups.items()} == {
        "": ["user_logins"],
        "events": ["events"],
        "orders": ["orders", "refunds"],
    }
    assert next(iter(groups)) == ""


# One job in each


def opening(closed: list[str]) -> warehouses.Opening:
    """Opens resources that connect to nothing, and note when they are closed."""

    def opened(warehouse, own):
        resources = Resources(
            Settings(staging="/"), Aws(no_session), warehouse_dsn="", keyset_json="", warehouse=warehouse
        )
        resources._opened.callback(closed.append, warehouse)
        return resources

    return opened


def no_session() -> NoReturn:
    pytest.fail("nothing here may talk to AWS")


def test_a_job_runs_once_in_each_warehouse_and_its_counts_are_added_up():
    closed: list[str] = []
    seen = []

    def job(resources, own):
        seen.append(sorted(own))
        return {"contracts": len(own), "none": 0}

    done = warehouses.in_each(ALL, opening(closed), job)
    assert done == {"contracts": 4, "none": 0}
    assert (seen, closed) == ([["user_logins"], ["events"], ["orders", "refunds"]], ["", "events", "orders"])


def test_a_warehouse_that_fails_is_raised_after_the_others_are_done(caplog):
    done = []

    def job(resources, own):
        if "user_logins" in own:
            raise WarehouseUnavailable("no answer")
        done.extend(own)
        return {}

    with pytest.raises(WarehouseUnavailable, match="no answer"):
        warehouses.in_each(ALL, opening([]), job)
    assert sorted(done) == ["events", "orders", "refunds"]
    assert "warehouse (default): no answer" in caplog.text


def missing(warehouse, own):
    raise SettingsError(["no keyset", f"no connection of {warehouse or 'default'}"])


def in_each():
    warehouses.in_each(ALL, missing, lambda resources, own: {})


def all_open():
    with warehouses.all_open(ALL, missing):
        pytest.fail("nothing is open")


@pytest.mark.parametrize("way", [in_each, all_open])
def test_all_that_warehouses_lack_is_listed_at_once_and_once(way):
    with pytest.raises(SettingsError) as caught:
        way()
    connections = [f"no connection of {name}" for name in ("default", "events", "orders")]
    assert caught.value.problems == ("no keyset", *connections)


def test_all_warehouses_are_open_at_once_and_closed_again():
    closed: list[str] = []
    with warehouses.all_open(ALL, opening(closed)) as opened:
        assert [sorted(own) for _, own in opened] == [["user_logins"], ["events"], ["orders", "refunds"]]
        assert closed == []
    assert sorted(closed) == ["", "events", "orders"]


# The local stack


def test_the_local_stack_reads_warehouses_without_running_a_contract(tmp_path):
    folder = tmp_path / "include" / "contracts"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text('import nothing\nCONTRACT = Contract(warehouse="orders", queue="q")\n')
    (folder / "b.py").write_text('CONTRACT = Contract(\n    warehouse="events",\n)\n')
    (folder / "c.py").write_text('CONTRACT = Contract(warehouse="", queue="q")\nX = "warehouse"\n')
    (folder / "d.py").write_text("CONTRACT = Contract((\n")
    settings = from_environment({}, tmp_path)
    assert stack.names(settings) == ["events", "orders"]
    assert [stack.database(name) for name in ("", "orders")] == ["warehouse", "warehouse_orders"]
    assert stack.variables("orders", {"QUEUE_ETL_OPS_DSN": "x"}) == {"QUEUE_ETL_OPS_DSN__ORDERS": "x"}
