//! The folders of the core are layers: no file imports from a layer above its own, and no two files import each other, not
//! even by way of others. Re-exports are followed to the file that defines the name.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Item, UseTree};

use crate::sources_of;

/// From the bottom to the top. `lib.rs` and `driver.rs` stand above them and only re-export.
const LAYERS: [&str; 8] = [
    "types", "wire", "jose", "dpop", "request", "oauth", "session", "provider",
];

/// The most entries that `core/src` may have: whoever opens it sees the layers and little else.
const MAX_ENTRIES: usize = 10;

#[test]
fn no_file_of_the_core_imports_upwards_or_in_a_circle() {
    let sources: Vec<(String, Vec<Item>)> = sources_of(&["core"])
        .into_iter()
        .map(|(path, items)| (path.trim_start_matches("core/src/").to_owned(), items))
        .collect();
    let modules = Modules::of(&sources);
    assert!(modules.imports().len() > 100, "the imports are not found");
    assert_eq!(modules.faults(), Vec::<String>::new());
}

#[test]
fn the_core_shows_its_layers() {
    let entries: BTreeSet<String> = sources_of(&["core"])
        .into_iter()
        .filter_map(|(path, _)| {
            Some(
                path.strip_prefix("core/src/")?
                    .split('/')
                    .next()?
                    .to_owned(),
            )
        })
        .collect();
    assert!(entries.len() <= MAX_ENTRIES, "{entries:?}");
    for layer in LAYERS {
        assert!(entries.contains(layer), "{layer}");
    }
}

#[test]
fn an_upward_import_and_a_circle_would_be_found() {
    let sound = [
        (
            "lib.rs",
            "mod types; mod jose; mod session; pub use session::token_manager::TokenManager; pub use types::Time;",
        ),
        ("types/mod.rs", "mod time; pub use time::Time;"),
        ("types/time.rs", "pub struct Time;"),
        (
            "jose/mod.rs",
            "pub(crate) mod key; pub(crate) mod jwk; pub use key::Key; pub use crate::types::Time as Other;",
        ),
        (
            "jose/key.rs",
            "use crate::types::Time; use super::jwk::Jwk; pub struct Key(Jwk);",
        ),
        ("jose/jwk.rs", "pub struct Jwk;"),
        ("session/mod.rs", "pub(crate) mod token_manager;"),
        (
            "session/token_manager.rs",
            "use crate::jose::{self, Key}; pub struct TokenManager; fn f() { let _ = crate::types::Time; }",
        ),
    ];
    assert_eq!(faults(&sound, None), Vec::<String>::new());
    for (file, planted, fault) in [
        ("types/time.rs", "use crate::jose::Jwk;", "types/time.rs"),
        (
            "types/time.rs",
            "use crate::jose::key::Key;",
            "types/time.rs imports jose/key.rs, which is above it",
        ),
        // By names that are re-exported from above, from beside, and under another name.
        (
            "types/time.rs",
            "use crate::TokenManager;",
            "types/time.rs imports session/token_manager.rs, which is above it",
        ),
        (
            "jose/key.rs",
            "use crate::{TokenManager as Other};",
            "jose/key.rs imports session/token_manager.rs, which is above it",
        ),
        (
            "jose/jwk.rs",
            "use crate::session::token_manager;",
            "jose/jwk.rs imports session/token_manager.rs, which is above it",
        ),
        (
            "types/mod.rs",
            "pub use crate::session::token_manager::TokenManager;",
            "types/mod.rs imports session/token_manager.rs, which is above it",
        ),
        // Without `use`, and within a macro.
        (
            "types/time.rs",
            "fn f() -> crate::jose::Key { todo!() }",
            "types/time.rs imports jose/key.rs, which is above it",
        ),
        (
            "types/time.rs",
            "fn f() { println!(\"{:?}\", crate::jose::Key) }",
            "types/time.rs imports jose/key.rs, which is above it",
        ),
        (
            "jose/jwk.rs",
            "use super::key::Key;",
            "circle: jose/jwk.rs, jose/key.rs",
        ),
        (
            "jose/jwk.rs",
            "use super::Key;",
            "circle: jose/jwk.rs, jose/key.rs",
        ),
        (
            "jose/jwk.rs",
            "mod inner { use super::super::Key; }",
            "circle: jose/jwk.rs, jose/key.rs",
        ),
    ] {
        let found = faults(&sound, Some((file, planted)));
        assert!(
            found.iter().any(|found| found.contains(fault)),
            "{file}: {planted} {found:?}"
        );
    }
}

