-- What has to answer behind the routers of a prefix.
CREATE TABLE path_checks (
    prefix       TEXT    PRIMARY KEY,
    target       TEXT    NOT NULL,
    every_millis INTEGER NOT NULL,
    -- The number of a node, or a tag; NULL: the server chooses.
    witness      TEXT,
    set_at       INTEGER NOT NULL,
    set_by       TEXT    NOT NULL
) STRICT;
