//! SECURITY.md claims nothing without a test, and no test that it names is missing.

use std::path::{Path, PathBuf};

use crate::root;

/// The repository's file, as a text.
#[expect(clippy::disallowed_methods, reason = "what is looked into are files")]
fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(root().join(path)).ok()
}

/// Where a test is, by the name under which `cargo test` shows it.
fn file_of(test: &str) -> Option<PathBuf> {
    let (module, _) = test.rsplit_once("::")?;
    Some(PathBuf::from(match module.split_once("::") {
        Some((harness @ ("it" | "repository"), file)) => format!("core/tests/{harness}/{file}.rs"),
        Some(("core", file)) => format!("core/src/{}.rs", file.replace("::", "/")),
        Some((harness @ ("recordings" | "session" | "stress"), file)) => {
            format!("adapter-ureq/tests/{harness}/{file}.rs")
        }
        None if module == "wiped" => "core/tests/wiped/wiped.rs".to_owned(),
        None if matches!(module, "command" | "sandbox") => {
            format!("adapter-ureq/{module}/tests/{module}.rs")
        }
        None => format!("adapter-ureq/tests/{module}.rs"),
        Some(_) => return None,
    }))
}

/// The tests that a paragraph names: those of Rust, and those of JavaScript with their files.
fn named(paragraph: &str) -> (Vec<&str>, Vec<(&str, &str)>) {
    let quoted: Vec<&str> = paragraph.split('`').collect();
    let mut rust = Vec::new();
    let mut scripts = Vec::new();
    for pair in quoted.chunks(2) {
        let [_, code] = pair else { continue };
        // A function's name; a type's begins in upper case.
        let is_name = |name: &str| name.starts_with(|first: char| first.is_ascii_lowercase());
        if code
            .rsplit_once("::")
            .is_some_and(|(_, name)| is_name(name))
        {
            rust.push(*code);
        }
    }
    for (at, code) in quoted
        .iter()
        .enumerate()
        .filter(|(_, code)| code.ends_with(".test.mjs"))
    {
        let name = quoted
            .get(at + 1)
            .and_then(|after| after.trim_start().strip_prefix('"')?.split('"').next());
        scripts.push((*code, name.unwrap_or_default()));
    }
    (rust, scripts)
}

#[test]
fn every_claim_names_tests_that_are_there() {
    let text = read(Path::new("SECURITY.md")).unwrap();
    let claims = text
        .split("## Attackers and guarantees")
        .nth(1)
        .unwrap()
        .split("## Known limits")
        .next()
        .unwrap();
    let (introduction, sections) = claims.split_once("### ").unwrap();
    let items = sections
        .split("\n- ")
        .skip(1)
        .map(|item| item.split("\n\n").next().unwrap());
    let (mut count, mut missing) = (0, Vec::new());
    for claim in std::iter::once(introduction).chain(items) {
        let (rust, scripts) = named(claim);
        assert!(
            !rust.is_empty() || !scripts.is_empty() || claim.contains("not by tests"),
            "no test: {claim}"
        );
        for test in &rust {
            let name = test.rsplit("::").next().unwrap();
            let is_there = file_of(test)
                .and_then(|file| read(&file))
                .is_some_and(|text| {
                    text.split("#[test]").skip(1).any(|test| {
                        let declared = test.split("fn ").nth(1).unwrap_or_default();
                        declared
                            .strip_prefix(name)
                            .is_some_and(|rest| rest.starts_with('('))
                    })
                });
            if !is_there {
                missing.push((*test).to_owned());
            }
        }
        for (file, name) in &scripts {
            let folders = ["adapter-wasm/tests", "adapter-ureq/tests/interop"];
            let texts = folders
                .iter()
                .filter_map(|folder| read(&Path::new(folder).join(file)));
            if name.is_empty() || !texts.into_iter().any(|text| text.contains(name)) {
                missing.push(format!("{file} {name:?}"));
            }
        }
        count += rust.len() + scripts.len();
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(count > 50, "{count}");
}