fn faults(sources: &[(&str, &str)], planted: Option<(&str, &str)>) -> Vec<String> {
    let sources: Vec<(String, Vec<Item>)> = sources
        .iter()
        .map(|(file, text)| {
            let more = planted
                .filter(|(at, _)| at == file)
                .map_or("", |(_, more)| more);
            (
                file.to_string(),
                syn::parse_file(&format!("{text} {more}"))
                    .expect("Rust")
                    .items,
            )
        })
        .collect();
    Modules::of(&sources).faults()
}

type Path = Vec<String>;

/// The modules of a crate that are files, by their paths.
struct Modules<'a> {
    files: BTreeMap<Path, (&'a str, &'a [Item])>,
}

impl<'a> Modules<'a> {
    fn of(sources: &'a [(String, Vec<Item>)]) -> Self {
        let path = |file: &str| {
            let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
            if module == "lib" {
                Path::new()
            } else {
                module.split('/').map(str::to_owned).collect()
            }
        };
        let files = sources
            .iter()
            .map(|(file, items)| (path(file), (file.as_str(), items.as_slice())));
        Self {
            files: files.collect(),
        }
    }

    /// Pairs of files, and whether it is no more than a re-export.
    fn imports(&self) -> BTreeSet<(&'a str, &'a str, bool)> {
        let mut imports = BTreeSet::new();
        for (module, (file, items)) in &self.files {
            let mut found = Vec::new();
            paths_in(items, module, false, &mut found);
            for (path, is_reexport) in found {
                if let Some(target) = self.file_of(&path, 0).filter(|target| target != file) {
                    imports.insert((*file, target, is_reexport));
                }
            }
        }
        imports
    }

    /// The file that defines what `path` names.
    fn file_of(&self, path: &[String], depth: usize) -> Option<&'a str> {
        assert!(depth < 16, "{path:?} is re-exported in a circle");
        let longest = (0..=path.len())
            .rev()
            .find(|len| self.files.contains_key(&path[..*len]))?;
        let (file, items) = self.files[&path[..longest]];
        let Some(name) = path.get(longest) else {
            return Some(file);
        };
        let mut reexports = Vec::new();
        reexports_in(items, &path[..longest].to_vec(), &mut reexports);
        // `pub(crate) use name;` makes a macro of this file a path of its own.
        let behind = reexports
            .into_iter()
            .find(|(known, target)| known == name && target != path);
        behind
            .and_then(|(_, target)| self.file_of(&target, depth + 1))
            .or(Some(file))
    }

    fn faults(&self) -> Vec<String> {
        let layer = |file: &str| {
            let folder = file.split_once('/').map_or("", |(folder, _)| folder);
            LAYERS
                .iter()
                .position(|layer| *layer == folder)
                .unwrap_or(LAYERS.len())
        };
        let imports = self.imports();
        let upward = imports
            .iter()
            .filter(|(from, to, _)| layer(from) < layer(to));
        let mut faults: Vec<String> = upward
            .map(|(from, to, _)| format!("{from} imports {to}, which is above it"))
            .collect();
        // Whoever can be reached from itself is part of a circle.
        let reached_from = |start: &'a str| {
            let (mut reached, mut to_do) = (BTreeSet::new(), vec![start]);
            while let Some(file) = to_do.pop() {
                let next = imports
                    .iter()
                    .filter(|(from, _, is_reexport)| *from == file && !is_reexport);
                to_do.extend(next.map(|(_, to, _)| *to).filter(|to| reached.insert(*to)));
            }
            reached
        };
        let all = self.files.values().map(|(file, _)| *file);
        let circular: BTreeSet<&str> = all
            .filter(|file| reached_from(file).contains(file))
            .collect();
        if !circular.is_empty() {
            faults.push(format!("circle: {}", Vec::from_iter(circular).join(", ")));
        }
        faults
    }
}

