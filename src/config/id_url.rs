//! An address with places in it for ids, such as `https://ehr.example/hooks/seen/{id}`.

use url::Url;

/// The place of the event's id.
const EVENT: &str = "{id}";
/// The place of the delivery's.
const DELIVERY: &str = "{delivery}";

/// Why a text is no [`IdUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdUrlError {
    /// No id would be in it.
    #[error("neither {{id}} nor {{delivery}} is in it")]
    NoPlace,
    /// Another brace, or a place in the host.
    #[error("only {{id}} and {{delivery}} stand in braces, and behind the host")]
    Misplaced,
    /// Not a URL.
    #[error("it is no URL")]
    NotAUrl,
}

/// An address with places for ids in its path or query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdUrl {
    text: String,
    sample: Url,
}

impl IdUrl {
    /// Takes an address as it stands in the configuration.
    pub fn new(text: &str) -> Result<Self, IdUrlError> {
        if !text.contains(EVENT) && !text.contains(DELIVERY) {
            return Err(IdUrlError::NoPlace);
        }
        let filled = |with: &str| text.replace(EVENT, with).replace(DELIVERY, with);
        if filled("").contains(['{', '}']) {
            return Err(IdUrlError::Misplaced);
        }
        let sample = Url::parse(&filled("a")).map_err(|_| IdUrlError::NotAUrl)?;
        let other = Url::parse(&filled("b")).map_err(|_| IdUrlError::NotAUrl)?;
        if sample.origin() != other.origin()
            || sample[..url::Position::BeforePath] != other[..url::Position::BeforePath]
        {
            return Err(IdUrlError::Misplaced);
        }
        let text = text.to_owned();
        Ok(Self { text, sample })
    }

    /// The address of some id: its scheme and host are those of every other.
    pub fn sample(&self) -> &Url {
        &self.sample
    }

    /// The address of an event and its delivery. None where an id is only dots, which would name a folder instead.
    pub fn of(&self, event: &str, delivery: &str) -> Option<Url> {
        let is_dots = |id: &str| id.bytes().all(|byte| byte == b'.');
        if is_dots(event) || is_dots(delivery) {
            return None;
        }
        let text = self.text.replace(EVENT, &encoded(event));
        Url::parse(&text.replace(DELIVERY, &encoded(delivery))).ok()
    }
}

/// Everything but the unreserved characters of RFC 3986 in hex: an id cannot lead to another path.
fn encoded(id: &str) -> String {
    let encoded = id.bytes().map(|byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_in_their_places_and_lead_nowhere_else() {
        let url = IdUrl::new("https://ehr.example/seen/{id}?of={delivery}&again={id}").unwrap();
        let of = |event, delivery| url.of(event, delivery).map(String::from);
        assert_eq!(
            of("e-7", "msg_1_a").unwrap(),
            "https://ehr.example/seen/e-7?of=msg_1_a&again=e-7"
        );
        assert_eq!(
            of("../../a?b#c/{delivery}é %", "m&n").unwrap(),
            "https://ehr.example/seen/..%2F..%2Fa%3Fb%23c%2F%7Bdelivery%7D%C3%A9%20%25?of=m%26n&again=..%2F..%2Fa%3Fb%23c%2F%7Bdelivery%7D%C3%A9%20%25"
        );
        assert_eq!(of("..", "m"), None);
        assert_eq!(of("e", "."), None);
    }

    #[test]
    fn what_would_ask_nothing_or_somebody_else_is_refused() {
        for (text, expected) in [
            ("https://ehr.example/seen", IdUrlError::NoPlace),
            ("https://ehr.example/{event}/{id}", IdUrlError::Misplaced),
            ("https://ehr.example/{{id}}", IdUrlError::Misplaced),
            ("https://{id}.example/", IdUrlError::Misplaced),
            ("https://ehr.example:{id}/", IdUrlError::NotAUrl),
            ("https://{id}@ehr.example/", IdUrlError::Misplaced),
            ("{id}", IdUrlError::NotAUrl),
        ] {
            assert_eq!(IdUrl::new(text), Err(expected), "{text}");
        }
    }
}
