"""Settings of Airflow for tests that start it."""

# The DAG processor parses every file at its start, and by default again every 30 s: an eighth of a core. The
# DAGs do not change while a test runs.
PARSED_ONCE = {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600"}
# The scheduler of a stack looks for work four times a second, which takes a tenth of a core all the while.
LEAN = {**PARSED_ONCE, "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5"}
