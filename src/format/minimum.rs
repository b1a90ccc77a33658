//! The minimum necessary (45 CFR 164.502(b)): what of an event's `data` a receiver is given where it needs less than all
//! of it.
//!
//! It works on the vendor's text, not on parsed values: a value that stays has the bytes that the vendor sent, numbers
//! included, and members keep their order. So the same event always gives the same bytes. A name is compared decoded and
//! each time that it occurs, so that neither `"em\u0061il"` nor a second `"email"` in one object slips through.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::{JsonPath, Step};

/// Deeper data is refused rather than followed, which would take the stack.
const DEEPEST: usize = 128;

/// The data is no JSON, or nests too deeply. Says nothing of its content: that is health data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the event's data cannot be cut down: it nests deeper than {DEEPEST} levels, or is no JSON"
)]
pub struct NotCut;

/// What is left of `data`.
#[derive(Clone, Debug, Default)]
pub struct Minimum {
    only: Vec<JsonPath>,
    redact: Vec<JsonPath>,
}

impl Minimum {
    /// Only what `only` names, or everything where it names nothing; of that nothing that `redact` names.
    pub fn new(only: Vec<JsonPath>, redact: Vec<JsonPath>) -> Self {
        Self { only, redact }
    }

    /// Cuts `data` down. Of what `only` keeps, the objects and lists around it stay as its way, with nothing else in
    /// them; where it finds nothing, an empty object is left.
    pub fn of(&self, data: &str) -> Result<String, NotCut> {
        let kept = if self.only.is_empty() {
            Cow::Borrowed(data)
        } else {
            let kept = cut(data, Found::Stays, &self.only)?;
            Cow::Owned(kept.unwrap_or_else(|| "{}".to_owned()))
        };
        let rest = cut(&kept, Found::Goes, &self.redact)?;
        Ok(rest.unwrap_or_default())
    }
}

/// What becomes of what a path finds; the opposite becomes of the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Stays,
    Goes,
}

/// The steps that are left of each path at some value.
type Left<'p> = Vec<&'p [Step]>;

/// `None`: nothing stays.
fn cut(text: &str, found: Found, paths: &[JsonPath]) -> Result<Option<String>, NotCut> {
    let mut out = String::with_capacity(text.len());
    let left = paths.iter().map(JsonPath::steps).collect();
    let cutter = Cutter {
        found,
        left,
        depth: 0,
        out: &mut out,
    };
    let stays = cutter.cut(text).map_err(|_: serde_json::Error| NotCut)?;
    Ok(stays.then_some(out))
}

/// Writes what stays of one value.
struct Cutter<'p, 'o> {
    found: Found,
    left: Left<'p>,
    depth: usize,
    out: &'o mut String,
}

impl Cutter<'_, '_> {
    /// Whether anything of it stays.
    fn cut(self, text: &str) -> serde_json::Result<bool> {
        if self.depth > DEEPEST {
            return Err(serde_json::Error::custom("too deep"));
        }
        let mut json = serde_json::Deserializer::from_str(text);
        match text.trim_ascii_start().as_bytes().first() {
            Some(b'{') => json.deserialize_map(self),
            Some(b'[') => json.deserialize_seq(self),
            _ if self.found == Found::Goes => {
                self.out.push_str(text);
                Ok(true)
            }
            // A path goes on here, and there is nothing to go on into.
            _ => Ok(false),
        }
    }

    /// Writes what stays of a member or an element, with its name; says whether anything does.
    fn inside(&mut self, name: Option<&str>, value: &str, first: bool) -> serde_json::Result<bool> {
        let decoded = name.map(decoded);
        let (is_found, left) = after(&self.left, decoded.flatten().as_deref());
        if is_found && self.found == Found::Goes
            || !is_found && left.is_empty() && self.found == Found::Stays
        {
            return Ok(false);
        }
        let before = self.out.len();
        if !first {
            self.out.push(',');
        }
        if let Some(name) = name {
            self.out.push_str(name);
            self.out.push(':');
        }
        if is_found || left.is_empty() {
            self.out.push_str(value);
            return Ok(true);
        }
        let inner = Cutter {
            found: self.found,
            left,
            depth: self.depth + 1,
            out: self.out,
        };
        let stays = inner.cut(value)?;
        if !stays {
            self.out.truncate(before);
        }
        Ok(stays)
    }
}

