//! `demo`: the whole of it on this machine, with nothing to configure and nothing left behind.
//!
//! The simulator, the daemon and a receiver are the real ones, over real HTTP, from a real configuration file; only
//! Fullscript is made up. The figures at the end are counted at the simulator, in the ledger and at the receiver, none
//! of which asks another.

mod receiver;
mod screen;
mod stage;
mod summary;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::screen::{Progress, Screen, line};
use self::stage::{SCENES, Stage};
use self::summary::{Figures, Summary};
use super::{CommandResult, Exit, Failure, on_runtime};
use crate::app;
use crate::clock::{SharedClock, SystemClock};
use crate::domain::DeliveryState;
use crate::ledger::{Query, SinkRow};
use crate::lifecycle::Lifecycle;
use crate::schedule::{self, Nudges};
use crate::simulator::Counters;
use crate::store::Unavailable;

/// How often the three places are looked at.
const LOOK: Duration = Duration::from_millis(150);
/// Between two scenes.
const PAUSE: Duration = Duration::from_millis(700);
/// How long everything may take to arrive, of the past and then of what happens live.
const PATIENCE: Duration = Duration::from_mins(1);

/// Arguments of `demo`: none.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// How the demonstration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// By itself.
    Played,
    /// By Ctrl-C or SIGTERM.
    Interrupted,
    /// Something did not arrive in a minute.
    TooSlow,
}

/// Runs `demo`.
pub(super) fn run(_: &Args) -> CommandResult {
    on_runtime(async {
        let lifecycle = Lifecycle::begin();
        // Before there is anything to leave behind.
        lifecycle.listen().map_err(|e| unheard(&e))?;
        end_with_the_terminal(&lifecycle)?;
        let clock: SharedClock = Arc::new(SystemClock::start());
        let stage = Stage::set(Arc::clone(&clock)).await?;
        let summary = perform(&stage, clock, &lifecycle).await;
        lifecycle.finish().await;
        let struck = stage.strike().await;
        let summary = summary?;
        line(format_args!("\n{summary}"));
        struck?;
        line(
            "The temporary directory is removed.\nNext: set up your first real clinic: fullscript-events config init",
        );
        Ok(summary.exit())
    })
}

/// A closed window is a soft stop too: the directory is removed all the same.
fn end_with_the_terminal(lifecycle: &Lifecycle) -> Result<(), Failure> {
    let mut hangup = signal(SignalKind::hangup()).map_err(|e| unheard(&e))?;
    let soft = lifecycle.soft().clone();
    lifecycle.spawn(async move {
        tokio::select! {
            _ = hangup.recv() => soft.cancel(),
            () = soft.cancelled() => {}
        }
    });
    Ok(())
}

fn unheard(error: &io::Error) -> Failure {
    Failure::new(
        Exit::Unexpected,
        format!("signals cannot be heard: {error}"),
    )
}

async fn perform(
    stage: &Stage,
    clock: SharedClock,
    lifecycle: &Lifecycle,
) -> Result<Summary, Failure> {
    introduce(stage);
    let config = &stage.config;
    let owner = app::take_ownership(config)?;
    let pipeline = app::open(config, &owner, Arc::clone(&clock)).await?;
    stage.log_in(&pipeline.tokens).await?;
    let nudges = Nudges::default();
    let mut scheduler = schedule::start(&nudges)
        .await
        .map_err(|e| Failure::new(Exit::Unexpected, format!("the scheduler cannot start: {e}")))?;
    let names: Vec<_> = stage.clinics.iter().map(|c| c.name.as_str()).collect();
    let mut show = Show {
        stage,
        query: pipeline.ledger.query(),
        clock,
        lifecycle,
        screen: Screen::open(&names),
        told: Told::default(),
        awaited: Vec::new(),
    };
    let played = async {
        let ending = show.play().await;
        lifecycle.soft().cancel();
        ending
    };
    let ((), ending) = tokio::join!(Arc::clone(&pipeline).run(lifecycle, &nudges), played);
    lifecycle.finish().await;
    pipeline.tokens.drain().await;
    // It only nudged; a job that does not stop holds nothing.
    drop(scheduler.shutdown().await);
    let ending = ending.map_err(|error| Failure::new(Exit::State, error))?;
    if ending == Ending::Interrupted {
        show.screen.freeze();
    } else {
        let last = show.progress().await;
        let last = last.map_err(|error| Failure::new(Exit::State, error))?;
        show.screen.close(&last);
    }
    let sinks = show.query.sinks().await;
    let sinks = sinks.map_err(|error| Failure::new(Exit::State, error))?;
    Ok(Summary {
        figures: count(stage, &sinks),
        ending,
    })
}

fn introduce(stage: &Stage) {
    line(format_args!(
        "fullscript-events demo: three clinics, 30 days of events, all of it made up. Ctrl-C ends it early.\n\n  \
         Fullscript     simulated at {}\n  \
         the daemon     polls it every 2 s; configuration, ledger and file sink in\n                 {}\n  \
         the receiver   checks every signature at {}\n",
        stage.vendor.base_url(),
        stage.path().display(),
        stage.receiver.url(),
    ));
}

