//! Which component needs a secret of which other one.

use std::collections::HashMap;

use crate::component::ComponentResource;
use crate::load::Context;
use crate::resolve::secrets_of;

/// Components on a circle of dependencies, in the order of the files, each with its circle: `a -> b -> a`.
pub(crate) fn cycles(components: &[ComponentResource], context: &Context) -> Vec<(String, String)> {
    // All references of a component go to one store.
    let needs: HashMap<&str, String> = components
        .iter()
        .filter_map(|component| {
            Some((
                component.name.as_str(),
                secrets_of(component, context).into_iter().next()?.store,
            ))
        })
        .collect();
    components
        .iter()
        .filter_map(|component| {
            Some((
                component.name.to_string(),
                circle(component.name.as_str(), &needs)?,
            ))
        })
        .collect()
}

/// Follows the stores from a component on, until it comes back or ends.
fn circle(start: &str, needs: &HashMap<&str, String>) -> Option<String> {
    let mut path = vec![start];
    let mut at = start;
    loop {
        at = needs.get(at)?.as_str();
        path.push(at);
        if at == start {
            return Some(path.join(" -> "));
        }
        if path.len() > needs.len() + 1 {
            return None;
        }
    }
}
