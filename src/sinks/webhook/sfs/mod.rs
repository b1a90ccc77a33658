//! `format = "sfs"`: an EMR that was written for Smart Flow Sheet (`docs/smart-flow-sheet.md`).
//!
//! One call delivers for several clinics side by side; of a clinic, one post follows the other, in the source's order. What
//! ends a post for all that it carries (no answer, a wish to come later, a refused key) ends the clinic's turn: what is
//! behind was not sent. A refused batch is halved until each refusal has its one item, and what makes the EMR fail by itself
//! (a 5xx to one event) keeps nobody else back.
//!
//! It prevents that one bad item takes a batch with it, and that a treatment is entered twice: what may have arrived is
//! noted durably before it is posted, and every later message about it says `changed`.

mod alone;
mod crosswalk;
mod posts;
mod treatments;
mod verdict;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use secrecy::SecretString;

pub(super) use self::alone::Alone;
use self::posts::{Body, Item};
use self::verdict::{Answer, Arrived};
use super::request::Stamp;
use super::{WebhookSink, verdict as of_webhook};
use crate::config::{self, SfsMode};
use crate::domain::{ClinicName, Operation, Outcome, Output, Parcel, Parked, SinkName};
use crate::format::sfs::{self, Record, Several, Status};
use crate::format::{NoBody, standard};
use crate::sinks::{Ports, SharedRecorder};

pub use crosswalk::{Crossed, Crosswalk, SharedCrosswalk, Uncrossed};
pub use treatments::{
    Ended, Post, Sending, SharedTreatments, Told, Treatments, Unnoted, Untracked,
};

/// When an event without a crosswalk is looked at again: changing the EMR's id makes no event.
const ASK_AGAIN: TimeDelta = TimeDelta::hours(6);
/// When it is looked at again where Fullscript could not be asked.
const ASK_SOON: TimeDelta = TimeDelta::minutes(10);

/// What a webhook of this format has beside the rest.
pub(super) struct Sfs {
    pub(super) sink: SinkName,
    pub(super) settings: config::Sfs,
    pub(super) keys: BTreeMap<ClinicName, SecretString>,
    pub(super) ports: Ports,
    pub(super) alone: Alone,
}

impl Sfs {
    /// How many parcels one call takes: a batch, or where each is posted alone one for each clinic that may be at it.
    pub(super) fn takes(&self, concurrency: usize) -> usize {
        if self.settings.batch > 1 {
            self.settings.batch
        } else if self.is_one_by_one() {
            concurrency
        } else {
            1
        }
    }

    /// Whether no two calls may run at once, because a clinic's order is kept across its posts.
    pub(super) fn is_one_by_one(&self) -> bool {
        self.settings.batch > 1 || matches!(self.settings.mode, SfsMode::Treatments { .. })
    }
}

impl WebhookSink {
    /// One attempt for each parcel.
    pub(super) async fn deliver_sfs(
        &self,
        sfs: &Sfs,
        parcels: &[Parcel],
        now: DateTime<Utc>,
    ) -> (Vec<Outcome>, Vec<Option<u16>>) {
        if let Err(refused) = self.check_literal(&self.settings.url) {
            let reason = refused.to_string();
            let refused = |_: &Parcel| Outcome::NotSent {
                reason: reason.clone(),
            };
            return (parcels.iter().map(refused).collect(), Vec::new());
        }
        let mut clinics: BTreeMap<&ClinicName, Vec<(usize, &Parcel)>> = BTreeMap::new();
        for (index, parcel) in parcels.iter().enumerate() {
            let of_clinic = clinics.entry(&parcel.clinic).or_default();
            of_clinic.push((index, parcel));
        }
        let turns = clinics.into_iter().map(|(clinic, parcels)| async move {
            let turn = Turn {
                webhook: self,
                sfs,
                clinic,
                now,
                ends: parcels
                    .into_iter()
                    .map(|(at, of)| (at, Ends::of(of)))
                    .collect(),
            };
            turn.taken().await
        });
        let ended: Vec<_> = stream::iter(turns.collect::<Vec<_>>())
            .buffer_unordered(self.settings.concurrency)
            .collect()
            .await;
        let ended: BTreeMap<usize, _> = ended.into_iter().flatten().collect();
        ended.into_values().unzip()
    }
}

