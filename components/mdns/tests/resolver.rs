//! Sidecars that find each other through the network of this machine.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails must fail its test"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_component_api::{
    AppId, Catalog, Check, ErrorKind, Findings, Identity, Instance, Lookup, Loss, NameResolver,
    Namespace, Open, Opener, Properties, Scope, Spec,
};
use outrigger_testkit::wait;

const SOON: Duration = Duration::from_secs(5);

/// An app id that nobody else on the network has.
fn unique(name: &str) -> String {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos();
    format!("{name}-{}-{nanos}", std::process::id())
}

fn check(
    app_id: &str,
    address: &str,
    port: u16,
    properties: Properties,
) -> Result<Opener<dyn NameResolver>, Vec<String>> {
    let mut catalog = Catalog::default();
    outrigger_component_mdns::register(&mut catalog);
    let Lookup::Found(entry) = catalog.find("nameresolution.mdns", "v1") else {
        panic!("not registered");
    };
    let Check::Names(check) = &entry.check else {
        panic!("no name resolver");
    };
    let spec = Spec {
        name: "mdns".into(),
        type_name: "nameresolution.mdns".to_owned(),
        version: "v1".to_owned(),
        identity: Identity {
            app_id: AppId::from(app_id),
            namespace: None,
        },
        properties,
    };
    let instance = Instance {
        app_id: AppId::from(app_id),
        namespace: Namespace::from("default"),
        address: address.to_owned(),
        http_port: 3500,
        internal_port: port,
        app_port: None,
    };
    let mut findings = Findings::default();
    check(&spec, &instance, &mut findings)
        .ok_or_else(|| findings.faults.iter().map(ToString::to_string).collect())
}

async fn sidecar(scope: &Scope, app_id: &str, address: &str, port: u16) -> Arc<dyn NameResolver> {
    let opener = check(app_id, address, port, Properties::default()).unwrap();
    let open = Open {
        scope: scope.clone(),
        loss: Loss::ignored(),
    };
    opener(open).await.unwrap()
}

async fn addresses(resolver: &Arc<dyn NameResolver>, app_id: &str) -> Vec<String> {
    let resolved = resolver.resolve(app_id, "default").await;
    resolved
        .map(|resolved| resolved.addresses)
        .unwrap_or_default()
}

#[tokio::test]
async fn sidecars_find_each_other() {
    let scope = Scope::root();
    let (one, two) = (unique("One"), unique("two"));
    let first = sidecar(&scope, &one, "192.0.2.1", 1001).await;
    let second = sidecar(&scope, &two, "localhost", 1002).await;
    assert_eq!(addresses(&first, &two).await, ["127.0.0.1:1002"]);
    assert_eq!(addresses(&second, &one).await, ["192.0.2.1:1001"]);
    assert_eq!(addresses(&first, &one).await, ["192.0.2.1:1001"]);
    assert_eq!(scope.close(SOON).await, Vec::<&str>::new());
}

#[tokio::test]
async fn an_ipv6_address_comes_in_brackets() {
    let scope = Scope::root();
    let (one, two) = (unique("one"), unique("two"));
    let first = sidecar(&scope, &one, "192.0.2.1", 1001).await;
    let _second = sidecar(&scope, &two, "fd00::7", 1002).await;
    assert_eq!(addresses(&first, &two).await, ["[fd00::7]:1002"]);
}

#[tokio::test]
async fn an_app_id_in_another_case_is_another_app() {
    let scope = Scope::root();
    let (one, two) = (unique("one"), unique("TWO"));
    let first = sidecar(&scope, &one, "192.0.2.1", 1001).await;
    let _second = sidecar(&scope, &two, "192.0.2.2", 1002).await;
    assert_eq!(addresses(&first, &two).await, ["192.0.2.2:1002"]);
    assert!(addresses(&first, &two.to_lowercase()).await.is_empty());
}

#[tokio::test]
async fn an_unknown_app_is_an_error_after_a_second() {
    let scope = Scope::root();
    let one = sidecar(&scope, &unique("one"), "192.0.2.1", 1001).await;
    let nobody = unique("nobody");
    let begun = Instant::now();
    let error = one.resolve(&nobody, "default").await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(error.kind, ErrorKind::Failed);
    assert_eq!(error.message, format!("couldn't find service: {nobody}"));
    one.ping().await.unwrap();
}

