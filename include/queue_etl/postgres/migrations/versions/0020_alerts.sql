SET LOCAL ROLE etl_owner;

-- What the watch saw of each contract's queue the last time it looked.
CREATE TABLE etl.queue_states (
    contract           text PRIMARY KEY,
    queue              text NOT NULL,
    seen_at            timestamptz NOT NULL,
    visible            bigint NOT NULL,
    in_flight          bigint NOT NULL,
    delayed            bigint NOT NULL,
    dead_letters       bigint,
    oldest_age_seconds bigint,
    retention_seconds  bigint NOT NULL,
    waiting_since      timestamptz
);
COMMENT ON TABLE etl.queue_states IS
    'What the watch saw of each queue the last time it looked, a line a contract.';
COMMENT ON COLUMN etl.queue_states.dead_letters IS 'Messages in the dead-letter queue; NULL where there is none.';
COMMENT ON COLUMN etl.queue_states.oldest_age_seconds IS
    'As far as it can be told; at least so old. NULL: unknown.';
COMMENT ON COLUMN etl.queue_states.waiting_since IS
    'Since when messages wait without a run that succeeded; NULL where none waits.';

-- When the pass that looked last had begun; of two at once it decides which one reports.
CREATE TABLE etl.last_watch (
    only_one  boolean PRIMARY KEY DEFAULT TRUE CHECK (only_one),
    looked_at timestamptz NOT NULL
);
INSERT INTO etl.last_watch (looked_at) VALUES ('-infinity');

CREATE TABLE etl.alerts (
    alert_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind      text NOT NULL,
    subject   text NOT NULL,
    contract  text NOT NULL,
    since     timestamptz NOT NULL,
    raised_at timestamptz NOT NULL DEFAULT now(),
    seen_at   timestamptz NOT NULL DEFAULT now(),
    ended_at  timestamptz,
    what      text NOT NULL,
    place     text NOT NULL,
    remedy    text NOT NULL
);
-- A cause is open once, whoever finds it.
CREATE UNIQUE INDEX alerts_open ON etl.alerts (kind, subject) WHERE ended_at IS NULL;
COMMENT ON TABLE etl.alerts IS 'What needed, or needs, a person. Never a value of a message.';
COMMENT ON COLUMN etl.alerts.subject IS 'What it is about: a contract, or a contract and a day.';
COMMENT ON COLUMN etl.alerts.since IS 'Since when it is so, as far as is known.';
COMMENT ON COLUMN etl.alerts.seen_at IS 'When it was last found to be so.';
COMMENT ON COLUMN etl.alerts.place IS 'Where the messages are.';
COMMENT ON COLUMN etl.alerts.remedy IS 'The command or page that helps.';

-- What each receiver is to be told, and was told.
CREATE TABLE etl.alert_notices (
    alert_id      bigint NOT NULL REFERENCES etl.alerts,
    event         text NOT NULL CHECK (event IN ('raised', 'ended')),
    receiver      text NOT NULL,
    attempts      integer NOT NULL DEFAULT 0,
    claimed_until timestamptz,
    sent_at       timestamptz,
    PRIMARY KEY (alert_id, event, receiver)
);
CREATE INDEX alert_notices_unsent ON etl.alert_notices (receiver) WHERE sent_at IS NULL;
COMMENT ON COLUMN etl.alert_notices.receiver IS 'Service and the start of a hash of its address. Not the address.';
COMMENT ON COLUMN etl.alert_notices.claimed_until IS 'A pass of the watch is sending it, until then at most.';

RESET ROLE;
