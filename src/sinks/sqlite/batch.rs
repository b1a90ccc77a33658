//! Writing a batch: one transaction for all of it and the record of it, and a savepoint for each event, so that one that
//! is refused takes nothing else with it.

use chrono::{DateTime, Utc};
use rusqlite::Connection;

use super::Place;
use super::handed::{self, Mark, Shown};
use super::meaning::{self, Meaning};
use super::open::Database;
use super::statement::{self, Row};
use crate::config::Enrich;
use crate::domain::{Outcome, Parcel};
use crate::sinks::{Delivered, Stopped};

/// Why nothing of a transaction is there.
enum Undone {
    /// Each of its events has this outcome.
    All(Outcome),
    /// One event, it is not known which, has kept the others out: each needs a transaction of its own.
    ByOne(Outcome),
    /// The sink stops.
    Stopped(Stopped),
}

/// What a transaction has done.
struct Done {
    outcomes: Vec<Outcome>,
    shown: Vec<Shown>,
}

/// Checks the database and writes the batch.
pub(super) fn deliver(
    place: &Place,
    database: &mut Database,
    parcels: &[Parcel],
    enrich: &Enrich,
    now: DateTime<Utc>,
) -> Result<Delivered, Stopped> {
    database.check_untouched(place)?;
    let rows = parcels.iter().map(|parcel| Row::of(parcel, enrich));
    let rows: Vec<_> = rows.collect();
    let good: Vec<_> = rows.iter().filter_map(|row| row.as_ref().ok()).collect();
    let received_at = statement::instant(now);
    let mut writing = Writing {
        place,
        database,
        received_at: &received_at,
        shown: Vec::new(),
    };
    let mut written = writing.all(&good)?.into_iter();
    if !writing.shown.is_empty() {
        database.mark.batch += 1;
    }
    let outcomes = rows.iter().map(|row| match row {
        Err(refused) => Some(no(refused.to_string())),
        Ok(_) => written.next(),
    });
    Ok(Delivered {
        status_codes: Vec::new(),
        outcomes: outcomes.flatten().collect(),
        checkpoint: database.mark.checkpoint(),
    })
}

fn no(reason: String) -> Outcome {
    Outcome::No {
        reason,
        retry_after: None,
    }
}

/// One batch on its way into the database.
struct Writing<'a> {
    place: &'a Place,
    database: &'a Database,
    received_at: &'a str,
    /// What transactions of this batch have shown and committed.
    shown: Vec<Shown>,
}

