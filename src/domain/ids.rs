//! Identifiers as types, so that a clinic's name can never be passed where Fullscript's clinic id is meant.
//!
//! Ids of the vendor are opaque text ("format or length of ids and strings may change without notice",
//! `fullscript-api.md` §2). They are still bounded and free of control characters: an id goes into a URL, a log line
//! and a child's environment, and a newline or a mebibyte there is an attack, not a format.

use std::fmt;

use super::Category;

/// The longest id that is accepted, in bytes. Fullscript's are 36; a longer format is allowed for, a flood is not.
const LONGEST_ID: usize = 255;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// An empty string identifies nothing.
    #[error("an id is empty")]
    Empty,
    /// Longer than any id this program keeps.
    #[error("an id is {0} bytes long, at most {LONGEST_ID} are accepted")]
    TooLong(usize),
    /// Would break a URL, a line of a log, or an environment.
    #[error("an id contains a control character")]
    ControlCharacter,
}

/// The rule for every id.
pub(super) fn checked(text: String) -> Result<String, IdError> {
    let has_control_character = if text.is_ascii() {
        text.bytes().any(|byte| byte.is_ascii_control())
    } else {
        text.chars().any(char::is_control)
    };
    if text.is_empty() {
        Err(IdError::Empty)
    } else if text.len() > LONGEST_ID {
        Err(IdError::TooLong(text.len()))
    } else if has_control_character {
        Err(IdError::ControlCharacter)
    } else {
        Ok(text)
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Takes a text that is not empty, not longer than 255 bytes and free of control characters.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                checked(text.into()).map(Self)
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// Fullscript's id of an event: the key of the memory. Opaque.
    EventId
);
text_id!(
    /// Fullscript's id of a clinic, as it stands in `clinic_id` and in `GET /api/clinic`. Opaque.
    ClinicId
);
text_id!(
    /// The name that the configuration gives a clinic; what logs, commands and metrics call it.
    ClinicName
);
text_id!(
    /// The name that the configuration gives a sink; its backlog belongs to this name.
    SinkName
);

/// What is polled as one thing: one category of one clinic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Whose grant asks.
    pub clinic: ClinicName,
    /// Which list is asked for.
    pub category: Category,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.clinic, self.category)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_would_break_a_line_or_a_url_is_refused() {
        assert_eq!(EventId::new(""), Err(IdError::Empty));
        assert_eq!(EventId::new("a\nb"), Err(IdError::ControlCharacter));
        assert_eq!(
            EventId::new("x".repeat(1 << 20)),
            Err(IdError::TooLong(1 << 20))
        );
        assert_eq!(EventId::new("7d0c/€").unwrap().as_str(), "7d0c/€");
    }
}
