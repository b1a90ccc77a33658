//! What the EMR holds, and what an event does to it, as OpenVPMS' `TreatmentEventProcessor` and `NotesEventProcessor` do.
//! Pure.
//!
//! An order is *in progress* until somebody in the clinic charges it (`posted`). What is in progress is changed or removed
//! in place; against what is posted a change is booked as the difference, down as a return.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Number;

/// A pharmacy order, or a return.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Counts orders and returns ever made, from 1.
    pub number: u32,
    /// The clinic's name.
    pub clinic: String,
    /// The treatment that it was made for.
    pub treatment_guid: String,
    /// As sent.
    pub inventory_id: Option<String>,
    /// As sent.
    pub hospitalization_id: Option<String>,
    /// How much, to three places; below 0 for a return.
    pub qty: f64,
    /// Whether the clinic has charged it.
    pub posted: bool,
    #[serde(skip)]
    thousandths: i64,
}

/// A note in a visit. May carry health data: no `Debug`.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// The clinic's name.
    pub clinic: String,
    /// Its sender's id.
    pub note_guid: String,
    /// Its visit.
    pub hospitalization_id: String,
    /// Whether the clinic has finalised it.
    pub finalised: bool,
    /// How many words it has.
    pub words: usize,
    /// How many addenda it has.
    pub addenda: usize,
    /// Its text, and those of its addenda; empty unless the double shows text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<String>,
}

/// What an event did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Effects {
    /// Orders and returns made.
    #[serde(skip_serializing_if = "is_none")]
    pub made: u32,
    /// Orders and returns whose quantity changed.
    #[serde(skip_serializing_if = "is_none")]
    pub changed: u32,
    /// Orders and returns that were removed.
    #[serde(skip_serializing_if = "is_none")]
    pub removed: u32,
    /// Notes written, or written anew.
    #[serde(skip_serializing_if = "is_none")]
    pub notes: u32,
    /// Addenda to finalised notes.
    #[serde(skip_serializing_if = "is_none")]
    pub addenda: u32,
    /// Items of which nothing came, though the sender sees success: an unknown visit, a note too short, nothing to change.
    #[serde(skip_serializing_if = "is_none")]
    pub nothing: u32,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_none(count: &u32) -> bool {
    *count == 0
}

/// What the EMR holds.
#[derive(Default)]
pub(super) struct Chart {
    pub(super) orders: Vec<Order>,
    pub(super) notes: Vec<Note>,
    /// The visits there are; none said: every one.
    pub(super) visits: BTreeSet<String>,
    /// Inventory ids that are refused.
    pub(super) unknown_items: BTreeSet<String>,
    /// Notes of fewer words are left out.
    pub(super) least_words: usize,
    /// Whether notes are taken at all.
    pub(super) without_notes: bool,
    /// Whether texts are kept.
    pub(super) shows_text: bool,
    pub(super) made: u32,
}

/// `treatments` as sent, or a single `treatment`.
#[derive(Deserialize)]
pub(super) struct Treatments {
    #[serde(default)]
    pub(super) treatments: Vec<Treatment>,
}

/// What is looked at of a treatment.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Treatment {
    #[serde(rename = "treatmentGuid")]
    guid: String,
    inventory_id: Option<String>,
    hospitalization_id: Option<String>,
    status: Option<String>,
    qty: Option<Number>,
    billed: Option<bool>,
}

/// `notes` as sent.
#[derive(Deserialize)]
pub(super) struct Notes {
    #[serde(default)]
    pub(super) notes: Vec<SentNote>,
}

/// What is looked at of a note.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SentNote {
    pub(super) note_guid: String,
    hospitalization_id: Option<String>,
    text: Option<String>,
    status: Option<String>,
}

