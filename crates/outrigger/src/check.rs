//! `outrigger check`: everything that is wrong with resources, without a sidecar or a network.

use std::path::Path;

use outrigger_component_api::AppId;
use outrigger_config::load::SourceFile;
use outrigger_config::{Context, check, diagnostic};
use outrigger_core::Namespace;
use outrigger_sidecar::{compile_rule, read_configuration, read_resources};

use crate::catalog::catalog;
use crate::{SYNTAX, print};

const HELP: &str = "\
Usage: outrigger check PATH... [--config FILE]... [--app-id ID] [--namespace NAME]

Reads resource files, or the files of folders, as a sidecar would, and prints every fault with file, line and column.
Nothing is started or asked: secrets are not fetched, servers are not called.

  --config FILE      a Configuration, as a sidecar's --config names it
  --app-id ID        expand {appID} and judge scopes for this app
  --namespace NAME   the same for {namespace}

The exit code is 0 when no error was found, 1 when there is one, 2 for a wrong command line.
";

/// Runs the command; its exit code.
pub(crate) fn command(arguments: &[String]) -> u8 {
    match asked(arguments) {
        Ok(Some(asked)) => report(&asked).unwrap_or_else(|why| {
            print::error(&why);
            1
        }),
        Ok(None) => {
            print::out(HELP);
            0
        }
        Err(why) => {
            print::error(&why);
            print::err(&format!("\n{HELP}"));
            SYNTAX
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    paths: Vec<String>,
    configs: Vec<String>,
    app_id: String,
    namespace: Option<String>,
}

/// `None`: only help is asked for.
fn asked(arguments: &[String]) -> Result<Option<Asked>, String> {
    let mut asked = Asked::default();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-') else {
            asked.paths.push(word.clone());
            continue;
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, given) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || {
            given
                .clone()
                .or_else(|| words.next().cloned())
                .ok_or_else(|| format!("flag needs an argument: --{name}"))
        };
        match name {
            "help" | "h" => return Ok(None),
            "config" => asked.configs.push(value()?),
            "app-id" => asked.app_id = value()?,
            "namespace" => asked.namespace = Some(value()?),
            "resources-path" | "components-path" => asked.paths.push(value()?),
            _ => return Err(format!("unknown flag: --{name}")),
        }
    }
    if asked.paths.is_empty() && asked.configs.is_empty() {
        return Err("no path was given".to_owned());
    }
    Ok(Some(asked))
}

fn report(asked: &Asked) -> Result<u8, String> {
    let mut files: Vec<SourceFile> = Vec::new();
    let mut unreadable = Vec::new();
    for path in &asked.paths {
        if Path::new(path).is_dir() {
            let (found, not_read) = read_resources(std::slice::from_ref(path))?;
            files.extend(found);
            unreadable.extend(not_read);
        } else {
            files.extend(read_configuration(std::slice::from_ref(path))?);
        }
    }
    let mut configs = read_configuration(&asked.configs)?;
    let (inside, files): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|(_, text)| is_configuration(text));
    configs.extend(inside);
    let context = Context {
        app_id: AppId::from(asked.app_id.as_str()),
        namespace: asked.namespace.as_deref().map(Namespace::from),
        kubernetes: false,
    };
    let told = check::check(
        &files,
        &configs,
        &catalog(),
        &context,
        &|name| std::env::var(name).ok(),
        &compile_rule,
    );
    print::out(&diagnostic::render(&told));
    for (file, why) in &unreadable {
        print::out(&format!("error[unreadable]: {file}: {why}\n"));
    }
    let failed = !unreadable.is_empty() || told.iter().any(diagnostic::Diagnostic::is_error);
    Ok(u8::from(failed))
}

/// Whether a file holds nothing but Configurations: `check` is called with folders that hold one beside the components.
fn is_configuration(text: &str) -> bool {
    let mut kinds = text
        .lines()
        .filter_map(|line| line.strip_prefix("kind:"))
        .map(|kind| kind.trim().trim_matches(['"', '\'']))
        .peekable();
    kinds.peek().is_some() && kinds.all(|kind| kind == "Configuration")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn paths_and_flags_may_be_mixed() {
        let expected = Asked {
            paths: vec!["a".to_owned(), "b".to_owned()],
            configs: vec!["c.yaml".to_owned()],
            app_id: "x".to_owned(),
            namespace: None,
        };
        assert_eq!(
            asked(&words("a --config=c.yaml b -app-id x")),
            Ok(Some(expected))
        );
        assert_eq!(asked(&words("--help")), Ok(None));
        assert_eq!(
            asked(&words("a --confg x")),
            Err("unknown flag: --confg".to_owned())
        );
        assert_eq!(
            asked(&words("a --config")),
            Err("flag needs an argument: --config".to_owned())
        );
        assert_eq!(asked(&[]), Err("no path was given".to_owned()));
    }

    #[test]
    fn a_configuration_is_known_by_its_kind() {
        assert!(is_configuration("apiVersion: x\nkind: Configuration\n"));
        assert!(!is_configuration(
            "kind: Configuration\n---\nkind: Component\n"
        ));
        assert!(!is_configuration("a: b"));
    }
}
