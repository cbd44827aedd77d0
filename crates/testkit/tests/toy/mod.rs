//! A small store and a small broker on a real Redis, simple enough to be right, and ways to make them wrong.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrigger_component_api::{
    Bytes, Catalog, Component, ComponentError, Delete, Findings, Get, Handler, Message, Open,
    Opener, Outcome, PubSub, PubSubFeatures, Publish, Reader, Set, Source, Spec, StateFeatures,
    StateItem, StateStore, Stop, Subscribe, async_trait,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};

/// What is wrong with an implementation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    None,
    /// Says that a write or publish succeeded whatever came of it.
    Lies,
    /// Says that all is well without asking the server.
    PingsNothing,
    /// Takes every failure for a wrong resource.
    BlamesTheResource,
    /// Tells nobody that a connection is gone.
    KeepsQuiet,
}

pub(crate) fn register(catalog: &mut Catalog) {
    catalog.state_store("state.toy", |spec, findings| {
        let (address, flaw) = settings(spec, findings)?;
        let opener: Opener<dyn StateStore> = Arc::new(move |open| {
            let address = address.clone();
            Box::pin(async move {
                let store: Arc<dyn StateStore> = Arc::new(Toy::open(address, flaw, open).await?);
                Ok(store)
            })
        });
        Some(opener)
    });
    catalog.pubsub("pubsub.toy", |spec, findings| {
        let (address, flaw) = settings(spec, findings)?;
        let opener: Opener<dyn PubSub> = Arc::new(move |open| {
            let address = address.clone();
            Box::pin(async move {
                let broker: Arc<dyn PubSub> = Arc::new(Toy::open(address, flaw, open).await?);
                Ok(broker)
            })
        });
        Some(opener)
    });
}

fn settings(spec: &Spec, findings: &mut Findings) -> Option<(String, Flaw)> {
    let mut reader = Reader::standard(&spec.properties);
    let address = reader.required("address");
    let flaw = match reader.text("flaw").as_deref() {
        Some("Lies") => Flaw::Lies,
        Some("PingsNothing") => Flaw::PingsNothing,
        Some("BlamesTheResource") => Flaw::BlamesTheResource,
        Some("KeepsQuiet") => Flaw::KeepsQuiet,
        _ => Flaw::None,
    };
    reader.finish(findings).then_some((address, flaw))
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Reply {
    Nothing,
    Text(Vec<u8>),
    Many(Vec<Reply>),
}

type Stream = BufReader<TcpStream>;

/// A connection that is made anew when it was lost, or left in the middle of a command.
struct Link {
    address: String,
    flaw: Flaw,
    open: Open,
    stream: Mutex<Option<Stream>>,
}

impl Link {
    fn new(address: String, flaw: Flaw, open: Open) -> Self {
        Self {
            address,
            flaw,
            open,
            stream: Mutex::new(None),
        }
    }

    async fn ask(&self, words: &[&[u8]]) -> Result<Reply, ComponentError> {
        let mut slot = self.stream.lock().await;
        let talk = async {
            // Taken out for the time of the command: whoever gives up halfway takes the connection along.
            let mut stream = match slot.take() {
                Some(stream) => stream,
                None => BufReader::new(TcpStream::connect(&self.address).await?),
            };
            let mut request = format!("*{}\r\n", words.len()).into_bytes();
            for word in words {
                request.extend(format!("${}\r\n", word.len()).bytes());
                request.extend(*word);
                request.extend(b"\r\n");
            }
            stream.get_mut().write_all(&request).await?;
            let reply = answer(&mut stream).await?;
            *slot = Some(stream);
            Ok::<_, std::io::Error>(reply)
        };
        talk.await.map_err(|error| {
            let error = match self.flaw {
                Flaw::BlamesTheResource => ComponentError::config(error.to_string()),
                _ => ComponentError::transient(error.to_string()),
            };
            if self.flaw != Flaw::KeepsQuiet {
                self.open.loss.report(error.clone());
            }
            error
        })
    }
}

async fn answer(stream: &mut Stream) -> std::io::Result<Reply> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let (kind, rest) = line.trim_end().split_at(1);
    match (kind, rest.parse::<i64>().unwrap_or(0)) {
        ("-", _) => Err(std::io::Error::other(rest)),
        ("$" | "*", -1) => Ok(Reply::Nothing),
        ("$", size) => {
            let mut text = vec![0; usize::try_from(size).unwrap_or(0) + 2];
            stream.read_exact(&mut text).await?;
            text.truncate(text.len() - 2);
            Ok(Reply::Text(text))
        }
        ("*", count) => {
            let mut many = Vec::new();
            for _ in 0..count {
                many.push(Box::pin(answer(stream)).await?);
            }
            Ok(Reply::Many(many))
        }
        _ => Ok(Reply::Text(rest.as_bytes().to_vec())),
    }
}

struct Toy {
    link: Arc<Link>,
    flaw: Flaw,
}

impl Toy {
    async fn open(address: String, flaw: Flaw, open: Open) -> Result<Self, ComponentError> {
        let link = Arc::new(Link::new(address, flaw, open));
        if flaw != Flaw::PingsNothing {
            link.ask(&[b"PING"]).await?;
        }
        Ok(Self { link, flaw })
    }

    async fn write(&self, words: &[&[u8]]) -> Result<(), ComponentError> {
        match self.link.ask(words).await {
            Err(_) if self.flaw == Flaw::Lies => Ok(()),
            result => result.map(|_| ()),
        }
    }
}

