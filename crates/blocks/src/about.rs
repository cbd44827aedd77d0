//! What the runtime reads from a component's properties, whatever its driver: key prefixes and encryption of state
//! stores, topic permissions and namespaces of pub/sub components.

use std::collections::BTreeMap;

use outrigger_component_api::Properties;
use outrigger_core::metadata::get_ignore_case;
use outrigger_core::topic_access::TopicAccess;

use crate::state::{KeyPrefix, Seal};

#[derive(Debug, Default)]
pub struct About {
    pub keys: KeyPrefix,
    pub seal: Option<Seal>,
    pub access: TopicAccess,
    /// Topics carry the namespace in front.
    pub namespaced: bool,
}

/// Where the properties came from, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The secret behind each property that came from one.
    pub secret_names: BTreeMap<String, String>,
    /// Whether any value was written with `{namespace}` in it.
    pub mentions_namespace: bool,
}

impl About {
    /// Reads the runtime's own properties.
    ///
    /// # Errors
    /// Why the component cannot be used with them.
    pub fn read(
        properties: &Properties,
        origin: &Origin,
        app_id: &str,
        namespace: Option<&str>,
    ) -> Result<Self, String> {
        let metadata = properties.to_metadata();
        Ok(Self {
            keys: KeyPrefix::read(get_ignore_case(&metadata, "keyPrefix"), app_id, namespace)?,
            seal: Seal::read(&metadata, &origin.secret_names)?,
            access: TopicAccess::read(&metadata, app_id),
            namespaced: origin.mentions_namespace,
        })
    }
}
