//! Keys in files, and keys that are shared.

#![cfg(test)]

use std::fs;
use std::io::ErrorKind;
use std::sync::{Arc, Barrier};
use std::thread;

use keybound_ureq::dpop::Proof;
use keybound_ureq::driver::{RequestContext, Signing};
use keybound_ureq::http::{Method, Uri};
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{Signer, Transport, UnixTime, open_key};

#[test]
fn a_key_file_is_created_once_however_many_open_it_and_loaded_from_then_on() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let start = Barrier::new(8);
        let thumbprints: Vec<String> = thread::scope(|scope| {
            let open = || {
                start.wait();
                open_key(&path).unwrap().public().thumbprint().to_owned()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let key = open_key(&path).unwrap();
        assert_eq!(thumbprints, vec![key.public().thumbprint(); 8]);
        // Nothing else is left behind.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }
}

#[test]
fn a_key_file_may_have_any_format_and_errors_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let pem = key.to_pkcs8_pem().expose().as_bytes().to_vec();
    let jwk = key.to_jwk().expose().as_bytes().to_vec();
    for contents in [pem, jwk] {
        fs::write(&path, &contents).unwrap();
        assert_eq!(
            open_key(&path).unwrap().public().thumbprint(),
            key.public().thumbprint()
        );
        assert_eq!(fs::read(&path).unwrap(), contents, "it is never rewritten");
    }
    for contents in [&b""[..], b"no key", b"{", &[0xFF; 100]] {
        fs::write(&path, contents).unwrap();
        let error = open_key(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    let missing = folder.path().join("missing/key.pem");
    let error = open_key(&missing).unwrap_err();
    assert!(
        error.to_string().contains(missing.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_key_signs_by_itself_shared_boxed_and_borrowed() {
    fn signs(signer: &(impl Signer + ?Sized), key: &SigningKey) {
        let uri = Uri::from_static("https://rs.example/");
        let proof = Proof::build(key.public(), &Method::GET, &uri).unwrap();
        let context = RequestContext::new(UnixTime::from_secs(1), [7; 16]);
        let Signing::Needs(unsigned) = proof.prepare(context) else {
            panic!("a key signs")
        };
        signer.sign(unsigned.request()).unwrap();
    }
    let key = Arc::new(SigningKey::generate(Algorithm::Es256).unwrap());
    let shared: Arc<dyn Signer> = key.clone();
    let boxed: Box<dyn Signer> = Box::new(Arc::clone(&key));
    let borrowed: &dyn Signer = &*key;
    signs(&*key, &key);
    signs(&key, &key);
    signs(&shared, &key);
    signs(&boxed, &key);
    signs(&&*key, &key);
    signs(&borrowed, &key);
    let _ = Transport::new().signer(Arc::clone(&key));
    let _ = Transport::new().signer(shared);
}