#[tokio::test]
async fn instances_of_an_app_take_turns_until_they_leave() {
    let scope = Scope::root();
    let app = unique("app");
    let client = sidecar(&scope, &unique("client"), "192.0.2.1", 1001).await;
    let first = sidecar(&scope, &app, "192.0.2.2", 1002).await;
    let second = sidecar(&scope, &app, "192.0.2.2", 1003).await;
    wait::until("both instances", SOON, async || {
        addresses(&client, &app).await.len() == 2
    })
    .await;
    let one = addresses(&client, &app).await;
    let other = addresses(&client, &app).await;
    assert_ne!(one.first(), other.first());
    // It is still there for others to be found, but not itself to be found.
    first.leave().await;
    wait::until("one instance", SOON, async || {
        addresses(&client, &app).await == ["192.0.2.2:1003"]
    })
    .await;
    second.close().await;
    wait::until("no instance", SOON, async || {
        addresses(&client, &app).await.is_empty()
    })
    .await;
    assert!(second.ping().await.is_err());
    second.close().await;
    assert!(second.resolve(&app, "default").await.is_err());
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_dropped_until_heard_of_again() {
    let scope = Scope::root();
    let app = unique("app");
    let client = sidecar(&scope, &unique("client"), "192.0.2.1", 1001).await;
    let server = sidecar(&scope, &app, "192.0.2.2", 1002).await;
    assert_eq!(addresses(&client, &app).await, ["192.0.2.2:1002"]);
    client.unreachable(&app, "default", "192.0.2.2:1002").await;
    assert_eq!(addresses(&client, &app).await, ["192.0.2.2:1002"]);
    server.leave().await;
    client.unreachable(&app, "default", "192.0.2.2:1002").await;
    assert!(addresses(&client, &app).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_look_ups_at_once_are_served() {
    let scope = Scope::root();
    let app = unique("app");
    let client = sidecar(&scope, &unique("client"), "192.0.2.1", 1001).await;
    let _server = sidecar(&scope, &app, "192.0.2.2", 1002).await;
    let lookups = Scope::root();
    let (sender, mut found) = tokio::sync::mpsc::channel(1000);
    for _ in 0..1000 {
        let (client, app, sender) = (client.clone(), app.clone(), sender.clone());
        lookups.spawn_future("look-up", async move {
            sender.send(addresses(&client, &app).await).await.unwrap();
        });
    }
    drop(sender);
    for _ in 0..1000 {
        let addresses = wait::within("an answer", SOON, found.recv()).await;
        assert_eq!(addresses.unwrap(), ["192.0.2.2:1002"]);
    }
}

#[tokio::test]
async fn an_ordinary_dns_client_gets_an_answer_of_its_own() {
    let scope = Scope::root();
    let app = unique("app");
    let _server = sidecar(&scope, &app, "192.0.2.2", 1002).await;
    let client = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let mut question = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [app.as_str(), "local"] {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 12, 0, 1]);
    let sent = client.send_to(&question, "224.0.0.251:5353").await;
    if sent.is_err_and(|error| error.kind() == std::io::ErrorKind::NetworkUnreachable) {
        // There is only a loopback, for which a plain client has no route.
        return;
    }
    let mut answer = [0; 1500];
    let received = wait::within("the answer", SOON, client.recv(&mut answer)).await;
    let answer = answer.get(..received.unwrap()).unwrap();
    assert!(answer.starts_with(&[0x12, 0x34, 0x84, 0, 0, 1, 0, 1]));
    assert!(answer.ends_with(&[192, 0, 2, 2]));
}

#[tokio::test]
async fn without_an_interface_it_opens_and_tells_why_it_finds_nobody() {
    let scope = Scope::root();
    let app = unique("app");
    let properties = Properties::from([("interfaces", "absent0")]);
    let opener = check(&app, "192.0.2.1", 1001, properties).unwrap();
    let open = Open {
        scope: scope.clone(),
        loss: Loss::ignored(),
    };
    let alone = opener(open).await.unwrap();
    alone.ping().await.unwrap();
    assert_eq!(addresses(&alone, &app).await, ["192.0.2.1:1001"]);
    let error = alone.resolve("other", "default").await.unwrap_err();
    assert!(
        error.message.starts_with("couldn't find service: other ("),
        "{error}"
    );
    assert_eq!(scope.close(SOON).await, Vec::<&str>::new());
}

#[test]
fn a_sidecar_without_name_address_or_port_is_a_fault() {
    for (app_id, address, port, expected) in [
        ("", "127.0.0.1", 1, "name is missing"),
        ("a", "", 1, "address is missing"),
        ("a", "127.0.0.1", 0, "port is missing or invalid"),
        (
            "a",
            "example.org",
            1,
            "Failed to parse given IP: example.org",
        ),
    ] {
        let faults = check(app_id, address, port, Properties::default());
        assert_eq!(faults.err().unwrap(), [expected]);
    }
}
