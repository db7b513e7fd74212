SET LOCAL ROLE etl_owner;

-- Fields that no struct of a contract declares, where the contract says unknown_fields="keep": beside the row, by
-- the message it came from.
CREATE TABLE etl.kept_fields (
    queue_id   smallint NOT NULL,
    sent_day   date NOT NULL,
    message_id uuid NOT NULL,
    run_id     uuid NOT NULL,
    shape      text NOT NULL,
    payload    bytea NOT NULL,
    PRIMARY KEY (queue_id, sent_day, message_id)  -- in the order in which they expire, and are looked through
);
ALTER TABLE etl.kept_fields ALTER payload SET STORAGE EXTERNAL;  -- encrypted: cannot be compressed
COMMENT ON TABLE etl.kept_fields IS 'Fields that no contract declares, a line for each message that has some.';
COMMENT ON COLUMN etl.kept_fields.shape IS 'Paths and JSON types of the fields, never a value.';
COMMENT ON COLUMN etl.kept_fields.payload IS 'The fields, and whose they are, encrypted with the keyset.';

-- For who is on call, and for who decides what to declare: without a way to the values.
CREATE VIEW etl.kept_summary AS
SELECT queues.name AS queue, shape, count(*) AS messages, min(sent_day) AS first_day, max(sent_day) AS last_day,
       max(message_id::text)::uuid AS a_message
FROM etl.kept_fields JOIN etl.queues USING (queue_id)
GROUP BY queues.name, shape;

RESET ROLE;
