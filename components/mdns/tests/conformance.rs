//! The conformance suite, over the network of this machine.

use outrigger_component_api::{Catalog, Properties};
use outrigger_testkit::suites::{Hold, names};

struct Mdns;

impl names::Harness for Mdns {
    const TYPE: &'static str = "nameresolution.mdns";

    fn register(catalog: &mut Catalog) {
        outrigger_component_mdns::register(catalog);
    }

    async fn start(_hold: Hold) -> Self {
        Self
    }

    fn properties(&self) -> Properties {
        Properties::default()
    }

    fn unknown(&self, id: &str) -> Option<String> {
        Some(format!("couldn't find service: {id}"))
    }
}

outrigger_testkit::names_suite!(Mdns: basic, departure);
