-- The grants: one per clinic name. A grant belongs to one clinic; its tokens are the pairs below.
CREATE TABLE grant (
  clinic        TEXT PRIMARY KEY,
  state         TEXT NOT NULL CHECK (state IN ('active', 'misconfigured', 'login_required')),
  generation    INTEGER NOT NULL,            -- the current pair
  clinic_id     TEXT,                        -- the Fullscript clinic it is pinned to; NULL: none seen yet
  verified      INTEGER NOT NULL DEFAULT 0,  -- the clinic was told by GET /clinic, not inferred from what it listed
  enrolled_at   INTEGER NOT NULL,
  refreshed_at  INTEGER,                     -- the last pair that Fullscript gave
  since_at      INTEGER,                     -- since when it is not active
  refused_at    INTEGER,                     -- the last invalid_grant on every token it has
  failures      INTEGER NOT NULL DEFAULT 0,  -- token calls without an answer, in a row; sets the pace only
  retry_at      INTEGER,                     -- not before this time
  trouble       TEXT,                        -- what is wrong, in words; no part of any answer
  intent_holder INTEGER,                     -- the process that is refreshing it,
  intent_until  INTEGER,                     --   and when that is no longer believed
  reply         BLOB                         -- an answer of the token endpoint that is not parsed yet, sealed
) STRICT;

-- Tokens, sealed. A pair stays until it is known dead, so that a disconnect can revoke every one that may still live.
CREATE TABLE pair (
  clinic     TEXT NOT NULL,
  generation INTEGER NOT NULL,
  access     BLOB,                           -- NULL: only a refresh token was imported
  refresh    BLOB NOT NULL,
  issued_at  INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  refresh_at INTEGER NOT NULL,
  used       INTEGER NOT NULL DEFAULT 0,     -- its access token was handed out: the pair before it dies
  adopted    INTEGER NOT NULL DEFAULT 0,     -- it is or was the grant's; else its clinic was never made sure of
  refused    INTEGER NOT NULL DEFAULT 0,     -- known dead: refused while another one worked, or revoked
  PRIMARY KEY (clinic, generation)
) STRICT, WITHOUT ROWID;
