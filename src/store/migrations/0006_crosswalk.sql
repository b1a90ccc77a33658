-- What Fullscript said of the EMR's own ids (`metadata.id`). Times are milliseconds since 1970 UTC.
CREATE TABLE crosswalk (
  clinic    TEXT NOT NULL,
  kind      TEXT NOT NULL CHECK (kind = 'patient' OR kind = 'treatment_plan'),
  id        TEXT NOT NULL,             -- Fullscript's
  emr_id    BLOB,                      -- sealed; NULL: Fullscript knows none
  patient   TEXT,                      -- of a plan: Fullscript's id of whom it is for
  looked_at INTEGER NOT NULL,
  stale     INTEGER NOT NULL DEFAULT 0, -- a person wants it looked at again
  PRIMARY KEY (clinic, kind, id)
) STRICT, WITHOUT ROWID;
