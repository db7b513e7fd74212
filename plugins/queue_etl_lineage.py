"""What a run read and wrote, for the OpenLineage provider where it is installed: a queue in, a table out.

OpenLineage has no name for queues of SQS. It is made here as its other names are: the namespace is the
service, `sqs://sqs.eu-west-1.amazonaws.com`, and the name the path of the queue, `123456789012/login-queue`.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from queue_etl_policy import DRAFT

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import DAG

    from include.queue_etl.contract import Contract
    from include.queue_etl.run_context import RunContext

PROVIDER = "airflow.providers.openlineage"
log = logging.getLogger(__name__)


def tell_lineage(context: "RunContext", summary: Mapping[str, Any]) -> None:
    """Give the running task what the provider asks it for when it has ended.

    The provider asks an operator for its lineage by this method; one of `@task` has none of its own.
    """
    if not _is_on():
        return
    from airflow.sdk import get_current_context

    from include.queue_etl.errors import QueueEtlError

    try:
        lineage = lineage_of(context.contract, context.queue.url, _address(context.contract), summary)
    except QueueEtlError as error:  # the run has an error of its own then, which matters more
        log.info("no lineage: %s", error)
        return
    task: Any = get_current_context()["task"]
    task.get_openlineage_facets_on_complete = lambda task_instance: lineage
    _emit(task, extract_operator_metadata=True)


def only_finish_tells(dag: "DAG") -> "DAG":
    """Keep the provider from saying of the other tasks that they have begun and ended.

    None of them has a queue or a table to name, and each event takes time. `finish` has none either before it
    has settled the run: the provider would look for assets that it knows, and import boto3 for that. A locked
    rule of `[openlineage] emission_policy` wins over this.
    """
    if _is_on():
        for task in dag.tasks:
            flag = "extract_operator_metadata" if task.task_id == "finish" else "emit"
            _emit(task, **{flag: False})
    return dag


def _emit(task: Any, **flags: bool) -> None:
    """Tell the provider what it may say of the task; before 2.19 it says all it can.

    It keeps that as a param of the task, which like the form's is validated by the draft that takes least.
    """
    with suppress(ModuleNotFoundError):
        policy = import_module(f"{PROVIDER}.api.emission_policy")
        policy.extend_global_openlineage_emission_policy(task, **flags)
        for name in task.params:
            task.params.get_param(name).schema.update(DRAFT)


def _is_on() -> bool:
    """The provider is installed, and has somewhere to send to: else not even its library is imported."""
    try:
        conf = import_module(f"{PROVIDER}.conf")
    except ModuleNotFoundError:
        return False
    return not conf.is_disabled()


def _address(contract: "Contract") -> tuple[str, str]:
    """Host with port, and database, of the contract's warehouse; nothing of the connection beside them."""
    from psycopg.conninfo import conninfo_to_dict
    from queue_etl_connections import WAREHOUSE, warehouse_dsn

    from include.queue_etl.warehouses import of_warehouse

    given = conninfo_to_dict(warehouse_dsn(of_warehouse(WAREHOUSE, contract.warehouse)))
    host = given.get("host") or "localhost"
    return f"{host}:{given.get('port') or 5432}", str(given.get("dbname") or given.get("user"))


def lineage_of(
    contract: "Contract", queue_url: str, address: tuple[str, str], summary: Mapping[str, Any]
) -> "OperatorLineage[Any, Any]":
    """A queue in and a table out, with row counts, columns, and from which field each comes.

    Args:
        contract: of the run
        queue_url: as SQS names the queue
        address: host with port of the warehouse, and its database
        summary: the run's line of etl.run_summary
    """
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import (
        column_lineage_dataset,
        input_statistics_input_dataset,
        output_statistics_output_dataset,
        schema_dataset,
    )

    place = urlsplit(queue_url)
    namespace, queue = f"sqs://{place.netloc}", place.path.strip("/")
    where, database = address
    masked = {one.column for one in contract.personal}
    fields = [
        schema_dataset.SchemaDatasetFacetFields(
            column.name, column.sql_type, "personal: holds tokens" if column.name in masked else None
        )
        for column in contract.columns
    ]
    sources = {
        column.name: column_lineage_dataset.Fields(
            inputFields=[
                column_lineage_dataset.InputField(
                    namespace,
                    queue,
                    column.field,
                    [column_lineage_dataset.Transformation("DIRECT", masking=column.name in masked)],
                )
            ]
        )
        for column in contract.columns
    }
    received = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(rowCount=summary["received"])
    loaded = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=summary["loaded"])
    return OperatorLineage(
        inputs=[InputDataset(namespace, queue, inputFacets={"inputStatistics": received})],
        outputs=[
            OutputDataset(
                f"postgres://{where}",
                f"{database}.{contract.table}",
                facets={
                    "schema": schema_dataset.SchemaDatasetFacet(fields),
                    "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(sources),
                },
                outputFacets={"outputStatistics": loaded},
            )
        ],
    )
