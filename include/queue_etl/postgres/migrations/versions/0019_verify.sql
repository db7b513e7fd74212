SET LOCAL ROLE etl_owner;

-- How many waiting messages left the quarantine in another way than as rows, by who deleted them: `verify` counts
-- with them. No id: what is erased has to leave nothing behind.
CREATE TABLE etl.quarantine_deleted (
    queue_id smallint NOT NULL,
    sent_day date NOT NULL,
    cause    text NOT NULL CHECK (cause IN ('expired', 'erased', 'other', 'before')),
    messages bigint NOT NULL,
    PRIMARY KEY (queue_id, sent_day, cause)
);
COMMENT ON TABLE etl.quarantine_deleted IS
    'Waiting messages that were deleted from the quarantine, by day of sending.';
COMMENT ON COLUMN etl.quarantine_deleted.cause IS
    'expired: by maintenance. erased: by a privacy officer. other: by others. before: before it was counted.';
COMMENT ON COLUMN etl.quarantine_deleted.queue_id IS 'Number of the queue, as in etl.queues.';
COMMENT ON COLUMN etl.quarantine_deleted.sent_day IS 'Day (UTC) on which the messages were sent.';
COMMENT ON COLUMN etl.quarantine_deleted.messages IS 'How many.';

INSERT INTO etl.quarantine_deleted (queue_id, sent_day, cause, messages)
SELECT queue_id, sent_day, 'before' AS cause, count(*) AS messages FROM etl.ledger
WHERE status = 'Q' AND NOT EXISTS (
    SELECT FROM etl.quarantine
    WHERE (quarantine.queue_id, quarantine.sent_day, quarantine.message_id)
        = (ledger.queue_id, ledger.sent_day, ledger.message_id)
)
GROUP BY queue_id, sent_day;

-- By the session's role, since in here the current one is the owner.
CREATE FUNCTION etl.count_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO etl.quarantine_deleted AS so_far (queue_id, sent_day, cause, messages)
    SELECT queue_id, sent_day,
           CASE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN 'other'
                WHEN pg_has_role(session_user, 'etl_maintainer', 'MEMBER') THEN 'expired'
                WHEN pg_has_role(session_user, 'pii_officer', 'MEMBER') THEN 'erased'
                ELSE 'other' END AS cause,
           count(*)
    FROM deleted WHERE redriven_at IS NULL
    GROUP BY queue_id, sent_day ORDER BY queue_id, sent_day
    ON CONFLICT (queue_id, sent_day, cause) DO UPDATE SET messages = so_far.messages + excluded.messages;
    RETURN NULL;
END $$;

CREATE TRIGGER count_deleted AFTER DELETE ON etl.quarantine
REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION etl.count_deleted();

-- How many rows a contract's table has of the messages of one day, for who may not read the table. By its column
-- of the day or moment of sending, or by that of the message id. STABLE: as of the statement that asks.
CREATE FUNCTION etl.rows_of_day(target regclass, column_name text, queue_name text, day date) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    column_type text;
    found_rows bigint;
BEGIN
    SELECT format_type(atttypid, NULL) INTO column_type FROM pg_attribute
    WHERE attrelid = target AND attname = column_name AND attnum > 0 AND NOT attisdropped;
    IF column_type IS NULL OR NOT has_table_privilege('etl_loader', target, 'INSERT') THEN
        RAISE EXCEPTION 'no column of a table that is loaded' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF column_type = 'date' THEN
        EXECUTE format('SELECT count(*) FROM %s WHERE %I = $1', target, column_name) INTO found_rows USING day;
    ELSIF column_type = 'timestamp with time zone' THEN
        EXECUTE format('SELECT count(*) FROM %s WHERE %I >= $1 AND %I < $2', target, column_name, column_name)
        INTO found_rows USING day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC';
    ELSIF column_type = 'uuid' THEN
        EXECUTE format('SELECT count(*) FROM %s WHERE %I IN (SELECT message_id FROM etl.ledger JOIN etl.queues'
                       ' USING (queue_id) WHERE name = $1 AND sent_day = $2)', target, column_name)
        INTO found_rows USING queue_name, day;
    ELSE
        RAISE EXCEPTION 'no day can be told by a column of type %', column_type USING ERRCODE = 'datatype_mismatch';
    END IF;
    RETURN found_rows;
END $$;

RESET ROLE;
