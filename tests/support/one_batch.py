"""Mask or load one batch in a process of its own, as Airflow's mapped tasks do.

`python -m tests.support.one_batch STEP RUN_NAME BATCH [CONTRACT]` reads the variables that the engine's
commands read.
"""

import json
import sys
from argparse import Namespace

from include.contracts import DEFAULT_CONTRACT
from include.queue_etl import steps
from include.queue_etl.cli import wiring
from include.queue_etl.errors import QueueEtlError

STEPS = {"mask": steps.mask, "load": steps.load}


def main(arguments: list[str]) -> int:
    """Print the step's result as JSON; 0 done, 1 failed with one message on stderr."""
    step, run_name, batch, contract = [*arguments, DEFAULT_CONTRACT][:4]
    given = Namespace(contract=contract, run_id=run_name)
    try:
        # mask does without Postgres
        with wiring.run_context(given, check_dsn=step != "mask") as context:
            print(json.dumps(STEPS[step](context, batch)))
    except QueueEtlError as error:
        print(f"{step}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