impl Writing<'_> {
    /// In one transaction; each in one of its own where that cannot be.
    fn all(&mut self, rows: &[&Row<'_>]) -> Result<Vec<Outcome>, Stopped> {
        match self.transaction(rows) {
            Ok(done) => Ok(self.note(done)),
            Err(Undone::All(outcome)) => Ok(vec![outcome; rows.len()]),
            Err(Undone::Stopped(stopped)) => Err(stopped),
            Err(Undone::ByOne(_)) => rows.iter().map(|row| self.one(row)).collect(),
        }
    }

    fn one(&mut self, row: &Row<'_>) -> Result<Outcome, Stopped> {
        match self.transaction(&[row]) {
            Ok(done) => Ok(self.note(done).pop().unwrap_or(Outcome::Yes)),
            Err(Undone::All(outcome) | Undone::ByOne(outcome)) => Ok(outcome),
            Err(Undone::Stopped(stopped)) => Err(stopped),
        }
    }

    fn note(&mut self, done: Done) -> Vec<Outcome> {
        self.shown.extend(done.shown);
        done.outcomes
    }

    /// All of it, or nothing; the connection is good for the next either way.
    fn transaction(&self, rows: &[&Row<'_>]) -> Result<Done, Undone> {
        let connection = &self.database.connection;
        let done = self.run(connection, rows);
        if !connection.is_autocommit() && execute(connection, "ROLLBACK").is_err() {
            let stuck = self.place.failed("cannot take back what it began");
            return Err(Undone::Stopped(stuck));
        }
        done
    }

    fn run(&self, connection: &Connection, rows: &[&Row<'_>]) -> Result<Done, Undone> {
        execute(connection, "BEGIN IMMEDIATE").map_err(|error| self.whole(&error))?;
        let mut statement = connection
            .prepare_cached(&self.database.statement)
            .map_err(|error| self.whole(&error))?;
        let mut done = Done {
            outcomes: Vec::with_capacity(rows.len()),
            shown: Vec::new(),
        };
        for row in rows {
            execute(connection, "SAVEPOINT event").map_err(|error| self.whole(&error))?;
            let ran = row.run(&mut statement, &self.database.values, self.received_at);
            if let Err(error) = &ran {
                let refused = self.refused(connection, error)?;
                if connection.is_autocommit() {
                    // Some statements and triggers take back the whole transaction (`OR ROLLBACK`).
                    return Err(Undone::ByOne(refused));
                }
                execute(connection, "ROLLBACK TO event").map_err(|error| self.whole(&error))?;
                done.outcomes.push(refused);
            } else {
                done.outcomes.push(Outcome::Yes);
                let event = row.parcel.event.as_str().to_owned();
                done.shown.push((row.parcel.delivery.0, event));
            }
            execute(connection, "RELEASE event").map_err(|error| self.whole(&error))?;
        }
        if !done.shown.is_empty() {
            self.commit(connection, &done.shown)?;
        }
        Ok(done)
    }

    /// The outcome of the one event that was refused; an error is about more than it.
    fn refused(&self, connection: &Connection, error: &rusqlite::Error) -> Result<Outcome, Undone> {
        let code = meaning::code(error);
        let is_whole = match meaning::of_statement(code) {
            Meaning::Refused => false,
            Meaning::RefusedOrBroken => connection.prepare(&self.database.statement).is_err(),
            Meaning::Busy | Meaning::NoRoom | Meaning::Broken => true,
        };
        if is_whole {
            return Err(self.whole(error));
        }
        Ok(no(format!("refused by {}", meaning::words(code))))
    }

    /// What an error means that is not about one event.
    fn whole(&self, error: &rusqlite::Error) -> Undone {
        let code = meaning::code(error);
        let reason = meaning::words(code);
        match meaning::of_statement(code) {
            Meaning::Busy => Undone::All(Outcome::Later {
                reason,
                retry_after: None,
            }),
            Meaning::NoRoom => Undone::All(Outcome::NotSent { reason }),
            Meaning::Refused | Meaning::RefusedOrBroken | Meaning::Broken => {
                Undone::Stopped(self.place.sqlite("be written", error))
            }
        }
    }

    /// Adds the record of what was shown, and commits.
    fn commit(&self, connection: &Connection, shown: &[Shown]) -> Result<(), Undone> {
        let before = &self.database.mark;
        let mark = Mark {
            database: before.database.clone(),
            batch: before.batch + 1,
        };
        let all = [&self.shown, shown].concat();
        // Of a batch in several transactions only the first finds the record as it was before.
        let found = if self.shown.is_empty() {
            before.batch
        } else {
            mark.batch
        };
        match handed::write(connection, found, &mark, &all) {
            Ok(true) => {}
            Ok(false) => {
                return Err(Undone::Stopped(self.place.failed(format_args!(
                    "its table {} was changed by somebody else",
                    handed::TABLE
                ))));
            }
            Err(error) => return Err(self.whole(&error)),
        }
        crate::crash::point("sqlite.before_commit");
        execute(connection, "COMMIT").map_err(|error| self.not_committed(&error))?;
        crate::crash::point("sqlite.after_commit");
        Ok(())
    }

    fn not_committed(&self, error: &rusqlite::Error) -> Undone {
        let code = meaning::code(error);
        let reason = meaning::words(code);
        match meaning::of_commit(code) {
            Meaning::Refused => Undone::ByOne(no(format!("refused by {reason}"))),
            Meaning::Busy => Undone::All(Outcome::Later {
                reason,
                retry_after: None,
            }),
            Meaning::RefusedOrBroken | Meaning::NoRoom | Meaning::Broken => {
                Undone::Stopped(self.place.sqlite("be written", error))
            }
        }
    }
}

fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute(()).map(drop)
}
