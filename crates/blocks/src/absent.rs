//! Building blocks that are not there yet: they answer as Dapr does when nothing of their kind is configured.
//!
//! Requests are checked as far as Dapr checks them first. A component of such a kind that stands in a resource is
//! rejected, and said to be so.

use outrigger_core::ApiError;

use crate::Blocks;
use crate::errors::absent as told;

impl Blocks {
    /// Why there is no component of this name and kind.
    fn missing(&self, name: &str, prefix: &str, otherwise: impl FnOnce() -> ApiError) -> ApiError {
        self.registry
            .refusal(&self.metrics, name, prefix)
            .unwrap_or_else(otherwise)
    }

    pub fn configuration(&self, store: &str) -> ApiError {
        self.missing(store, "configuration.", told::configuration_not_configured)
    }

    pub fn crypto(&self, provider: &str) -> ApiError {
        self.missing(provider, "crypto.", told::crypto_not_configured)
    }

    pub fn lock(&self, store: &str, expiry_seconds: i64) -> ApiError {
        if expiry_seconds <= 0 {
            told::lock_expiry(store)
        } else {
            self.unlock(store)
        }
    }

    pub fn unlock(&self, store: &str) -> ApiError {
        self.missing(store, "lock.", told::lock_not_configured)
    }

    pub fn conversation(&self, name: &str) -> ApiError {
        self.missing(name, "conversation.", || told::conversation_not_found(name))
    }

    pub fn output_binding(&self, name: &str, operation: &str) -> ApiError {
        if self.metrics.settings.enabled {
            let namespace = self.metrics.settings.namespace.as_str();
            let labels = [name, namespace, operation, "false"];
            self.metrics.output_binding_count.add(labels, 1);
            self.metrics.output_binding_latencies.observe(labels, 0.0);
        }
        if operation.is_empty() {
            return told::output_binding(name, "operation field is missing from request");
        }
        self.missing(name, "bindings.", || {
            told::output_binding(name, &format!("couldn't find output binding {name}"))
        })
    }

    /// `actor_type` is refused if it belongs to workflows; `invokes` says that it may be called nevertheless.
    pub fn actor(&self, actor_type: &str, invokes: bool) -> ApiError {
        if !invokes && actor_type.starts_with("dapr.internal.") {
            told::reserved_actor_type(actor_type)
        } else {
            told::no_placement()
        }
    }

    pub fn workflow(&self) -> ApiError {
        told::no_placement()
    }

    /// `has_time` says that a schedule or a due time is given.
    pub fn schedule_job(&self, name: &str, has_time: bool) -> ApiError {
        let (app_id, namespace) = (self.app_id.as_str(), self.namespace.as_str());
        if name.is_empty() {
            return told::job_lacks("Name", "DAPR_SCHEDULER_JOB_NAME_EMPTY", app_id, namespace);
        }
        if !has_time {
            return told::job_lacks(
                "Schedule",
                "DAPR_SCHEDULER_SCHEDULE_EMPTY",
                app_id,
                namespace,
            );
        }
        told::no_scheduler(
            "schedule job",
            "DAPR_SCHEDULER_SCHEDULE_JOB",
            app_id,
            namespace,
        )
    }

    pub fn schedule_no_job(&self) -> ApiError {
        told::job_lacks(
            "Job",
            "DAPR_SCHEDULER_EMPTY",
            self.app_id.as_str(),
            self.namespace.as_str(),
        )
    }

    pub fn get_job(&self, name: &str) -> ApiError {
        self.job(name, "get job", "DAPR_SCHEDULER_GET_JOB")
    }

    pub fn delete_job(&self, name: &str) -> ApiError {
        self.job(name, "delete job", "DAPR_SCHEDULER_DELETE_JOB")
    }

    pub fn list_jobs(&self) -> ApiError {
        told::no_scheduler(
            "list jobs",
            "DAPR_SCHEDULER_LIST_JOBS",
            self.app_id.as_str(),
            self.namespace.as_str(),
        )
    }

    pub fn delete_jobs(&self) -> ApiError {
        told::no_scheduler(
            "delete job",
            "DAPR_SCHEDULER_DELETE_JOB",
            self.app_id.as_str(),
            self.namespace.as_str(),
        )
    }

    fn job(&self, name: &str, doing: &str, reason: &'static str) -> ApiError {
        let (app_id, namespace) = (self.app_id.as_str(), self.namespace.as_str());
        if name.is_empty() {
            return told::job_lacks("Name", "DAPR_SCHEDULER_JOB_NAME_EMPTY", app_id, namespace);
        }
        told::no_scheduler(doing, reason, app_id, namespace)
    }
}
