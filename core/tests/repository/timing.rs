//! How long something takes tells nothing of a secret: secrets and hashes are compared by ring alone, in constant time.
//!
//! The rule, for all sources but the sandbox, whose credentials are public: nothing that [`is_told_by`] calls a secret stands
//! in a comparison (`==`, `!=`, a `match` on literals, `contains` and the like). What is compared goes through
//! `secret::constant_time_eq`, a `secret::ConstantTimeTag` or `hmac::verify`. Types help: the `==` of `Secret`, `SecretBytes` and `AccessTokenHash` is such a comparison.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::visit::{self, Visit};
use syn::{
    BinOp, Expr, ExprBinary, ExprMatch, ExprMethodCall, ImplItemFn, ItemFn, Local, Macro, Pat,
};

use crate::sources_of;

/// Where it is done all the same: the file, the code, and why nobody learns anything by it.
const EXCEPTIONS: [(&str, &str, &str); 4] = [
    (
        "adapter-ureq/command/src/trace.rs",
        "text . contains (secret . as_str ())",
        "struck out of a trace that only this user reads",
    ),
    (
        "adapter-ureq/src/storage/encrypted.rs",
        "head . strip_prefix (& [VERSION])",
        "the version of what is sealed, which stands in clear",
    ),
    (
        "core/src/wire/error_response.rs",
        "form . expose () != secret",
        "a secret and its own escaped form: nobody else's text is in it",
    ),
    (
        "core/src/wire/error_response.rs",
        "line . contains (secret . expose ())",
        "struck out of what the server says, which was sent the secret",
    ),
];

/// Parts of names that tell of a secret, or of a hash of one.
const WORDS: [&str; 9] = [
    "expose",
    "secret",
    "password",
    "verifier",
    "assertion",
    "seed",
    "hash",
    "ath",
    "mac",
];

const COMPARING: [&str; 11] = [
    "eq",
    "ne",
    "cmp",
    "partial_cmp",
    "eq_ignore_ascii_case",
    "contains",
    "starts_with",
    "ends_with",
    "strip_prefix",
    "strip_suffix",
    "find",
];

/// What says nothing of what is in a text.
const HARMLESS: [&str; 5] = ["len", "is_empty", "is_some", "is_none", "as_ptr"];

#[test]
fn secrets_and_hashes_are_compared_by_ring_alone() {
    let mut found = BTreeSet::new();
    for (path, items) in sources_of(&[
        "core",
        "adapter-ureq",
        "adapter-ureq/command",
        "adapter-ureq/sandbox",
        "adapter-wasm",
    ]) {
        if !path.starts_with("adapter-ureq/sandbox/src/") {
            found.extend(
                comparisons(&items)
                    .into_iter()
                    .map(|code| (path.clone(), code)),
            );
        }
    }
    let excepted = EXCEPTIONS.map(|(path, code, _)| (path.to_owned(), code.to_owned()));
    assert_eq!(
        found,
        BTreeSet::from(excepted),
        "compare by `secret::constant_time_eq`, or say here why not"
    );
}

#[test]
fn a_comparison_of_a_secret_would_be_found() {
    for body in [
        "token.expose() == given",
        "given != token.access_token().expose().as_bytes()",
        "{ let text = token.expose(); given == text }",
        "{ let (text, n) = (token.expose(), 1); if n > 0 { return text.eq(given); } false }",
        "match token.expose() { \"\" => true, _ => false }",
        "matches!(token.expose(), \"x\")",
        "given.iter().any(|one| one == client_secret)",
        "token.expose().starts_with(given)",
        "all.contains(&token.expose())",
        "self.ath == other.ath",
        "debug_assert!(at_hash == given)",
        "*hash != left_half(token)",
    ] {
        assert_eq!(comparisons(&[function(body)]).len(), 1, "{body}");
    }
    for body in [
        "token.expose().is_empty()",
        "token.expose().len() == 3",
        "secret.is_some() == other.is_some()",
        "is_same(token.expose().as_bytes(), given)",
        "path == other_path",
        "match secret { Some(secret) => take(secret), None => false }",
    ] {
        assert_eq!(comparisons(&[function(body)]).len(), 0, "{body}");
    }
}

