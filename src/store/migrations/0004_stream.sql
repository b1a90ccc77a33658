-- The live subscription (`src/stream/`): what it may replay, in the order in which it became servable.

-- Which count of frames this is. A cursor carries the epoch: after a restore the numbers begin again somewhere in the
-- past, and a cursor of before would silently skip what is new.
CREATE TABLE stream (
  one   INTEGER PRIMARY KEY CHECK (one = 1),
  epoch TEXT NOT NULL,
  floor INTEGER NOT NULL DEFAULT 0, -- frames up to this number are forgotten
  retain INTEGER                    -- how long those that are here are kept at most, in ms
) STRICT;
INSERT INTO stream (one, epoch) VALUES (1, lower(hex(randomblob(4))));

-- One row per delivery to the sink `stream`. AUTOINCREMENT: a number is never given again, also when all are forgotten.
CREATE TABLE frame (
  seq        INTEGER PRIMARY KEY AUTOINCREMENT,
  delivery   INTEGER NOT NULL UNIQUE REFERENCES delivery ON DELETE CASCADE,
  id         TEXT NOT NULL,             -- the event's
  type       TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  clinic     TEXT NOT NULL,
  clinic_id  TEXT,
  patient    TEXT,                      -- a digest of whose event it is,
  entity     TEXT,                      --   and of what it happened to: for filters
  replay     INTEGER NOT NULL,          -- a person has sent it again
  made_at    INTEGER NOT NULL,
  kept_until INTEGER NOT NULL,
  -- Last: whatever stands behind a large value is far to read.
  sealed     BLOB                       -- the event object as the vendor sent it; NULL: only ids are kept
) STRICT;
CREATE INDEX frame_kept_until ON frame (kept_until);
