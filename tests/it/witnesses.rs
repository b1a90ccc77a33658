//! Witnesses: receivers that outlive every kill and every power cut, because they are other machines. Each writes down what it saw before
//! it answers.
//!
//! The webhooks' receiver is a process of its own (this test binary, started with one test to run), the programs' is a
//! shell script, and the reader of the file sink is a thread that reads along while the daemon writes and dies.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as Route, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use ring::digest;

use crate::binary::Running;
use crate::sqlite::{RECORDS, records, rows};
use crate::world::{Setup, World, id_of, write_secret};

/// Tells the test binary that it is a receiver, and where it writes down what it sees.
const DIRECTORY: &str = "FULLSCRIPT_EVENTS_TEST_RECEIVER";
/// Said when the receiver can be reached, before its address.
const LISTENS: &str = "the receiver listens on ";
/// The longest that a receiver takes to answer: a kill shall fall between what it saw and what it said.
const SLOWEST: Duration = Duration::from_millis(15);
/// How often the reader looks whether the file has grown.
const LOOK: Duration = Duration::from_millis(1);

/// What a sink promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Once, whatever crashes.
    Exact,
    /// At most once; what is in doubt is held.
    Held,
    /// At least once, and a repeat can be told: it has the same id and the same bytes.
    Resent,
}

/// The sinks of the loops. The file sink is every world's; a new kind is added here, in [`Witnesses::sinks`] and in
/// [`Witnesses::seen`].
pub(crate) const SINKS: [(&str, Promise); 6] = [
    ("log", Promise::Exact),
    ("records", Promise::Exact),
    ("hook-resent", Promise::Resent),
    ("hook-held", Promise::Held),
    ("program-resent", Promise::Resent),
    ("program-held", Promise::Held),
];

/// One event that arrived somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sighting {
    /// The event.
    pub(crate) event: String,
    /// What a receiver tells a repeat by: the delivery's id.
    pub(crate) delivery: String,
    /// What stands for the bytes.
    pub(crate) digest: String,
}

/// The witnesses of one world.
pub(crate) struct Witnesses {
    directory: tempfile::TempDir,
    url: String,
    _webhooks: Running,
}

impl Witnesses {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_secret(
            &directory.path().join("secret"),
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        );
        fs::write(directory.path().join("take.sh"), PROGRAM).unwrap();
        let mut webhooks = receiver_process(directory.path());
        let line = webhooks.wait_for(LISTENS);
        let (_, url) = line.split_once(LISTENS).unwrap();
        Self {
            url: url.to_owned(),
            directory,
            _webhooks: webhooks,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The sinks that lead here, for a configuration.
    pub(crate) fn sinks(&self, world: &World) -> String {
        let hook = |name: &str, more: &str| {
            format!(
                "[[sinks]]\nname = {name:?}\nkind = \"webhook\"\nclinics = [\"*\"]\nurl = \"{}/{name}\"\n\
                 signature = \"standard\"\nsecret = {{ file = {:?} }}\n{more}\n",
                self.url,
                self.path("secret"),
            )
        };
        let program = |name: &str, more: &str| {
            format!(
                "[[sinks]]\nname = {name:?}\nkind = \"exec\"\nclinics = [\"*\"]\n\
                 command = [\"/bin/sh\", {:?}, {:?}]\n{more}\n",
                self.path("take.sh"),
                self.path(name),
            )
        };
        [
            records(&records_path(world)),
            hook("hook-resent", "on_doubt = \"resend\"\nconcurrency = 4"),
            hook("hook-held", "on_doubt = \"hold\"\nconcurrency = 2"),
            program("program-resent", "on_doubt = \"resend\"\nconcurrency = 2"),
            program("program-held", "on_doubt = \"hold\"\nconcurrency = 2"),
        ]
        .concat()
    }

    /// What a sink's receiver saw, in order.
    pub(crate) fn seen(&self, world: &World, sink: &str) -> Vec<Sighting> {
        if sink == "log" {
            let text = fs::read_to_string(world.log_path()).unwrap_or_default();
            return text.lines().map(Sighting::of_line).collect();
        }
        if sink == "records" {
            let seen = |(event, data): (String, String)| Sighting {
                delivery: event.clone(),
                event,
                digest: sha256(data.as_bytes()),
            };
            let rows = rows(&records_path(world), RECORDS);
            return rows.into_iter().map(seen).collect();
        }
        let text = fs::read_to_string(self.path(sink)).unwrap_or_default();
        text.lines().map(Sighting::parse).collect()
    }
}

/// Where the sink `records` writes: on the daemon's own disk.
fn records_path(world: &World) -> PathBuf {
    world.directory.path().join("records.db")
}

impl Sighting {
    /// What a line of the file sink shows.
    pub(crate) fn of_line(line: &str) -> Self {
        let shown: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self {
            event: id_of(&shown),
            delivery: shown["delivery"].as_str().unwrap().to_owned(),
            digest: sha256(line.as_bytes()),
        }
    }

