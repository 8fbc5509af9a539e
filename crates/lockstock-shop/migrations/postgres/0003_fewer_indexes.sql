-- Only what sells is looked up by its id, and only what confirms names a hold: every other
-- write of the ledger is spared two indexes.
ALTER TABLE ledger DROP CONSTRAINT ledger_id_key, DROP CONSTRAINT ledger_reservation_key;
CREATE UNIQUE INDEX ledger_purchase_ids ON ledger (id)
    WHERE reason IN ('purchase', 'confirmed');
CREATE UNIQUE INDEX ledger_confirmed ON ledger (reservation) WHERE reservation IS NOT NULL;
