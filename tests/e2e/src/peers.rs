//! Sidecars of other apps that do what a test says.
//!
//! A sidecar registers itself under an app id and is killed; what it wrote down stays. A fake may listen where it was.

use std::collections::BTreeMap;

use outrigger_proto::Message as _;
use outrigger_proto::dapr::proto::common::v1::{InvokeResponse, StreamPayload};
use outrigger_proto::dapr::proto::internals::v1::{
    InternalInvokeResponse, InternalInvokeResponseStream, ListStringValue, Status,
};
use outrigger_testkit::PrivateDir;

use crate::grpc_app::{Called, GrpcApp, GrpcReply};
use crate::process::Signal;
use crate::sidecar::{Plan, Sidecar};

/// By which method sidecars call each other.
pub const CALL: &str = "/dapr.proto.internals.v1.ServiceInvocation/CallLocalStream";

/// Names and addresses that sidecars share.
#[derive(Debug)]
pub struct Registry {
    folder: PrivateDir,
}

impl Registry {
    pub fn new() -> Self {
        let folder = PrivateDir::new("names");
        let names = folder.path().join("names.db").display().to_string();
        // So long, that the names of the killed stay.
        let text = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: config\nspec:\n  nameResolution:\n    component: sqlite\n    version: v1\n    configuration:\n      connectionString: {names:?}\n      updateInterval: 1h\n"
        );
        folder.write("config.yaml", text);
        Self { folder }
    }

    /// By which a sidecar uses it.
    pub fn flag(&self) -> String {
        format!(
            "--config={}",
            self.folder.path().join("config.yaml").display()
        )
    }

    /// A sidecar that uses it.
    pub fn plan(&self, app_id: &str) -> Plan {
        Plan::new(app_id).flag(&self.flag())
    }

    /// The internal port of a sidecar that has registered and is gone.
    pub async fn vacancy(&self, app_id: &str) -> u16 {
        let mut gone = self.registered(self.plan(app_id)).await;
        gone.process.signal(Signal::KILL);
        gone.process.ended(crate::s(10)).await;
        gone.ports.internal
    }

    /// A sidecar that serves and has registered.
    pub async fn registered(&self, plan: Plan) -> Sidecar {
        let sidecar = plan.serving().await;
        let line = "Component loaded: sqlite";
        sidecar.process.says(line, crate::s(15)).await;
        sidecar
    }

    /// A fake in the place of an app's sidecar.
    pub async fn peer(
        &self,
        app_id: &str,
        script: impl Fn(usize, &Called) -> GrpcReply + Send + Sync + 'static,
    ) -> Peer {
        let port = self.vacancy(app_id).await;
        Peer::start_on(port, script).await
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// A fake sidecar.
pub type Peer = GrpcApp;

/// The answer of an app behind a sidecar.
pub fn answered(status: i32, body: &[u8]) -> GrpcReply {
    let text = |value: &str| ListStringValue {
        values: vec![value.to_owned()],
    };
    let message = InternalInvokeResponseStream {
        response: Some(InternalInvokeResponse {
            status: Some(Status {
                code: status,
                ..Status::default()
            }),
            headers: BTreeMap::from([("content-type".to_owned(), text("text/plain"))]),
            message: Some(InvokeResponse {
                content_type: "text/plain".to_owned(),
                ..InvokeResponse::default()
            }),
            ..InternalInvokeResponse::default()
        }),
        payload: Some(StreamPayload {
            data: body.to_vec().into(),
            seq: 0,
        }),
    };
    GrpcReply::ok(message.encode_to_vec())
}

/// A sidecar that cannot be reached, as far as its callers can tell.
pub fn unavailable() -> GrpcReply {
    GrpcReply::status(14, "nobody is here")
}
