//! What SQLite's refusals mean for the events that were being written. Pure: the table of `docs/sqlite.md` as code.
//!
//! Only the code of an error is looked at. Its text may be an operator's trigger's (`RAISE`), and hold the event.

use rusqlite::ffi;

/// What an error of SQLite asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// This event is not wanted: the receiver's *no*, and no other event's matter.
    Refused,
    /// `SQLITE_ERROR` says both that an expression cannot be computed from this event and that a table is gone:
    /// refused if the statement can still be prepared, broken if not.
    RefusedOrBroken,
    /// Somebody else writes: come *later*, with all.
    Busy,
    /// No room on the disk or in memory: *not sent*, all of them.
    NoRoom,
    /// A person has to look, or the sink has to look at the database again: it stops.
    Broken,
}

/// What an error means that comes before the commit: nothing of the transaction will be there.
pub(super) fn of_statement(code: i32) -> Meaning {
    match primary(code) {
        ffi::SQLITE_CONSTRAINT | ffi::SQLITE_MISMATCH | ffi::SQLITE_TOOBIG => Meaning::Refused,
        ffi::SQLITE_ERROR => Meaning::RefusedOrBroken,
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_PROTOCOL | ffi::SQLITE_SCHEMA => {
            Meaning::Busy
        }
        ffi::SQLITE_FULL | ffi::SQLITE_NOMEM => Meaning::NoRoom,
        _ => Meaning::Broken,
    }
}

/// What an error of the commit itself means. Where even the disk has failed, the transaction may be there after all:
/// the sink stops, and finds out as after a crash.
pub(super) fn of_commit(code: i32) -> Meaning {
    match primary(code) {
        // Of several events in the transaction it is not known whose it is.
        ffi::SQLITE_CONSTRAINT => Meaning::Refused,
        ffi::SQLITE_BUSY => Meaning::Busy,
        _ => Meaning::Broken,
    }
}

/// The code in words, without a word of SQLite's own.
pub(super) fn words(code: i32) -> String {
    let known = match code {
        ffi::SQLITE_CONSTRAINT_UNIQUE => "a UNIQUE constraint of its table",
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
            "the primary key of its table"
        }
        ffi::SQLITE_CONSTRAINT_NOTNULL => "a NOT NULL constraint of its table",
        ffi::SQLITE_CONSTRAINT_CHECK => "a CHECK constraint of its table",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "a foreign key of its table",
        ffi::SQLITE_CONSTRAINT_TRIGGER => "a trigger of its table",
        ffi::SQLITE_CONSTRAINT_DATATYPE => "the type of a column of its table",
        _ => match primary(code) {
            ffi::SQLITE_CONSTRAINT => "a constraint of its table",
            ffi::SQLITE_MISMATCH => "the type of a column",
            ffi::SQLITE_TOOBIG => "the largest size of a value",
            ffi::SQLITE_ERROR => "an expression that cannot be computed",
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_PROTOCOL => {
                "the database is locked by another program"
            }
            ffi::SQLITE_SCHEMA => "another program is changing the tables",
            ffi::SQLITE_FULL => "the disk or the database is full",
            ffi::SQLITE_NOMEM => "there is no memory",
            ffi::SQLITE_READONLY => "the database is read-only for this program",
            ffi::SQLITE_IOERR => "the disk has failed",
            ffi::SQLITE_CANTOPEN => "a file of the database cannot be opened",
            ffi::SQLITE_CORRUPT => "the database is damaged",
            ffi::SQLITE_NOTADB => "the file is not a SQLite database",
            _ => "SQLite has failed",
        },
    };
    format!("{known} (SQLite code {code})")
}

/// The code of an error; what is no answer of SQLite's is a defect of ours.
pub(super) fn code(error: &rusqlite::Error) -> i32 {
    if let rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. } =
        error
    {
        error.extended_code
    } else {
        ffi::SQLITE_MISUSE
    }
}

fn primary(code: i32) -> i32 {
    code & 0xff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_documentation() {
        let of = |codes: std::ops::Range<i32>, meaning| {
            let found = codes.filter(|code| of_statement(*code) == meaning);
            found.collect::<Vec<_>>()
        };
        assert_eq!(
            of(1..27, Meaning::Refused),
            [
                ffi::SQLITE_TOOBIG,
                ffi::SQLITE_CONSTRAINT,
                ffi::SQLITE_MISMATCH
            ]
        );
        assert_eq!(of(1..27, Meaning::RefusedOrBroken), [ffi::SQLITE_ERROR]);
        assert_eq!(
            of(1..27, Meaning::Busy),
            [
                ffi::SQLITE_BUSY,
                ffi::SQLITE_LOCKED,
                ffi::SQLITE_PROTOCOL,
                ffi::SQLITE_SCHEMA
            ]
        );
        assert_eq!(
            of(1..27, Meaning::NoRoom),
            [ffi::SQLITE_NOMEM, ffi::SQLITE_FULL]
        );
        // All else, such as READONLY, IOERR, CORRUPT, CANTOPEN, PERM, AUTH and NOTADB.
        assert_eq!(of(1..27, Meaning::Broken).len(), 16);
        for (code, meaning) in [
            (ffi::SQLITE_CONSTRAINT_FOREIGNKEY, Meaning::Refused),
            (ffi::SQLITE_BUSY_SNAPSHOT, Meaning::Busy),
            (ffi::SQLITE_FULL, Meaning::Broken),
            (ffi::SQLITE_IOERR_FSYNC, Meaning::Broken),
        ] {
            assert_eq!(of_commit(code), meaning, "{code}");
        }
    }

    #[test]
    fn words_of_sqlite_itself_are_left_out() {
        let error = rusqlite::Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_CONSTRAINT_TRIGGER),
            Some("Ada Lovelace is not wanted".to_owned()),
        );
        assert_eq!(
            words(code(&error)),
            "a trigger of its table (SQLite code 1811)"
        );
    }
}
