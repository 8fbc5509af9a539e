-- The refusals under idempotency keys, in the order of their commits. AUTOINCREMENT: a position
-- never comes back.
CREATE TABLE refusals (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    caller     TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    -- As idempotency.created_at.
    created_at TEXT    NOT NULL,
    UNIQUE (caller, key)
) STRICT;
CREATE INDEX refusals_age ON refusals (created_at);
