-- Roles are cluster-wide: another database of the cluster may have made them already.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['etl_owner', 'etl_loader', 'analyst', 'pii_officer', 'ops_ro'] LOOP
        BEGIN
            IF to_regrole(role_name) IS NULL THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);  -- LOGIN comes with the password
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- made by a neighbour between the look and the CREATE
        END;
    END LOOP;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT etl_owner TO %I', current_user);  -- else it may not hand objects over
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO etl_loader, analyst, pii_officer, ops_ro', current_database());
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO etl_loader', current_database());
END $$;

-- What Postgres writes into its log about these two roles: no statement, no parameter, no message, as all of
-- them can quote a value. Their client gets the SQLSTATE. Only a superuser may set this.
DO $$
DECLARE
    role_name text;
    setting text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['etl_loader', 'pii_officer'] LOOP
        FOREACH setting IN ARRAY ARRAY[
            'log_error_verbosity = terse', 'log_min_error_statement = panic', 'log_min_messages = fatal',
            'log_statement = none', 'log_min_duration_statement = -1',
            'log_parameter_max_length = 0', 'log_parameter_max_length_on_error = 0'
        ] LOOP
            EXECUTE format('ALTER ROLE %I IN DATABASE %I SET %s', role_name, current_database(), setting);
        END LOOP;
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'not a superuser: the server log may quote statements of etl_loader and pii_officer';
END $$;

ALTER SCHEMA etl OWNER TO etl_owner;
ALTER TABLE etl.schema_revision OWNER TO etl_owner;
CREATE SCHEMA pii AUTHORIZATION etl_owner;
GRANT USAGE, CREATE ON SCHEMA public TO etl_owner;
GRANT USAGE ON SCHEMA public TO etl_loader, analyst, pii_officer;

SET LOCAL ROLE etl_owner;

-- The contract `user_logins` -------------------------------------------------------------------------------

CREATE TABLE public.user_logins (
    user_id          varchar(128),
    device_type      varchar(32),
    masked_ip        varchar(256),
    masked_device_id varchar(256),
    locale           varchar(32),
    app_version      integer,
    create_date      date
);
COMMENT ON TABLE public.user_logins IS 'Login events; ip and device id as tokens. One row for each message.';

-- What the engine knows of runs ----------------------------------------------------------------------------

CREATE TABLE etl.queues (
    queue_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name     text NOT NULL UNIQUE
);

CREATE TABLE etl.runs (
    run_id                uuid PRIMARY KEY,
    contract              text NOT NULL,
    queue_id              smallint NOT NULL REFERENCES etl.queues,
    airflow_run_id        text NOT NULL,
    state                 text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'succeeded', 'failed')),
    started_at            timestamptz NOT NULL DEFAULT now(),
    finished_at           timestamptz,
    visible_before        bigint,
    visible_after         bigint,
    oldest_age_seconds    bigint,
    received              bigint,
    loaded                bigint,
    quarantined           bigint,
    quarantined_by_reason jsonb,
    duplicates            bigint,
    deleted               bigint,
    delete_failed         bigint,
    released              bigint,
    staged_bytes          bigint,
    extract_seconds       double precision,
    mask_seconds          double precision,
    load_seconds          double precision,
    finish_seconds        double precision,
    CHECK ((state = 'running') = (finished_at IS NULL))
);
CREATE INDEX runs_started_at ON etl.runs (started_at);

-- Written in the transaction that loads the batch: the proof `finish` deletes messages by.
CREATE TABLE etl.batches (
    run_id                uuid NOT NULL REFERENCES etl.runs,
    batch                 text NOT NULL,
    ids_digest            bytea NOT NULL,
    loaded                integer NOT NULL DEFAULT 0,
    quarantined           integer NOT NULL DEFAULT 0,
    duplicates            integer NOT NULL DEFAULT 0,
    quarantined_by_reason jsonb NOT NULL DEFAULT '{}',
    staged_bytes          bigint NOT NULL,
    mask_seconds          real NOT NULL,
    load_seconds          real NOT NULL DEFAULT 0,
    committed_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, batch)
);

