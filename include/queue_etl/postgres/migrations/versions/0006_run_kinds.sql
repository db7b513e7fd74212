SET LOCAL ROLE etl_owner;

ALTER TABLE etl.runs ADD COLUMN kind text NOT NULL DEFAULT 'queue' CHECK (kind IN ('queue', 'redrive'));
COMMENT ON COLUMN etl.runs.kind IS
    'queue: messages from the queue. redrive: messages from the quarantine, which an earlier run counts.';

-- Earlier redrives, as far as they can be told: something names them, and they deleted no message.
UPDATE etl.runs
SET kind = 'redrive', received = 0, quarantined = 0, quarantined_by_reason = '{}', duplicates = 0
WHERE coalesce(deleted, 0) = 0
  AND (run_id IN (SELECT redriven_run_id FROM etl.quarantine)
       OR airflow_run_id LIKE 'redrive\_\_%' OR airflow_run_id LIKE 'queue\_etl\_redrive\_\_%');

-- As it was, with kind. A message is received and quarantined once: a redrive shows only the rows it made.
CREATE OR REPLACE VIEW etl.run_summary AS
SELECT run.run_id, run.contract, run.airflow_run_id, run.state, run.started_at, run.finished_at, run.received,
       coalesce(run.loaded, so_far.loaded, 0) AS loaded,
       coalesce(run.quarantined, so_far.quarantined, 0) AS quarantined,
       coalesce(run.quarantined_by_reason, so_far.quarantined_by_reason, '{}') AS quarantined_by_reason,
       coalesce(run.duplicates, so_far.duplicates, 0) AS duplicates,
       run.deleted, run.delete_failed, run.visible_before, run.visible_after, run.oldest_age_seconds,
       coalesce(run.staged_bytes, so_far.staged_bytes, 0) AS staged_bytes,
       round(run.extract_seconds::numeric, 3)::double precision AS extract_seconds,
       round(coalesce(run.mask_seconds, so_far.mask_seconds)::numeric, 3)::double precision AS mask_seconds,
       round(coalesce(run.load_seconds, so_far.load_seconds)::numeric, 3)::double precision AS load_seconds,
       round(run.finish_seconds::numeric, 3)::double precision AS finish_seconds,
       round(extract(epoch FROM coalesce(run.finished_at, now()) - run.started_at), 3)::double precision
           AS total_seconds,
       run.kind
FROM etl.runs AS run
LEFT JOIN LATERAL (
    SELECT sum(loaded) AS loaded,
           sum(quarantined) FILTER (WHERE run.kind = 'queue') AS quarantined,
           sum(duplicates) FILTER (WHERE run.kind = 'queue') AS duplicates,
           sum(staged_bytes)::bigint AS staged_bytes,
           sum(mask_seconds::double precision) AS mask_seconds,
           sum(load_seconds::double precision) AS load_seconds,
           (SELECT jsonb_object_agg(reason, messages) FROM (
                SELECT key AS reason, sum(value::bigint) AS messages
                FROM etl.batches, jsonb_each_text(quarantined_by_reason)
                WHERE batches.run_id = run.run_id AND run.kind = 'queue' GROUP BY key
            ) AS reasons) AS quarantined_by_reason
    FROM etl.batches WHERE batches.run_id = run.run_id
) AS so_far ON run.state = 'running';

RESET ROLE;
