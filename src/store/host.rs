//! Which machine a state directory lives on.
//!
//! A copied one, say by a cloned machine, would be polled twice: every event is delivered by both, and each refreshes
//! grants that the other holds. So the first start writes down where it was; a start elsewhere is noticed.

use std::fmt;
use std::fs;

use ring::hmac;

use super::{Store, Unavailable};

/// What systemd and D-Bus call a machine by.
const MACHINE_ID: &str = "/etc/machine-id";
/// The id itself is not to be shown or stored: `man machine-id` asks for a keyed hash, of a number of this program's own.
const APPLICATION: [u8; 16] = [
    0x6c, 0x1f, 0x0e, 0x52, 0x90, 0x9d, 0x4b, 0x6e, 0x8f, 0x27, 0x3a, 0xd4, 0x5b, 0xe1, 0x77, 0xc8,
];

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its id, hashed for this program; `None` where it has none.
    pub id: Option<String>,
    /// Its name, for people.
    pub name: String,
}

/// Where a state directory is, by what was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On its machine.
    Home,
    /// One of the two has no id.
    Unknown,
    /// On another machine.
    Elsewhere,
}

impl Host {
    /// This machine.
    pub fn here() -> Self {
        Self {
            id: fs::read_to_string(MACHINE_ID)
                .ok()
                .and_then(|id| hashed(&id)),
            name: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        }
    }

    /// Where a directory of this machine is, seen from `here`.
    pub fn place(&self, here: &Self) -> Place {
        match (&self.id, &here.id) {
            (Some(home), Some(here)) if home == here => Place::Home,
            (Some(_), Some(_)) => Place::Elsewhere,
            (None, _) | (_, None) => Place::Unknown,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id.as_deref().and_then(|id| id.get(..8));
        write!(f, "{} ({})", self.name, id.unwrap_or("no machine-id"))
    }
}

fn hashed(id: &str) -> Option<String> {
    // "uninitialized" while an image is built.
    let id = hex::decode(id.trim()).ok().filter(|id| id.len() == 16)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &id);
    let hash = hmac::sign(&key, &APPLICATION);
    hash.as_ref().get(..16).map(hex::encode)
}

impl Store {
    /// The machine that was written down.
    pub async fn home(&self) -> Result<Host, Unavailable> {
        self.read(|c| {
            c.query_row("SELECT host, host_name FROM instance", (), |row| {
                let name: Option<String> = row.get(1)?;
                Ok(Host {
                    id: row.get(0)?,
                    name: name.unwrap_or_default(),
                })
            })
        })
        .await
    }

    /// A person says that it lives here now.
    pub async fn take_over(&self, here: Host) -> Result<(), Unavailable> {
        self.write(move |c| {
            c.execute(
                "UPDATE instance SET host = ?1, host_name = ?2",
                (&here.id, &here.name),
            )
            .map(drop)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_by_its_id_alone_and_never_shows_it() {
        let host = |id: Option<&str>, name: &str| Host {
            id: id.and_then(hashed),
            name: name.to_owned(),
        };
        let (a, b) = ("3d1219c7c4c5404aaa1f6d2a48adfda4\n", "00".repeat(16));
        let home = host(Some(a), "server");
        for (what, here, place) in [
            ("renamed", host(Some(a), "other"), Place::Home),
            ("a copy", host(Some(&b), "server"), Place::Elsewhere),
            ("without an id", host(None, "server"), Place::Unknown),
            (
                "an image",
                host(Some("uninitialized"), "server"),
                Place::Unknown,
            ),
        ] {
            assert_eq!(home.place(&here), place, "{what}");
        }
        assert!(!a.starts_with(home.id.as_deref().unwrap().get(..4).unwrap()));
        insta::assert_snapshot!(host(None, "server"), @"server (no machine-id)");
    }
}
