"""What `./dev` does: virtualenvs, an embedded Postgres, an SQS emulator, Airflow. Standard library only."""
