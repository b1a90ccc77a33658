//! `sinks pause`, `resume`, `drain` and `accept`: single rows that a running daemon notices.

use super::super::CommandResult;
use super::super::output::{deliveries, print};
use super::super::session::{Session, state_failure};
use super::known;
use crate::ledger::Mode;

pub(super) async fn set(session: &Session, name: &str, mode: Mode) -> CommandResult {
    let row = known(session, name).await?;
    let why = (mode == Mode::Paused).then(|| "by a person".to_owned());
    session
        .query
        .set_sink_mode(name.to_owned(), mode, why, session.now)
        .await
        .map_err(state_failure)?;
    let mut waiting = row.waiting();
    if mode == Mode::Open {
        // Who says that the receiver works says it of every clinic.
        let resumed = session.query.resume_clinic(name.to_owned(), None).await;
        waiting += resumed.map_err(state_failure)?.unwrap_or(0) as u64;
    }
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

/// Pauses a sink for one clinic.
pub(super) async fn pause_clinic(session: &Session, name: &str, clinic: &str) -> CommandResult {
    known(session, name).await?;
    session.expect_clinic(clinic).await?;
    let (sink, clinic_name) = (name.to_owned(), clinic.to_owned());
    let paused =
        session
            .query
            .pause_clinic(sink, clinic_name, "by a person".to_owned(), session.now);
    paused.await.map_err(state_failure)?;
    print(&format!(
        "{name} is paused for {clinic}; what is in flight ends, what comes waits, other clinics go on.\n\
         To go on: {} sinks resume {name} --clinic {clinic}\n",
        session.program
    ))
}

/// Lets a sink go on for one clinic.
pub(super) async fn resume_clinic(session: &Session, name: &str, clinic: &str) -> CommandResult {
    known(session, name).await?;
    session.expect_clinic(clinic).await?;
    let resumed = session
        .query
        .resume_clinic(name.to_owned(), Some(clinic.to_owned()));
    let Some(released) = resumed.await.map_err(state_failure)? else {
        return print(&format!(
            "{name} is not paused for {clinic}: nothing was changed.\n"
        ));
    };
    let keys = if session.running {
        "If you have changed its key or the sink's settings: they are read when the daemon starts, so restart it first.\n"
    } else {
        ""
    };
    print(&format!(
        "{name} goes on for {clinic}; {} to go.\n{}\n{keys}",
        deliveries(released as u64),
        session.when_delivered()
    ))
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
