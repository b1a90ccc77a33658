//! What Fullscript said of the EMR's own ids: remembered, so that a patient with many events is asked about once.
//!
//! The EMR's id says who somebody is: it is kept sealed. That there is none is remembered too, and can be asked for.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, OptionalExtension};

use super::{Ledger, Query, at, damaged, ms, parked};
use crate::domain::{ClinicName, Parked, Subject};
use crate::store::{Sealer, Unavailable};

/// How long an answer is kept, in days: long after it has become too old to be used, for whoever asks what has none.
const KEPT_DAYS: i64 = 30;

/// An answer of Fullscript's. Carries the EMR's id: no `Debug`.
#[derive(Clone)]
pub struct Looked {
    /// The EMR's own id, if there is one.
    pub emr_id: Option<String>,
    /// Of a plan: whose it is.
    pub patient: Option<String>,
    /// When Fullscript was asked.
    pub looked_at: DateTime<Utc>,
    /// A person wants it looked at again.
    pub is_stale: bool,
}

/// Somebody or something that the EMR's own id of is not known to Fullscript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which clinic's.
    pub clinic: String,
    /// A patient, or a plan that names none.
    pub subject: Subject,
    /// Plans of this patient that were looked at and have none either.
    pub plans: u64,
    /// When Fullscript was asked.
    pub looked_at: DateTime<Utc>,
    /// It is looked at again when it is needed next.
    pub is_stale: bool,
}

/// Deliveries that wait for the EMR's own id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// To which sink.
    pub sink: String,
    /// Of which clinic.
    pub clinic: String,
    /// How many.
    pub deliveries: u64,
    /// When the first of them is attempted again, if by itself.
    pub next_at: Option<DateTime<Utc>>,
}

impl Ledger {
    /// What Fullscript last said of a clinic's patient or plan.
    pub async fn looked_up(
        &self,
        clinic: &ClinicName,
        subject: &Subject,
    ) -> Result<Option<Looked>, Unavailable> {
        let sealer = self.store.sealer().clone();
        let (clinic, subject) = (clinic.clone(), subject.clone());
        self.store
            .read(move |c| looked_up(c, &sealer, &clinic, &subject))
            .await
    }

    /// Keeps what Fullscript said, in the place of what it said before.
    pub async fn keep_looked(
        &self,
        clinic: &ClinicName,
        subject: &Subject,
        looked: &Looked,
    ) -> Result<(), Unavailable> {
        let (kind, id) = parts(subject);
        let place = place(clinic, subject);
        let emr_id = looked.emr_id.as_ref();
        let sealed = emr_id.map(|emr_id| self.store.sealer().seal(&place, emr_id.as_bytes()));
        let (clinic, id) = (clinic.as_str().to_owned(), id.to_owned());
        let (patient, looked_at) = (looked.patient.clone(), ms(looked.looked_at));
        self.store
            .write(move |c| {
                c.prepare_cached(
                    "INSERT OR REPLACE INTO crosswalk (clinic, kind, id, emr_id, patient, looked_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute((&clinic, kind, &id, &sealed, &patient, looked_at))
                .map(drop)
            })
            .await
    }
}

impl Query {
    /// Whom Fullscript knows no id of the EMR's for: of one clinic, or of all.
    pub async fn crosswalk_gaps(&self, clinic: Option<String>) -> Result<Vec<Gap>, Unavailable> {
        self.store.read(move |c| gaps(c, clinic.as_deref())).await
    }

    /// What waits for an id of the EMR's: of one clinic, or of all.
    pub async fn waiting_for_crosswalk(
        &self,
        clinic: Option<String>,
    ) -> Result<Vec<Waiting>, Unavailable> {
        self.store
            .read(move |c| {
                c.prepare(
                    "SELECT s.name, l.clinic, count(*), min(p.until_at)
                     FROM parked p JOIN delivery d USING (delivery) JOIN lane l USING (lane) JOIN sink s ON s.sink = p.sink
                     WHERE p.why = ?1 AND (?2 IS NULL OR l.clinic = ?2) GROUP BY s.name, l.clinic ORDER BY s.name, l.clinic",
                )?
                .query_map((Parked::NoCrosswalk.as_str(), &clinic), |row| {
                    Ok(Waiting {
                        sink: row.get(0)?,
                        clinic: row.get(1)?,
                        deliveries: row.get(2)?,
                        next_at: row.get::<_, Option<i64>>(3)?.map(at),
                    })
                })?
                .collect()
            })
            .await
    }

