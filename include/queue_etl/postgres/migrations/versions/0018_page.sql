SET LOCAL ROLE etl_owner;

-- For the page in Airflow's UI, and for analysts ---------------------------------------------------------------

-- Of runs before this revision it stays null.
ALTER TABLE etl.runs ADD COLUMN table_name text;

-- The newest runs of a contract, and those of the last days.
CREATE INDEX runs_of_contract ON etl.runs (contract, started_at);
-- The last failure, however long ago.
CREATE INDEX runs_failed ON etl.runs (contract, started_at) WHERE state = 'failed';
-- Counts by reason and day, without a look at the payloads.
CREATE INDEX quarantine_by_time ON etl.quarantine (queue_id, quarantined_at)
INCLUDE (redriven_at, reason, payload_bytes, receive_count);

-- A line for each run as it stands in the table: unlike run_summary it adds up no batches, so the counts of a run
-- that is running are null.
CREATE VIEW etl.run_figures AS
SELECT run_id, contract, table_name, airflow_run_id, kind, state, started_at, finished_at, received, loaded,
       quarantined, duplicates, released, deleted, delete_failed, visible_before, visible_after,
       oldest_age_seconds, extract_seconds, mask_seconds, load_seconds, finish_seconds
FROM etl.runs;

CREATE VIEW etl.batch_figures AS
SELECT run_id, batch, loaded, quarantined, duplicates, staged_bytes, mask_seconds, load_seconds, committed_at
FROM etl.batches;

CREATE VIEW etl.quarantine_figures AS
SELECT queue_id, sent_day, reason, shape, payload_bytes, receive_count, quarantined_at, redriven_at
FROM etl.quarantine;

CREATE VIEW etl.key_figures AS
SELECT key_id, first_used_at, retired_at FROM etl.keys;

-- Not the reason, which is a free text, nor the details beside their count: both can name a person.
CREATE VIEW etl.audit_entries AS
SELECT id, at, who, action, (details ->> 'tokens')::numeric AS tokens FROM pii.audit;

-- Days are those of UTC in which runs began. Runs of the last 31 days, so that the view stays quick.
CREATE VIEW etl.table_freshness AS
SELECT contract, max(table_name) AS table_name, (started_at AT TIME ZONE 'UTC')::date AS day,
       max(finished_at) FILTER (WHERE loaded > 0) AS newest_row_at,
       max(finished_at) FILTER (WHERE state = 'succeeded') AS last_load_at,
       count(*) FILTER (WHERE state = 'running') AS open_runs,
       count(*) FILTER (WHERE state = 'failed') AS failed_runs,
       coalesce(sum(received), 0) AS received, coalesce(sum(loaded), 0) AS loaded,
       coalesce(sum(quarantined), 0) AS quarantined, coalesce(sum(duplicates), 0) AS duplicates,
       coalesce(sum(released), 0) AS released,
       coalesce(sum(received), 0) - coalesce(sum(loaded + quarantined + duplicates + released), 0) AS missing,
       count(*) FILTER (WHERE state = 'running') = 0
           AND coalesce(sum(received), 0) = coalesce(sum(loaded + quarantined + duplicates + released), 0)
           AS is_complete
FROM etl.runs
WHERE kind = 'queue' AND started_at >= now() - interval '31 days'
GROUP BY contract, (started_at AT TIME ZONE 'UTC')::date;

