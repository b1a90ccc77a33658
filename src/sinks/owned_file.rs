//! A file that belongs to one sink: created with its mode and its group, never reached through a link, and locked for
//! as long as it is open, so that no second process writes to it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::Stopped;

/// Which file, and what it is to be like when it is new. One that exists is taken as it is.
#[derive(Clone, Copy)]
pub(super) struct OwnedFile<'a> {
    pub(super) path: &'a Path,
    /// Permissions, whatever the umask is.
    pub(super) mode: u32,
    /// By name or number; unchanged if absent.
    pub(super) group: Option<&'a str>,
}

impl OwnedFile<'_> {
    /// Opens the file, or creates it; locked.
    pub(super) fn open_or_create(self) -> Result<File, Stopped> {
        let failed = |error: io::Error| self.failed("open", &error);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .append(true)
            .mode(0o600)
            .custom_flags(no_follow());
        let file = match options.clone().create_new(true).open(self.path) {
            Ok(file) => {
                self.dress(&file)?;
                sync_parent(self.path).map_err(failed)?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                options.open(self.path).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Stopped(format!(
                "{}: is not a regular file, expected one",
                self.path.display()
            )));
        }
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Stopped(format!(
                "{}: is locked by another process; one file belongs to one sink",
                self.path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(self.failed("lock", &error)),
        }
    }

    /// The group's number, if a group is wanted.
    pub(super) fn group_id(self) -> Result<Option<u32>, Stopped> {
        let Some(group) = self.group else {
            return Ok(None);
        };
        let id = group_id(group).ok_or_else(|| {
            Stopped(format!(
                "{}: there is no group {group:?}; name one of /etc/group, or give its number",
                self.path.display()
            ))
        })?;
        Ok(Some(id))
    }

    /// Gives a new file its group and then its mode.
    fn dress(self, file: &File) -> Result<(), Stopped> {
        if let Some(id) = self.group_id()? {
            std::os::unix::fs::fchown(file, None, Some(id))
                .map_err(|error| self.failed("give it to its group", &error))?;
        }
        file.set_permissions(fs::Permissions::from_mode(self.mode))
            .map_err(|error| self.failed("set its mode", &error))
    }

    fn failed(self, doing: &str, error: &io::Error) -> Stopped {
        Stopped(format!("{}: cannot {doing}: {error}", self.path.display()))
    }
}

/// A link at the path is an error: whoever may create links there would choose where health data goes.
fn no_follow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default()
}

/// A group by number, or by its name in `/etc/group`.
fn group_id(group: &str) -> Option<u32> {
    group.parse().ok().or_else(|| {
        fs::read_to_string("/etc/group")
            .ok()?
            .lines()
            .find_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
            })
    })
}

/// Makes the directory's entry for `path` durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// The directory that a path's entry is in.
pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
