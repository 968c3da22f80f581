//! What the browser's types show. They are compiled for browsers, so nothing is planted in them here: each is named, with what its
//! `Debug` is made of.

use std::collections::BTreeSet;

use crate::root;
use crate::sources::public_types;

const SHOWN: [(&str, &str); 7] = [
    (
        "Error",
        "the core's errors, and what a browser says of itself; `package.test.mjs` plants secrets",
    ),
    ("JsProofKey", "a `ProofKey`"),
    ("JsSession", "a `Session`"),
    ("ProofKey", "the public half"),
    ("Session", "its name, and the core's `Client`"),
    ("TokenSource", "the core's `Grant`, or a word"),
    ("Transport", "a `ProofKey`"),
];

#[test]
fn every_public_type_of_the_browsers_crate_is_made_of_what_has_been_looked_at() {
    let named = BTreeSet::from(SHOWN.map(|(name, _)| name.to_owned()));
    assert_eq!(public_types(&root().join("adapter-wasm")), named);
}
