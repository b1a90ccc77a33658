-- What an EMR was sent as treatments (`format = "sfs"`). Times are milliseconds since 1970 UTC.

-- What it may know of each treatment. Never forgotten by age: a plan may change years later, and a second `added` would be
-- a second order. Without its clinic: that may be renamed, and Fullscript's ids are its own everywhere.
CREATE TABLE sfs_item (
  sink       INTEGER NOT NULL,
  guid       TEXT NOT NULL,             -- <plan or order id>:<variant id>
  billed     INTEGER NOT NULL,          -- as it was said first
  state      TEXT NOT NULL CHECK (state = 'sending' OR state = 'sent'), -- may have arrived; was accepted
  created_at INTEGER NOT NULL,          -- the newest event that may have arrived,
  event      TEXT NOT NULL,             --   by its id
  was        TEXT,                      -- all three as they were before the post that is under way; NULL: there was none
  was_created_at INTEGER,
  was_event  TEXT,
  PRIMARY KEY (sink, guid)
) STRICT, WITHOUT ROWID;

-- What late results are heard of: each post that carried treatments, for 65 days,
CREATE TABLE sfs_post (
  batch     TEXT PRIMARY KEY,           -- object.id
  sink      INTEGER NOT NULL,
  clinic    TEXT NOT NULL,
  posted_at INTEGER NOT NULL,
  deadline  INTEGER                     -- until when results are waited for; NULL: they are not
) STRICT, WITHOUT ROWID;
CREATE INDEX sfs_post_age ON sfs_post (posted_at);

-- and what it carried.
CREATE TABLE sfs_carried (
  batch    TEXT NOT NULL REFERENCES sfs_post ON DELETE CASCADE,
  guid     TEXT NOT NULL,
  delivery INTEGER NOT NULL,
  state    TEXT NOT NULL CHECK (state = 'sending' OR state = 'sent' OR state = 'confirmed' OR state = 'rejected'),
  message  BLOB,                        -- what the EMR said of its rejection, sealed; NULL where nobody needs it any more
  PRIMARY KEY (batch, guid)
) STRICT, WITHOUT ROWID;
CREATE INDEX sfs_carried_delivery ON sfs_carried (delivery);
