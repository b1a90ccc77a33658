//! What the operator says of events, as receivers get it.

use fullscript_events::simulator::Options;
use serde_json::json;

use crate::world::{Setup, World, lines_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_line_carries_what_is_said_of_its_event_and_clinic_and_else_nothing_new() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("inbox.db");
    let inbox = rusqlite::Connection::open(&database).unwrap();
    let table = "CREATE TABLE inbox (type, clinic, metadata)";
    inbox.execute_batch(table).unwrap();
    let more = format!(
        "[[sinks]]\nname = \"inbox\"\nkind = \"sqlite\"\nclinics = [\"*\"]\npath = {database:?}\n\
         statement = \"INSERT INTO inbox VALUES (:type, :clinic, :metadata)\"\n"
    );
    let more = more
        + r#"
[[enrich]]
match = ["fhir.create"]
metadata = { compliance = "HIPAA", audit_required = true }
[[enrich]]
match = ["fhir.create"]
clinics = ["maple"]
metadata = { compliance = "PHIPA" }
"#;
    let setup = Setup {
        clinics: vec!["oak".to_owned(), "maple".to_owned()],
        more,
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup).await;
    world.log_in().await;
    for clinic in ["oak", "maple"] {
        let clinic = &world.clinic(clinic).clinic_id;
        world.vendor.make_events(1, clinic, "patient.created");
        world.vendor.make_events(1, clinic, "patient.updated");
    }
    assert!(world.run(&["run", "--once"]).status.success());
    let lines = lines_of(&world.log_path());
    assert_eq!(lines.len(), 4);
    for line in lines {
        let stored = inbox.query_row(
            "SELECT metadata FROM inbox WHERE type = ? AND clinic = ?",
            (line["type"].as_str(), line["clinic"].as_str()),
            |row| row.get::<_, Option<String>>(0),
        );
        let stored = stored.unwrap();
        let said = line.get("metadata").map(ToString::to_string);
        assert_eq!(stored, said, "{line}");
        let expected = match (line["type"].as_str(), line["clinic"].as_str()) {
            (Some("patient.created"), Some("oak")) => {
                json!({ "audit_required": true, "compliance": "HIPAA" })
            }
            (Some("patient.created"), Some("maple")) => {
                json!({ "audit_required": true, "compliance": "PHIPA" })
            }
            _ => {
                assert!(line.get("metadata").is_none(), "{line}");
                continue;
            }
        };
        assert_eq!(line["metadata"], expected);
    }
    world.assert_all_shown_once();
}
