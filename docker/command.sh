#!/usr/bin/env bash
# One command of the engine, in a container of its own: the keyset goes from its variable into the file that the
# engine reads. The file is in memory, and gone with the container.
set -euo pipefail
QUEUE_ETL_KEYSET_FILE=$(mktemp)
export QUEUE_ETL_KEYSET_FILE
python - > "$QUEUE_ETL_KEYSET_FILE" <<'PYTHON'
import json, os

connection = json.loads(os.environ["AIRFLOW_CONN_PII_KEYSET"])
keyset = connection.get("password") or connection["extra"]
print(keyset if isinstance(keyset, str) else json.dumps(keyset))
PYTHON
unset AIRFLOW_CONN_PII_KEYSET
exec python -m include.queue_etl "$@"
