-- Who may do what with the engine's own schemas, tables and functions. Every `migrate` runs this, after the
-- revisions: what was taken away is there again, what was added by hand is gone. A contract's table gets its
-- rights from etl.grant_contract.

DO $$
BEGIN
    -- What the loader may, the maintainer may too, on the table of every contract.
    IF NOT pg_has_role('etl_maintainer', 'etl_loader', 'USAGE') THEN
        GRANT etl_loader TO etl_maintainer;
    END IF;
EXCEPTION WHEN unique_violation THEN
    NULL;  -- granted by a neighbour
END $$;
DO $$
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO etl_loader, etl_remasker, analyst, pii_officer, ops_ro',
                   current_database());
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO etl_loader', current_database());
END $$;
GRANT USAGE, CREATE ON SCHEMA public TO etl_owner;
GRANT USAGE ON SCHEMA public TO etl_loader, etl_remasker, analyst, pii_officer;

SET LOCAL ROLE etl_owner;

REVOKE ALL ON SCHEMA etl, pii
FROM PUBLIC, etl_loader, etl_maintainer, etl_remasker, analyst, pii_officer, ops_ro;
REVOKE ALL ON
    etl.schema_revision, etl.queues, etl.runs, etl.batches, etl.keys, etl.masked_columns, etl.tables, etl.ledger,
    etl.quarantine, etl.run_summary, etl.quarantine_summary, etl.quarantine_shapes, etl.kept_fields,
    etl.kept_summary, etl.run_figures, etl.batch_figures, etl.quarantine_figures, etl.key_figures,
    etl.audit_entries, etl.table_freshness, etl.quarantine_deleted, etl.queue_states, etl.last_watch,
    etl.alerts, etl.alert_notices, pii.audit
FROM PUBLIC, etl_loader, etl_maintainer, etl_remasker, analyst, pii_officer, ops_ro;
REVOKE ALL ON FUNCTION
    etl.ledger_day_exists, etl.ensure_ledger_partition, etl.drop_ledger_partitions, etl.grant_contract,
    etl.partition_range, etl.partition_name, etl.partition_ranges, etl.partition_gaps, etl.partition_bounds,
    etl.missing_partitions, etl.ensure_partition, etl.expired_partitions, etl.drop_partitions, etl.revoke_all,
    etl.json_steps, etl.json_paths, etl.json_values, etl.json_changed,
    etl.require_path, etl.tokens_inside, etl.move_tokens_inside, etl.sampled_keys, etl.count_deleted,
    etl.rows_of_day,
    pii.chained, pii.record
FROM PUBLIC, etl_loader, etl_maintainer, etl_remasker, analyst, pii_officer, ops_ro;

GRANT USAGE ON SCHEMA etl TO etl_loader, etl_remasker, pii_officer, ops_ro;
GRANT USAGE ON SCHEMA pii TO etl_remasker, pii_officer;
GRANT SELECT ON etl.schema_revision TO etl_loader, etl_remasker, pii_officer, ops_ro;

GRANT SELECT, INSERT ON etl.queues, etl.keys TO etl_loader;
GRANT SELECT, INSERT, UPDATE ON etl.runs, etl.batches TO etl_loader;
GRANT INSERT, SELECT (queue_id, sent_day, message_id) ON etl.ledger TO etl_loader;
GRANT INSERT ON etl.quarantine, etl.kept_fields, etl.masked_columns TO etl_loader;
GRANT SELECT ON etl.run_summary, etl.tables TO etl_loader;
GRANT EXECUTE ON FUNCTION
    etl.ensure_ledger_partition, etl.drop_ledger_partitions, etl.missing_partitions, etl.ensure_partition
TO etl_loader;

GRANT SELECT, UPDATE (status, run_id) ON etl.ledger TO etl_maintainer;
GRANT SELECT, UPDATE (reason, shape, redriven_at, redriven_run_id), DELETE ON etl.quarantine TO etl_maintainer;
GRANT SELECT ON etl.quarantine_summary TO etl_maintainer;
GRANT SELECT (ctid, queue_id, sent_day), DELETE ON etl.kept_fields TO etl_maintainer;  -- by their age
GRANT EXECUTE ON FUNCTION etl.expired_partitions, etl.drop_partitions, etl.rows_of_day TO etl_maintainer;
GRANT SELECT ON etl.quarantine_deleted TO etl_maintainer;
GRANT SELECT, INSERT, UPDATE ON etl.queue_states, etl.alerts, etl.alert_notices TO etl_maintainer;
GRANT SELECT, UPDATE ON etl.last_watch TO etl_maintainer;

-- Who moves tokens from one key to another sees tokens, not whose they are: in jsonb columns too, by functions
-- with the rights of the owner.
GRANT EXECUTE ON FUNCTION etl.tokens_inside, etl.move_tokens_inside TO etl_remasker;
GRANT SELECT ON etl.queues, etl.run_summary, etl.masked_columns TO etl_remasker;
GRANT SELECT (queue_id, sent_day, message_id, payload), UPDATE (payload)
ON etl.quarantine, etl.kept_fields TO etl_remasker;
GRANT SELECT, INSERT, UPDATE (retired_at) ON etl.keys TO etl_remasker;

GRANT SELECT ON
    etl.queues, etl.keys, etl.run_summary, etl.quarantine_summary, etl.quarantine_shapes, etl.kept_summary,
    pii.audit
TO pii_officer;
GRANT SELECT, DELETE ON etl.quarantine, etl.kept_fields TO pii_officer;
GRANT EXECUTE ON FUNCTION pii.record TO etl_remasker, pii_officer;
GRANT EXECUTE ON FUNCTION etl.json_steps, etl.json_paths, etl.json_values, etl.json_changed TO pii_officer;

-- Nothing that holds a body, sealed or not, and no token. The page in Airflow's UI reads as this role too.
GRANT SELECT ON
    etl.run_summary, etl.quarantine_summary, etl.quarantine_shapes, etl.kept_summary, etl.run_figures,
    etl.batch_figures, etl.quarantine_figures, etl.key_figures, etl.audit_entries,
    etl.table_freshness, etl.queues, etl.queue_states, etl.last_watch, etl.alerts
TO ops_ro;
GRANT EXECUTE ON FUNCTION etl.sampled_keys TO ops_ro;

-- How fresh a table is, and how complete a day.
GRANT USAGE ON SCHEMA etl TO analyst;
GRANT SELECT ON etl.table_freshness TO analyst;

RESET ROLE;
