"""The dead-letter queue is emptied without losing or doubling a message."""

import json
from collections.abc import Sequence
from typing import Any

import boto3
import pytest

from include.queue_etl import steps
from include.queue_etl.errors import QueueUnavailable
from include.queue_etl.operations.dead_letters import redrive_dead_letters
from include.queue_etl.sqs.wire import ORIGIN_ATTRIBUTE, SENT_ATTRIBUTE, Message
from tests.integration.project import Killed, Project, killed_at, login, project
from tests.support.wait import wait_until

__all__ = ["project"]
AN_HOUR_AGO_MS = -3_600_000


def bury(project: Project, *bodies: bytes) -> None:
    """Put messages on the dead-letter queue."""
    with project.resources() as resources:
        resources.queue(project.contract.dead_letter_queue).send(bodies)


def bury_copies(project: Project, messages: Sequence[Message]) -> None:
    """Put messages there under their ids, as SQS does itself when one was received too often."""
    with project.resources() as resources:
        dead_letters = resources.queue(project.contract.dead_letter_queue)
        assert len(dead_letters.resend(messages)) == len(messages)


def received(project: Project) -> list[Message]:
    """What is on the queue, released at once."""
    with project.open_run() as context:
        messages = [message for some in context.queue.receive(100, 60) for message in some]
        context.queue.release([message.receipt_handle for message in messages])
    return messages


def redriven_dead_letters(project: Project, *, dry_run: bool = False, **limits: int) -> dict[str, Any]:
    with project.resources() as resources:
        return redrive_dead_letters(resources, project.contract, dry_run=dry_run, **limits)


def dead(project: Project) -> int:
    with project.resources() as resources:
        depth = resources.queue(project.contract.dead_letter_queue).depth()
    assert depth.in_flight == 0, "messages are left hidden"
    return depth.visible


def test_messages_that_were_never_loaded_go_back_and_load_once(project: Project) -> None:
    bury(project, *(login(f"u{number}") for number in range(25)))
    result = redriven_dead_letters(project)
    assert result == {
        "dry_run": False, "messages": 25, "committed": 0, "others": 25, "deleted": 0, "redriven": 25,
    }  # fmt: skip
    assert (dead(project), project.waiting()) == (0, (25, 0))
    assert project.drain()["loaded"] == 25


def test_a_dry_run_counts_and_leaves_everything_visible_where_it_is(project: Project) -> None:
    project.send(login("loaded"))
    messages = received(project)
    project.drain()
    bury_copies(project, messages)
    bury(project, login("new"))
    result = redriven_dead_letters(project, dry_run=True)
    assert (result["messages"], result["committed"], result["others"]) == (2, 1, 1)
    assert (result["deleted"], result["redriven"]) == (0, 0)
    assert (dead(project), project.waiting()) == (2, (0, 0))


def test_what_the_ledger_knows_is_deleted_and_not_redriven(project: Project) -> None:
    project.send(*(login(f"u{number}") for number in range(12)))
    messages = received(project)
    project.drain()
    bury_copies(project, messages[:10])
    assert redriven_dead_letters(project)["deleted"] == 10
    assert (dead(project), project.waiting()) == (0, (0, 0))
    assert len(project.users()) == 12


def test_what_sqs_itself_moved_there_keeps_its_id_and_loads_once(project: Project) -> None:
    """AWS moves a message with its id and, of a standard queue, its time of sending; so does the emulator."""
    let_sqs_move(project, max_receives=2)
    project.send(*(login(f"loaded {number}") for number in range(5)))
    originals = {message.message_id: message.sent_ms for message in load_only(project)}
    project.send(*(login(f"new {number}") for number in range(5)))
    while project.waiting() != (0, 0):
        originals |= {message.message_id: message.sent_ms for message in received(project)}

    with project.resources() as resources:
        dead_letters = resources.queue(project.contract.dead_letter_queue)
        moved = [message for some in dead_letters.receive(100, 60) for message in some]
        dead_letters.release([message.receipt_handle for message in moved])
    assert len(moved) == 10
    assert {message.message_id: message.sent_ms for message in moved} == originals

    result = redriven_dead_letters(project)
    assert (result["committed"], result["deleted"]) == (5, 5)
    assert (result["others"], result["redriven"]) == (5, 5)
    assert (dead(project), project.waiting()) == (0, (5, 0))
    summary = project.drain()
    assert (summary["loaded"], summary["duplicates"]) == (5, 0)
    assert len(project.users()) == len(set(project.users())) == 10


def let_sqs_move(project: Project, max_receives: int) -> None:
    """Tell SQS to move a message to the dead-letter queue that was received more often."""
    client = boto3.client("sqs")
    queue, dead_letters = (
        client.get_queue_url(QueueName=name)["QueueUrl"]
        for name in (project.contract.queue, project.contract.dead_letter_queue)
    )
    attributes = client.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": attributes["Attributes"]["QueueArn"], "maxReceiveCount": max_receives}
    client.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": json.dumps(policy)})


