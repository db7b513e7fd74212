# Airflow with this project inside. Slim: the lock brings every provider we use, at the tested version, and
# holds nothing that only tests or checks need. For CeleryExecutor: --build-arg REQUIREMENTS=requirements-celery.lock.
FROM apache/airflow:slim-3.3.2-python3.11

USER root
# Owned before volumes are mounted over them: a new volume takes its owner from here.
RUN install -d -m 0700 -o airflow -g 0 /opt/airflow/staging /opt/airflow/state
USER airflow

COPY --chown=airflow:0 requirements.lock /opt/airflow/
COPY --chown=airflow:0 requirements-celery.lock /opt/airflow/
ARG REQUIREMENTS=requirements.lock
RUN pip install --no-cache-dir --require-hashes --no-deps -r /opt/airflow/$REQUIREMENTS

WORKDIR /opt/airflow
COPY --chown=airflow:0 config ./config
COPY --chown=airflow:0 include ./include
COPY --chown=airflow:0 plugins ./plugins
COPY --chown=airflow:0 dags ./dags
