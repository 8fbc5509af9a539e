-- What is sold. The database is the authority: whatever the locks believe, stock is never
-- negative, and a write carries the fence of the lock it was made under.
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
