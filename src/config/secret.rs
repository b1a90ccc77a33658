//! Reads what a [`SecretRef`] refers to. The value goes into `secrecy`'s types at once and never into a message; the
//! messages name the reference and the command that mends it.

use std::borrow::Cow;
use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretBox, SecretString};

use super::SecretRef;

/// The 32 bytes of an AES-256 key.
pub type KeyBytes = SecretBox<[u8; 32]>;

/// A longer secret is a mistaken path.
const LONGEST: u64 = 64 * 1024;

/// Where credentials are found outside a unit: the running service's own, then the system's stores. Most of them are
/// readable by root only.
const STORES: [&str; 4] = [
    "/run/credentials/fullscript-events.service",
    "/run/credstore",
    "/etc/credstore",
    "/usr/lib/credstore",
];

/// Why a secret cannot be had. No variant holds any part of it.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A unit has credentials, but not this one.
    #[error(
        "the unit has no credential {name:?}: add LoadCredentialEncrypted={name} to it, and put the secret into the \
         store with `{}`",
        put(name)
    )]
    NotInUnit {
        /// The credential's name.
        name: String,
    },
    /// Not started by systemd, and not in the system's credential store as far as this user may look.
    #[error(
        "the credential {name:?} is only handed to units: run `{command}`, with one \
         --property=LoadCredentialEncrypted for each credential of the file; if it was never stored, first `{}`",
        put(name)
    )]
    OutsideUnit {
        /// The credential's name.
        name: String,
        /// This command, as a unit that has the credential.
        command: String,
    },
    /// The file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Everybody on this machine can read or change the file.
    #[error(
        "{path} is open to every user of this machine: `chmod o-rwx {path}`, and renew the secret"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Too long for a secret, or not text.
    #[error("{0} holds no text of at most 64 KiB")]
    NotText(SecretRef),
    /// The variable is not set, or is not UTF-8.
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    /// There is nothing in it.
    #[error("{0} is empty")]
    Empty(SecretRef),
    /// Not a key of 32 bytes.
    #[error(
        "{0} holds no key: 64 hex digits or base64 of 32 bytes are wanted (`openssl rand -hex 32` makes one; a key in \
         use must not be replaced, what it sealed would be lost)"
    )]
    NotAKey(SecretRef),
}

/// The command that stores a credential.
fn put(name: &str) -> String {
    format!("sudo systemd-creds encrypt --name={name} - /etc/credstore.encrypted/{name}")
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
        }
    }
}

impl SecretRef {
    /// Reads the secret: the first line, without its end.
    pub fn read(&self) -> Result<SecretString, Unreadable> {
        self.read_in(env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))
    }

    /// Reads all of it, for what has more than one line.
    pub fn read_whole(&self) -> Result<SecretString, Unreadable> {
        let text = self.text_in(env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))?;
        if text.trim().is_empty() {
            return Err(Unreadable::Empty(self.clone()));
        }
        Ok(SecretString::from(text.as_str()))
    }

    /// Reads a key of 32 bytes, written as 64 hex digits or in base64.
    pub fn read_key(&self) -> Result<KeyBytes, Unreadable> {
        let text = self.read()?;
        key(text.expose_secret()).ok_or_else(|| Unreadable::NotAKey(self.clone()))
    }

    fn read_in(&self, credentials: Option<PathBuf>) -> Result<SecretString, Unreadable> {
        let text = self.text_in(credentials)?;
        let line = text.lines().next().unwrap_or_default();
        if line.trim().is_empty() {
            return Err(Unreadable::Empty(self.clone()));
        }
        Ok(SecretString::from(line))
    }

    fn text_in(&self, credentials: Option<PathBuf>) -> Result<Zeroizing<String>, Unreadable> {
        match self {
            Self::Credential(name) => self.credential(name, credentials),
            Self::File(path) => {
                let file = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
                let (metadata, file) = file.map_err(|source| Unreadable::File {
                    path: path.clone(),
                    source,
                })?;
                if metadata.permissions().mode() & 0o007 != 0 {
                    return Err(Unreadable::Exposed { path: path.clone() });
                }
                self.bounded(path, file)
            }
            Self::Env(name) => {
                let value = env::var(name).map_err(|_| Unreadable::NotSet(name.clone()))?;
                Ok(Zeroizing::new(value))
            }
        }
    }

    /// In a unit there is one place to look, and no other may stand in for it.
    fn credential(
        &self,
        name: &str,
        credentials: Option<PathBuf>,
    ) -> Result<Zeroizing<String>, Unreadable> {
        let in_unit = credentials.is_some();
        let places = match credentials {
            Some(directory) => vec![directory],
            None => STORES.iter().map(PathBuf::from).collect(),
        };
        for path in places.iter().map(|place| place.join(name)) {
            if let Ok(file) = File::open(&path) {
                return self.bounded(&path, file);
            }
        }
        let name = name.to_owned();
        Err(if in_unit {
            Unreadable::NotInUnit { name }
        } else {
            let command = as_unit(&name, env::args().skip(1));
            Unreadable::OutsideUnit { name, command }
        })
    }

    fn bounded(&self, path: &Path, file: File) -> Result<Zeroizing<String>, Unreadable> {
        let mut text = Zeroizing::new(String::new());
        match file.take(LONGEST + 1).read_to_string(&mut text) {
            Ok(_) if text.len() as u64 <= LONGEST => Ok(text),
            Ok(_) => Err(Unreadable::NotText(self.clone())),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Unreadable::NotText(self.clone()))
            }
            Err(source) => Err(Unreadable::File {
                path: path.to_owned(),
                source,
            }),
        }
    }
}

/// The command line that runs this command as a transient unit with the credential. As the service's user: a ledger
/// written by root would lock the service out.
fn as_unit(name: &str, arguments: impl Iterator<Item = String>) -> String {
    let mut command = format!(
        "sudo systemd-run --pipe --wait --collect --same-dir --property=User=fullscript-events \
         --property=LoadCredentialEncrypted={name} fullscript-events"
    );
    for argument in arguments {
        command.push(' ');
        command.push_str(&shell_word(&argument));
    }
    command
}

/// A text as one word of a shell command, for the commands that messages print.
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
    }
}

fn key(text: &str) -> Option<KeyBytes> {
    let text = text.trim();
    let mut bytes = SecretBox::new(Box::new([0; 32]));
    let target = secrecy::ExposeSecretMut::expose_secret_mut(&mut bytes);
    if text.len() == 64 {
        hex::decode_to_slice(text, target).ok()?;
    } else {
        let decoded = Zeroizing::new(STANDARD.decode(text).ok()?);
        *target = decoded.as_slice().try_into().ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
