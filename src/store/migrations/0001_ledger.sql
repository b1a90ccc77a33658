-- Times are milliseconds since 1970 UTC; days are days since then.

CREATE TABLE instance (
  one        INTEGER PRIMARY KEY CHECK (one = 1),
  app        TEXT NOT NULL,     -- API base and client id: a state directory serves one app
  key_check  BLOB NOT NULL,     -- a sealed word: tells a wrong key before any network call
  epoch      INTEGER NOT NULL,  -- owners so far; claims carry it
  id         TEXT NOT NULL,     -- what the marker beside the ledger names
  beat       INTEGER NOT NULL DEFAULT 0, -- only grows; the marker follows it
  accepted   TEXT,              -- this ledger took the place of a lost one: how its first lanes begin (baseline, replay)
  host       TEXT,              -- the machine that this directory lives on: its id, hashed,
  host_name  TEXT,              --   and its name
  alive_at   INTEGER,           -- when it last beat
  restored   INTEGER NOT NULL DEFAULT 0, -- from a backup, and nothing is held for it yet
  restored_of    INTEGER,       -- when that backup was made
  restored_until INTEGER,       -- unknown events created before may have been delivered: they are held
  agreed_at  INTEGER            -- the last time that all clocks agreed on: what is forgotten is forgotten by it
) STRICT;

-- What is polled as one thing: a category of a clinic.
CREATE TABLE lane (
  lane          INTEGER PRIMARY KEY,
  clinic        TEXT NOT NULL,
  category      TEXT NOT NULL,
  after_loss    TEXT,                        -- instance.accepted, for the lanes of that time
  issue_from    INTEGER,                     -- during the baseline: what was created before is skipped; NULL: not begun
  baseline_done INTEGER NOT NULL DEFAULT 0,  -- one whole 30-day listing has been admitted
  complete_to   INTEGER,                     -- everything up to here (created_at) has been admitted
  released      INTEGER NOT NULL DEFAULT 0,  -- events up to this number may be claimed: their sweep has ended
  sweep         TEXT,                        -- an unfinished sweep: which,
  sweep_newest  INTEGER,                     --   the newest created_at it saw at its start,
  sweep_reached INTEGER,                     --   and the created_at down to which its pages are admitted
  fast_at       INTEGER NOT NULL DEFAULT 0,  -- when each sweep is due
  deep_at       INTEGER NOT NULL DEFAULT 0,
  reconcile_at  INTEGER NOT NULL DEFAULT 0,
  polled_at     INTEGER,                     -- the last sweep that reached its end
  parked_at     INTEGER,                     -- 403: since when
  failures      INTEGER NOT NULL DEFAULT 0,  -- in a row; sets the pace, never ends polling
  retry_at      INTEGER,
  trouble       TEXT,                        -- the last failure, in words
  late          INTEGER NOT NULL DEFAULT 0,  -- events that only a later sweep found
  digest        BLOB,                        -- of the last list that was one page, and admitted whole
  UNIQUE (clinic, category)
) STRICT;

-- The memory. One row per event id, whichever clinics list it. No foreign key leads to a lane or a sink: their rows are
-- never deleted, and SQLite would look at each insert whether they are there.
CREATE TABLE event (
  event          INTEGER PRIMARY KEY,
  id             TEXT NOT NULL UNIQUE,
  type           TEXT NOT NULL,
  created_at     INTEGER NOT NULL,
  clinic_id      TEXT,
  lane           INTEGER NOT NULL,                  -- who listed it first, and fetches it
  admitted_at    INTEGER NOT NULL,
  listed_day     INTEGER NOT NULL,                  -- last listed; forgotten 35 days later
  found_by       TEXT NOT NULL,                     -- which sweep
  skipped        TEXT,                              -- why no sink gets it; NULL: some delivery exists
  fetch_failures INTEGER NOT NULL DEFAULT 0,
  fetch_trouble  TEXT
) STRICT;

-- Further clinics that listed the same id.
CREATE TABLE sighting (
  event INTEGER NOT NULL REFERENCES event ON DELETE CASCADE,
  lane  INTEGER NOT NULL REFERENCES lane,
  PRIMARY KEY (event, lane)
) STRICT, WITHOUT ROWID;

-- The event object as the vendor sent it, sealed; kept while a delivery of it is not settled.
CREATE TABLE body (
  event   INTEGER PRIMARY KEY REFERENCES event ON DELETE CASCADE,
  sealed  BLOB NOT NULL,
  patient TEXT       -- a digest of whose event it is
) STRICT;