impl Chart {
    /// Applies treatments; all of them, or none and the message of the first that cannot be.
    pub(super) fn treat(
        &mut self,
        clinic: &str,
        treatments: &[Treatment],
    ) -> Result<Effects, String> {
        for treatment in treatments {
            if treatment.billed.is_none() {
                return Err("billed is missing".to_owned());
            }
            let item = treatment.inventory_id.as_ref();
            if item.is_some_and(|item| self.unknown_items.contains(item)) {
                return Err("Inventory item not found".to_owned());
            }
        }
        let mut effects = Effects::default();
        for treatment in treatments {
            self.treat_one(clinic, treatment, &mut effects);
        }
        Ok(effects)
    }

    fn treat_one(&mut self, clinic: &str, treatment: &Treatment, effects: &mut Effects) {
        let billed = treatment.billed == Some(true);
        let wanted = thousandths(treatment.qty.as_ref());
        let known = self
            .orders
            .iter()
            .any(|order| order.is_for(clinic, treatment));
        match treatment.status.as_deref() {
            Some("changed") if known => {
                let wanted = if billed { wanted } else { 0 };
                self.bring_to(clinic, treatment, wanted, effects);
            }
            Some("added" | "changed") if billed => self.make(clinic, treatment, wanted, effects),
            Some("removed") if known => self.bring_to(clinic, treatment, 0, effects),
            _ => effects.nothing += 1,
        }
    }

    fn make(&mut self, clinic: &str, treatment: &Treatment, qty: i64, effects: &mut Effects) {
        // An absent quantity counts as none.
        if qty == 0 {
            effects.nothing += 1;
            return;
        }
        self.made += 1;
        effects.made += 1;
        let mut order = Order {
            number: self.made,
            clinic: clinic.to_owned(),
            treatment_guid: treatment.guid.clone(),
            inventory_id: treatment.inventory_id.clone(),
            hospitalization_id: treatment.hospitalization_id.clone(),
            qty: 0.0,
            posted: false,
            thousandths: 0,
        };
        order.set(qty);
        self.orders.push(order);
    }

    /// Makes the orders of a treatment come to `wanted`.
    fn bring_to(
        &mut self,
        clinic: &str,
        treatment: &Treatment,
        wanted: i64,
        effects: &mut Effects,
    ) {
        let of_it = |order: &&Order| order.is_for(clinic, treatment);
        let posted = self
            .orders
            .iter()
            .filter(of_it)
            .filter(|order| order.posted);
        let missing = wanted - posted.map(|order| order.thousandths).sum::<i64>();
        let open = self
            .orders
            .iter()
            .position(|order| !order.posted && order.is_for(clinic, treatment));
        let Some(open) = open else {
            self.make(clinic, treatment, missing, effects);
            return;
        };
        let is_return = self
            .orders
            .get(open)
            .is_some_and(|order| order.thousandths < 0);
        if missing == 0 || is_return != (missing < 0) {
            self.orders.remove(open);
            effects.removed += 1;
            if missing != 0 {
                self.make(clinic, treatment, missing, effects);
            }
        } else if let Some(order) = self.orders.get_mut(open) {
            let same = order.thousandths == missing;
            order.set(missing);
            *(if same {
                &mut effects.nothing
            } else {
                &mut effects.changed
            }) += 1;
        }
    }

    /// The clinic charges everything.
    pub(super) fn post_orders(&mut self) {
        self.orders.iter_mut().for_each(|order| order.posted = true);
    }

    /// The clinic finalises every note.
    pub(super) fn finalise_notes(&mut self) {
        self.notes.iter_mut().for_each(|note| note.finalised = true);
    }

    /// Applies notes.
    pub(super) fn note(&mut self, clinic: &str, notes: &[SentNote]) -> Effects {
        let mut effects = Effects::default();
        for note in notes {
            self.note_one(clinic, note, &mut effects);
        }
        effects
    }

