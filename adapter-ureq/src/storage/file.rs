use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs4::{FileExt, TryLockError};
use keybound_core::SecretBytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Lease, Storage, StorageError};

/// The longest state that is read: 1 MiB.
const MAX_STATE: u64 = 1024 * 1024;

/// What may not stand in a file's name as it is: capitals, among others, which some file systems don't tell apart.
const SPECIAL: &AsciiSet = &with_capitals(NON_ALPHANUMERIC.remove(b'-').remove(b'_'));

const fn with_capitals(mut set: AsciiSet) -> AsciiSet {
    let mut capital = b'A';
    while capital <= b'Z' {
        set = set.add(capital);
        capital += 1;
    }
    set
}

/// Keeps sessions in a folder, for the processes of one user on one machine: `NAME.session`, mode 0600, replaced as a
/// whole and flushed to disk before it counts. Who renews holds a lock on `NAME.lock`, which the system
/// releases however the holder ends; that file is empty, and stays.
#[derive(Clone, Debug)]
pub struct FileStorage {
    folder: PathBuf,
}

impl FileStorage {
    /// In this folder, which is made, with mode 0700, if it isn't there.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn new(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&folder)?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.folder.join(format!(
            "{}.{extension}",
            utf8_percent_encode(name, SPECIAL)
        ))
    }
}

impl FileStorage {
    /// Only with its folder is a file's new name on disk.
    fn sync(&self) -> Result<(), StorageError> {
        #[cfg(unix)]
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| at(&self.folder, &error))?;
        Ok(())
    }
}

impl Storage for FileStorage {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        let path = self.path(name, "session");
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| at(&path, &error))?,
        };
        let length = file.metadata().map_err(|error| at(&path, &error))?.len();
        if length > MAX_STATE {
            return Err(format!("{}: longer than any session", path.display()).into());
        }
        // As large as it will be: a buffer that grows leaves copies behind.
        let mut state = Vec::with_capacity(
            usize::try_from(length)
                .unwrap_or_default()
                .saturating_add(1),
        );
        file.take(MAX_STATE)
            .read_to_end(&mut state)
            .map_err(|error| at(&path, &error))?;
        Ok(Some(SecretBytes::new(state)))
    }

    /// The lock is the holder's until it ends, so it needs no patience.
    fn lease(&self, name: &str, _: Duration) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        let path = self.path(name, "lock");
        let lock = private(OpenOptions::new().create(true).truncate(false))
            .open(&path)
            .map_err(|error| at(&path, &error))?;
        match FileExt::try_lock(&lock) {
            Ok(()) => Ok(Some(Box::new(Locked {
                storage: self,
                name: name.to_owned(),
                _lock: lock,
            }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(at(&path, &error)),
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
        write(&new, state.expose()).map_err(|error| at(&new, &error))?;
        fs::rename(&new, &path).map_err(|error| at(&path, &error))?;
        self.storage.sync()?;
        Ok(true)
    }

    fn remove(&mut self) -> Result<(), StorageError> {
        let path = self.storage.path(&self.name, "session");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path, &error)),
            _ => self.storage.sync(),
        }
    }
}

fn write(path: &Path, state: &[u8]) -> io::Result<()> {
    // Only the holder of the lock writes: what is here was left by one that died, and may be anybody's to read.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private(OpenOptions::new().create_new(true)).open(path)?;
    file.write_all(state)?;
    file.sync_all()
}

/// Written by its owner, and read by nobody else.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.write(true)
}

fn at(path: &Path, error: &io::Error) -> StorageError {
    format!("{}: {error}", path.display()).into()
}
