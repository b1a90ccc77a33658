//! What is due is begun: for ever (the daemon), or until nothing is left (one cycle, a backfill).
//!
//! Both drive the same passes. Each look asks the ledger what is due and begins what is not being done already, every
//! lane and clinic in a task of its own, so that none waits for another.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::outbox::Until;
use super::{Pipeline, Work};
use crate::config::Bodies;
use crate::ledger::{Doubt, Pruned};
use crate::lifecycle::Lifecycle;
use crate::schedule::Nudges;
use crate::store::Unavailable;

/// The longest sleep between two looks.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// While work goes on, looks are this far apart: pieces of work end by the hundred, and each look reads all that is due.
const BREATH: Duration = Duration::from_millis(5);

/// What a look is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Sweeps, details, jobs and grants.
    Everything,
    /// Jobs, and what they bring: a backfill without a daemon.
    JobsOnly,
}

/// How a cycle ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing was due any more.
    Drained,
    /// Somebody stopped it.
    Stopped,
    /// The state directory cannot be written.
    LedgerUnavailable,
}

/// What a look found.
enum Look {
    /// Nothing was being done, and nothing is due.
    NothingLeft,
    /// Something is being done, or was until a moment ago.
    AtWork,
    /// Nothing can be known.
    LedgerUnavailable,
}

