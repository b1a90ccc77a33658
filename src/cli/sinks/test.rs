//! `sinks test`: one attempt with a made-up event, beside the daemon and without the ledger.

use std::path::Path;

use super::super::output::print;
use super::super::session::unknown;
use super::super::{CommandResult, Exit, Failure, configured, on_runtime};
use crate::app::StartError;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{ClinicSelection, Config, Sink, SinkKind};
use crate::domain::{ClinicName, DeliveryId, EventBody, EventId, EventType, Outcome, Parcel};
use crate::sinks::{AnySink, Ports, Sink as _};

/// The type of the event that is made up.
const TYPE: &str = "fullscript_events.test";

pub(super) fn run(path: &Path, name: &str) -> CommandResult {
    let config = configured(path)?;
    let Some(sink) = config.sinks.iter().find(|sink| sink.name.as_str() == name) else {
        let names: Vec<_> = config.sinks.iter().map(|s| s.name.to_string()).collect();
        return Err(unknown("sink", name, &names));
    };
    if !matches!(sink.kind, SinkKind::Webhook(_) | SinkKind::Exec(_)) {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{name} is a {} sink: only this program's daemon may write there; `status` says whether it can. A test is for webhooks and programs",
                sink.kind.name()
            ),
        ));
    }
    // Not in the state directory: what somebody else makes there may be closed to the daemon's user.
    let state = tempfile::tempdir().map_err(|error| {
        let place = std::env::temp_dir();
        let text = format!("{} cannot be written: {error}", place.display());
        Failure::new(Exit::Unexpected, text)
    })?;
    let open = AnySink::open(
        sink,
        &config.http,
        state.path(),
        &Ports::default(),
        &config.enrich,
    );
    let open = open.map_err(StartError::from)?;
    let now = SystemClock::start().now();
    let parcel = parcel(&config, sink, now)?;
    let id = parcel.event.as_str().to_owned();
    let outcome = on_runtime(async {
        let delivered = open.deliver(&[parcel], now).await;
        let delivered = delivered.map_err(|stopped| Failure::new(Exit::Unavailable, stopped))?;
        Ok(delivered.outcomes.into_iter().next())
    })?;
    match outcome {
        Some(Outcome::Yes) => print(&format!("{name} took the test event {id}.\n")),
        Some(outcome) => Err(Failure::new(
            Exit::Unavailable,
            format!(
                "{name} did not take the test event {id}: {}",
                words(&outcome)
            ),
        )),
        None => Err(Failure::new(Exit::Unexpected, "the sink said nothing")),
    }
}

/// An event of no patient.
fn parcel(
    config: &Config,
    sink: &Sink,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Parcel, Failure> {
    let unexpected = |error: &dyn std::fmt::Display| Failure::new(Exit::Unexpected, error);
    let clinic = match &sink.clinics {
        ClinicSelection::Named(names) => names.first().cloned(),
        ClinicSelection::All => config.clinics.first().map(|clinic| clinic.name.clone()),
    };
    let clinic = clinic.map_or_else(|| ClinicName::new("test"), Ok);
    let id = format!("test-{:016x}", rand::random::<u64>());
    let at = now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let body = serde_json::json!({
        "id": id, "type": TYPE, "created_at": at, "clinic_id": null,
        "data": { "message": "a test by `fullscript-events sinks test`; no patient is in it" },
    });
    Ok(Parcel {
        // No delivery of the ledger has it: a receiver that knows numbers will not take it for one.
        delivery: DeliveryId(0),
        attempt: 1,
        event: EventId::new(id).map_err(|e| unexpected(&e))?,
        event_type: EventType::new(TYPE).map_err(|e| unexpected(&e))?,
        created_at: now,
        clinic: clinic.map_err(|e| unexpected(&e))?,
        clinic_id: None,
        body: EventBody::from_json(body.to_string()),
    })
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Yes => "taken".to_owned(),
        Outcome::No { reason, .. } => format!("refused ({reason})"),
        Outcome::Later { reason, .. } => format!("it asks to come later ({reason})"),
        Outcome::NotSent { reason } => format!("it could not be sent ({reason})"),
        Outcome::Doubt { reason } => format!("it may have arrived ({reason})"),
        Outcome::Gone { reason } => format!("it is no receiver any more ({reason})"),
        Outcome::ClinicRefused { reason } => format!("it refuses this clinic ({reason})"),
        Outcome::Skip { reason } => format!("it was sent nothing ({reason})"),
        Outcome::Park { reason, .. } => format!("it would wait ({reason})"),
    }
}
