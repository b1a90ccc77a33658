//! `deliveries done`, `retry` and `drop`: a person settles what is held or dead.

use super::super::output::{deliveries as counted, print};
use super::super::session::{Session, state_failure};
use super::super::{CommandResult, Exit, Failure};
use super::list::Of;
use super::show::{unknown, with_numbers};
use crate::domain::{DeliveryId, DeliveryState};
use crate::ledger::{Choice, DeliveryOf};

/// Arguments of `deliveries done`, `retry` and `drop`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "By filter, what would be changed is only counted until you say --yes.\n\n\
                  Examples, with done; retry and drop take the same:\n  \
                  fullscript-events deliveries done 42 43\n  \
                  fullscript-events deliveries done --state held --sink ehr --yes"
)]
pub(super) struct Args {
    /// The numbers of the deliveries.
    #[arg(value_name = "NUMBER", conflicts_with_all = ["state", "sink", "clinic", "event_type"])]
    numbers: Vec<i64>,
    /// All in this state: held, parked or dead; without it those that are held or dead.
    #[arg(long, value_name = "STATE", value_parser = open_to_choice)]
    state: Option<DeliveryState>,
    #[command(flatten)]
    of: Of,
    /// With a filter: do it; without this it is only counted.
    #[arg(long)]
    yes: bool,
    /// With a filter: at most so many, the oldest.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: u32,
}

/// The states that a person may end.
fn open_to_choice(word: &str) -> Result<DeliveryState, String> {
    match DeliveryState::parse(word) {
        Some(state) if needs_a_person(state) => Ok(state),
        Some(_) | None => Err("held, parked or dead is expected".to_owned()),
    }
}

fn needs_a_person(state: DeliveryState) -> bool {
    matches!(
        state,
        DeliveryState::Held | DeliveryState::Parked | DeliveryState::Dead
    )
}

/// The command, and what it makes of a delivery.
fn words(choice: Choice) -> (&'static str, &'static str) {
    match choice {
        Choice::Done => ("done", "done now"),
        Choice::Retry => ("retry", "queued again"),
        Choice::Drop => ("drop", "dropped"),
    }
}

/// Runs `deliveries done`, `retry` or `drop`.
pub(super) async fn run(session: &Session, choice: Choice, args: Args) -> CommandResult {
    if !args.numbers.is_empty() {
        return by_number(session, choice, &args.numbers).await;
    }
    let of = &args.of;
    let filters = [&of.sink, &of.clinic, &of.event_type];
    if args.state.is_none() && filters.iter().all(|filter| filter.is_none()) {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "which? Name deliveries by number, or by --state, --sink, --clinic or --type; `{} deliveries list` shows them",
                session.program
            ),
        ));
    }
    let filter = args.of.filter(session, args.state, args.limit).await?;
    let found = session.query.deliveries(filter).await;
    let found = found.map_err(state_failure)?;
    let (command, outcome) = words(choice);
    let limited = found.len() as u64 == u64::from(args.limit);
    if !args.yes {
        let most = if limited {
            " (at most so many at once)"
        } else {
            ""
        };
        let number = counted(found.len() as u64) + most;
        return print(&if found.is_empty() {
            "No delivery that is held or dead fits.\n".to_owned()
        } else {
            format!(
                "{number}: would be {outcome}; nothing was changed. To do it: the same `deliveries {command}` with --yes\n"
            )
        });
    }
    settle(session, choice, &found).await?;
    if limited {
        return print("There may be more: run the same command again for the next.\n");
    }
    Ok(Exit::Done)
}

async fn by_number(session: &Session, choice: Choice, numbers: &[i64]) -> CommandResult {
    let found = with_numbers(session, numbers).await?;
    for number in numbers {
        let of = found.iter().find(|of| of.delivery.delivery.0 == *number);
        let state = of.ok_or_else(|| unknown(session, *number))?.delivery.state;
        if !needs_a_person(state) {
            return Err(Failure::new(
                Exit::Partial,
                format!(
                    "delivery {number} is {state}: there is nothing to settle, and nothing was changed"
                ),
            ));
        }
    }
    settle(session, choice, &found).await
}

async fn settle(session: &Session, choice: Choice, found: &[DeliveryOf]) -> CommandResult {
    let numbers: Vec<DeliveryId> = found.iter().map(|of| of.delivery.delivery).collect();
    let changed = session.query.choose(choice, numbers, session.now).await;
    let changed = changed.map_err(state_failure)?;
    let mut lines = vec![format!("{}: {}.", counted(changed), words(choice).1)];
    if choice == Choice::Retry && changed > 0 {
        lines.push(session.when_delivered());
    }
    print(&(lines.join("\n") + "\n"))
}
