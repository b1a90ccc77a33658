//! The example application with the real `healthchain` from `PyPI`: the body is an `EHREvent` to its own model, and handlers
//! by HealthChain's names fire as `docs/healthchain.md` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use fullscript_events::simulator::Options;
use serde_json::{Value, json};

use crate::binary::Running;
use crate::world::{Setup, World, lines_of, write_secret};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// So many seconds may pip take.
const PIP_LIMIT: &str = "150";

/// Handlers that note what they were called with, beside those of the example. The model reads what they get once more.
const NOTING: &str = r#"
import json, os
from fastapi_events.handlers.local import local_handler
from healthchain.gateway.events import EHREvent
from handlers import app, once

def noting(handler):
    async def note(event):
        name, data = event
        whole = EHREvent.model_validate(data).model_dump(mode="json")
        line = json.dumps({"handler": handler, "name": name, "data": whole})
        with open(os.environ["NOTES"], "a", encoding="utf-8") as notes:
            notes.write(line + "\n")
    return note

for pattern in os.environ["PATTERNS"].split():
    local_handler.register(event_name=pattern)(noting(pattern))
local_handler.register(event_name="*")(once(noting("* once")))
"#;

const PATTERNS: &str = "fhir.create fhir.update fhir.delete fhir.read fhir.* fhir.patient.* fhir.patient.update \
                        fhir.careplan.* ehr.generic patient.updated fullscript.*";

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/healthchain")
}

fn works(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

/// A Python with what the example asks for, or why there is none. Kept beside the binaries of the tests, under a name that
/// follows from what is asked for: it is made once.
fn python() -> Result<PathBuf, &'static str> {
    static MADE: OnceLock<Result<PathBuf, &'static str>> = OnceLock::new();
    MADE.get_or_init(made).clone()
}

fn made() -> Result<PathBuf, &'static str> {
    let requirements = example().join("requirements.txt");
    let pins = fs::read(&requirements).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &pins);
    let name = format!("healthchain-{}", hex::encode(&digest.as_ref()[..8]));
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if kept.exists() {
        return Ok(kept.join("bin/python"));
    }
    // Whole or not at all under its own name, also beside another run of the tests.
    let making = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = making.path().join("venv");
    if !works(Command::new("python3").args(["-m", "venv"]).arg(&at)) {
        return Err("no python3 that can make a virtual environment");
    }
    let mut pip = Command::new("timeout");
    pip.arg(PIP_LIMIT).arg(at.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    pip.args([
        "--retries",
        "0",
        "--timeout",
        "10",
        "--only-binary",
        ":all:",
        "-r",
    ]);
    if !works(pip.arg(&requirements)) {
        return Err("healthchain and what the example needs beside it cannot be had from PyPI");
    }
    match fs::rename(&at, &kept) {
        // Somebody else has made it meanwhile.
        Err(error) if !kept.exists() => panic!("{error}"),
        Ok(()) | Err(_) => Ok(kept.join("bin/python")),
    }
}

/// The example application with the handlers that note; its port.
fn serve(python: &Path, directory: &Path) -> (Running, u16) {
    fs::write(directory.join("noting.py"), NOTING).unwrap();
    let modules = std::env::join_paths([directory, &example()]).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" >&2"]).arg(python);
    shell.args([
        "-m",
        "uvicorn",
        "noting:app",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]);
    shell
        .current_dir(directory)
        .env("PYTHONPATH", modules)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("FULLSCRIPT_EVENTS_SECRET", SECRET)
        .env("PATTERNS", PATTERNS)
        .env("NOTES", directory.join("notes"))
        .stdin(Stdio::null());
    let mut running = Running::start(&mut shell);
    let line = running.wait_for("Uvicorn running on http://127.0.0.1:");
    let (_, port) = line.split_once("127.0.0.1:").unwrap();
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    (running, port.parse().unwrap())
}

fn sink(name: &str, port: u16, secret: &Path, more: &str) -> String {
    format!(
        "[[sinks]]\nname = {name:?}\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/fullscript\"\n\
         format = \"healthchain\"\nsignature = \"standard\"\nsecret = {{ file = {secret:?} }}\n{more}\n"
    )
}

