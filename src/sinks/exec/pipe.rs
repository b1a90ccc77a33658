//! The pipe of an attempt: what its program says comes through it, and who still runs is known by it.
//!
//! A named pipe in the state directory. Every process of the attempt inherits one end that is open for reading and
//! writing, besides standard output and error; so the pipe is a lock that its holders need not know of: as long as one
//! of them lives, a reader finds a writer, and the moment the last one is gone, the reader finds the end. After a crash
//! of the daemon the next start opens the pipe by its name, waits for that end, and reads on.
//!
//! Why not an anonymous pipe: its reader dies with the daemon, so that a program that outlives the daemon is killed by
//! SIGPIPE at its next word; and nobody could find it again. Why not a file: what a program says may repeat health data,
//! which must not lie on a disk unsealed. What is in a pipe (64 KiB) is in the kernel's memory only, never in a swap.
//!
//! The name says which attempt it is and, once that is known, which process leads it and when that was started:
//! `<delivery>-<attempt>.<process>-<start>`. Numbers only.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{self, Receiver};

use crate::domain::{DeliveryId, Output};

/// The inherited end has a number from here on, out of the way of those that scripts use (`exec 3>…`, `flock 9`).
const FIRST_NUMBER: i32 = 100;
/// The most that is read after a program's end: more than any pipe holds. Whoever it left behind may write for ever.
const LAST_WORDS: usize = 1 << 20;

/// Who leads the process group of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    /// Its number, which is the group's as well.
    process: i32,
    /// When it was started, in clock ticks since the machine was. With it the number is that process and no other.
    start: u64,
}

impl Leader {
    /// A process of this machine.
    pub(super) fn of(process: Pid) -> Option<Self> {
        let process = process.as_raw_nonzero().get();
        let start = start_of(process)?;
        Some(Self { process, start })
    }

    /// Whether it is there still, be it only as a number that nobody has collected yet.
    pub(super) fn is_there(self) -> bool {
        start_of(self.process) == Some(self.start)
    }

    /// How long ago it was started. By the machine's own time, which no correction of its clock moves.
    pub(super) fn running_for(self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        let now = Duration::new(
            now.tv_sec.try_into().unwrap_or_default(),
            now.tv_nsec.try_into().unwrap_or_default(),
        );
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        now.saturating_sub(Duration::from_millis(self.start * 1000 / ticks))
    }

    /// Kills its whole group, if it surely is its group: while the leader is there, nobody else can have its number.
    /// Gives whether it did.
    pub(super) fn kill_group(self) -> bool {
        let group = Pid::from_raw(self.process).filter(|_| self.is_there());
        group.is_some_and(|group| kill_process_group(group, Signal::KILL).is_ok())
    }
}

