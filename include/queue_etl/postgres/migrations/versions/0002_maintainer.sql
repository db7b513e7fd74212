-- Roles are cluster-wide: another database of the cluster may have made it already.
DO $$
BEGIN
    IF to_regrole('etl_maintainer') IS NULL THEN
        CREATE ROLE etl_maintainer NOLOGIN;  -- LOGIN comes with the password
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- made by a neighbour between the look and the CREATE
END $$;

-- What the loader may, it may too, on the table of every contract. Nothing on pii.
DO $$
BEGIN
    IF NOT pg_has_role('etl_maintainer', 'etl_loader', 'USAGE') THEN
        GRANT etl_loader TO etl_maintainer;
    END IF;
EXCEPTION WHEN unique_violation THEN
    NULL;  -- granted by a neighbour
END $$;

-- As for the loader: statements and messages can quote values, and settings of a role are not inherited.
DO $$
DECLARE
    setting text;
BEGIN
    FOREACH setting IN ARRAY ARRAY[
        'log_error_verbosity = terse', 'log_min_error_statement = panic', 'log_min_messages = fatal',
        'log_statement = none', 'log_min_duration_statement = -1',
        'log_parameter_max_length = 0', 'log_parameter_max_length_on_error = 0'
    ] LOOP
        EXECUTE format('ALTER ROLE etl_maintainer IN DATABASE %I SET %s', current_database(), setting);
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'not a superuser: the server log may quote statements of etl_maintainer';
END $$;

SET LOCAL ROLE etl_owner;

GRANT SELECT, UPDATE (status, run_id) ON etl.ledger TO etl_maintainer;
GRANT SELECT, UPDATE (reason, redriven_at, redriven_run_id), DELETE ON etl.quarantine TO etl_maintainer;
GRANT SELECT ON etl.quarantine_summary TO etl_maintainer;

RESET ROLE;
