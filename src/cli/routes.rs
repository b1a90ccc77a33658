//! `routes test`: which sinks get an event of a type, by which of its names and which pattern, or why not. It needs the
//! configuration alone, and asks what routing itself asks.

use std::path::Path;

use serde_json::{Value, json};

use super::output::{Paint, Tone, aligned, cells, print, program};
use super::session::unknown;
use super::{CommandResult, Exit, Failure, configured};
use crate::config::{ClinicSelection, Config, Sink, shell_word};
use crate::domain::{ClinicName, EventType, Judgement, KNOWN_CATEGORIES, KnownCategory, Pattern};
use crate::route::{Decision, decide};

/// The version of what `--json` prints.
const SCHEMA: u32 = 1;

/// Arguments of `routes`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tell which sinks get an event of a type, by which of its names and which pattern, or why not.
    ///
    /// Asks nobody and changes nothing: it reads the configuration alone.
    #[command(
        after_help = "Example: fullscript-events routes test order.placed --clinic oak-street"
    )]
    Test {
        /// Fullscript's type of the event, such as `order.placed`.
        #[arg(value_name = "TYPE")]
        event_type: String,
        /// Of this clinic; without it each sink is asked for its own clinics.
        #[arg(long, value_name = "NAME")]
        clinic: Option<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Runs `routes`.
pub(super) fn run(path: &Path, args: Args) -> CommandResult {
    let Command::Test {
        event_type,
        clinic,
        json,
    } = args.command;
    let event_type = a_type(&event_type, path)?;
    let config = configured(path)?;
    let clinic = clinic.map(|name| a_clinic(&config, &name)).transpose()?;
    let test = Test {
        config: &config,
        names: event_type.names(),
        event_type,
        clinic,
    };
    if json {
        return print(&format!("{:#}\n", test.as_json()));
    }
    print(&test.as_text(Paint::for_stdout(), &program(path)))
}

/// What a type of Fullscript's is, and not a name that events answer to.
fn a_type(text: &str, path: &Path) -> Result<EventType, Failure> {
    let refused = |message: String| Failure::new(Exit::Usage, message);
    let event_type = EventType::new(text)
        .map_err(|error| refused(format!("{text:?} is no type of an event: {error}")))?;
    if let Some(real) = text
        .strip_prefix("fullscript.")
        .filter(|rest| !rest.is_empty())
    {
        return Err(refused(format!(
            "{text:?} is a name of events of the type {real:?}; wanted is the type itself: `{} routes test {real}`",
            program(path)
        )));
    }
    if text.starts_with("fhir.") {
        let pattern = Pattern::new(text).ok();
        let answering = known_types().filter(|(_, known)| {
            let names = known.names();
            let mut names = names.iter();
            pattern
                .as_ref()
                .is_some_and(|p| names.any(|name| p.fits(name)))
        });
        let answering: Vec<_> = answering.map(|(_, known)| known.to_string()).collect();
        let types = match answering.as_slice() {
            [] => format!(
                "no known type answers to it; wanted is a type of Fullscript's, such as `{} routes test order.placed`",
                program(path)
            ),
            [first, ..] => format!(
                "wanted is one of the types that answer to it ({}), such as `{} routes test {first}`",
                answering.join(", "),
                program(path)
            ),
        };
        return Err(refused(format!(
            "{text:?} is a name that events answer to beside their type: {types}"
        )));
    }
    Ok(event_type)
}

fn a_clinic(config: &Config, name: &str) -> Result<ClinicName, Failure> {
    let mut clinics = config.clinics.iter().map(|clinic| &clinic.name);
    clinics
        .find(|known| known.as_str() == name)
        .cloned()
        .ok_or_else(|| {
            let known: Vec<_> = config.clinics.iter().map(|c| c.name.to_string()).collect();
            unknown("clinic", name, &known)
        })
}

fn known_types() -> impl Iterator<Item = (&'static KnownCategory, EventType)> {
    KNOWN_CATEGORIES.iter().flat_map(|row| {
        let types = row.event_types.iter();
        types.filter_map(move |text| Some((row, EventType::new(*text).ok()?)))
    })
}

struct Test<'a> {
    config: &'a Config,
    event_type: EventType,
    names: Vec<String>,
    clinic: Option<ClinicName>,
}

