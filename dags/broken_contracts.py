"""Fails to load while a file in include/contracts cannot be used, so that Airflow shows an import error.

The DAGs of all contracts are made in queue_etl.py, which goes on without the broken ones: if that file
failed, every pipeline would be gone. This one makes no DAG.
"""

from include.contracts import load_contracts

load_contracts().complete()
