//! Server-sent events, as a client reads them. Pure: bytes in, events out, and no more is kept than one event may have.

use std::collections::VecDeque;

/// No event of ours is longer: a detail has at most 8 MiB.
const LONGEST: usize = 16 << 20;

/// One event of the stream. May carry health data: no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Where the stream goes on behind it.
    pub(super) id: Option<String>,
    pub(super) data: String,
}

/// An event that never ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream sends an event that does not end")]
pub(super) struct TooLong;

/// Cuts what comes in into events.
#[derive(Default)]
pub(super) struct Reader {
    /// What of a line is here.
    line: Vec<u8>,
    id: Option<String>,
    data: String,
    has_data: bool,
    whole: VecDeque<Event>,
}

impl Reader {
    /// Takes in what has come.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > LONGEST {
                return Err(TooLong);
            }
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                self.read_line(line.trim_end_matches(['\r', '\n']));
            }
        }
        Ok(())
    }

    /// The next event that is whole.
    pub(super) fn next(&mut self) -> Option<Event> {
        self.whole.pop_front()
    }

    fn read_line(&mut self, line: &str) {
        if line.is_empty() {
            let event = Event {
                id: self.id.take(),
                data: std::mem::take(&mut self.data),
            };
            if std::mem::take(&mut self.has_data) {
                self.whole.push_back(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // A comment, or a field that is of no interest here.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = ": ping\n\nid: 0a-1\nevent: event\ndata: {\"a\":1}\n\nid: 0a-2\r\ndata:two\r\ndata: lines\r\n\r\n\
                          event: status\n\ndata: torn";

    fn read(parts: &[&[u8]]) -> Vec<(Option<String>, String)> {
        let mut reader = Reader::default();
        let mut events = Vec::new();
        for part in parts {
            reader.take(part).unwrap();
            while let Some(event) = reader.next() {
                events.push((event.id, event.data));
            }
        }
        events
    }

    #[test]
    fn an_event_is_what_ends_with_an_empty_line_and_has_data() {
        let id = |id: &str| Some(id.to_owned());
        assert_eq!(
            read(&[STREAM.as_bytes()]),
            [
                (id("0a-1"), r#"{"a":1}"#.to_owned()),
                (id("0a-2"), "two\nlines".to_owned())
            ]
        );
    }

    #[test]
    fn an_event_that_never_ends_is_refused() {
        let mut reader = Reader::default();
        let part = vec![b'x'; 1 << 20];
        let taken: Vec<_> = (0..20).map(|_| reader.take(&part).is_ok()).collect();
        assert_eq!(taken.iter().filter(|ok| **ok).count(), 16);
    }

    proptest! {
        #[test]
        fn however_it_is_cut_on_its_way_the_events_are_the_same(
            cuts in prop::collection::btree_set(0..STREAM.len(), 0..12),
        ) {
            let mut parts = Vec::new();
            let mut from = 0;
            for cut in cuts {
                parts.push(&STREAM.as_bytes()[from..cut]);
                from = cut;
            }
            parts.push(&STREAM.as_bytes()[from..]);
            prop_assert_eq!(read(&parts), read(&[STREAM.as_bytes()]));
        }
    }
}
