//! `sinks reassign` and `forget`: what becomes of the backlog of a sink that is no more. The state directory is taken
//! for it, so that nobody delivers meanwhile.

use std::path::Path;

use super::super::output::{self, deliveries, print};
use super::super::session::{audit_of_user, state_failure, unknown};
use super::super::{CommandResult, Exit, Failure, configured, on_runtime};
use crate::app;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::domain::DeliveryState;
use crate::ledger::{Query, Reassigned, SinkRow};

/// Refuses to begin a state directory: there would be nothing in it.
fn taken(config: &Config) -> Result<(crate::store::Owner, Query), Failure> {
    drop(app::open_store(config)?);
    let owner = app::take_ownership(config)?;
    let audit = audit_of_user(config, owner.store());
    let query = Query::new(owner.store().clone()).audited(audit);
    Ok((owner, query))
}

async fn row(query: &Query, name: &str) -> Result<SinkRow, Failure> {
    let rows = query.sinks().await.map_err(state_failure)?;
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let row = rows.into_iter().find(|row| row.name == name);
    row.ok_or_else(|| unknown("sink", name, &names))
}

fn is_configured(config: &Config, name: &str) -> bool {
    config.sinks.iter().any(|sink| sink.name.as_str() == name)
}

pub(super) fn reassign(path: &Path, old: &str, new: &str) -> CommandResult {
    let config = configured(path)?;
    let Some(to) = config.sinks.iter().find(|sink| sink.name.as_str() == new) else {
        let names: Vec<_> = config.sinks.iter().map(|s| s.name.to_string()).collect();
        return Err(unknown("sink", new, &names));
    };
    if old == new {
        return Err(Failure::new(
            Exit::Usage,
            "a sink has its own backlog already",
        ));
    }
    let (_owner, query) = taken(&config)?;
    on_runtime(async {
        row(&query, old).await?;
        let now = SystemClock::start().now();
        let reassigned = query.reassign(old.to_owned(), to.name.clone(), now).await;
        let start = format!(
            "Start the daemon again, or: {} run --once",
            output::program(path)
        );
        match reassigned.map_err(state_failure)? {
            None => Err(unknown("sink", old, &[])),
            Some(Reassigned::Renamed { waiting }) => print(&format!(
                "{new} is what {old} was, with its memory; {} to go.\n{start}\n",
                deliveries(waiting)
            )),
            Some(Reassigned::Moved { moved, known }) => print(&format!(
                "{} of {old} to {new} now; {} skipped, as {new} has had the event already.\n{start}\n",
                deliveries(moved),
                deliveries(known)
            )),
        }
    })
}

pub(super) fn forget(path: &Path, name: &str, yes: bool) -> CommandResult {
    let config = configured(path)?;
    if is_configured(&config, name) {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{name} is configured: remove it from {} first, or settle its deliveries one by one (`deliveries`)",
                path.display()
            ),
        ));
    }
    let (_owner, query) = taken(&config)?;
    on_runtime(async {
        let row = row(&query, name).await?;
        let settled = [DeliveryState::Done, DeliveryState::Skipped];
        let all = DeliveryState::ALL.into_iter();
        let open = all.filter(|state| !settled.contains(state));
        let open = deliveries(open.map(|state| row.count(state)).sum());
        if !yes {
            return print(&format!(
                "{open} would be given up; nothing was changed. To do it: the same with --yes\n"
            ));
        }
        let now = SystemClock::start().now();
        let forgotten = query.forget_sink(name.to_owned(), now).await;
        let forgotten = forgotten.map_err(state_failure)?.unwrap_or_default();
        print(&format!("{} of {name} given up.\n", deliveries(forgotten)))
    })
}
