//! The core brings in no IO of its own: its dependencies are these, and whatever is added is added here too.

use std::collections::BTreeSet;

/// What the core is written with.
const DIRECT: [&str; 6] = ["base64", "http", "ring", "serde", "serde_json", "zeroize"];

/// What those bring: parsing and printing, ring's probing of the processor and its source of random numbers,
/// and what serde's macros are made of.
const BROUGHT: [&str; 14] = [
    "bytes",
    "cfg-if",
    "getrandom",
    "itoa",
    "libc",
    "memchr",
    "proc-macro2",
    "quote",
    "serde_core",
    "serde_derive",
    "syn",
    "unicode-ident",
    "untrusted",
    "zmij",
];

#[test]
fn the_core_depends_on_what_is_listed_and_on_nothing_else() {
    let direct = dependencies(&["--depth", "1"]);
    assert_eq!(direct, BTreeSet::from(DIRECT.map(str::to_owned)));
    let allowed: BTreeSet<String> = DIRECT
        .iter()
        .chain(&BROUGHT)
        .map(|name| (*name).to_owned())
        .collect();
    // Other systems than this one need fewer.
    let unlisted: Vec<String> = dependencies(&[]).difference(&allowed).cloned().collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
}

/// The names of the crates that are linked or run for the host when the core is built.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo knows the dependencies, and it is a process"
)]
fn dependencies(more: &[&str]) -> BTreeSet<String> {
    let output = std::process::Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-p",
            "keybound-core",
            "-e",
            "normal",
            "--prefix",
            "none",
        ])
        .args(more)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).expect("names");
    let names = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned);
    names
        .filter(|name| !name.is_empty() && name != "keybound-core")
        .collect()
}
