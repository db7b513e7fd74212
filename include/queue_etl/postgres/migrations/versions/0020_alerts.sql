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
COMMENT ON COLUMN etl.queue_states.contract IS 'Name of the contract.';
COMMENT ON COLUMN etl.queue_states.queue IS 'Name of its queue.';
COMMENT ON COLUMN etl.queue_states.seen_at IS 'When the watch looked.';
COMMENT ON COLUMN etl.queue_states.visible IS 'Messages that wait.';
COMMENT ON COLUMN etl.queue_states.in_flight IS 'Messages that a run has received and not deleted.';
COMMENT ON COLUMN etl.queue_states.delayed IS 'Messages that SQS does not show yet.';
COMMENT ON COLUMN etl.queue_states.retention_seconds IS 'How long SQS keeps a message.';
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
COMMENT ON TABLE etl.last_watch IS 'One line: the pass of the watch that looked last.';
COMMENT ON COLUMN etl.last_watch.only_one IS 'Always true: there is one line.';
COMMENT ON COLUMN etl.last_watch.looked_at IS 'When that pass began.';
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
COMMENT ON COLUMN etl.alerts.alert_id IS 'Number of the alert.';
COMMENT ON COLUMN etl.alerts.kind IS 'What kind of cause it has.';
COMMENT ON COLUMN etl.alerts.contract IS 'Name of the contract; (all contracts) where it is about none of them.';
COMMENT ON COLUMN etl.alerts.raised_at IS 'When it was found.';
COMMENT ON COLUMN etl.alerts.ended_at IS 'When it was found to be over; null: it is open.';
COMMENT ON COLUMN etl.alerts.what IS 'What is wrong, a sentence.';
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
COMMENT ON TABLE etl.alert_notices IS 'What each receiver of alerts is to be told, and was told.';
COMMENT ON COLUMN etl.alert_notices.alert_id IS 'The alert.';
COMMENT ON COLUMN etl.alert_notices.event IS 'raised or ended.';
COMMENT ON COLUMN etl.alert_notices.attempts IS 'How often it was tried.';
COMMENT ON COLUMN etl.alert_notices.sent_at IS 'When the receiver took it; null: not yet.';
COMMENT ON COLUMN etl.alert_notices.receiver IS 'Service and the start of a hash of its address. Not the address.';
COMMENT ON COLUMN etl.alert_notices.claimed_until IS 'A pass of the watch is sending it, until then at most.';

RESET ROLE;