impl Test<'_> {
    /// The list in which the type is found, if it is known.
    fn category(&self) -> Option<&'static KnownCategory> {
        let mut known = known_types().filter(|(_, known)| *known == self.event_type);
        known.next().map(|(row, _)| row)
    }

    /// The clinics in question that are not polled for the type.
    fn unpolled(&self) -> Vec<&ClinicName> {
        let Some(category) = self.category() else {
            return Vec::new();
        };
        let clinics = self.config.clinics.iter();
        let clinics = clinics.filter(|c| self.clinic.as_ref().is_none_or(|of| c.name == *of));
        let unpolled = clinics.filter(|c| c.categories.iter().all(|c| c.as_str() != category.name));
        unpolled.map(|clinic| &clinic.name).collect()
    }

    fn decisions(&self) -> impl Iterator<Item = (&Sink, Decision<'_>)> {
        let sinks = self.config.sinks.iter();
        sinks.map(|sink| (sink, decide(sink, self.clinic.as_ref(), &self.names)))
    }

    fn as_text(&self, paint: Paint, program: &str) -> String {
        let mut lines = vec![paint.tint(Tone::Heading, &self.heading())];
        let others = self.names.iter().skip(1).map(String::as_str);
        lines.push(format!("also {}", others.collect::<Vec<_>>().join(", ")));
        lines.push(String::new());
        let mut rows = vec![cells(["SINK", "KIND", "GETS IT", "WHY"])];
        rows.extend(self.decisions().map(|(sink, decision)| {
            let gets = if decision.is_wanted() { "yes" } else { "no" };
            cells([
                sink.name.as_str(),
                sink.kind.name(),
                gets,
                &why(sink, decision, self.clinic.is_none()),
            ])
        }));
        if self.config.sinks.is_empty() {
            lines.push("There is no sink: it is remembered and goes nowhere.".to_owned());
        } else {
            lines.extend(aligned(&rows));
        }
        let notes = self.notes(program);
        if !notes.is_empty() {
            lines.push(String::new());
            lines.extend(notes);
        }
        lines.join("\n") + "\n"
    }

    fn heading(&self) -> String {
        match &self.clinic {
            Some(clinic) => format!("{} of {clinic}", self.event_type),
            None => self.event_type.to_string(),
        }
    }

    /// What a person should know beside the table, and what to do next.
    fn notes(&self, program: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if self.category().is_none() {
            notes.push(
                "Fullscript's contract does not name this type; it is routed all the same."
                    .to_owned(),
            );
        }
        let unpolled = self.unpolled();
        if let (Some(category), false) = (self.category(), unpolled.is_empty()) {
            let clinics: Vec<_> = unpolled.iter().map(|name| name.as_str()).collect();
            notes.push(format!(
                "Not polled for {}, so nothing of it is seen there: {}. See `categories`.",
                category.name,
                clinics.join(", ")
            ));
        }
        let next = if self.decisions().any(|(_, decision)| decision.is_wanted()) {
            format!(
                "What became of those so far: {program} events list --type {}",
                shell_word(self.event_type.as_str())
            )
        } else {
            "No sink gets it: it is remembered and never fetched. Who gets what is said by `match` and `clinics` of the sinks.".to_owned()
        };
        notes.push(next);
        notes
    }

    fn as_json(&self) -> Value {
        let sinks = self.decisions().map(|(sink, decision)| {
            let (why, hit) = match decision {
                Decision::NotItsClinic => ("not_its_clinic", None),
                Decision::ByName(Judgement::Fits { pattern, name }) => {
                    ("fits", Some((pattern, name)))
                }
                Decision::ByName(Judgement::NotExcluded) => ("not_excluded", None),
                Decision::ByName(Judgement::Excluded { pattern, name }) => {
                    ("excluded", Some((pattern, name)))
                }
                Decision::ByName(Judgement::NothingFits) => ("nothing_fits", None),
            };
            json!({
                "name": sink.name.as_str(),
                "kind": sink.kind.name(),
                "clinics": clinics_of(sink),
                "gets_it": decision.is_wanted(),
                "why": why,
                "pattern": hit.map(|(pattern, _)| pattern.as_str()),
                "by_name": hit.map(|(_, name)| name),
            })
        });
        json!({
            "schema": SCHEMA,
            "type": self.event_type.as_str(),
            "known": self.category().is_some(),
            "names": self.names,
            "clinic": self.clinic.as_ref().map(ClinicName::as_str),
            "not_polled": self.unpolled().iter().map(|name| name.as_str()).collect::<Vec<_>>(),
            "sinks": sinks.collect::<Vec<_>>(),
        })
    }
}

