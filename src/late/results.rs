//! What a body of late results says, and what follows from it. Pure.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::Batch;
use crate::domain::ClinicName;

/// The longest message of an EMR that is kept, in characters.
const LONGEST_MESSAGE: usize = 1000;

/// What an EMR said about one treatment.
pub struct Verdict {
    /// Which.
    pub guid: String,
    /// What.
    pub said: Said,
}

/// The result of a treatment.
pub enum Said {
    /// It was entered.
    Confirmed,
    /// It could not be: why, in the EMR's words.
    Rejected(Words),
}

/// Words of an EMR: they may repeat health data. No `Debug`; they are kept sealed.
#[derive(Clone)]
pub struct Words(String);

impl Words {
    fn new(text: &str) -> Self {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Self(text.chars().take(LONGEST_MESSAGE).map(plain).collect())
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A body. Carries health data: no `Debug`.
#[derive(Deserialize)]
pub(super) struct Results {
    /// The batch that it is about.
    pub(super) id: String,
    treatments: Vec<Treatment>,
}

/// What is looked at of a treatment: the EMR sends back all its fields.
#[derive(Deserialize)]
struct Treatment {
    #[serde(rename = "treatmentGuid")]
    guid: String,
    #[serde(rename = "asyncOperationStatus")]
    status: Option<i64>,
    #[serde(rename = "asyncOperationMessage")]
    message: Option<String>,
}

/// Why nothing of a body is taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 400, with this message: it goes to the sender, and nowhere else.
    Malformed(String),
    /// 403: the batch is another clinic's.
    AnotherClinics,
}

/// Reads a body. What serde says of it is not passed on: it may repeat values.
pub(super) fn read(body: &[u8]) -> Result<Results, Refusal> {
    serde_json::from_slice(body).map_err(|_| {
        Refusal::Malformed(
            "an object with id and treatments is expected, each with treatmentGuid and a whole number, or null, as asyncOperationStatus"
                .to_owned(),
        )
    })
}

/// What follows from results about a known batch, for a sender who speaks for these clinics: all of it, or nothing. A
/// treatment without a status has no verdict yet.
pub(super) fn judge(
    results: Results,
    batch: &Batch,
    clinics: &[ClinicName],
) -> Result<Vec<Verdict>, Refusal> {
    if !clinics.contains(&batch.clinic) {
        return Err(Refusal::AnotherClinics);
    }
    let mut seen = BTreeSet::new();
    let mut verdicts = Vec::new();
    for treatment in results.treatments {
        let guid = treatment.guid;
        if !batch.guids.contains(&guid) {
            let message = format!("treatmentGuid {guid:?} is not of this id");
            return Err(Refusal::Malformed(message));
        }
        if !seen.insert(guid.clone()) {
            let message = format!("treatmentGuid {guid:?} is there twice");
            return Err(Refusal::Malformed(message));
        }
        let said = match treatment.status {
            None => continue,
            Some(0..) => Said::Confirmed,
            Some(_) => {
                let message = treatment.message;
                Said::Rejected(Words::new(message.as_deref().unwrap_or_default()))
            }
        };
        verdicts.push(Verdict { guid, said });
    }
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(treatments: &Value, clinic: &str) -> Result<Vec<(String, Option<String>)>, Refusal> {
        let batch = Batch {
            clinic: ClinicName::new("oak").unwrap(),
            guids: ["p:1", "p:2"].map(str::to_owned).into(),
        };
        let body = json!({ "id": "b1", "treatments": treatments }).to_string();
        let clinics = [ClinicName::new(clinic).unwrap()];
        let verdicts = judge(read(body.as_bytes())?, &batch, &clinics)?;
        let plain = verdicts.into_iter().map(|verdict| {
            let words = match verdict.said {
                Said::Confirmed => None,
                Said::Rejected(words) => Some(words.as_str().to_owned()),
            };
            (verdict.guid, words)
        });
        Ok(plain.collect())
    }

    #[test]
    fn below_zero_rejects_that_treatment_only_and_no_status_says_nothing() {
        let treatments = json!([
            { "treatmentGuid": "p:1", "name": "Oil", "asyncOperationStatus": -7, "asyncOperationMessage": "out\nof stock" },
            { "treatmentGuid": "p:2", "asyncOperationStatus": 0, "asyncOperationMessage": null },
        ]);
        let said = judged(&treatments, "oak").unwrap();
        assert_eq!(
            said,
            [
                ("p:1".to_owned(), Some("out of stock".to_owned())),
                ("p:2".to_owned(), None)
            ]
        );
        let silent = json!([{ "treatmentGuid": "p:1", "asyncOperationStatus": null }, { "treatmentGuid": "p:2" }]);
        assert_eq!(judged(&silent, "oak").unwrap(), []);
        let wordy = json!([{ "treatmentGuid": "p:1", "asyncOperationStatus": -1, "asyncOperationMessage": "é".repeat(2000) }]);
        let words = judged(&wordy, "oak").unwrap().remove(0).1.unwrap();
        assert_eq!(words.chars().count(), LONGEST_MESSAGE);
    }

    #[test]
    fn what_does_not_fit_the_batch_is_refused_whole() {
        let confirmed = |guid: &str| json!({ "treatmentGuid": guid, "asyncOperationStatus": 0 });
        let refused = |treatments: Value| match judged(&treatments, "oak") {
            Err(Refusal::Malformed(message)) => message,
            _ => panic!("it was taken"),
        };
        assert!(refused(json!([confirmed("p:1"), confirmed("p:9")])).contains("\"p:9\" is not of"));
        assert!(refused(json!([confirmed("p:1"), confirmed("p:1")])).contains("twice"));
        for bad in [
            json!(null),
            json!({}),
            json!([{ "asyncOperationStatus": 0 }]),
            json!([{ "treatmentGuid": "p:1", "asyncOperationStatus": "0" }]),
            json!([{ "treatmentGuid": "p:1", "asyncOperationStatus": 0.5 }]),
        ] {
            assert!(refused(bad).starts_with("an object with id"));
        }
        let another = judged(&json!([confirmed("p:1")]), "elm");
        assert_eq!(another, Err(Refusal::AnotherClinics));
    }
}
