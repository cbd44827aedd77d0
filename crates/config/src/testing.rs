//! Short hands for the tests of several modules.

use crate::diagnostic::Diagnostic;
use crate::load::{Context, Loaded, load};

pub(crate) fn context() -> Context {
    Context {
        app_id: "app".into(),
        namespace: None,
        kubernetes: false,
    }
}

/// Refuses every expression with `bad` in it.
pub(crate) fn compile(expression: &str) -> Result<(), (String, Option<(usize, usize)>)> {
    match expression.find("bad") {
        Some(at) => Err(("no `bad` here".to_owned(), Some((1, at + 1)))),
        None => Ok(()),
    }
}

pub(crate) fn load_text(text: &str) -> Loaded {
    load(
        &[("dir/file.yaml".to_owned(), text.to_owned())],
        &context(),
        &compile,
    )
}

/// `CFG-TYPE 3:5 spec.type`, one for each.
pub(crate) fn told(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics
        .iter()
        .map(|told| {
            format!(
                "{} {}:{} {}",
                told.code, told.place.line, told.place.column, told.place.path
            )
        })
        .collect()
}

/// A resource with its four usual first lines; `spec` is indented already.
pub(crate) fn resource(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: dapr.io/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n{spec}")
}
