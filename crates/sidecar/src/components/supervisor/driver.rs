//! What is done with a driver: opened, pinged, closed, each within its time and without its panics.

use super::*;

/// Never completes where there is nothing to wait for.
pub(super) async fn dependencies<T: ?Sized + 'static>(definition: Option<&Definition<T>>) {
    match definition {
        // What it waits for is no obstacle to the one that serves.
        Some(definition) => {
            let needs = watch::Sender::new(None);
            definition.recipe.dependencies(&needs).await;
        }
        None => std::future::pending().await,
    }
}

pub(super) type Caught<R> = Result<Result<R, Failure>, Box<dyn std::any::Any + Send>>;

/// What an attempt came to within its time.
pub(super) async fn bounded<R>(
    limit: Duration,
    attempt: impl Future<Output = Caught<R>>,
) -> Result<R, Failure> {
    match tokio::time::timeout(limit, attempt).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(Failure::new(Class::Panic, panic_text(&*panic))),
        Err(_) => Err(Failure::new(
            Class::Timeout,
            format!("no connection within {} seconds", limit.as_secs_f64()),
        )),
    }
}

/// Closes an instance, within a limit.
pub(super) async fn close<T: Component + ?Sized>(component: &str, instance: Connected<T>) {
    let closing = AssertUnwindSafe(instance.driver.close()).catch_unwind();
    if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
        debug!(target: SCOPE, component, "the old connection did not close in time and is left behind");
    }
    instance.scope.cancel();
}

/// Settings, connection, first ping.
pub(super) async fn open<T: Component + ?Sized>(
    recipe: &dyn Recipe<T>,
    handle: &Handle<T>,
    scope: Scope,
) -> Result<Connected<T>, Failure> {
    let (opener, about) = recipe.settle().await?;
    let (report, losses) = mpsc::channel(1);
    let driver = opener(Open {
        scope: scope.clone(),
        loss: Loss::new(report),
    })
    .await
    .map_err(ComponentError::into_failure)?;
    if let Err(error) = ping(&*driver, handle).await {
        tokio::time::timeout(CLOSE_LIMIT, driver.close()).await.ok();
        return Err(error.into_failure());
    }
    Ok(Connected {
        revision: driver.revision(),
        driver,
        about: Arc::new(about),
        scope,
        losses,
        in_use: None,
    })
}

/// A driver without a ping is believed to be well.
pub(super) async fn ping<T: Component + ?Sized>(
    driver: &T,
    handle: &Handle<T>,
) -> Result<(), ComponentError> {
    let outcome = driver.ping().await;
    let has_ping = !matches!(&outcome, Err(error) if error.kind == ErrorKind::Unsupported);
    handle.proofs.set_has_ping(has_ping);
    if has_ping { outcome } else { Ok(()) }
}

pub(super) async fn lost<T: ?Sized>(instance: Option<&mut Connected<T>>) -> Option<ComponentError> {
    match instance {
        Some(instance) => match instance.losses.recv().await {
            Some(error) => Some(error),
            // A driver that cannot report any more has nothing to report.
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

pub(super) async fn working<R>(work: &mut Working<R>) -> R {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the component panicked: {}", text.unwrap_or_default())
}
