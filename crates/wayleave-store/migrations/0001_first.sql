-- Times are milliseconds since 1970. Keys are stored in their text forms. JSON columns hold the shapes of src/json.rs.
CREATE TABLE users (
    id           INTEGER PRIMARY KEY,
    name         TEXT    NOT NULL,
    display_name TEXT    NOT NULL,
    email        TEXT,
    created_at   INTEGER NOT NULL
) STRICT;

CREATE TABLE nodes (
    id              INTEGER PRIMARY KEY,
    machine_key     TEXT,
    node_key        TEXT    NOT NULL UNIQUE,
    disco_key       TEXT,
    -- 'user', 'tags' or 'nobody'; user_id is the owner, or who brought a tagged node in.
    owner           TEXT    NOT NULL,
    user_id         INTEGER,
    tags            TEXT    NOT NULL,
    given_name      TEXT    NOT NULL,
    renamed         INTEGER NOT NULL,
    ipv4            TEXT    UNIQUE,
    ipv6            TEXT    UNIQUE,
    register_method TEXT    NOT NULL,
    ephemeral       INTEGER NOT NULL,
    expires_at      INTEGER,
    created_at      INTEGER NOT NULL,
    last_seen       INTEGER,
    drained         INTEGER NOT NULL,
    capability      INTEGER NOT NULL,
    hostinfo        TEXT    NOT NULL,
    endpoints       TEXT    NOT NULL,
    home_derp       INTEGER NOT NULL
) STRICT;

CREATE TABLE routes (
    id             INTEGER PRIMARY KEY,
    node_id        INTEGER NOT NULL,
    prefix         TEXT    NOT NULL,
    advertised     INTEGER NOT NULL,
    enabled        INTEGER NOT NULL,
    is_primary     INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    deleted_at     INTEGER,
    approval_by    TEXT,
    approval_at    INTEGER,
    refused        INTEGER NOT NULL,
    in_advance     INTEGER NOT NULL,
    priority       INTEGER NOT NULL,
    had_endpoint   INTEGER NOT NULL,
    was_advertised INTEGER NOT NULL
) STRICT;
-- One live row for each (node, prefix), never two.
CREATE UNIQUE INDEX routes_live ON routes (node_id, prefix) WHERE deleted_at IS NULL;
CREATE INDEX routes_prefix ON routes (prefix);

CREATE TABLE auth_keys (
    id          INTEGER PRIMARY KEY,
    user_id     INTEGER,
    hint        TEXT    NOT NULL,
    hash        BLOB    NOT NULL UNIQUE,
    reusable    INTEGER NOT NULL,
    ephemeral   INTEGER NOT NULL,
    tags        TEXT    NOT NULL,
    description TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    used_at     INTEGER,
    revoked_at  INTEGER
) STRICT;

CREATE TABLE api_keys (
    id           INTEGER PRIMARY KEY,
    name         TEXT    NOT NULL UNIQUE,
    hash         BLOB    NOT NULL UNIQUE,
    description  TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER
) STRICT;

-- The next number of each kind, so that nothing is given out twice.
CREATE TABLE sequences (
    name TEXT    PRIMARY KEY,
    next INTEGER NOT NULL
) STRICT;

CREATE TABLE history (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    at        INTEGER NOT NULL,
    prefix    TEXT,
    node_id   INTEGER,
    event     TEXT    NOT NULL,
    from_node INTEGER,
    to_node   INTEGER,
    cause     TEXT    NOT NULL
) STRICT;
CREATE INDEX history_prefix ON history (prefix, id);
CREATE INDEX history_node ON history (node_id, id);
