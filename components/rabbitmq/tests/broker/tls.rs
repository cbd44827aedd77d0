//! TLS: whom we trust, who trusts us, and logging in by certificate.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use outrigger_component_api::{Class, ErrorKind, PubSub};
use outrigger_testkit::servers::{Rabbit, RabbitServer};
use outrigger_testkit::suites::open::{Opened, Resource};
use outrigger_testkit::suites::properties;
use outrigger_testkit::{PrivateDir, ports};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::support::publish;

/// An authority of our own.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
struct Signed {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, name: &str) -> Signed {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Signed {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A broker that speaks TLS, and accepts certificates in place of passwords.
struct Secured {
    server: RabbitServer,
    port: u16,
    authority: Authority,
    _files: PrivateDir,
}

impl Secured {
    async fn launch() -> Self {
        let authority = Authority::new();
        let own = authority.sign("localhost");
        let files = PrivateDir::new("tls");
        let trusted = files.write("authority.pem", &authority.pem);
        let certificate = files.write("certificate.pem", &own.certificate);
        let key = files.write("key.pem", &own.key);
        // The broker runs as another user.
        let readable = Permissions::from_mode(0o755);
        std::fs::set_permissions(files.path(), readable).unwrap();
        let port = ports::free();
        let configuration = format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = false\n\
             ssl_cert_login_from = common_name\n\
             auth_mechanisms.1 = PLAIN\n\
             auth_mechanisms.2 = EXTERNAL\n",
            trusted.display(),
            certificate.display(),
            key.display()
        );
        let server = RabbitServer::launch(Rabbit { configuration }).await;
        Self {
            server,
            port,
            authority,
            _files: files,
        }
    }

    async fn attempt(
        &self,
        host: &str,
        pairs: &[(&str, &str)],
    ) -> Result<Opened<dyn PubSub>, ErrorKind> {
        let uri = format!("amqps://guest:guest@{host}:{}", self.port);
        let mut all = vec![("connectionString", uri.as_str())];
        all.extend(pairs);
        let resource = Resource {
            register: outrigger_component_rabbitmq::register,
            type_name: "pubsub.rabbitmq",
            properties: properties(all),
        };
        let opener = resource
            .pubsub()
            .unwrap_or_else(|findings| panic!("{findings:?}"));
        Opened::attempt(&opener).await.map_err(|error| {
            assert!(!error.message.contains("guest:guest"), "{error}");
            error.kind
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_decides_on_both_sides() {
    let secured = Secured::launch().await;
    let (ours, foreign) = (secured.authority.pem.as_str(), Authority::new());
    let auth = Some(ErrorKind::Connection(Class::Auth));

    let pubsub = secured.attempt("localhost", &[("caCert", ours)]).await;
    let pubsub = pubsub.unwrap_or_else(|kind| panic!("{kind:?}"));
    pubsub.ping().await.unwrap();
    publish(&pubsub, "t", &["1"]).await;
    pubsub.close().await;

    // An authority that did not sign it, the system's authorities, another name than the certificate's.
    let refused = secured
        .attempt("localhost", &[("caCert", &foreign.pem)])
        .await;
    assert_eq!(refused.err(), auth);
    assert_eq!(secured.attempt("localhost", &[]).await.err(), auth);
    let refused = secured.attempt("127.0.0.1", &[("caCert", ours)]).await;
    assert_eq!(refused.err(), auth);

    // A certificate of ours that the broker does not trust.
    let stranger = foreign.sign("stranger");
    let refused = secured
        .attempt(
            "localhost",
            &[
                ("caCert", ours),
                ("clientCert", &stranger.certificate),
                ("clientKey", &stranger.key),
            ],
        )
        .await;
    assert_eq!(refused.err(), auth);

    // TLS spoken to a port without it.
    let uri = format!("amqps://guest:guest@localhost:{}", secured.server.port());
    let resource = Resource {
        register: outrigger_component_rabbitmq::register,
        type_name: "pubsub.rabbitmq",
        properties: properties([("connectionString", uri.as_str()), ("caCert", ours)]),
    };
    let refused = Opened::attempt(&resource.pubsub().unwrap())
        .await
        .err()
        .unwrap();
    assert_eq!(
        refused.kind,
        ErrorKind::Connection(Class::Transient),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_sasl_external_the_certificate_is_the_login() {
    let secured = Secured::launch().await;
    let server = &secured.server;
    // The plugin file is fixed when the node starts; this is what `rabbitmq-plugins enable` does.
    let enable = "{ok, F} = application:get_env(rabbit, enabled_plugins_file), \
                  ok = file:write_file(F, \"[rabbitmq_auth_mechanism_ssl].\"), \
                  rabbit_plugins:ensure(F).";
    server.control(&["eval", enable]).await;
    let known = secured.authority.sign("known");
    let pairs = [
        ("caCert", secured.authority.pem.as_str()),
        ("clientCert", known.certificate.as_str()),
        ("clientKey", known.key.as_str()),
        ("saslExternal", "true"),
    ];
    let refused = secured.attempt("localhost", &pairs).await;
    assert_eq!(refused.err(), Some(ErrorKind::Connection(Class::Auth)));
    server
        .control(&["add_user", "known", "a password that nobody uses"])
        .await;
    server
        .control(&["set_permissions", "known", ".*", ".*", ".*"])
        .await;
    let pubsub = secured.attempt("localhost", &pairs).await;
    let pubsub = pubsub.unwrap_or_else(|kind| panic!("{kind:?}"));
    publish(&pubsub, "t", &["1"]).await;
    let users = server
        .control(&["-q", "list_connections", "user", "auth_mechanism"])
        .await;
    assert!(users.contains("known\tEXTERNAL"), "{users}");
    pubsub.close().await;
}
