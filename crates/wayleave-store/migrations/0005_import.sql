-- Who a user is to an identity provider (issuer and subject), and the picture that clients show.
ALTER TABLE users ADD COLUMN identity TEXT;
ALTER TABLE users ADD COLUMN picture TEXT NOT NULL DEFAULT '';

-- How a node came in, and with which key, are two things: an import may know only one of them.
ALTER TABLE nodes ADD COLUMN auth_key_id INTEGER;
UPDATE nodes SET auth_key_id = CAST(substr(register_method, 10) AS INTEGER), register_method = 'auth_key'
WHERE register_method LIKE 'auth_key:%';

-- 'sha256': hash has the 32 bytes. 'bcrypt': hash has the text of it, prefix the part of the key by which it is looked up.
-- 'unknown': hash is a filler, and the key opens nothing.
ALTER TABLE auth_keys ADD COLUMN hash_kind TEXT NOT NULL DEFAULT 'sha256';
ALTER TABLE auth_keys ADD COLUMN prefix TEXT;
ALTER TABLE api_keys ADD COLUMN hash_kind TEXT NOT NULL DEFAULT 'sha256';
ALTER TABLE api_keys ADD COLUMN prefix TEXT;
ALTER TABLE api_keys ADD COLUMN user_id INTEGER;

-- What was imported, and when; nodes that came without a machine key are bound to one for a while from then on.
CREATE TABLE imports (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    source TEXT    NOT NULL
) STRICT;
