//! The methods of the API and the groups by which the Configuration allows or denies them.

/// One API that the Configuration allows or denies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub name: String,
    pub version: String,
}

macro_rules! methods {
    ($( $group:literal $version:literal: $($method:ident),+; )*) => {
        /// A method of `dapr.proto.runtime.v1.Dapr`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Method {
            $($($method,)+)*
        }

        impl Method {
            /// By its name.
            pub(crate) fn find(name: &str) -> Option<Self> {
                match name {
                    $($(stringify!($method) => Some(Self::$method),)+)*
                    _ => None,
                }
            }

            pub(crate) fn group(self) -> (&'static str, &'static str) {
                match self {
                    $($(Self::$method => ($group, $version),)+)*
                }
            }

            #[cfg(test)]
            const ALL: &'static [(Self, &'static str)] = &[$($((Self::$method, stringify!($method)),)+)*];
        }
    };
}

methods! {
    "invoke" "v1": InvokeService;
    "state" "v1": GetState, GetBulkState, SaveState, DeleteState, DeleteBulkState, ExecuteStateTransaction;
    "state" "v1alpha1": QueryStateAlpha1;
    "publish" "v1": PublishEvent, BulkPublishEvent;
    "publish" "v1alpha1": BulkPublishEventAlpha1;
    "subscribe" "v1alpha1": SubscribeTopicEventsAlpha1;
    "bindings" "v1": InvokeBinding;
    "secrets" "v1": GetSecret, GetBulkSecret;
    "actors" "v1": RegisterActorTimer, UnregisterActorTimer, RegisterActorReminder, UnregisterActorReminder, UnregisterActorRemindersByType,
        ListActorReminders, GetActorReminder, GetActorState, ExecuteActorStateTransaction, InvokeActor;
    "actors" "v1alpha1": SubscribeActorEventsAlpha1;
    "metadata" "v1": GetMetadata, SetMetadata;
    "configuration" "v1": GetConfiguration, SubscribeConfiguration, UnsubscribeConfiguration;
    "configuration" "v1alpha1": GetConfigurationAlpha1, SubscribeConfigurationAlpha1, UnsubscribeConfigurationAlpha1;
    "lock" "v1alpha1": TryLockAlpha1;
    "unlock" "v1alpha1": UnlockAlpha1;
    "crypto" "v1alpha1": EncryptAlpha1, DecryptAlpha1;
    "subtlecrypto" "v1alpha1": SubtleGetKeyAlpha1, SubtleEncryptAlpha1, SubtleDecryptAlpha1, SubtleWrapKeyAlpha1, SubtleUnwrapKeyAlpha1,
        SubtleSignAlpha1, SubtleVerifyAlpha1;
    "workflows" "v1alpha1": StartWorkflowAlpha1, GetWorkflowAlpha1, PurgeWorkflowAlpha1, TerminateWorkflowAlpha1, PauseWorkflowAlpha1,
        ResumeWorkflowAlpha1, RaiseEventWorkflowAlpha1;
    "workflows" "v1beta1": StartWorkflowBeta1, GetWorkflowBeta1, PurgeWorkflowBeta1, TerminateWorkflowBeta1, PauseWorkflowBeta1,
        ResumeWorkflowBeta1, RaiseEventWorkflowBeta1;
    "jobs" "v1": ScheduleJob, GetJob, DeleteJob, DeleteJobsByPrefix, ListJobs;
    "jobs" "v1alpha1": ScheduleJobAlpha1, GetJobAlpha1, DeleteJobAlpha1, DeleteJobsByPrefixAlpha1, ListJobsAlpha1;
    "conversation" "v1alpha1": ConverseAlpha1;
    "conversation" "v1alpha2": ConverseAlpha2;
    "shutdown" "v1": Shutdown;
}

impl Method {
    /// Whether the Configuration shows it. Denied beats allowed; a list of allowed ones hides everything else.
    pub(crate) fn is_shown(self, allowed: &[Rule], denied: &[Rule]) -> bool {
        let (group, version) = self.group();
        let named = |rules: &[Rule]| {
            rules
                .iter()
                .any(|rule| rule.name == group && rule.version == version)
        };
        !named(denied) && (allowed.is_empty() || named(allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_proto::descriptors::SERVICES;

    #[test]
    fn every_method_of_the_service_has_its_place() {
        let (_, methods) = SERVICES
            .iter()
            .find(|(name, _)| *name == "dapr.proto.runtime.v1.Dapr")
            .unwrap();
        for method in *methods {
            assert!(Method::find(method).is_some(), "{method}");
        }
        assert_eq!(methods.len(), Method::ALL.len());
    }

    #[test]
    fn rules_name_groups_and_versions() {
        let rule = |name: &str, version: &str| Rule {
            name: name.into(),
            version: version.into(),
        };
        assert!(!Method::GetState.is_shown(&[], &[rule("state", "v1")]));
        assert!(Method::QueryStateAlpha1.is_shown(&[], &[rule("state", "v1")]));
        assert!(!Method::PublishEvent.is_shown(&[rule("state", "v1")], &[]));
        assert!(!Method::GetState.is_shown(&[rule("state", "v1")], &[rule("state", "v1")]));
    }
}
