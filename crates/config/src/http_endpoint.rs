//! The HTTPEndpoint resource: a name for an external HTTP service.

use outrigger_core::Namespace;

use crate::component::{NamedValue, ValueSource};
use crate::diagnostic::Place;
use crate::fingerprint::Fingerprint;
use crate::load::Context;
use crate::read::{Field, Object};
use crate::resource::{
    Header, check_secret_store, fingerprint, named_values, secret_store, single_value,
};
use crate::yaml::Node;

/// A checked HTTPEndpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpEndpointResource {
    pub name: String,
    pub namespace: Option<Namespace>,
    /// Absolute, `http` or `https`.
    pub base_url: String,
    /// Added to every request.
    pub headers: Vec<NamedValue>,
    pub client_tls: Option<ClientTls>,
    /// `auth.secretStore`; absent when empty.
    pub secret_store: Option<String>,
    /// App ids; empty means every app.
    pub scopes: Vec<String>,
    pub place: Place,
    /// Where `auth.secretStore` stands.
    pub secret_store_place: Place,
    pub fingerprint: Fingerprint,
}

/// `spec.clientTLS`; PEM texts.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ClientTls {
    pub root_ca: Option<ValueSource>,
    pub certificate: Option<ValueSource>,
    pub private_key: Option<ValueSource>,
    pub renegotiation: Renegotiation,
}

/// Whether a server may ask for a new TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Renegotiation {
    #[default]
    Never,
    OnceAsClient,
    FreelyAsClient,
}

impl HttpEndpointResource {
    /// Reads a document whose kind and header are known.
    pub(crate) fn read(
        document: &Object<'_>,
        root: &Node,
        header: Header,
        context: &Context,
    ) -> Self {
        header.check_name(document, true);
        let spec = document.required_object("spec");
        let spec = spec.as_ref();
        let base_url = spec
            .map(|spec| spec.required("baseUrl"))
            .unwrap_or_default();
        if let Some(field) = spec
            .and_then(|spec| spec.field("baseUrl"))
            .filter(|_| !base_url.is_empty())
        {
            check_url(&field, &base_url);
        }
        let headers = spec
            .and_then(|spec| spec.list("headers"))
            .map(|fields| named_values(&fields))
            .unwrap_or_default();
        let client_tls = spec
            .and_then(|spec| spec.object("clientTLS"))
            .map(|tls| client_tls(&tls));
        let (secret_store, secret_store_place) = secret_store(document);
        let mut sources: Vec<_> = headers
            .iter()
            .map(|value| (value.name.as_str(), &value.source, value.place.clone()))
            .collect();
        if let Some(tls) = &client_tls {
            let parts = [
                ("rootCA", &tls.root_ca),
                ("certificate", &tls.certificate),
                ("privateKey", &tls.private_key),
            ];
            sources.extend(parts.into_iter().filter_map(|(name, source)| {
                Some((name, source.as_ref()?, header.name_place.clone()))
            }));
        }
        check_secret_store(document, secret_store.as_deref(), &sources, context);
        if let Some(spec) = spec {
            spec.finish();
        }
        document.finish();
        Self {
            name: header.name,
            namespace: header.namespace,
            base_url,
            headers,
            client_tls,
            secret_store,
            secret_store_place,
            scopes: header.scopes,
            place: header.name_place,
            fingerprint: fingerprint(root),
        }
    }
}

fn check_url(field: &Field<'_>, url: &str) {
    let host = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    if host.is_none_or(|host| {
        host.is_empty() || host.starts_with(['/', '?', '#']) || host.contains(char::is_whitespace)
    }) {
        field.unusable(
            "CFG-URL",
            "`baseUrl` is not an absolute URL",
            "a URL such as `https://example.com/api`",
        );
    }
}

fn client_tls(tls: &Object<'_>) -> ClientTls {
    let part = |name| tls.object(name).and_then(|part| single_value(&part));
    let words = [
        ("Never", Renegotiation::Never),
        ("OnceAsClient", Renegotiation::OnceAsClient),
        ("FreelyAsClient", Renegotiation::FreelyAsClient),
    ];
    let read = ClientTls {
        root_ca: part("rootCA"),
        certificate: part("certificate"),
        private_key: part("privateKey"),
        renegotiation: tls
            .field("renegotiation")
            .and_then(|field| field.choice(false, &words))
            .unwrap_or_default(),
    };
    tls.finish();
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{load_text, resource, told};

    #[test]
    fn every_field_is_read() {
        let spec = "  baseUrl: https://example.com\n  headers:\n  - {name: X-Count, value: 5}\n  - {name: Authorization, secretKeyRef: {name: api, key: token}}\n  clientTLS:\n    rootCA: {value: PEM}\n    privateKey: {secretKeyRef: {name: api, key: pem}}\n    renegotiation: OnceAsClient\n";
        let loaded =
            load_text(&(resource("HTTPEndpoint", "api", spec) + "auth: {secretStore: vault}\n"));
        assert_eq!(told(&loaded.diagnostics), [] as [&str; 0]);
        let endpoint = &loaded.http_endpoints[0];
        assert_eq!(
            (endpoint.name.as_str(), endpoint.base_url.as_str()),
            ("api", "https://example.com")
        );
        assert_eq!(endpoint.headers[0].source, ValueSource::Text("5".into()));
        let tls = endpoint.client_tls.as_ref().unwrap();
        assert_eq!(tls.root_ca, Some(ValueSource::Text("PEM".into())));
        assert_eq!(tls.certificate, None);
        assert_eq!(
            tls.private_key,
            Some(ValueSource::SecretKeyRef {
                name: "api".into(),
                key: "pem".into()
            })
        );
        assert_eq!(tls.renegotiation, Renegotiation::OnceAsClient);
    }

    #[test]
    fn a_base_url_must_be_absolute() {
        for bad in ["example.com", "ftp://x", "http://", "https:///path", "''"] {
            let loaded = load_text(&resource(
                "HTTPEndpoint",
                "api",
                &format!("  baseUrl: {bad}\n"),
            ));
            assert_eq!(loaded.rejected.len(), 1, "{bad}");
        }
    }
}
