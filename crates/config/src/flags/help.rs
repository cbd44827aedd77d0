//! The help text, from the table.

use std::fmt::Write as _;

use super::table::{FLAGS, Flag, Set};

/// Every flag with its default, its variable and its meaning.
pub fn help() -> String {
    let mut text = String::from(
        "Usage: daprd --app-id ID [flags]\n\nOne or two dashes, `--flag value` or `--flag=value`.\n",
    );
    for (title, is_ours) in [
        ("Flags of daprd", false),
        (
            "Flags of Outrigger, each with an environment variable",
            true,
        ),
    ] {
        let mut flags: Vec<&Flag> = FLAGS
            .iter()
            .filter(|flag| flag.is_ours == is_ours && !flag.is_hidden)
            .collect();
        flags.sort_by_key(|flag| flag.name);
        write!(text, "\n{title}:\n").ok();
        for flag in flags {
            entry(&mut text, flag);
        }
    }
    text
}

fn entry(text: &mut String, flag: &Flag) {
    let value = match flag.set {
        Set::Text(_) => " TEXT",
        Set::Switch(_) => "",
        Set::Number(_) | Set::Count(_) => " NUMBER",
        Set::Duration(_) => " DURATION",
        Set::List(_) => " LIST",
    };
    let mut facts = Vec::new();
    if let Some(instead) = flag.deprecated {
        facts.push(format!("deprecated, use {instead}"));
    }
    if !flag.default.is_empty() {
        facts.push(format!("default {}", flag.default));
    }
    if let Some(variable) = flag.variable() {
        facts.push(format!("env {variable}"));
    }
    let facts = if facts.is_empty() {
        String::new()
    } else {
        format!(" ({})", facts.join(", "))
    };
    writeln!(
        text,
        "  --{}{value}\n      {}{facts}",
        flag.name, flag.meaning
    )
    .ok();
}
