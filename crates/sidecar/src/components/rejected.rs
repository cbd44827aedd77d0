//! Resources that never became a component: what is kept of them, and what follows in strict mode.

use std::collections::HashSet;

use outrigger_blocks::Rejected;
use outrigger_config::{ComponentResource, Loaded, Rejected as Refused, ResourceKind};

use crate::faults::is_nameless;

/// Whether the sidecar is ready with this component only. One that is optional never counts.
pub(super) fn is_required(annotation: Option<&str>, is_optional: bool) -> bool {
    annotation == Some("true") && !is_optional
}

/// Whether the process ends when this component cannot be had, as Dapr's does; an annotation counts more than what the
/// process was told.
pub(super) fn is_vital(init_mode: Option<&str>, is_optional: bool, is_strict: bool) -> bool {
    let is_strict = match init_mode {
        Some("strict") => true,
        Some("resilient") => false,
        _ => is_strict,
    };
    is_strict && !is_optional
}

/// A good document that cannot become a component.
pub(super) fn of_resource(resource: &ComponentResource, reason: String) -> Rejected {
    let optional = resource.ignore_errors;
    Rejected {
        name: resource.name.to_string(),
        type_name: resource.type_name.clone(),
        version: resource.version.clone(),
        reason,
        optional,
        required: is_required(resource.annotation("required"), optional),
    }
}

fn of_document(one: &Refused) -> Rejected {
    Rejected {
        name: one.name.clone(),
        type_name: one.type_name.clone(),
        version: one.version.clone(),
        reason: one.reason.clone(),
        optional: one.ignore_errors,
        required: is_required(one.annotation("required"), one.ignore_errors),
    }
}

/// Nobody knows what is in a file that cannot be read, so it is not optional.
fn of_file((file, reason): &(String, String)) -> Rejected {
    Rejected {
        name: file.clone(),
        type_name: String::new(),
        version: String::new(),
        reason: reason.clone(),
        optional: false,
        required: false,
    }
}

/// Components whose documents were refused: a second one of a name, one of a circle, one of a wrong form. Of a document
/// without a name, or of text that does not parse, Dapr only warns. With each whether it is vital.
pub(super) fn documents(
    loaded: &Loaded,
    is_strict: bool,
) -> impl Iterator<Item = (Rejected, bool)> {
    let all = loaded.rejected.iter();
    let named = all.filter(|one| one.kind == ResourceKind::Component && !is_nameless(one));
    named.map(move |one| {
        let is_vital = is_vital(one.annotation("init-mode"), one.ignore_errors, is_strict);
        (of_document(one), is_vital)
    })
}

/// What is rejected before its type is looked at, but for those whose last good definition runs on.
pub(super) fn elsewhere(
    loaded: &Loaded,
    unreadable: &[(String, String)],
    kept: &HashSet<String>,
    blamed: &HashSet<String>,
) -> Vec<Rejected> {
    let components = loaded.rejected.iter().filter(|one| match one.kind {
        ResourceKind::Component if !is_nameless(one) => !kept.contains(&one.name),
        ResourceKind::Component | ResourceKind::Unknown => !blamed.contains(&*one.place.file),
        _ => false,
    });
    let files = unreadable.iter();
    let files = files.filter(|(file, _)| !blamed.contains(file));
    components
        .map(of_document)
        .chain(files.map(of_file))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_config::{Context, load};

    fn loaded(texts: &[String]) -> Loaded {
        let files = texts.iter().enumerate();
        let files: Vec<(String, String)> = files
            .map(|(number, text)| (format!("{number}.yaml"), text.clone()))
            .collect();
        let context = Context {
            app_id: "app".into(),
            namespace: None,
            kubernetes: false,
        };
        load::load(&files, &context, &|_| Ok(()))
    }

    fn annotated(annotation: &str, spec: &str) -> String {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: twice\n  annotations: {{outrigger.dev/{annotation}}}\nspec:\n  type: state.redis\n  metadata: []\n{spec}"
        )
    }

    fn component(spec: &str) -> String {
        annotated("required: 'true'", spec)
    }

    #[test]
    fn a_refused_document_is_vital_in_strict_mode_unless_it_says_otherwise() {
        let texts = [
            component(""),
            component(""),
            component("  ignoreErrors: true\n"),
            annotated("init-mode: strict", ""),
            annotated("init-mode: resilient", ""),
            component("").replace("name: twice", "name: ''"),
            "[".to_owned(),
        ];
        let vital = |is_strict| -> Vec<bool> {
            documents(&loaded(&texts), is_strict)
                .map(|(_, is_vital)| is_vital)
                .collect()
        };
        assert_eq!(vital(true), [true, false, true, false]);
        assert_eq!(vital(false), [false, false, true, false]);
    }

    #[test]
    fn what_a_refused_document_says_of_itself_is_kept() {
        let optional = component("  version: v2\n  ignoreErrors: true\n");
        let loaded = loaded(&[component(""), component(""), optional, "[".to_owned()]);
        let none = HashSet::new();
        let kept: Vec<_> = elsewhere(&loaded, &[], &none, &none)
            .iter()
            .map(|one| (one.full_type(), one.required, one.optional))
            .collect();
        let expected = [
            ("state.redis/v1".to_owned(), true, false),
            ("state.redis/v2".to_owned(), false, true),
            (String::new(), false, false),
        ];
        assert_eq!(kept, expected);
    }
}
