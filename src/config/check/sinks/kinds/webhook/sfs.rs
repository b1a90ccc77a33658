//! `sfs`, beside `format = "sfs"`.

use std::collections::BTreeMap;

use super::super::super::super::values::{self, span};
use crate::config::duration::DAY;
use crate::config::file::{Field, Section};
use crate::config::problem::resembling;
use crate::config::{ClinicSelection, SecretRef, Sfs, SfsMode, Sink, SinkKind};
use crate::domain::{ClinicName, EventType, KNOWN_CATEGORIES, NoteText, OrderBy};

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Native,
    Notes,
    Treatments,
}

const MODES: [(&str, Mode); 3] = [
    ("native", Mode::Native),
    ("notes", Mode::Notes),
    ("treatments", Mode::Treatments),
];

/// What no receiver of this format knows.
const MEANINGLESS: [(&str, &str); 3] = [
    (
        "challenge",
        "no challenge: with sfs the receiver answers 200, or 400 with a message",
    ),
    (
        "preflight",
        "no preflight: with sfs no receiver knows an empty POST",
    ),
    (
        "probe_url",
        "no probe_url: with sfs the receiver knows a repetition by its guid or id, so that no doubt needs settling",
    ),
];

/// Reads the table that belongs to `format = "sfs"`.
pub(super) fn read(section: &Section<'_>, is_format: bool) -> Option<Sfs> {
    let field = section.field("sfs");
    let Some(field) = field else {
        if is_format {
            section.missing(
                "sfs",
                "what belongs to format = \"sfs\", such as { mode = \"native\", clinic_keys = { oak-street = { credential = \"oak_street_sfs\" } } }",
            );
        }
        return None;
    };
    if !is_format {
        field
            .place
            .problem("sfs beside another format", "format = \"sfs\", or no sfs");
    }
    let Some(table) = field.table() else {
        return field.refuse("a table, such as { mode = \"native\", clinic_keys = { … } }");
    };
    let read = within(&table);
    table.finish();
    if is_format {
        refuse_meaningless(section, read.as_ref().map(|sfs| &sfs.mode));
    }
    read
}

fn within(table: &Section<'_>) -> Option<Sfs> {
    let mode = table.or("mode", Mode::Native, |field| values::choice(field, &MODES));
    let batch = table.or("batch", 1, |field| field.number(1..1001));
    let keys = table.required(
        "clinic_keys",
        "what the receiver knows each clinic by, such as { oak-street = { credential = \"oak_street_sfs\" } }",
    );
    let clinic_keys = keys.as_ref().and_then(clinic_keys);
    let only_in = |key: &'static str, wanted: Mode, words: &str| {
        let field = table.field(key)?;
        if mode == wanted {
            return Some(field);
        }
        field.refuse(format_args!("{key} only with mode = \"{words}\""))
    };
    let text = only_in("note_text", Mode::Notes, "notes");
    let billed = only_in("billed", Mode::Treatments, "treatments");
    let late = only_in("late_results", Mode::Treatments, "treatments");
    if let Some(late) = late.as_ref().filter(|_| batch == 1) {
        late.refuse::<()>(
            "late_results only with a batch of 2 or more: of a single treatment the receiver's answer is its result",
        );
    }
    let mode = match mode {
        Mode::Native => SfsMode::Native,
        Mode::Notes => SfsMode::Notes {
            text: note_text(text.as_ref())?,
        },
        Mode::Treatments => SfsMode::Treatments {
            billed: billed.and_then(|field| field.boolean()).unwrap_or(false),
            late_results: late.and_then(|field| span(&field, 30 * DAY)),
        },
    };
    Some(Sfs {
        mode,
        batch: usize::try_from(batch).unwrap_or(usize::MAX),
        clinic_keys: clinic_keys?,
    })
}

fn note_text(field: Option<&Field<'_>>) -> Option<NoteText> {
    let text = field.map_or(Some(NoteText::DEFAULT), Field::text)?;
    match NoteText::new(text) {
        Ok(text) => Some(text),
        Err(error) => field?.refuse(format_args!(
            "a text such as \"Fullscript: {{what}} at {{time}}\": {error}"
        )),
    }
}

fn clinic_keys(field: &Field<'_>) -> Option<BTreeMap<ClinicName, SecretRef>> {
    let Some(entries) = field.entries() else {
        field.place.problem(
            field.kind(),
            "a table, such as { oak-street = { credential = \"oak_street_sfs\" } }",
        );
        return None;
    };
    let keys = entries.into_iter().filter_map(|(name, value)| {
        let key = values::secret(&value);
        Some((ClinicName::new(name).ok()?, key?))
    });
    Some(keys.collect())
}

