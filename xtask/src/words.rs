//! The words of a command line, taken one by one.
//!
//! Owns: flags and their values, and the refusal of what nobody asked for.
//! Start at [`Words::value`].

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

pub(crate) struct Words(Vec<String>);

impl Words {
    pub(crate) fn new(words: impl Iterator<Item = String>) -> Self {
        Words(words.collect())
    }

    /// Takes the first word.
    pub(crate) fn next(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// Takes a flag without a value.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let place = self.0.iter().position(|word| word == name);
        place.map(|place| self.0.remove(place)).is_some()
    }

    /// Takes a flag's text, if the flag is there.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>> {
        let Some(place) = self.0.iter().position(|word| word == name) else {
            return Ok(None);
        };
        self.0.remove(place);
        if place == self.0.len() {
            bail!("`{name}` needs a value");
        }
        Ok(Some(self.0.remove(place)))
    }

    /// Takes a flag's value, if the flag is there.
    pub(crate) fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let value = text.parse().ok();
        value
            .with_context(|| format!("`{name}` cannot be `{text}`"))
            .map(Some)
    }

    /// Takes the path of a file that must be there, if the flag is.
    pub(crate) fn file(&mut self, name: &str) -> Result<Option<PathBuf>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let path = Path::new(&text).canonicalize();
        path.with_context(|| format!("`{name}`: cannot find `{text}`"))
            .map(Some)
    }

    /// Refuses what is left.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some(word) => bail!("unexpected `{word}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Words {
        Words::new(text.split_whitespace().map(String::from))
    }

    #[test]
    fn flags_are_taken_wherever_they_stand() {
        let mut words = words("--runs 3 --quick");
        assert!(words.flag("--quick") && !words.flag("--quick"));
        assert_eq!(words.value::<usize>("--runs").unwrap(), Some(3));
        words.finish().unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = words("--runs many").value::<usize>("--runs").unwrap_err();
        assert_eq!(error.to_string(), "`--runs` cannot be `many`");
        assert!(words("--runs").value::<usize>("--runs").is_err());
        assert_eq!(
            words("--fast").finish().unwrap_err().to_string(),
            "unexpected `--fast`"
        );
    }
}
