//! What EMRs said later of what they accepted: kept in the memory of what they were sent (`treatments`).

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;

use super::Ledger;
use crate::late::{Batch, LateResults, Said, Verdict};
use crate::store::Unavailable;

impl LateResults for Ledger {
    fn batch(&self, id: String) -> BoxFuture<'_, Result<Option<Batch>, Unavailable>> {
        Box::pin(async move {
            let posted = Ledger::batch(self, id).await?;
            Ok(posted.map(|posted| Batch {
                clinic: posted.clinic,
                guids: posted.items.into_iter().map(|item| item.guid).collect(),
            }))
        })
    }

    fn settle(
        &self,
        id: String,
        verdicts: Vec<Verdict>,
        now: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<(), Unavailable>> {
        Box::pin(async move {
            let mut confirmed = Vec::new();
            for verdict in verdicts {
                match verdict.said {
                    Said::Confirmed => confirmed.push(verdict.guid),
                    Said::Rejected(words) => {
                        let words = words.as_str().to_owned();
                        self.reject(id.clone(), verdict.guid, words, now).await?;
                    }
                }
            }
            // After the rejections: a delivery of which one treatment was refused is not done.
            self.confirm(id, confirmed, now).await.map(drop)
        })
    }
}
