//! Variables that are no flags.

use std::time::Duration;

use outrigger_core::duration::{GoDuration, parse_go};
use outrigger_core::metadata::is_truthy;
use outrigger_core::{Namespace, Secret};

use super::options::Environment;
use crate::Lookup;

/// Reads what daprd reads; a variable that cannot be used counts as unset.
pub(super) fn read(lookup: Lookup<'_>) -> Environment {
    let text = |name| lookup(name).filter(|value| !value.is_empty());
    let duration = |name, default| {
        text(name)
            .and_then(|value| parse_go(&value))
            .and_then(GoDuration::positive)
            .unwrap_or(default)
    };
    Environment {
        namespace: text("NAMESPACE").map(Namespace::from),
        pod_name: text("POD_NAME"),
        host_ip: text("DAPR_HOST_IP"),
        api_token: text("DAPR_API_TOKEN").map(Secret::new),
        app_api_token: text("APP_API_TOKEN").map(Secret::new),
        prestop_token: text("OUTRIGGER_PRESTOP_TOKEN").map(Secret::new),
        trust_anchors: text("DAPR_TRUST_ANCHORS"),
        sentry_token_file: text("DAPR_SENTRY_TOKEN_FILE"),
        sentry_local_identity: text("SENTRY_LOCAL_IDENTITY"),
        components_sockets_folder: text("DAPR_COMPONENTS_SOCKETS_FOLDER")
            .unwrap_or_else(|| "/tmp/dapr-components-sockets".to_owned()),
        disable_h2c: text("DAPR_HTTP_DISABLE_H2C").is_some_and(|value| is_truthy(&value)),
        peer_idle_limit: duration("DAPR_GRPC_MAX_CONN_IDLE", Duration::from_secs(180)),
        peer_sweep_interval: duration("DAPR_GRPC_CONN_COLLECTOR_INTERVAL", Duration::from_secs(45)),
        skip_user_check: text("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK").as_deref()
            == Some("true"),
    }
}
