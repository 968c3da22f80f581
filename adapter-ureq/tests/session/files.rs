//! Files on disks as they are: long names, symbolic links, directories that others can write to, damage.

#![cfg(unix)]

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use std::{fs, thread};

use keybound_ureq::storage::{FileStorage, Storage as _, StorageError};
use keybound_ureq::{Error, Event, Grant, SecretBytes, Session, SessionBuilder, Transport};
use tempfile::TempDir;

use crate::server::{Server, response, token};

const LEASE_TTL: Duration = Duration::from_secs(30);

/// A storage in a directory of its own, and the directory.
fn storage() -> (TempDir, FileStorage) {
    let folder = tempfile::tempdir().unwrap();
    let storage = FileStorage::new(folder.path()).unwrap();
    (folder, storage)
}

fn save(storage: &FileStorage, name: &str, state: &[u8]) -> Result<bool, StorageError> {
    let mut lease = storage.lease(name, LEASE_TTL)?.expect("nobody has it");
    lease.save(&SecretBytes::new(state.to_vec()))
}

fn load(storage: &FileStorage, name: &str) -> Option<Vec<u8>> {
    let state = storage.load(name).unwrap();
    state.map(|state| state.expose().to_vec())
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Fails instead of hanging, as a FIFO without a writer would.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, end) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    end.recv_timeout(Duration::from_secs(10)).expect("it hangs")
}

fn mkfifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

#[test]
fn any_name_has_a_file_of_its_own() {
    let (folder, storage) = storage();
    let long = "n".repeat(300);
    let names = [
        "n".repeat(248),
        format!("{long}1"),
        format!("{long}2"),
        "ü".repeat(120),
        "日本".to_owned(),
        "A".repeat(100),
        "a".repeat(100),
        "%/\0:~".repeat(50),
        String::new(),
        ".".to_owned(),
        "sha256~x".to_owned(),
    ];
    for name in &names {
        assert!(save(&storage, name, name.as_bytes()).unwrap(), "{name}");
    }
    for name in &names {
        assert_eq!(load(&storage, name).as_deref(), Some(name.as_bytes()));
    }
    for entry in fs::read_dir(folder.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // eCryptfs has the shortest limit of those in use: 143 bytes.
        assert!(name.is_ascii() && name.len() <= 143, "{name}");
    }
}

#[test]
fn every_error_names_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = FileStorage::new(&path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
    let (folder, storage) = self::storage();
    let path = |extension: &str| folder.path().join(format!("one.{extension}"));
    let named = |error: Option<StorageError>, path: &Path| {
        let error = error.expect("it fails").to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    };
    for extension in ["session", "session.new", "lock"] {
        fs::create_dir(path(extension)).unwrap();
        // A directory with content is not replaced by a rename.
        fs::write(path(extension).join("content"), "").unwrap();
        match extension {
            "session" => named(storage.load("one").err(), &path(extension)),
            "session.new" => assert_eq!(load(&storage, "one"), None),
            _ => named(storage.lease("one", LEASE_TTL).err(), &path(extension)),
        }
        named(save(&storage, "one", b"state").err(), &path(extension));
        assert!(!path("session.new").is_file(), "no secrets are left behind");
        fs::remove_dir_all(path(extension)).unwrap();
        let _ = fs::remove_file(path("lock"));
    }
    assert!(save(&storage, "one", b"state").unwrap());
}

#[test]
fn a_directory_that_was_removed_is_made_again() {
    let (folder, storage) = storage();
    let remove = || fs::remove_dir_all(folder.path()).unwrap();
    remove();
    assert_eq!(load(&storage, "one"), None);
    assert!(save(&storage, "one", b"first").unwrap());
    let mut lease = storage.lease("one", LEASE_TTL).unwrap().unwrap();
    remove();
    // The token that was just obtained is not lost.
    assert!(lease.save(&SecretBytes::new(b"second".to_vec())).unwrap());
    assert_eq!(load(&storage, "one").unwrap(), b"second");
    let mode = fs::metadata(folder.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    for mode in [0o777, 0o1777, 0o770, 0o702, 0o2775] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shared");
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        let storage = FileStorage::new(&path).unwrap();
        assert!(save(&storage, "one", b"state").unwrap());
        chmod(&path, mode);
        let errors = [
            FileStorage::new(&path).unwrap_err().to_string(),
            storage.load("one").unwrap_err().to_string(),
            storage.lease("one", LEASE_TTL).err().unwrap().to_string(),
        ];
        for error in errors {
            assert!(error.starts_with(&path.display().to_string()), "{error}");
            assert!(error.contains("chmod"), "it says what to do: {error}");
        }
        chmod(&path, 0o755);
        assert_eq!(load(&storage, "one").unwrap(), b"state");
    }
}

