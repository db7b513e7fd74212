"""Print the queues of every contract, and how many messages each holds, as JSON.

`python -m devstack.programs.queue_listing`. What cannot be loaded or asked is part of the answer and hides
nothing else.
"""

import json
from typing import Any

from include.contracts import load_contracts
from include.queue_etl.cli import wiring
from include.queue_etl.contract import Contract
from include.queue_etl.contract.contract import QueuePlace
from include.queue_etl.errors import SettingsError

# As the engine's own `depth` names them.
ATTRIBUTES = {
    "visible": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}


def listing() -> list[dict[str, Any]]:
    """Return an entry a contract: its `name`, its `queues`, and the `error` that came of loading it."""
    loaded = load_contracts()
    return [
        *(_contract(contract) for contract in loaded.good.values()),
        *({"name": name, "error": problem, "queues": []} for name, problem in loaded.broken.items()),
    ]


def _client(place: QueuePlace) -> Any:
    from botocore.config import Config

    # One attempt: a person waits for the answer, and "does not answer" is one.
    quick = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
    return wiring.session(place).client("sqs", config=quick)


def _contract(contract: Contract) -> dict[str, Any]:
    pair = (contract.queue, contract.dead_letter_queue)
    try:
        client = _client(contract.place)
    except SettingsError as error:
        queues = [{"name": name, "depth": None, "error": error.problems[0]} for name in pair]
    else:
        queues = [_queue(client, name, contract.queue_account) for name in pair]
    return {"name": contract.name, "error": None, "queues": queues}


def _queue(client: Any, name: str, account: str) -> dict[str, Any]:
    """Return the queue's `name`, its `depth` (None where it does not exist), and the `error` of asking."""
    from botocore.exceptions import BotoCoreError, ClientError

    owner = {"QueueOwnerAWSAccountId": account} if account else {}
    try:
        url = client.get_queue_url(QueueName=name, **owner)["QueueUrl"]
        said = client.get_queue_attributes(QueueUrl=url, AttributeNames=list(ATTRIBUTES.values()))
    except client.exceptions.QueueDoesNotExist:
        return {"name": name, "depth": None, "error": None}
    except ClientError as error:
        return {"name": name, "depth": None, "error": error.response["Error"]["Code"]}
    except BotoCoreError as error:
        return {"name": name, "depth": None, "error": f"{type(error).__name__}: SQS does not answer"}
    depth = {kind: int(said["Attributes"][attribute]) for kind, attribute in ATTRIBUTES.items()}
    return {"name": name, "depth": depth, "error": None}


if __name__ == "__main__":
    print(json.dumps(listing()))