fn function(body: &str) -> syn::Item {
    syn::parse_str(&format!("fn f() -> bool {{ {body} }}")).expect("a function")
}

/// The code of every comparison that has a secret in it.
fn comparisons(items: &[syn::Item]) -> BTreeSet<String> {
    let mut finder = Finder::default();
    items.iter().for_each(|item| finder.visit_item(item));
    finder.found
}

#[derive(Default)]
struct Finder {
    found: BTreeSet<String>,
    /// The variables of this function that hold something exposed.
    exposed: BTreeSet<String>,
}

impl Finder {
    fn look_at(&mut self, operands: &[&Expr], whole: &dyn quote::ToTokens) {
        if operands.iter().any(|operand| self.is_told_by(operand)) {
            self.found.insert(whole.to_token_stream().to_string());
        }
    }

    fn is_told_by(&self, operand: &Expr) -> bool {
        match operand {
            operand if is_harmless(operand) => false,
            // What comparisons tell of is looked at where they are.
            Expr::Closure(_) => false,
            _ => self.is_told_by_tokens(operand.to_token_stream()),
        }
    }

    fn is_told_by_tokens(&self, tokens: TokenStream) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(name) => {
                let name = name.to_string();
                self.exposed.contains(&name) || name.split('_').any(|part| WORDS.contains(&part))
            }
            TokenTree::Group(group) => self.is_told_by_tokens(group.stream()),
            _ => false,
        })
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.exposed.clear();
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.exposed.clear();
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_local(&mut self, local: &'ast Local) {
        let exposes = |init: &syn::LocalInit| {
            init.expr
                .to_token_stream()
                .to_string()
                .contains("expose ()")
        };
        if local.init.as_ref().is_some_and(exposes) {
            names(&local.pat, &mut self.exposed);
        }
        visit::visit_local(self, local);
    }

    fn visit_expr_binary(&mut self, binary: &'ast ExprBinary) {
        if matches!(binary.op, BinOp::Eq(_) | BinOp::Ne(_)) {
            let operands: [&Expr; 2] = [&binary.left, &binary.right];
            if !operands.iter().any(|operand| is_harmless(operand)) {
                self.look_at(&operands, binary);
            }
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        if COMPARING.contains(&call.method.to_string().as_str()) {
            let operands: Vec<&Expr> = std::iter::once(&*call.receiver).chain(&call.args).collect();
            self.look_at(&operands, call);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_match(&mut self, matched: &'ast ExprMatch) {
        let compares = |arm: &syn::Arm| arm.pat.to_token_stream().to_string().contains('"');
        if matched.arms.iter().any(compares) {
            self.look_at(&[&matched.expr], &matched.expr);
        }
        visit::visit_expr_match(self, matched);
    }

    /// Macros are not parsed: a comparison anywhere in one, and a secret anywhere in it, is one too many.
    fn visit_macro(&mut self, called: &'ast Macro) {
        let name = called
            .path
            .segments
            .last()
            .map(|segment| segment.ident.to_string())
            .unwrap_or_default();
        let text = called.tokens.to_string();
        let compares = text.contains("==")
            || text.contains("!=")
            || name.ends_with("_eq")
            || name.ends_with("_ne");
        let matches_text = name == "matches" && text.contains('"');
        if (compares || matches_text) && self.is_told_by_tokens(called.tokens.clone()) {
            self.found.insert(called.to_token_stream().to_string());
        }
    }
}

fn is_harmless(operand: &Expr) -> bool {
    matches!(operand, Expr::MethodCall(call) if HARMLESS.contains(&call.method.to_string().as_str()))
}

fn names(pattern: &Pat, into: &mut BTreeSet<String>) {
    struct Names<'a>(&'a mut BTreeSet<String>);
    impl Visit<'_> for Names<'_> {
        fn visit_pat_ident(&mut self, name: &syn::PatIdent) {
            self.0.insert(name.ident.to_string());
        }
    }
    Names(into).visit_pat(pattern);
}