#[test]
fn a_state_behind_a_symbolic_link_is_followed_and_saved_there() {
    let (folder, storage) = storage();
    let elsewhere = tempfile::tempdir().unwrap();
    let (link, target) = (
        folder.path().join("one.session"),
        elsewhere.path().join("kept"),
    );
    fs::write(&target, "first").unwrap();
    symlink(&target, &link).unwrap();
    assert_eq!(load(&storage, "one").unwrap(), b"first");
    assert!(save(&storage, "one", b"second").unwrap());
    assert_eq!(fs::read_to_string(&target).unwrap(), "second");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let names = |path: &Path| fs::read_dir(path).unwrap().count();
    assert_eq!((names(folder.path()), names(elsewhere.path())), (2, 1));

    // Others can replace the target.
    chmod(elsewhere.path(), 0o777);
    for error in [
        storage.load("one").err().unwrap(),
        save(&storage, "one", b"third").unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(
            error.contains(&elsewhere.path().display().to_string()),
            "{error}"
        );
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "second");
    // There is no target, and none is made.
    chmod(elsewhere.path(), 0o700);
    fs::remove_file(&target).unwrap();
    assert!(storage.load("one").is_err());
    assert!(save(&storage, "one", b"fourth").is_err());
    assert!(!target.exists());
}

/// Each has a temporary file of its own.
#[test]
fn targets_whose_names_differ_in_the_extension_alone_are_saved_apart() {
    let (folder, storage) = storage();
    let elsewhere = tempfile::tempdir().unwrap();
    let targets = ["app.live", "app.new"].map(|name| elsewhere.path().join(name));
    for (name, target) in ["one", "two"].into_iter().zip(&targets) {
        fs::write(target, "first").unwrap();
        symlink(target, folder.path().join(format!("{name}.session"))).unwrap();
    }
    assert!(save(&storage, "one", b"of one").unwrap());
    assert_eq!(load(&storage, "two").unwrap(), b"first");
    assert!(save(&storage, "two", b"of two").unwrap());
    assert_eq!(load(&storage, "one").unwrap(), b"of one");
    assert_eq!(load(&storage, "two").unwrap(), b"of two");
}

/// Only root can make such files. CI runs as root; elsewhere there is nothing to check.
#[test]
fn what_belongs_to_another_user_is_refused() {
    use std::os::unix::fs::{chown, lchown};
    const NOBODY: Option<u32> = Some(65534);
    let (folder, storage) = storage();
    if chown(folder.path(), NOBODY, None).is_err() {
        return;
    }
    assert!(FileStorage::new(folder.path()).is_err());
    assert!(storage.load("one").is_err());
    let (folder, storage) = self::storage();
    let elsewhere = tempfile::tempdir().unwrap();
    let (link, target) = (
        folder.path().join("one.session"),
        elsewhere.path().join("kept"),
    );
    fs::write(&target, "state").unwrap();
    symlink(&target, &link).unwrap();
    for (path, is_link) in [(&link, true), (&target, false)] {
        lchown(path, NOBODY, None).unwrap();
        let error = storage.load("one").unwrap_err().to_string();
        assert!(error.contains("another user"), "{is_link}: {error}");
        lchown(path, Some(0), None).unwrap();
        assert_eq!(load(&storage, "one").unwrap(), b"state");
    }
}

#[test]
fn a_lock_behind_a_symbolic_link_is_refused() {
    let (folder, storage) = storage();
    let target = folder.path().join("target");
    let lock = folder.path().join("one.lock");
    for has_target in [false, true] {
        if has_target {
            fs::write(&target, "content").unwrap();
        }
        symlink(&target, &lock).unwrap();
        let error = storage.lease("one", LEASE_TTL).err().unwrap().to_string();
        assert!(error.starts_with(&lock.display().to_string()), "{error}");
        fs::remove_file(&lock).unwrap();
        assert_eq!(target.exists(), has_target);
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "content");
}

