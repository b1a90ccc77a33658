//! One event's detail, byte for byte: `data` is relayed, never parsed (`fullscript-api.md` §2).
//!
//! Only the envelope is looked at, and only to refuse an answer that is about another event or another clinic than
//! the one asked for.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::budget::Share;
use crate::api::{Api, Trouble};
use crate::domain::{ClinicName, EventBody, Reference};

/// No event is this large; an answer that is longer is dropped.
const LARGEST_DETAIL: usize = 8 << 20;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    event: &'a RawValue,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    clinic_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// A detail, and which request has brought it. Carries health data: no `Debug`.
pub struct Fetched {
    /// The event.
    pub body: EventBody,
    /// Fullscript's id of the request (`X-Request-Id`).
    pub request_id: Option<String>,
}

/// Fetches the detail of an event on behalf of a clinic.
pub async fn detail(
    api: &Api,
    clinic: &ClinicName,
    reference: &Reference,
    share: Share,
) -> Result<Fetched, Trouble> {
    let url = api.url(&["events", reference.id.as_str()]);
    let reply = api.get(clinic, url, share, LARGEST_DETAIL).await?;
    let body =
        read(&reply.body, reference).map_err(|problem| Trouble::Contract(problem.to_owned()))?;
    Ok(Fetched {
        body,
        request_id: reply.request_id,
    })
}

/// Reads a detail. Errors never repeat the body: it is health data.
fn read(body: &[u8], reference: &Reference) -> Result<EventBody, &'static str> {
    const NO_DETAIL: &str = "the answer is not the event that the contract describes";
    let body = std::str::from_utf8(body).map_err(|_| NO_DETAIL)?;
    let (event, head) = alone(body).or_else(|| enveloped(body)).ok_or(NO_DETAIL)?;
    if head.id != reference.id.as_str() {
        return Err("the answer is about another event than the one asked for");
    }
    let expected = reference.clinic_id.as_ref();
    if let (Some(found), Some(expected)) = (head.clinic_id, expected)
        && found != expected.as_str()
    {
        return Err("the answer is about another clinic than the one asked for");
    }
    let data = head.data.map(RawValue::get);
    Ok(EventBody::from_parts(event, data))
}

/// The event of an envelope that holds nothing else, as they come: read in one go.
fn alone(body: &str) -> Option<(&str, Head<'_>)> {
    let event = body
        .strip_prefix(r#"{"event":"#)?
        .strip_suffix('}')?
        .trim_ascii();
    Some((event, serde_json::from_str(event).ok()?))
}

fn enveloped(body: &str) -> Option<(&str, Head<'_>)> {
    let envelope: Envelope<'_> = serde_json::from_str(body).ok()?;
    let event = envelope.event.get();
    Some((event, serde_json::from_str(event).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClinicId, EventId, EventType};

    fn asked() -> Reference {
        Reference {
            id: EventId::new("e1").unwrap(),
            event_type: EventType::new("patient.created").unwrap(),
            created_at: chrono::DateTime::UNIX_EPOCH,
            clinic_id: Some(ClinicId::new("c1").unwrap()),
        }
    }

    #[test]
    fn a_detail_is_kept_byte_for_byte() {
        let event = r#"{ "id":"e1", "data" : {"discount": 1.50, "a":"\u00e9"},"clinic_id":"c1"}"#;
        for body in [
            format!(r#"{{"event":{event}}}"#),
            format!(r#"{{ "event" : {event} }}"#),
            format!(r#"{{"event": {event} }}"#),
            format!(r#"{{"event":{event},"x":{{}}}}"#),
            format!(r#"{{"x":1,"event":{event}}}"#),
        ] {
            let read = read(body.as_bytes(), &asked()).ok().unwrap();
            assert_eq!(read.as_json(), event);
            assert_eq!(
                read.data(),
                Some(r#"{"discount": 1.50, "a":"\u00e9"}"#),
                "{body}"
            );
        }
    }

    #[test]
    fn an_answer_about_another_event_or_clinic_is_refused_without_repeating_it() {
        for bad in [
            r#"{"event":{"id":"e2","clinic_id":"c1","data":"Jane"}}"#,
            r#"{"event":{"id":"e1","clinic_id":"c2","data":"Jane"}}"#,
            r#"{"event":{"data":"Jane"}}"#,
            r#"{"event":"Jane"}"#,
            "<html>Jane",
        ] {
            let error = read(bad.as_bytes(), &asked()).err().unwrap();
            assert!(!error.contains("Jane"));
        }
    }
}
