//! Nothing panics, so that no message of a panic can have a secret in it.

use quote::ToTokens as _;
use syn::visit::Visit;

use crate::sources_of;

/// clippy sees to `unwrap`, `expect`, indexing and `panic!`.
#[test]
fn no_library_code_can_panic_by_a_macro() {
    struct Panics(Vec<String>);
    impl Visit<'_> for Panics {
        fn visit_macro(&mut self, called: &syn::Macro) {
            let name = called.path.to_token_stream().to_string();
            if ["panic", "unreachable", "todo", "unimplemented"].contains(&name.as_str())
                || name.starts_with("assert")
            {
                self.0.push(called.to_token_stream().to_string());
            }
        }
    }
    let mut panics = Panics(Vec::new());
    for (_, items) in sources_of(&[
        "core",
        "adapter-ureq",
        "adapter-ureq/command",
        "adapter-ureq/sandbox",
        "adapter-wasm",
    ]) {
        items.iter().for_each(|item| panics.visit_item(item));
    }
    assert!(panics.0.is_empty(), "{:?}", panics.0);
}
