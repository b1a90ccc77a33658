//! Everything that changes in the double, behind one lock: what came, what it did, what is answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::Options;
use super::chart::{Chart, Effects, Note, Notes, Order, SentNote, Treatment, Treatments};
use super::envelope::{Envelope, Reading};
use super::script::{Facts, Rule, Script};

/// How many events are remembered; older ones are forgotten.
const REMEMBERED: usize = 10_000;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It took effect.
    Booked,
    /// Its object came before its type, or it had none: nothing happened, and the sender heard 200.
    Dropped,
    /// Nothing is done for its type, and the sender heard 200.
    Ignored,
    /// It was refused.
    Refused,
    /// Its clinic's key is not known.
    Unauthorized,
    /// It is no JSON object, or its object is not of the shape of its type.
    Unreadable,
}

impl Outcome {
    /// The word in lines and in the state.
    fn as_str(self) -> &'static str {
        match self {
            Self::Booked => "booked",
            Self::Dropped => "dropped in silence",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
            Self::Unauthorized => "unknown key",
            Self::Unreadable => "unreadable",
        }
    }
}

/// An event that came. May carry health data: no `Debug`.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Received {
    /// Counts events, from 1.
    pub number: u64,
    /// The clinic's name, if its key is known.
    pub clinic: Option<String>,
    /// The keys of the envelope, in order.
    pub keys: Vec<String>,
    /// Its `eventType`.
    pub event_type: Option<String>,
    /// Its `X-Event-Id`.
    pub event_id: Option<String>,
    /// Its `X-Delivery-Attempt`.
    pub attempt: Option<String>,
    /// The `id` of its object.
    pub object_id: Option<String>,
    /// The `treatmentGuid` or `noteGuid` of its items, in order.
    pub guids: Vec<String>,
    /// The `status` of its items, in order.
    pub statuses: Vec<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// What it did.
    pub effects: Effects,
    /// The status that it is answered with; none if it is never answered.
    pub status: Option<u16>,
    /// The `Message` of the answer.
    pub message: Option<String>,
    /// The body, where the double shows text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// A late result that was posted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CalledBack {
    /// The `id` of the batch.
    pub id: String,
    /// The status of the answer; none if there was none.
    pub status: Option<u16>,
}

/// All that the double holds. May carry health data: no `Debug`.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Orders and returns.
    pub orders: Vec<Order>,
    /// Notes.
    pub notes: Vec<Note>,
    /// Events that were dropped in silence.
    pub dropped: u64,
    /// Events of a type that nothing is done for.
    pub ignored: u64,
    /// The events that came, oldest first; at most the last 10,000.
    pub received: Vec<Received>,
    /// Late results that were posted.
    pub call_backs: Vec<CalledBack>,
}

/// What the web server is to do with an event.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) message: Option<String>,
    pub(super) retry_after_s: Option<u64>,
    pub(super) delay: Duration,
    pub(super) hang: bool,
    /// A batch whose late result is owed.
    pub(super) owed: Option<String>,
}

/// A batch of treatments, for its late result.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) clinic_api_key: String,
    pub(super) treatments: Vec<Value>,
}

/// A running double's inside; clones are the same double.
#[derive(Clone)]
pub struct Handle {
    pub(super) options: Arc<Options>,
    inside: Arc<Mutex<Inside>>,
    /// Turns true when the double stops.
    pub(super) ended: watch::Sender<bool>,
    pub(super) tasks: TaskTracker,
}

#[derive(Default)]
struct Inside {
    chart: Chart,
    script: Script,
    received: VecDeque<Received>,
    count: u64,
    dropped: u64,
    ignored: u64,
    /// By treatment: the status and the message of its late result.
    late: BTreeMap<String, (i64, String)>,
    batches: BTreeMap<String, Batch>,
    call_backs: Vec<CalledBack>,
}

/// The items of a payload.
enum Items {
    Treatments(Vec<Treatment>),
    Notes(Vec<SentNote>),
}

