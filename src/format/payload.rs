//! How much of an event a body carries.

use std::borrow::Cow;

use super::fullscript;
use super::minimum::{Minimum, NotCut};
use super::native::{self, NotAnEvent};
use crate::domain::{EventBody, JsonPath, Parcel};

/// How much of an event a body carries.
#[derive(Clone, Debug)]
pub enum Payload {
    /// All of `data`, byte for byte.
    Full,
    /// No `data`: the receiver asks for what it needs.
    Ids,
    /// What is left of `data`.
    Minimum(Minimum),
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoBody {
    /// The stored event is not what a retrieve gives.
    #[error(transparent)]
    NotAnEvent(#[from] NotAnEvent),
    /// Its data cannot be cut down.
    #[error(transparent)]
    NotCut(#[from] NotCut),
}

impl Payload {
    /// Only what `only` names of `data`, and of that nothing that `redact` names; all of it where both name nothing.
    pub fn of_paths(only: Vec<JsonPath>, redact: Vec<JsonPath>) -> Self {
        if only.is_empty() && redact.is_empty() {
            return Self::Full;
        }
        Self::Minimum(Minimum::new(only, redact))
    }

    /// The JSON text of `data`, where there is to be one.
    pub fn data<'e>(&self, event: &'e EventBody) -> Result<Option<Cow<'e, str>>, NoBody> {
        Ok(match self {
            Self::Full => Some(Cow::Borrowed(native::data(event)?)),
            Self::Ids => None,
            Self::Minimum(minimum) => Some(Cow::Owned(minimum.of(native::data(event)?)?)),
        })
    }

    /// The event object: the vendor's bytes, or the contract's members with what is left of `data`.
    pub fn event<'p>(&self, parcel: &'p Parcel) -> Result<Cow<'p, [u8]>, NoBody> {
        if let Self::Full = self {
            return Ok(Cow::Borrowed(parcel.body.as_json().as_bytes()));
        }
        let data = self.data(&parcel.body)?;
        Ok(Cow::Owned(fullscript::reduced(parcel, data.as_deref())?))
    }
}