    fn note_one(&mut self, clinic: &str, sent: &SentNote, effects: &mut Effects) {
        let visit = sent.hospitalization_id.as_deref().unwrap_or_default();
        // A sender never hears of an unknown visit: the EMR only writes it into its own log.
        if self.without_notes || !self.has_visit(visit) {
            effects.nothing += 1;
            return;
        }
        let found = self.notes.iter().position(|note| {
            note.clinic == clinic
                && note.hospitalization_id == visit
                && note.note_guid == sent.note_guid
        });
        let text = sent.text.clone().unwrap_or_default();
        let words = text.split_whitespace().count();
        let texts: Vec<String> = self.shows_text.then_some(text).into_iter().collect();
        let is_removed = sent.status.as_deref() == Some("removed");
        match found.and_then(|at| Some((at, self.notes.get_mut(at)?))) {
            Some((_, note)) if note.finalised => {
                note.addenda += 1;
                note.texts.extend(texts);
                effects.addenda += 1;
            }
            Some((at, _)) if is_removed => {
                self.notes.remove(at);
                effects.removed += 1;
            }
            Some((_, note)) => {
                (note.words, note.texts) = (words, texts);
                effects.notes += 1;
            }
            None if is_removed || words < self.least_words => effects.nothing += 1,
            None => {
                self.notes.push(Note {
                    clinic: clinic.to_owned(),
                    note_guid: sent.note_guid.clone(),
                    hospitalization_id: visit.to_owned(),
                    finalised: false,
                    words,
                    addenda: 0,
                    texts,
                });
                effects.notes += 1;
            }
        }
    }

    fn has_visit(&self, visit: &str) -> bool {
        !visit.is_empty() && (self.visits.is_empty() || self.visits.contains(visit))
    }
}

impl Order {
    fn is_for(&self, clinic: &str, treatment: &Treatment) -> bool {
        self.clinic == clinic && self.treatment_guid == treatment.guid
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "a quantity of the imitation: nobody orders 2^53 of anything"
    )]
    fn set(&mut self, thousandths: i64) {
        self.thousandths = thousandths;
        self.qty = thousandths as f64 / 1000.0;
    }
}

