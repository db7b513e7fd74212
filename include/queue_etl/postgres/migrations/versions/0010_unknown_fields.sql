SET LOCAL ROLE etl_owner;

ALTER TABLE etl.batches ADD COLUMN unknown_fields jsonb NOT NULL DEFAULT '{}';
ALTER TABLE etl.runs ADD COLUMN unknown_fields jsonb;
COMMENT ON COLUMN etl.batches.unknown_fields IS
    'Path -> accepted messages that have a field which the contract does not declare. Never a value.';

-- As it was, with unknown_fields.
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
       run.kind,
       coalesce(run.unknown_fields, so_far.unknown_fields, '{}') AS unknown_fields
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
            ) AS reasons) AS quarantined_by_reason,
           (SELECT jsonb_object_agg(path, messages) FROM (
                SELECT key AS path, sum(value::bigint) AS messages
                FROM etl.batches, jsonb_each_text(unknown_fields)
                WHERE batches.run_id = run.run_id GROUP BY key
            ) AS paths) AS unknown_fields
    FROM etl.batches WHERE batches.run_id = run.run_id
) AS so_far ON run.state = 'running';

RESET ROLE;