/// By which names each handler is called, for each event (`docs/healthchain.md`, "What fires").
fn promised() -> Value {
    json!({
        "patient.created": {
            "fhir.create": ["fhir.create"],
            "fhir.*": ["fhir.create", "fhir.patient.create"],
            "fhir.patient.*": ["fhir.patient.create"],
            "fullscript.*": ["fullscript.patient.created"],
            "* once": ["fhir.create"],
        },
        "patient.updated": {
            "fhir.update": ["fhir.update"],
            "fhir.*": ["fhir.patient.update", "fhir.update"],
            "fhir.patient.*": ["fhir.patient.update"],
            "fhir.patient.update": ["fhir.patient.update"],
            "patient.updated": ["patient.updated"],
            "fullscript.*": ["fullscript.patient.updated"],
            "* once": ["fhir.update"],
        },
        "treatment_plan.recommendation.updated": {
            "fhir.update": ["fhir.update"],
            "fhir.*": ["fhir.careplan.update", "fhir.update"],
            "fhir.careplan.*": ["fhir.careplan.update"],
            "fullscript.*": ["fullscript.treatment_plan.recommendation.updated"],
            "* once": ["fhir.update"],
        },
        "order.placed": {
            "fhir.create": ["fhir.create"],
            "fhir.*": ["fhir.create", "fhir.supplyrequest.create"],
            "fullscript.*": ["fullscript.order.placed"],
            "* once": ["fhir.create"],
        },
        "product.created": {
            "ehr.generic": ["ehr.generic"],
            "fullscript.*": ["fullscript.product.created"],
            "* once": ["ehr.generic"],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_by_healthchains_names_fire_and_its_own_model_takes_the_body() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let directory = tempfile::tempdir().unwrap();
    let (mut application, port) = serve(&python, directory.path());
    let secret = directory.path().join("secret");
    write_secret(&secret, SECRET);
    let setup = Setup {
        more: sink("chain", port, &secret, "")
            + "[[enrich]]\nmetadata = { compliance = \"HIPAA\", audit_required = true }\n",
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    for event_type in [
        "patient.created",
        "patient.updated",
        "treatment_plan.recommendation.updated",
        "order.placed",
        "product.created",
    ] {
        world.vendor.make_events(1, oak, event_type);
    }
    let ran = world.run(&["run", "--once"]);
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    // Handlers run behind the answer; whoever stops waits for them.
    application.ask_to_stop();
    application.wait();
    let said = application.said().join("\n");

    let notes = lines_of(&directory.path().join("notes"));
    let mut fired: BTreeMap<String, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for note in &notes {
        let event_type = note["data"]["payload"]["name"].as_str().unwrap();
        let handler = note["handler"].as_str().unwrap();
        let by_handler = fired.entry(event_type.to_owned()).or_default();
        by_handler
            .entry(handler)
            .or_default()
            .push(note["name"].as_str().unwrap());
    }
    for names in fired.values_mut().flat_map(BTreeMap::values_mut) {
        names.sort_unstable();
    }
    assert_eq!(serde_json::to_value(&fired).unwrap(), promised(), "{said}");

    // What a handler gets is what the file sink was shown.
    for line in lines_of(&world.log_path()) {
        let note = notes.iter().find(|note| {
            note["handler"] == "* once" && note["data"]["metadata"]["event_id"] == line["id"]
        });
        let data = &note.unwrap()["data"];
        let (payload, metadata) = (&data["payload"], &data["metadata"]);
        assert_eq!(data["source_system"], "fullscript");
        assert_eq!(payload["event"]["id"], line["id"]);
        assert_eq!(
            without_nulls(&payload["event"]["data"]),
            without_nulls(&line["data"])
        );
        assert_eq!(metadata["compliance"], "HIPAA");
        assert_eq!(metadata["audit_required"], true);
        assert_eq!(metadata["clinic"], "oak");
        let id = match line["type"].as_str().unwrap().split('.').next().unwrap() {
            "patient" => &line["data"]["patient"]["id"],
            "treatment_plan" => &line["data"]["treatment_plan"]["id"],
            "order" => &line["data"]["id"],
            _ => &Value::Null,
        };
        assert_eq!(payload.get("resource_id").unwrap_or(&Value::Null), id);
        let shown = format!("audit HIPAA {}", line["id"].as_str().unwrap());
        let times = said.matches(&shown).count();
        assert_eq!(
            times,
            usize::from(payload["name"] != "product.created"),
            "{said}"
        );
    }
    world.assert_all_shown_once();
}

/// HealthChain's dispatcher leaves out what is null.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name.clone(), without_nulls(value)))
                .collect()
        }
        Value::Array(members) => members.iter().map(without_nulls).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_refuses_what_is_not_signed_with_its_secret() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let directory = tempfile::tempdir().unwrap();
    let (mut application, port) = serve(&python, directory.path());
    let (good, bad) = (directory.path().join("good"), directory.path().join("bad"));
    write_secret(&good, SECRET);
    write_secret(&bad, "whsec_czNjcjN0czNjcjN0czNjcjN0czNjcjN0");
    let native = sink("native", port, &good, "").replace("\"healthchain\"", "\"native\"");
    let setup = Setup {
        more: sink("good", port, &good, "") + &sink("stranger", port, &bad, "") + &native,
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup).await;
    for (name, answer) in [
        ("good", "good took the test event"),
        ("stranger", "401"),
        ("native", "400"),
    ] {
        let tested = world.run(&["sinks", "test", name]);
        let said = [tested.stdout, tested.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(answer), "{said}");
    }
    application.ask_to_stop();
    application.wait();
    let notes = lines_of(&directory.path().join("notes"));
    assert!(
        notes
            .iter()
            .all(|note| note["data"]["payload"]["name"] == "fullscript_events.test")
    );
    let handlers = notes.iter().map(|note| note["handler"].as_str().unwrap());
    let handlers: BTreeSet<_> = handlers.collect();
    assert_eq!(handlers, ["ehr.generic", "* once", "fullscript.*"].into());
    assert_eq!(notes.len(), 3);
}
