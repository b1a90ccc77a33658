//! `auth list`: every grant, also of clinics that are no longer configured. Reads only.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::session::Session;
use super::{CommandResult, Exit, Failure};
use crate::domain::ClinicName;
use crate::token::{self, Overview, Proof, State};

/// The version of what `--json` prints.
const SCHEMA: u32 = 1;

/// Arguments of `auth list`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `auth list`.
pub(super) async fn run(config: &Path, args: &Args) -> CommandResult {
    let session = Session::open(config)?;
    let grants = token::grants(&session.store)
        .await
        .map_err(|error| Failure::new(Exit::State, error))?;
    let fault = grants.configuration_fault();
    let configured = session.config.clinics.iter();
    let mut rows: BTreeMap<ClinicName, Option<Overview>> = configured
        .map(|clinic| (clinic.name.clone(), None))
        .collect();
    for grant in grants.grants {
        rows.insert(grant.clinic.clone(), Some(grant));
    }
    if args.json {
        let grants: Vec<Value> = rows
            .iter()
            .map(|(name, grant)| as_json(name, grant.as_ref()))
            .collect();
        println!(
            "{}",
            json!({ "schema": SCHEMA, "configuration_fault_since": fault.map(shown), "grants": grants })
        );
        return Ok(Exit::Done);
    }
    for (name, grant) in &rows {
        println!("{}", as_line(name, grant.as_ref()));
    }
    if let Some(since) = fault {
        println!(
            "Fullscript has refused this app since {}: check client_id, client_secret and environment under [app]",
            shown(since)
        );
    }
    Ok(Exit::Done)
}

fn as_line(name: &ClinicName, grant: Option<&Overview>) -> String {
    let Some(grant) = grant else {
        return format!("{name}  no grant: run `fullscript-events auth login {name}`");
    };
    let mut line = format!("{name}  {}", word(grant));
    match &grant.pinned {
        Some(pinned) => {
            line.push_str("  clinic ");
            line.push_str(pinned.clinic_id.as_str());
            line.push_str(match pinned.proof {
                Proof::Verified => " (verified)",
                Proof::Inferred => " (unverified)",
            });
        }
        None => line.push_str("  clinic not known yet"),
    }
    if let Some(at) = grant.refreshed_at {
        line.push_str("  refreshed ");
        line.push_str(&shown(at));
    }
    if let Some(trouble) = grant.trouble() {
        line.push_str("\n    ");
        line.push_str(trouble);
    }
    if let Some(remedy) = grant.remedy() {
        line.push_str("\n    run `");
        line.push_str(&remedy);
        line.push('`');
    }
    line
}

fn as_json(name: &ClinicName, grant: Option<&Overview>) -> Value {
    let Some(grant) = grant else {
        return json!({
            "clinic": name.as_str(),
            "state": "none",
            "remedy": format!("fullscript-events auth login {name}"),
        });
    };
    let pinned = grant.pinned.as_ref();
    json!({
        "clinic": name.as_str(),
        "state": word(grant),
        "clinic_id": pinned.map(|pinned| pinned.clinic_id.as_str()),
        "verified": pinned.is_some_and(|pinned| pinned.proof == Proof::Verified),
        "expires_at": shown(grant.expires_at),
        "refreshed_at": grant.refreshed_at.map(shown),
        "trouble": grant.trouble(),
        "remedy": grant.remedy(),
    })
}

fn word(grant: &Overview) -> &'static str {
    match grant.state {
        State::Active => "active",
        State::Retrying { .. } => "retrying",
        State::Misconfigured { .. } => "misconfigured",
        State::LoginRequired { .. } => "login_required",
    }
}

fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
