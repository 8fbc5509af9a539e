-- The name of the API key of the request, NULL without one. Without a default, so that no row is
-- rewritten; servers of the version before go on inserting rows without it.
ALTER TABLE ledger ADD COLUMN caller text;