/// The start of a process, in clock ticks since the machine's (`proc_pid_stat(5)`, field 22).
fn start_of(process: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the program's name, which may hold anything, and which is field 2.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// The pipe of an attempt that is made here. Dropping it removes its name.
pub(super) struct Pipe {
    directory: PathBuf,
    name: String,
    reader: Receiver,
}

/// The ends for the program. They must be closed here once it has started: whoever holds one counts as running.
pub(super) struct Ends {
    /// For its standard output.
    pub(super) out: File,
    /// For its standard error.
    pub(super) err: File,
    /// For all that it starts, too: keeps the pipe open in both directions.
    pub(super) held: OwnedFd,
}

impl Pipe {
    /// Makes the pipe of an attempt in this directory.
    pub(super) fn make(
        directory: &Path,
        delivery: DeliveryId,
        attempt: u32,
    ) -> io::Result<(Self, Ends)> {
        let name = format!("{delivery}-{attempt}");
        let path = directory.join(&name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let make = || rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600));
        match make() {
            // Of a ledger that was restored from a backup since.
            Err(Errno::EXIST) => std::fs::remove_file(&path).map(|()| make())??,
            made => made?,
        }
        let opened = pipe::OpenOptions::new().open_receiver(&path);
        let reader = opened.inspect_err(|_| remove(&path))?;
        let pipe = Self {
            directory: directory.to_owned(),
            name,
            reader,
        };
        let held = OpenOptions::new().read(true).write(true).open(&path)?;
        let out = OpenOptions::new().write(true).open(&path)?;
        let ends = Ends {
            err: out.try_clone()?,
            out,
            held: rustix::io::fcntl_dupfd_cloexec(&held, FIRST_NUMBER)?,
        };
        Ok((pipe, ends))
    }

    /// Notes in its name who leads the attempt. Where that fails, the next start can only wait for the program.
    pub(super) fn is_led_by(&mut self, leader: Leader) {
        let name = format!("{}.{}-{}", self.name, leader.process, leader.start);
        let (from, to) = (self.directory.join(&self.name), self.directory.join(&name));
        if std::fs::rename(from, to).is_ok() {
            self.name = name;
        }
    }

    /// As when the daemon is killed: nobody reads any more, and the name stays. Gives it.
    #[cfg(test)]
    pub(super) fn forget(mut self) -> String {
        // What is dropped then has no name to remove.
        std::mem::take(&mut self.name)
    }

    /// Where what the program says can be read.
    pub(super) fn reader(&mut self) -> &mut Receiver {
        &mut self.reader
    }

    /// What is left in the pipe. To be asked after the program's end: waits for nobody that it left behind.
    pub(super) fn last_words(&self, output: &mut Output) {
        drop(take(&self.reader, output));
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        remove(&self.directory.join(&self.name));
    }
}

/// A pipe that an earlier daemon made. It stays until it is removed: a stop while it is waited for changes nothing.
pub(super) struct Found {
    path: PathBuf,
    /// Who leads the attempt, if that was noted.
    pub(super) leader: Option<Leader>,
}

impl Found {
    /// The pipe of an attempt, if there is one.
    pub(super) fn find(directory: &Path, delivery: DeliveryId, attempt: u32) -> Option<Self> {
        let wanted = format!("{delivery}-{attempt}");
        let entries = std::fs::read_dir(directory).ok()?;
        entries.filter_map(Result::ok).find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (of, leader) = name.split_once('.').unwrap_or((&name, ""));
            (of == wanted).then(|| Self {
                path: entry.path(),
                leader: leader.split_once('-').and_then(|(process, start)| {
                    let process = process.parse().ok()?;
                    let start = start.parse().ok()?;
                    Some(Leader { process, start })
                }),
            })
        })
    }

    /// Opens it and takes what is in it already. `None`: nobody of the attempt runs any more.
    pub(super) fn open(&self, output: &mut Output) -> io::Result<Option<Receiver>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default())
            .open(&self.path)?;
        // Asked of the system and not of tokio, which learns of an end only if it comes after the opening.
        Ok(match take(&file, output)? {
            Left::End => None,
            Left::Open => Some(Receiver::from_file(file)?),
        })
    }

    /// Removes its name: nobody will ask again.
    pub(super) fn remove(&self) {
        remove(&self.path);
    }
}

/// Reads until the end, which is the end of all who could write.
pub(super) async fn hear(reader: &mut Receiver, mut said: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = reader.read(&mut buffer).await {
        said(buffer.get(..count).unwrap_or_default());
    }
}

/// Whether more can come.
enum Left {
    Open,
    End,
}

fn take(reader: impl AsFd, output: &mut Output) -> io::Result<Left> {
    let mut buffer = vec![0; 16 << 10];
    let mut taken = 0;
    while taken < LAST_WORDS {
        match rustix::io::read(&reader, &mut buffer) {
            Ok(0) => return Ok(Left::End),
            Ok(count) => {
                taken += count;
                output.push(buffer.get(..count).unwrap_or_default());
            }
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Left::Open)
}

/// A name that stays is found by the next start at worst, and removed then.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "cannot be removed");
    }
}
