//! Every component that is built in: one line for each technology.

use outrigger_component_api::Catalog;

pub(crate) fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    outrigger_component_local::register(&mut catalog);
    outrigger_component_mdns::register(&mut catalog);
    outrigger_component_memory::register(&mut catalog);
    outrigger_component_rabbitmq::register(&mut catalog);
    outrigger_component_redis::register(&mut catalog);
    outrigger_component_sqlite::register(&mut catalog);
    catalog
}
