-- What is sold. The database is the authority: whatever the locks believe, stock is never
-- negative, and a write carries the fence of the lock it was made under.
CREATE TABLE products (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    description text        NOT NULL,
    price       bigint      NOT NULL CHECK (price BETWEEN 0 AND 2147483647),
    stock       bigint      NOT NULL CHECK (stock >= 0 AND stock <= 2147483647),
    -- Counts the writes, without gaps; the ETag.
    version     bigint      NOT NULL DEFAULT 1 CHECK (version >= 1),
    -- The fence of the last write: only a higher one may follow.
    fence       bigint      NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL
);