/// How the things of one event have ended so far.
struct Ends<'a> {
    parcel: &'a Parcel,
    outcomes: Vec<Outcome>,
    messages: Vec<String>,
    /// What the last post with it was answered with.
    status_code: Option<u16>,
}

impl<'a> Ends<'a> {
    fn of(parcel: &'a Parcel) -> Self {
        Self {
            parcel,
            outcomes: Vec::new(),
            messages: Vec::new(),
            status_code: None,
        }
    }
}

/// One clinic's part of a call.
struct Turn<'a> {
    webhook: &'a WebhookSink,
    sfs: &'a Sfs,
    clinic: &'a ClinicName,
    now: DateTime<Utc>,
    ends: BTreeMap<usize, Ends<'a>>,
}

impl Turn<'_> {
    /// Takes the turn, and gives each parcel's outcome.
    async fn taken(mut self) -> Vec<(usize, (Outcome, Option<u16>))> {
        let Some(key) = self.sfs.keys.get(self.clinic) else {
            // The configuration has one for every clinic; a backlog may be of one that it does not name any more.
            let reason = "sfs.clinic_keys has no key for its clinic".to_owned();
            let refused = Outcome::ClinicRefused { reason };
            let ended = |at: usize| (at, (refused.clone(), None));
            return self.ends.into_keys().map(ended).collect();
        };
        let items = self.items().await;
        let mut waiting = posts::posts(items, self.sfs.settings.batch);
        waiting.reverse();
        while let Some(post) = waiting.pop() {
            match self.sent(key, post).await {
                Sent::All => {}
                Sent::Refused(post) => {
                    let (first, second) = post;
                    waiting.extend([second, first]);
                }
                Sent::Ends(outcome) => {
                    let unsent = verdict::of_unsent(&outcome);
                    for item in waiting.drain(..).flatten() {
                        self.end(item.parcel, unsent.clone());
                    }
                }
            }
        }
        self.concluded().await
    }

    fn end(&mut self, parcel: usize, outcome: Outcome) {
        if let Some(ends) = self.ends.get_mut(&parcel) {
            ends.outcomes.push(outcome);
        }
    }

    /// What is to be posted, in the source's order. What there is nothing to post of has ended with that.
    async fn items(&mut self) -> Vec<Item> {
        let parcels: Vec<_> = self
            .ends
            .iter()
            .map(|(at, ends)| (*at, ends.parcel))
            .collect();
        let mut items = Vec::with_capacity(parcels.len());
        for (at, parcel) in parcels {
            match self.bodies(parcel).await {
                Ok(bodies) => {
                    let goes_alone = self.sfs.alone.goes(parcel.delivery);
                    let item = |body| Item {
                        parcel: at,
                        event_type: self.event_type(parcel),
                        goes_alone,
                        body,
                    };
                    items.extend(bodies.into_iter().map(item));
                }
                Err(outcome) => self.end(at, outcome),
            }
        }
        items
    }

    fn event_type(&self, parcel: &Parcel) -> String {
        let several = self.sfs.settings.batch > 1;
        match &self.sfs.settings.mode {
            SfsMode::Native if several => sfs::plural(parcel.event_type.as_str()),
            SfsMode::Native => parcel.event_type.as_str().to_owned(),
            SfsMode::Notes { .. } => sfs::NOTES.to_owned(),
            SfsMode::Treatments { .. } if several => sfs::TREATMENTS.to_owned(),
            SfsMode::Treatments { .. } => sfs::TREATMENT.to_owned(),
        }
    }

    /// What becomes of an event. `Err`: nothing, and how it ends.
    async fn bodies(&self, parcel: &Parcel) -> Result<Vec<Body>, Outcome> {
        let unreadable = |error: NoBody| Outcome::No {
            reason: error.to_string(),
            retry_after: None,
        };
        let settings = &self.sfs.settings;
        let nothing = || Outcome::Skip {
            reason: format!("nothing of it for sfs.mode = {:?}", settings.mode.name()),
        };
        if !settings.mode.has_something_for(parcel.event_type.as_str()) {
            return Err(nothing());
        }
        match &settings.mode {
            SfsMode::Native => {
                let data = self
                    .webhook
                    .payload
                    .data(&parcel.body)
                    .map_err(unreadable)?;
                let entity = sfs::native(parcel, data.as_deref());
                let entity = entity.map_err(|error| unreadable(error.into()))?;
                Ok(vec![Body::Native(entity)])
            }
            SfsMode::Notes { text } => {
                let record = Record::of(parcel).map_err(|error| unreadable(error.into()))?;
                let hospitalization = self.hospitalization(record).await?;
                let note = sfs::note(parcel, &hospitalization, text);
                let note = note.map_err(|error| unreadable(error.into()))?;
                Ok(vec![Body::Note(note)])
            }
            SfsMode::Treatments { billed, .. } => {
                let record = Record::of(parcel).map_err(|error| unreadable(error.into()))?;
                // Nobody is asked whose it is where there is nothing to send.
                if record.id.is_none() || record.lines.is_empty() {
                    return Err(nothing());
                }
                let hospitalization = self.hospitalization(record).await?;
                let entered = sfs::treatments(parcel, &hospitalization, *billed);
                let entered = entered.map_err(|error| unreadable(error.into()))?;
                Ok(entered.into_iter().map(Body::Treatment).collect())
            }
        }
    }

    /// The EMR's own id of the visit: the plan's, else the patient's. Nobody is asked where the event carries it.
    async fn hospitalization(&self, record: Record) -> Result<String, Outcome> {
        if let Some(visit) = record.visit {
            return Ok(visit);
        }
        for subject in record.subjects {
            let crosswalk = &self.sfs.ports.crosswalk;
            match crosswalk.hospitalization_id(self.clinic, subject).await {
                Crossed::Found(id) => return Ok(id),
                Crossed::None => {}
                Crossed::Unavailable(why) => {
                    // Not the event's fault: it waits aside, and is never given up or set aside for it as one that its
                    // receiver keeps putting off.
                    return Err(Outcome::Park {
                        why: Parked::NoCrosswalk,
                        reason: format!("not sent, as its crosswalk is not known: {why}"),
                        until: Some(self.now + ASK_SOON),
                    });
                }
            }
        }
        Err(Outcome::Park {
            why: Parked::NoCrosswalk,
            reason: "Fullscript knows no metadata.id of its plan or patient".to_owned(),
            until: Some(self.now + ASK_AGAIN),
        })
    }

    /// Posts once.
    async fn sent(&mut self, key: &SecretString, post: posts::Post) -> Sent {
        let batch = self.id(&post);
        let (post, noted) = match self.noted(&batch, post).await {
            Ok(noted) => noted,
            Err(ended) => return Sent::Ends(ended),
        };
        let Some(request) = self.request(key, &batch, &post) else {
            for item in &post {
                let reason = "it cannot be written as JSON".to_owned();
                let no = Outcome::No {
                    reason,
                    retry_after: None,
                };
                self.end(item.parcel, no);
            }
            return Sent::All;
        };
        let answer = match request {
            None => return Sent::All,
            Some(request) => match request.send().await {
                Ok(response) => {
                    self.answered(&post, response.status().as_u16());
                    verdict::answered(response, self.now).await
                }
                Err(error) => verdict::unanswered(of_webhook::unanswered(&error)),
            },
        };
        let ended = match &answer {
            Answer::Taken => Some(Ended::Accepted),
            Answer::Failed { .. } | Answer::Ends(_, Arrived::Maybe) => None,
            Answer::Refused { .. } | Answer::Ends(_, Arrived::No) => Some(Ended::Refused),
        };
        if let (Some(noted), Some(ended)) = (noted, ended) {
            // Not noted, it may have arrived: then the next message says `changed`, which is right in either case.
            if let Err(error) = self.sfs.ports.treatments.ended(noted, ended).await {
                tracing::warn!(sink = %self.sfs.sink, clinic = %self.clinic, "{error}");
            }
        }
        self.heard(answer, post)
    }

    fn answered(&mut self, post: &posts::Post, status_code: u16) {
        for item in post {
            if let Some(ends) = self.ends.get_mut(&item.parcel) {
                ends.status_code = Some(status_code);
            }
        }
    }

    fn heard(&mut self, answer: Answer, post: posts::Post) -> Sent {
        match answer {
            Answer::Taken => {
                for item in &post {
                    self.end(item.parcel, self.accepted());
                }
                Sent::All
            }
            Answer::Refused { reason, message } => match posts::halved(post) {
                (first, Some(second)) => Sent::Refused((first, second)),
                (one, None) => {
                    for item in one {
                        if let Some(ends) = self.ends.get_mut(&item.parcel) {
                            ends.messages.extend(message.clone());
                        }
                        let reason = reason.clone();
                        self.end(
                            item.parcel,
                            Outcome::No {
                                reason,
                                retry_after: None,
                            },
                        );
                    }
                    Sent::All
                }
            },
            Answer::Failed { reason } => {
                let outcome = Outcome::Doubt { reason };
                for item in &post {
                    self.end(item.parcel, outcome.clone());
                }
                if posts::events(&post) == 1 {
                    Sent::All
                } else {
                    Sent::Ends(outcome)
                }
            }
            Answer::Ends(outcome, _) => {
                for item in &post {
                    self.end(item.parcel, outcome.clone());
                }
                Sent::Ends(outcome)
            }
        }
    }

    /// What was accepted is delivered, or awaits its result.
    fn accepted(&self) -> Outcome {
        self.deadline().map_or(Outcome::Yes, |until| Outcome::Park {
            why: Parked::AwaitsResult,
            reason: "accepted; its result is awaited".to_owned(),
            until: Some(until),
        })
    }

    fn deadline(&self) -> Option<DateTime<Utc>> {
        match self.sfs.settings.mode {
            SfsMode::Treatments { late_results, .. } => late_results.map(|span| self.now + span),
            SfsMode::Native | SfsMode::Notes { .. } => None,
        }
    }

    /// The message's id: the same whenever the same things of the same deliveries are sent together.
    fn id(&self, post: &posts::Post) -> String {
        let parts = post.iter().filter_map(|item| {
            let parcel = self.ends.get(&item.parcel)?.parcel;
            Some(match &item.body {
                Body::Treatment(treatment) => format!(
                    "{}/{}",
                    standard::id(parcel.delivery, &parcel.event),
                    treatment.treatment_guid
                ),
                Body::Native(_) | Body::Note(_) => standard::id(parcel.delivery, &parcel.event),
            })
        });
        sfs::guid(&parts.collect::<Vec<_>>().join("\n"))
    }

    /// Notes that treatments may arrive from now on, and words each as what was sent before demands. What a later event
    /// has overtaken is left out, and has ended.
    async fn noted(
        &mut self,
        batch: &str,
        post: posts::Post,
    ) -> Result<(posts::Post, Option<Post>), Outcome> {
        let sending = post.iter().filter_map(|item| {
            let parcel = self.ends.get(&item.parcel)?.parcel;
            let Body::Treatment(treatment) = &item.body else {
                return None;
            };
            Some(Sending {
                guid: treatment.treatment_guid.clone(),
                delivery: parcel.delivery,
                event: parcel.event.clone(),
                created_at: parcel.created_at,
                begins: parcel.event_type.operation() == Operation::Create,
                billed: treatment.billed,
            })
        });
        let mut noting = Post {
            sink: self.sfs.sink.clone(),
            clinic: self.clinic.clone(),
            batch: batch.to_owned(),
            posted_at: self.now,
            deadline: self.deadline(),
            items: sending.collect(),
        };
        if noting.items.is_empty() {
            return Ok((post, None));
        }
        let told = match self.sfs.ports.treatments.sending(noting.clone()).await {
            Ok(told) => told,
            Err(error) => {
                let reason = error.to_string();
                let ended = Outcome::NotSent { reason };
                for item in &post {
                    self.end(item.parcel, ended.clone());
                }
                return Err(ended);
            }
        };
        let mut worded = Vec::with_capacity(post.len());
        for (mut item, told) in post.into_iter().zip(told) {
            if let Body::Treatment(treatment) = &mut item.body {
                match told {
                    Told::Never => {}
                    Told::Before { billed } => {
                        treatment.status = Status::Changed;
                        treatment.billed = billed;
                    }
                    Told::Later => {
                        noting
                            .items
                            .retain(|sent| sent.guid != treatment.treatment_guid);
                        let reason = "a later event of the same plan or order was sent".to_owned();
                        self.end(item.parcel, Outcome::Skip { reason });
                        continue;
                    }
                }
            }
            worded.push(item);
        }
        Ok((worded, Some(noting)))
    }

    /// The request of a post; `Some(None)` where nothing is left to be sent.
    #[allow(
        clippy::option_option,
        reason = "no JSON, and nothing to send, are two things"
    )]
    fn request(
        &self,
        key: &SecretString,
        batch: &str,
        post: &posts::Post,
    ) -> Option<Option<reqwest::RequestBuilder>> {
        let Some(first) = post.first() else {
            return Some(None);
        };
        let body = body(key, batch, self.sfs.settings.batch > 1, post)?;
        let parcel = self.ends.get(&first.parcel)?.parcel;
        let attempts = post.iter().filter_map(|item| self.ends.get(&item.parcel));
        let one_event = post.iter().all(|item| item.parcel == first.parcel);
        let stamp = Stamp {
            event: if one_event {
                parcel.event.as_str()
            } else {
                batch
            },
            attempt: attempts.map(|ends| ends.parcel.attempt).max().unwrap_or(1),
            id: batch,
        };
        Some(Some(self.webhook.stamped(
            stamp,
            "application/json",
            body,
            self.now,
        )))
    }

    /// Each parcel's outcome; what the receiver has said of it is kept first.
    async fn concluded(self) -> Vec<(usize, (Outcome, Option<u16>))> {
        let mut concluded = Vec::with_capacity(self.ends.len());
        for (at, ends) in self.ends {
            keep(&self.sfs.ports.recorder, ends.parcel, &ends.messages).await;
            let outcome = verdict::worst(ends.outcomes);
            let outcome = outcome.unwrap_or_else(|| Outcome::NotSent {
                reason: "not sent".to_owned(),
            });
            self.sfs.alone.note(ends.parcel.delivery, &outcome);
            concluded.push((at, (outcome, ends.status_code)));
        }
        concluded
    }
}

