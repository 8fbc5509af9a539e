-- A dump of a database that lockstock 0.1.0 made with sqlx::migrate!. Never edit it.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
INSERT INTO _sqlx_migrations VALUES(1,'products','2026-11-26 14:32:19',1,X'95acfe861f93bc9fdc09115fbc9405fa1d40d969807347ee685398bf60cfcbdf2f052b78ecb0f3f3480f4ec96621c411',3676723);
INSERT INTO _sqlx_migrations VALUES(2,'sales','2026-11-26 14:32:19',1,X'c1dec1f8d9e5a2022ddad48e3ab6807e0adc57b79ba70b8807b562dc174a4cd2db176322cde5534d051444da1db3a635',988766);
CREATE TABLE products (
    -- AUTOINCREMENT: the id of a deleted product never comes back with another one's fence.
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    description TEXT    NOT NULL,
    price       INTEGER NOT NULL CHECK (price BETWEEN 0 AND 2147483647),
    stock       INTEGER NOT NULL CHECK (stock >= 0 AND stock <= 2147483647),
    -- Counts the writes, without gaps; the ETag.
    version     INTEGER NOT NULL DEFAULT 1 CHECK (version >= 1),
    -- The fence of the last write: only a higher one may follow.
    fence       INTEGER NOT NULL DEFAULT 0,
    created_at  TEXT    NOT NULL,
    updated_at  TEXT    NOT NULL
) STRICT;
INSERT INTO products VALUES(1,'Enamel mug','Holds 350 ml',12000,7,3,1795703541092788,'2026-11-26T14:32:21.066738+00:00','2026-11-26T14:32:21.115966+00:00');
INSERT INTO products VALUES(2,'Linen towel','',8000,3,1,0,'2026-11-26T14:32:21.075849+00:00','2026-11-26T14:32:21.075849+00:00');
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
INSERT INTO ledger VALUES(1,1,X'01a218458d4b7399b412e0c26bb80333','created',10,10,NULL,NULL,'12b12ea788429dd148b4a733fb299058',NULL,'2026-11-26T14:32:21.066738+00:00');
INSERT INTO ledger VALUES(1,2,X'01a218458d6576249bfac43ca99a3555','changed',-1,9,NULL,NULL,'8e65ad0ffb6664bd62dfc607627b1184',1795703541092788,'2026-11-26T14:32:21.093061+00:00');
INSERT INTO ledger VALUES(1,3,X'01a218458d7c7120a4706db5117e1148','purchase',-2,7,12000,NULL,'154fdda3d7f1de2f8dafee9c5cd55c36',NULL,'2026-11-26T14:32:21.115966+00:00');
INSERT INTO ledger VALUES(2,1,X'01a218458d537384a17dd556ef2aeaa2','created',3,3,NULL,NULL,'021c9e42fea60dceb0d0bc02c2fcfd3f',NULL,'2026-11-26T14:32:21.075849+00:00');
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
INSERT INTO reservations VALUES(X'7671023dc21b41ba8e236d9e3a2d40b9',1,'',1,'held','2026-11-26T14:42:21.130239+00:00',NULL,'2026-11-26T14:32:21.130239+00:00');
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
INSERT INTO idempotency VALUES('','first',X'162d6e6ec4da4f38e8de28dc83e13e84627461a19b051a52b9188ef7e7c16426',X'010000000000000000000000000000000000000000000000000000000000000000c901020c636f6e74656e742d74797065106170706c69636174696f6e2f6a736f6e086c6f636174696f6e342f6170692f7075726368617365732f30316132313834352d386437632d373132302d613437302d3664623531313765313134382fc1017b226964223a2230316132313834352d386437632d373132302d613437302d366462353131376531313438222c2270726f64756374223a312c227175616e74697479223a322c22756e69745f7072696365223a31323030302c22746f74616c223a32343030302c2273746f636b5f6166746572223a372c2276657273696f6e223a332c227265736572766174696f6e223a6e756c6c2c22637265617465645f6174223a22323032362d31312d32365431343a33323a32312e3131353936365a227d','2026-11-26T14:32:21.116356+00:00');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('products',2);
CREATE INDEX ledger_purchases ON ledger (product, version)
    WHERE reason IN ('purchase', 'confirmed');
CREATE INDEX reservations_held ON reservations (product, expires_at, quantity)
    WHERE state = 'held';
CREATE INDEX reservations_owned ON reservations (product, caller, expires_at)
    WHERE state = 'held' AND caller <> '';
CREATE INDEX idempotency_age ON idempotency (created_at);
COMMIT;
