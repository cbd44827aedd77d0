//! What `outrigger check` prints, compared with files.
//!
//! Every folder of `golden/` is one run: `resources.yaml` and `config.yaml` go in, `expected.txt` must come out. With
//! `UPDATE_GOLDEN` set the expected texts are written anew.

use std::path::Path;

use outrigger_component_api::{Catalog, Findings, Reader, Spec};
use outrigger_config::check::check;
use outrigger_config::diagnostic::render;
use outrigger_config::{Context, SourceFile};

fn broker<T>(spec: &Spec, findings: &mut Findings) -> Option<T> {
    let mut reader = Reader::standard(&spec.properties);
    reader.required("host");
    reader.integer("prefetch", 1_u16);
    reader.duration("connectionString");
    reader.text("token");
    reader.finish(findings);
    None
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.state_store("state.redis", |_, _| None);
    catalog.pubsub("pubsub.fake", broker);
    catalog.secret_store("secretstores.fake", |_, _| None);
    catalog.name_resolver("nameresolution.mdns", |_, _, _| None);
    catalog
}

fn compile(expression: &str) -> Result<(), (String, Option<(usize, usize)>)> {
    match expression.find("bad") {
        Some(at) => Err(("unknown name `bad`".to_owned(), Some((1, at + 1)))),
        None => Ok(()),
    }
}

fn file(folder: &Path, name: &str) -> Vec<SourceFile> {
    match std::fs::read_to_string(folder.join(name)) {
        Ok(text) => vec![(name.to_owned(), text)],
        Err(_) => Vec::new(),
    }
}

#[track_caller]
fn compare(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let context = Context {
        app_id: "app".into(),
        namespace: None,
        kubernetes: false,
    };
    let files = file(&folder, "resources.yaml");
    let config = file(&folder, "config.yaml");
    assert!(
        !files.is_empty() || !config.is_empty(),
        "{} holds neither file",
        folder.display()
    );
    let text = render(&check(
        &files,
        &config,
        &catalog(),
        &context,
        &|_| None,
        &compile,
    ));
    let expected = folder.join("expected.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        assert!(std::fs::write(&expected, &text).is_ok());
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&expected).unwrap_or_default(),
        "{}",
        expected.display()
    );
    assert!(!text.contains("hunter2"), "a secret is printed");
}

#[test]
fn everything_that_is_wrong_with_resources_is_told_at_its_place() {
    compare("everything");
}

#[test]
fn everything_that_is_wrong_with_a_configuration_is_told_at_its_place() {
    compare("configuration");
}

#[test]
fn of_real_resources_only_the_missing_types_are_told() {
    compare("good");
}

#[test]
fn what_the_configuration_denies_is_told_at_the_resource() {
    compare("denied");
}

#[test]
fn nothing_is_told_of_what_is_right() {
    compare("clean");
}
