-- The transaction that recorded a refusal under the key: a try that began before it committed has
-- no effect afterwards. NULL if the request had an effect, whose response is the answer.
ALTER TABLE idempotency ADD COLUMN refused xid8;
CREATE INDEX idempotency_refused ON idempotency (created_at) WHERE refused IS NOT NULL;