-- A look at about `pages` pages of the table: how many of their tokens were made by which key. A token begins with
-- the byte 1 and the four bytes of its key's id, in base64url (keys/token_format.py). For whoever may not read the
-- table: it tells key ids and counts, no token.
CREATE FUNCTION etl.sampled_keys(contract_table text, column_name text, pages integer DEFAULT 200)
RETURNS TABLE (key_id bigint, tokens bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    share numeric;
BEGIN
    IF NOT EXISTS (SELECT FROM etl.masked_columns AS masked
                   WHERE masked.table_name = contract_table
                     AND masked.column_name = sampled_keys.column_name AND masked.path = '') THEN
        RAISE EXCEPTION 'the column holds no tokens' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT least(100, 100.0 * sampled_keys.pages / greatest(1, sum(pg_relation_size(relid) / 8192)))
    INTO share FROM pg_partition_tree(contract_table::regclass);
    RETURN QUERY EXECUTE format(
        $query$
        WITH found AS (
            SELECT decode(translate(left(%1$I, 8), '-_', '+/'), 'base64') AS bytes
            FROM %2$s TABLESAMPLE SYSTEM (%3$s)
            WHERE %1$I ~ '^A[Q-Za-f][A-Za-z0-9_-]{6}'
        )
        SELECT (get_byte(bytes, 1)::bigint << 24) + (get_byte(bytes, 2) << 16)
               + (get_byte(bytes, 3) << 8) + get_byte(bytes, 4), count(*)
        FROM found GROUP BY 1 ORDER BY 2 DESC
        $query$, column_name, contract_table::regclass, share);
END $$;

-- What every column and view means -----------------------------------------------------------------------------

COMMENT ON TABLE etl.schema_revision IS 'The revision of the schema that `migrate` made last.';
COMMENT ON TABLE etl.queues IS 'Names of queues, by the short number that ledger and quarantine hold.';
COMMENT ON TABLE etl.runs IS 'A line for each run: one pass of one pipeline, or a redrive or replay.';
COMMENT ON TABLE etl.batches IS
    'Commit records: written in the transaction that loads the batch, and so the proof of it.';
COMMENT ON TABLE etl.masked_columns IS 'Each column that ever held tokens, and of which field.';
COMMENT ON TABLE etl.tables IS 'Partitioned tables of contracts.';
COMMENT ON TABLE etl.ledger IS
    'Ids of all messages that were dealt with, by queue and day of sending. A partition for each day.';
COMMENT ON TABLE etl.quarantine IS 'Messages that cannot become a row, encrypted, each with its reason.';
COMMENT ON VIEW etl.run_summary IS 'A line for each run; while it runs, the counts so far of its batches.';
COMMENT ON VIEW etl.quarantine_summary IS 'Quarantined messages by queue and reason.';
COMMENT ON VIEW etl.quarantine_shapes IS 'What waits in quarantine by queue, reason and shape.';
COMMENT ON VIEW etl.kept_summary IS 'Kept fields by queue and shape.';
COMMENT ON VIEW etl.run_figures IS
    'A line for each run as it was stored; counts of a run that is running are null.';
COMMENT ON VIEW etl.batch_figures IS 'A line for each committed batch, without the digest of its ids.';
COMMENT ON VIEW etl.quarantine_figures IS 'A line for each quarantined message, without its body and its id.';
COMMENT ON VIEW etl.key_figures IS 'Keys that ever masked, without their check values.';
COMMENT ON VIEW etl.audit_entries IS
    'Entries of the audit, without reason, ticket and details: these can name a person.';
COMMENT ON VIEW etl.table_freshness IS
    'How fresh and how complete the table of each contract is: a line for each contract and day (UTC) of the '
    'last 31 days.';
COMMENT ON FUNCTION etl.sampled_keys IS
    'How many tokens of a sample of the table were made by which key; no token is told.';

COMMENT ON COLUMN etl.schema_revision.version_num IS 'Number of the revision.';
COMMENT ON COLUMN etl.queues.queue_id IS 'Number of the queue in this warehouse.';
COMMENT ON COLUMN etl.queues.name IS 'Name of the queue, with the suffix of the environment.';
COMMENT ON COLUMN etl.runs.run_id IS 'The run; it follows from contract and run name.';
COMMENT ON COLUMN etl.runs.contract IS 'Name of the contract.';
COMMENT ON COLUMN etl.runs.airflow_run_id IS
    'Run id of Airflow, or the name that a command gave the run; of another DAG, its id comes before it.';
COMMENT ON COLUMN etl.runs.state IS 'running, succeeded or failed; the last two are final.';
COMMENT ON COLUMN etl.runs.started_at IS 'When the run was entered, with its first message.';
COMMENT ON COLUMN etl.runs.finished_at IS 'When the run was closed; null while it runs.';
COMMENT ON COLUMN etl.runs.visible_before IS 'Messages on the queue before the run, as the sensor saw them.';
COMMENT ON COLUMN etl.runs.visible_after IS 'Messages on the queue when the run ended.';
COMMENT ON COLUMN etl.runs.oldest_age_seconds IS
    'Age of the oldest message that the sensor saw or the run received.';
COMMENT ON COLUMN etl.runs.received IS 'Messages received from the queue; 0 of a redrive or replay.';
COMMENT ON COLUMN etl.runs.loaded IS 'Messages that became rows.';
COMMENT ON COLUMN etl.runs.quarantined IS 'Messages that went to quarantine.';
COMMENT ON COLUMN etl.runs.quarantined_by_reason IS 'Reason -> messages that were rejected for it.';
COMMENT ON COLUMN etl.runs.duplicates IS 'Messages that the ledger knew already.';
COMMENT ON COLUMN etl.runs.deleted IS 'Messages deleted from the queue.';
COMMENT ON COLUMN etl.runs.delete_failed IS 'Messages that SQS did not delete: they come again, as duplicates.';
COMMENT ON COLUMN etl.runs.released IS 'Messages made visible again, as their batch was not proven loaded.';
COMMENT ON COLUMN etl.runs.staged_bytes IS 'COPY text of ledger, rows and quarantine.';
COMMENT ON COLUMN etl.runs.extract_seconds IS 'Seconds of receiving.';
COMMENT ON COLUMN etl.runs.mask_seconds IS 'Seconds of masking, summed over the batches.';
COMMENT ON COLUMN etl.runs.load_seconds IS 'Seconds of loading, summed over the batches.';
COMMENT ON COLUMN etl.runs.finish_seconds IS 'Seconds of deleting.';
COMMENT ON COLUMN etl.runs.unknown_fields IS
    'Path -> accepted messages that have a field which the contract does not declare. Never a value.';
COMMENT ON COLUMN etl.runs.personal_data_checked IS 'Messages that the personal data check looked at.';
COMMENT ON COLUMN etl.runs.personal_data_found IS
    'Path -> kind of personal value -> messages of those that have it there. Never a value.';
COMMENT ON COLUMN etl.runs.table_name IS
    'Table of the contract when the run was entered; null of runs before revision 0018.';
COMMENT ON COLUMN etl.runs.queue_id IS 'Number of the queue, as in etl.queues.';
COMMENT ON COLUMN etl.run_summary.run_id IS 'The run; it follows from contract and run name.';
COMMENT ON COLUMN etl.run_summary.contract IS 'Name of the contract.';
COMMENT ON COLUMN etl.run_summary.airflow_run_id IS
    'Run id of Airflow, or the name that a command gave the run; of another DAG, its id comes before it.';
COMMENT ON COLUMN etl.run_summary.state IS 'running, succeeded or failed; the last two are final.';
COMMENT ON COLUMN etl.run_summary.started_at IS 'When the run was entered, with its first message.';
COMMENT ON COLUMN etl.run_summary.finished_at IS 'When the run was closed; null while it runs.';
COMMENT ON COLUMN etl.run_summary.visible_before IS
    'Messages on the queue before the run, as the sensor saw them.';
COMMENT ON COLUMN etl.run_summary.visible_after IS 'Messages on the queue when the run ended.';
COMMENT ON COLUMN etl.run_summary.oldest_age_seconds IS
    'Age of the oldest message that the sensor saw or the run received.';
COMMENT ON COLUMN etl.run_summary.received IS 'Messages received from the queue; 0 of a redrive or replay.';
COMMENT ON COLUMN etl.run_summary.loaded IS 'Messages that became rows.';
COMMENT ON COLUMN etl.run_summary.quarantined IS 'Messages that went to quarantine.';
COMMENT ON COLUMN etl.run_summary.quarantined_by_reason IS 'Reason -> messages that were rejected for it.';
COMMENT ON COLUMN etl.run_summary.duplicates IS 'Messages that the ledger knew already.';
COMMENT ON COLUMN etl.run_summary.deleted IS 'Messages deleted from the queue.';
COMMENT ON COLUMN etl.run_summary.delete_failed IS
    'Messages that SQS did not delete: they come again, as duplicates.';
COMMENT ON COLUMN etl.run_summary.staged_bytes IS 'COPY text of ledger, rows and quarantine.';
COMMENT ON COLUMN etl.run_summary.extract_seconds IS 'Seconds of receiving.';
COMMENT ON COLUMN etl.run_summary.mask_seconds IS 'Seconds of masking, summed over the batches.';
COMMENT ON COLUMN etl.run_summary.load_seconds IS 'Seconds of loading, summed over the batches.';
COMMENT ON COLUMN etl.run_summary.finish_seconds IS 'Seconds of deleting.';
COMMENT ON COLUMN etl.run_summary.unknown_fields IS
    'Path -> accepted messages that have a field which the contract does not declare. Never a value.';
COMMENT ON COLUMN etl.run_summary.personal_data_checked IS 'Messages that the personal data check looked at.';
COMMENT ON COLUMN etl.run_summary.personal_data_found IS
    'Path -> kind of personal value -> messages of those that have it there. Never a value.';
COMMENT ON COLUMN etl.run_summary.kind IS 'queue, redrive or replay.';
COMMENT ON COLUMN etl.run_summary.total_seconds IS 'Seconds from the start to the end, or until now.';
COMMENT ON COLUMN etl.run_figures.run_id IS 'The run; it follows from contract and run name.';
COMMENT ON COLUMN etl.run_figures.contract IS 'Name of the contract.';
COMMENT ON COLUMN etl.run_figures.table_name IS
    'Table of the contract when the run was entered; null of runs before revision 0018.';
COMMENT ON COLUMN etl.run_figures.airflow_run_id IS
    'Run id of Airflow, or the name that a command gave the run; of another DAG, its id comes before it.';
COMMENT ON COLUMN etl.run_figures.kind IS 'queue, redrive or replay.';
COMMENT ON COLUMN etl.run_figures.state IS 'running, succeeded or failed; the last two are final.';
COMMENT ON COLUMN etl.run_figures.started_at IS 'When the run was entered, with its first message.';
COMMENT ON COLUMN etl.run_figures.finished_at IS 'When the run was closed; null while it runs.';
COMMENT ON COLUMN etl.run_figures.received IS 'Messages received from the queue; 0 of a redrive or replay.';
COMMENT ON COLUMN etl.run_figures.loaded IS 'Messages that became rows.';
COMMENT ON COLUMN etl.run_figures.quarantined IS 'Messages that went to quarantine.';
COMMENT ON COLUMN etl.run_figures.duplicates IS 'Messages that the ledger knew already.';
COMMENT ON COLUMN etl.run_figures.released IS
    'Messages made visible again, as their batch was not proven loaded.';
COMMENT ON COLUMN etl.run_figures.deleted IS 'Messages deleted from the queue.';
COMMENT ON COLUMN etl.run_figures.delete_failed IS
    'Messages that SQS did not delete: they come again, as duplicates.';
COMMENT ON COLUMN etl.run_figures.visible_before IS
    'Messages on the queue before the run, as the sensor saw them.';
COMMENT ON COLUMN etl.run_figures.visible_after IS 'Messages on the queue when the run ended.';
COMMENT ON COLUMN etl.run_figures.oldest_age_seconds IS
    'Age of the oldest message that the sensor saw or the run received.';
COMMENT ON COLUMN etl.run_figures.extract_seconds IS 'Seconds of receiving.';
COMMENT ON COLUMN etl.run_figures.mask_seconds IS 'Seconds of masking, summed over the batches.';
COMMENT ON COLUMN etl.run_figures.load_seconds IS 'Seconds of loading, summed over the batches.';
COMMENT ON COLUMN etl.run_figures.finish_seconds IS 'Seconds of deleting.';
COMMENT ON COLUMN etl.batches.run_id IS 'The run of the batch.';
COMMENT ON COLUMN etl.batches.batch IS 'Name of the batch within its run.';
COMMENT ON COLUMN etl.batches.loaded IS 'Messages that became rows.';
COMMENT ON COLUMN etl.batches.quarantined IS 'Messages that went to quarantine.';
COMMENT ON COLUMN etl.batches.duplicates IS 'Messages that the ledger knew already.';
COMMENT ON COLUMN etl.batches.mask_seconds IS 'Seconds of masking.';
COMMENT ON COLUMN etl.batches.load_seconds IS 'Seconds of loading.';
COMMENT ON COLUMN etl.batches.committed_at IS 'When its transaction was entered.';
COMMENT ON COLUMN etl.batches.ids_digest IS
    'SHA-256 over the message ids; that of the receipt handles must be the same.';
COMMENT ON COLUMN etl.batches.quarantined_by_reason IS 'Reason -> messages that were rejected for it.';
COMMENT ON COLUMN etl.batch_figures.run_id IS 'The run of the batch.';
COMMENT ON COLUMN etl.batch_figures.batch IS 'Name of the batch within its run.';
COMMENT ON COLUMN etl.batch_figures.loaded IS 'Messages that became rows.';
COMMENT ON COLUMN etl.batch_figures.quarantined IS 'Messages that went to quarantine.';
COMMENT ON COLUMN etl.batch_figures.duplicates IS 'Messages that the ledger knew already.';
COMMENT ON COLUMN etl.batch_figures.mask_seconds IS 'Seconds of masking.';
COMMENT ON COLUMN etl.batch_figures.load_seconds IS 'Seconds of loading.';
COMMENT ON COLUMN etl.batch_figures.committed_at IS 'When its transaction was entered.';
COMMENT ON COLUMN etl.batch_figures.staged_bytes IS 'COPY text of ledger, rows and quarantine.';
COMMENT ON COLUMN etl.keys.key_id IS 'Id of the key in the keyset.';
COMMENT ON COLUMN etl.keys.check_value IS
    'A constant encrypted under the key, which shows whether a keyset holds it.';
COMMENT ON COLUMN etl.keys.first_used_at IS 'When it first masked.';
COMMENT ON COLUMN etl.keys.retired_at IS 'Since when nothing may be masked with it; null: in use.';
COMMENT ON COLUMN etl.key_figures.key_id IS 'Id of the key in the keyset.';
COMMENT ON COLUMN etl.key_figures.first_used_at IS 'When it first masked.';
COMMENT ON COLUMN etl.key_figures.retired_at IS 'Since when nothing may be masked with it; null: in use.';
COMMENT ON COLUMN etl.masked_columns.contract IS 'Name of the contract.';
COMMENT ON COLUMN etl.masked_columns.table_name IS 'Table with its schema.';
COMMENT ON COLUMN etl.masked_columns.column_name IS 'Column that holds tokens.';
COMMENT ON COLUMN etl.masked_columns.field IS 'Field of the event whose values they stand for.';
COMMENT ON COLUMN etl.masked_columns.scheme IS 'How they are made: recoverable or one-way.';
COMMENT ON COLUMN etl.masked_columns.first_seen IS 'When the column was registered.';
COMMENT ON COLUMN etl.masked_columns.path IS
    'Path of the tokens inside a jsonb column; empty: the column is the token.';
COMMENT ON COLUMN etl.tables.table_name IS 'Table with its schema.';
COMMENT ON COLUMN etl.tables.partition_kind IS 'month or day.';
COMMENT ON COLUMN etl.tables.partition_column IS 'Column that decides on the partition.';
COMMENT ON COLUMN etl.tables.retain_days IS
    'Maintenance drops partitions whose last day is longer ago; null: it drops none.';
COMMENT ON COLUMN etl.ledger.queue_id IS 'Number of the queue, as in etl.queues.';
COMMENT ON COLUMN etl.ledger.sent_day IS 'Day (UTC) on which the message was sent.';
COMMENT ON COLUMN etl.ledger.message_id IS 'Id of the message at SQS, or one made of its dedup-id.';
COMMENT ON COLUMN etl.ledger.run_id IS 'The run that dealt with it.';
COMMENT ON COLUMN etl.ledger.status IS 'L: loaded as a row. Q: in quarantine.';
COMMENT ON COLUMN etl.quarantine.queue_id IS 'Number of the queue, as in etl.queues.';
COMMENT ON COLUMN etl.quarantine.sent_day IS 'Day (UTC) on which the message was sent.';
COMMENT ON COLUMN etl.quarantine.message_id IS 'Id of the message.';
COMMENT ON COLUMN etl.quarantine.run_id IS 'The run that quarantined it.';
COMMENT ON COLUMN etl.quarantine.reason IS 'Why it cannot become a row, with the path where there is one.';
COMMENT ON COLUMN etl.quarantine.payload_bytes IS 'Length of the message body.';
COMMENT ON COLUMN etl.quarantine.receive_count IS 'How often SQS had handed it out.';
COMMENT ON COLUMN etl.quarantine.quarantined_at IS 'When it was quarantined.';
COMMENT ON COLUMN etl.quarantine.redriven_at IS 'When a redrive made it a row; null: it waits.';
COMMENT ON COLUMN etl.quarantine.redriven_run_id IS 'That redrive.';
COMMENT ON COLUMN etl.quarantine_figures.queue_id IS 'Number of the queue, as in etl.queues.';
COMMENT ON COLUMN etl.quarantine_figures.sent_day IS 'Day (UTC) on which the message was sent.';
COMMENT ON COLUMN etl.quarantine_figures.reason IS
    'Why it cannot become a row, with the path where there is one.';
COMMENT ON COLUMN etl.quarantine_figures.shape IS 'Paths and JSON types of the message body, never a value.';
COMMENT ON COLUMN etl.quarantine_figures.payload_bytes IS 'Length of the message body.';
COMMENT ON COLUMN etl.quarantine_figures.receive_count IS 'How often SQS had handed it out.';
COMMENT ON COLUMN etl.quarantine_figures.quarantined_at IS 'When it was quarantined.';
COMMENT ON COLUMN etl.quarantine_figures.redriven_at IS 'When a redrive made it a row; null: it waits.';
COMMENT ON COLUMN etl.quarantine_summary.queue IS 'Name of the queue.';
COMMENT ON COLUMN etl.quarantine_summary.reason IS 'Why they cannot become rows.';
COMMENT ON COLUMN etl.quarantine_summary.messages IS 'All of them, redriven ones too.';
COMMENT ON COLUMN etl.quarantine_summary.waiting IS 'Those that no redrive has made rows.';
COMMENT ON COLUMN etl.quarantine_summary.payload_bytes IS 'Sum of the lengths of their bodies.';
COMMENT ON COLUMN etl.quarantine_summary.most_receives IS 'Most often that SQS had handed one of them out.';
COMMENT ON COLUMN etl.quarantine_summary.first_at IS 'When the first was quarantined.';
COMMENT ON COLUMN etl.quarantine_summary.last_at IS 'When the last was quarantined.';
COMMENT ON COLUMN etl.quarantine_shapes.queue IS 'Name of the queue.';
COMMENT ON COLUMN etl.quarantine_shapes.reason IS 'Why they cannot become rows.';
COMMENT ON COLUMN etl.quarantine_shapes.shape IS
    'Paths and JSON types of their bodies, never a value; null: not made yet.';
COMMENT ON COLUMN etl.quarantine_shapes.waiting IS 'How many wait.';
COMMENT ON COLUMN etl.quarantine_shapes.least_bytes IS 'Length of the shortest body.';
COMMENT ON COLUMN etl.quarantine_shapes.most_bytes IS 'Length of the longest body.';
COMMENT ON COLUMN etl.quarantine_shapes.first_at IS 'When the first was quarantined.';
COMMENT ON COLUMN etl.quarantine_shapes.last_at IS 'When the last was quarantined.';
COMMENT ON COLUMN etl.quarantine_shapes.newest_message IS 'Id of the one that was quarantined last.';
COMMENT ON COLUMN etl.kept_fields.queue_id IS 'Number of the queue, as in etl.queues.';
COMMENT ON COLUMN etl.kept_fields.sent_day IS 'Day (UTC) on which the message was sent.';
COMMENT ON COLUMN etl.kept_fields.message_id IS 'Id of the message whose row they belong to.';
COMMENT ON COLUMN etl.kept_fields.run_id IS 'The run that loaded it.';
COMMENT ON COLUMN etl.kept_summary.queue IS 'Name of the queue.';
COMMENT ON COLUMN etl.kept_summary.shape IS 'Paths and JSON types of the fields, never a value.';
COMMENT ON COLUMN etl.kept_summary.messages IS 'Messages that had such fields.';
COMMENT ON COLUMN etl.kept_summary.first_day IS 'Day on which the first was sent.';
COMMENT ON COLUMN etl.kept_summary.last_day IS 'Day on which the last was sent.';
COMMENT ON COLUMN etl.kept_summary.a_message IS 'Id of one of them.';
COMMENT ON COLUMN etl.audit_entries.id IS 'Number of the entry.';
COMMENT ON COLUMN etl.audit_entries.at IS 'When it was made.';
COMMENT ON COLUMN etl.audit_entries.who IS 'Login of the database.';
COMMENT ON COLUMN etl.audit_entries.action IS 'What was done.';
COMMENT ON COLUMN etl.audit_entries.tokens IS 'How many values were told; null where the action tells none.';
COMMENT ON COLUMN etl.table_freshness.contract IS 'Name of the contract.';
COMMENT ON COLUMN etl.table_freshness.table_name IS
    'Table with its schema; null where all runs of the day are older than revision 0018.';
COMMENT ON COLUMN etl.table_freshness.day IS 'Day (UTC) in which the runs began.';
COMMENT ON COLUMN etl.table_freshness.newest_row_at IS 'End of the last run that made a row.';
COMMENT ON COLUMN etl.table_freshness.last_load_at IS
    'End of the last run that succeeded, with or without rows.';
COMMENT ON COLUMN etl.table_freshness.open_runs IS 'Runs that are not closed yet.';
COMMENT ON COLUMN etl.table_freshness.failed_runs IS
    'Runs that failed; their messages are released and counted again by later runs.';
COMMENT ON COLUMN etl.table_freshness.received IS 'Messages received from the queue.';
COMMENT ON COLUMN etl.table_freshness.loaded IS 'Messages that became rows.';
COMMENT ON COLUMN etl.table_freshness.quarantined IS 'Messages that went to quarantine.';
COMMENT ON COLUMN etl.table_freshness.duplicates IS 'Messages that were known already.';
COMMENT ON COLUMN etl.table_freshness.released IS 'Messages made visible again, for a later run.';
COMMENT ON COLUMN etl.table_freshness.missing IS 'Messages received and in none of the other counts yet.';
COMMENT ON COLUMN etl.table_freshness.is_complete IS
    'No run is open, and received = loaded + quarantined + duplicates + released.';

RESET ROLE;
