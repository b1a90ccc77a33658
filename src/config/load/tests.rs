use std::time::Duration;

use super::*;
use crate::config::{Budget, FirstRun, Holds, OnDoubt, SecretRef, SinkKind, SqliteInto};

const EXAMPLE: &str = include_str!("../../../config.example.toml");

const SMALLEST: &str = r#"
[app]
environment = "us"
client_id = "id"
client_secret = { env = "CLIENT_SECRET" }
redirect_uri = "http://127.0.0.1:8765/callback"
[state]
seal_key = { file = "/etc/seal.key" }
[[clinics]]
name = "oak-street"
"#;

const BROKEN: &str = r#"[app]
enviroment = "us"
environment = "us-sandboxx"
client_id = 7
client_secret = "s3cr3t-in-the-wrong-place"
redirect_uri = "http://ehr.example/callback"

[state]
directory = "state"
seal_key = { credential = "not a name: s3cr3t" }

[http]
proxy = "http://user:s3cr3t@proxy.example:3128"

[poll]
interval = "0s"
first_run = "90d"
categories = ["patients", "orderz", "patients"]

[poll.budget]
requests = 9000

[[clinics]]
name = "Oak Street"

[[clinics]]
name = "harbour"

[[clinics]]
name = "hilltop"

[[sinks]]
name = "chart"
kind = "webhook"
clinics = ["harbor"]
url = "http://10.0.0.7/hook?token=s3cr3t"
allow_nets = ["10.0.0.7"]
on_doubt = "retry"

[[sinks]]
name = "archive"
kind = "file"
path = "/srv/events.jsonl"
on_doubt = "hold"
mode = "9"

[[sinks]]
name = "archive"
kind = "exec"
clinics = ["*"]
command = ["import.sh"]
url = "https://ehr.example"

[[sinks]]
name = "queue"
kind = "kafka"
clinics = ["*"]

[polling]
"#;

fn with(more: &str) -> Result<Loaded, Invalid> {
    parse(&format!("{SMALLEST}\n{more}"), Path::new("config.toml"))
}

fn good(more: &str) -> Config {
    with(more).unwrap().config
}

