-- What a user is in the tailnet; the first that was made owns it.
ALTER TABLE users ADD COLUMN role TEXT NOT NULL DEFAULT 'member';
UPDATE users SET role = 'owner' WHERE id = (SELECT MIN(id) FROM users);

-- Every policy that was set; the one with the highest revision is in force.
CREATE TABLE policies (
    revision INTEGER PRIMARY KEY,
    text     TEXT    NOT NULL,
    set_at   INTEGER NOT NULL,
    set_by   TEXT    NOT NULL
) STRICT;
