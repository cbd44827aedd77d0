//! Certificates: ours, and whom we trust.
//!
//! Owns: reading the three PEM properties, and the rustls configuration made of them. Without `caCert` the system's
//! authorities are trusted; with it, only those it names.
//! Never: does I/O while settings are checked.
//! Tests: below; handshakes in tests/broker/tls.rs.

use std::fmt;
use std::sync::Arc;

use outrigger_component_api::ComponentError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// `caCert`, `clientCert` and `clientKey`, parsed.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
}

#[derive(Clone)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

/// Which property cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    Authority,
    Certificate,
    Key,
    /// Certificate and key are good, but not of one another.
    Pair,
}

impl Certificates {
    /// Parses what is there. A client certificate counts only together with its key, as in daprd.
    ///
    /// # Errors
    /// Every property that cannot be used.
    pub(crate) fn read(
        authority: Option<&str>,
        certificate: Option<&str>,
        key: Option<String>,
    ) -> Result<Self, Vec<Flaw>> {
        let mut flaws = Vec::new();
        let mut chain = |pem: Option<&str>, flaw| match pem.map(parse_chain) {
            None => Vec::new(),
            Some(Some(chain)) => chain,
            Some(None) => {
                flaws.push(flaw);
                Vec::new()
            }
        };
        let authorities = chain(authority, Flaw::Authority);
        let certificates = chain(certificate, Flaw::Certificate);
        let key = key.and_then(|pem| {
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes());
            if key.is_err() {
                flaws.push(Flaw::Key);
            }
            key.ok()
        });
        let identity = key
            .filter(|_| !certificates.is_empty())
            .map(|key| Identity {
                chain: certificates,
                key: Arc::new(key),
            });
        let certificates = Self {
            authorities,
            identity,
        };
        if flaws.is_empty() {
            let trusted = certificates.trusted();
            match trusted.and_then(|roots| certificates.client(roots).map_err(|_| Flaw::Pair)) {
                Ok(_) => return Ok(certificates),
                Err(flaw) => flaws.push(flaw),
            }
        }
        Err(flaws)
    }

    /// Whether authority, certificate and key are all there.
    pub(crate) fn are_complete(&self) -> bool {
        !self.authorities.is_empty() && self.identity.is_some()
    }

    /// Whether we show a certificate of our own.
    pub(crate) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// The TLS configuration of connections. Reads the system's authorities when `caCert` is absent.
    ///
    /// # Errors
    /// When there is nobody to trust.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, ComponentError> {
        let mut roots = self
            .trusted()
            .map_err(|_| ComponentError::config("`caCert` holds no usable certificate"))?;
        if self.authorities.is_empty() {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(ComponentError::auth(
                    "the system has no certificate authorities to trust; set `caCert`",
                ));
            }
        }
        let config = self.client(roots);
        config.map(Arc::new).map_err(|error| {
            ComponentError::config(format!("`clientCert` and `clientKey`: {error}"))
        })
    }

    fn trusted(&self) -> Result<RootCertStore, Flaw> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone()).map_err(|_| Flaw::Authority)?;
        }
        Ok(roots)
    }

    fn client(&self, roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        match &self.identity {
            Some(identity) => {
                config.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            }
            None => Ok(config.with_no_client_auth()),
        }
    }
}

fn parse_chain(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .ok()?;
    (!chain.is_empty()).then_some(chain)
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("authorities", &self.authorities.len())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_certificate_is_told_per_property() {
        let flaws = Certificates::read(Some("x"), Some("y"), Some("z".into())).unwrap_err();
        assert_eq!(flaws, [Flaw::Authority, Flaw::Certificate, Flaw::Key]);
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(
            Certificates::read(Some(garbage), None, None).unwrap_err(),
            [Flaw::Authority]
        );
    }

    #[test]
    fn nothing_written_means_the_systems_authorities_and_no_identity() {
        let certificates = Certificates::read(None, None, None).unwrap();
        assert!(!certificates.are_complete());
    }
}
