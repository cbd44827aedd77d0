//! Publish and subscribe.
//!
//! [`publish`] is the way in; [`subscription`] keeps subscriptions alive; [`deliver`] and [`bulk`] hand messages to the app
//! and decide what becomes of them; [`parts`] takes events apart; [`route`] chooses the path; [`stream`] is for apps that fetch their messages over a
//! stream of their own.

pub mod bulk;
pub mod deliver;
pub mod parts;
mod poison;
pub mod policy;
mod publish;
pub mod route;
pub mod stream;
pub mod subscription;

pub use poison::Poison;
pub use publish::{BulkEntryIn, BulkFailed, Publish, PublishError, Publisher};
pub use route::Rules;
pub use subscription::{Origin, Plan, Subscriptions};
