"""Print the queues of every contract, and how many messages each holds, as JSON.

A program of its own, for it needs the project's virtualenv: `python -m devstack.queue_listing`. What cannot
be loaded or asked is part of the answer and hides nothing else.
"""

import json
import traceback
from pathlib import Path
from typing import Any

from include.contracts import contract_names, load_contract

# As the engine's own `depth` names them.
ATTRIBUTES = {
    "visible": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}
ROOT = Path(__file__).resolve().parent.parent


def listing() -> list[dict[str, Any]]:
    """Return an entry a contract: its `name`, its `queues`, and the `error` that came of loading it."""
    client = _client()
    return [_contract(client, name) for name in contract_names()]


def _client() -> Any:
    import boto3
    from botocore.config import Config

    # One attempt: a person waits for the answer, and "does not answer" is one.
    quick = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
    return boto3.client("sqs", config=quick)


def _contract(client: Any, name: str) -> dict[str, Any]:
    try:
        contract = load_contract(name)
    except Exception as error:  # a contract is a person's own Python: anything can be wrong with it
        return {"name": name, "error": _where(name, error), "queues": []}
    pair = (contract.queue, contract.dead_letter_queue)
    return {"name": name, "error": None, "queues": [_queue(client, queue) for queue in pair]}


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


def _where(name: str, error: Exception) -> str:
    """Return the contract's file, the line in it that failed, and what Python said."""
    file = f"include/contracts/{name}.py"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == ROOT / file
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{file}{f', line {line}' if line else ''}: {type(error).__name__}: {said}"


if __name__ == "__main__":
    print(json.dumps(listing()))
