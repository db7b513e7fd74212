SET LOCAL ROLE etl_owner;

ALTER TABLE etl.batches ADD COLUMN personal_data_checked integer NOT NULL DEFAULT 0;
ALTER TABLE etl.batches ADD COLUMN personal_data_found jsonb NOT NULL DEFAULT '{}';
ALTER TABLE etl.runs ADD COLUMN personal_data_checked bigint;
ALTER TABLE etl.runs ADD COLUMN personal_data_found jsonb;
COMMENT ON COLUMN etl.batches.personal_data_checked IS
    'Messages that the personal data check looked at: a sample, or all where the contract says so.';
COMMENT ON COLUMN etl.batches.personal_data_found IS
    'Path -> kind of personal value -> messages of those that have it there. Never a value.';

-- As it was, with the two columns of the personal data check.
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
       coalesce(run.unknown_fields, so_far.unknown_fields, '{}') AS unknown_fields,
       coalesce(run.personal_data_checked, so_far.personal_data_checked, 0) AS personal_data_checked,
       coalesce(run.personal_data_found, so_far.personal_data_found, '{}') AS personal_data_found
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
            ) AS paths) AS unknown_fields,
           sum(personal_data_checked) AS personal_data_checked,
           (SELECT jsonb_object_agg(path, kinds) FROM (
                SELECT path, jsonb_object_agg(kind, messages) AS kinds FROM (
                    SELECT places.key AS path, found.key AS kind, sum(found.value::bigint) AS messages
                    FROM etl.batches, jsonb_each(personal_data_found) AS places,
                         jsonb_each_text(places.value) AS found
                    WHERE batches.run_id = run.run_id GROUP BY places.key, found.key
                ) AS counts GROUP BY path
            ) AS by_path) AS personal_data_found
    FROM etl.batches WHERE batches.run_id = run.run_id
) AS so_far ON run.state = 'running';

RESET ROLE;
