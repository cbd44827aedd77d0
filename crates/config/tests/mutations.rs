//! Real files, damaged at random: whatever comes, it is loaded or told, and nothing panics.

use std::collections::HashSet;

use outrigger_component_api::{Catalog, Reader};
use outrigger_config::check::check;
use outrigger_config::diagnostic::render;
use outrigger_config::load::load;
use outrigger_config::resolve::{Secrets, resolve};
use outrigger_config::{Context, Diagnostic, configuration};
use proptest::prelude::*;

const RESOURCES: &str = include_str!("golden/everything/resources.yaml");
const GOOD: &str = include_str!("golden/good/resources.yaml");
const CONFIGURATION: &str = include_str!("golden/configuration/config.yaml");

/// One piece of damage.
#[derive(Clone, Debug)]
enum Damage {
    /// Puts a text in at a place, replacing so many characters.
    Put {
        at: usize,
        gone: usize,
        text: String,
    },
    /// Repeats a line elsewhere.
    Repeat { line: usize, at: usize },
    /// Takes a line out.
    Drop { line: usize },
    /// Moves a line to the right.
    Indent { line: usize, by: usize },
}

fn damage() -> impl Strategy<Value = Damage> {
    let pieces = prop_oneof![
        "[-:{}\\[\\]&*!|>'\"%@`#,? \n\t~<]{1,3}",
        "\\PC{0,3}",
        Just("---\n".to_owned()),
        Just("<<: *a".to_owned()),
        Just("&a ".to_owned()),
        Just("*a".to_owned()),
        Just("!!int ".to_owned()),
        Just("null".to_owned()),
        Just("-9999999999999999999".to_owned()),
        Just("${HOME}".to_owned()),
    ];
    prop_oneof![
        (any::<usize>(), 0_usize..6, pieces).prop_map(|(at, gone, text)| Damage::Put {
            at,
            gone,
            text
        }),
        (any::<usize>(), any::<usize>()).prop_map(|(line, at)| Damage::Repeat { line, at }),
        any::<usize>().prop_map(|line| Damage::Drop { line }),
        (any::<usize>(), 1_usize..5).prop_map(|(line, by)| Damage::Indent { line, by }),
    ]
}

fn damaged(text: &str, damages: &[Damage]) -> String {
    let mut text = text.to_owned();
    for damage in damages {
        text = one(&text, damage);
    }
    text
}

fn one(text: &str, damage: &Damage) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let count = lines.len().max(1);
    match damage {
        Damage::Put {
            at,
            gone,
            text: piece,
        } => {
            let mut characters: Vec<char> = text.chars().collect();
            let at = at % (characters.len() + 1);
            let end = (at + gone).min(characters.len());
            characters.splice(at..end, piece.chars());
            return characters.into_iter().collect();
        }
        Damage::Repeat { line, at } => {
            if let Some(line) = lines.get(line % count).cloned() {
                lines.insert(at % (count + 1), line);
            }
        }
        Damage::Drop { line } => {
            let line = line % count;
            lines = lines
                .into_iter()
                .enumerate()
                .filter(|(i, _)| *i != line)
                .map(|(_, line)| line)
                .collect();
        }
        Damage::Indent { line, by } => {
            if let Some(line) = lines.get_mut(line % count) {
                line.insert_str(0, &" ".repeat(*by));
            }
        }
    }
    lines.join("\n")
}

fn context() -> Context {
    Context {
        app_id: "app".into(),
        namespace: Some("default".into()),
        kubernetes: false,
    }
}

fn compile(expression: &str) -> Result<(), (String, Option<(usize, usize)>)> {
    if expression.contains('(') {
        Err(("no calls".to_owned(), Some((usize::MAX, usize::MAX))))
    } else {
        Ok(())
    }
}

fn environment(name: &str) -> Option<String> {
    (name == "HOME").then(|| "a: [\n".to_owned())
}

fn assert_sorted(diagnostics: &[Diagnostic]) {
    let order = |told: &Diagnostic| (told.place.file.clone(), told.place.line, told.place.column);
    assert!(diagnostics.iter().map(order).is_sorted());
}

fn load_and_check(text: &str) {
    let files = [
        ("a.yaml".to_owned(), text.to_owned()),
        ("b.yaml".to_owned(), text.to_owned()),
    ];
    let loaded = load(&files, &context(), &compile);
    assert_sorted(&loaded.diagnostics);
    // A lone carriage return ends a line in YAML, too.
    let lines = u32::try_from(text.matches(['\n', '\r']).count() + 1).unwrap_or(u32::MAX);
    for told in &loaded.diagnostics {
        assert!((1..=lines).contains(&told.place.line), "{told}");
        assert!(
            !told.message.is_empty() && !told.message.contains('\n'),
            "{told}"
        );
    }
    for rejected in &loaded.rejected {
        assert!(
            !rejected.name.is_empty() && !rejected.reason.is_empty(),
            "{rejected:?}"
        );
    }
    let names: HashSet<&str> = loaded
        .components
        .iter()
        .map(|component| component.name.as_str())
        .collect();
    assert_eq!(names.len(), loaded.components.len());
    for component in &loaded.components {
        resolve(component, &context(), &environment, Secrets::Offline).ok();
    }
    let again = load(&files, &context(), &compile);
    assert_eq!(again.components, loaded.components);
    assert_eq!(again.diagnostics, loaded.diagnostics);
    let mut catalog = Catalog::default();
    catalog.pubsub("pubsub.fake", |spec, findings| {
        let mut reader = Reader::standard(&spec.properties);
        reader.duration("prefetch");
        reader.finish(findings);
        None
    });
    render(&check(
        &files,
        &[],
        &catalog,
        &context(),
        &environment,
        &compile,
    ));
}

#[test]
fn what_is_right_stays_right() {
    let loaded = load(
        &[("a.yaml".to_owned(), GOOD.to_owned())],
        &context(),
        &compile,
    );
    assert_eq!(
        (loaded.rejected.len(), loaded.diagnostics.len()),
        (0, 0),
        "{}",
        render(&loaded.diagnostics)
    );
    let counts = [
        loaded.components.len(),
        loaded.subscriptions.len(),
        loaded.http_endpoints.len(),
        loaded.resiliencies.len(),
    ];
    assert_eq!(counts, [4, 2, 1, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_resources_are_loaded_or_told(damages in proptest::collection::vec(damage(), 1..6)) {
        load_and_check(&damaged(RESOURCES, &damages));
        load_and_check(&damaged(GOOD, &damages));
    }

    #[test]
    fn a_damaged_configuration_is_read_or_told(damages in proptest::collection::vec(damage(), 1..6)) {
        let files = [("a.yaml".to_owned(), CONFIGURATION.to_owned()), ("b.yaml".to_owned(), damaged(CONFIGURATION, &damages))];
        match configuration::load(&files, &environment) {
            Ok((_, told)) => prop_assert!(told.iter().all(|told| !told.is_error())),
            Err(told) => {
                prop_assert!(told.iter().any(Diagnostic::is_error));
                assert_sorted(&told);
            }
        }
    }

    #[test]
    fn any_bytes_are_loaded_or_told(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        load_and_check(&String::from_utf8_lossy(&bytes));
    }
}