    fn line(&self) -> String {
        format!("{} {} {}\n", self.delivery, self.event, self.digest)
    }

    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [delivery, event, digest] = words[..] else {
            panic!("a receiver wrote {line:?}");
        };
        Self {
            event: event.to_owned(),
            delivery: delivery.to_owned(),
            digest: digest.to_owned(),
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// A program that writes down what it took, in one write, before it says that it did. What a killed daemon had not
/// written to its end is no event.
const PROGRAM: &str = "\
body=$(cat)
case $body in '{'*'}') ;; *) exit 1 ;; esac
sum=$(printf %s \"$body\" | cksum) || exit 75
printf '%s %s %s\\n' \"$FULLSCRIPT_DELIVERY\" \"$FULLSCRIPT_EVENT_ID\" \"${sum% *}\" >> \"$1\"
";

/// This test binary, with nothing to run but the receiver.
fn receiver_process(directory: &Path) -> Running {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["witnesses::a_receiver_writes_down", "--nocapture"])
        .env(DIRECTORY, directory)
        // It ends when this process does, however that ends.
        .stdin(Stdio::piped());
    Running::start(&mut command)
}

type Book = Arc<Mutex<PathBuf>>;

async fn take(
    State(book): State<Book>,
    Route(sink): Route<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let header = |name| headers[name].to_str().unwrap().to_owned();
    let seen = Sighting {
        event: header("x-event-id"),
        delivery: header("webhook-id"),
        digest: sha256(&body),
    };
    {
        let directory = book.lock().unwrap();
        let mut options = File::options();
        let file = options.create(true).append(true).open(directory.join(sink));
        file.unwrap().write_all(seen.line().as_bytes()).unwrap();
    }
    tokio::time::sleep(SLOWEST.mul_f64(rand::random())).await;
    StatusCode::NO_CONTENT
}

/// Receives until the process that started this one is gone.
async fn receive(directory: PathBuf) {
    let book = Arc::new(Mutex::new(directory));
    let app = Router::new()
        .route("/{sink}", axum::routing::post(take))
        .with_state(book);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    eprintln!("{LISTENS}http://{}", listener.local_addr().unwrap());
    let alone = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        served = async { axum::serve(listener, app).await } => served.unwrap(),
        ended = alone => drop(ended.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_writes_down_what_it_saw_before_it_answers() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return receive(directory.into()).await;
    }
    let witnesses = Witnesses::start();
    let options = fullscript_events::simulator::Options::default();
    let mut setup = Setup::default();
    let world = World::begin(options, setup.clone()).await;
    setup.more = witnesses.sinks(&world);
    world.write_config(&setup);
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    let id = &world.vendor.make_events(1, oak, "patient.created")[0];
    world.cycle().await;
    for (sink, _) in SINKS {
        let seen = witnesses.seen(&world, sink);
        let events: Vec<_> = seen.iter().map(|seen| &seen.event).collect();
        assert_eq!(events, [id], "{sink}");
    }
    let reply = world.vendor.reply_for(id).unwrap();
    let seen = witnesses.seen(&world, "hook-held");
    assert_eq!(seen[0].digest, sha256(reply.as_bytes()));
}

/// Reads a file's whole lines while they are written, as a program would that imports them.
pub(crate) struct Reader {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u8>>,
}

impl Reader {
    pub(crate) fn of(path: PathBuf) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut read = Vec::new();
            while !told.load(Ordering::Acquire) {
                read_on(&path, &mut read);
                std::thread::park_timeout(LOOK);
            }
            read_on(&path, &mut read);
            read
        });
        Self { ends, thread }
    }

    /// Everything it has read, now that nobody writes any more.
    pub(crate) fn end(self) -> Vec<u8> {
        self.ends.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

/// Reads the whole lines behind what was read.
fn read_on(path: &Path, read: &mut Vec<u8>) {
    let Ok(file) = File::open(path) else {
        assert!(read.is_empty(), "the file is gone");
        return;
    };
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    assert!(length >= read.len(), "a whole line was withdrawn");
    let mut more = vec![0; length - read.len()];
    let mut filled = 0;
    while filled < more.len() {
        let at = (read.len() + filled) as u64;
        match file.read_at(&mut more[filled..], at).unwrap() {
            // A torn line was cut meanwhile.
            0 => break,
            n => filled += n,
        }
    }
    more.truncate(filled);
    let whole = more.iter().rposition(|byte| *byte == b'\n');
    read.extend(more.drain(..whole.map_or(0, |newline| newline + 1)));
}
