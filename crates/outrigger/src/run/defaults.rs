//! What `run` chooses where the user did not, and how it says so.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// Ports, by flag: what they are called and their standard numbers.
const PORTS: [(&str, &str, u16); 3] = [
    ("dapr-http-port", "HTTP API", 3500),
    ("dapr-grpc-port", "gRPC API", 50001),
    ("metrics-port", "metrics", 9090),
];

const FOLDERS: [&str; 2] = ["resources", "components"];

/// The flags with everything that was left out, and what was chosen.
pub(super) fn complete(mut flags: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut said = Vec::new();
    if !is_given(&flags, "app-id") {
        let id = app_id();
        said.push(format!("app id {id}"));
        flags.push(format!("--app-id={id}"));
    }
    if !is_given(&flags, "resources-path") && !is_given(&flags, "components-path") {
        if let Some(folder) = folder() {
            said.push(format!("resources in ./{folder}"));
            flags.push(format!("--resources-path=./{folder}"));
        } else {
            said.push("no resources".to_owned());
        }
    }
    for (flag, what, standard) in PORTS {
        if is_given(&flags, flag) {
            continue;
        }
        let port = free(standard);
        flags.push(format!("--{flag}={port}"));
        if port == standard {
            said.push(format!("{what} on {port}"));
        } else {
            said.push(format!("{what} on {port} ({standard} is taken)"));
        }
    }
    (flags, said)
}

/// Where resources are looked for when nobody says where they are.
pub(crate) fn folder() -> Option<&'static str> {
    FOLDERS
        .into_iter()
        .find(|folder| Path::new(folder).is_dir())
}

/// A flag's name, and its value when that is in the same word.
pub(super) fn flag(word: &str) -> Option<(&str, Option<&str>)> {
    let name = word.strip_prefix('-')?;
    let name = name.strip_prefix('-').unwrap_or(name);
    Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

fn is_given(flags: &[String], name: &str) -> bool {
    flags
        .iter()
        .filter_map(|word| flag(word))
        .any(|(given, _)| given == name)
}

/// The standard port, or a free one.
fn free(standard: u16) -> u16 {
    let bind = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    bind(standard)
        .or_else(|_| bind(0))
        .and_then(|listener| listener.local_addr())
        .map_or(standard, |address| address.port())
}

/// The current folder's name, as an id.
fn app_id() -> String {
    let folder = std::env::current_dir().unwrap_or_default();
    let name = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    as_id(&name)
}

fn as_id(name: &str) -> String {
    let id: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let id = id.trim_matches('-');
    if id.is_empty() {
        "app".to_owned()
    } else {
        id.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_names_the_app() {
        assert_eq!(as_id("My Shop.v2"), "my-shop-v2");
        assert_eq!(as_id(".."), "app");
    }

    #[test]
    fn what_is_given_stays() {
        let given =
            "-app-id=x --resources-path r --dapr-http-port 1 --dapr-grpc-port=2 --metrics-port 3";
        let flags: Vec<String> = given.split_whitespace().map(str::to_owned).collect();
        assert_eq!(complete(flags.clone()), (flags, Vec::new()));
    }

    #[test]
    fn a_taken_port_is_replaced_and_a_free_one_kept() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(free(port), port);
        drop(taken);
        assert_eq!(free(port), port);
    }
}
