//! `events resend`: a person decides that a sink gets an event once more.

use super::super::output::{count, deliveries, print};
use super::super::session::{Session, delivery_state, state_failure, unknown as unknown_name};
use super::super::{CommandResult, Exit, Failure};
use super::show::unknown as unknown_event;
use crate::domain::DeliveryState;
use crate::ledger::Resend;

/// Arguments of `events resend`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A resend is a delivery of its own, with its own number. What is held or dead needs no decision any more afterwards.\n\n\
                  Examples: fullscript-events events resend 3f1c… --sink ehr\n          \
                  fullscript-events events resend --state dead --sink ehr --yes"
)]
pub(super) struct Args {
    /// Fullscript's id of the event.
    #[arg(required_unless_present = "state", conflicts_with = "state")]
    id: Option<String>,
    /// To which sink.
    #[arg(long, value_name = "NAME")]
    sink: String,
    /// All events whose delivery to the sink is in this state: held or dead.
    #[arg(long, value_name = "STATE", value_parser = resendable)]
    state: Option<DeliveryState>,
    /// With --state: do it; without this it is only counted.
    #[arg(long, requires = "state")]
    yes: bool,
    /// With --state: at most so many, the oldest.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 1000,
        requires = "state"
    )]
    limit: u32,
}

/// States that a person may resend in bulk; `done` is for one event at a time.
fn resendable(word: &str) -> Result<DeliveryState, String> {
    match delivery_state(word) {
        Ok(state @ (DeliveryState::Held | DeliveryState::Dead)) => Ok(state),
        Ok(_) | Err(_) => Err("held or dead is expected".to_owned()),
    }
}

/// Runs `events resend`.
pub(super) async fn run(session: &Session, args: Args) -> CommandResult {
    match (args.id, args.state) {
        (Some(id), _) => one(session, id, args.sink).await,
        (None, Some(state)) if args.yes => many(session, state, args.sink, args.limit).await,
        (None, Some(state)) => only_counted(session, state, &args.sink).await,
        (None, None) => Err(Failure::new(Exit::Usage, "an event or --state is needed")),
    }
}

async fn one(session: &Session, id: String, sink: String) -> CommandResult {
    let program = &session.program;
    let resent = session.query.resend(id.clone(), sink.clone(), session.now);
    match resent.await.map_err(state_failure)? {
        Resend::Issued(delivery) => print(&format!(
            "Queued as delivery {delivery} to {sink}. {}\nHow it goes: {program} events show {id}\n",
            session.when_delivered()
        )),
        Resend::Open(open) => Err(Failure::new(
            Exit::Partial,
            format!(
                "{sink} does not have this event yet: delivery {} is {}, so there is nothing to resend (`{program} events show {id}` tells when it is due)",
                open.delivery, open.state
            ),
        )),
        Resend::NeverHad => Err(Failure::new(
            Exit::NotFound,
            format!(
                "{sink} never had event {id:?}: `{program} backfill` gives a sink what it never had"
            ),
        )),
        Resend::NoSuchEvent => Err(unknown_event(session, &id)),
        Resend::NoSuchSink => Err(unknown_name("sink", &sink, &session.sinks)),
    }
}

async fn in_state(session: &Session, state: DeliveryState, sink: &str) -> Result<u64, Failure> {
    let rows = session.query.sinks().await.map_err(state_failure)?;
    let row = rows.iter().find(|row| row.name == sink);
    row.map(|row| row.count(state))
        .ok_or_else(|| unknown_name("sink", sink, &session.sinks))
}

async fn many(session: &Session, state: DeliveryState, sink: String, limit: u32) -> CommandResult {
    in_state(session, state, &sink).await?;
    let resent = session
        .query
        .resend_all(state, sink.clone(), limit, session.now);
    let resent = resent.await.map_err(state_failure)?;
    let left = in_state(session, state, &sink).await?;
    let mut words = vec![format!(
        "{} queued again for {sink}.",
        count(resent, "event")
    )];
    if resent > 0 {
        words.push(session.when_delivered());
    }
    if left > 0 {
        words.push(format!(
            "{left} more are {state}: run the same command again for the next {limit}."
        ));
    }
    print(&(words.join("\n") + "\n"))
}

async fn only_counted(session: &Session, state: DeliveryState, sink: &str) -> CommandResult {
    let found = in_state(session, state, sink).await?;
    let mut words = vec![format!(
        "{state} at {sink}: {}; nothing was changed.",
        deliveries(found)
    )];
    if found > 0 {
        words.push(format!(
            "To send them again: {} events resend --state {state} --sink {sink} --yes",
            session.program
        ));
    }
    print(&(words.join("\n") + "\n"))
}
