"""One DAG for each contract in include/contracts. Wiring only: the work is in include/queue_etl/steps.py."""

from airflow.sdk import DAG, Asset, Metadata, TriggerRule, task, task_group
from queue_etl_connections import open_run, push_note, queue_to_watch, run_so_far
from queue_etl_lineage import only_finish_tells
from queue_etl_observe import report_run
from queue_etl_policy import PARAMS, START, WAITS_FOR, caught_up_seconds, pace, task_args
from sqs_queue_depth import SqsQueueDepthSensor

from include.contracts import load_contract, load_contracts

DOC = """
Moves the messages of the SQS queue `{queue}` into `{table}`: each ends in exactly one place, a row or the
quarantine, once, with personal data masked. A message is deleted when the database proves it committed.

| if this task fails | what you see | where your data is | what to do |
|---|---|---|---|
| `sense` | queue, region, endpoint, and why SQS did not answer | on the queue: nothing was received | correct what the line names; the next run goes on |
| `extract` | `invalid settings:` or `not started, nothing received:` with a list, or SQS or staging failing | on the queue, hidden for up to an hour; sealed batches stay staged | correct it; the next run takes the messages; clear `extract` only where its log says one of the two |
| `mask` | a keyset, or a damaged staged file, and its batch | staged, encrypted, and still on the queue | correct it; the next run takes the messages |
| `load` | SQLSTATE and constraint, never a value | a batch is in `{table}` wholly or not at all; the rest is on the queue | correct it; the next run takes the messages |
| `finish` | that a task before it failed, or a delete that SQS refused | committed rows are in `{table}`; a message not deleted comes back and counts as a duplicate | correct what the task before it names; nothing comes twice |

Once `finish` has closed a run, clearing its tasks does nothing. A run that Airflow or a person ends before that is closed by `queue_etl_recovery` within minutes, and its messages are visible again.
"""  # noqa: E501 - a row of a table is a line
# The grid names a mapped task by its batches instead of by a number.
GROUP = "{{ task.op_kwargs['group']['name'] }}"


def queue_etl(name: str) -> DAG:
    """The DAG of one contract: sense >> extract >> (mask >> load for each group of batches) >> finish."""
    contract = load_contract(name)
    table = Asset(name=contract.asset, uri=f"x-warehouse://{contract.asset}")

    @task
    def extract(depth):
        from include.queue_etl import steps

        with open_run(name) as context:
            batches = steps.extract(context, depth, caught_up_seconds=caught_up_seconds(contract))
            return steps.grouped(batches, context.settings)

    @task(map_index_template=GROUP)
    def mask(group):
        from include.queue_etl import steps

        with open_run(name) as context:
            return {**group, "masked": [steps.mask(context, batch) for batch in group["batches"]]}

    @task(map_index_template=GROUP)
    def load(group):
        from include.queue_etl import steps

        with open_run(name) as context:
            return [steps.load(context, batch) for batch in group["batches"]]

    # A task group, not two expansions in a row: batches that cannot be masked must not keep others out.
    @task_group(prefix_group_id=False)
    def each_group(group):
        load(group=mask(group=group))  # by keyword: GROUP reads them

    # Runs after any failure, and is skipped when a direct upstream is: when `sense` saw an empty queue, or
    # the run is closed already and has no batch.
    @task(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS, outlets=[table])
    def finish():
        from include.queue_etl import steps

        with open_run(name) as context:
            summary = steps.finish(context, tell=push_note, report=report_run, **run_so_far())
        yield Metadata(table, {"rows": summary["loaded"]})
        return summary

    with DAG(
        name,
        description=f"{contract.queue} -> {contract.table}, once, with personal data masked",
        doc_md=DOC.format(queue=contract.queue, table=contract.table),
        **pace(contract),
        start_date=START,
        catchup=False,
        is_paused_upon_creation=False,  # else `dags test` registers it paused, and runs of the UI stay queued
        default_args=task_args(contract),
        params=PARAMS,
        tags=["sqs", "postgres", "personal-data", *contract.tags],
    ) as dag:
        sense = SqsQueueDepthSensor(task_id="sense", **queue_to_watch(contract), **WAITS_FOR)
        groups, last = extract(sense.output), finish()
        [sense, groups, each_group.expand(group=groups)] >> last
    return only_finish_tells(dag)


for contract_name in load_contracts().good:  # broken_contracts.py shows the others
    globals()[contract_name] = queue_etl(contract_name)