CREATE TABLE etl.keys (
    key_id        bigint PRIMARY KEY,
    check_value   text NOT NULL,
    first_used_at timestamptz NOT NULL DEFAULT now(),
    retired_at    timestamptz
);
COMMENT ON TABLE etl.keys IS 'A check token of every key ever used to mask, by which a swapped keyset is noticed.';

COMMENT ON COLUMN etl.batches.staged_bytes IS 'COPY text of ledger, rows and quarantine.';

-- Which messages were dealt with ---------------------------------------------------------------------------

-- SQS keeps a message 14 days at most, so whole days can be dropped and the key stays small.
CREATE TABLE etl.ledger (
    queue_id   smallint NOT NULL,
    sent_day   date NOT NULL,
    message_id uuid NOT NULL,
    run_id     uuid NOT NULL,
    status     "char" NOT NULL CHECK (status IN ('L', 'Q')),
    PRIMARY KEY (message_id, queue_id, sent_day)  -- what differs first: 10% less work for each insert
) PARTITION BY RANGE (sent_day);

CREATE TABLE etl.quarantine (
    queue_id        smallint NOT NULL,
    sent_day        date NOT NULL,
    message_id      uuid NOT NULL,
    run_id          uuid NOT NULL,
    reason          text NOT NULL,
    payload         bytea NOT NULL,
    payload_bytes   integer NOT NULL,
    receive_count   integer NOT NULL,
    quarantined_at  timestamptz NOT NULL DEFAULT now(),
    redriven_at     timestamptz,
    redriven_run_id uuid,
    PRIMARY KEY (queue_id, sent_day, message_id)
);
ALTER TABLE etl.quarantine ALTER payload SET STORAGE EXTERNAL;  -- sealed: cannot be compressed
COMMENT ON COLUMN etl.quarantine.payload IS 'The message body, encrypted with the keyset.';

CREATE FUNCTION etl.ledger_day_exists(day date) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN EXISTS (
    -- By a scan, not to_regclass: its cache would still say "no" after the wait for the lock below.
    SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'etl.ledger'::regclass AND relname = 'ledger_' || to_char(day, 'YYYYMMDD')
);

