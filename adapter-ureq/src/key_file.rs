//! A signing key in a file, for programs whose sessions outlive them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::Path;

use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{InvalidInput, SecretBytes};

use crate::clock::entropy;

/// The maximum size of a key file: 64 KiB.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// Loads the signing key of a file, or creates the file with a new ES256 key (PKCS#8 in PEM, mode 0600).
///
/// Processes that start at the same time get the same key. The folder must exist. A file that was made elsewhere may be
/// PKCS#8 (PEM or DER) or a private JWK.
///
/// A stored session of a public client with DPoP can only be resumed with the key that it was stored with, so store both:
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = keybound_ureq::open_key("/var/lib/my-app/key.pem")?;
/// let transport = keybound_ureq::Transport::new().signer(key);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Returns an error that names the path if the file can't be read or created, and one of kind
/// [`InvalidData`](ErrorKind::InvalidData) if it is no key.
pub fn open_key(path: impl AsRef<Path>) -> io::Result<SigningKey> {
    let path = path.as_ref();
    let key = match load(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => create(path),
        result => result,
    };
    key.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn load(path: &Path) -> io::Result<SigningKey> {
    let file = File::open(path)?;
    // A buffer that grows leaves copies of the key behind.
    let size = file.metadata()?.len().min(MAX_KEY_FILE);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default().saturating_add(1));
    let read = file.take(MAX_KEY_FILE).read_to_end(&mut bytes);
    let bytes = SecretBytes::new(bytes);
    read?;
    SigningKey::parse(bytes.expose()).map_err(invalid_data)
}

/// Writes a new key to a file of its own and links it to `path`, so that no process sees half of it and the first one wins.
fn create(path: &Path) -> io::Result<SigningKey> {
    let key = SigningKey::generate(Algorithm::Es256).map_err(invalid_data)?;
    let random = entropy().map_err(io::Error::other)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}", u64::from_ne_bytes(random)));
    let temporary = path.with_file_name(name);
    let linked = write(&temporary, &key).and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    match linked {
        Ok(()) => removed.map(|()| key),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => load(path),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, key: &SigningKey) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(key.to_pkcs8_pem().expose().as_bytes())?;
    file.sync_all()
}

fn invalid_data(error: InvalidInput) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
