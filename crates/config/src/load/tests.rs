//! Whole files.

use outrigger_core::Namespace;

use super::{Context, ResourceKind, SourceFile, load, read};
use crate::testing::{compile, context, load_text, resource, told};

fn component(name: &str) -> String {
    resource("Component", name, "  type: state.x\n")
}

#[test]
fn a_component_of_a_name_that_is_taken_is_rejected() {
    let files: Vec<SourceFile> = [("a.yaml", "one"), ("b.yaml", "two"), ("c.yaml", "one")]
        .into_iter()
        .map(|(file, name)| (file.to_owned(), component(name)))
        .collect();
    let loaded = load(&files, &context(), &compile);
    assert_eq!(
        loaded
            .components
            .iter()
            .map(|c| &*c.place.file)
            .collect::<Vec<_>>(),
        ["a.yaml", "b.yaml"]
    );
    let rejected = &loaded.rejected[0];
    assert_eq!(
        (
            rejected.name.as_str(),
            rejected.type_name.as_str(),
            &*rejected.place.file
        ),
        ("one", "state.x", "c.yaml")
    );
    assert!(rejected.reason.contains("a.yaml:4"), "{}", rejected.reason);
}

#[test]
fn what_does_not_parse_is_rejected_under_its_file_and_line() {
    let loaded = load_text(&format!(
        "{}---\nkind: [\n---\n- a list\n---\n{}",
        component("a"),
        component("b")
    ));
    assert_eq!(loaded.components.len(), 2);
    let names: Vec<_> = loaded
        .rejected
        .iter()
        .map(|rejected| (rejected.name.as_str(), rejected.kind))
        .collect();
    assert_eq!(
        names,
        [
            ("file.yaml:8", ResourceKind::Unknown),
            ("file.yaml:10", ResourceKind::Unknown)
        ]
    );
}

#[test]
fn namespaces_are_compared_only_when_ours_is_known() {
    let text = ["own", "other", ""]
        .map(|namespace| {
            component(&format!("c{namespace}"))
                .replace("spec:", &format!("  namespace: \"{namespace}\"\nspec:"))
        })
        .join("---\n");
    let names = |namespace: Option<&str>| {
        let context = Context {
            namespace: namespace.map(Namespace::from),
            ..context()
        };
        let loaded = load(&[("f".to_owned(), text.clone())], &context, &compile);
        loaded
            .components
            .iter()
            .map(|component| component.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(None), ["cown", "cother", "c"]);
    assert_eq!(names(Some("own")), ["cown", "c"]);
}

#[test]
fn what_is_meant_for_other_apps_is_not_even_checked() {
    let text = format!(
        "{}scopes: [other]\n---\n{}scopes: [other, app]\n---\n{}scopes: [other]\n",
        component("a"),
        component("a"),
        resource("Component", "broken", "  types: x\n")
    );
    let loaded = load_text(&text);
    assert_eq!(
        (
            loaded.components.len(),
            loaded.rejected.len(),
            loaded.diagnostics.len()
        ),
        (1, 0, 0)
    );
}

#[test]
fn kinds_of_others_are_ignored_and_slips_are_told() {
    let document = |version: &str, kind: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n")
    };
    for (version, kind, codes) in [
        ("apps/v1", "Deployment", &[] as &[&str]),
        ("v1", "Secret", &[]),
        ("operators.coreos.com/v1alpha1", "Subscription", &[]),
        ("core.oam.dev/v1beta1", "Component", &[]),
        (
            "dapr.i/v1alpha1",
            "Component",
            &["CFG-KIND 1:13 apiVersion"],
        ),
        // Elsewhere it would count, so that somebody will look for its effect.
        ("dapr.io/v1alpha1", "Configuration", &["CFG-IGNORED 1:1 "]),
        ("dapr.io/v1alpha1", "MCPServer", &[]),
        ("dapr.io/v1alpha1", "WorkflowAccessPolicy", &[]),
        ("dapr.io/v1alpha1", "component", &["CFG-KIND 2:7 kind"]),
        ("dapr.io/v1alpha1", "Gateway", &["CFG-KIND 2:7 kind"]),
        (
            "dapr.io/v1alpha",
            "Component",
            &["CFG-KIND 1:13 apiVersion"],
        ),
        (
            "dapr.io/v3alpha1",
            "Subscription",
            &["CFG-KIND 1:13 apiVersion"],
        ),
        (
            "dapr.io/v2alpha1",
            "Component",
            &["CFG-KIND 1:13 apiVersion"],
        ),
    ] {
        let loaded = load_text(&document(version, kind));
        assert_eq!(told(&loaded.diagnostics), codes, "{version} {kind}");
        assert_eq!((loaded.components.len(), loaded.rejected.len()), (0, 0));
    }
    assert_eq!(
        told(&load_text("services: {}\n").diagnostics),
        ["CFG-KIND 1:1 "]
    );
}

#[test]
fn other_notes_are_for_the_check_only() {
    let file = (
        "f".to_owned(),
        "apiVersion: dapr.io/v1alpha1\nkind: MCPServer\n".to_owned(),
    );
    assert_eq!(
        read(&[file], &context(), &compile, true).diagnostics[0].code,
        "CFG-IGNORED"
    );
}

#[test]
fn keys_and_fields_that_do_not_count_are_told() {
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Component\nMetadata: {name: a}\nspec: {Type: state.x, typ: y, version: v1, version: v2}\nstatus: {}\n";
    let loaded = load_text(text);
    assert_eq!(loaded.components[0].version, "v2");
    assert_eq!(
        told(&loaded.diagnostics),
        [
            "CFG-UNKNOWN-FIELD 4:23 spec.typ",
            "CFG-DUPLICATE 4:44 spec.version"
        ]
    );
}

#[test]
fn a_circle_of_secret_stores_rejects_its_members() {
    let store = |name: &str, needs: &str| {
        resource(
            "Component",
            name,
            "  type: secretstores.x\n  metadata: [{name: k, secretKeyRef: {name: s}}]\n",
        ) + &format!("auth: {{secretStore: {needs}}}\n")
    };
    let text = [
        store("a", "b"),
        store("b", "c"),
        store("c", "a"),
        store("d", "a"),
        store("e", "e"),
        store("f", "none"),
    ]
    .join("---\n");
    let loaded = load_text(&text);
    assert_eq!(
        loaded
            .components
            .iter()
            .map(|c| c.name.as_str())
            .collect::<Vec<_>>(),
        ["d", "f"]
    );
    assert_eq!(
        loaded
            .rejected
            .iter()
            .map(|r| r.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "b", "c", "e"]
    );
    assert!(
        loaded.rejected[0].reason.contains("a -> b -> c -> a"),
        "{}",
        loaded.rejected[0].reason
    );
}
