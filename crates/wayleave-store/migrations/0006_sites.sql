-- 4via6 sites, and hosts that have a name there.
CREATE TABLE sites (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE site_hosts (
    site       INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    address    TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (site, name)
) STRICT;

-- Who is told of what happens to routes. events is a JSON list of words; empty: of everything.
CREATE TABLE webhooks (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    url        TEXT    NOT NULL,
    secret     TEXT    NOT NULL DEFAULT '',
    events     TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- What they have not been told yet: a line of history each, kept apart because history is forgotten.
CREATE TABLE webhook_queue (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook    INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    prefix     TEXT,
    node_id    INTEGER,
    event      TEXT    NOT NULL,
    from_node  INTEGER,
    to_node    INTEGER,
    cause      TEXT    NOT NULL,
    -- How often it was tried, and when it is to be tried next.
    attempts   INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX webhook_queue_due ON webhook_queue (not_before, id);

CREATE INDEX history_at ON history (at);
