//! Subscriptions on a broker that does what the test says.

mod hand_over;
mod letting_go;
mod streams;