impl<'de> Visitor<'de> for Cutter<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<bool, A::Error> {
        let mut none = true;
        self.out.push('{');
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let stays = self.inside(Some(name.get()), value.get(), none);
            none &= !stays.map_err(A::Error::custom)?;
        }
        self.out.push('}');
        Ok(!none || self.found == Found::Goes)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<bool, A::Error> {
        let mut none = true;
        self.out.push('[');
        while let Some(value) = list.next_element::<&RawValue>()? {
            let stays = self.inside(None, value.get(), none);
            none &= !stays.map_err(A::Error::custom)?;
        }
        self.out.push(']');
        Ok(!none || self.found == Found::Goes)
    }
}

/// The name that a JSON string is. A half of a surrogate pair makes it none, and no path can name it.
fn decoded(json: &str) -> Option<Cow<'_, str>> {
    if json.contains('\\') {
        serde_json::from_str(json).ok().map(Cow::Owned)
    } else {
        let inner = json.strip_prefix('"')?.strip_suffix('"')?;
        Some(Cow::Borrowed(inner))
    }
}

/// Whether a path ends at a member of this name, or at an element, which has none; and what is left of those that go on.
fn after<'p>(left: &Left<'p>, name: Option<&str>) -> (bool, Left<'p>) {
    let mut next: Left<'p> = Vec::new();
    let mut is_found = false;
    let mut go_on = |steps: &'p [Step]| {
        is_found |= steps.is_empty();
        // Once is enough, however many ways lead here.
        if !steps.is_empty() && !next.contains(&steps) {
            next.push(steps);
        }
    };
    for steps in left {
        match steps {
            [Step::Member(wanted), rest @ ..] if name == Some(wanted) => go_on(rest),
            [Step::Each, rest @ ..] => go_on(rest),
            [Step::Anywhere(wanted), rest @ ..] => {
                if name == Some(wanted) {
                    go_on(rest);
                }
                go_on(steps);
            }
            [Step::Member(_), ..] | [] => {}
        }
    }
    (is_found, next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{ClinicName, DeliveryId, EventBody, EventId, EventType, Metadata, Parcel};
    use crate::format::{Payload, cloudevents, fullscript, healthchain, native};

    fn paths(texts: &[&str]) -> Vec<JsonPath> {
        texts
            .iter()
            .map(|text| JsonPath::new(text).unwrap())
            .collect()
    }

    fn left(only: &[&str], redact: &[&str], data: &str) -> String {
        Minimum::new(paths(only), paths(redact)).of(data).unwrap()
    }

    const PATIENT: &str = r#"{ "patient":{"id":"p-1", "e\u006dail":"a@x","discount":1.10,"email":"b@x"},"n": 12345678901234567890.0,
        "items":[{"id":1,"note":"c"},{"note":"d"},7] }"#;

    #[test]
    fn what_is_redacted_is_gone_each_time_it_occurs_and_the_rest_keeps_its_bytes() {
        assert_eq!(
            left(&[], &["$.patient.email", "$..note"], PATIENT),
            r#"{"patient":{"id":"p-1","discount":1.10},"n":12345678901234567890.0,"items":[{"id":1},{},7]}"#
        );
        assert_eq!(
            left(&[], &["$.items[*]", "$['n']", "$.patient"], PATIENT),
            r#"{"items":[]}"#
        );
        // Where no path leads into, not even the layout changes.
        let spaced = r#"{"a":{ "b" : [ 1.0 ] },"c":1}"#;
        assert_eq!(left(&[], &["$.c"], spaced), r#"{"a":{ "b" : [ 1.0 ] }}"#);
    }

    #[test]
    fn only_what_is_named_stays_with_the_way_to_it() {
        assert_eq!(
            left(&["$.patient.id", "$.items[*].id"], &[], PATIENT),
            r#"{"patient":{"id":"p-1"},"items":[{"id":1}]}"#
        );
        assert_eq!(
            left(&["$.patient"], &["$..email"], PATIENT),
            r#"{"patient":{"id":"p-1","discount":1.10}}"#
        );
        for data in [PATIENT, "[1,2]", "null", "7", "\"text\"", "{}"] {
            assert_eq!(
                left(&["$.nothing", "$.n.deeper"], &[], data),
                "{}",
                "{data}"
            );
        }
    }

    #[test]
    fn what_is_too_deep_or_no_json_is_refused() {
        let redact = Minimum::new(Vec::new(), paths(&["$..a"]));
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(redact.of(&nested(DEEPEST)).is_ok());
        assert_eq!(redact.of(&nested(10_000)), Err(NotCut));
        assert_eq!(redact.of("{\"b\":"), Err(NotCut));
        assert_eq!(redact.of("{\"b\":1,}"), Err(NotCut));
    }

    #[derive(Clone, Debug)]
    enum Node {
        Leaf,
        Object(Vec<(usize, bool, Node)>),
        List(Vec<Node>),
    }

    const NAMES: [&str; 4] = ["a", "b", "é", "a.b"];

    fn node() -> impl Strategy<Value = Node> {
        Just(Node::Leaf).prop_recursive(6, 60, 5, |inner| {
            let member = (0..NAMES.len(), any::<bool>(), inner.clone());
            prop_oneof![
                3 => prop::collection::vec(member, 0..5).prop_map(Node::Object),
                1 => prop::collection::vec(inner, 0..4).prop_map(Node::List),
            ]
        })
    }

    fn path() -> impl Strategy<Value = Vec<Step>> {
        let name = || (0..NAMES.len()).prop_map(|index| NAMES[index].to_owned());
        let step = prop_oneof![
            4 => name().prop_map(Step::Member),
            2 => Just(Step::Each),
            2 => name().prop_map(Step::Anywhere),
        ];
        prop::collection::vec(step, 1..5)
    }

    fn spelled(steps: &[Step]) -> JsonPath {
        let step = |step: &Step| match step {
            Step::Member(name) => format!("['{name}']"),
            Step::Each => "[*]".to_owned(),
            Step::Anywhere(name) => format!("..['{name}']"),
        };
        let text: String = steps.iter().map(step).collect();
        JsonPath::new(&format!("${text}")).unwrap()
    }

    /// RFC 9535, read naively: whether a path names the value at this place.
    fn names(steps: &[Step], place: &[Option<&str>]) -> bool {
        match (steps, place) {
            ([], []) => true,
            ([], _) | (_, []) => false,
            ([Step::Each, steps @ ..], [_, place @ ..]) => names(steps, place),
            ([Step::Member(name), steps @ ..], [at, place @ ..]) => {
                *at == Some(name.as_str()) && names(steps, place)
            }
            ([Step::Anywhere(name), rest @ ..], [at, place @ ..]) => {
                *at == Some(name.as_str()) && names(rest, place) || names(steps, place)
            }
        }
    }

    struct Drawn<'a> {
        only: &'a [Vec<Step>],
        redact: &'a [Vec<Step>],
        /// Counts the leaves, so that each has a text of its own.
        leaves: usize,
    }

    impl Drawn<'_> {
        /// The JSON text of what stays of a value, if anything does. `is_kept`: it is inside what `only` names.
        fn draw(
            &mut self,
            node: &Node,
            place: &mut Vec<Option<&'static str>>,
            is_kept: bool,
        ) -> Option<String> {
            let is_kept = is_kept || self.only.iter().any(|path| names(path, place));
            let mut parts = Vec::new();
            let mut child =
                |this: &mut Self, name: Option<&'static str>, key: &str, node: &Node| {
                    place.push(name);
                    let text = this.draw(node, place, is_kept);
                    parts.extend(text.map(|text| format!("{key}{text}")));
                    place.pop();
                };
            let text = match node {
                Node::Leaf => {
                    self.leaves += 1;
                    is_kept.then(|| format!("\"canary-{:04}\"", self.leaves))
                }
                Node::Object(members) => {
                    for (name, escaped, node) in members {
                        let name = NAMES[*name];
                        let escape = |c: char| match escaped {
                            true => format!("\\u{:04x}", u32::from(c)),
                            false => c.to_string(),
                        };
                        let key: String = name.chars().map(escape).collect();
                        child(self, Some(name), &format!("\"{key}\":"), node);
                    }
                    (is_kept || !parts.is_empty()).then(|| format!("{{{}}}", parts.join(",")))
                }
                Node::List(elements) => {
                    for node in elements {
                        child(self, None, "", node);
                    }
                    (is_kept || !parts.is_empty()).then(|| format!("[{}]", parts.join(",")))
                }
            };
            let goes = self.redact.iter().any(|path| names(path, place));
            text.filter(|_| !goes)
        }
    }

    fn drawn(node: &Node, only: &[Vec<Step>], redact: &[Vec<Step>]) -> Option<String> {
        let mut drawn = Drawn {
            only,
            redact,
            leaves: 0,
        };
        drawn.draw(node, &mut Vec::new(), only.is_empty())
    }

    /// The body in every format, of an event that has a text beside its data too.
    fn bodies(data: &str, payload: &Payload) -> [String; 4] {
        let event = format!(r#"{{"id":"e-1","note":"canary-none","data":{data}}}"#);
        let parcel = Parcel {
            delivery: DeliveryId(1),
            attempt: 1,
            event: EventId::new("e-1").unwrap(),
            event_type: EventType::new("order.placed").unwrap(),
            created_at: chrono::DateTime::UNIX_EPOCH,
            clinic: ClinicName::new("oak-street").unwrap(),
            clinic_id: None,
            body: EventBody::from_json(event),
        };
        let data = payload.data(&parcel.body).unwrap();
        let event = fullscript::reduced(&parcel, data.as_deref()).unwrap();
        [
            Ok(fullscript::body(&event)),
            native::body_with(&parcel, &Metadata::default(), data.as_deref()),
            cloudevents::body_with(&parcel, &Metadata::default(), data.as_deref()),
            healthchain::body(&parcel, &Metadata::default(), &event, data.as_deref()),
        ]
        .map(|body| String::from_utf8(body.unwrap()).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn exactly_what_the_paths_name_goes_or_stays(
            node in node(),
            only in prop::collection::vec(path(), 0..3),
            redact in prop::collection::vec(path(), 0..3),
        ) {
            let whole = drawn(&node, &[], &[]).unwrap();
            let spell = |paths: &[Vec<Step>]| paths.iter().map(|path| spelled(path)).collect();
            // What `only` leaves comes first, so a way to what is redacted stays although nothing is at its end.
            let kept = drawn(&node, &only, &[]).unwrap_or_else(|| "{}".to_owned());
            prop_assert_eq!(Minimum::new(spell(&only), Vec::new()).of(&whole).unwrap(), kept);
            let rest = drawn(&node, &[], &redact).unwrap();
            prop_assert_eq!(Minimum::new(Vec::new(), spell(&redact)).of(&whole).unwrap(), rest.as_str());
            let both = Minimum::new(spell(&only), spell(&redact)).of(&whole).unwrap();
            prop_assert_eq!(&both, &Minimum::new(spell(&only), spell(&redact)).of(&whole).unwrap());
            for body in bodies(&whole, &Payload::of_paths(spell(&only), spell(&redact))) {
                for leaf in body.split("canary-").skip(1) {
                    prop_assert!(both.contains(&leaf[..4]), "{} is in a body", &leaf[..4]);
                }
            }
            for leaf in both.split("canary-").skip(1) {
                let leaf = &leaf[..4];
                prop_assert!(rest.contains(leaf), "redacted: {}", leaf);
            }
        }
    }
}
