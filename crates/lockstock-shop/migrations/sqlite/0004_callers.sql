-- The name of the API key of the request, NULL without one. Servers of the version before go on
-- inserting rows without it.
ALTER TABLE ledger ADD COLUMN caller TEXT;
