//! The component at a real RabbitMQ: what it declares and sends, and what it does when the broker or the network fails.
//!
//! Needs `rabbitmq-server`; without it every test fails and says so.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail the test that called it"
)]

mod connection;
mod faults;
mod publish;
mod subscribe;
mod support;
mod tls;
mod topology;
