//! Secrets that are planted, and looked for in whatever is printed; and which types have been looked at.
//!
//! Also compiled into the tests of `keybound-ureq`.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Debug;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Everything that must not be seen, in the forms in which it might be.
pub(crate) struct Planted(Vec<(String, String)>);

impl Planted {
    pub(crate) fn new(secrets: &[&str]) -> Self {
        let mut planted = Vec::new();
        for secret in secrets {
            let bytes = format!("{:?}", secret.as_bytes());
            let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            let base64 = URL_SAFE_NO_PAD.encode(secret);
            // Wherever it stands in a longer text, the middle of its base64 is one of three.
            let shifted = [1, 2].map(|shift| {
                let whole = STANDARD.encode(format!("{}{secret}", "x".repeat(shift)));
                whole[4..whole.len() - 4].to_owned()
            });
            let forms = [
                (*secret).to_owned(),
                bytes.trim_matches(['[', ']']).to_owned(),
                hex,
                base64,
            ];
            for form in forms.into_iter().chain(shifted) {
                planted.push(((*secret).to_owned(), without_space(&form)));
            }
        }
        Self(planted)
    }

    pub(crate) fn are_not_in(&self, shown: &str) {
        let plain = without_space(shown);
        for (secret, form) in &self.0 {
            assert!(!plain.contains(form), "{secret} in {shown}");
        }
    }

    pub(crate) fn are_not_shown(&self, values: &[&dyn Shown]) {
        for value in values {
            LOOKED_AT.with_borrow_mut(|types| types.extend(names_in((**value).type_name())));
            self.are_not_in(&format!("{value:?}"));
            self.are_not_in(&format!("{value:#?}"));
        }
    }

    /// Neither by an error nor by what is behind it.
    pub(crate) fn are_not_told<E: Error + 'static>(&self, error: &E) {
        self.are_not_shown(&[error]);
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = next {
            self.are_not_in(&format!("{error} {error:?} {error:#?}"));
            if let Some(error) = error.downcast_ref::<keybound_core::Error>() {
                use keybound_core::Error;
                match error {
                    Error::InvalidInput(error) => self.are_not_shown(&[error]),
                    Error::Server(error) => self.are_not_shown(&[error]),
                    Error::Response(error) => self.are_not_shown(&[error, error.kind()]),
                    Error::NoResponse(error) => self.are_not_shown(&[error]),
                    // Their cause is the source.
                    Error::Signer(_) | Error::Storage(_) | Error::TokenSource(_) => {}
                    Error::NoEntropy
                    | Error::Timeout
                    | Error::RefreshAborted
                    | Error::LoginRequired => {}
                    other => panic!("{other:?} is not looked into"),
                }
            }
            next = error.source();
        }
    }
}

fn without_space(text: &str) -> String {
    text.split_whitespace().collect()
}

/// What can be printed, and says of which type it is.
pub(crate) trait Shown: Debug {
    fn type_name(&self) -> &'static str;
}

impl<T: Debug> Shown for T {
    fn type_name(&self) -> &'static str {
        type_name::<T>()
    }
}

thread_local! {
    static LOOKED_AT: RefCell<BTreeSet<String>> = RefCell::default();
}

/// The types that [`are_not_shown`](Planted::are_not_shown) has looked at while these tests ran, generic arguments included.
pub(crate) fn looked_at_by(tests: &[fn()]) -> BTreeSet<String> {
    LOOKED_AT.take();
    tests.iter().for_each(|test| test());
    LOOKED_AT.take()
}

/// `Option` and `Token`, for `core::option::Option<keybound_core::token::Token>`.
fn names_in(type_name: &str) -> impl Iterator<Item = String> {
    let paths = type_name.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    paths
        .filter_map(|path| path.rsplit("::").next())
        .map(str::to_owned)
}