#[test]
fn a_fifo_in_place_of_a_file_is_refused_at_once() {
    for extension in ["session", "lock", "session.new"] {
        let (folder, storage) = storage();
        let path = folder.path().join(format!("one.{extension}"));
        mkfifo(&path);
        let outcome = in_time(move || {
            let loaded = storage.load("one").map(|_| ());
            let saved = save(&storage, "one", b"state").map(|_| ());
            (loaded, saved)
        });
        match (extension, outcome) {
            // It is as stale as any file that a crash has left.
            ("session.new", (Ok(()), Ok(())))
            | ("lock", (Ok(()), Err(_)))
            | ("session", (Err(_), _)) => {}
            (extension, outcome) => panic!("{extension}: {outcome:?}"),
        }
    }
}

/// A login that is stored in a directory, by a process that has ended.
struct Login {
    server: Server,
    folder: TempDir,
    /// What later processes report about the storage.
    reports: Arc<Mutex<String>>,
}

impl Login {
    fn new() -> Self {
        let server = Server::start(|asked| match asked.path.as_str() {
            "/token" => token("new", "Bearer", 3600),
            _ => response("200 OK", ""),
        });
        let login = Self {
            server,
            folder: tempfile::tempdir().unwrap(),
            reports: Arc::default(),
        };
        login.log_in();
        login
    }

    fn log_in(&self) {
        let grant = Grant::extension("authorization_code").unwrap();
        let grant = grant.param("code", "c").unwrap();
        self.process().grant(grant).build().token().unwrap();
    }

    /// Another process.
    fn process(&self) -> SessionBuilder {
        let reports = Arc::clone(&self.reports);
        let transport = Transport::new().on_event(move |event| {
            if let Event::StorageUnavailable(error) = event {
                reports.lock().unwrap().push_str(&error.cause.to_string());
            }
        });
        let storage = FileStorage::new(self.folder.path()).unwrap();
        Session::builder(transport, self.server.client()).storage(storage, "one")
    }

    fn path(&self) -> PathBuf {
        let name = self.server.stored_as("one");
        let storage = FileStorage::new(self.folder.path()).unwrap();
        PathBuf::from(storage.location(&name))
    }

    fn token_requests(&self) -> usize {
        self.server.count("/token")
    }
}

#[test]
fn a_damaged_file_is_named_and_asks_for_a_login() {
    let damage: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |_| Vec::new(),
        |state| state[..state.len() / 3].to_vec(),
        |state| vec![0; state.len()],
        |state| [&state[..], &[0; 99]].concat(),
    ];
    for damage in damage {
        let login = Login::new();
        let path = login.path();
        fs::write(&path, damage(fs::read(&path).unwrap())).unwrap();
        let result = login.process().build().token();
        assert!(matches!(result, Err(Error::LoginRequired)));
        let reports = login.reports.lock().unwrap().clone();
        assert!(
            reports.starts_with(&path.display().to_string()),
            "{reports}"
        );
        assert_eq!(login.token_requests(), 1);
        // A new login replaces it.
        login.log_in();
        login.process().build().token().unwrap();
        assert_eq!(login.token_requests(), 2);
    }
}

#[test]
fn a_byte_order_mark_keeps_the_login() {
    let login = Login::new();
    let state = fs::read(login.path()).unwrap();
    fs::write(login.path(), [b"\xEF\xBB\xBF", &state[..]].concat()).unwrap();
    login.process().build().token().unwrap();
    assert_eq!(login.token_requests(), 1);
}

/// As root, permissions don't make a directory read-only; a lock that can't be opened does the same.
#[test]
fn a_good_token_in_a_read_only_directory_is_used() {
    let login = Login::new();
    let lock = login.path().with_extension("lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    chmod(login.folder.path(), 0o500);
    login.process().build().token().unwrap();
    assert_eq!(login.token_requests(), 1);
    chmod(login.folder.path(), 0o700);
}
