-- Whether routers that stand by are checked too. Not asked for where a check was set before this could be said.
ALTER TABLE path_checks ADD COLUMN standby INTEGER NOT NULL DEFAULT 0;
