-- Every write to a product, append only. A product's versions have no gaps, so neither has its
-- ledger: the first row's stock_after, then plus delta at each row, is the stock.
CREATE TABLE ledger (
    product     bigint      NOT NULL,
    -- The version of the product that the write made.
    version     bigint      NOT NULL CHECK (version >= 1),
    -- Of this one change, and of the purchase if it is one.
    id          uuid        NOT NULL UNIQUE,
    reason      text        NOT NULL CHECK (reason IN
        ('opening', 'created', 'changed', 'purchase', 'confirmed', 'deleted')),
    delta       bigint      NOT NULL,
    stock_after bigint      NOT NULL CHECK (stock_after >= 0),
    -- In minor units, of what was sold.
    unit_price  bigint      CHECK (unit_price >= 0),
    -- The hold that became this purchase.
    reservation uuid        UNIQUE,
    -- The id of the request that did it, as the log has it.
    request     text        NOT NULL,
    -- Of the lock that it was made under, if it was.
    fence       bigint,
    at          timestamptz NOT NULL,
    PRIMARY KEY (product, version),
    CHECK (reason NOT IN ('purchase', 'confirmed') OR delta < 0 AND unit_price IS NOT NULL),
    CHECK (reason <> 'confirmed' OR reservation IS NOT NULL)
);
CREATE INDEX ledger_purchases ON ledger (product, version)
    WHERE reason IN ('purchase', 'confirmed');

-- What was there before the ledger was.
INSERT INTO ledger (product, version, id, reason, delta, stock_after, request, fence, at)
    SELECT id, version, gen_random_uuid(), 'opening', stock, stock, '', fence, updated_at
    FROM products;

-- Stock that is set aside for somebody, until expires_at. Whether it still is, is a question
-- of when it is asked: nobody has to do anything when a hold expires.
CREATE TABLE reservations (
    id         uuid        PRIMARY KEY,
    product    bigint      NOT NULL,
    -- Whose it is; '' is nobody known.
    caller     text        NOT NULL,
    quantity   bigint      NOT NULL CHECK (quantity >= 1),
    state      text        NOT NULL CHECK (state IN ('held', 'confirmed', 'cancelled')),
    expires_at timestamptz NOT NULL,
    -- The purchase that it became.
    purchase   uuid        CHECK ((purchase IS NOT NULL) = (state = 'confirmed')),
    created_at timestamptz NOT NULL
);
CREATE INDEX reservations_held ON reservations (product, expires_at) INCLUDE (quantity)
    WHERE state = 'held';
CREATE INDEX reservations_owned ON reservations (product, caller, expires_at)
    WHERE state = 'held' AND caller <> '';

-- What was answered to a request that came with an Idempotency-Key, written together with what
-- the request did.
CREATE TABLE idempotency (
    caller      text        NOT NULL,
    key         text        NOT NULL,
    -- Of the request: another one under the same key is a mistake.
    fingerprint bytea       NOT NULL,
    answer      bytea       NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_age ON idempotency (created_at);
