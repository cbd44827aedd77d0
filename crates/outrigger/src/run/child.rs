//! The app as the sidecar sees it: a thread of its own looks after the process.
//!
//! The thread lives as long as the process: the kernel ends a child together with the thread that started it.

use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_lifecycle::child;
use outrigger_sidecar::Companion;
use tokio::sync::{mpsc, oneshot, watch};

use super::keeper::{self, Order, Seen};
use super::process::Program;

/// Orders come one after the other, and are taken at once.
const FEW: usize = 16;

#[derive(Debug)]
pub(super) struct ChildSettings {
    pub(super) program: Program,
    pub(super) starts_at_once: bool,
    pub(super) life: child::Settings,
}

#[derive(Debug)]
pub(super) struct Child {
    starts_at_once: bool,
    is_started: bool,
    /// Nothing after the end of this.
    orders: Option<mpsc::Sender<Order>>,
    seen: watch::Receiver<Seen>,
    away: watch::Receiver<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Child {
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn new(settings: ChildSettings) -> std::io::Result<Self> {
        let (orders, taken) = mpsc::channel(FEW);
        let (shown, seen) = watch::channel(Seen::default());
        let (gone, away) = watch::channel(false);
        let ChildSettings {
            program,
            starts_at_once,
            life,
        } = settings;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("app".to_owned())
            .spawn(move || runtime.block_on(keeper::keep(program, life, taken, &shown, &gone)))?;
        Ok(Self {
            starts_at_once,
            is_started: false,
            orders: Some(orders),
            seen,
            away,
            thread: Some(thread),
        })
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            orders.try_send(order).ok();
        }
    }
}

#[async_trait]
impl Companion for Child {
    fn starts_at_once(&self) -> bool {
        self.starts_at_once
    }

    async fn start(&mut self, http_port: u16, grpc_port: u16) -> Result<(), String> {
        if std::mem::replace(&mut self.is_started, true) {
            return Ok(());
        }
        let (told, answer) = oneshot::channel();
        self.order(Order::Start {
            http_port,
            grpc_port,
            told,
        });
        answer
            .await
            .unwrap_or_else(|_| Err("nobody is there to start the app".to_owned()))
    }

    fn away(&self) -> watch::Receiver<bool> {
        self.away.clone()
    }

    async fn ended(&mut self) -> u8 {
        loop {
            let ended = self.seen.borrow_and_update().ended;
            if let Some(code) = ended {
                return code;
            }
            if self.seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn ending(&mut self) {
        self.order(Order::Ending);
    }

    async fn stop(&mut self, limit: Duration) {
        self.order(Order::Stop(limit));
        self.seen.wait_for(|seen| seen.is_over).await.ok();
    }

    fn verdict(&self) -> u8 {
        self.seen.borrow().verdict
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The thread kills what is left, and ends.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
