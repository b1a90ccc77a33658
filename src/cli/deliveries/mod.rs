//! `deliveries`: what needs a person, and what the person says. Never shows a body; what a program has said of one is
//! shown for a delivery that is asked for by its number.

mod choose;
mod list;
mod show;

use std::path::Path;

use serde_json::{Value, json};

use super::events::delivery_json;
use super::output::iso;
use super::session::Session;
use super::{CommandResult, on_runtime};
use crate::ledger::{Choice, DeliveryOf};

/// The version of what `--json` prints.
const SCHEMA: u32 = 1;

/// Arguments of `deliveries`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List deliveries that are held or dead, the oldest event first.
    List(list::Args),
    /// Show one delivery: what is known of it, and what can be said about it.
    Show(show::Args),
    /// Say that held or dead deliveries have arrived: they are done.
    Done(choose::Args),
    /// Attempt held or dead deliveries again, under the same number, so that the receiver can recognise them.
    Retry(choose::Args),
    /// Say that held or dead deliveries shall not arrive: they are skipped.
    Drop(choose::Args),
}

/// Runs `deliveries`.
pub(super) fn run(path: &Path, args: Args) -> CommandResult {
    let session = Session::open(path)?;
    on_runtime(async {
        match args.command {
            Command::List(args) => list::run(&session, args).await,
            Command::Show(args) => show::run(&session, &args).await,
            Command::Done(args) => choose::run(&session, Choice::Done, args).await,
            Command::Retry(args) => choose::run(&session, Choice::Retry, args).await,
            Command::Drop(args) => choose::run(&session, Choice::Drop, args).await,
        }
    })
}

fn to_json(of: &DeliveryOf) -> Value {
    let mut value = delivery_json(&of.delivery);
    if let Some(object) = value.as_object_mut() {
        object.insert("event".to_owned(), json!(of.event));
        object.insert("type".to_owned(), json!(of.event_type));
        object.insert("created_at".to_owned(), json!(iso(of.created_at)));
        object.insert("clinic".to_owned(), json!(of.clinic));
    }
    value
}
