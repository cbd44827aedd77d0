//! Encryption of values at rest, in Dapr's format: `base64(nonce ++ ciphertext ++ tag)||<name of the key>`.

use std::collections::BTreeMap;
use std::fmt;

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead as _, KeyInit as _};
use aes_gcm::aes::Aes192;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use outrigger_core::Metadata;
use outrigger_core::metadata::get_ignore_case;

const SEPARATOR: &[u8] = b"||";

/// The keys of one store. Values are written with the first; both can be read.
pub struct Seal {
    primary: Key,
    secondary: Option<Key>,
}

struct Key {
    name: String,
    cipher: Cipher,
}

enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Seal({}, {:?})",
            self.primary.name,
            self.secondary.as_ref().map(|key| &key.name)
        )
    }
}

impl Seal {
    /// Reads `primaryEncryptionKey` and `secondaryEncryptionKey`. Without the first nothing is encrypted.
    ///
    /// # Errors
    /// For a key that is not hexadecimal or has no AES length. The key itself is not shown.
    pub fn read(
        properties: &Metadata,
        secret_names: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, String> {
        let key = |property: &str| -> Result<Option<Key>, String> {
            let Some(text) = get_ignore_case(properties, property).filter(|text| !text.is_empty())
            else {
                return Ok(None);
            };
            let name = secret_names
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(property))
                .map(|(_, secret)| secret.clone());
            let cipher = Cipher::new(text).ok_or_else(|| {
                format!("{property} is no AES key: expected 32, 48 or 64 hexadecimal digits")
            })?;
            Ok(Some(Key {
                name: name.unwrap_or_default(),
                cipher,
            }))
        };
        let secondary = key("secondaryEncryptionKey")?;
        Ok(key("primaryEncryptionKey")?.map(|primary| Self { primary, secondary }))
    }

    /// What is stored in place of `plain`.
    pub fn close(&self, plain: &[u8]) -> Bytes {
        let nonce: [u8; 12] = rand::random();
        let mut sealed = nonce.to_vec();
        sealed.extend_from_slice(&self.primary.cipher.encrypt(&nonce, plain));
        let mut out = STANDARD.encode(sealed).into_bytes();
        out.extend_from_slice(SEPARATOR);
        out.extend_from_slice(self.primary.name.as_bytes());
        out.into()
    }

    /// The plain value behind a stored one.
    ///
    /// # Errors
    /// When it was not written by either key, or was tampered with. Where Dapr crashes its request, this is an error too.
    pub fn open(&self, store: &str, stored: &[u8]) -> Result<Bytes, String> {
        if stored.is_empty() {
            return Ok(Bytes::new());
        }
        let place = stored
            .windows(SEPARATOR.len())
            .rposition(|window| window == SEPARATOR);
        let (sealed, name) = match place
            .and_then(|place| Some((stored.get(..place)?, stored.get(place + SEPARATOR.len()..)?)))
        {
            Some((sealed, name)) if !name.is_empty() => (sealed, name),
            _ => {
                return Err(format!(
                    "could not decrypt data for state store {store}: encryption key name not found on record"
                ));
            }
        };
        let keys = [Some(&self.primary), self.secondary.as_ref()];
        let key = keys
            .into_iter()
            .flatten()
            .find(|key| key.name.as_bytes() == name);
        let key = key.ok_or_else(|| format!("could not decrypt data for state store {store}: no key of the name that the record gives"))?;
        let sealed = STANDARD
            .decode(sealed)
            .map_err(|error| format!("could not decrypt data for state store {store}: {error}"))?;
        let (nonce, sealed) = sealed.split_first_chunk::<12>().ok_or_else(|| {
            format!("could not decrypt data for state store {store}: record too short")
        })?;
        key.cipher
            .decrypt(nonce, sealed)
            .map(Bytes::from)
            .ok_or_else(|| "cipher: message authentication failed".to_owned())
    }
}

impl Cipher {
    fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        if !text.is_ascii() || !text.len().is_multiple_of(2) {
            return None;
        }
        let bytes: Option<Vec<u8>> = (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
            .collect();
        let bytes = bytes?;
        match bytes.len() {
            16 => Aes128Gcm::new_from_slice(&bytes)
                .ok()
                .map(|cipher| Self::Aes128(Box::new(cipher))),
            24 => AesGcm::new_from_slice(&bytes)
                .ok()
                .map(|cipher| Self::Aes192(Box::new(cipher))),
            32 => Aes256Gcm::new_from_slice(&bytes)
                .ok()
                .map(|cipher| Self::Aes256(Box::new(cipher))),
            _ => None,
        }
    }

    fn encrypt(&self, nonce: &[u8; 12], plain: &[u8]) -> Vec<u8> {
        let nonce = Nonce::from_slice(nonce);
        let sealed = match self {
            Self::Aes128(cipher) => cipher.encrypt(nonce, plain),
            Self::Aes192(cipher) => cipher.encrypt(nonce, plain),
            Self::Aes256(cipher) => cipher.encrypt(nonce, plain),
        };
        // Fails only beyond 64 GiB.
        sealed.unwrap_or_default()
    }

    fn decrypt(&self, nonce: &[u8; 12], sealed: &[u8]) -> Option<Vec<u8>> {
        let nonce = Nonce::from_slice(nonce);
        match self {
            Self::Aes128(cipher) => cipher.decrypt(nonce, sealed),
            Self::Aes192(cipher) => cipher.decrypt(nonce, sealed),
            Self::Aes256(cipher) => cipher.decrypt(nonce, sealed),
        }
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(primary: &str, secondary: &str) -> Result<Option<Seal>, String> {
        let properties = [
            ("primaryEncryptionKey", primary),
            ("secondaryEncryptionKey", secondary),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
        let names = [
            ("primaryEncryptionKey", "p"),
            ("secondaryEncryptionKey", "s"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
        Seal::read(&properties.into(), &names.into())
    }

    const A: &str = "00112233445566778899aabbccddeeff";
    const B: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa9988";

    #[test]
    fn values_come_back_with_either_key() {
        let old = seal(B, "").unwrap().unwrap();
        let stored = old.close(b"hello");
        assert!(stored.ends_with(b"||p"));
        assert_eq!(old.open("st", &stored).unwrap(), "hello");
        let stored = [stored.strip_suffix(b"p").unwrap(), b"s"].concat();
        assert_eq!(
            seal(A, B).unwrap().unwrap().open("st", &stored).unwrap(),
            "hello"
        );
    }

    #[test]
    fn foreign_and_damaged_values_are_errors() {
        let seal = seal(A, "").unwrap().unwrap();
        for bad in [
            &b"plain"[..],
            b"x||",
            b"x||other",
            b"!!||p",
            b"AAAA||p",
            b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA||p",
        ] {
            assert!(seal.open("st", bad).is_err(), "{bad:?}");
        }
        assert_eq!(seal.open("st", b"").unwrap(), "");
    }

    #[test]
    fn keys_must_have_an_aes_length_and_are_not_shown() {
        let error = seal("abc123", "").unwrap_err();
        assert!(!error.contains("abc123"));
        assert!(
            seal("", A).unwrap().is_none(),
            "nothing is encrypted without a primary key"
        );
    }
}
