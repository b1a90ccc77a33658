//! `config init`: a configuration to start from and the key that seals the state. Nothing that exists is overwritten:
//! a lost key is a lost state.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf, absolute};

use clap::builder::PossibleValuesParser;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::zeroize::Zeroizing;

use super::{CommandResult, Exit, Failure};
use crate::config::{environments, shell_word};

/// Arguments of `config init`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which of Fullscript's servers.
    #[arg(long, default_value = "us", value_parser = PossibleValuesParser::new(environments()))]
    environment: String,
    /// Where the state will live.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/fullscript-events")]
    directory: PathBuf,
    /// The file to write; --config where it is left out.
    path: Option<PathBuf>,
}

/// Why there is no new configuration.
#[derive(Debug, thiserror::Error)]
enum Unwritten {
    #[error("{0} exists and is not overwritten; remove it, or name another path")]
    Exists(PathBuf),
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0:?} is no UTF-8 path, which a configuration cannot name")]
    NotText(PathBuf),
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// What was written.
#[derive(Debug)]
struct Written {
    config: PathBuf,
    seal_key: PathBuf,
    client_secret: PathBuf,
}

/// Runs `config init`.
pub(super) fn run(config: &Path, args: &Args) -> CommandResult {
    let path = args.path.as_deref().unwrap_or(config);
    let written = write(path, &args.directory, &args.environment)
        .map_err(|error| Failure::new(reaction(&error), error))?;
    print!("{}", next_steps(&written));
    Ok(Exit::Done)
}

fn reaction(error: &Unwritten) -> Exit {
    match error {
        Unwritten::Exists(_) | Unwritten::NotText(_) => Exit::Usage,
        Unwritten::Io { .. } | Unwritten::NoRandom => Exit::Unexpected,
    }
}

fn write(path: &Path, directory: &Path, environment: &str) -> Result<Written, Unwritten> {
    let whole = |path: &Path| absolute(path).map_err(failed(path));
    let config = whole(path)?;
    let directory = whole(directory)?;
    let beside = config.parent().unwrap_or(Path::new("/")).to_owned();
    let written = Written {
        seal_key: beside.join("seal.key"),
        client_secret: beside.join("client_secret"),
        config,
    };
    let text = starting_config(&written, &directory, environment)?;
    if written.config.exists() {
        return Err(Unwritten::Exists(written.config));
    }
    fs::create_dir_all(&beside).map_err(failed(&beside))?;
    let key = new_key()?;
    create(&written.seal_key, 0o600, key.as_bytes())?;
    create(&written.config, 0o640, text.as_bytes())?;
    Ok(written)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Unwritten {
    let path = path.to_owned();
    |source| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            Unwritten::Exists(path)
        } else {
            Unwritten::Io { path, source }
        }
    }
}

fn new_key() -> Result<Zeroizing<String>, Unwritten> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(bytes.as_mut())
        .map_err(|_| Unwritten::NoRandom)?;
    Ok(Zeroizing::new(hex::encode(bytes.as_ref()) + "\n"))
}

/// Writes a file that did not exist, down to the disk.
fn create(path: &Path, mode: u32, text: &[u8]) -> Result<(), Unwritten> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed(path))?;
    file.write_all(text)
        .and_then(|()| file.sync_all())
        .map_err(failed(path))
}

fn starting_config(
    written: &Written,
    directory: &Path,
    environment: &str,
) -> Result<String, Unwritten> {
    let quoted = |path: &Path| match path.to_str() {
        Some(text) => Ok(toml::Value::from(text).to_string()),
        None => Err(Unwritten::NotText(path.to_owned())),
    };
    Ok(format!(
        r#"# fullscript-events. Every other key is in config.example.toml, with its default.

[app]
environment = "{environment}"
# From Fullscript's dashboard.
client_id = ""
# A file that holds nothing else. In a systemd unit better {{ credential = "client_secret" }}.
client_secret = {{ file = {client_secret} }}
# Exactly as registered in Fullscript's dashboard.
redirect_uri = "http://127.0.0.1:8765/callback"

[state]
directory = {directory}
# Keep a copy of the key elsewhere: without it the state is lost.
# In a systemd unit better {{ credential = "seal_key" }}.
seal_key = {{ file = {seal_key} }}

# Who was given which event, when: docs/audit.md. Without this section nothing is recorded.
[audit]
# Whether nothing is delivered while it cannot be written.
required = false

[[clinics]]
# What logs, commands and sinks call the clinic.
name = "my-clinic"

[[sinks]]
# One JSON line per event.
name = "events"
kind = "file"
path = {events}
"#,
        client_secret = quoted(&written.client_secret)?,
        directory = quoted(directory)?,
        seal_key = quoted(&written.seal_key)?,
        events = quoted(&directory.join("events.jsonl"))?,
    ))
}

fn next_steps(written: &Written) -> String {
    let word = |path: &Path| shell_word(&path.to_string_lossy()).into_owned();
    let config = word(&written.config);
    let seal_key = word(&written.seal_key);
    let client_secret = word(&written.client_secret);
    format!(
        "wrote {config}\n\
         wrote {seal_key}: keep a copy elsewhere, without it the state is lost\n\
         \n\
         next:\n\
         \x20 put app.client_id into {config}\n\
         \x20 install -m 600 /dev/stdin {client_secret}    (paste the client secret, then Ctrl-D)\n\
         \x20 fullscript-events -c {config} config check\n\
         \x20 fullscript-events -c {config} auth login my-clinic\n"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{self, SecretRef};

    #[test]
    fn what_is_written_only_lacks_the_client_id() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new \"folder\"/config.toml");
        let written = write(&path, place.path(), "ca-sandbox").unwrap();

        let invalid = config::load(&path).unwrap_err();
        let keys: Vec<_> = invalid.problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["app.client_id"]);

        let text = fs::read_to_string(&path).unwrap();
        let filled = text.replace("client_id = \"\"", "client_id = \"id\"");
        let loaded = config::parse(&filled, &path).unwrap();
        assert_eq!(loaded.warnings, []);
        assert_eq!(
            loaded.config.state.seal_key,
            SecretRef::File(written.seal_key.clone())
        );
        loaded.config.state.seal_key.read_key().unwrap();
        let mode = fs::metadata(&written.seal_key)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn nothing_is_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.toml");
        let first = write(&path, place.path(), "us").unwrap();
        let key = fs::read(&first.seal_key).unwrap();
        assert!(matches!(
            write(&path, place.path(), "us"),
            Err(Unwritten::Exists(_))
        ));
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            write(&path, place.path(), "us"),
            Err(Unwritten::Exists(found)) if found == first.seal_key
        ));
        assert_eq!(fs::read(&first.seal_key).unwrap(), key);
    }
}
