-- Every write to a product, append only. A product's versions have no gaps, so neither has its
-- ledger: the first row's stock_after, then plus delta at each row, is the stock.
CREATE TABLE ledger (
    product     INTEGER NOT NULL,
    -- The version of the product that the write made.
    version     INTEGER NOT NULL CHECK (version >= 1),
    -- Of this one change, and of the purchase if it is one.
    id          BLOB    NOT NULL UNIQUE,
    reason      TEXT    NOT NULL CHECK (reason IN
        ('opening', 'created', 'changed', 'purchase', 'confirmed', 'deleted')),
    delta       INTEGER NOT NULL,
    stock_after INTEGER NOT NULL CHECK (stock_after >= 0),
    -- In minor units, of what was sold.
    unit_price  INTEGER CHECK (unit_price >= 0),
    -- The hold that became this purchase.
    reservation BLOB    UNIQUE,
    -- The id of the request that did it, as the log has it.
    request     TEXT    NOT NULL,
    -- Of the lock that it was made under, if it was.
    fence       INTEGER,
    at          TEXT    NOT NULL,
    PRIMARY KEY (product, version),
    CHECK (reason NOT IN ('purchase', 'confirmed') OR delta < 0 AND unit_price IS NOT NULL),
    CHECK (reason <> 'confirmed' OR reservation IS NOT NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX ledger_purchases ON ledger (product, version)
    WHERE reason IN ('purchase', 'confirmed');

-- What was there before the ledger was.
INSERT INTO ledger (product, version, id, reason, delta, stock_after, request, fence, at)
    SELECT id, version, randomblob(16), 'opening', stock, stock, '', fence, updated_at
    FROM products;

-- Stock that is set aside for somebody, until expires_at. Whether it still is, is a question
-- of when it is asked: nobody has to do anything when a hold expires.
CREATE TABLE reservations (
    id         BLOB    PRIMARY KEY,
    product    INTEGER NOT NULL,
    -- Whose it is; '' is nobody known.
    caller     TEXT    NOT NULL,
    quantity   INTEGER NOT NULL CHECK (quantity >= 1),
    state      TEXT    NOT NULL CHECK (state IN ('held', 'confirmed', 'cancelled')),
    -- To the microsecond and in UTC, always as long: to be compared as text.
    expires_at TEXT    NOT NULL,
    -- The purchase that it became.
    purchase   BLOB    CHECK ((purchase IS NOT NULL) = (state = 'confirmed')),
    created_at TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX reservations_held ON reservations (product, expires_at, quantity)
    WHERE state = 'held';
CREATE INDEX reservations_owned ON reservations (product, caller, expires_at)
    WHERE state = 'held' AND caller <> '';

-- What was answered to a request that came with an Idempotency-Key, written together with what
-- the request did.
CREATE TABLE idempotency (
    caller      TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    -- Of the request: another one under the same key is a mistake.
    fingerprint BLOB    NOT NULL,
    answer      BLOB    NOT NULL,
    -- As reservations.expires_at.
    created_at  TEXT    NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_age ON idempotency (created_at);
