//! Which sinks want an event. Pure, and decided from what the *listing* tells (type and clinic), so that what no sink
//! wants is never fetched.
//!
//! A sink wants an event once, by whichever of its names ([`EventType::names`]); [`decide`] says by which, or why not,
//! and is all that routing knows too.

use std::collections::BTreeMap;

use crate::config;
use crate::domain::{ClinicName, EventType, Judgement, KNOWN_CATEGORIES, SinkName};
use crate::ledger::SinkId;

/// Whether a sink gets an event, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// It gets nothing of the clinic.
    NotItsClinic,
    /// Its patterns say.
    ByName(Judgement<'a>),
}

impl Decision<'_> {
    /// Whether the sink gets it.
    pub fn is_wanted(self) -> bool {
        matches!(self, Self::ByName(judgement) if judgement.is_wanted())
    }
}

/// Whether a sink gets an event that answers to `names`; of any of its clinics where none is given.
pub fn decide<'a>(
    sink: &'a config::Sink,
    clinic: Option<&ClinicName>,
    names: &'a [String],
) -> Decision<'a> {
    if clinic.is_some_and(|clinic| !sink.clinics.contains(clinic)) {
        return Decision::NotItsClinic;
    }
    Decision::ByName(sink.matches.judge(names))
}

/// The routes of a configuration.
#[derive(Clone, Debug)]
pub struct Routes {
    sinks: Vec<(SinkId, config::Sink)>,
    /// What each pair of a clinic and a known type comes to: a listing asks for every event that it shows, most of which
    /// were there a minute ago.
    known: BTreeMap<ClinicName, BTreeMap<EventType, Vec<SinkId>>>,
}

impl Routes {
    /// The routes to the sinks of the configuration, by the ledger's number of each.
    pub fn new(config: &config::Config, ids: &BTreeMap<SinkName, SinkId>) -> Self {
        let sinks = config.sinks.iter();
        let sinks: Vec<_> = sinks
            .filter_map(|sink| Some((*ids.get(&sink.name)?, sink.clone())))
            .collect();
        let of_clinic = |clinic: &ClinicName| {
            let types = KNOWN_CATEGORIES.iter().flat_map(|row| row.event_types);
            let types = types.filter_map(|text| EventType::new(*text).ok());
            let routed = types.map(|event_type| {
                let to = decided(&sinks, clinic, &event_type);
                (event_type, to)
            });
            routed.collect()
        };
        let clinics = config.clinics.iter();
        let known = clinics
            .map(|clinic| (clinic.name.clone(), of_clinic(&clinic.name)))
            .collect();
        Self { sinks, known }
    }

    /// The sinks that want an event of this type from this clinic; each at most once.
    pub fn sinks_for(&self, clinic: &ClinicName, event_type: &EventType) -> Vec<SinkId> {
        let known = self
            .known
            .get(clinic)
            .and_then(|types| types.get(event_type));
        match known {
            Some(sinks) => sinks.clone(),
            None => decided(&self.sinks, clinic, event_type),
        }
    }
}

fn decided(
    sinks: &[(SinkId, config::Sink)],
    clinic: &ClinicName,
    event_type: &EventType,
) -> Vec<SinkId> {
    let names = event_type.names();
    let wanting = sinks.iter();
    let wanting = wanting.filter(|(_, sink)| decide(sink, Some(clinic), &names).is_wanted());
    wanting.map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    const SINKS: [(&str, &str, &str); 5] = [
        (
            "careplans",
            "*",
            r#"["fhir.careplan.*", "fhir.update", "*"]"#,
        ),
        ("updates", "oak", r#"["fhir.update"]"#),
        ("quiet", "*", r#"["!fhir.update", "!product.*"]"#),
        ("orders", "harbour", r#"["order.*"]"#),
        ("full", "oak", r#"["fullscript.*", "!*.created"]"#),
    ];

    fn config() -> config::Config {
        let mut text = "[app]\nenvironment = \"us\"\nclient_id = \"id\"\nclient_secret = { env = \"SECRET\" }\n\
             redirect_uri = \"http://127.0.0.1:8765/callback\"\n[state]\nseal_key = { env = \"KEY\" }\n\
             [[clinics]]\nname = \"oak\"\n[[clinics]]\nname = \"harbour\"\n"
            .to_owned();
        for (name, clinic, patterns) in SINKS {
            write!(
                text,
                "[[sinks]]\nname = \"{name}\"\nkind = \"file\"\npath = \"/{name}\"\nclinics = [\"{clinic}\"]\n\
                 match = {patterns}\n"
            )
            .unwrap();
        }
        config::parse(&text, Path::new("config.toml"))
            .unwrap()
            .config
    }

    #[test]
    fn a_sink_is_routed_to_once_by_whichever_name_and_as_the_decision_says() {
        let config = config();
        let numbers = (1..).map(SinkId);
        let names = config.sinks.iter().map(|sink| sink.name.clone());
        let ids: BTreeMap<_, _> = names.zip(numbers).collect();
        let routes = Routes::new(&config, &ids);
        for (clinic, event_type, expected) in [
            (
                "oak",
                "treatment_plan.updated",
                &["careplans", "updates", "full"][..],
            ),
            ("harbour", "treatment_plan.updated", &["careplans"]),
            ("oak", "treatment_plan.created", &["careplans", "quiet"]),
            ("harbour", "order.placed", &["careplans", "quiet", "orders"]),
            ("oak", "product.updated", &["careplans", "full"]),
            // Neither type nor clinic is known.
            (
                "elm",
                "fulfillment.shipment.shipped",
                &["careplans", "quiet"],
            ),
            ("oak", "order.cancelled", &["careplans", "updates", "full"]),
        ] {
            let clinic = ClinicName::new(clinic).unwrap();
            let event_type = EventType::new(event_type).unwrap();
            let event_names = event_type.names();
            let decided = config.sinks.iter();
            let decided = decided
                .filter(|sink| decide(sink, Some(&clinic), &event_names).is_wanted())
                .map(|sink| sink.name.as_str());
            assert_eq!(
                decided.collect::<Vec<_>>(),
                expected,
                "{event_type} of {clinic}"
            );
            let expected = expected
                .iter()
                .map(|name| ids[&SinkName::new(*name).unwrap()]);
            let expected: Vec<_> = expected.collect();
            assert_eq!(
                routes.sinks_for(&clinic, &event_type),
                expected,
                "{event_type} of {clinic}"
            );
        }
    }
}
