//! The body as Fullscript's own webhooks post it: `{"event":…}` (`fullscript-api.md` §6).

use crate::domain::EventBody;

/// Wraps the event, whose bytes stay exactly as the vendor sent them.
pub fn body(event: &EventBody) -> Vec<u8> {
    format!(r#"{{"event":{}}}"#, event.as_json()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_bytes_are_not_touched() {
        let raw = "{ \"b\":1.0,\n\"a\":\"\\u00e9 é\" }";
        let body = body(&EventBody::from_json(raw));
        assert_eq!(body, format!("{{\"event\":{raw}}}").as_bytes());
    }
}
