//! Standard Webhooks, from outside: a receiver that verifies with its own code, and the official libraries.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fullscript_events::clock::{Clock as _, SystemClock};
use fullscript_events::domain::{DeliveryId, DeliveryState, EventId};
use fullscript_events::format::standard;
use fullscript_events::simulator::Options;
use rand::RngExt as _;
use ring::hmac;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde_json::json;
use tokio::task::JoinSet;

use crate::stepped::{HOUR, Stepped, polling};
use crate::world::{Setup, World, write_secret};

const SYMMETRIC: [u8; 32] = [7; 32];
const SEED: [u8; 32] = [8; 32];

/// A request that verified: its id, its time and its body.
type Got = (String, String, Bytes);

/// The signature of a version in the list, decoded.
fn signature_of(list: &str, version: &str) -> Vec<u8> {
    let mut found = list.split(' ').filter_map(|one| one.split_once(','));
    let (_, signature) = found.find(|(name, _)| *name == version).unwrap();
    STANDARD.decode(signature).unwrap()
}

/// Verifies as a receiver does that still has the old key and one that has the new key already.
fn verified(headers: &HeaderMap, body: Bytes) -> Option<Got> {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, time) = (header("webhook-id"), header("webhook-timestamp"));
    let list = header("webhook-signature");
    let content = [format!("{id}.{time}.").as_bytes(), &body].concat();
    let symmetric = hmac::Key::new(hmac::HMAC_SHA256, &SYMMETRIC);
    hmac::verify(&symmetric, &content, &signature_of(&list, "v1")).ok()?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap();
    UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref())
        .verify(&content, &signature_of(&list, "v1a"))
        .ok()?;
    Some((id, time, body))
}

