SET LOCAL ROLE etl_owner;

ALTER TABLE etl.runs DROP CONSTRAINT runs_kind_check,
    ADD CONSTRAINT runs_kind_check CHECK (kind IN ('queue', 'redrive', 'replay'));
COMMENT ON COLUMN etl.runs.kind IS
    'queue: messages from the queue. redrive: messages from the quarantine, which an earlier run counts. '
    'replay: archived messages, which an earlier run counts too; `loaded` are the rows that it made or changed.';

RESET ROLE;
