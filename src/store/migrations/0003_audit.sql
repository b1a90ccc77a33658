-- The audit log lies in files; here is how far it is, and what waits to be written.

CREATE TABLE audit (
  one        INTEGER PRIMARY KEY CHECK (one = 1),
  head       BLOB,     -- sealed: where the chain begins and ends; NULL: no row was ever written
  config     TEXT,     -- the keyed digest of the configuration of the last start
  trouble    TEXT,     -- why it cannot be written; NULL: it can
  trouble_at INTEGER   -- since when, in milliseconds since 1970 UTC
) STRICT;
INSERT INTO audit (one) VALUES (1);

-- Records that wait to be written, in their order: made in the transaction of what they attest. JSON lines, a batch a row.
CREATE TABLE audit_pending (
  row     INTEGER PRIMARY KEY,
  records TEXT NOT NULL
) STRICT;
