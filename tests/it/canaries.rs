//! Canaries: whatever is secret or says something of a patient is looked for wherever it must not be, after all sorts
//! of failures, at log level `trace`, in both formats.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use fullscript_events::http;
use fullscript_events::simulator::{Endpoint, Fault, FaultRule, Options};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::binary::{LIMIT, Running};
use crate::world::{Setup, World, id_of, write_secret};

const CLIENT_SECRET: &str = "canary-client-secret-4711";
const WEBHOOK_SECRET: &str = "canary-webhook-secret-4712";
const WEBHOOK_TOKEN: &str = "canary-webhook-token-4714";
const WEBHOOK_QUERY: &str = "canary-webhook-query-4715";
/// 32 bytes that are text, so that they are found raw as well as in hexadecimal.
const SEAL_KEY: &str = "canary-seal-key-4713-0123456789a";
/// Patients, orders, plans and what was never documented.
const EVENT_TYPES: [&str; 5] = [
    "patient.created",
    "patient.emancipated",
    "order.placed",
    "lab_order.updated",
    "treatment_plan.created",
];

/// What is asked of the program, and looked through.
const COMMANDS: [&str; 11] = [
    "config check",
    "auth list",
    "status",
    "status --json",
    "status --check",
    "events list --json",
    "sinks list",
    "backfill --since 7d",
    "audit verify",
    "audit export --format fhir",
    "audit export --format jsonl",
];

/// What is searched.
const PLACES: [&str; 7] = [
    "log (text)",
    "log (json)",
    "ledger.sqlite3",
    "-wal",
    "-shm",
    "state/audit/audit-",
    "cmdline",
];

/// How the token endpoint answers.
#[derive(Clone, Copy)]
enum Mood {
    /// As the vendor does.
    Right,
    /// With this status, and everything it was sent repeated in the body.
    Echo(u16),
    /// With the vendor's answer cut in the middle, as if it were whole.
    Torn,
}

/// A token endpoint before the vendor's: it sees every token, and has moods.
#[derive(Clone)]
struct Tap {
    client: reqwest::Client,
    vendor: String,
    seen: Arc<Mutex<(Mood, BTreeSet<String>)>>,
}

impl Tap {
    /// Starts it; gives its URL.
    async fn start(vendor: &str, server: &mut JoinSet<()>) -> (Self, String) {
        let tap = Self {
            client: http::builder(&fullscript_events::config::Http::default(), LIMIT)
                .unwrap()
                .build()
                .unwrap(),
            vendor: format!("{vendor}/oauth/token"),
            seen: Arc::new(Mutex::new((Mood::Right, BTreeSet::new()))),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let routes = axum::Router::new().route("/token", post(answer));
        let routes = routes.with_state(tap.clone());
        server.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        (tap, url)
    }

    fn set(&self, mood: Mood) {
        self.seen.lock().unwrap().0 = mood;
    }

    fn remember(&self, tokens: &Value) {
        for key in ["refresh_token", "access_token"] {
            if let Some(token) = tokens[key].as_str() {
                self.seen.lock().unwrap().1.insert(token.to_owned());
            }
        }
    }

    fn tokens(&self) -> BTreeSet<String> {
        self.seen.lock().unwrap().1.clone()
    }
}

async fn answer(State(tap): State<Tap>, asked: String) -> (StatusCode, String) {
    tap.remember(&serde_json::from_str(&asked).unwrap());
    let mood = tap.seen.lock().unwrap().0;
    if let Mood::Echo(status) = mood {
        let body = json!({ "error": "no_such_error", "error_description": asked });
        return (StatusCode::from_u16(status).unwrap(), body.to_string());
    }
    let request = tap.client.post(&tap.vendor);
    let request = request.header("content-type", "application/json");
    let response = request.body(asked).send().await.unwrap();
    let status = response.status();
    let mut text = response.text().await.unwrap();
    let reply: Value = serde_json::from_str(&text).unwrap();
    tap.remember(&reply["oauth"]);
    if matches!(mood, Mood::Torn) {
        // Behind both tokens, and yet no JSON.
        text.truncate(text.len() - 30);
    }
    (status, text)
}

/// Something that was written where no canary may be.
struct Haystack {
    name: String,
    text: String,
}

impl Haystack {
    fn of(name: impl Into<String>, bytes: &[u8]) -> Self {
        Self {
            name: name.into(),
            // Canaries are plain text: whatever else is in the bytes does not hide them.
            text: String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

impl Haystack {
    fn holds_any(&self, needles: &[String]) -> bool {
        needles.iter().any(|needle| self.text.contains(needle))
    }
}

#[derive(Default)]
struct Haystacks(Vec<Haystack>);

impl Haystacks {
    fn add(&mut self, name: impl Into<String>, bytes: &[u8]) {
        self.0.push(Haystack::of(name, bytes));
    }

    fn add_output(&mut self, name: &str, output: &Output) {
        self.add(format!("{name}, stdout"), &output.stdout);
        self.add(format!("{name}, stderr"), &output.stderr);
    }

    /// Every file of a directory, as raw bytes: the ledger, its WAL, its shared memory. Of the pipes of programs the
    /// names: what is in them lies on no disk.
    fn add_directory(&mut self, when: &str, directory: &Path) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let name = format!("{when}, {}", entry.path().display());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                self.add_directory(when, &entry.path());
            } else if kind.is_fifo() {
                self.add(name.clone(), name.as_bytes());
            } else {
                self.add(name, &fs::read(entry.path()).unwrap());
            }
        }
    }

