use std::path::Path;
use std::time::Duration;

use crate::config::{
    ClinicSelection, Config, EntitySelection, Invalid, Phi, SinkKind, Stream, StreamSink, parse,
};

const HEAD: &str = r#"
[app]
environment = "us"
client_id = "id"
client_secret = { env = "S" }
redirect_uri = "http://127.0.0.1:8765/callback"
[state]
seal_key = { env = "K" }
"#;

const TOKEN: &str = "[[stream.tokens]]\nname = \"desk\"\ntoken = { env = \"T\" }\n";

fn with(state: &str, more: &str) -> Result<Config, Invalid> {
    let text = format!("{HEAD}{state}\n[[clinics]]\nname = \"oak\"\n{more}");
    parse(&text, Path::new("config.toml")).map(|loaded| loaded.config)
}

fn good(state: &str, more: &str) -> (Stream, StreamSink) {
    let config = with(state, &format!("[stream]\n{more}\n{TOKEN}")).unwrap();
    let sink = config.sinks.last().unwrap();
    assert_eq!(sink.name.as_str(), "stream");
    let SinkKind::Stream(kept) = &sink.kind else {
        panic!("{}", sink.kind.name());
    };
    (config.stream.unwrap(), kept.clone())
}

fn refused(more: &str) -> String {
    let invalid = with("", more).unwrap_err();
    assert_eq!(invalid.problems.len(), 1, "{invalid}");
    invalid.problems[0].key.clone()
}

#[test]
fn without_the_section_there_is_no_stream_and_no_such_sink() {
    let config = with("", "").unwrap();
    assert!(config.stream.is_none());
    assert!(config.sinks.is_empty());
}

#[test]
fn what_nobody_says_is_the_safer_way() {
    let (stream, kept) = good("", "");
    assert!(stream.listen.ip().is_loopback());
    assert_eq!(kept.retain, Duration::from_hours(7 * 24));
    assert!(kept.keeps_bodies);
    let token = &stream.tokens[0];
    assert_eq!(token.phi, Phi::Ids);
    assert_eq!(token.entities, EntitySelection::All);
    assert_eq!(token.clinics, ClinicSelection::All);
    assert_eq!(stream.allow_origins, [""; 0]);
}

#[test]
fn no_bodies_are_kept_where_either_section_says_so() {
    for (state, stream, days) in [
        ("", "retain = \"0s\"", 7),
        ("bodies = \"never\"", "retain = \"2d\"", 2),
    ] {
        let (settings, kept) = good(state, stream);
        assert!(!kept.keeps_bodies && !settings.keeps_bodies, "{stream}");
        assert_eq!(kept.retain, Duration::from_hours(days * 24));
    }
}

#[test]
fn a_network_is_listened_on_only_where_that_is_said_aloud() {
    let elsewhere = "listen = \"0.0.0.0:8766\"";
    assert_eq!(
        refused(&format!("[stream]\n{elsewhere}\n{TOKEN}")),
        "stream.listen"
    );
    good("", &format!("{elsewhere}\ninsecure_listen = true"));
    good("", "listen = \"[::1]:9000\"");
}

#[test]
fn what_cannot_be_is_refused_with_its_key() {
    for (section, token, key) in [
        ("retain = \"31d\"", "", "stream.retain"),
        ("listen = \"localhost\"", "", "stream.listen"),
        ("max_connections = 0", "", "stream.max_connections"),
        ("allow_origins = [\"*\"]", "", "stream.allow_origins[0]"),
        (
            "allow_origins = [\"https://a.example/\"]",
            "",
            "stream.allow_origins[0]",
        ),
        ("tokenz = 1", "", "stream.tokenz"),
        (
            "",
            "entities = [\"Patients\"]",
            "stream.tokens[0].entities[0]",
        ),
        (
            "",
            "entities = [\"*\", \"Order\"]",
            "stream.tokens[0].entities",
        ),
        ("", "clinics = [\"elm\"]", "stream.tokens[0].clinics[0]"),
        ("", "phi = \"some\"", "stream.tokens[0].phi"),
        ("", TOKEN, "stream.tokens[1].name"),
    ] {
        let text = format!("[stream]\n{section}\n{TOKEN}{token}");
        assert_eq!(refused(&text), key, "{section} {token}");
    }
    assert_eq!(refused("[stream]\n"), "stream.tokens");
    let text = format!(
        "[stream]\n{}",
        TOKEN.replace("{ env = \"T\" }", "\"s3cr3t\"")
    );
    assert_eq!(refused(&text), "stream.tokens[0].token");
    let text = format!("[stream]\n{TOKEN}[[sinks]]\nname = \"stream\"\nkind = \"stdout\"\n");
    assert_eq!(refused(&text), "sinks[0].name");
}
