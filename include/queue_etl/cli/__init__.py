"""The engine from the command line: `python -m include.queue_etl COMMAND`, by who uses it."""
