"""The engine: moves JSON messages from an SQS queue into Postgres, masked, with an exactly-once effect.

It knows no contract and no Airflow; `steps` is the only module that combines the others.
"""
