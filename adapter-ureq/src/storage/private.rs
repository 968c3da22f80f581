//! Files and directories that only this user can change.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Creates a directory with mode 0700, and those above it, unless it exists.
///
/// # Errors
/// Returns an error as [`check_directory`] does, too.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => refused("is not a directory"),
        _ => error,
    })?;
    check_directory(path)
}

/// Returns an error if other users can replace the files of a directory. One that does not exist
/// has no files.
pub(super) fn check_directory(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(directory) => {
            if is_writable_by_others(&directory) {
                return Err(refused(
                    "other users can write to it: `chmod go-w` it, or use a directory of its own",
                ));
            }
            check_owner(&directory)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a regular file: not the target of a symbolic link, and not a FIFO, which would block. A
/// new file gets mode 0600.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => Err(refused("is a link, a FIFO or another special file")),
        _ => {
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
            options.open(path)
        }
    }
}

/// Returns the path itself, or the target of a symbolic link. Link and target must belong to this
/// user, and other users must not be able to replace the target.
pub(super) fn follow(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Ok(link) if link.is_symlink() => {
            check_owner(&link)?;
            let target = fs::canonicalize(path)?;
            check_target(&target).map_err(|error| {
                let text = format!("is a link to {}: {error}", target.display());
                io::Error::new(error.kind(), text)
            })?;
            Ok(target)
        }
        _ => Ok(path.to_owned()),
    }
}

fn check_target(target: &Path) -> io::Result<()> {
    if let Some(directory) = target.parent() {
        check_directory(directory)?;
    }
    check_owner(&fs::metadata(target)?)
}

#[cfg(unix)]
fn is_writable_by_others(directory: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    directory.permissions().mode() & 0o022 != 0
}

/// Root can write everywhere, so its files are as good as those of this user.
#[cfg(unix)]
fn check_owner(metadata: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let user = rustix::process::geteuid();
    match metadata.uid() == user.as_raw() || metadata.uid() == 0 {
        true => Ok(()),
        false => Err(refused("it belongs to another user")),
    }
}

/// Who may write is in access control lists, which the standard library cannot read.
#[cfg(not(unix))]
fn is_writable_by_others(_: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn check_owner(_: &Metadata) -> io::Result<()> {
    Ok(())
}

fn refused(rule: &str) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, rule)
}