-- An event that carries another clinic's id than the grant's: kept out of the memory, so that it does not occupy
-- the id for the clinic it belongs to.
CREATE TABLE quarantine (
  lane       INTEGER NOT NULL REFERENCES lane,
  id         TEXT NOT NULL,
  type       TEXT NOT NULL,
  clinic_id  TEXT NOT NULL,
  seen_at    INTEGER NOT NULL,
  PRIMARY KEY (lane, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE sink (
  sink       INTEGER PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  order_by   TEXT NOT NULL DEFAULT 'none',  -- clinic, patient: of each one delivery at a time
  checkpoint TEXT,   -- up to where an exact sink's own file is in agreement with this ledger
  stopped    TEXT,   -- why it needs a person
  mode       TEXT NOT NULL DEFAULT 'open' CHECK (mode IN ('open', 'paused', 'draining')),
  mode_why   TEXT,
  mode_at    INTEGER,
  breaker    TEXT    -- failures in a row, or since when its receiver does not work; NULL: no failures
) STRICT;

-- One event owed to one sink. issued = queued + claimed + held + parked + dead + done + skipped, always.
CREATE TABLE delivery (
  delivery   INTEGER PRIMARY KEY,
  event      INTEGER NOT NULL REFERENCES event ON DELETE CASCADE,
  sink       INTEGER NOT NULL,
  lane       INTEGER NOT NULL,             -- whose listing made it: the clinic that the sink is told
  through    INTEGER NOT NULL,             -- who fetches its body: at first the event's lane
  ordinal    INTEGER NOT NULL DEFAULT 1,   -- a person's resend is a new row
  -- Not IN: for a list of six SQLite builds a table of its own at every row that is written.
  state      TEXT NOT NULL CHECK (state = 'queued' OR state = 'claimed' OR state = 'done'
                                  OR state = 'skipped' OR state = 'held' OR state = 'parked' OR state = 'dead'),
  ready      INTEGER NOT NULL DEFAULT 0,   -- 1: its body is here; 2: and others of its key come first
  due_at     INTEGER NOT NULL,             -- at first the event's created_at: the order of fetching and of delivery
  attempts   INTEGER NOT NULL DEFAULT 0,   -- claims so far; the newest one may settle
  refusals   INTEGER NOT NULL DEFAULT 0,   -- answers of no: only these count towards max_attempts
  failing_since INTEGER,                   -- its first attempt that failed
  epoch      INTEGER,                      -- who claimed it
  issued_at  INTEGER NOT NULL,
  settled_at INTEGER,
  reason     TEXT,                         -- how the last attempt ended, or why it was skipped
  maybe_sent BLOB,                         -- where bodies are not kept: the digest of what may have arrived
  place      TEXT,                         -- its place in the order that its sink keeps,
  key        TEXT,                         --   among the deliveries of this clinic or patient
  UNIQUE (event, sink, ordinal)
) STRICT;
CREATE INDEX delivery_due ON delivery (sink, due_at, delivery) WHERE state = 'queued' AND ready = 1;
CREATE INDEX delivery_owed ON delivery (through, due_at, event) WHERE state = 'queued' AND ready = 0;
CREATE INDEX delivery_claimed ON delivery (sink) WHERE state = 'claimed';

-- What a parked delivery waits for, exactly while it is parked.
CREATE TABLE parked (
  delivery INTEGER PRIMARY KEY REFERENCES delivery ON DELETE CASCADE,
  sink     INTEGER NOT NULL,
  why      TEXT NOT NULL CHECK (why IN ('no_crosswalk', 'clinic_paused', 'awaits_result')),
  until_at INTEGER     -- when that is looked at again; NULL: not by itself
) STRICT;
CREATE INDEX parked_until ON parked (sink, until_at);

-- Clinics whose deliveries to a sink wait for a person: their receiver refuses them.
CREATE TABLE paused_clinic (
  sink      INTEGER NOT NULL,
  clinic    TEXT NOT NULL,
  why       TEXT NOT NULL,
  paused_at INTEGER NOT NULL,
  PRIMARY KEY (sink, clinic)
) STRICT, WITHOUT ROWID;

-- What the program of an attempt has said, sealed: of the newest attempt that was recorded, until its delivery is done or
-- skipped.
CREATE TABLE output (
  delivery INTEGER PRIMARY KEY REFERENCES delivery ON DELETE CASCADE,
  attempt  INTEGER NOT NULL,
  sealed   BLOB NOT NULL
) STRICT;

-- Requests spent, in blocks: a restart does not forget them.
CREATE TABLE lease (
  lease     INTEGER PRIMARY KEY,
  share     TEXT NOT NULL,      -- polling or backfill
  permits   INTEGER NOT NULL,
  closed_at INTEGER             -- when the last of it was spent; NULL: not yet, or its owner died
) STRICT;

-- A backfill that somebody asked for, and how far it is in each lane.
CREATE TABLE job (
  job        INTEGER PRIMARY KEY,
  since_at   INTEGER NOT NULL,
  until_at   INTEGER,
  sink       TEXT,              -- NULL: every sink that wants the event
  words      TEXT NOT NULL,     -- what was asked for: the same words go on with an interrupted job
  created_at INTEGER NOT NULL,
  delivered_before INTEGER NOT NULL, -- deliveries with a higher number were issued since
  ended_at   INTEGER
) STRICT;
CREATE TABLE job_lane (
  job     INTEGER NOT NULL REFERENCES job ON DELETE CASCADE,
  lane    INTEGER NOT NULL REFERENCES lane,
  reached INTEGER,                        -- created_at down to which its pages are admitted
  listed  INTEGER NOT NULL DEFAULT 0,
  issued  INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,    -- in a row; a page that is admitted sets it back
  ended_at INTEGER,
  trouble TEXT,
  PRIMARY KEY (job, lane)
) STRICT, WITHOUT ROWID;