impl Pipeline {
    /// Returns when a piece of work has ended or has brought new work: at once if nothing is being done any more or the
    /// last look was a while ago, else a moment later, so that one look serves what happens meanwhile.
    async fn news(&self) {
        self.activity.changed.notified().await;
        let since = self.activity.since_look(self.clock.monotonic());
        let breath = BREATH.saturating_sub(since);
        if breath.is_zero() || self.activity.is_idle() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(breath) => {}
            () = self.activity.idle.notified() => {}
        }
    }

    /// Runs until the soft stop: looks at every tick, and whenever a piece of work has ended.
    pub async fn run(self: Arc<Self>, lifecycle: &Lifecycle, nudges: &Nudges) {
        let until = Until {
            stopped: lifecycle.soft().clone(),
            drained: CancellationToken::new(),
        };
        for index in 0..self.sinks.len() {
            lifecycle.spawn(Arc::clone(&self).run_sink(index, until.clone()));
        }
        let (audit, soft) = (self.audit.clone(), lifecycle.soft().clone());
        lifecycle.spawn(async move { audit.run(soft).await });
        let hourly = Arc::clone(&self);
        let (hour, soft) = (Arc::clone(&nudges.hour), lifecycle.soft().clone());
        lifecycle.spawn(async move { hourly.prune_hourly(&hour, &soft).await });
        while !lifecycle.soft().is_cancelled() {
            self.look(Scope::Everything, lifecycle).await;
            nudges.looked();
            // What failed because the ledger cannot be written is still due: without this it would be begun again as
            // soon as it has failed.
            let degraded = self.activity.is_degraded();
            tokio::select! {
                () = nudges.tick.notified() => {}
                () = self.news(), if !degraded => {}
                // A wall clock that is set back stops the cron ticks until it has caught up.
                () = tokio::time::sleep(LONGEST_SLEEP) => {}
                () = lifecycle.soft().cancelled() => {}
            }
        }
    }

    /// Works until nothing is due any more and every sink is drained, or until the soft stop.
    pub async fn run_until_drained(self: Arc<Self>, lifecycle: &Lifecycle, scope: Scope) -> Ended {
        let until = Until {
            stopped: lifecycle.soft().clone(),
            drained: CancellationToken::new(),
        };
        let mut outbox = JoinSet::new();
        for index in 0..self.sinks.len() {
            let sink = Arc::clone(&self).run_sink(index, until.clone());
            let hard = lifecycle.hard().clone();
            outbox.spawn(async move {
                tokio::select! {
                    () = sink => {}
                    () = hard.cancelled() => {}
                }
            });
        }
        let audited = CancellationToken::new();
        let (audit, ended_too) = (self.audit.clone(), audited.clone());
        lifecycle.spawn(async move { audit.run(ended_too).await });
        let mut ended = Ended::Stopped;
        while !lifecycle.soft().is_cancelled() {
            match self.look(scope, lifecycle).await {
                // What is due stays due for as long as nothing can be written: a cycle ends, the daemon waits.
                Look::NothingLeft | Look::AtWork if self.activity.is_degraded() => {
                    ended = Ended::LedgerUnavailable;
                    break;
                }
                Look::NothingLeft => {
                    ended = Ended::Drained;
                    break;
                }
                Look::AtWork => {
                    tokio::select! {
                        () = self.news() => {}
                        () = lifecycle.soft().cancelled() => {}
                    }
                }
                Look::LedgerUnavailable => {
                    ended = Ended::LedgerUnavailable;
                    break;
                }
            }
        }
        until.drained.cancel();
        self.wake_sinks();
        while outbox.join_next().await.is_some() {}
        audited.cancel();
        self.audit.finish().await;
        ended
    }

    /// Begins what is due and not being done already.
    async fn look(self: &Arc<Self>, scope: Scope, lifecycle: &Lifecycle) -> Look {
        match self.try_look(scope, lifecycle).await {
            Ok(look) => look,
            Err(error) => {
                self.ledger_trouble(&error);
                Look::LedgerUnavailable
            }
        }
    }

    async fn try_look(
        self: &Arc<Self>,
        scope: Scope,
        lifecycle: &Lifecycle,
    ) -> Result<Look, Unavailable> {
        // Known before the ledger is read: what ends in between is still due in what was read, and must not be begun
        // a second time for it. Its end rings for the next look.
        let busy = self.activity.busy();
        self.activity.looked(self.clock.monotonic());
        let now = self.now();
        let mut begun = 0;
        let sweeping = busy.iter().any(|work| matches!(work, Work::Sweep(_)));
        if scope == Scope::Everything && self.activity.may_read_lanes(sweeping, now) {
            for lane in self.ledger.due_lanes(now, self.pace.fast).await? {
                if self.lanes.contains(&lane.id) {
                    begun += self.begin(
                        lifecycle,
                        &busy,
                        Work::Sweep(lane.id),
                        |pipeline| async move {
                            pipeline.sweep(lane).await;
                        },
                    );
                }
            }
        }
        if scope == Scope::Everything
            && self.activity.may_keep_alive(now)
            && let Some(refresh_at) = self.tokens.next_refresh_at().await?
            && refresh_at <= now
        {
            self.begin(lifecycle, &busy, Work::KeepAlive, |pipeline| async move {
                if let Err(error) = pipeline.tokens.keep_alive().await {
                    pipeline.ledger_trouble(&error);
                }
            });
        }
        // Where bodies are not kept, each sink fetches what it is about to attempt.
        let owed_to = match self.bodies {
            Bodies::UntilSettled => self.ledger.clinics_owed(now).await?,
            Bodies::Never => Vec::new(),
        };
        for clinic in owed_to {
            if !self.activity.is_resting(&clinic, now) {
                begun += self.begin(
                    lifecycle,
                    &busy,
                    Work::Details(clinic.clone()),
                    |pipeline| async move {
                        pipeline.fetch_owed(&clinic).await;
                    },
                );
            }
        }
        for work in self.ledger.open_job_lanes().await? {
            begun += self.begin(
                lifecycle,
                &busy,
                Work::Job(work.job.job, work.id),
                |pipeline| async move {
                    pipeline.backfill(work).await;
                },
            );
        }
        // What was being done before the ledger was read may have brought work since: only the next look can tell.
        Ok(if begun == 0 && busy.is_empty() {
            Look::NothingLeft
        } else {
            Look::AtWork
        })
    }

    /// Spawns a piece of work, unless it is being done or was `busy` before the ledger was read. Gives 1 if it was begun,
    /// or is for a later look to begin.
    fn begin<F, Fut>(
        self: &Arc<Self>,
        lifecycle: &Lifecycle,
        busy: &HashSet<Work>,
        work: Work,
        body: F,
    ) -> usize
    where
        F: FnOnce(Arc<Self>) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        if busy.contains(&work) {
            // Whether it is due still is seen after its end.
            return 1;
        }
        let Some(working) = self.activity.begin(work) else {
            return 0;
        };
        let body = body(Arc::clone(self));
        let soft = lifecycle.soft().clone();
        lifecycle.spawn(async move {
            tokio::select! {
                // A listing or a fetch has no effect outside: it is simply dropped and done again after the restart.
                () = soft.cancelled() => {}
                () = body => {}
            }
            drop(working);
        });
        1
    }

    async fn prune_hourly(&self, hour: &Notify, soft: &CancellationToken) {
        loop {
            tokio::select! {
                () = hour.notified() => {}
                () = soft.cancelled() => return,
            }
            if let Err(error) = self.ledger.empty_log().await {
                tracing::warn!("{error}: the write-ahead log is emptied in an hour");
            }
            if let Err(error) = self.ledger.prune_frames(self.now()).await {
                self.ledger_trouble(&error);
            }
            tokio::select! {
                () = self.prune() => {}
                () = soft.cancelled() => return,
            }
        }
    }

    /// Forgets what may be forgotten: an hour's share of it.
    pub async fn prune(&self) {
        let now = self.now();
        let pruned = self
            .ledger
            .prune(self.activity.clocks(), self.clock.since_boot());
        let pruned = pruned.await;
        if matches!(pruned, Ok(Pruned::Forgotten { .. })) {
            self.audit.expire(now).await;
        }
        match pruned {
            Ok(Pruned::Forgotten { events: 0, .. }) => {}
            Ok(Pruned::Forgotten {
                events,
                more: false,
            }) => tracing::info!(
                events,
                "forgot events that were last listed more than 35 days ago"
            ),
            Ok(Pruned::Forgotten { events, more: true }) => tracing::warn!(
                events,
                "forgot events that were last listed more than 35 days ago, as many as may be forgotten in an hour: \
                 if the date of this machine is wrong, stop the daemon now"
            ),
            Ok(Pruned::Doubted(Doubt::Disagree(heard))) => tracing::error!(
                ours = %heard.ours.format("%FT%TZ"), fullscripts = %heard.fullscripts.format("%FT%TZ"),
                "this machine's clock and Fullscript's disagree: nothing is forgotten until they agree (`timedatectl`)"
            ),
            Ok(Pruned::Doubted(Doubt::TooShort(left))) => tracing::info!(
                minutes = left.num_minutes(),
                "nothing is forgotten until the clocks have gone alike for so long"
            ),
            Ok(Pruned::Doubted(Doubt::NotHeard)) => {
                tracing::info!("nothing is forgotten while Fullscript does not answer");
            }
            Err(error) => self.ledger_trouble(&error),
        }
    }
}