fn refuse_meaningless(section: &Section<'_>, mode: Option<&SfsMode>) {
    for (key, wanted) in MEANINGLESS {
        if let Some(field) = section.field(key) {
            field
                .place
                .problem(format_args!("{key} with format = \"sfs\""), wanted);
        }
    }
    let Some(mode) = mode.filter(|mode| **mode != SfsMode::Native) else {
        return;
    };
    for key in ["payload", "only", "redact"] {
        if let Some(field) = section.field(key) {
            field.place.problem(
                format_args!("{key} with this sfs.mode"),
                "it only with sfs.mode = \"native\": a note or a treatment carries no data, only what its fields name",
            );
        }
    }
    let convergent = matches!(mode, SfsMode::Treatments { .. });
    if let Some(field) = section.field("on_doubt").filter(|_| convergent) {
        field.place.problem(
            "on_doubt with sfs.mode = \"treatments\"",
            "no on_doubt: what may have arrived is sent again and says \"changed\", so that nothing is entered twice",
        );
    }
}

/// What can be said only when the whole sink is known: its clinics, and its order. `clinics`: every clinic of the file.
pub(in super::super) fn agree(section: &Section<'_>, sink: &Sink, clinics: &[ClinicName]) {
    let SinkKind::Webhook(webhook) = &sink.kind else {
        return;
    };
    let Some(sfs) = &webhook.sfs else {
        return;
    };
    for clinic in clinics
        .iter()
        .filter(|clinic| sink.clinics.contains(clinic))
    {
        if !sfs.clinic_keys.contains_key(clinic) {
            section.missing(
                &format!("sfs.clinic_keys.{clinic}"),
                "what the receiver knows this clinic by: the sink gets its events, and no event goes out without a key",
            );
        }
    }
    let keys = section.field("sfs").and_then(|field| field.table());
    let keys = keys.and_then(|table| table.field("clinic_keys"));
    for (name, field) in keys.and_then(|field| field.entries()).into_iter().flatten() {
        let served = clinics.iter().find(|clinic| clinic.as_str() == name);
        if !served.is_some_and(|clinic| sink.clinics.contains(clinic)) {
            let known = match &sink.clinics {
                ClinicSelection::All => clinics.iter().collect::<Vec<_>>(),
                ClinicSelection::Named(names) => names.iter().collect(),
            };
            let known = known.into_iter().map(ClinicName::as_str);
            field.place.problem_like(
                "a clinic that this sink does not serve",
                format_args!("one of {}", known.clone().collect::<Vec<_>>().join(", ")),
                resembling(name, known),
            );
        }
    }
    if sfs.batch > 1 && sink.order_by == OrderBy::Clinic {
        section.place.problem(
            "order_by = \"clinic\" beside an sfs.batch of more than 1",
            "order_by = \"patient\" or \"none\": of a clinic that is kept in order one event at a time is on its way, so a batch would never hold two (batches of a clinic keep their order by themselves)",
        );
    }
    let types = KNOWN_CATEGORIES.iter().flat_map(|row| row.event_types);
    let in_vain: Vec<_> = types
        .filter(|known| is_matched(sink, known) && !sfs.mode.has_something_for(known))
        .copied()
        .collect();
    if !in_vain.is_empty() {
        section.place.warning(
            format_args!(
                "sfs.mode = {:?}, and a match that lets through {}",
                sfs.mode.name(),
                in_vain.join(", ")
            ),
            "a match that leaves them out: nothing is made of them, and they are skipped",
            None,
        );
    }
}

