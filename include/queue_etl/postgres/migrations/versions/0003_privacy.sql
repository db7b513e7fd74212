-- Roles are cluster-wide: another database of the cluster may have made it already.
DO $$
BEGIN
    IF to_regrole('etl_remasker') IS NULL THEN
        CREATE ROLE etl_remasker NOLOGIN;  -- LOGIN comes with the password
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- made by a neighbour between the look and the CREATE
END $$;
DO $$
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO etl_remasker', current_database());
END $$;

-- As for the loader: statements and messages can quote values.
DO $$
DECLARE
    setting text;
BEGIN
    FOREACH setting IN ARRAY ARRAY[
        'log_error_verbosity = terse', 'log_min_error_statement = panic', 'log_min_messages = fatal',
        'log_statement = none', 'log_min_duration_statement = -1',
        'log_parameter_max_length = 0', 'log_parameter_max_length_on_error = 0'
    ] LOOP
        EXECUTE format('ALTER ROLE etl_remasker IN DATABASE %I SET %s', current_database(), setting);
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'not a superuser: the server log may quote statements of etl_remasker';
END $$;

GRANT USAGE ON SCHEMA public TO etl_remasker;

SET LOCAL ROLE etl_owner;

-- The audit ------------------------------------------------------------------------------------------------

-- Numbered by pii.record: a sequence leaves gaps where a transaction was rolled back, and a gap has to mean
-- that a row was removed.
ALTER TABLE pii.audit ALTER id DROP IDENTITY;

-- include/queue_etl/audit.py does the same sums without this function, to check its results.
CREATE FUNCTION pii.chained(entry pii.audit) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN sha256(coalesce(entry.previous_hash, '') || convert_to(jsonb_build_array(
    entry.id, to_char(entry.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), entry.who, entry.action,
    entry.reason, entry.ticket, entry.details
)::text, 'UTF8'));

DO $$
DECLARE
    entry pii.audit;
    last_hash bytea;
    last_id bigint := 0;
BEGIN
    FOR entry IN SELECT * FROM pii.audit ORDER BY id LOOP
        entry.previous_hash := last_hash;
        last_hash := pii.chained((last_id + 1, entry.at, entry.who, entry.action, entry.reason, entry.ticket,
                                  entry.details, entry.previous_hash, NULL)::pii.audit);
        last_id := last_id + 1;
        UPDATE pii.audit SET id = last_id, previous_hash = entry.previous_hash, hash = last_hash
        WHERE id = entry.id;
    END LOOP;
END $$;

ALTER TABLE pii.audit ALTER hash SET NOT NULL;

-- Adds an entry to the chain and returns it. Who calls chooses what is said, never who, when, or the hashes.
-- per_hour: with it, an entry whose details say that more "tokens" are asked for than this login has left of
-- the last hour's allowance is entered as refused: its action ends in " refused".
CREATE FUNCTION pii.record(
    action text, reason text, ticket text, details jsonb DEFAULT '{}', per_hour bigint DEFAULT NULL
) RETURNS pii.audit
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    entry pii.audit;
    spent numeric;
BEGIN
    IF coalesce(btrim(action), '') = '' OR coalesce(btrim(reason), '') = '' OR coalesce(btrim(ticket), '') = ''
    THEN
        RAISE EXCEPTION 'action, reason and ticket must say something' USING ERRCODE = 'check_violation';
    END IF;
    -- One at a time, and from here on with sight of what the one before has committed.
    PERFORM pg_advisory_xact_lock('pii.audit'::regclass::oid::bigint);
    IF per_hour IS NOT NULL THEN
        -- greatest: a negative count would be credit.
        SELECT coalesce(sum(greatest((audit.details ->> 'tokens')::numeric, 0)), 0) INTO spent
        FROM pii.audit AS audit
        WHERE audit.who = session_user AND audit.action = record.action
          AND audit.at > clock_timestamp() - interval '1 hour';
        IF spent + coalesce((details ->> 'tokens')::numeric, 0) > per_hour THEN
            action := action || ' refused';
        END IF;
    END IF;
    SELECT id + 1, hash INTO entry.id, entry.previous_hash FROM pii.audit ORDER BY id DESC LIMIT 1;
    entry.id := coalesce(entry.id, 1);
    entry.at := clock_timestamp();
    entry.who := session_user;
    entry.action := action;
    entry.reason := reason;
    entry.ticket := ticket;
    entry.details := coalesce(details, '{}');
    entry.hash := pii.chained(entry);
    INSERT INTO pii.audit SELECT entry.*;
    RETURN entry;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pii FROM PUBLIC;
REVOKE INSERT ON pii.audit FROM pii_officer;
REVOKE INSERT (action, reason, ticket, details, previous_hash, hash) ON pii.audit FROM pii_officer;
GRANT EXECUTE ON FUNCTION pii.record TO pii_officer, etl_remasker;
GRANT USAGE ON SCHEMA pii TO etl_remasker;

-- Erasure: the officer overwrites what is personal, and nothing else --------------------------------------------

GRANT UPDATE (user_id, masked_ip, masked_device_id) ON public.user_logins TO pii_officer;
REVOKE UPDATE ON etl.quarantine FROM pii_officer;

-- Keys: who moves tokens from one to another sees tokens, not whose they are -------------------------------------

GRANT USAGE ON SCHEMA etl TO etl_remasker;
GRANT SELECT ON etl.schema_revision, etl.queues, etl.run_summary TO etl_remasker;
GRANT SELECT (ctid, masked_ip, masked_device_id), UPDATE (masked_ip, masked_device_id)
ON public.user_logins TO etl_remasker;
GRANT SELECT (queue_id, sent_day, message_id, payload), UPDATE (payload) ON etl.quarantine TO etl_remasker;
GRANT SELECT, INSERT, UPDATE (retired_at) ON etl.keys TO etl_remasker;
REVOKE UPDATE ON etl.keys FROM etl_loader;

RESET ROLE;