    /// What everybody on the machine can see of a process.
    fn add_process(&mut self, name: &str, id: u32) {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{id}/{file}")).unwrap();
            self.add(format!("{name}, {file}"), &bytes);
        }
    }

    /// Where a canary is, if anywhere.
    fn find<'a>(&'a self, canary: &str) -> Option<&'a str> {
        let holds = |hay: &&Haystack| hay.text.contains(canary);
        self.0.iter().find(holds).map(|hay| hay.name.as_str())
    }
}

/// The strings in an event's data that could only come from it: addresses, record numbers, the ids of people.
fn canaries_in(data: &Value, found: &mut BTreeSet<String>) {
    match data {
        Value::String(text) => {
            let is_id = text.len() == 36 && text.matches('-').count() == 4;
            if text.contains('@') || is_id || (text.starts_with("emr-") && text.len() > 7) {
                found.insert(text.clone());
            }
        }
        Value::Array(list) => list.iter().for_each(|value| canaries_in(value, found)),
        Value::Object(object) => object.values().for_each(|value| canaries_in(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn canaries_of_event(world: &World, id: &str) -> BTreeSet<String> {
    let reply: Value = serde_json::from_str(&world.vendor.reply_for(id).unwrap()).unwrap();
    let mut found = BTreeSet::new();
    canaries_in(&reply["event"]["data"], &mut found);
    found
}

/// A program for the exec sink: keeps the body where it may be, and what a stranger sees of the process elsewhere.
const RECORD: &str = "cat > \"$1/$FULLSCRIPT_EVENT_ID.body\"\n\
    cat /proc/$$/environ /proc/$$/cmdline > \"$1/$FULLSCRIPT_EVENT_ID.seen\"\n";

/// A program for the exec sink: says all that it reads, and fails.
const BLAB: &str = "tee /dev/stderr; exit 1";

/// Configures the tap, an exec sink that records, one that blabs, and a webhook whose receiver is down.
async fn configure(world: &World, token_url: &str) {
    let at = world.directory.path();
    fs::create_dir(at.join("exec")).unwrap();
    fs::write(at.join("record.sh"), RECORD).unwrap();
    write_secret(&at.join("webhook_secret"), WEBHOOK_SECRET);
    write_secret(&at.join("webhook_token"), WEBHOOK_TOKEN);
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = gone.local_addr().unwrap();
    world.write_config(&Setup {
        app: format!("token_url = {token_url:?}\n"),
        poll: "interval = \"1s\"\nfirst_run = \"30d\"\n".to_owned(),
        more: format!(
            "[[sinks]]\nname = \"record\"\nkind = \"exec\"\ncommand = [\"/bin/sh\", {:?}, {:?}]\n\n\
             [[sinks]]\nname = \"blab\"\nkind = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {BLAB:?}]\n\n\
             [[sinks]]\nname = \"chart\"\nkind = \"webhook\"\nurl = \"http://{gone}/hook?token={WEBHOOK_QUERY}\"\nsecret = {{ file = {:?} }}\nauth = {{ bearer = {{ file = {:?} }} }}\n\n[audit]\n",
            at.join("record.sh"),
            at.join("exec"),
            at.join("webhook_secret"),
            at.join("webhook_token"),
        ),
        ..Setup::default()
    });
    write_secret(&at.join("client_secret"), CLIENT_SECRET);
    write_secret(&at.join("seal_key"), &hex::encode(SEAL_KEY));
}

fn cycle(world: &World, format: &str, hay: &mut Haystacks, name: &str) {
    let args = ["--log-level", "trace", "--log-format", format];
    hay.add_output(
        name,
        &world.run(&[&args[..], &["run", "--once"][..]].concat()),
    );
    hay.add_directory(name, &world.state_path());
}

/// The daemon, looked at while it runs.
fn daemon(world: &World, format: &str, hay: &mut Haystacks) {
    let args = ["--log-level", "trace", "--log-format", format, "run"];
    let oak = &world.clinic("oak").clinic_id;
    for event_type in EVENT_TYPES {
        world.vendor.make_event(oak, event_type).unwrap();
    }
    let mut command: Command = world.command(&args);
    let mut daemon = Running::start(&mut command);
    for _ in 0..EVENT_TYPES.len() {
        daemon.wait_for("delivered");
    }
    hay.add_process("the daemon", daemon.id());
    hay.add_directory("while the daemon runs", &world.state_path());
    let said = daemon.stop_and_listen();
    hay.add(format!("the daemon's log ({format})"), said.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_patient_is_found_where_none_may_be() {
    let options = Options {
        client_secret: CLIENT_SECRET.to_owned(),
        ..Options::default()
    };
    let world = World::begin(options, Setup::default()).await;
    let mut server = JoinSet::new();
    let (tap, token_url) = Tap::start(&world.vendor.base_url(), &mut server).await;
    configure(&world, &token_url).await;
    let oak = &world.clinic("oak").clinic_id;
    let mut hay = Haystacks::default();

    // A token endpoint that repeats what it was sent, or breaks in the middle; each needs a grant that is due.
    for (name, mood) in [
        ("an echoing 400", Mood::Echo(400)),
        ("an echoing 401", Mood::Echo(401)),
        ("an echoing 503", Mood::Echo(503)),
        ("an echoing 200", Mood::Echo(200)),
        ("a torn answer", Mood::Torn),
    ] {
        tap.set(Mood::Right);
        world.log_in_long_ago().await;
        tap.set(mood);
        cycle(&world, "text", &mut hay, name);
    }

    // Details and lists that are no details and no lists.
    tap.set(Mood::Right);
    world.log_in_long_ago().await;
    for event_type in EVENT_TYPES {
        world.vendor.make_events(8, oak, event_type);
    }
    for (endpoint, fault) in [
        (Endpoint::Retrieve, Fault::MalformedJson),
        (Endpoint::Retrieve, Fault::CutOff),
        (Endpoint::Retrieve, Fault::WrongId),
        (Endpoint::Retrieve, Fault::WrongClinic),
        (Endpoint::List, Fault::MalformedJson),
        (Endpoint::List, Fault::IdWithNewline),
        (Endpoint::List, Fault::WrongClinic),
    ] {
        world.vendor.fail(FaultRule::next(1, endpoint, fault));
    }
    cycle(&world, "text", &mut hay, "broken details");
    cycle(&world, "json", &mut hay, "a cycle after that");
    daemon(&world, "text", &mut hay);
    daemon(&world, "json", &mut hay);
    for words in COMMANDS {
        let command: Vec<&str> = words.split(' ').collect();
        hay.add_output(words, &world.run(&command));
    }
    hay.add_directory("at the end", &world.state_path());
    let runs = add_runs(&world, &mut hay);

    // What is looked for was really there to be leaked: shown by the sink that may, and kept for the one that is down.
    let shown: Vec<String> = world.shown().iter().map(id_of).collect();
    assert!(shown.len() >= 20 && runs >= 20, "{} {runs}", shown.len());
    let patients: BTreeSet<String> = shown
        .iter()
        .flat_map(|id| canaries_of_event(&world, id))
        .collect();
    let lawful = fs::read_to_string(world.log_path()).unwrap();
    assert!(patients.len() > 100 && patients.iter().all(|canary| lawful.contains(canary)));
    assert!(kept(&world, "body") >= 20 && kept(&world, "output") >= 3);
    let blabbed = blabbed(&world);
    assert!(patients.iter().any(|canary| blabbed.contains(canary)));
    assert!(tap.tokens().len() >= 12);
    // And what is searched is what was written: the log and the state files hold the ids that they may hold.
    for place in PLACES {
        assert!(hay.0.iter().any(|hay| hay.name.contains(place)), "{place}");
    }
    for place in [
        "log (json)",
        "at the end, ",
        "state/audit/audit-",
        "audit export --format fhir, stdout",
        "exec",
    ] {
        let is_there = |hay: &Haystack| hay.name.contains(place) && hay.holds_any(&shown);
        assert!(hay.0.iter().any(is_there), "{place}");
    }

    let mut canaries = patients;
    canaries.extend(world.vendor.all_events().iter().flat_map(|event| {
        // Also of those whose detail never came through.
        canaries_of_event(&world, &event.id)
    }));
    canaries.extend(tap.tokens());
    canaries.extend(
        [
            CLIENT_SECRET,
            WEBHOOK_SECRET,
            WEBHOOK_TOKEN,
            WEBHOOK_QUERY,
            SEAL_KEY,
        ]
        .map(str::to_owned),
    );
    canaries.insert(hex::encode(SEAL_KEY));
    for canary in canaries {
        if let Some(place) = hay.find(&canary) {
            panic!("{canary} is in: {place}");
        }
    }
}

/// What a stranger saw of the exec sink's processes; gives how many there were.
fn add_runs(world: &World, hay: &mut Haystacks) -> usize {
    let exec = world.directory.path().join("exec");
    let mut runs = 0;
    for entry in fs::read_dir(&exec).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|is| is == "seen") {
            hay.add("the exec sink's process", &fs::read(entry.path()).unwrap());
            runs += 1;
        }
    }
    runs
}

fn kept(world: &World, table: &str) -> i64 {
    let c = rusqlite::Connection::open(world.ledger_path()).unwrap();
    c.query_row(&format!("SELECT count(*) FROM {table}"), (), |row| {
        row.get(0)
    })
    .unwrap()
}

/// What `deliveries show` says of the programs that blabbed: the one place where a person may read it.
fn blabbed(world: &World) -> String {
    let c = rusqlite::Connection::open(world.ledger_path()).unwrap();
    let mut said = c.prepare("SELECT delivery FROM output").unwrap();
    let numbers = said.query_map((), |row| row.get::<_, i64>(0)).unwrap();
    let shown = numbers.map(|number| {
        let number = number.unwrap().to_string();
        let shown = world.run(&["deliveries", "show", &number]);
        String::from_utf8(shown.stdout).unwrap()
    });
    shown.collect()
}

#[test]
fn a_canary_is_found_in_raw_bytes() {
    let mut hay = Haystacks::default();
    hay.add("a page", b"\0\xff\xfe\x80jane@example.test\xc3\x28\0");
    assert_eq!(hay.find("jane@example.test"), Some("a page"));
    assert_eq!(hay.find("john@example.test"), None);
}
