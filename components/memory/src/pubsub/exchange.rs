//! From topics to queues.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use outrigger_component_api::ComponentName;

use super::queue::{Item, Queue};

/// The subscriptions of one component, and what ended ones left behind.
pub(crate) struct Exchange {
    component: ComponentName,
    /// Read by every publish, written by the beginning and end of subscriptions.
    routes: RwLock<Routes>,
    /// What was left by ended subscriptions, by topic. At most one entry for each that ever ran at the same time as others of
    /// its topic, because a new subscription takes one over.
    parked: Mutex<HashMap<String, Vec<VecDeque<Item>>>>,
}

#[derive(Default)]
struct Routes {
    exact: HashMap<String, Vec<Arc<Queue>>>,
    /// Topics that end in `*`, without it.
    prefixes: Vec<(String, Arc<Queue>)>,
    /// How many queues there have been.
    made: u64,
}

impl Exchange {
    pub(crate) fn new(component: ComponentName) -> Self {
        Self {
            component,
            routes: RwLock::default(),
            parked: Mutex::default(),
        }
    }

    pub(super) fn component(&self) -> &ComponentName {
        &self.component
    }

    /// Gives the message to every queue that has a place, and names those that have none.
    pub(super) fn offer(&self, topic: &str, item: &Item) -> Vec<(Arc<Queue>, Item)> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let exact = routes.exact.get(topic).into_iter().flatten();
        let wide = routes
            .prefixes
            .iter()
            .filter(|(prefix, _)| {
                prefix.is_empty() || (topic.len() > prefix.len() && topic.starts_with(prefix))
            })
            .map(|(_, queue)| queue);
        let mut full = Vec::new();
        for queue in exact.chain(wide) {
            if let Err(item) = queue.offer(item.clone()) {
                full.push((Arc::clone(queue), item));
            }
        }
        full
    }

    pub(super) fn subscribe(&self, topic: &str) -> Arc<Queue> {
        // Held until the route is there, so that nothing is given back to nobody in between.
        let mut parked = self.lock_parked();
        let left = parked.get_mut(topic).and_then(Vec::pop).unwrap_or_default();
        if parked.get(topic).is_some_and(Vec::is_empty) {
            parked.remove(topic);
        }
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let queue = Arc::new(Queue::new(routes.made, left));
        routes.made += 1;
        match topic.strip_suffix('*') {
            Some(prefix) => routes.prefixes.push((prefix.to_owned(), queue.clone())),
            None => routes
                .exact
                .entry(topic.to_owned())
                .or_default()
                .push(queue.clone()),
        }
        queue
    }

    pub(super) fn unsubscribe(&self, topic: &str, queue: &Arc<Queue>) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        queue.ends(routes.made);
        if topic.ends_with('*') {
            routes
                .prefixes
                .retain(|(_, other)| !Arc::ptr_eq(other, queue));
        } else if let Some(queues) = routes.exact.get_mut(topic) {
            queues.retain(|other| !Arc::ptr_eq(other, queue));
            if queues.is_empty() {
                routes.exact.remove(topic);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn topics(&self) -> Vec<String> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let wide = routes
            .prefixes
            .iter()
            .map(|(prefix, _)| format!("{prefix}*"));
        routes.exact.keys().cloned().chain(wide).collect()
    }

    /// Keeps what an ended subscription left for the next one to its topic.
    pub(super) fn park(&self, topic: &str, left: VecDeque<Item>) {
        if !left.is_empty() {
            self.lock_parked()
                .entry(topic.to_owned())
                .or_default()
                .push(left);
        }
    }

    /// Hands a message that an ended subscription could not finish to the one that follows it, be it there already or not.
    pub(super) fn give_back(&self, topic: &str, ended: &Queue, item: Item) {
        let mut parked = self.lock_parked();
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let next = match topic.strip_suffix('*') {
            Some(wanted) => routes
                .prefixes
                .iter()
                .filter(|(prefix, _)| prefix == wanted)
                .map(|(_, queue)| queue)
                .find(|queue| queue.follows(ended)),
            None => routes
                .exact
                .get(topic)
                .and_then(|queues| queues.iter().find(|queue| queue.follows(ended))),
        };
        let item = match next.map(|queue| queue.take_over(item.clone())) {
            Some(Ok(())) => return,
            Some(Err(_)) | None => item,
        };
        let left = parked.entry(topic.to_owned()).or_default();
        match left.last_mut() {
            Some(left) => left.push_front(item),
            None => left.push(VecDeque::from([item])),
        }
    }

    fn lock_parked(&self) -> MutexGuard<'_, HashMap<String, Vec<VecDeque<Item>>>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
