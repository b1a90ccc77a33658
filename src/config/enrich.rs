//! `[[enrich]]`: what the operator says of events beside what the vendor says, by pattern and by clinic.
//!
//! It follows from the configuration, the type and the clinic alone, so that every attempt of a delivery says the same.
//! Nothing is ever made up of an event: who caused it, Fullscript does not say, and so neither does this.

use crate::config::ClinicSelection;
use crate::domain::{ClinicName, EventType, Metadata, Patterns};

/// All of `[[enrich]]`, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Enrich(Vec<Enrichment>);

/// One `[[enrich]]`.
#[derive(Clone, Debug)]
pub struct Enrichment {
    /// Which events it is said of, by any of their names.
    pub matches: Patterns,
    /// Of which clinics.
    pub clinics: ClinicSelection,
    /// What is said.
    pub metadata: Metadata,
}

impl Enrich {
    /// The tables in the order of the file.
    pub fn new(tables: Vec<Enrichment>) -> Self {
        Self(tables)
    }

    /// The tables in the order of the file.
    pub fn tables(&self) -> &[Enrichment] {
        &self.0
    }

    /// What is said of an event of this type from this clinic. A later table overrides the earlier ones, key by key.
    pub fn metadata_for(&self, event_type: &EventType, clinic: &ClinicName) -> Metadata {
        let mut metadata = Metadata::default();
        let of_clinic = self.0.iter().filter(|table| table.clinics.contains(clinic));
        let mut of_clinic = of_clinic.peekable();
        // Most configurations say nothing, and then a delivery should cost nothing.
        if of_clinic.peek().is_none() {
            return metadata;
        }
        let names = event_type.names();
        for table in of_clinic {
            if table.matches.judge(&names).is_wanted() {
                metadata.overlay(&table.metadata);
            }
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Loaded, Problem, parse};

    fn loaded(tables: &str) -> Result<Loaded, Vec<Problem>> {
        let text = format!(
            "[app]\nenvironment = \"us\"\nclient_id = \"id\"\nclient_secret = {{ env = \"SECRET\" }}\n\
             redirect_uri = \"http://127.0.0.1:8765/callback\"\n[state]\nseal_key = {{ env = \"KEY\" }}\n\
             [[clinics]]\nname = \"oak\"\n[[clinics]]\nname = \"maple\"\n\
             [[sinks]]\nname = \"log\"\nkind = \"file\"\npath = \"/log\"\nclinics = [\"*\"]\n{tables}"
        );
        parse(&text, Path::new("config.toml")).map_err(|invalid| invalid.problems)
    }

    #[test]
    fn later_tables_override_key_by_key_where_clinic_and_any_name_fit() {
        let loaded = loaded(
            r#"
[[enrich]]
metadata = { compliance = "HIPAA", audit_required = true, scopes = ["a", 1], retention = 6, share = 0.5 }
[[enrich]]
clinics = ["maple"]
metadata = { compliance = "PHIPA" }
[[enrich]]
match = ["fhir.create", "!order.*"]
metadata = { retention = 0x1e, fresh = true }
"#,
        );
        let enrich = loaded.unwrap().config.enrich;
        let said = |event_type: &str, clinic: &str| {
            let event_type = EventType::new(event_type).unwrap();
            let clinic = ClinicName::new(clinic).unwrap();
            serde_json::to_string(&enrich.metadata_for(&event_type, &clinic)).unwrap()
        };
        assert_eq!(
            said("product.created", "oak"),
            r#"{"audit_required":true,"compliance":"HIPAA","retention":6,"scopes":["a",1],"share":0.5}"#
        );
        assert_eq!(said("order.placed", "oak"), said("product.created", "oak"));
        assert_eq!(
            said("patient.created", "maple"),
            r#"{"audit_required":true,"compliance":"PHIPA","fresh":true,"retention":30,"scopes":["a",1],"share":0.5}"#
        );
    }

    #[test]
    fn where_nothing_is_said_of_a_clinic_there_is_nothing() {
        let loaded = loaded("[[enrich]]\nclinics = [\"maple\"]\nmetadata = { a = 1 }\n").unwrap();
        let oak = ClinicName::new("oak").unwrap();
        let event_type = EventType::new("order.placed").unwrap();
        assert!(
            loaded
                .config
                .enrich
                .metadata_for(&event_type, &oak)
                .is_empty()
        );
        assert!(Enrich::default().metadata_for(&event_type, &oak).is_empty());
    }

    #[test]
    fn what_cannot_be_said_is_refused_with_its_reason() {
        let problems = loaded(
            r#"
[[enrich]]
clinics = ["elm"]
metadata = { Compliance = "a", "a-b" = 1, clinic_id = "x", when = 2026-01-01, deep = { a = 1 }, far = nan, line = "a\nb" }
[[enrich]]
metadata = { audit_required = true, auditrequired = true, huge = 9223372036854775808 }
[[enrich]]
metadata = {}
[[enrich]]
meta = { a = 1 }
"#,
        );
        let problems = problems.err().unwrap();
        let words: Vec<_> = problems.iter().map(Problem::to_string).collect();
        insta::assert_snapshot!(words.join("\n"), @r#"
    enrich[0].clinics[0] (line 19)
      found:  "elm"
      wanted: a clinic of this file: oak, maple
    enrich[0].metadata.Compliance (line 20)
      found:  the key "Compliance"
      wanted: a key of lower-case letters, digits and _, which begins with a letter, at most 64 long
    enrich[0].metadata.a-b (line 20)
      found:  the key "a-b"
      wanted: a key of lower-case letters, digits and _, which begins with a letter, at most 64 long
    enrich[0].metadata.clinic_id (line 20)
      found:  the key "clinic_id"
      wanted: another key: events have this one already, and two of a name are none
    enrich[0].metadata.deep (line 20)
      found:  a table
      wanted: a text without control characters, a number, true or false, or a list of these
    enrich[0].metadata.far (line 20)
      found:  nan
      wanted: a text without control characters, a number, true or false, or a list of these
    enrich[0].metadata.line (line 20)
      found:  "a\nb"
      wanted: a text without control characters, a number, true or false, or a list of these
    enrich[0].metadata.when (line 20)
      found:  2026-01-01
      wanted: a text without control characters, a number, true or false, or a list of these
    enrich[1].metadata.auditrequired (line 22)
      found:  the key "auditrequired" beside "audit_required"
      wanted: one of the two: a CloudEvent's names have no _, and there they are the same
    enrich[1].metadata.huge (line 22)
      found:  9223372036854775808
      wanted: a text without control characters, a number, true or false, or a list of these
    enrich[2].metadata (line 24)
      found:  a table
      wanted: a table with something in it, such as { compliance = "HIPAA" }
    enrich[3].metadata (line 25)
      found:  nothing
      wanted: what is said of these events, such as { compliance = "HIPAA" }
    enrich[3].meta (line 26)
      found:  an unknown key
      wanted: one of clinics, match, metadata
    "#);
    }

    #[test]
    fn who_caused_an_event_is_warned_of_because_nobody_knows() {
        let loaded = loaded("[[enrich]]\nmetadata = { user_id = \"7\" }\n").unwrap();
        let keys: Vec<_> = loaded.warnings.iter().map(|w| w.key.as_str()).collect();
        assert_eq!(keys, ["enrich[0].metadata.user_id"]);
    }
}