/// The example with the lines of these marks said aloud.
fn example_saying(marks: &[&str]) -> String {
    let is_key = |line: &&str| {
        line.split_once(" = ")
            .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let lines = EXAMPLE.lines().map(|line| {
        let said = marks.iter().find_map(|mark| line.strip_prefix(mark));
        said.filter(is_key).unwrap_or(line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_names_every_key_that_the_checker_knows() {
    let (config, collected) = read(&example_saying(&["# ", "#e.g. "]));
    assert_eq!(collected.problems, []);
    assert!(config.is_some());
    // How a secret is referred to is shown in the head of the example, once for all.
    let named = |key: &&String| {
        let way = key.rsplit('.').next().unwrap_or_default();
        !["credential", "file", "env"].contains(&way)
    };
    let asked: Vec<_> = collected.asked.iter().filter(named).collect();
    let present: Vec<_> = collected.present.iter().filter(named).collect();
    assert_eq!(asked, present);
}

#[test]
fn the_defaults_of_the_example_are_the_programs() {
    let plain = parse(EXAMPLE, Path::new("config.toml")).unwrap();
    let aloud = parse(&example_saying(&["# "]), Path::new("config.toml")).unwrap();
    assert_eq!(plain.warnings, []);
    assert_eq!(aloud.warnings, []);
    assert_eq!(
        format!("{:#?}", plain.config),
        format!("{:#?}", aloud.config)
    );
}

#[test]
fn every_problem_is_told_at_once_and_no_secret_is_shown() {
    let invalid = parse(BROKEN, Path::new("config.toml")).unwrap_err();
    let text = invalid.to_string();
    assert!(!text.contains("s3cr3t"), "{text}");
    insta::assert_snapshot!(text, @r#"
    config.toml: 26 problems

    app.enviroment (line 2)
      found:  an unknown key
      wanted: one of api_base, authorize_url, client_id, client_secret, environment, redirect_uri, revoke_url, token_url
      did you mean "environment"?

    app.environment (line 3)
      found:  "us-sandboxx"
      wanted: one of us, ca, us-sandbox, ca-sandbox
      did you mean "us-sandbox"?

    app.client_id (line 4)
      found:  7
      wanted: a string in quotes

    app.client_secret (line 5)
      found:  a text that would be the secret itself (not shown)
      wanted: a reference, since secrets never stand in this file: { credential = "NAME" } (systemd), { file = "/PATH" } or { env = "VARIABLE" }

    app.redirect_uri (line 6)
      found:  a URL at http://ehr.example
      wanted: https; plain http is for loopback (127.0.0.1, [::1], localhost) only

    state.directory (line 9)
      found:  "state"
      wanted: an absolute path: the service has no directory of its own to start from

    state.seal_key.credential (line 10)
      found:  a text that is no name (not shown)
      wanted: a name of letters, digits and _ - .

    http.proxy (line 13)
      found:  a URL with a user or a password in it
      wanted: a URL without: secrets never stand in this file

    poll.interval (line 16)
      found:  "0s"
      wanted: a span such as "60s", "5m", "1h" or "7d", longer than nothing and at most 1d

    poll.first_run (line 17)
      found:  "90d"
      wanted: "baseline", or a span such as "7d", at most 30d: Fullscript lists no older events

    poll.categories[2] (line 18)
      found:  "patients"
      wanted: each category once

    poll.budget.requests (line 21)
      found:  9000
      wanted: at most 5000, which is what Fullscript allows (more is for a loopback app.api_base only)

    clinics[0].name (line 24)
      found:  "Oak Street"
      wanted: a name of lower-case letters, digits, - and _, which begins with a letter or a digit, at most 64 long

    sinks[0].secret (line 32)
      found:  nothing
      wanted: where the signing secret is, such as { credential = "chart_secret" }, or signature = "none"

    sinks[0].clinics[0] (line 35)
      found:  "harbor"
      wanted: a clinic of this file: harbour, hilltop
      did you mean "harbour"?

    sinks[0].url (line 36)
      found:  a URL at http://10.0.0.7
      wanted: https; or http to this machine; or, aloud, insecure_http = true

    sinks[0].allow_nets[0] (line 37)
      found:  "10.0.0.7"
      wanted: a network in CIDR notation, such as "10.20.0.0/16" or "fd00::/8"

    sinks[0].on_doubt (line 38)
      found:  "retry"
      wanted: one of hold, resend

    sinks[1].clinics (line 40)
      found:  nothing
      wanted: which clinics' events go there, such as ["oak-street"], or ["*"] for all: with more than one clinic each sink says it

    sinks[1].on_doubt (line 44)
      found:  a key that has no meaning here
      wanted: no on_doubt: a file shows every event exactly once whatever crashes, so nothing is ever in doubt

    sinks[1].mode (line 45)
      found:  "9"
      wanted: permissions in octal which let the owner read and write, such as "0640"

    sinks[2].name (line 48)
      found:  "archive"
      wanted: a name that no other sink has

    sinks[2].command[0] (line 51)
      found:  "import.sh"
      wanted: the absolute path of a program: there is no shell and no search path

    sinks[2].url (line 52)
      found:  a key that has no meaning here
      wanted: url only with kind = "webhook"

    sinks[3].kind (line 56)
      found:  "kafka"
      wanted: one of stdout, file, sqlite, exec, webhook

    polling (line 59)
      found:  an unknown key
      wanted: one of app, audit, clinics, enrich, http, poll, sfs, sinks, state, stream
    "#);
}

#[test]
fn a_text_that_is_no_toml_is_told_by_line_and_column_without_the_line() {
    let text = "[app]\nclient_secret = \"s3cr3t\nclient_id = 1\n";
    let invalid = parse(text, Path::new("config.toml")).unwrap_err();
    assert!(!invalid.to_string().contains("s3cr3t"), "{invalid}");
    insta::assert_snapshot!(invalid, @r#"
    config.toml: 1 problem

    the file (line 2)
      found:  no TOML at column 24: invalid basic string, expected `"`
      wanted: TOML, as in config.example.toml
    "#);
}

#[test]
fn no_mistake_of_syntax_shows_a_secret() {
    for text in [
        "client_secret = s3cr3t",
        "client_secret = \"a\\s3cr3t\"",
        "client_secret = \"s3cr3t\" s3cr3t",
        "client_secret = { s3cr3t }",
        "client_secret = 1s3cr3t",
        "client_secret: s3cr3t",
        "s3cr3t",
        "[app]\nclient_secret = 's3cr3t'\nclient_secret = 's3cr3t'",
    ] {
        let invalid = parse(text, Path::new("config.toml")).unwrap_err();
        assert_eq!(invalid.problems.len(), 1, "{invalid}");
        assert!(!invalid.to_string().contains("s3cr3t"), "{invalid}");
    }
}

#[test]
fn a_file_that_is_not_there_is_a_problem_with_a_way_out() {
    let invalid = load(Path::new("/nowhere/config.toml")).unwrap_err();
    insta::assert_snapshot!(invalid, @r#"
    /nowhere/config.toml: 1 problem

    the file
      found:  No such file or directory (os error 2)
      wanted: a file that can be read (`fullscript-events config init` writes one; -c names another)
    "#);
}

#[test]
fn an_empty_file_is_told_what_it_needs() {
    let invalid = parse("", Path::new("config.toml")).unwrap_err();
    let keys: Vec<_> = invalid.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "app.environment",
            "app.client_id",
            "app.client_secret",
            "app.redirect_uri",
            "state.seal_key",
            "clinics"
        ]
    );
}

#[test]
fn the_smallest_file_has_the_contracts_defaults() {
    let loaded = with("").unwrap();
    assert_eq!(loaded.warnings.len(), 1, "no sink is a warning");
    let config = loaded.config;
    assert_eq!(
        config.app.token_url.as_str(),
        "https://api-us.fullscript.com/api/oauth/token"
    );
    assert_eq!(config.poll.first_run, FirstRun::Baseline);
    assert_eq!(config.clinics[0].categories.len(), 6);
    assert_eq!(
        config.poll.budget,
        Budget {
            requests: 5_000,
            window: Duration::from_mins(5),
            reserve: 500,
            backfill: 2_000
        }
    );
}

#[test]
fn canadian_servers_are_not_asked_for_lab_orders_unless_told_to() {
    let canadian = SMALLEST.replace("\"us\"", "\"ca\"");
    let path = Path::new("config.toml");
    let config = parse(&canadian, path).unwrap().config;
    let polled = &config.clinics[0].categories;
    assert_eq!(polled.len(), 5);
    assert!(polled.iter().all(|c| c.as_str() != "lab_orders"));

    let told = format!("{canadian}categories = [\"lab_orders\", \"new_things\"]");
    let loaded = parse(&told, path).unwrap();
    assert_eq!(loaded.config.clinics[0].categories.len(), 2);
    let odd: Vec<_> = loaded.warnings.iter().map(|w| w.key.as_str()).collect();
    assert_eq!(
        odd,
        ["", "clinics[0].categories[0]", "clinics[0].categories[1]"]
    );
}

#[test]
fn the_budget_grows_for_the_simulator_only() {
    let more = "[poll.budget]\nrequests = 100000\nwindow = \"1s\"\n";
    let keys: Vec<_> = with(more).unwrap_err().problems;
    assert_eq!(keys.len(), 2);
    let simulated = SMALLEST.replace(
        "environment = \"us\"",
        "api_base = \"http://127.0.0.1:4010/api/\"",
    );
    let config = parse(&(simulated + more), Path::new("config.toml"))
        .unwrap()
        .config;
    assert_eq!(config.poll.budget.requests, 100_000);
    assert_eq!(config.app.environment, "custom");
    assert_eq!(config.app.api_base.as_str(), "http://127.0.0.1:4010/api");
    assert_eq!(
        config.app.authorize_url.as_str(),
        "http://127.0.0.1:4010/api/oauth/authorize"
    );
}

#[test]
fn two_sinks_share_no_file_and_not_standard_output() {
    let two = |kind: &str, first: &str, second: &str| {
        format!(
            "[[sinks]]\nname = \"a\"\nkind = \"{kind}\"\n{first}\n[[sinks]]\nname = \"b\"\nkind = \"{kind}\"\n{second}\n"
        )
    };
    let keys = |more: &str| -> Vec<String> {
        let problems = with(more).unwrap_err().problems;
        problems.into_iter().map(|p| p.key).collect()
    };
    assert_eq!(keys(&two("stdout", "", "")), ["sinks[1].kind"]);
    assert_eq!(
        keys(&two("file", "path = \"/a/b\"", "path = \"/a/./b\"")),
        ["sinks[1].path"]
    );
}

#[test]
fn doubt_means_what_suits_the_kind() {
    let sinks = good(
        r#"
[[sinks]]
name = "a"
kind = "webhook"
url = "http://localhost:9000/"
signature = "none"
[[sinks]]
name = "b"
kind = "exec"
command = ["/bin/true"]
[[sinks]]
name = "c"
kind = "stdout"
"#,
    )
    .sinks;
    let doubts: Vec<_> = sinks.iter().map(|sink| sink.on_doubt).collect();
    assert_eq!(doubts, [OnDoubt::Resend, OnDoubt::Hold, OnDoubt::Resend]);
}

#[test]
fn what_would_go_nowhere_is_a_warning() {
    let loaded = with(
        r#"
[[clinics]]
name = "harbour"
[[sinks]]
name = "chart"
kind = "stdout"
clinics = ["harbour"]
match = ["order.plased", "fhir.*"]
"#,
    )
    .unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(Problem::to_string).collect();
    insta::assert_snapshot!(warnings.join("\n"), @r#"
    the file
      found:  no sink that gets the events of oak-street
      wanted: the clinic in the `clinics` of a sink: without, its events are remembered and go nowhere
    sinks[0].match[0] (line 19)
      found:  "order.plased"
      wanted: a pattern that fits an event that this program knows; it is used all the same
      did you mean "order.placed"?
    "#);
}

#[test]
fn plain_http_leaves_this_machine_only_when_said_aloud() {
    let sink = |more: &str| {
        format!("[[sinks]]\nname = \"a\"\nkind = \"webhook\"\nsignature = \"none\"\n{more}\n")
    };
    let keys = |more: &str| -> Vec<String> {
        let problems = with(&sink(more)).unwrap_err().problems;
        problems.into_iter().map(|p| p.key).collect()
    };
    assert_eq!(keys("url = \"http://10.0.0.7/\""), ["sinks[0].url"]);
    for more in [
        "url = \"http://10.0.0.7/\"\ninsecure_http = true",
        "url = \"http://127.0.0.1:9000/\"",
        "url = \"http://[::1]:9000/\"",
        "url = \"https://ehr.example/\"",
    ] {
        good(&sink(more));
    }
    // Fullscript's own servers have no such switch.
    let text = SMALLEST.replace("environment = \"us\"", "api_base = \"http://10.0.0.7/api\"");
    let invalid = parse(&text, Path::new("config.toml")).unwrap_err();
    assert_eq!(invalid.problems[0].key, "app.api_base");
}

#[test]
fn whatever_value_is_wrong_there_is_a_problem_that_says_so() {
    let example = example_saying(&["# ", "#e.g. "]);
    let lines: Vec<&str> = example.lines().collect();
    let mut refused = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        for value in [
            "", "7", "-1", "\"\"", "\"?\"", "[]", "[7]", "[\"\"]", "{}", "true",
        ] {
            let wrong = match value {
                "" => String::new(),
                _ => format!("{key} = {value}"),
            };
            let mut text = lines.clone();
            text[at] = &wrong;
            if let Err(invalid) = parse(&text.join("\n"), Path::new("config.toml")) {
                assert_ne!(invalid.problems, [], "{wrong}");
                refused += 1;
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn a_standard_webhook_has_a_secret_and_may_have_an_old_one() {
    let sink = |more: &str| {
        format!(
            "[[sinks]]\nname = \"a\"\nkind = \"webhook\"\nurl = \"https://ehr.example/\"\n{more}\n"
        )
    };
    let config = good(&sink(
        r#"signature = "standard"
secret = { env = "NEW" }
old_secret = { env = "OLD" }"#,
    ));
    let reference = |name: &str| SecretRef::Env(name.to_owned());
    assert_eq!(
        config.secrets()[1..],
        [
            (
                "sinks[0].secret".to_owned(),
                &reference("NEW"),
                Holds::SigningKey
            ),
            (
                "sinks[0].old_secret".to_owned(),
                &reference("OLD"),
                Holds::SigningKey
            ),
        ]
    );
    let one = good(&sink(
        "signature = \"standard\"\nsecret = { env = \"NEW\" }",
    ));
    assert_eq!(one.secrets().len(), 2);

    let mut said = Vec::new();
    for more in [
        "signature = \"standard\"",
        "signature = \"standard\"\nsecret = { env = \"NEW\" }\nold_secret = \"s3cr3t\"",
        "signature = \"none\"\nold_secret = { env = \"OLD\" }",
        "secret = { env = \"NEW\" }\nold_secret = { env = \"OLD\" }",
        // What goes with a scheme that is mistyped is not judged.
        "signature = \"standrad\"\nsecret = { env = \"NEW\" }\nold_secret = { env = \"OLD\" }",
    ] {
        let invalid = with(&sink(more)).unwrap_err();
        assert_eq!(invalid.problems.len(), 1, "{invalid}");
        said.push(invalid.problems[0].to_string());
    }
    let said = said.join("\n");
    assert!(!said.contains("s3cr3t"), "{said}");
    insta::assert_snapshot!(said, @r#"
    sinks[0].secret (line 12)
      found:  nothing
      wanted: where the signing secret is, such as { credential = "chart_secret" }, or signature = "none"
    sinks[0].old_secret (line 18)
      found:  a text that would be the secret itself (not shown)
      wanted: a reference, since secrets never stand in this file: { credential = "NAME" } (systemd), { file = "/PATH" } or { env = "VARIABLE" }
    sinks[0].old_secret (line 17)
      found:  an old_secret beside signature = "none"
      wanted: an old_secret only with signature = "standard", which alone can sign with two
    sinks[0].old_secret (line 17)
      found:  an old_secret beside signature = "fullscript"
      wanted: an old_secret only with signature = "standard", which alone can sign with two
    sinks[0].signature (line 16)
      found:  "standrad"
      wanted: one of fullscript, standard, none
      did you mean "standard"?
    "#);
}

#[test]
fn a_database_has_a_table_or_a_statement_and_belongs_to_one_sink() {
    let sqlite = |name: &str, more: &str| {
        format!(
            "[[sinks]]\nname = \"{name}\"\nkind = \"sqlite\"\npath = \"/srv/{name}.db\"\n{more}\n"
        )
    };
    let into = |more: &str| {
        let SinkKind::Sqlite(settings) = good(&sqlite("a", more)).sinks[0].kind.clone() else {
            panic!()
        };
        settings.into
    };
    assert_eq!(into(""), SqliteInto::Table("fullscript_event".to_owned()));
    assert_eq!(
        into("table = \"Events_2\""),
        SqliteInto::Table("Events_2".to_owned())
    );
    let statement = "INSERT INTO t\nVALUES (:id)";
    assert_eq!(
        into("statement = \"\"\"\nINSERT INTO t\nVALUES (:id)\"\"\""),
        SqliteInto::Statement(statement.to_owned())
    );
    let more = [
        sqlite("a", "table = \"t\"\nstatement = \"DELETE FROM t\""),
        sqlite("b", "table = \"no; table\""),
        sqlite("c", "table = \"Fullscript_Sink\"\non_doubt = \"hold\""),
        sqlite("d", "statement = \" \"\nmode = \"0066\""),
        "[[sinks]]\nname = \"e\"\nkind = \"file\"\npath = \"/srv//a.db\"".to_owned(),
    ];
    insta::assert_snapshot!(with(&more.concat()).unwrap_err(), @r#"
    config.toml: 7 problems

    sinks[0].statement (line 17)
      found:  "DELETE FROM t"
      wanted: either table, which is made for you, or a statement of your own

    sinks[1].table (line 22)
      found:  "no; table"
      wanted: a name of letters, digits and _, which begins with no digit, at most 64 long; not sqlite_… nor fullscript_sink

    sinks[2].table (line 27)
      found:  "Fullscript_Sink"
      wanted: a name of letters, digits and _, which begins with no digit, at most 64 long; not sqlite_… nor fullscript_sink

    sinks[2].on_doubt (line 28)
      found:  a key that has no meaning here
      wanted: no on_doubt: a database shows every event exactly once whatever crashes, so nothing is ever in doubt

    sinks[3].statement (line 33)
      found:  " "
      wanted: an SQL statement, such as "INSERT INTO inbox (id, body) VALUES (:id, :data)"

    sinks[3].mode (line 34)
      found:  "0066"
      wanted: permissions in octal which let the owner read and write, such as "0640"

    sinks[4].path (line 38)
      found:  "/srv//a.db"
      wanted: a file of its own: another sink writes to this one
    "#);
}

/// What is told of each webhook sink, one after another.
fn told_of_webhooks(settings: &[&str]) -> String {
    let mut told = Vec::new();
    for more in settings {
        let sink = format!(
            "[[sinks]]\nname = \"a\"\nkind = \"webhook\"\nurl = \"https://ehr.example/\"\nsignature = \"none\"\n{more}\n"
        );
        let invalid = with(&sink).unwrap_err();
        told.extend(invalid.problems.iter().map(Problem::to_string));
    }
    let told = told.join("\n");
    assert!(!told.contains("s3cr3t"), "{told}");
    told
}

#[test]
fn what_a_webhook_leaves_out_is_named_by_paths_that_can_be_followed() {
    insta::assert_snapshot!(told_of_webhooks(&[
        "payload = \"id\"",
        "payload = \"ids\"\nredact = [\"$..email\"]",
        "redact = [\"patient.email\", \"$\", \"$.items[0]\"]",
        "only = []",
        "only = \"$.patient\"",
    ]), @r#"
    sinks[0].payload (line 17)
      found:  "id"
      wanted: one of full, ids
      did you mean "ids"?
    sinks[0].redact (line 18)
      found:  redact beside payload = "ids"
      wanted: one of the two: without data there is nothing to choose from
    sinks[0].redact[0] (line 17)
      found:  "patient.email"
      wanted: a path into data, such as "$.patient.email", "$.line_items[*].type" or "$..email": it does not begin with $
    sinks[0].redact[1] (line 17)
      found:  "$"
      wanted: a path into data, such as "$.patient.email", "$.line_items[*].type" or "$..email": it names no member of data
    sinks[0].redact[2] (line 17)
      found:  "$.items[0]"
      wanted: a path into data, such as "$.patient.email", "$.line_items[*].type" or "$..email": "[0]" in it is not taken: only .name, ['name'], .*, [*] and ..name are, one name in each bracket
    sinks[0].only (line 17)
      found:  an empty list
      wanted: at least one entry, or no such key
    sinks[0].only (line 17)
      found:  "$.patient"
      wanted: a list, such as ["…"]
    "#);
}

#[test]
fn a_header_is_not_secret_and_not_one_that_the_program_sets() {
    insta::assert_snapshot!(told_of_webhooks(&[
        r#"headers = { authorization = "s3cr3t", "Content-Type" = "text/plain", "x y" = "1" }"#,
        r#"headers = { "X-Tenant" = "1", "x-tenant" = "2", "X-Key" = "s3cr3t\n", "X-Event-ID" = "1", "X-Empty" = "" }"#,
        "headers = { X-Tenant = 7 }",
        "headers = \"X-Tenant\"",
    ]), @r#"
    sinks[0].headers.Content-Type (line 17)
      found:  a header that is set for each request
      wanted: a header of your own
    sinks[0].headers.authorization (line 17)
      found:  a header that carries a secret
      wanted: auth, since secrets never stand in this file
    sinks[0].headers.x y (line 17)
      found:  a name that no header can have
      wanted: a name of letters, digits and -
    sinks[0].headers.X-Empty (line 17)
      found:  a text that no header can carry (not shown)
      wanted: visible ASCII characters and spaces
    sinks[0].headers.X-Event-ID (line 17)
      found:  a header that is set for each request
      wanted: a header of your own
    sinks[0].headers.X-Key (line 17)
      found:  a text that no header can carry (not shown)
      wanted: visible ASCII characters and spaces
    sinks[0].headers.x-tenant (line 17)
      found:  a header that stands here twice
      wanted: each header once
    sinks[0].headers.X-Tenant (line 17)
      found:  a number
      wanted: a text in quotes
    sinks[0].headers (line 17)
      found:  "X-Tenant"
      wanted: a table, such as { "X-Tenant" = "clinic-7" }
    "#);
    let sink = r#"[[sinks]]
name = "a"
kind = "webhook"
url = "https://ehr.example/"
signature = "none"
headers = { "X-Tenant" = "clinic 7" }
"#;
    let SinkKind::Webhook(webhook) = &good(sink).sinks[0].kind else {
        panic!()
    };
    assert_eq!(webhook.headers["x-tenant"], "clinic 7");
}

#[test]
fn who_is_asking_is_a_user_or_a_token_and_its_secret_is_read_at_the_start() {
    insta::assert_snapshot!(told_of_webhooks(&[
        "auth = { bearer = \"s3cr3t\" }",
        "auth = { user = \"a:b\", password = { env = \"P\" } }",
        "auth = { user = \"a\" }",
        "auth = { user = \"a\", password = { env = \"P\" }, bearer = { env = \"T\" } }",
        "auth = {}",
        "auth = \"s3cr3t\"",
        "auth = { token = { env = \"T\" } }",
    ]), @r#"
    sinks[0].auth.bearer (line 17)
      found:  a text that would be the secret itself (not shown)
      wanted: a reference, since secrets never stand in this file: { credential = "NAME" } (systemd), { file = "/PATH" } or { env = "VARIABLE" }
    sinks[0].auth.user (line 17)
      found:  "a:b"
      wanted: a name without a colon, which would end it
    sinks[0].auth (line 17)
      found:  one of user and password without the other
      wanted: { user = "NAME", password = { credential = "NAME" } } or { bearer = { credential = "NAME" } }
    sinks[0].auth (line 17)
      found:  bearer beside user or password
      wanted: { user = "NAME", password = { credential = "NAME" } } or { bearer = { credential = "NAME" } }
    sinks[0].auth (line 17)
      found:  a table without user or bearer
      wanted: { user = "NAME", password = { credential = "NAME" } } or { bearer = { credential = "NAME" } }
    sinks[0].auth (line 17)
      found:  a string
      wanted: { user = "NAME", password = { credential = "NAME" } } or { bearer = { credential = "NAME" } }
    sinks[0].auth.token (line 17)
      found:  an unknown key
      wanted: one of bearer, password, user
    sinks[0].auth (line 17)
      found:  a table without user or bearer
      wanted: { user = "NAME", password = { credential = "NAME" } } or { bearer = { credential = "NAME" } }
    "#);
    for (auth, key, holds) in [
        (
            "{ bearer = { env = \"S\" } }",
            "sinks[0].auth.bearer",
            Holds::Token,
        ),
        (
            "{ user = \"a\", password = { env = \"S\" } }",
            "sinks[0].auth.password",
            Holds::Password,
        ),
    ] {
        let sink = "[[sinks]]\nname = \"a\"\nkind = \"webhook\"\nurl = \"https://ehr.example/\"";
        let config = good(&format!("{sink}\nsignature = \"none\"\nauth = {auth}\n"));
        let reference = SecretRef::Env("S".to_owned());
        assert_eq!(config.secrets()[1..], [(key.to_owned(), &reference, holds)]);
    }
}

#[test]
fn a_client_certificate_needs_its_key_and_https() {
    insta::assert_snapshot!(told_of_webhooks(&[
        "client_cert = \"/a.pem\"",
        "client_key = { file = \"/a.key\" }",
        "client_cert = \"a.pem\"\nclient_key = \"s3cr3t\"",
        "ca_file = \"ca.pem\"",
    ]), @r#"
    sinks[0].client_key (line 12)
      found:  nothing
      wanted: where the certificate's private key is, such as { credential = "chart_client_key" }
    sinks[0].client_cert (line 12)
      found:  nothing
      wanted: the file of the certificate that belongs to client_key
    sinks[0].client_cert (line 17)
      found:  "a.pem"
      wanted: an absolute path: the service has no directory of its own to start from
    sinks[0].client_key (line 18)
      found:  a text that would be the secret itself (not shown)
      wanted: a reference, since secrets never stand in this file: { credential = "NAME" } (systemd), { file = "/PATH" } or { env = "VARIABLE" }
    sinks[0].ca_file (line 17)
      found:  "ca.pem"
      wanted: an absolute path: the service has no directory of its own to start from
    "#);
    let sink = |url: &str| {
        format!(
            "[[sinks]]\nname = \"a\"\nkind = \"webhook\"\nurl = \"{url}\"\nsignature = \"none\"\n\
             client_cert = \"/a.pem\"\nclient_key = {{ file = \"/a.key\" }}\n"
        )
    };
    let plain = with(&sink("http://localhost/")).unwrap_err().problems;
    assert_eq!(plain[0].key, "sinks[0].client_cert");
    let config = good(&sink("https://localhost/"));
    let reference = SecretRef::File("/a.key".into());
    let key = "sinks[0].client_key".to_owned();
    assert_eq!(
        config.secrets()[1..],
        [(key, &reference, Holds::PrivateKey)]
    );
}

#[test]
fn a_receiver_is_asked_first_for_its_challenge_and_later_at_an_address_with_an_id() {
    insta::assert_snapshot!(told_of_webhooks(&[
        "preflight = true",
        "preflight = \"yes\"",
        "probe_url = \"https://ehr.example/seen?token=s3cr3t\"",
        "probe_url = \"https://{id}.example/s3cr3t\"",
        "probe_url = \"http://ehr.example/s3cr3t/{id}\"",
        "probe_url = \"https://u:s3cr3t@ehr.example/{id}\"",
        "probe_url = \"ftp://ehr.example/{id}\"",
        "probe_url = \"{id}\"",
    ]), @r#"
    sinks[0].preflight (line 17)
      found:  a preflight without a challenge
      wanted: a challenge, which is what the answer must hold
    sinks[0].preflight (line 17)
      found:  "yes"
      wanted: true or false
    sinks[0].probe_url (line 17)
      found:  neither {id} nor {delivery} is in it
      wanted: an address such as "https://ehr.example/hooks/seen/{id}", with {id} for the event or {delivery}
    sinks[0].probe_url (line 17)
      found:  only {id} and {delivery} stand in braces, and behind the host
      wanted: an address such as "https://ehr.example/hooks/seen/{id}", with {id} for the event or {delivery}
    sinks[0].probe_url (line 17)
      found:  a URL at http://ehr.example
      wanted: https; or http to this machine; or, aloud, insecure_http = true
    sinks[0].probe_url (line 17)
      found:  a URL with a user or a password in it
      wanted: a URL without: secrets never stand in this file
    sinks[0].probe_url (line 17)
      found:  a URL that begins with ftp:
      wanted: a URL such as https://example.org/path
    sinks[0].probe_url (line 17)
      found:  it is no URL
      wanted: an address such as "https://ehr.example/hooks/seen/{id}", with {id} for the event or {delivery}
    "#);
}

#[test]
fn the_audit_log_is_on_where_its_section_is_and_lies_in_the_state_directory_by_default() {
    assert_eq!(good("").audit, None);
    let audit = good("[audit]").audit.unwrap();
    assert_eq!(
        audit.directory,
        Path::new("/var/lib/fullscript-events/audit")
    );
    assert_eq!(
        (
            crate::config::show_duration(audit.keep).as_str(),
            audit.required
        ),
        ("2192d", false)
    );
    let audit = good("[audit]\ndirectory = \"/srv/audit\"\nrequired = true\nkeep = \"30d\"").audit;
    let audit = audit.unwrap();
    assert_eq!(audit.directory, Path::new("/srv/audit"));
    assert!(audit.required);
    let text = with("[audit]\nkeep = \"5h\"\nneeded = true")
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("at least \"1d\"") && text.contains("audit.needed"),
        "{text}"
    );
}

#[test]
fn late_results_are_taken_on_loopback_unless_it_is_said_aloud() {
    let late = |more: &str| {
        let text = format!("{SMALLEST}\n[sfs]\n{more}\n");
        parse(&text, Path::new("config.toml")).map(|loaded| loaded.config.late.unwrap())
    };
    let key = "emr_api_key = { env = \"EMR_API_KEY\" }\n";
    let usual = late(key).unwrap();
    assert_eq!(usual.listen.to_string(), "127.0.0.1:8767");
    let aloud = format!("{key}listen = \"10.1.2.3:80\"\ninsecure_http = true");
    assert_eq!(late(&aloud).unwrap().listen.to_string(), "10.1.2.3:80");
    let config = parse(
        &format!("{SMALLEST}\n[sfs]\n{key}"),
        Path::new("config.toml"),
    );
    let config = config.unwrap().config;
    let secrets = config.secrets();
    assert!(secrets.iter().any(|(name, ..)| name == "sfs.emr_api_key"));
    let mut words = Vec::new();
    for bad in [
        "listen = \"0.0.0.0:8767\"\n",
        "listen = \"8767\"\n",
        "listen = \"localhost:8767\"\n",
    ] {
        words.push(late(&format!("{key}{bad}")).unwrap_err().to_string());
    }
    words.push(late("emr_api_key = \"s3cr3t\"").unwrap_err().to_string());
    words.push(late("").unwrap_err().to_string());
    let words = words.join("\n");
    assert!(!words.contains("s3cr3t"));
    insta::assert_snapshot!(words, @r#"
    config.toml: 1 problem

    sfs.listen (line 14)
      found:  "0.0.0.0:8767"
      wanted: a loopback address, such as "127.0.0.1:8767", behind a proxy that speaks TLS; or, where the network between is trusted with health data, insecure_http = true beside it
    config.toml: 1 problem

    sfs.listen (line 14)
      found:  "8767"
      wanted: an address and a port, such as "127.0.0.1:8767"
    config.toml: 1 problem

    sfs.listen (line 14)
      found:  "localhost:8767"
      wanted: an address and a port, such as "127.0.0.1:8767"
    config.toml: 1 problem

    sfs.emr_api_key (line 13)
      found:  a text that would be the secret itself (not shown)
      wanted: a reference, since secrets never stand in this file: { credential = "NAME" } (systemd), { file = "/PATH" } or { env = "VARIABLE" }
    config.toml: 1 problem

    sfs.emr_api_key (line 12)
      found:  nothing
      wanted: where the key is that your EMR says with late results, such as { credential = "emr_api_key" }
    "#);
}