/// A quantity to three places; none counts as nothing.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the cast ends at the largest number"
)]
fn thousandths(qty: Option<&Number>) -> i64 {
    let qty = qty.and_then(Number::as_f64).unwrap_or_default();
    (qty * 1000.0).round() as i64
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn treatment(guid: &str, status: &str, qty: &Value, billed: bool) -> Treatment {
        let json = json!({
            "treatmentGuid": guid, "status": status, "qty": qty, "billed": billed,
            "inventoryId": "i1", "hospitalizationId": "h1",
        });
        serde_json::from_value(json).unwrap()
    }

    fn note(guid: &str, visit: &str, status: &str) -> SentNote {
        let json = json!({
            "noteGuid": guid, "hospitalizationId": visit, "status": status, "text": "a few words",
        });
        serde_json::from_value(json).unwrap()
    }

    fn quantities(chart: &Chart) -> Vec<f64> {
        chart.orders.iter().map(|order| order.qty).collect()
    }

    #[test]
    fn what_each_status_of_a_treatment_does() {
        let two = || json!(2);
        for (name, sent, held) in [
            (
                "added and billed makes an order",
                vec![("added", two(), true)],
                vec![2.0],
            ),
            (
                "added and not billed makes none",
                vec![("added", two(), false)],
                vec![],
            ),
            (
                "a second added makes a second one",
                vec![("added", two(), true), ("added", two(), true)],
                vec![2.0, 2.0],
            ),
            (
                "changed to the same leaves one",
                vec![("added", two(), true), ("changed", two(), true)],
                vec![2.0],
            ),
            (
                "changed brings it to the new quantity",
                vec![("added", two(), true), ("changed", json!(5.5), true)],
                vec![5.5],
            ),
            (
                "changed, unknown and billed, makes one",
                vec![("changed", two(), true)],
                vec![2.0],
            ),
            (
                "changed, unknown and not billed, makes none",
                vec![("changed", two(), false)],
                vec![],
            ),
            (
                "changed and not billed takes it back",
                vec![("added", two(), true), ("changed", two(), false)],
                vec![],
            ),
            (
                "removed takes it back",
                vec![("added", two(), true), ("removed", two(), true)],
                vec![],
            ),
            (
                "no quantity is nothing",
                vec![("added", Value::Null, true)],
                vec![],
            ),
            (
                "not_changed does nothing",
                vec![("not_changed", two(), true)],
                vec![],
            ),
        ] {
            let mut chart = Chart::default();
            for (status, qty, billed) in sent {
                chart
                    .treat("oak", &[treatment("g", status, &qty, billed)])
                    .unwrap();
            }
            assert_eq!(quantities(&chart), held, "{name}");
        }
    }

    #[test]
    fn a_change_of_what_was_charged_is_booked_as_the_difference() {
        let mut chart = Chart::default();
        chart
            .treat("oak", &[treatment("g", "added", &json!(2), true)])
            .unwrap();
        chart.post_orders();
        chart
            .treat("oak", &[treatment("g", "changed", &json!(2), true)])
            .unwrap();
        assert_eq!(quantities(&chart), [2.0]);
        chart
            .treat("oak", &[treatment("g", "changed", &json!(5), true)])
            .unwrap();
        assert_eq!(quantities(&chart), [2.0, 3.0]);
        // In the other direction: what is in progress goes, and a return comes.
        chart
            .treat("oak", &[treatment("g", "changed", &json!(5), false)])
            .unwrap();
        assert_eq!(quantities(&chart), [2.0, -2.0]);
        // Nothing of another clinic is touched.
        chart
            .treat("elm", &[treatment("g", "changed", &json!(1), true)])
            .unwrap();
        assert_eq!(quantities(&chart), [2.0, -2.0, 1.0]);
    }

    #[test]
    fn a_batch_with_an_unknown_item_or_without_billed_is_refused_whole() {
        let mut chart = Chart::default();
        chart.unknown_items.insert("i9".to_owned());
        let good = treatment("a", "added", &json!(1), true);
        let mut bad = treatment("b", "added", &json!(1), true);
        bad.inventory_id = Some("i9".to_owned());
        let refused = chart.treat("oak", &[good, bad]).unwrap_err();
        assert_eq!(refused, "Inventory item not found");
        let mut bad = treatment("b", "added", &json!(1), true);
        bad.billed = None;
        assert_eq!(chart.treat("oak", &[bad]).unwrap_err(), "billed is missing");
        assert!(chart.orders.is_empty());
    }

    #[test]
    fn a_note_is_upserted_within_its_visit_and_a_finalised_one_grows() {
        let mut chart = Chart::default();
        chart.note("oak", &[note("n", "h1", "added"), note("n", "h2", "added")]);
        chart.note("oak", &[note("n", "h1", "changed")]);
        assert_eq!(chart.notes.len(), 2);
        chart.finalise_notes();
        for _ in 0..2 {
            assert_eq!(chart.note("oak", &[note("n", "h1", "added")]).addenda, 1);
        }
        assert_eq!(chart.notes[0].addenda, 2);
        // A finalised note is not removed.
        chart.note("oak", &[note("n", "h2", "removed")]);
        assert_eq!((chart.notes.len(), chart.notes[1].addenda), (2, 1));
    }

    #[test]
    fn of_some_notes_nothing_comes_and_nobody_hears_of_it() {
        let mut chart = Chart::default();
        chart.visits.insert("h1".to_owned());
        assert_eq!(chart.note("oak", &[note("n", "h9", "added")]).nothing, 1);
        chart.least_words = 4;
        assert_eq!(chart.note("oak", &[note("n", "h1", "added")]).nothing, 1);
        (chart.least_words, chart.without_notes) = (0, true);
        assert_eq!(chart.note("oak", &[note("n", "h1", "added")]).nothing, 1);
        assert!(chart.notes.is_empty());
    }
}
