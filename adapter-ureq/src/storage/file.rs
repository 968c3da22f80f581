use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs4::{FileExt, TryLockError};
use keybound_core::SecretBytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Lease, Storage, StorageError};

/// The maximum length of a state: 1 MiB.
const MAX_STATE: u64 = 1024 * 1024;

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
#[derive(Clone, Debug)]
pub struct FileStorage {
    directory: PathBuf,
}

impl FileStorage {
    /// Creates a storage in this directory. A missing directory is created with mode 0700.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&directory)?;
        Ok(Self { directory })
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.join(format!(
            "{}.{extension}",
            utf8_percent_encode(name, SPECIAL)
        ))
    }
}

impl FileStorage {
    /// Flushes the directory to disk. Only then is the new name of a renamed file durable.
    fn sync(&self) -> Result<(), StorageError> {
        #[cfg(unix)]
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| with_path(&self.directory, &error))?;
        Ok(())
    }
}

impl Storage for FileStorage {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        let path = self.path(name, "session");
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| with_path(&path, &error))?,
        };
        let length = file
            .metadata()
            .map_err(|error| with_path(&path, &error))?
            .len();
        if length > MAX_STATE {
            return Err(format!(
                "{}: longer than 1 MiB, so it is not a session of keybound",
                path.display()
            )
            .into());
        }
        // Allocated once: a buffer that grows would leave copies of the secrets in memory.
        let mut state = Vec::with_capacity(
            usize::try_from(length)
                .unwrap_or_default()
                .saturating_add(1),
        );
        file.take(MAX_STATE)
            .read_to_end(&mut state)
            .map_err(|error| with_path(&path, &error))?;
        Ok(Some(SecretBytes::new(state)))
    }

    /// The lock ends with its holder, so it does not expire.
    fn lease(&self, name: &str, _: Duration) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        let path = self.path(name, "lock");
        let lock = private(OpenOptions::new().create(true).truncate(false))
            .open(&path)
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
}

struct Locked<'a> {
    storage: &'a FileStorage,
    name: String,
    _lock: File,
}

impl Lease for Locked<'_> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        let new = self.storage.path(&self.name, "new");
        let path = self.storage.path(&self.name, "session");
        write(&new, state.expose()).map_err(|error| with_path(&new, &error))?;
        fs::rename(&new, &path).map_err(|error| with_path(&path, &error))?;
        self.storage.sync()?;
        Ok(true)
    }
}

fn write(path: &Path, state: &[u8]) -> io::Result<()> {
    // Only the holder of the lock writes. An existing file was left by a crash, and its permissions
    // are unknown.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private(OpenOptions::new().create_new(true)).open(path)?;
    file.write_all(state)?;
    file.sync_all()
}

/// Adds write access, and mode 0600 for new files.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.write(true)
}

fn with_path(path: &Path, error: &io::Error) -> StorageError {
    format!("{}: {error}", path.display()).into()
}
