//! The units: as locked as they claim to be, free of lines that systemd would ignore, and the template the same as
//! the plain unit but for what an instance changes.
#![allow(
    clippy::print_stdout,
    reason = "a test that cannot be had here says so"
)]

use std::io::ErrorKind;
use std::process::{Command, Output};

/// The units by path and text.
const UNITS: [(&str, &str); 2] = [
    (
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/systemd/fullscript-events.service"
        ),
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/systemd/fullscript-events.service"
        )),
    ),
    (
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/systemd/fullscript-events@.service"
        ),
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/systemd/fullscript-events@.service"
        )),
    ),
];
const EXAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml"));

/// The highest exposure that `systemd-analyze security` may find, in tenths: the network that polling is about, and
/// name resolution.
const EXPOSURE: u32 = 11;

/// The lines that say something, as `[Section] Key=Value`.
fn directives(unit: &str) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in unit.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if !line.is_empty() && !line.starts_with('#') {
            found.push(format!("{section} {line}"));
        }
    }
    found
}

/// Runs `systemd-analyze`; nothing where it is not installed or older than systemd 250.
fn analyze(arguments: &[&str]) -> Option<Output> {
    let run = Command::new("systemd-analyze")
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("skipped: systemd-analyze is not installed");
            return None;
        }
        Err(error) => panic!("systemd-analyze cannot be started: {error}"),
    };
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.contains("unrecognized option") {
        println!("skipped: systemd-analyze is older than systemd 250");
        return None;
    }
    Some(output)
}

/// `1.1` of `→ Overall exposure level for fullscript-events.service: 1.1 OK`, in tenths.
fn overall(report: &str) -> Option<u32> {
    let line = report
        .lines()
        .find(|line| line.contains("Overall exposure level"))?;
    let (whole, tenth) = line.split_whitespace().find_map(|word| {
        word.split_once('.')
            .filter(|(whole, _)| whole.parse::<u32>().is_ok())
    })?;
    Some(whole.parse::<u32>().ok()? * 10 + tenth.parse::<u32>().ok()?)
}

#[test]
fn each_unit_is_as_locked_as_a_network_client_can_be() {
    for (path, _) in UNITS {
        let Some(output) = analyze(&["security", "--offline=true", "--no-pager", path]) else {
            return;
        };
        let report = String::from_utf8_lossy(&output.stdout);
        let exposure = overall(&report)
            .unwrap_or_else(|| panic!("{path}: no exposure in the report: {output:?}"));
        let open: Vec<&str> = report
            .lines()
            .filter(|line| line.starts_with('✗'))
            .collect();
        assert!(
            exposure <= EXPOSURE,
            "{path}: exposure {exposure} tenths, expected at most {EXPOSURE}; open:\n{}",
            open.join("\n")
        );
    }
}

#[test]
fn the_exposure_is_read_from_the_last_line_of_the_report() {
    let line = |exposure| {
        format!(
            "✗ PrivateNetwork=  0.5\n\n→ Overall exposure level for a.service: {exposure} OK 🙂\n"
        )
    };
    assert_eq!(overall(&line("1.1")), Some(11));
    assert_eq!(overall(&line("9.6")), Some(96));
    assert_eq!(overall("Failed to load a.service"), None);
}

/// systemd ignores what it does not understand, with one line in a log that nobody reads.
#[test]
fn systemd_understands_every_line() {
    for (path, _) in UNITS {
        let Some(output) = analyze(&["verify", "--man=no", path]) else {
            return;
        };
        let complaints = String::from_utf8_lossy(&output.stderr);
        // The machine's other units are not ours to judge, and the program is not installed where it is built.
        let ours: Vec<&str> = complaints
            .lines()
            .filter(|line| {
                line.contains("fullscript-events.service") || line.contains("fullscript-events@")
            })
            .filter(|line| !line.contains("is not executable"))
            .collect();
        assert!(ours.is_empty(), "{}", ours.join("\n"));
    }
}

#[test]
fn each_unit_restarts_for_ever_and_keeps_its_files_to_itself() {
    for (path, text) in UNITS {
        let directives = directives(text);
        for wanted in [
            "[Unit] StartLimitIntervalSec=0",
            "[Service] Type=notify",
            "[Service] NotifyAccess=main",
            "[Service] Restart=always",
            "[Service] RestartPreventExitStatus=2 78",
            "[Service] KillMode=mixed",
            "[Service] User=fullscript-events",
            "[Service] StateDirectoryMode=0700",
            "[Service] UMask=0077",
            "[Service] LimitCORE=0",
        ] {
            assert!(
                directives.iter().any(|line| line == wanted),
                "{path}: lacks {wanted:?}"
            );
        }
    }
}

#[test]
fn the_template_differs_from_the_plain_unit_in_what_an_instance_changes() {
    let [plain, template] = UNITS.map(|(_, text)| directives(text));
    let said_otherwise: Vec<(&str, &str)> = plain
        .iter()
        .zip(&template)
        .filter(|(one, other)| one != other)
        .map(|(one, other)| (one.as_str(), other.as_str()))
        .collect();
    let config = "/usr/bin/fullscript-events run --config /etc/fullscript-events";
    let start = [
        format!("[Service] ExecStart={config}/config.toml"),
        format!("[Service] ExecStart={config}/%i.toml"),
    ];
    assert_eq!(
        said_otherwise,
        [
            (
                "[Unit] Description=Fullscript events, handed on once",
                "[Unit] Description=Fullscript events, handed on once (%i)",
            ),
            (start[0].as_str(), start[1].as_str()),
            (
                "[Service] StateDirectory=fullscript-events",
                "[Service] StateDirectory=fullscript-events/%i",
            ),
            (
                "[Service] LoadCredentialEncrypted=client_secret",
                "[Service] LoadCredentialEncrypted=%i_client_secret",
            ),
            (
                "[Service] LoadCredentialEncrypted=seal_key",
                "[Service] LoadCredentialEncrypted=%i_seal_key",
            ),
        ]
    );
    assert_eq!(plain.len(), template.len());
}

#[test]
fn each_credential_is_one_that_the_configuration_asks_for() {
    let [(_, plain), (_, template)] = UNITS;
    for (unit, example) in [(plain, EXAMPLE), (template, template)] {
        for line in directives(unit) {
            let Some((_, name)) = line.split_once("LoadCredentialEncrypted=") else {
                continue;
            };
            let name = name.replace("%i", "us");
            assert!(
                example.contains(&format!("{{ credential = \"{name}\" }}")),
                "nothing asks for the credential {name:?}"
            );
        }
    }
}
