//! The text of a note, as the configuration words it: fixed words, and named fields in braces.

/// A field that a text may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteField {
    /// `{what}`: what happened, in words, such as `treatment plan created`.
    What,
    /// `{type}`: Fullscript's type of the event.
    Type,
    /// `{time}`: when it happened, in UTC.
    Time,
    /// `{clinic}`: the clinic's name in the configuration.
    Clinic,
    /// `{id}`: Fullscript's id of what it happened to.
    Id,
    /// `{event_id}`: the event's id.
    EventId,
    /// `{items}`: the recommendations or lines, such as `2 x variant-7`; `none` where there are none.
    Items,
}

impl NoteField {
    /// Every field by its name.
    pub const ALL: [(&str, Self); 7] = [
        ("what", Self::What),
        ("type", Self::Type),
        ("time", Self::Time),
        ("clinic", Self::Clinic),
        ("id", Self::Id),
        ("event_id", Self::EventId),
        ("items", Self::Items),
    ];
}

/// Why a text cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteTextError {
    /// Nothing to say.
    #[error("it is empty")]
    Empty,
    /// A brace that opens or closes nothing.
    #[error("it has a brace without its other half")]
    Brace,
    /// A field that nobody knows.
    #[error("it names {{{0}}}, and the fields are {known}", known = known())]
    Unknown(String),
}

fn known() -> String {
    let names = NoteField::ALL.map(|(name, _)| format!("{{{name}}}"));
    names.join(" ")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Words(String),
    Field(NoteField),
}

/// The text of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteText(Vec<Part>);

impl NoteText {
    /// What is said where the configuration says nothing. Long enough for an EMR that drops short notes.
    pub const DEFAULT: &str =
        "Fullscript: {what} at {time}. Items: {items}. Fullscript id {id}, event {event_id}.";

    /// Takes a text as it stands in the configuration.
    pub fn new(text: &str) -> Result<Self, NoteTextError> {
        if text.trim().is_empty() {
            return Err(NoteTextError::Empty);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((words, behind)) = rest.split_once('{') {
            let (name, behind) = behind.split_once('}').ok_or(NoteTextError::Brace)?;
            let field = NoteField::ALL.iter().find(|(known, _)| *known == name);
            let (_, field) = field.ok_or_else(|| NoteTextError::Unknown(name.to_owned()))?;
            parts.extend([said(words)?, Part::Field(*field)]);
            rest = behind;
        }
        parts.push(said(rest)?);
        Ok(Self(parts))
    }

    /// The text with its fields filled in.
    pub fn fill(&self, value: impl Fn(NoteField) -> String) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Words(words) => words.clone(),
            Part::Field(field) => value(*field),
        });
        parts.collect()
    }
}

fn said(words: &str) -> Result<Part, NoteTextError> {
    if words.contains('}') {
        return Err(NoteTextError::Brace);
    }
    Ok(Part::Words(words.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_in_and_anything_else_is_refused() {
        let text = NoteText::new("{what} ({type}), {what}").unwrap();
        let filled = text.fill(|field| format!("<{field:?}>"));
        assert_eq!(filled, "<What> (<Type>), <What>");
        assert!(NoteText::new(NoteText::DEFAULT).is_ok());
        assert_eq!(NoteText::new(" "), Err(NoteTextError::Empty));
        for odd in ["{what", "what}", "{what}}", "a } b {what}"] {
            assert_eq!(NoteText::new(odd), Err(NoteTextError::Brace), "{odd}");
        }
        assert_eq!(
            NoteText::new("{name}").unwrap_err().to_string(),
            "it names {name}, and the fields are {what} {type} {time} {clinic} {id} {event_id} {items}"
        );
    }
}
