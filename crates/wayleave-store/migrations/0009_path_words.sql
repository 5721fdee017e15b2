-- What path checks have said of a route, as far as a restart must not forget it: that it passed once, and since when it stands convicted.
ALTER TABLE routes ADD COLUMN path_ok INTEGER NOT NULL DEFAULT 0;
ALTER TABLE routes ADD COLUMN path_failed_at INTEGER;
