"""The commands of `python -m include.queue_etl`, by who uses them."""
