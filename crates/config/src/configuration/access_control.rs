//! `spec.accessControl`.

use super::{AccessControl, Action, AppPolicy, OperationRule};
use crate::configuration::sections::items;
use crate::diagnostic::{Diagnostic, Place};
use crate::read::Object;

/// What the files say so far.
#[derive(Default)]
pub(super) struct AccessControlDraft {
    default_action: Option<String>,
    trust_domain: Option<String>,
    policies: Option<Vec<AppPolicy>>,
    place: Option<Place>,
}

impl AccessControlDraft {
    pub(super) fn lay_over(&mut self, object: &Object<'_>) {
        if let Some(action) = object.text("defaultAction") {
            warn_about_word(object, &action);
            self.default_action = Some(action);
        }
        self.trust_domain = object
            .text("trustDomain")
            .or_else(|| self.trust_domain.take());
        if let Some(policies) = items(object, "policies", policy) {
            self.policies = Some(policies);
            self.place = Some(object.place());
        }
    }

    /// Dapr: pkg/config lays the files over `allow`, so that only an action given as an empty text means `deny`.
    pub(super) fn finish(self, diagnostics: &mut Vec<Diagnostic>) -> AccessControl {
        let policies = self.policies.as_deref().unwrap_or_default();
        let default_action = match self.default_action.as_deref() {
            None => Action::Allow,
            Some("") if self.policies.is_some() && policies.is_empty() => Action::Allow,
            Some(word) => action(word),
        };
        if let (None, false, Some(place)) = (&self.default_action, policies.is_empty(), self.place)
        {
            let message = "no `defaultAction`, so callers without a policy are allowed";
            diagnostics.push(
                Diagnostic::warning("CFG-ACCESS", place, message)
                    .expected("`defaultAction: deny` or `defaultAction: allow`"),
            );
        }
        let trust_domain = self
            .trust_domain
            .filter(|domain| !domain.is_empty())
            .unwrap_or_else(|| "public".to_owned());
        AccessControl {
            default_action,
            trust_domain,
            policies: self.policies.unwrap_or_default(),
        }
    }
}

fn action(word: &str) -> Action {
    if word.eq_ignore_ascii_case("allow") {
        Action::Allow
    } else {
        Action::Deny
    }
}

fn warn_about_word(object: &Object<'_>, word: &str) {
    if word.is_empty() || word.eq_ignore_ascii_case("allow") || word.eq_ignore_ascii_case("deny") {
        return;
    }
    for name in ["defaultAction", "action"] {
        if let Some(field) = object.field(name) {
            field.ignored("CFG-WORD", "an unknown word denies", "`allow` or `deny`");
        }
    }
}

fn policy(object: &Object<'_>) -> AppPolicy {
    let default_action = object.text("defaultAction").unwrap_or_default();
    warn_about_word(object, &default_action);
    AppPolicy {
        app_id: object.required("appId"),
        trust_domain: object.required("trustDomain"),
        namespace: object.required("namespace"),
        default_action: (!default_action.is_empty()).then(|| action(&default_action)),
        operations: items(object, "operations", operation).unwrap_or_default(),
    }
}

fn operation(object: &Object<'_>) -> OperationRule {
    let name = object.text("name").unwrap_or_default();
    let word = object.text("action").unwrap_or_default();
    warn_about_word(object, &word);
    for field in object.list("httpVerb").unwrap_or_default() {
        if let Some(verb) = field
            .text()
            .filter(|verb| verb.chars().any(|c| c.is_ascii_lowercase()))
        {
            field.ignored(
                "CFG-VERB",
                format!("`{verb}` never matches, since verbs are compared with case"),
                "a verb in capitals, or `*`",
            );
        }
    }
    OperationRule {
        path: if name.starts_with('/') {
            name
        } else {
            format!("/{name}")
        },
        verbs: object.texts("httpVerb").unwrap_or_default(),
        action: action(&word),
    }
}
