-- What a person set for a prefix; the row with an empty prefix is the default. A column without a value says nothing of its own.
-- `failback_after` is in milliseconds, -1 for never.
CREATE TABLE prefixes (
    id             INTEGER PRIMARY KEY,
    prefix         TEXT    NOT NULL UNIQUE,
    when_down      TEXT,
    on_withdraw    TEXT,
    spread         TEXT,
    failback_after INTEGER,
    frozen_until   INTEGER,
    frozen_by      TEXT
) STRICT;

-- How often a node was lost of late: lists of times in JSON.
CREATE TABLE flaps (
    id     INTEGER PRIMARY KEY,
    downs  TEXT    NOT NULL,
    losses TEXT    NOT NULL,
    until  INTEGER
) STRICT;

-- Who carries a prefix, in the tailnet as a whole (no tags: '[]'; `routes.is_primary` has the last word) or within a group.
CREATE TABLE seats (
    id          INTEGER PRIMARY KEY,
    prefix      TEXT    NOT NULL,
    tags        TEXT    NOT NULL,
    node_id     INTEGER NOT NULL,
    since       INTEGER NOT NULL,
    moved_by    TEXT,
    fallen_back INTEGER NOT NULL,
    carriers    TEXT    NOT NULL,
    UNIQUE (prefix, tags)
) STRICT;

-- From where a node chooses among routers that are spread by region: the shape of src/json.rs.
ALTER TABLE nodes ADD COLUMN vantage TEXT NOT NULL DEFAULT '{}';