/// What has become of a post.
enum Sent {
    /// Each of its items has ended.
    All,
    /// Both halves of it are to be sent.
    Refused((posts::Post, posts::Post)),
    /// Each of its items has ended so, and the clinic's turn with them.
    Ends(Outcome),
}

async fn keep(recorder: &SharedRecorder, parcel: &Parcel, messages: &[String]) {
    if messages.is_empty() {
        return;
    }
    let mut output = Output::default();
    output.push(messages.join("\n").as_bytes());
    recorder
        .record(parcel.delivery, parcel.attempt, output)
        .await;
}

/// The envelope of a post. Notes are always in their wrapper: there is no event for one alone.
fn body(key: &SecretString, batch: &str, several: bool, post: &posts::Post) -> Option<Vec<u8>> {
    let first = post.first()?;
    let bodies: Vec<_> = post.iter().map(|item| &item.body).collect();
    let object_type = match &first.body {
        Body::Native(_) if several => {
            let (object_type, _) = first
                .event_type
                .split_once('.')
                .unwrap_or((&first.event_type, ""));
            Some(object_type)
        }
        Body::Treatment(_) if several => Some("treatments"),
        Body::Note(_) => Some("notes"),
        Body::Native(_) | Body::Treatment(_) => None,
    };
    let envelope = match object_type {
        Some(object_type) => {
            let object = Several {
                object_type,
                id: batch,
                items: &bodies,
            };
            sfs::envelope(key, &first.event_type, &object)
        }
        None => sfs::envelope(key, &first.event_type, &first.body),
    };
    envelope.ok()
}