fn clinics_of(sink: &Sink) -> Vec<&str> {
    match &sink.clinics {
        ClinicSelection::All => vec!["*"],
        ClinicSelection::Named(names) => names.iter().map(ClinicName::as_str).collect(),
    }
}

/// In words; `of_any` if no clinic was asked for, so that the clinics a sink is limited to are said.
fn why(sink: &Sink, decision: Decision<'_>, of_any: bool) -> String {
    let patterns = || {
        let patterns = sink.matches.iter().filter(|p| !p.excludes());
        patterns.map(Pattern::as_str).collect::<Vec<_>>().join(" ")
    };
    let words = match decision {
        Decision::NotItsClinic => return format!("it is for {} only", clinics_of(sink).join(", ")),
        Decision::ByName(Judgement::Fits { pattern, name }) if pattern.as_str() == name => {
            format!("{pattern}")
        }
        Decision::ByName(Judgement::Fits { pattern, name }) => format!("{pattern} fits {name}"),
        Decision::ByName(Judgement::NotExcluded) => "nothing excludes it".to_owned(),
        Decision::ByName(Judgement::Excluded { pattern, name }) => {
            return format!("{pattern} excludes {name}");
        }
        Decision::ByName(Judgement::NothingFits) => {
            return format!("no pattern fits: {}", patterns());
        }
    };
    match &sink.clinics {
        ClinicSelection::Named(_) if of_any => {
            format!("{words}, of {} only", clinics_of(sink).join(", "))
        }
        ClinicSelection::All | ClinicSelection::Named(_) => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const CONFIG: &str = r#"
[app]
environment = "us"
client_id = "id"
client_secret = { env = "SECRET" }
redirect_uri = "http://127.0.0.1:8765/callback"
[state]
seal_key = { env = "KEY" }
[[clinics]]
name = "oak-street"
[[clinics]]
name = "harbour"
categories = ["orders"]
[[sinks]]
name = "chart"
kind = "file"
path = "/chart"
clinics = ["oak-street"]
match = ["fhir.careplan.*", "patient.updated"]
[[sinks]]
name = "archive"
kind = "file"
path = "/archive"
clinics = ["*"]
[[sinks]]
name = "news"
kind = "file"
path = "/news"
clinics = ["*"]
match = ["*", "!fhir.update"]
[[sinks]]
name = "import"
kind = "exec"
command = ["/usr/bin/true"]
clinics = ["harbour"]
match = ["order.*", "fhir.supply*"]
[[sinks]]
name = "rest"
kind = "stdout"
clinics = ["oak-street"]
match = ["!product.*"]
"#;

    fn loaded() -> Config {
        config::parse(CONFIG, Path::new("config.toml"))
            .unwrap()
            .config
    }

    fn test<'a>(config: &'a Config, event_type: &str, clinic: Option<&str>) -> Test<'a> {
        let event_type = EventType::new(event_type).unwrap();
        Test {
            config,
            names: event_type.names(),
            event_type,
            clinic: clinic.map(|name| ClinicName::new(name).unwrap()),
        }
    }

    #[test]
    fn each_sink_says_by_which_name_and_pattern_or_why_not() {
        let config = loaded();
        let text = test(
            &config,
            "treatment_plan.recommendation.updated",
            Some("oak-street"),
        );
        insta::assert_snapshot!(text.as_text(Paint::Plain, "fullscript-events"), @r"
    treatment_plan.recommendation.updated of oak-street
    also fullscript.treatment_plan.recommendation.updated, fhir.careplan.update, fhir.update

    SINK     KIND    GETS IT  WHY
    chart    file    yes      fhir.careplan.* fits fhir.careplan.update
    archive  file    yes      * fits treatment_plan.recommendation.updated
    news     file    no       !fhir.update excludes fhir.update
    import   exec    no       it is for harbour only
    rest     stdout  yes      nothing excludes it

    What became of those so far: fullscript-events events list --type treatment_plan.recommendation.updated
    ");
    }

    #[test]
    fn without_a_clinic_each_sink_says_which_are_its_own() {
        let config = loaded();
        let text = test(&config, "patient.updated", None);
        insta::assert_snapshot!(text.as_text(Paint::Plain, "fullscript-events"), @r"
    patient.updated
    also fullscript.patient.updated, fhir.patient.update, fhir.update

    SINK     KIND    GETS IT  WHY
    chart    file    yes      patient.updated, of oak-street only
    archive  file    yes      * fits patient.updated
    news     file    no       !fhir.update excludes fhir.update
    import   exec    no       no pattern fits: order.* fhir.supply*
    rest     stdout  yes      nothing excludes it, of oak-street only

    Not polled for patients, so nothing of it is seen there: harbour. See `categories`.
    What became of those so far: fullscript-events events list --type patient.updated
    ");
    }

    #[test]
    fn a_type_that_nobody_knows_is_told_and_routed() {
        let config = loaded();
        let text = test(&config, "fulfillment.shipment.shipped", Some("harbour"));
        insta::assert_snapshot!(text.as_text(Paint::Plain, "fullscript-events"), @r"
    fulfillment.shipment.shipped of harbour
    also fullscript.fulfillment.shipment.shipped

    SINK     KIND    GETS IT  WHY
    chart    file    no       it is for oak-street only
    archive  file    yes      * fits fulfillment.shipment.shipped
    news     file    yes      * fits fulfillment.shipment.shipped
    import   exec    no       no pattern fits: order.* fhir.supply*
    rest     stdout  no       it is for oak-street only

    Fullscript's contract does not name this type; it is routed all the same.
    What became of those so far: fullscript-events events list --type fulfillment.shipment.shipped
    ");
    }

    #[test]
    fn json_has_the_decision_of_each_sink_in_words_that_stay() {
        let config = loaded();
        let json = test(&config, "order.placed", Some("harbour")).as_json();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["names"][2], "fhir.supplyrequest.create");
        let rows = json["sinks"].as_array().unwrap().iter();
        let rows = rows.map(|row| {
            let word = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {} {}",
                word("name"),
                row["gets_it"],
                word("why"),
                word("pattern"),
                word("by_name")
            )
        });
        insta::assert_snapshot!(rows.collect::<Vec<_>>().join("\n"), @r"
    chart false not_its_clinic - -
    archive true fits * order.placed
    news true fits * order.placed
    import true fits order.* order.placed
    rest false not_its_clinic - -
    ");
    }

    #[test]
    fn a_name_instead_of_a_type_is_explained() {
        let complaint = |text: &str| {
            let path = Path::new(super::super::DEFAULT_CONFIG);
            let failure = a_type(text, path).err().unwrap();
            assert_eq!(failure.exit, Exit::Usage);
            failure.message
        };
        let all = [
            "fhir.create",
            "fhir.observation.create",
            "fhir.careplan.*",
            "fullscript.order.placed",
            "a\nb",
        ];
        insta::assert_snapshot!(all.map(complaint).join("\n"), @r#"
    "fhir.create" is a name that events answer to beside their type: wanted is one of the types that answer to it (patient.created, treatment_plan.created, order.placed), such as `fullscript-events routes test patient.created`
    "fhir.observation.create" is a name that events answer to beside their type: no known type answers to it; wanted is a type of Fullscript's, such as `fullscript-events routes test order.placed`
    "fhir.careplan.*" is a name that events answer to beside their type: wanted is one of the types that answer to it (treatment_plan.created, treatment_plan.updated, treatment_plan.recommendation.updated), such as `fullscript-events routes test treatment_plan.created`
    "fullscript.order.placed" is a name of events of the type "order.placed"; wanted is the type itself: `fullscript-events routes test order.placed`
    "a\nb" is no type of an event: an id contains a control character
    "#);
        assert!(a_type("fulfillment.shipment.shipped", Path::new("c")).is_ok());
    }
}
