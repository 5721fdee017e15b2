-- What stood against the router that a line of history is about, in words; empty where nothing did.
ALTER TABLE history ADD COLUMN evidence TEXT NOT NULL DEFAULT '';
ALTER TABLE webhook_queue ADD COLUMN evidence TEXT NOT NULL DEFAULT '';
