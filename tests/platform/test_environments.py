"""Two environments on one SQS: with a suffix every command takes queues of its own, and no other's."""

import json

from devstack import postgres
from devstack.demo import DEMOS
from include.contracts import contract_names, load_contract
from tests.platform.dev_command import Launcher, sqs

SAMPLE = DEMOS["user_logins"].sample
PLAIN = [
    name
    for contract in map(load_contract, contract_names())
    for name in (contract.queue, contract.dead_letter_queue)
]
STAGING = [
    f"{contract.queue}-staging{end}"
    for contract in map(load_contract, contract_names())
    for end in ("", "-dlq")
]


def result(launcher: Launcher, *arguments: str, suffix: str = "") -> dict:
    done = launcher.run(*arguments, "--json", QUEUE_ETL_QUEUE_SUFFIX=suffix)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_environment_drains_its_own_queue_and_no_other(running: Launcher) -> None:
    sent = len(SAMPLE.read_text().splitlines())
    assert running.run("send", str(SAMPLE)).returncode == 0
    first = running.run("send", str(SAMPLE), QUEUE_ETL_QUEUE_SUFFIX="-staging")
    assert first.returncode == 0, first.stderr
    assert f"made the queues {', '.join(STAGING)}" in first.stderr
    names = {url.rpartition("/")[2] for url in sqs(running.settings).list_queues()["QueueUrls"]}
    assert names == {*PLAIN, *STAGING}

    drained = result(running, "drain", suffix="-staging")
    assert (drained["received"], drained["deleted"]) == (sent, sent)
    assert result(running, "run", "depth")["visible"] == sent
    assert result(running, "run", "depth", suffix="-staging")["visible"] == 0
    queues = postgres.query(running.settings, "select name from etl.queues")
    assert queues.splitlines() == ["login-queue-staging"]

    status = running.run("status", QUEUE_ETL_QUEUE_SUFFIX="-staging")
    shown = {line.split()[0] for line in status.stdout.splitlines() if line.strip()}
    assert shown >= set(STAGING)
    assert not shown & set(PLAIN)
    everywhere = result(running, "run", "depth", "--all", suffix="-staging")
    assert set(everywhere) == set(STAGING)
    assert result(running, "drain")["received"] == sent