impl Handle {
    pub(super) fn new(options: Options) -> Self {
        let inside = Inside {
            chart: Chart {
                visits: options.visits.iter().cloned().collect(),
                unknown_items: options.unknown_items.iter().cloned().collect(),
                least_words: options.least_words,
                without_notes: options.without_notes,
                shows_text: options.shows_text,
                ..Chart::default()
            },
            ..Inside::default()
        };
        Self {
            options: Arc::new(options),
            inside: Arc::new(Mutex::new(inside)),
            ended: watch::Sender::new(false),
            tasks: TaskTracker::new(),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that it holds now.
    pub fn state(&self) -> State {
        let inside = self.inside();
        State {
            orders: inside.chart.orders.clone(),
            notes: inside.chart.notes.clone(),
            dropped: inside.dropped,
            ignored: inside.ignored,
            received: inside.received.iter().cloned().collect(),
            call_backs: inside.call_backs.clone(),
        }
    }

    /// Scripts answers; the rule that was added first decides.
    pub fn script(&self, rule: Rule) {
        self.inside().script.add(rule);
    }

    /// Ends all scripted answers.
    pub fn clear_script(&self) {
        self.inside().script.clear();
    }

    /// The late result of a treatment, whenever it comes: below 0 is an error.
    pub fn set_late_result(&self, guid: &str, status: i64, message: &str) {
        let result = (status, message.to_owned());
        self.inside().late.insert(guid.to_owned(), result);
    }

    /// The clinic charges every order: a later change is booked as a difference.
    pub fn post_orders(&self) {
        self.inside().chart.post_orders();
    }

    /// The clinic finalises every note: what is delivered again becomes an addendum.
    pub fn finalise_notes(&self) {
        self.inside().chart.finalise_notes();
    }

    pub(super) fn end(&self) {
        self.ended.send_replace(true);
        self.tasks.close();
    }

    /// Waits until no call-back is on its way; for use after the end.
    pub(super) async fn called_back(&self) {
        self.tasks.wait().await;
    }

    pub(super) fn note_call_back(&self, called: CalledBack) {
        let status = called
            .status
            .map_or("no answer".to_owned(), |s| s.to_string());
        self.say(&format!("late result of {} posted: {status}", called.id));
        self.inside().call_backs.push(called);
    }

    /// The batch of this id and its late results, each treatment with all its fields.
    pub(super) fn late_result(&self, id: &str) -> Option<Batch> {
        let inside = self.inside();
        let mut batch = inside.batches.get(id)?.clone();
        for treatment in &mut batch.treatments {
            let guid = treatment.get("treatmentGuid").and_then(Value::as_str);
            let late = guid.and_then(|guid| inside.late.get(guid));
            let (status, message) = late.map_or((0, None), |(status, message)| {
                (*status, Some(message.clone()))
            });
            if let Value::Object(fields) = treatment {
                fields.insert("asyncOperationStatus".to_owned(), status.into());
                fields.insert("asyncOperationMessage".to_owned(), message.into());
            }
        }
        Some(batch)
    }

    fn say(&self, line: &str) {
        if let Some(lines) = &self.options.lines {
            let now = self.options.clock.now().format("%H:%M:%S");
            // Nobody may be listening any more.
            drop(lines.send(format!("{now}  {line}")));
        }
    }

    /// Takes an event.
    pub(super) fn receive(
        &self,
        event_id: Option<String>,
        attempt: Option<String>,
        body: &[u8],
    ) -> Answer {
        let shown = self.options.shows_text;
        let shown = shown.then(|| String::from_utf8_lossy(body).into_owned());
        let mut received = Received {
            number: 0,
            clinic: None,
            keys: Vec::new(),
            event_type: None,
            event_id,
            attempt,
            object_id: None,
            guids: Vec::new(),
            statuses: Vec::new(),
            outcome: Outcome::Unreadable,
            effects: Effects::default(),
            status: None,
            message: None,
            body: shown,
        };
        let answer = self.judge(&mut received, body);
        received.status = (!answer.hang).then_some(answer.status);
        received.message.clone_from(&answer.message);
        let mut inside = self.inside();
        inside.count += 1;
        received.number = inside.count;
        match received.outcome {
            Outcome::Dropped => inside.dropped += 1,
            Outcome::Ignored => inside.ignored += 1,
            Outcome::Booked | Outcome::Refused | Outcome::Unauthorized | Outcome::Unreadable => {}
        }
        let line = line(&received);
        if inside.received.len() == REMEMBERED {
            inside.received.pop_front();
        }
        inside.received.push_back(received);
        drop(inside);
        self.say(&line);
        answer
    }

    fn judge(&self, received: &mut Received, body: &[u8]) -> Answer {
        let Some(envelope) = Envelope::read(body) else {
            return Answer::refusal(400, "the body is not a JSON object");
        };
        received.keys = envelope.keys;
        received.event_type = envelope.event_type;
        let key = envelope.clinic_api_key.unwrap_or_default();
        let mut clinics = self.options.clinics.iter();
        let Some((clinic, _)) = clinics.find(|(_, known)| **known == key) else {
            received.outcome = Outcome::Unauthorized;
            return Answer::refusal(401, "clinicApiKey is unknown");
        };
        received.clinic = Some(clinic.clone());
        let payload = match envelope.reading {
            Reading::Payload(payload) => Some(payload),
            Reading::Dropped => {
                received.outcome = Outcome::Dropped;
                None
            }
            Reading::Ignored => {
                received.outcome = Outcome::Ignored;
                None
            }
        };
        let items = match &payload {
            None => None,
            Some(payload) => match items(received, payload) {
                Some(items) => Some(items),
                None => return Answer::refusal(400, "the object is not of the shape of its type"),
            },
        };
        let ids: Vec<String> = [&received.event_id, &received.object_id]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let mut inside = self.inside();
        let rule = inside.script.take(&Facts {
            clinic,
            event_type: received.event_type.as_deref(),
            guids: &received.guids,
            ids: &ids,
        });
        let mut answer = Answer::of(rule.as_ref());
        if !rule.as_ref().is_none_or(Rule::books) {
            received.outcome = Outcome::Refused;
            return answer;
        }
        let Some(items) = items else {
            return answer;
        };
        let effects = match &items {
            Items::Notes(notes) => Ok(inside.chart.note(clinic, notes)),
            Items::Treatments(treatments) => inside.chart.treat(clinic, treatments),
        };
        match effects {
            Ok(effects) => {
                received.outcome = Outcome::Booked;
                received.effects = effects;
            }
            Err(message) => {
                received.outcome = Outcome::Refused;
                return Answer::refusal(400, &message);
            }
        }
        if let (Items::Treatments(_), Some(id), Some(payload)) =
            (items, &received.object_id, &payload)
        {
            inside.batches.insert(
                id.clone(),
                Batch {
                    clinic_api_key: key,
                    treatments: raw_treatments(payload),
                },
            );
            answer.owed = Some(id.clone());
        }
        answer
    }
}

impl Answer {
    fn refusal(status: u16, message: &str) -> Self {
        Self {
            status,
            message: Some(message.to_owned()),
            ..Self::of(None)
        }
    }

    fn of(rule: Option<&Rule>) -> Self {
        Self {
            status: rule.and_then(|rule| rule.status).unwrap_or(200),
            message: rule.and_then(|rule| rule.message.clone()),
            retry_after_s: rule.and_then(|rule| rule.retry_after_s),
            delay: Duration::from_millis(rule.map_or(0, |rule| rule.delay_ms)),
            hang: rule.is_some_and(|rule| rule.hang),
            owed: None,
        }
    }
}

/// Reads the items of a payload, and notes their ids; `None` if it is not of the shape of its type. Keys that are not
/// looked at may be there or not.
fn items(received: &mut Received, payload: &RawValue) -> Option<Items> {
    let value: Value = serde_json::from_str(payload.get()).ok()?;
    received.object_id = value.get("id").and_then(Value::as_str).map(str::to_owned);
    let (list, guid) = match received.event_type.as_deref() {
        Some("notes.entered") => ("notes", "noteGuid"),
        _ => ("treatments", "treatmentGuid"),
    };
    let members = match value.get(list).and_then(Value::as_array) {
        Some(members) => members.clone(),
        None => vec![value.clone()],
    };
    let texts = |name: &str| -> Vec<String> {
        let texts = members
            .iter()
            .filter_map(|member| member.get(name)?.as_str());
        texts.map(str::to_owned).collect()
    };
    (received.guids, received.statuses) = (texts(guid), texts("status"));
    match received.event_type.as_deref() {
        Some("notes.entered") => {
            let Notes { notes } = serde_json::from_value(value).ok()?;
            Some(Items::Notes(notes))
        }
        Some("treatment.record_entered") => {
            let treatment = serde_json::from_value(value).ok()?;
            Some(Items::Treatments(vec![treatment]))
        }
        _ => {
            let Treatments { treatments } = serde_json::from_value(value).ok()?;
            Some(Items::Treatments(treatments))
        }
    }
}

fn raw_treatments(payload: &RawValue) -> Vec<Value> {
    let value: Value = serde_json::from_str(payload.get()).unwrap_or_default();
    let treatments = value.get("treatments").and_then(Value::as_array);
    treatments.cloned().unwrap_or_default()
}

/// An event as a person reads it: ids and counts, no text of it.
fn line(event: &Received) -> String {
    let clinic = event.clinic.as_deref().unwrap_or("?");
    let event_type = event.event_type.as_deref().unwrap_or("(no eventType)");
    let mut words = vec![event.outcome.as_str().to_owned()];
    let effects = event.effects;
    for (count, what) in [
        (effects.made, "made"),
        (effects.changed, "changed"),
        (effects.removed, "removed"),
        (effects.notes, "written"),
        (effects.addenda, "addenda"),
        (effects.nothing, "without effect"),
    ] {
        if count > 0 {
            words.push(format!("{count} {what}"));
        }
    }
    words.extend(event.message.clone());
    let items = match event.guids.len() {
        0 => String::new(),
        1 => "1 item  ".to_owned(),
        n => format!("{n} items  "),
    };
    let id = event.event_id.as_ref().or(event.object_id.as_ref());
    let id = id.map(|id| format!("{id}  ")).unwrap_or_default();
    let status = event
        .status
        .map_or("no answer".to_owned(), |status| status.to_string());
    format!(
        "{clinic}  {event_type}  {id}{items}{status}: {}",
        words.join(", ")
    )
}
