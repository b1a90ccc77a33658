//! The names of events from outside: patterns beside Python's own `fnmatch`, and one delivery however many names fit.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use fullscript_events::domain::{EventType, KNOWN_CATEGORIES, Pattern};
use rand::RngExt as _;
use serde_json::json;

use crate::world::{Setup, World, lines_of};
use fullscript_events::simulator::Options;

/// Answers each line, `[pattern, name]`, with 0 or 1.
const FNMATCH: &str = r"
import fnmatch, json, sys, warnings

warnings.simplefilter('error')
for line in sys.stdin:
    pattern, name = json.loads(line)
    print(int(fnmatch.fnmatchcase(name, pattern)))
";

/// So small that what is drawn from it means something, and often fits.
const LETTERS: [char; 20] = [
    '[', '[', ']', ']', '!', '-', '-', '*', '?', '.', '^', '\\', '&', '|', '~', 'a', 'b', 'c', 'é',
    'ü',
];

fn drawn(random: &mut impl rand::Rng, longest: usize) -> String {
    let length = random.random_range(0..=longest);
    let letters = (0..length).map(|_| LETTERS[random.random_range(0..LETTERS.len())]);
    letters.collect()
}

/// A name with some of its letters replaced: by what a pattern is made of, or by any letter.
fn bent(random: &mut impl rand::Rng, name: &str) -> String {
    let mut bent = String::new();
    for letter in name.chars() {
        match random.random_range(0..12) {
            0 => bent.push('*'),
            1 => bent.push('?'),
            2 => bent.push_str(&format!("[{letter}-z]")),
            3 => bent.push_str(&format!("[!{}]", drawn(random, 3))),
            4 => bent.push_str(&format!("[{}{letter}]", drawn(random, 6))),
            5 => bent.push_str(&drawn(random, 2)),
            _ => bent.push(letter),
        }
    }
    bent
}

/// What Python says of each pair, or why it says nothing.
fn python(pairs: &[(String, String)]) -> Result<Vec<bool>, String> {
    let mut python = Command::new("python3");
    python.args(["-X", "utf8", "-c", FNMATCH]);
    python.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python
        .spawn()
        .map_err(|error| format!("no python3: {error}"))?;
    let mut lines = String::new();
    for pair in pairs {
        lines += &format!("{}\n", json!(pair));
    }
    let mut asked = python.stdin.take().unwrap();
    let writer = std::thread::spawn(move || asked.write_all(lines.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).unwrap();
    Ok(answers.lines().map(|line| line == "1").collect())
}

#[test]
fn ten_thousand_random_patterns_fit_as_in_pythons_fnmatch() {
    let random = &mut rand::rng();
    let types = KNOWN_CATEGORIES.iter().flat_map(|row| row.event_types);
    let names: Vec<String> = types
        .flat_map(|text| EventType::new(*text).unwrap().names())
        .collect();
    let mut pairs = Vec::new();
    while pairs.len() < 10_000 {
        let name = match pairs.len() % 4 {
            0 => names[random.random_range(0..names.len())].clone(),
            1 => drawn(random, 1),
            _ => drawn(random, 6),
        };
        let pattern = match pairs.len() % 4 {
            // What is hardest to read: hyphens, exclamation marks and brackets within a set.
            1 => format!("[{}]", drawn(random, 7)),
            2 => drawn(random, 10),
            _ => bent(random, &name),
        };
        if !pattern.is_empty() {
            pairs.push((pattern, name));
        }
    }
    let answers = match python(&pairs) {
        Ok(answers) => answers,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    assert_eq!(answers.len(), pairs.len());
    let hits = answers.iter().filter(|hit| **hit).count();
    assert!(
        (1_500..8_500).contains(&hits),
        "{hits} of 10,000 fit: nothing is compared"
    );
    let mut differing = Vec::new();
    for ((pattern, name), expected) in pairs.iter().zip(answers) {
        // A leading ! is ours; what stands behind it is a pattern of fnmatch whatever it begins with.
        let excluding = Pattern::new(&format!("!{pattern}")).unwrap();
        let mut fits = excluding.fits(name) == expected;
        if !pattern.starts_with('!') {
            fits &= Pattern::new(pattern).unwrap().fits(name) == expected;
        }
        if !fits {
            differing.push((pattern, name, expected));
        }
    }
    assert!(
        differing.is_empty(),
        "{} differ: {differing:?}",
        differing.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_gets_an_event_once_by_whichever_of_its_names_and_none_that_any_name_excludes() {
    let mut more = String::new();
    let directory = tempfile::tempdir().unwrap();
    for (name, patterns) in [
        (
            "all",
            r#"["*", "fhir.*", "fullscript.*", "fhir.patient.*", "patient.updated"]"#,
        ),
        ("updates", r#"["fhir.update"]"#),
        ("plans", r#"["fhir.careplan.*", "!fhir.create"]"#),
        ("rest", r#"["!fhir.*"]"#),
    ] {
        let path = directory.path().join(name);
        more += &format!(
            "[[sinks]]\nname = {name:?}\nkind = \"file\"\npath = {path:?}\nmatch = {patterns}\n"
        );
    }
    let setup = Setup {
        file_sink: false,
        more,
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    for event_type in [
        "patient.updated",
        "treatment_plan.created",
        "treatment_plan.recommendation.updated",
        "product.created",
    ] {
        world.vendor.make_events(1, oak, event_type);
    }
    assert!(world.run(&["run", "--once"]).status.success());
    let shown = ["all", "updates", "plans", "rest"].map(|name| {
        let lines = lines_of(&directory.path().join(name));
        let types = lines
            .iter()
            .map(|line| line["type"].as_str().unwrap().to_owned());
        let mut types: Vec<String> = types.collect();
        types.sort();
        (name, types)
    });
    let shown: BTreeMap<_, _> = shown.into_iter().collect();
    let plan = "treatment_plan.recommendation.updated";
    let expected = json!({
        "all": ["patient.updated", "product.created", "treatment_plan.created", plan],
        "updates": ["patient.updated", plan],
        "plans": [plan],
        "rest": ["product.created"],
    });
    assert_eq!(serde_json::to_value(&shown).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_told_from_the_configuration_alone_and_a_name_is_no_type() {
    let world = World::begin(Options::default(), Setup::default()).await;
    let told = world.run(&[
        "routes",
        "test",
        "order.placed",
        "--clinic",
        "oak",
        "--json",
    ]);
    assert!(told.status.success());
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["schema"], 1);
    assert_eq!(told["sinks"][0]["why"], "fits");
    assert!(!world.state_path().exists());
    for (arguments, code, words) in [
        (
            &["fhir.create"][..],
            2,
            "types that answer to it (patient.created",
        ),
        (
            &["fullscript.order.placed"],
            2,
            "of the type \"order.placed\"",
        ),
        (
            &["order.placed", "--clinic", "elm"],
            4,
            "there is no clinic \"elm\"; configured are: oak",
        ),
    ] {
        let refused = world.run(&[&["routes", "test"], arguments].concat());
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    }
}
