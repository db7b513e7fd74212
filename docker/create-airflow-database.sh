#!/usr/bin/env bash
# Run once by the postgres image, on an empty data volume: Airflow's own database and role.
set -euo pipefail
psql --set=ON_ERROR_STOP=1 --set=password="$AIRFLOW_DB_PASSWORD" --username=postgres <<'SQL'
create role airflow login password :'password';
create database airflow owner airflow;
SQL
