//! Rules for the repository as a whole: its crates' sources, and what SECURITY.md says of them. Not part of the package.

#![cfg(test)]

mod layers;
mod security;
#[expect(dead_code, reason = "the tests `leaks` use the rest")]
#[path = "../it/sources.rs"]
mod sources;
mod timing;

use std::path::Path;

use syn::Item;

/// The repository's folder.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the core is in a workspace")
}

/// Every source of these crates, by its path from the root: `core/src/types/secret.rs`.
fn sources_of(crates: &[&str]) -> Vec<(String, Vec<Item>)> {
    let sources = crates
        .iter()
        .flat_map(|name| sources::of(&root().join(name)));
    let from_root = |path: &Path| {
        let path = path.strip_prefix(root()).expect("in the workspace");
        let parts = path.iter().map(|part| part.to_string_lossy());
        parts.collect::<Vec<_>>().join("/")
    };
    let sources: Vec<_> = sources
        .map(|source| (from_root(&source.path), source.items))
        .collect();
    assert!(
        sources.len() > 8 * crates.len(),
        "the sources are not where they are looked for"
    );
    sources
}
