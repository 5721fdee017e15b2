-- The names of nodes that were deleted: the history tells of them by their ids.
CREATE TABLE gone_nodes (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL
);
