//! Telling a changed resource from an unchanged one.

use std::fmt;

/// A hash of what a resource means: comments, layout, order of keys and foreign annotations do not count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// FNV-1a, so that it is the same in every process and release.
    pub fn of(bytes: &[u8]) -> Self {
        const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        Self(bytes.iter().fold(BASIS, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
        }))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::load_text;

    fn of(text: &str) -> super::Fingerprint {
        load_text(text).components[0].fingerprint
    }

    #[test]
    fn layout_and_foreign_annotations_do_not_count_and_values_do() {
        let plain = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: a}\nspec: {type: state.x, version: v1}\n";
        let rewritten = "# comment\nkind: Component\napiVersion: dapr.io/v1alpha1\nmetadata:\n  name: a\n  annotations: {foo: bar}\nspec:\n  version: v1\n  type: 'state.x'\n";
        assert_eq!(of(plain), of(rewritten));
        assert_ne!(of(plain), of(&plain.replace("v1}", "v2}")));
        assert_ne!(
            of(plain),
            of(&plain.replace(
                "{name: a}",
                "{name: a, annotations: {outrigger.dev/init: lazy}}"
            ))
        );
        assert_ne!(of(plain), of(&format!("{plain}scopes: [app]\n")));
    }
}
