//! What an operator says of events beside what the vendor says: names and plain values from the configuration.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Names with plain values (text, numbers, yes or no, lists of these), in the order of the names, so that the same
/// metadata has the same bytes each time. From the configuration: no health data.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Takes the names and values of one table.
    pub fn new(values: BTreeMap<String, Value>) -> Self {
        Self(values)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names and their values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// As a JSON object.
    pub fn to_json(&self) -> String {
        let members = self.0.clone().into_iter().collect();
        Value::Object(members).to_string()
    }

    /// Takes what another says besides; of a name that both have, the other's value.
    pub fn overlay(&mut self, other: &Self) {
        self.0.extend(other.0.clone());
    }
}