/// The figures, each asked where it is known.
fn count(stage: &Stage, sinks: &[SinkRow]) -> Figures {
    let of = |name: &str| sinks.iter().find(|sink| sink.name == name);
    let done = |name| of(name).map_or(0, |sink| sink.count(DeliveryState::Done));
    let counters = stage.vendor.counters();
    let book = stage.receiver.book();
    let listed = stage.clinics.iter().map(|clinic| stage.listed(clinic));
    let listed: BTreeSet<_> = listed.flatten().collect();
    Figures {
        listed: listed.len() as u64,
        issued: of("chart").map_or(0, |sink| sink.counts.iter().sum()),
        done: done("chart"),
        file_done: done("log"),
        verified: book.verified() as u64,
        duplicates: book.duplicates(),
        bad: book.bad,
        refused: book.refused,
        lines: stage.file_lines() as u64,
        requests: counters.requests,
        throttled: counters.answered_with(429),
        refreshes: refreshes(&counters, stage),
    }
}

/// Refreshes but those by which the grants were imported.
fn refreshes(counters: &Counters, stage: &Stage) -> u64 {
    let all = counters.tokens_with("refresh_token", "ok");
    all.saturating_sub(stage.clinics.len() as u64)
}

/// What was told already, so that it is told once.
#[derive(Default)]
struct Told {
    throttled: bool,
    refused: bool,
    refreshed: bool,
}

/// A live event on its way.
struct Awaited {
    words: String,
    ids: Vec<String>,
    since: Duration,
}

/// The demonstration while it runs.
struct Show<'a> {
    stage: &'a Stage,
    query: Query,
    clock: SharedClock,
    lifecycle: &'a Lifecycle,
    screen: Screen,
    told: Told,
    awaited: Vec<Awaited>,
}

impl Show<'_> {
    /// The past, then what happens live; ends early at the soft stop.
    async fn play(&mut self) -> Result<Ending, Unavailable> {
        self.screen
            .say("1. The past: first_run = \"30d\" delivers what Fullscript still lists");
        let ending = self.until_settled().await?;
        if ending != Ending::Played {
            return Ok(ending);
        }
        self.screen.say("2. The present: events as they happen");
        for scene in &SCENES {
            let (words, ids) = self.stage.play(scene);
            self.awaited.push(Awaited {
                words,
                ids,
                since: self.clock.monotonic(),
            });
            let until = self.clock.monotonic() + PAUSE;
            while self.clock.monotonic() < until {
                if self.look().await?.is_none() {
                    return Ok(Ending::Interrupted);
                }
            }
        }
        self.until_settled().await
    }

    async fn until_settled(&mut self) -> Result<Ending, Unavailable> {
        let until = self.clock.monotonic() + PATIENCE;
        while self.clock.monotonic() < until {
            match self.look().await? {
                None => return Ok(Ending::Interrupted),
                Some(progress) if progress.settled => return Ok(Ending::Played),
                Some(_) => {}
            }
        }
        Ok(Ending::TooSlow)
    }

    /// Waits a moment, looks, and tells what is new; `None` after the soft stop.
    async fn look(&mut self) -> Result<Option<Progress>, Unavailable> {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = self.lifecycle.soft().cancelled() => return Ok(None),
        }
        let progress = self.progress().await?;
        self.tell();
        self.screen.show(&progress);
        Ok(Some(progress))
    }

    async fn progress(&self) -> Result<Progress, Unavailable> {
        let book = self.stage.receiver.book();
        let mut listed = BTreeSet::new();
        let mut clinics = Vec::new();
        for clinic in &self.stage.clinics {
            let ids = self.stage.listed(clinic);
            let arrived = ids.iter().filter(|id| book.accepted.contains_key(*id));
            clinics.push((clinic.name.clone(), ids.len(), arrived.count()));
            listed.extend(ids);
        }
        let sinks = self.query.sinks().await?;
        let budget = self.stage.config.poll.budget;
        Ok(Progress {
            clinics,
            listed: listed.len(),
            verified: book.verified(),
            settled: sinks
                .iter()
                .all(|sink| sink.count(DeliveryState::Done) == listed.len() as u64),
            requests: self.stage.vendor.counters().requests,
            budget: budget.requests,
            window: budget.window,
        })
    }

    /// Says what has happened since the last look.
    fn tell(&mut self) {
        let counters = self.stage.vendor.counters();
        let book = self.stage.receiver.book();
        let mut lines = Vec::new();
        if counters.answered_with(429) > 0 && !std::mem::replace(&mut self.told.throttled, true) {
            lines.push(
                "   ! Fullscript answered 429: that clinic waits as long as it was told, the others go on"
                    .to_owned(),
            );
        }
        if book.refused > 0 && !std::mem::replace(&mut self.told.refused, true) {
            lines
                .push("   ! the receiver answered 500: that event is sent again in 2 s".to_owned());
        }
        if refreshes(&counters, self.stage) > 0
            && !std::mem::replace(&mut self.told.refreshed, true)
        {
            lines.push(
                "   ! the access tokens were about to expire: refreshed, the new ones on disk before use"
                    .to_owned(),
            );
        }
        let now = self.clock.monotonic();
        self.awaited.retain(|awaited| {
            let arrived = awaited.ids.iter().all(|id| book.accepted.contains_key(id));
            if arrived {
                let took = now.saturating_sub(awaited.since).as_secs_f64();
                lines.push(format!(
                    "   {:<58} verified after {took:.1} s",
                    awaited.words
                ));
            }
            !arrived
        });
        for line in lines {
            self.screen.say(&line);
        }
    }
}
