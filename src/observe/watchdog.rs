//! systemd's watchdog: fed only while ticks are followed and the database answers a read.
//!
//! A full or read-only disk is not a reason to be killed: a read still works, the trouble is in the log and in
//! `status`, and a restart would not mend it. A scheduler that has stopped ticking is a reason.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::ledger::Query;
use crate::lifecycle::notify;
use crate::schedule::Nudges;

/// How long the database may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Feeds the watchdog until the stop, if systemd asked for it.
pub async fn feed(query: Query, nudges: Nudges, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut looks = nudges.looks();
    loop {
        tokio::select! {
            () = tokio::time::sleep(limit / 3) => {}
            () = stop.cancelled() => return,
        }
        let answers = tokio::time::timeout(ANSWER, query.answers()).await;
        let looked = nudges.looks();
        match answers {
            Ok(Ok(())) if looked > looks => notify(&[NotifyState::Watchdog]),
            Ok(Ok(())) => tracing::error!("the scheduler does not tick: the watchdog is not fed"),
            Ok(Err(_)) | Err(_) => {
                tracing::error!("the database does not answer: the watchdog is not fed");
            }
        }
        looks = looked;
    }
}