#[async_trait]
impl Component for Toy {
    async fn ping(&self) -> Result<(), ComponentError> {
        if self.flaw == Flaw::PingsNothing {
            return Ok(());
        }
        self.link.ask(&[b"PING"]).await.map(|_| ())
    }

    async fn close(&self) {
        self.link.open.scope.cancel();
        // A command that hangs keeps the stream; dropping the component ends it.
        if let Ok(mut stream) = self.link.stream.try_lock() {
            stream.take();
        }
    }
}

#[async_trait]
impl StateStore for Toy {
    fn features(&self) -> StateFeatures {
        StateFeatures::default()
    }

    async fn get(&self, request: &Get) -> Result<Option<StateItem>, ComponentError> {
        match self.link.ask(&[b"GET", request.key.as_bytes()]).await? {
            Reply::Text(text) => Ok(Some(StateItem {
                data: Bytes::from(text),
                ..StateItem::default()
            })),
            Reply::Nothing | Reply::Many(_) => Ok(None),
        }
    }

    async fn set(&self, request: &Set) -> Result<(), ComponentError> {
        let key = request.key.as_bytes();
        self.write(&[b"SET", key, request.value.bytes()]).await
    }

    async fn delete(&self, request: &Delete) -> Result<(), ComponentError> {
        self.write(&[b"DEL", request.key.as_bytes()]).await
    }
}

/// Messages are in a list; one that is being handled is in a second one, from which the next consumer takes it back.
#[async_trait]
impl PubSub for Toy {
    fn features(&self) -> PubSubFeatures {
        PubSubFeatures::default()
    }

    async fn publish(&self, request: Publish) -> Result<(), ComponentError> {
        if self.link.open.scope.is_stopped() {
            return Err(ComponentError::invalid("closed"));
        }
        let topic = request.topic.as_bytes();
        self.write(&[b"LPUSH", topic, &request.data]).await
    }

    async fn subscribe(
        &self,
        request: Subscribe,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn Source>, ComponentError> {
        let open = self.link.open.clone();
        let link = Link::new(self.link.address.clone(), self.flaw, open.clone());
        let work = format!("{}-work", request.topic);
        let unfinished = [
            b"LMOVE",
            work.as_bytes(),
            request.topic.as_bytes(),
            b"LEFT",
            b"RIGHT",
        ];
        while link.ask(&unfinished).await? != Reply::Nothing {}
        let shared = Arc::new(Shared {
            in_flight: AtomicUsize::new(0),
            running: watch::Sender::new(true),
            closed: Stop::new(),
            ended: Stop::new(),
        });
        let worker = Worker {
            link,
            topic: request.topic,
            work,
            handler,
            shared: Arc::clone(&shared),
        };
        open.scope.spawn("toy", |stop| worker.run(stop));
        Ok(Box::new(Subscription { shared }))
    }
}

struct Shared {
    in_flight: AtomicUsize,
    running: watch::Sender<bool>,
    closed: Stop,
    ended: Stop,
}

struct Worker {
    link: Link,
    topic: String,
    work: String,
    handler: Arc<dyn Handler>,
    shared: Arc<Shared>,
}

impl Worker {
    async fn run(self, stop: Stop) {
        let mut released = VecDeque::new();
        let failed = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            () = async {
                self.shared.closed.cancelled().await;
                // A handler that runs is waited for.
                while self.shared.in_flight.load(Ordering::SeqCst) > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            } => None,
            failed = self.consume(&mut released) => failed.err(),
        };
        if failed.is_some() && self.link.flaw != Flaw::KeepsQuiet {
            self.shared.ended.cancel();
        }
    }

    async fn consume(&self, released: &mut VecDeque<Vec<u8>>) -> Result<(), ComponentError> {
        let (topic, work) = (self.topic.as_bytes(), self.work.as_bytes());
        let mut running = self.shared.running.subscribe();
        loop {
            running.wait_for(|running| *running).await.ok();
            let moved = [b"LMOVE", topic, work, b"RIGHT", b"LEFT"];
            let Reply::Text(data) = self.link.ask(&moved).await? else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            self.shared.in_flight.fetch_add(1, Ordering::SeqCst);
            let message = Message {
                topic: self.topic.clone(),
                data: Bytes::from(data.clone()),
                metadata: None,
                delivery: 1,
            };
            let outcome = self.handler.handle(message).await;
            let removed = match outcome {
                Outcome::Done | Outcome::GaveUp(_) => {
                    self.link.ask(&[b"LREM", work, b"1", &data]).await
                }
                Outcome::Retry(_) => {
                    let back = self.link.ask(&[b"LPUSH", topic, &data]).await;
                    back.and(self.link.ask(&[b"LREM", work, b"1", &data]).await)
                }
                // Stays in the list of work, for whoever comes next.
                Outcome::Released => {
                    released.push_back(data);
                    Ok(Reply::Nothing)
                }
            };
            self.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
            removed?;
        }
    }
}

struct Subscription {
    shared: Arc<Shared>,
}

#[async_trait]
impl Source for Subscription {
    async fn pause(&self) {
        self.shared.running.send_replace(false);
    }

    async fn resume(&self) {
        self.shared.running.send_replace(true);
    }

    async fn release(&self) {}

    async fn ended(&self) -> ComponentError {
        self.shared.ended.cancelled().await;
        ComponentError::transient("the connection ended")
    }

    async fn close(&self) {
        self.shared.running.send_replace(false);
        self.shared.closed.cancel();
    }

    fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}
