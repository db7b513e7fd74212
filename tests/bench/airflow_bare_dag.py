"""The least DAG that imports of Airflow what ours do: what their parse is compared with."""

from airflow.sdk import (  # noqa: F401 - imported to be paid for
    DAG,
    Asset,
    BaseSensorOperator,
    ExceptionRetryPolicy,
    Metadata,
    Param,
    task,
    task_group,
)
from airflow.triggers.base import BaseTrigger  # noqa: F401 - the same

with DAG("bare"):

    @task
    def nothing() -> None:
        """Does nothing."""

    nothing()
