SET LOCAL ROLE etl_owner;

-- Of messages that are in quarantine already, maintenance fills it in: only the keyset opens them.
ALTER TABLE etl.quarantine ADD COLUMN shape text;
COMMENT ON COLUMN etl.quarantine.shape IS 'Paths and JSON types of the message body, never a value.';

-- For who is on call: what waits, without a way to the bodies.
CREATE VIEW etl.quarantine_shapes AS
SELECT queues.name AS queue, reason, shape, count(*) AS waiting, min(payload_bytes) AS least_bytes,
       max(payload_bytes) AS most_bytes, min(quarantined_at) AS first_at, max(quarantined_at) AS last_at,
       (array_agg(message_id ORDER BY quarantined_at DESC, message_id DESC))[1] AS newest_message
FROM etl.quarantine JOIN etl.queues USING (queue_id)
WHERE redriven_at IS NULL
GROUP BY queues.name, reason, shape;

-- As it was, but what one officer unmasks, shows and masks within an hour is one sum: each of them can tell a
-- value to who knows where to look.
CREATE OR REPLACE FUNCTION pii.record(
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
        WHERE audit.who = session_user AND audit.action IN ('unmask', 'show', 'mask')
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

RESET ROLE;
