"""Print the queues of every contract, and how many messages each holds, as JSON.

`python -m devstack.programs.queue_listing`. What cannot be loaded or asked is part of the answer and hides
nothing else.
"""

import json
from typing import Any

from include.contracts import load_contracts
from include.queue_etl.contract import Contract

# As the engine's own `depth` names them.
ATTRIBUTES = {
    "visible": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}


def listing() -> list[dict[str, Any]]:
    """Return an entry a contract: its `name`, its `queues`, and the `error` that came of loading it."""
    client, loaded = _client(), load_contracts()
    return [
        *(_contract(client, contract) for contract in loaded.good.values()),
        *({"name": name, "error": problem, "queues": []} for name, problem in loaded.broken.items()),
    ]


def _client() -> Any:
    import boto3
    from botocore.config import Config

    # One attempt: a person waits for the answer, and "does not answer" is one.
    quick = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
    return boto3.client("sqs", config=quick)


def _contract(client: Any, contract: Contract) -> dict[str, Any]:
    pair = (contract.queue, contract.dead_letter_queue)
    return {"name": contract.name, "error": None, "queues": [_queue(client, queue) for queue in pair]}


def _queue(client: Any, name: str) -> dict[str, Any]:
    """Return the queue's `name`, its `depth` (None where it does not exist), and the `error` of asking."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        url = client.get_queue_url(QueueName=name)["QueueUrl"]
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