-- Create, then attach: ATTACH takes SHARE UPDATE EXCLUSIVE on the ledger, so loads under way go on, where
-- CREATE ... PARTITION OF would take ACCESS EXCLUSIVE and stop them. The advisory lock keeps two callers apart.
-- Call it in a transaction of its own.
CREATE FUNCTION etl.ensure_ledger_partition(day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition_name text := 'ledger_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF etl.ledger_day_exists(day) THEN
        RETURN;
    END IF;
    -- SQS began in 2006. The limit keeps a forged timestamp from filling the catalog with partitions.
    IF day IS NULL OR day < DATE '2006-01-01' OR day > current_date + 2 THEN
        RAISE EXCEPTION 'no message can have been sent on that day' USING ERRCODE = 'datetime_field_overflow';
    END IF;
    PERFORM pg_advisory_xact_lock('etl.ledger'::regclass::oid::bigint);
    IF NOT etl.ledger_day_exists(day) THEN
        EXECUTE format('CREATE TABLE etl.%I (LIKE etl.ledger INCLUDING CONSTRAINTS)', partition_name);
        EXECUTE format('ALTER TABLE etl.ledger ATTACH PARTITION etl.%I FOR VALUES FROM (%L) TO (%L)',
                       partition_name, day, day + 1);
    END IF;
END $$;

-- Drops the days older than that; returns how many. Waits at most five seconds for loads under way.
CREATE FUNCTION etl.drop_ledger_partitions(keep_days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    partition_name text;
    dropped integer := 0;
BEGIN
    IF keep_days IS NULL OR keep_days < 15 THEN
        RAISE EXCEPTION 'SQS keeps messages for 14 days: the ledger must keep at least 15'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock('etl.ledger'::regclass::oid::bigint);
    FOR partition_name IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'etl.ledger'::regclass
          AND relname < 'ledger_' || to_char(current_date - keep_days, 'YYYYMMDD')
    LOOP
        EXECUTE format('DROP TABLE etl.%I', partition_name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

-- For people ------------------------------------------------------------------------------------------------

-- Counts of a run that is still running come from its batches; closing a run stores them.
CREATE VIEW etl.run_summary AS
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
           AS total_seconds
FROM etl.runs AS run
LEFT JOIN LATERAL (
    SELECT sum(loaded) AS loaded, sum(quarantined) AS quarantined, sum(duplicates) AS duplicates,
           sum(staged_bytes)::bigint AS staged_bytes,
           sum(mask_seconds::double precision) AS mask_seconds,
           sum(load_seconds::double precision) AS load_seconds,
           (SELECT jsonb_object_agg(reason, messages) FROM (
                SELECT key AS reason, sum(value::bigint) AS messages
                FROM etl.batches, jsonb_each_text(quarantined_by_reason)
                WHERE batches.run_id = run.run_id GROUP BY key
            ) AS reasons) AS quarantined_by_reason
    FROM etl.batches WHERE batches.run_id = run.run_id
) AS so_far ON run.state = 'running';

CREATE VIEW etl.quarantine_summary AS
SELECT queues.name AS queue, reason, count(*) AS messages,
       count(*) FILTER (WHERE redriven_at IS NULL) AS waiting, sum(payload_bytes) AS payload_bytes,
       max(receive_count) AS most_receives, min(quarantined_at) AS first_at, max(quarantined_at) AS last_at
FROM etl.quarantine JOIN etl.queues USING (queue_id)
GROUP BY queues.name, reason;

CREATE TABLE pii.audit (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    who           text NOT NULL DEFAULT session_user,
    action        text NOT NULL,
    reason        text NOT NULL,
    ticket        text NOT NULL,
    details       jsonb NOT NULL DEFAULT '{}',
    previous_hash bytea,
    hash          bytea
);
COMMENT ON TABLE pii.audit IS 'Who recovered, erased or rotated personal data, and why. Never a personal value.';

-- Who may do what -------------------------------------------------------------------------------------------

REVOKE ALL ON SCHEMA etl, pii FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA etl, pii FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA etl, pii FROM PUBLIC;
REVOKE ALL ON public.user_logins FROM PUBLIC;

GRANT USAGE ON SCHEMA etl TO etl_loader, pii_officer, ops_ro;
GRANT USAGE ON SCHEMA pii TO pii_officer;
GRANT SELECT ON etl.schema_revision TO etl_loader, pii_officer, ops_ro;

GRANT INSERT ON public.user_logins TO etl_loader;
GRANT SELECT, INSERT ON etl.queues TO etl_loader;
GRANT SELECT, INSERT, UPDATE ON etl.runs, etl.batches, etl.keys TO etl_loader;
GRANT INSERT, SELECT (queue_id, sent_day, message_id) ON etl.ledger TO etl_loader;
GRANT INSERT ON etl.quarantine TO etl_loader;
GRANT SELECT ON etl.run_summary TO etl_loader;
GRANT EXECUTE ON FUNCTION etl.ensure_ledger_partition, etl.drop_ledger_partitions TO etl_loader;

GRANT SELECT ON public.user_logins TO analyst;

GRANT SELECT ON public.user_logins, etl.queues, etl.keys, etl.run_summary, etl.quarantine_summary TO pii_officer;
GRANT SELECT, UPDATE, DELETE ON etl.quarantine TO pii_officer;
GRANT SELECT, INSERT (action, reason, ticket, details, previous_hash, hash) ON pii.audit TO pii_officer;

GRANT SELECT ON etl.run_summary, etl.quarantine_summary TO ops_ro;

RESET ROLE;
