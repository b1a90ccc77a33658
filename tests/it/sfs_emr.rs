//! `simulate sfs-emr` as a person runs it.

use std::path::Path;
use std::time::Duration;

use fullscript_events::config::Http;
use fullscript_events::http;
use serde_json::{Value, json};

use crate::binary::{Running, command};

/// The double, listening; and where its webhook is.
fn double(more: &[&str]) -> (Running, String) {
    let mut args = vec!["simulate", "sfs-emr", "--listen", "127.0.0.1:0"];
    args.extend(more);
    let mut double = Running::start_aloud(&mut command(Path::new("/nowhere"), &args));
    let line = double.wait_for("webhook");
    let url = line.split_whitespace().last().unwrap().to_owned();
    (double, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_double_says_a_line_for_each_event_shows_what_it_holds_and_ends_on_sigterm() {
    let (mut double, url) = double(&[
        "--clinic",
        "oak=k1",
        "--status",
        "503",
        "--retry-after",
        "7",
    ]);
    let treatment = json!({ "id": "b1", "treatments": [{
        "name": "Secret Oil", "treatmentGuid": "plan:variant", "hospitalizationId": "h1", "status": "added",
        "qty": 1.5, "billed": true,
    }]});
    let event = format!(
        r#"{{"clinicApiKey":"k1","eventType":"treatments.records_entered","object":{treatment}}}"#
    );
    let client = http::builder(&Http::default(), Duration::from_secs(20));
    let client = client.unwrap().build().unwrap();
    let send = async || client.post(&url).body(event.clone()).send().await.unwrap();
    let first = send().await;
    assert_eq!(first.status(), 503);
    assert_eq!(first.headers()["retry-after"], "7");
    assert_eq!(send().await.status(), 200);
    double.wait_for("oak  treatments.records_entered  b1  1 item  503: refused");
    double.wait_for("oak  treatments.records_entered  b1  1 item  200: booked, 1 made");
    let state = client.get(url.replace("/webhook", "/control/state"));
    let state: Value = state.send().await.unwrap().json().await.unwrap();
    assert_eq!(state["orders"][0]["qty"], 1.5);
    let said = double.stop_and_listen();
    assert!(!said.contains("Secret"), "{said}");
}

#[test]
fn an_address_that_others_can_reach_is_refused() {
    let args = ["simulate", "sfs-emr", "--listen", "0.0.0.0:0"];
    let output = command(Path::new("/nowhere"), &args).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("not a loopback address"), "{said}");
}
