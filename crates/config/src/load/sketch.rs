//! What a document that does not parse was meant to be.

/// The name of a Resiliency resource that begins on `line`, empty where it is not plain; absent if it seems to be
/// something else.
pub(super) fn resiliency(text: &str, line: u32) -> Option<String> {
    let first = usize::try_from(line).ok()?.saturating_sub(1);
    let lines = text
        .lines()
        .skip(first)
        .enumerate()
        .take_while(|(i, line)| *i == 0 || !line.starts_with("---"))
        .map(|(_, line)| line);
    let (mut kind, mut name, mut within_metadata) = (None, None, false);
    for line in lines {
        let is_indented = line.starts_with([' ', '\t']);
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match (is_indented, key.trim()) {
            (false, "kind") => kind = Some(plain(value)),
            (false, key) => within_metadata = key == "metadata",
            (true, "name") if within_metadata && name.is_none() => name = Some(plain(value)),
            (true, _) => {}
        }
    }
    (kind? == "Resiliency").then(|| name.unwrap_or_default().to_owned())
}

/// Without quotes and comment.
fn plain(value: &str) -> &str {
    let value = value.split_once(" #").map_or(value, |(value, _)| value);
    value.trim().trim_matches(['"', '\''])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_and_name_are_found_where_they_usually_stand() {
        let text = "kind: Component\n---\napiVersion: dapr.io/v1alpha1\nkind: Resiliency # ours\nmetadata:\n  name: 'mine'\nspec:\n  name: [\n---\nkind: Resiliency\n";
        assert_eq!(resiliency(text, 1), None);
        assert_eq!(resiliency(text, 3).as_deref(), Some("mine"));
        assert_eq!(resiliency(text, 10).as_deref(), Some(""));
        assert_eq!(resiliency(text, 99), None);
        assert_eq!(resiliency("x\r\n: y", 0), None);
    }
}
