//! Opens instances of a component the way the sidecar does: by its type's name, from properties, in a scope.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use outrigger_component_api::{
    AppId, Catalog, Check, Component, ComponentError, ComponentName, Findings, Identity, Instance,
    Lookup, Loss, NameResolver, Open, Opener, Properties, PubSub, Scope, SecretStore, Spec,
    StateStore,
};
use tokio::sync::mpsc;

use crate::wait;

/// A component resource, as a test writes it.
#[derive(Clone, Debug)]
pub struct Resource {
    pub register: fn(&mut Catalog),
    pub type_name: &'static str,
    pub properties: Properties,
}

impl Resource {
    fn spec(&self) -> Spec {
        Spec {
            name: ComponentName::from("testkit"),
            type_name: self.type_name.to_owned(),
            version: "v1".to_owned(),
            identity: Identity {
                app_id: AppId::from("testkit"),
                namespace: None,
            },
            properties: self.properties.clone(),
        }
    }

    fn checked<T>(
        &self,
        check: impl FnOnce(&Check, &Spec, &mut Findings) -> Option<T>,
    ) -> Result<T, Findings> {
        let mut catalog = Catalog::default();
        (self.register)(&mut catalog);
        let Lookup::Found(entry) = catalog.find(self.type_name, "v1") else {
            panic!("`{}` is not registered", self.type_name);
        };
        let mut findings = Findings::default();
        let checked = check(&entry.check, &self.spec(), &mut findings);
        match checked {
            Some(checked) if findings.faults.is_empty() => Ok(checked),
            Some(_) => panic!("faults and settings at once: {findings:?}"),
            None if findings.faults.is_empty() => panic!("no settings, and no word why"),
            None => Err(findings),
        }
    }

    /// # Errors
    /// What the check found wrong.
    pub fn state_store(&self) -> Result<Opener<dyn StateStore>, Findings> {
        self.checked(|check, spec, findings| match check {
            Check::State(check) => check(spec, findings),
            _ => panic!("`{}` is no state store", self.type_name),
        })
    }

    /// # Errors
    /// What the check found wrong.
    pub fn pubsub(&self) -> Result<Opener<dyn PubSub>, Findings> {
        self.checked(|check, spec, findings| match check {
            Check::PubSub(check) => check(spec, findings),
            _ => panic!("`{}` is no message broker", self.type_name),
        })
    }

    /// # Errors
    /// What the check found wrong.
    pub fn secret_store(&self) -> Result<Opener<dyn SecretStore>, Findings> {
        self.checked(|check, spec, findings| match check {
            Check::Secrets(check) => check(spec, findings),
            _ => panic!("`{}` is no secret store", self.type_name),
        })
    }

    /// # Errors
    /// What the check found wrong.
    pub fn name_resolver(&self, instance: &Instance) -> Result<Opener<dyn NameResolver>, Findings> {
        self.checked(|check, spec, findings| match check {
            Check::Names(check) => check(spec, instance, findings),
            _ => panic!("`{}` is no name resolver", self.type_name),
        })
    }
}

/// One opened instance with its scope. Dropping it ends its tasks without a farewell to the backend, as a crash does.
#[derive(Debug)]
pub struct Opened<T: ?Sized> {
    component: Arc<T>,
    scope: Scope,
    losses: mpsc::Receiver<ComponentError>,
}

impl<T: ?Sized + Component> Opened<T> {
    /// # Errors
    /// What the driver said.
    pub async fn attempt(opener: &Opener<T>) -> Result<Self, ComponentError> {
        let (sender, losses) = mpsc::channel(1);
        let scope = Scope::root();
        // An attempt that is given up must not leave tasks behind.
        let ending = scope.stop().clone().drop_guard();
        let open = Open {
            scope: scope.clone(),
            loss: Loss::new(sender),
        };
        match opener(open).await {
            Ok(component) => {
                ending.disarm();
                Ok(Self {
                    component,
                    scope,
                    losses,
                })
            }
            Err(error) => {
                let left = scope.close(Duration::from_secs(5)).await;
                assert!(left.is_empty(), "tasks of a failed attempt stay: {left:?}");
                Err(error)
            }
        }
    }

    /// Opens and pings.
    ///
    /// # Panics
    /// When it is not ready within ten seconds.
    pub async fn ready(opener: &Opener<T>) -> Self {
        let attempt = async {
            let opened = Self::attempt(opener).await?;
            opened.ping().await?;
            Ok::<_, ComponentError>(opened)
        };
        wait::within(
            "an instance that is ready",
            Duration::from_secs(10),
            attempt,
        )
        .await
        .unwrap_or_else(|error| panic!("cannot open an instance: {error:?}"))
    }

    /// The component itself, to be held by tasks.
    pub fn component(&self) -> Arc<T> {
        Arc::clone(&self.component)
    }

    /// Owns the instance's tasks.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Waits until the driver reports that the connection is gone.
    pub async fn lost(&mut self) -> ComponentError {
        match self.losses.recv().await {
            Some(error) => error,
            // The driver let go of its reporter, so there is nothing more to hear.
            None => std::future::pending().await,
        }
    }

    /// Closes twice, because closing is idempotent, and checks that no task stays behind.
    pub async fn close(self) {
        for _ in 0..2 {
            wait::within("close", Duration::from_secs(5), self.component.close()).await;
        }
        let left = self.scope.close(Duration::from_secs(5)).await;
        assert!(left.is_empty(), "tasks that do not end: {left:?}");
    }
}

impl<T: ?Sized> Deref for Opened<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.component
    }
}

impl<T: ?Sized> Drop for Opened<T> {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

/// A resource without the property of this name is refused with a fault that names it.
pub(crate) fn assert_requires<T>(
    properties: &Properties,
    name: &str,
    check: impl FnOnce(Properties) -> Result<T, Findings>,
) {
    let mut lacking = properties.clone();
    let count = lacking.0.len();
    lacking
        .0
        .retain(|property| !property.name.eq_ignore_ascii_case(name));
    assert!(lacking.0.len() < count, "the harness sets no `{name}`");
    let Err(findings) = check(lacking) else {
        panic!("accepted without `{name}`");
    };
    assert!(
        findings.faults.iter().any(|fault| fault.property == name),
        "no fault names `{name}`: {findings:?}"
    );
}
