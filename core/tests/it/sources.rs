//! What sources say, as `syn` reads them: for rules that no lint knows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use syn::{Attribute, Item, Visibility};

/// A file of a crate's `src`, without what is compiled for tests alone.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) items: Vec<Item>,
}

/// Every file in `src` of the crate in this folder.
#[allow(
    clippy::disallowed_methods,
    reason = "the sources are files; the core alone bans them"
)]
pub(crate) fn of(crate_folder: &Path) -> Vec<Source> {
    let mut folders = vec![crate_folder.join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a text");
                let syn::File {
                    attrs, mut items, ..
                } = syn::parse_file(&text).expect("Rust");
                if is_for_tests(&attrs) {
                    continue;
                }
                items.retain(|item| !is_for_tests(attributes(item)));
                sources.push(Source { path, items });
            }
        }
    }
    assert!(
        !sources.is_empty(),
        "the sources are not where they are looked for"
    );
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// The types that the library of the crate in this folder makes public.
pub(crate) fn public_types(crate_folder: &Path) -> BTreeSet<String> {
    let is_binary = |source: &Source| {
        source
            .path
            .components()
            .any(|part| part.as_os_str() == "bin")
    };
    let sources = of(crate_folder)
        .into_iter()
        .filter(|source| !is_binary(source));
    let named = sources
        .flat_map(|source| source.items)
        .filter_map(|item| match item {
            Item::Struct(item) => Some((item.vis, item.ident)),
            Item::Enum(item) => Some((item.vis, item.ident)),
            _ => None,
        });
    named
        .filter(|(vis, _)| matches!(vis, Visibility::Public(_)))
        .map(|(_, ident)| ident.to_string())
        .collect()
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .any(|attribute| {
            let condition = attribute
                .meta
                .require_list()
                .map(|list| list.tokens.to_string())
                .unwrap_or_default();
            condition == "test" || condition.contains("doctest")
        })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        _ => &[],
    }
}
