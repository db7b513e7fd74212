"""Puts the project root on sys.path, so that `include` is importable in every Airflow process.

Airflow 3 adds dags/, plugins/ and config/ to sys.path, not their parent, and imports this module first in
each process. AIRFLOW_HOME = project root is all it needs; PYTHONPATH=<project root> does the same.
"""

import sys
from pathlib import Path

PROJECT_ROOT = str(Path(__file__).resolve().parent.parent)

if PROJECT_ROOT not in sys.path:
    sys.path.insert(0, PROJECT_ROOT)