fn is_matched(sink: &Sink, event_type: &str) -> bool {
    let names = EventType::new(event_type).map(|of| of.names());
    names.is_ok_and(|names| sink.matches.judge(&names).is_wanted())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{self, SinkKind};

    const HEAD: &str = r#"[app]
environment = "us"
client_id = "id"
client_secret = { env = "CLIENT_SECRET" }
redirect_uri = "http://127.0.0.1:8765/callback"
[state]
seal_key = { file = "/etc/seal.key" }
[[clinics]]
name = "oak-street"
[[clinics]]
name = "harbour"
[[sinks]]
name = "chart"
kind = "webhook"
clinics = ["*"]
url = "https://ehr.example/sfs"
signature = "none"
"#;

    fn problems(rest: &str) -> String {
        let parsed = config::parse(&format!("{HEAD}{rest}"), Path::new("c"));
        parsed
            .err()
            .map(|invalid| invalid.to_string())
            .unwrap_or_default()
    }

    const KEYS: &str =
        "clinic_keys = { oak-street = { env = \"A\" }, harbour = { env = \"B\" } }\n";

    #[test]
    fn a_clinic_without_a_key_is_named_and_so_is_a_key_without_a_clinic() {
        let one = "clinic_keys = { oak-street = { env = \"A\" }, harbor = { env = \"B\" } }\n";
        insta::assert_snapshot!(problems(&format!("format = \"sfs\"\n[sinks.sfs]\n{one}")), @r#"
        c: 2 problems

        sinks[0].sfs.clinic_keys.harbour (line 12)
          found:  nothing
          wanted: what the receiver knows this clinic by: the sink gets its events, and no event goes out without a key

        sinks[0].sfs.clinic_keys.harbor (line 20)
          found:  a clinic that this sink does not serve
          wanted: one of oak-street, harbour
          did you mean "harbour"?
        "#);
        let literal = "clinic_keys = { oak-street = \"s3cr3t\", harbour = { env = \"B\" } }\n";
        let told = problems(&format!("format = \"sfs\"\n[sinks.sfs]\n{literal}"));
        assert!(
            told.contains("not shown") && !told.contains("s3cr3t"),
            "{told}"
        );
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for (sink, sfs, words) in [
            ("format = \"sfs\"", None, "what belongs to format = \"sfs\""),
            ("format = \"native\"", Some(""), "sfs beside another format"),
            (
                "format = \"sfs\"\nchallenge = { env = \"C\" }",
                Some(""),
                "challenge with format",
            ),
            (
                "format = \"sfs\"\nprobe_url = \"https://ehr.example/{id}\"",
                Some(""),
                "probe_url with format",
            ),
            (
                "format = \"sfs\"\npayload = \"ids\"",
                Some("mode = \"notes\""),
                "payload with",
            ),
            (
                "format = \"sfs\"\nonly = [\"$.a\"]",
                Some("mode = \"treatments\""),
                "only with",
            ),
            (
                "format = \"sfs\"\non_doubt = \"resend\"",
                Some("mode = \"treatments\""),
                "no on_doubt: what may have arrived",
            ),
            (
                "format = \"sfs\"\norder_by = \"clinic\"",
                Some("batch = 2"),
                "order_by = \"patient\" or \"none\"",
            ),
            (
                "format = \"sfs\"",
                Some("mode = \"note\""),
                "did you mean \"notes\"",
            ),
            (
                "format = \"sfs\"",
                Some("billed = true"),
                "billed only with mode",
            ),
            (
                "format = \"sfs\"",
                Some("note_text = \"x\""),
                "note_text only with mode",
            ),
            (
                "format = \"sfs\"",
                Some("mode = \"notes\"\nnote_text = \"{patient}\""),
                "it names {patient}, and the fields are {what}",
            ),
            (
                "format = \"sfs\"",
                Some("mode = \"treatments\"\nlate_results = \"7d\""),
                "late_results only with a batch",
            ),
            (
                "format = \"sfs\"",
                Some("batch = 0"),
                "a whole number from 1",
            ),
            ("format = \"sfs\"", Some("keys = {}"), "an unknown key"),
        ] {
            let sfs = sfs
                .map(|sfs| format!("[sinks.sfs]\n{sfs}\n{KEYS}"))
                .unwrap_or_default();
            let told = problems(&format!("{sink}\n{sfs}"));
            assert!(told.contains(words), "{sink} {sfs}: {told}");
            assert!(told.starts_with("c: 1 problem\n"), "{told}");
        }
    }

    #[test]
    fn what_goes_together_is_taken_and_what_is_matched_in_vain_is_warned_of() {
        for (sink, sfs, warned) in [
            ("", "", ""),
            (
                "payload = \"ids\"\non_doubt = \"hold\"\norder_by = \"clinic\"",
                "",
                "",
            ),
            ("order_by = \"patient\"", "batch = 50", ""),
            (
                "match = [\"patient.*\", \"product.*\"]",
                "mode = \"notes\"",
                "product.created, product.updated, product.description.updated",
            ),
            (
                "match = [\"order.*\", \"lab_order.*\"]",
                "mode = \"treatments\"\nbatch = 2\nbilled = true\nlate_results = \"7d\"",
                "lab_order.updated",
            ),
        ] {
            let deaf = format!("{HEAD}{sink}\nformat = \"sfs\"\n[sinks.sfs]\n{sfs}\n{KEYS}");
            let read = |text: &str| {
                let loaded = config::parse(text, Path::new("c"));
                loaded.unwrap_or_else(|invalid| panic!("{invalid}"))
            };
            let heard = |loaded: &config::Loaded| {
                let warnings = loaded.warnings.iter();
                warnings
                    .filter(|of| of.found.starts_with("no [sfs]"))
                    .count()
            };
            let awaits = sfs.contains("late_results");
            assert_eq!(heard(&read(&deaf)), usize::from(awaits));
            let loaded = read(&format!("{deaf}\n[sfs]\nemr_api_key = {{ env = \"K\" }}\n"));
            assert_eq!(heard(&loaded), 0);
            let found: Vec<_> = loaded.warnings.iter().map(|of| of.found.as_str()).collect();
            assert_eq!(found.is_empty(), warned.is_empty(), "{found:?}");
            assert!(found.concat().ends_with(warned), "{found:?}");
            let SinkKind::Webhook(webhook) = &loaded.config.sinks[0].kind else {
                panic!()
            };
            assert_eq!(webhook.sfs.as_ref().unwrap().clinic_keys.len(), 2);
        }
    }
}
