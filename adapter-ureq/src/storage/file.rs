use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs4::{FileExt, TryLockError};
use keybound_core::SecretBytes;
use keybound_core::driver::MAX_STATE;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::digest::{SHA256, digest};

use super::{Lease, Storage, StorageError, private};

/// The maximum length of a file name without its extension. Longer ones are hashed, since some file
/// systems allow only 143 bytes.
const MAX_NAME: usize = 120;

/// The characters that are percent-encoded in file names. They include capital letters, because
/// some file systems ignore case.
const SPECIAL: &AsciiSet = &with_capitals(NON_ALPHANUMERIC.remove(b'-').remove(b'_'));

const fn with_capitals(mut set: AsciiSet) -> AsciiSet {
    let mut capital = b'A';
    while capital <= b'Z' {
        set = set.add(capital);
        capital += 1;
    }
    set
}

/// Stores sessions in a directory, for the processes of one user on one machine.
///
/// The file `NAME.session` has mode 0600. It is replaced atomically and flushed to disk before a
/// save succeeds. The process that refreshes a session holds a lock on `NAME.lock`. The system
/// releases the lock when the process exits or crashes. The lock file is empty and is not deleted.
/// In a file name, all characters but small letters, digits, `-` and `_` are percent-encoded; a
/// long name is replaced by its hash.
///
/// On Unix, the directory must belong to this user or to root, and other users must not be able to
/// write to it. `NAME.session` may be a symbolic link into another such directory; saves then
/// replace its target. Other symbolic links, FIFOs and devices are refused. A directory that is
/// removed is created again by the next save. In one that is read-only, a session uses the stored
/// token until it expires.
///
/// All errors begin with the path.
#[derive(Clone, Debug)]
pub struct FileStorage {
    directory: PathBuf,
}

impl FileStorage {
    /// Creates a storage in this directory. A missing directory is created with mode 0700.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created, or if other users can write to it.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        private::create_directory(&directory)
            .map_err(|error| io::Error::new(error.kind(), with_path(&directory, &error)))?;
        Ok(Self { directory })
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        let mut file = utf8_percent_encode(name, SPECIAL).to_string();
        if file.len() > MAX_NAME {
            // No encoded name has a tilde.
            file = "sha256~".to_owned();
            for byte in digest(&SHA256, name.as_bytes()).as_ref() {
                // Writes to memory can't fail.
                let _ = write!(file, "{byte:02x}");
            }
        }
        self.directory.join(format!("{file}.{extension}"))
    }

    /// Returns the path of the state, behind a symbolic link if there is one.
    fn state_path(&self, name: &str) -> Result<PathBuf, StorageError> {
        self.check()?;
        let path = self.path(name, "session");
        private::follow(&path).map_err(|error| with_path(&path, &error))
    }

    fn check(&self) -> Result<(), StorageError> {
        let checked = private::check_directory(&self.directory);
        checked.map_err(|error| with_path(&self.directory, &error))
    }

    /// Creates the directory again if it was removed, and repeats what has failed for that reason.
    fn with_directory<T>(&self, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match work() {
            Err(error) if error.kind() == ErrorKind::NotFound && !self.directory.exists() => {
                private::create_directory(&self.directory)?;
                work()
            }
            result => result,
        }
    }
}

impl Storage for FileStorage {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        let path = self.state_path(name)?;
        match read(&path) {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(with_path(&path, &error)),
        }
    }

    /// The lock ends with its holder, so it does not expire.
    fn lease(&self, name: &str, _: Duration) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        self.check()?;
        let path = self.path(name, "lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let lock = self
            .with_directory(|| private::open(&path, &mut options.clone()))
            .map_err(|error| with_path(&path, &error))?;
        match FileExt::try_lock(&lock) {
            Ok(()) => Ok(Some(Box::new(Locked {
                storage: self,
                name: name.to_owned(),
                _lock: lock,
            }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(with_path(&path, &error)),
        }
    }

    fn location(&self, name: &str) -> String {
        self.path(name, "session").display().to_string()
    }
}

struct Locked<'a> {
    storage: &'a FileStorage,
    name: String,
    _lock: File,
}

impl Lease for Locked<'_> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        let path = self.storage.state_path(&self.name)?;
        // Beside the state: a rename within one file system is atomic.
        let mut new = path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let written = self
            .storage
            .with_directory(|| write(&new, state.expose()))
            .map_err(|error| with_path(&new, &error));
        let replaced = written
            .and_then(|()| fs::rename(&new, &path).map_err(|error| with_path(&path, &error)));
        if replaced.is_err() {
            // Such as on a full disk. It has secrets, and may be incomplete.
            let _ = fs::remove_file(&new);
        }
        replaced?;
        sync_directory(&path)?;
        Ok(true)
    }
}

fn read(path: &Path) -> io::Result<SecretBytes> {
    let file = private::open(path, OpenOptions::new().read(true))?;
    let length = file.metadata()?.len();
    let length = usize::try_from(length).ok().filter(|it| *it <= MAX_STATE);
    let Some(length) = length else {
        let text = "longer than 1 MiB, so it is not a session of keybound";
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    };
    // Allocated once: a buffer that grows would leave copies of the secrets in memory.
    let mut state = Vec::with_capacity(length + 1);
    let limit = u64::try_from(MAX_STATE).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut state)?;
    Ok(SecretBytes::new(state))
}

fn write(path: &Path, state: &[u8]) -> io::Result<()> {
    // Only the holder of the lock writes. An existing file was left by a crash, and its permissions
    // are unknown.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private::open(path, OpenOptions::new().write(true).create_new(true))?;
    file.write_all(state)?;
    file.sync_all()
}

/// Flushes the directory of a file to disk. Only then is the new name of a renamed file durable.
#[cfg(unix)]
fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| with_path(directory, &error))
}

/// No directory can be opened.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> Result<(), StorageError> {
    Ok(())
}

fn with_path(path: &Path, error: &io::Error) -> StorageError {
    format!("{}: {error}", path.display()).into()
}