/// What a module re-exports: the name that it has there, and the path behind it.
fn reexports_in(items: &[Item], module: &Path, out: &mut Vec<(String, Path)>) {
    for item in items {
        if let Item::Use(item) = item {
            if !matches!(item.vis, syn::Visibility::Inherited) {
                let mut found = Vec::new();
                leaves(&item.tree, &mut Path::new(), &mut found);
                out.extend(
                    found
                        .into_iter()
                        .filter_map(|(name, path)| Some((name, absolute(&path, module, true)?))),
                );
            }
        }
    }
}

/// The paths in items that begin at the crate, at this module or at the one above.
fn paths_in(items: &[Item], module: &Path, is_nested: bool, out: &mut Vec<(Path, bool)>) {
    for item in items {
        match item {
            Item::Use(item) => {
                let is_reexport = !is_nested && !matches!(item.vis, syn::Visibility::Inherited);
                let mut found = Vec::new();
                leaves(&item.tree, &mut Path::new(), &mut found);
                let found = found
                    .into_iter()
                    .filter_map(|(_, path)| absolute(&path, module, is_reexport));
                out.extend(found.map(|path| (path, is_reexport)));
            }
            Item::Mod(item) => {
                if let Some((_, items)) = &item.content {
                    let mut inner = module.clone();
                    inner.push(item.ident.to_string());
                    paths_in(items, &inner, true, out);
                }
            }
            item => paths_in_tokens(item.to_token_stream(), module, out),
        }
    }
}

fn paths_in_tokens(tokens: TokenStream, module: &Path, out: &mut Vec<(Path, bool)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => paths_in_tokens(group.stream(), module, out),
            TokenTree::Ident(ident) if ident == "crate" || ident == "super" => {
                let mut path = vec![ident.to_string()];
                let mut rest = tokens[at + 1..].iter();
                while let (
                    Some(TokenTree::Punct(one)),
                    Some(TokenTree::Punct(other)),
                    Some(TokenTree::Ident(name)),
                ) = (rest.next(), rest.next(), rest.next())
                {
                    if one.as_char() != ':' || other.as_char() != ':' {
                        break;
                    }
                    path.push(name.to_string());
                }
                if path.len() > 1 {
                    out.extend(absolute(&path, module, false).map(|path| (path, false)));
                }
            }
            _ => {}
        }
    }
}

/// Each name that a `use` brings, with its whole path.
fn leaves(tree: &UseTree, prefix: &mut Path, out: &mut Vec<(String, Path)>) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            leaves(&path.tree, prefix, out);
            prefix.pop();
        }
        UseTree::Group(group) => group
            .items
            .iter()
            .for_each(|tree| leaves(tree, prefix, out)),
        UseTree::Glob(_) => out.push(("*".to_owned(), prefix.clone())),
        UseTree::Name(name) if name.ident == "self" => {
            out.push((prefix.last().cloned().unwrap_or_default(), prefix.clone()));
        }
        UseTree::Name(name) => {
            let path = prefix
                .iter()
                .cloned()
                .chain([name.ident.to_string()])
                .collect();
            out.push((name.ident.to_string(), path));
        }
        UseTree::Rename(rename) => {
            let path = prefix
                .iter()
                .cloned()
                .chain([rename.ident.to_string()])
                .collect();
            out.push((rename.rename.to_string(), path));
        }
    }
}

/// The path below the crate; `None` for another crate's. A re-export may name a module below its own without `self`.
fn absolute(path: &[String], module: &Path, is_reexport: bool) -> Option<Path> {
    let mut base = module.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|first| first == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        first
            if is_reexport
                && ![
                    "std",
                    "core",
                    "alloc",
                    "http",
                    "serde",
                    "serde_json",
                    "ring",
                    "zeroize",
                ]
                .contains(&first) => {}
        _ => return None,
    }
    base.extend(rest.iter().cloned());
    Some(base)
}
