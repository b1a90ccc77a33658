//! The chain: each row carries the hash of the row before and a keyed hash of its own bytes.
//!
//! The hash is taken over bytes, not over meanings: whatever is changed in a line, be it a blank, is found. Its key comes
//! from the seal key, so that nobody without it can make a row, or mend the chain behind a change.

use ring::hmac;
use serde::{Deserialize, Serialize};

use super::record::{Action, Record};
use crate::store::Sealer;

/// Before the hash of a row, and after it.
const HASH: &[u8] = br#","hash":""#;
const END: &[u8] = br#""}"#;
/// Of a hash, in hexadecimal digits.
const HASH_LEN: usize = 64;

/// What the next row continues: the number and the hash of the row before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The number, from 1.
    pub seq: u64,
    /// The hash.
    pub hash: String,
}

impl Link {
    /// Before the first row.
    pub fn none() -> Self {
        Self {
            seq: 0,
            hash: "0".repeat(HASH_LEN),
        }
    }
}

/// A row in the order of its fields, without its hash.
#[derive(Serialize, Deserialize)]
struct Fields<R, A> {
    timestamp: R,
    seq: u64,
    actor: R,
    action: A,
    clinic: Option<R>,
    event_id: Option<R>,
    sink: Option<R>,
    method: Option<R>,
    path: Option<R>,
    status_code: Option<u16>,
    duration_ms: Option<u64>,
    request_id: Option<R>,
    payload_digest: Option<R>,
    prev: R,
}

/// A row whose hash is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it says.
    pub record: Record,
    /// What it continues: its number less one, and its `prev`.
    pub before: Link,
    /// Its own number and hash.
    pub link: Link,
    /// The line itself.
    pub text: String,
}

/// A row whose hash is not: somebody without the key has changed or made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forged;

/// What makes and checks rows.
#[derive(Clone)]
pub(super) struct Key {
    rows: hmac::Key,
    payloads: hmac::Key,
}

impl Key {
    /// The keys of the log, from the seal key.
    pub(super) fn new(sealer: &Sealer) -> Self {
        Self {
            rows: sealer.derived("audit row"),
            payloads: sealer.derived("audit payload"),
        }
    }

    /// The digest of a payload.
    pub(super) fn digest(&self, payload: &[u8]) -> String {
        hex::encode(hmac::sign(&self.payloads, payload))
    }

    /// The line of a record that follows `before`, with its end; the same record at the same place is always the same
    /// bytes.
    pub(super) fn line(&self, before: &Link, record: &Record) -> (Vec<u8>, Link) {
        let seq = before.seq + 1;
        let fields = Fields {
            timestamp: record.timestamp.as_str(),
            seq,
            actor: &record.actor,
            action: record.action,
            clinic: record.clinic.as_deref(),
            event_id: record.event_id.as_deref(),
            sink: record.sink.as_deref(),
            method: record.method.as_deref(),
            path: record.path.as_deref(),
            status_code: record.status_code,
            duration_ms: record.duration_ms,
            request_id: record.request_id.as_deref(),
            payload_digest: record.payload_digest.as_deref(),
            prev: &before.hash,
        };
        // Text and numbers: it cannot fail.
        let mut line = serde_json::to_vec(&fields).unwrap_or_default();
        line.pop();
        let hash = hex::encode(hmac::sign(&self.rows, &line));
        line.extend_from_slice(HASH);
        line.extend_from_slice(hash.as_bytes());
        line.extend_from_slice(END);
        line.push(b'\n');
        (line, Link { seq, hash })
    }

    /// Reads a line, without its end.
    pub(super) fn read(&self, line: &[u8]) -> Result<Row, Forged> {
        let rest = line.strip_suffix(END).ok_or(Forged)?;
        let (rest, hash) = rest
            .split_at_checked(rest.len().wrapping_sub(HASH_LEN))
            .ok_or(Forged)?;
        let signed = rest.strip_suffix(HASH).ok_or(Forged)?;
        // The digits themselves: capital ones would be another line with the same meaning.
        if hex::encode(hmac::sign(&self.rows, signed)).as_bytes() != hash {
            return Err(Forged);
        }
        let mut object = signed.to_vec();
        object.push(b'}');
        let fields: Fields<String, Action> = serde_json::from_slice(&object).map_err(|_| Forged)?;
        let hash = String::from_utf8_lossy(hash).into_owned();
        Ok(Row {
            text: String::from_utf8_lossy(line).into_owned(),
            before: Link {
                seq: fields.seq.saturating_sub(1),
                hash: fields.prev,
            },
            link: Link {
                seq: fields.seq,
                hash,
            },
            record: Record {
                timestamp: fields.timestamp,
                actor: fields.actor,
                action: fields.action,
                clinic: fields.clinic,
                event_id: fields.event_id,
                sink: fields.sink,
                method: fields.method,
                path: fields.path,
                status_code: fields.status_code,
                duration_ms: fields.duration_ms,
                request_id: fields.request_id,
                payload_digest: fields.payload_digest,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::super::record::Actor;
    use super::*;
    use crate::store::SealKey;

    #[test]
    fn a_row_has_exactly_the_fields_of_the_contract_in_their_order() {
        let key = Key::new(&Sealer::new(&SealKey::generate()));
        let record = Record::new(&Actor::Daemon, Action::StreamOpen, DateTime::UNIX_EPOCH);
        let (line, link) = key.line(&Link::none(), &record);
        let text = String::from_utf8(line).unwrap();
        let expected = format!(
            r#"{{"timestamp":"1970-01-01T00:00:00.000Z","seq":1,"actor":"daemon","action":"stream_open","clinic":null,"event_id":null,"sink":null,"method":null,"path":null,"status_code":null,"duration_ms":null,"request_id":null,"payload_digest":null,"prev":"{}","hash":"{}"}}"#,
            "0".repeat(64),
            link.hash
        );
        assert_eq!(text, expected + "\n");
        let row = key.read(text.trim_end().as_bytes()).unwrap();
        assert_eq!(
            (row.record, row.before, row.link),
            (record, Link::none(), link)
        );
        let other = Key::new(&Sealer::new(&SealKey::generate()));
        assert_eq!(other.read(text.trim_end().as_bytes()), Err(Forged));
    }
}
