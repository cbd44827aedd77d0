//! What of the resources cannot be used, and what stays in force because of that. Pure.
//!
//! A definition that has become wrong changes nothing: the last good one stays. Where a file does not even say what it
//! holds any more, that is so for everything that was in it.

use std::collections::HashMap;

use outrigger_config::{Loaded, Rejected, ResourceKind};

/// The reasons, each with its place.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    named: HashMap<(ResourceKind, String), String>,
    files: HashMap<String, String>,
}

impl Faults {
    pub(crate) fn of(loaded: &Loaded, unreadable: &[(String, String)]) -> Self {
        let mut faults = Self::default();
        for one in &loaded.rejected {
            let reason = format!("{} ({})", one.reason, one.place);
            if one.kind == ResourceKind::Unknown || is_nameless(one) {
                faults.of_file_is(&one.place.file, reason);
            } else {
                let key = (one.kind, one.name.clone());
                faults.named.entry(key).or_insert(reason);
            }
        }
        for (file, reason) in unreadable {
            let reason = format!("{reason} ({file})");
            faults.of_file_is(file, reason);
        }
        // A document that is not even a kind of ours any more.
        let odd = loaded
            .diagnostics
            .iter()
            .filter(|told| told.code == "CFG-KIND");
        for told in odd {
            let reason = format!("{} ({})", told.summary(), told.place);
            faults.of_file_is(&told.place.file, reason);
        }
        faults
    }

    /// The first reason counts.
    fn of_file_is(&mut self, file: &str, reason: String) {
        self.files.entry(file.to_owned()).or_insert(reason);
    }

    /// Why the resource of this name cannot be used.
    pub(crate) fn of_name(&self, kind: ResourceKind, name: &str) -> Option<&str> {
        self.named.get(&(kind, name.to_owned())).map(String::as_str)
    }

    /// Why not everything in this file is known.
    pub(crate) fn of_file(&self, file: &str) -> Option<&str> {
        self.files.get(file).map(String::as_str)
    }

    /// What was read, and the last good definition of whatever cannot be read now. `replaces` says whether the first takes
    /// the place of the second.
    pub(crate) fn with_last_good<T: Clone>(
        &self,
        kind: ResourceKind,
        read: &[T],
        last: &[T],
        name_and_file: impl Fn(&T) -> (&str, &str),
        replaces: impl Fn(&T, &T) -> bool,
    ) -> Vec<T> {
        let kept = last.iter().filter(|old| {
            let (name, file) = name_and_file(old);
            let is_meant = self.of_name(kind, name).is_some() || self.of_file(file).is_some();
            is_meant && !read.iter().any(|new| replaces(new, old))
        });
        read.iter().chain(kept).cloned().collect()
    }
}

/// Whether a document is named by its file and line, for want of a name.
pub(crate) fn is_nameless(one: &Rejected) -> bool {
    let parts = one.name.rsplit_once(':');
    parts.is_some_and(|(file, line)| {
        one.place.file.ends_with(file) && line.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_config::{Context, load};

    const GOOD: &str = "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: a}\nspec: {baseUrl: 'http://a'}\n";

    fn loaded(files: &[(&str, &str)]) -> Loaded {
        let files: Vec<(String, String)> = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        let context = Context {
            app_id: "app".into(),
            namespace: None,
            kubernetes: false,
        };
        load::load(&files, &context, &|_| Ok(()))
    }

    /// The endpoints in force after a file with a good one has turned into this.
    fn after(text: &str) -> Vec<String> {
        let (last, now) = (loaded(&[("a.yaml", GOOD)]), loaded(&[("a.yaml", text)]));
        let faults = Faults::of(&now, &[]);
        let endpoints = faults.with_last_good(
            ResourceKind::HttpEndpoint,
            &now.http_endpoints,
            &last.http_endpoints,
            |one| (&one.name, &one.place.file),
            |new, old| new.name == old.name,
        );
        endpoints.into_iter().map(|one| one.base_url).collect()
    }

    #[test]
    fn the_last_good_definition_stays_whatever_becomes_of_its_file() {
        for wrong in [
            GOOD.replace("http://a", "no url").as_str(),
            GOOD.replace("{baseUrl: 'http://a'}", "[").as_str(),
            GOOD.replace("name: a", "name: ''").as_str(),
            GOOD.replace("HTTPEndpoint", "HTTPEndpont").as_str(),
            "[",
        ] {
            assert_eq!(after(wrong), ["http://a"], "{wrong}");
        }
    }

    #[test]
    fn what_is_deleted_or_changed_does_not_stay() {
        assert_eq!(after(""), [""; 0]);
        assert_eq!(after(&GOOD.replace("name: a", "name: b")), ["http://a"]);
        assert_eq!(after(&GOOD.replace("http://a", "http://b")), ["http://b"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_keeps_what_was_in_it() {
        let now = loaded(&[]);
        let unreadable = [("a.yaml".to_owned(), "permission denied".to_owned())];
        let faults = Faults::of(&now, &unreadable);
        assert_eq!(faults.of_file("a.yaml"), Some("permission denied (a.yaml)"));
        assert_eq!(faults.of_file("b.yaml"), None);
    }
}