/// Refuses what does not verify with 401, the first that does with 500, and takes the rest.
async fn receiver(got: Arc<Mutex<Vec<Got>>>, server: &mut JoinSet<()>) -> String {
    let app = Router::new().fallback(move |headers: HeaderMap, body: Bytes| async move {
        let Some(request) = verified(&headers, body) else {
            return StatusCode::UNAUTHORIZED;
        };
        let mut got = got.lock().unwrap();
        got.push(request);
        if got.len() == 1 {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::OK
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

/// A sink `hook` that is in the middle of a rotation.
fn rotating(url: &str, directory: &Path, secret: &str, old_secret: &str) -> String {
    let (current, old) = (directory.join("current"), directory.join("old"));
    write_secret(&current, secret);
    write_secret(&old, old_secret);
    format!(
        "[[sinks]]\nname = \"hook\"\nkind = \"webhook\"\nclinics = [\"*\"]\nurl = {url:?}\nsignature = \"standard\"\n\
         secret = {{ file = {current:?} }}\nold_secret = {{ file = {old:?} }}\n"
    )
}

fn symmetric() -> String {
    format!("whsec_{}", STANDARD.encode(SYMMETRIC))
}

fn asymmetric() -> String {
    format!("whsk_{}", STANDARD.encode(SEED))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_either_key_verifies_each_attempt_and_knows_a_repeat_by_its_id() {
    let got = Arc::default();
    let mut server = JoinSet::new();
    let url = receiver(Arc::clone(&got), &mut server).await;
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup {
        more: rotating(&url, directory.path(), &asymmetric(), &symmetric()),
        ..polling(&["patients"], "first_run = \"30d\"")
    };
    let world = Stepped::begin(setup).await;
    let id = world.make("oak", "patient.created");
    let first_at = world.now().timestamp().to_string();
    world.pass().await;
    world.pass_after(HOUR).await;
    let second_at = world.now().timestamp().to_string();
    world.make("oak", "patient.created");
    world.pass_after(HOUR).await;

    let event = world.event(&id).await.unwrap();
    let delivery = event.deliveries.iter().find(|d| d.sink == "hook").unwrap();
    assert_eq!(
        (delivery.state, delivery.attempts),
        (DeliveryState::Done, 2)
    );
    let got = got.lock().unwrap();
    let [first, second, other] = &got[..] else {
        panic!("{} requests verified", got.len())
    };
    assert_eq!([&first.1, &second.1], [&first_at, &second_at]);
    assert_eq!((&first.0, &first.2), (&second.0, &second.2));
    assert_ne!(first.0, other.0);
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_key_that_is_none_ends_with_78_and_does_not_show_it() {
    let directory = tempfile::tempdir().unwrap();
    for (secret, old_secret, words) in [
        (
            "whsec_s3cr3t!".to_owned(),
            symmetric(),
            "sink hook: secret: file ",
        ),
        (
            symmetric(),
            "s3cr3t!".to_owned(),
            "sink hook: old_secret: file ",
        ),
    ] {
        let setup = Setup {
            more: rotating(
                "http://127.0.0.1:9/",
                directory.path(),
                &secret,
                &old_secret,
            ),
            ..Setup::default()
        };
        let world = World::begin(Options::default(), setup).await;
        let ended = world.run(&["run", "--once"]);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(78), "{said}");
        assert!(said.contains(words), "{said}");
        assert!(
            said.contains("holds no signing key: its text is not base64"),
            "{said}"
        );
        assert!(!said.contains("s3cr3t"), "{said}");
    }
}

/// Verifies every line, and sees that none verifies with a byte more.
const PYTHON: &str = r#"
import json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

keys = [Webhook(secret) for secret in sys.argv[2:]]
count = 0
for line in open(sys.argv[1], encoding="utf-8"):
    message = json.loads(line)
    for key in keys:
        key.verify(message["body"], message["headers"])
        try:
            key.verify(message["body"] + " ", message["headers"])
        except WebhookVerificationError:
            count += 1
print(count)
"#;

/// The same in JavaScript.
const NODE: &str = r#"
const { readFileSync } = require("fs");
const { Webhook, WebhookVerificationError } = require("standardwebhooks");

const [path, ...secrets] = process.argv.slice(1);
const keys = secrets.map((secret) => new Webhook(secret));
let count = 0;
for (const line of readFileSync(path, "utf8").trimEnd().split("\n")) {
  const { body, headers } = JSON.parse(line);
  for (const key of keys) {
    key.verify(body, headers);
    try {
      key.verify(body + " ", headers);
    } catch (error) {
      if (error instanceof WebhookVerificationError) count += 1;
    }
  }
}
console.log(count);
"#;

/// A Python with the official library, in an environment of its own; or why there is none.
fn python(directory: &Path) -> Result<Command, &'static str> {
    python_with("standardwebhooks==1.1.0", directory)
        .ok_or("no python3 with venv, or the package standardwebhooks cannot be had")
}

/// A Python with a package of `PyPI`, in an environment of its own, if both can be had.
pub(crate) fn python_with(package: &str, directory: &Path) -> Option<Command> {
    let works = |command: &mut Command| {
        let output = command.output();
        output.is_ok_and(|output| output.status.success())
    };
    let at = directory.join("venv");
    if !works(Command::new("python3").args(["-m", "venv"]).arg(&at)) {
        return None;
    }
    let python = at.join("bin/python");
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    pip.args(["--retries", "0", "--timeout", "10", package]);
    works(&mut pip).then(|| Command::new(python))
}

/// A Node.js with the official library, or why there is none.
fn node(directory: &Path) -> Result<Command, &'static str> {
    let works = |command: &mut Command| {
        let output = command.current_dir(directory).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !works(Command::new("node").arg("--version")) {
        return Err("no node");
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"]);
    npm.args(["--fetch-retries=0", "--fetch-timeout=10000"]);
    if !works(npm.arg("--prefix=.").arg("standardwebhooks@1.1.1")) {
        return Err("the package standardwebhooks of npm cannot be had");
    }
    let mut node = Command::new("node");
    node.current_dir(directory);
    Ok(node)
}

/// A thousand random bodies, each signed by both kinds of key; the secrets that the libraries can verify with.
fn signed_messages(at: &Path) -> [String; 2] {
    let secrets = [symmetric(), STANDARD.encode([9; 24])];
    let keys: Vec<_> = [&secrets[0], &asymmetric(), &secrets[1]]
        .into_iter()
        .map(|secret| standard::Key::parse(&secret.as_str().into()).ok().unwrap())
        .collect();
    let mut random = rand::rng();
    let mut lines = String::new();
    for delivery in 1..=1000 {
        let length = random.random_range(0..400);
        let text: String = (0..length).map(|_| random.random::<char>()).collect();
        let body = json!({ "event": text }).to_string();
        let id = standard::id(DeliveryId(delivery), &EventId::new("e-7").unwrap());
        let now = SystemClock::start().now();
        let headers = json!({
            standard::ID: id,
            standard::TIMESTAMP: now.timestamp().to_string(),
            standard::SIGNATURE: standard::signatures(&keys, &id, now, body.as_bytes()),
        });
        lines += &format!("{}\n", json!({ "headers": headers, "body": body }));
    }
    fs::write(at, lines).unwrap();
    secrets
}

#[test]
fn the_official_libraries_verify_a_thousand_random_bodies_with_either_key() {
    for (library, option, script) in [
        (
            python as fn(&Path) -> Result<Command, &'static str>,
            "-c",
            PYTHON,
        ),
        (node, "-e", NODE),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut command = match library(directory.path()) {
            Ok(command) => command,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                continue;
            }
        };
        let messages = directory.path().join("messages");
        let secrets = signed_messages(&messages);
        let output = command
            .args([option, script])
            .arg(&messages)
            .args(&secrets)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "2000\n");
    }
}
