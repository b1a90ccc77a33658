//! `sinks pause`, `resume`, `drain` and `accept`: single rows that a running daemon notices.

use super::super::CommandResult;
use super::super::output::{deliveries, print};
use super::super::session::{Session, state_failure};
use super::known;
use crate::domain::DeliveryState;
use crate::ledger::Mode;

pub(super) async fn set(session: &Session, name: &str, mode: Mode) -> CommandResult {
    let row = known(session, name).await?;
    let why = (mode == Mode::Paused).then(|| "by a person".to_owned());
    session
        .query
        .set_sink_mode(name.to_owned(), mode, why, session.now)
        .await
        .map_err(state_failure)?;
    let waiting = row.count(DeliveryState::Queued) + row.count(DeliveryState::Claimed);
    let waiting = deliveries(waiting);
    let program = &session.program;
    print(&match mode {
        Mode::Paused => format!(
            "{name} is paused; what is in flight ends, {waiting} and all that come wait.\nTo go on: {program} sinks resume {name}\n"
        ),
        Mode::Draining => format!(
            "{name} gets nothing new; {waiting} to go. When none waits, it can be removed from the configuration.\n\
             How far it is: {program} sinks list\n"
        ),
        Mode::Open => format!(
            "{name} goes on; {waiting} to go.\n{}\n",
            session.when_delivered()
        ),
    })
}

pub(super) async fn accept(session: &Session, name: &str) -> CommandResult {
    if known(session, name).await?.stopped.is_none() {
        return print(&format!("{name} is not stopped: nothing was changed.\n"));
    }
    session
        .query
        .accept_sink(name.to_owned())
        .await
        .map_err(state_failure)?;
    print(&format!(
        "{name} takes its file as it is now, and goes on behind what is in it within a minute.\nWhether it does: {} status\n",
        session.program
    ))
}
