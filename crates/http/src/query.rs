//! The query of a request.

use std::borrow::Cow;

use outrigger_core::Metadata;

use crate::path::unescaped;

/// Pairs in the order of the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Pairs with a semicolon in them are left out, as in Go.
    pub(crate) fn parse(text: Option<&'a str>) -> Self {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Self::default();
        };
        let pairs = text
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.contains(';'));
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (unescaped(name), unescaped(value)))
                .collect(),
        )
    }

    /// The first value of a name, or nothing.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| &**value)
            .unwrap_or_default()
    }

    /// Every pair, in order.
    pub(crate) fn pairs(&self) -> Vec<(&str, &str)> {
        let pairs = self.0.iter();
        pairs.map(|(name, value)| (&**name, &**value)).collect()
    }

    /// `metadata.<key>=<value>`; of several values the first counts.
    pub(crate) fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        for (name, value) in &self.0 {
            if let Some(key) = name.strip_prefix("metadata.") {
                metadata
                    .entry(key.to_owned())
                    .or_insert_with(|| value.clone().into_owned());
            }
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_taken_from_the_query() {
        let query = Query::parse(Some(
            "metadata.a=1&metadata.a=2&b=x+y&metadata.c%20d=%2F&e&bad;=1",
        ));
        assert_eq!(
            query.metadata(),
            [
                ("a".to_owned(), "1".to_owned()),
                ("c d".to_owned(), "/".to_owned())
            ]
            .into()
        );
        assert_eq!(
            (query.get("b"), query.get("e"), query.get("none")),
            ("x y", "", "")
        );
        assert!(Query::parse(None).metadata().is_empty());
    }
}