    /// Has every gap looked at again, and what waits for one attempted again; the daemon notices. Gives how many
    /// deliveries were queued.
    pub async fn refresh_crosswalk(&self, clinic: Option<String>) -> Result<usize, Unavailable> {
        self.store
            .write(move |c| {
                // Of a plan that names a patient, the patient is asked for again, and the plan too: either may have one.
                c.prepare_cached(
                    "UPDATE crosswalk SET stale = 1 WHERE emr_id IS NULL AND (?1 IS NULL OR clinic = ?1)",
                )?
                .execute([&clinic])?;
                parked::release(
                    c,
                    "why = ?1 AND (?2 IS NULL OR delivery IN
                       (SELECT delivery FROM delivery JOIN lane USING (lane) WHERE clinic = ?2))",
                    (Parked::NoCrosswalk.as_str(), &clinic),
                )
            })
            .await
    }
}

/// Forgets old answers.
pub(super) fn forget(c: &Connection, now: DateTime<Utc>) -> rusqlite::Result<()> {
    c.prepare_cached("DELETE FROM crosswalk WHERE looked_at < ?1")?
        .execute([ms(now - TimeDelta::days(KEPT_DAYS))])
        .map(drop)
}

fn parts(subject: &Subject) -> (&'static str, &str) {
    match subject {
        Subject::Patient(id) => ("patient", id),
        Subject::TreatmentPlan(id) => ("treatment_plan", id),
    }
}

/// Where an id is sealed to: it opens only as that patient's or plan's, of that clinic.
fn place(clinic: &ClinicName, subject: &Subject) -> String {
    let (kind, id) = parts(subject);
    format!("crosswalk/{clinic}/{kind}/{id}")
}

fn looked_up(
    c: &Connection,
    sealer: &Sealer,
    clinic: &ClinicName,
    subject: &Subject,
) -> rusqlite::Result<Option<Looked>> {
    let (kind, id) = parts(subject);
    c.prepare_cached(
        "SELECT emr_id, patient, looked_at, stale FROM crosswalk WHERE clinic = ?1 AND kind = ?2 AND id = ?3",
    )?
    .query_row((clinic.as_str(), kind, id), |row| {
        let sealed: Option<Vec<u8>> = row.get(0)?;
        let open = |sealed: Vec<u8>| {
            let opened = sealer.open(&place(clinic, subject), &sealed);
            opened
                .and_then(crate::store::Opened::into_text)
                .map_err(|_| damaged(0, "an id of the EMR's that does not open"))
        };
        Ok(Looked {
            emr_id: sealed.map(open).transpose()?,
            patient: row.get(1)?,
            looked_at: at(row.get(2)?),
            is_stale: row.get(3)?,
        })
    })
    .optional()
}

/// A plan without an id is no gap of its own where it names a patient: the patient is one, or has an id. One that names none
/// (Fullscript may not know it at all, as an order's) is a gap only while something of its clinic waits: the patient of
/// whatever else asked for it has an id.
fn gaps(c: &Connection, clinic: Option<&str>) -> rusqlite::Result<Vec<Gap>> {
    c.prepare(
        "SELECT clinic, kind, id, looked_at, stale,
           (SELECT count(*) FROM crosswalk p WHERE p.clinic = x.clinic AND p.kind = 'treatment_plan'
              AND x.kind = 'patient' AND p.patient = x.id AND p.emr_id IS NULL)
         FROM crosswalk x
         WHERE emr_id IS NULL AND patient IS NULL AND (?1 IS NULL OR clinic = ?1)
           AND (kind = 'patient' OR EXISTS (SELECT 1 FROM parked JOIN delivery USING (delivery) JOIN lane l USING (lane)
                WHERE why = 'no_crosswalk' AND l.clinic = x.clinic))
         ORDER BY clinic, kind, looked_at, id",
    )?
    .query_map([clinic], |row| {
        let id = row.get(2)?;
        Ok(Gap {
            clinic: row.get(0)?,
            subject: match row.get_ref(1)?.as_str()? {
                "patient" => Subject::Patient(id),
                _ => Subject::TreatmentPlan(id),
            },
            looked_at: at(row.get(3)?),
            is_stale: row.get(4)?,
            plans: row.get(5)?,
        })
    })?
    .collect()
}
