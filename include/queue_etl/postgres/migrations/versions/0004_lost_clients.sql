-- A client that gives up on a lock closes its connection, which Postgres does not notice while it waits. One
-- forgotten lock would so use up all connections, a few for each retry of each run. A COMMIT that waits for its
-- standby goes on waiting.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['etl_loader', 'etl_maintainer', 'etl_remasker', 'pii_officer'] LOOP
        EXECUTE format('ALTER ROLE %I IN DATABASE %I SET client_connection_check_interval = %L',
                       role_name, current_database(), '10s');
    END LOOP;
EXCEPTION WHEN invalid_parameter_value OR undefined_object OR insufficient_privilege THEN
    RAISE NOTICE 'sessions that wait for a lock will not notice that their client has gone';
END $$;