def load_only(project: Project) -> list[Message]:
    """A run that loads what is on the queue and is never finished; what it took, visible again."""
    with project.with_settings(visibility_timeout_seconds=2, receive_seconds=1).open_run() as context:
        for batch in steps.extract(context):
            steps.mask(context, batch["batch"])
            steps.load(context, batch["batch"])
    wait_until(lambda: project.waiting()[1] == 0)
    return received(project)


def test_a_quarantined_message_counts_as_committed_too(project: Project) -> None:
    project.send(b"not json")
    messages = received(project)
    project.drain()
    bury_copies(project, messages)
    assert redriven_dead_letters(project)["deleted"] == 1


def test_a_message_redriven_keeps_its_id_and_its_day(project: Project) -> None:
    project.send(login("u"))
    (original,) = received(project)
    early = Message(original.message_id, "", original.body, original.sent_ms + AN_HOUR_AGO_MS, 1)
    bury_copies(project, [early])
    redriven_dead_letters(project)
    copies = [message for message in received(project) if message.sent_ms == early.sent_ms]
    assert [copy.message_id for copy in copies] == [original.message_id]


def test_the_copy_and_the_original_load_once(project: Project) -> None:
    project.send(login("u"))
    bury_copies(project, received(project))
    redriven_dead_letters(project)
    assert project.waiting() == (2, 0)
    summary = project.drain()
    assert (summary["loaded"], summary["duplicates"]) == (1, 1)
    assert project.users() == ["u"]


def test_a_message_with_a_dedup_id_keeps_that_key(project: Project) -> None:
    client = boto3.client("sqs")
    url = client.get_queue_url(QueueName=project.contract.dead_letter_queue)["QueueUrl"]
    attribute = {"dedup-id": {"DataType": "String", "StringValue": "order 17"}}
    client.send_message(QueueUrl=url, MessageBody=login("u").decode(), MessageAttributes=attribute)
    with project.resources() as resources:
        dead_letters = resources.queue(project.contract.dead_letter_queue)
        (before,) = [message for some in dead_letters.receive(10, 60) for message in some]
        dead_letters.release([before.receipt_handle])
    redriven_dead_letters(project)
    assert [message.message_id for message in received(project)] == [before.message_id]


def test_a_crash_between_sending_and_deleting_loads_the_message_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(project, login("u"))
    with project.resources() as resources:
        killed_at(resources.queue(project.contract.queue), "resend", monkeypatch, after=True)
        with pytest.raises(Killed):
            redrive_dead_letters(resources, project.contract, dry_run=False)
    assert (dead(project), project.waiting()) == (1, (1, 0))
    assert redriven_dead_letters(project)["redriven"] == 1
    summary = project.drain()
    assert (summary["received"], summary["loaded"], summary["duplicates"]) == (2, 1, 1)
    assert project.users() == ["u"]


def test_a_crash_between_send_and_delete_is_noticed_when_a_copy_is_loaded(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(project, login("u"))
    with project.resources() as resources:
        killed_at(resources.queue(project.contract.queue), "resend", monkeypatch, after=True)
        with pytest.raises(Killed):
            redrive_dead_letters(resources, project.contract, dry_run=False)
    project.drain()
    assert redriven_dead_letters(project)["deleted"] == 1
    assert (dead(project), project.waiting()) == (0, (0, 0))


def test_what_the_queue_does_not_take_stays_on_the_dead_letter_queue(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(project, login("a"), login("b"))
    with project.resources() as resources:
        monkeypatch.setattr(resources.queue(project.contract.queue), "resend", lambda *_: [])
        assert redrive_dead_letters(resources, project.contract, dry_run=False)["redriven"] == 0
    assert dead(project) == 2


def test_an_outage_of_the_queue_leaves_the_dead_letters_visible(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> None:
        raise QueueUnavailable("no answer")

    bury(project, login("a"))
    with project.resources() as resources:
        monkeypatch.setattr(resources.queue(project.contract.queue), "resend", down)
        with pytest.raises(QueueUnavailable):
            redrive_dead_letters(resources, project.contract, dry_run=False)
    assert dead(project) == 1


def test_at_most_so_many_are_taken(project: Project) -> None:
    bury(project, *(login(f"u{number}") for number in range(15)))
    assert redriven_dead_letters(project, max_messages=10)["redriven"] == 10
    assert dead(project) == 5


def test_large_messages_and_unusual_characters_travel_unchanged(project: Project) -> None:
    bodies = [b'{"x": "' + b"y" * 200_000 + b'"}', "zoë \U0001f600 \\ \t".encode(), b"x"]
    bury(project, *bodies)
    assert redriven_dead_letters(project)["redriven"] == 3
    assert sorted(message.body for message in received(project)) == sorted(bodies)


def test_the_attributes_are_those_the_receiver_reads() -> None:
    from include.queue_etl.sqs.wire import KEY_ATTRIBUTES, ReceiveRequest

    asked = ReceiveRequest("", 10, 0, 0).message_attribute_names
    assert {ORIGIN_ATTRIBUTE, SENT_ATTRIBUTE} <= set(asked)
    assert KEY_ATTRIBUTES[0] == "dedup-id"
