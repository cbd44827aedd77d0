//! What goes wrong, when and for how long: a pure function of a seed.
//!
//! Owns: everything that can be hurt, how, and the order in which it is.
//! Never: does any of it; `world.rs` does.
//! Start at [`Plan::new`].

use std::fmt::{self, Display};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// What the sidecars depend on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Server {
    RabbitMq,
    /// Redis, for messages.
    Stream,
    /// Redis, for state.
    Store,
}

impl Server {
    pub(crate) const ALL: [Self; 3] = [Self::RabbitMq, Self::Stream, Self::Store];
}

/// A sidecar. The first caller and the first receiver live through it all, so that what grows can be seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Node {
    Caller1,
    Caller2,
    Receiver1,
    Receiver2,
}

impl Node {
    pub(crate) const ALL: [Self; 4] = [
        Self::Caller1,
        Self::Caller2,
        Self::Receiver1,
        Self::Receiver2,
    ];
    pub(crate) const CALLERS: [Self; 2] = [Self::Caller1, Self::Caller2];
    pub(crate) const RECEIVERS: [Self; 2] = [Self::Receiver1, Self::Receiver2];
    /// Those that are ended and started again.
    pub(crate) const MORTAL: [Self; 2] = [Self::Caller2, Self::Receiver2];
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Target {
    Server(Server),
    Sidecar(Node),
    /// The app of a receiver.
    App(Node),
    /// All sidecars that may end, with their apps, one after the other.
    Fleet,
    /// Between every sidecar and a server.
    ServerLinks(Server),
    /// All that a sidecar is connected with, but for clients.
    AllLinks(Node),
    /// The same without its app, which may take as long as it likes: nobody can tell that from a connection that is gone.
    OutsideLinks(Node),
    /// Between a sidecar and its app.
    AppLink(Node),
    /// From other sidecars.
    PeerLink(Node),
    /// From callers of the API.
    ApiLink(Node),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, SIGCONT.
    Pause,
    /// SIGTERM.
    Restart,
    /// Connections are reset, new ones refused.
    Cut,
    /// Connections are accepted, and silent until it is over.
    Hang,
    /// Open connections are reset.
    Reset,
    /// Everything takes longer.
    Slow,
    /// Open connections are silent for good, and nobody is told.
    Strand,
}

/// What must not be hurt twice at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Server(Server),
    Sidecar(Node),
    App(Node),
    ServerLink(Node, Server),
    AppLink(Node),
    PeerLink(Node),
    ApiLink(Node),
}

impl Target {
    pub(crate) fn parts(self) -> Vec<Part> {
        match self {
            Self::Server(server) => {
                let mut parts = Self::ServerLinks(server).parts();
                parts.push(Part::Server(server));
                parts
            }
            Self::Sidecar(node) => vec![Part::Sidecar(node)],
            Self::App(node) => vec![Part::App(node), Part::AppLink(node)],
            Self::Fleet => {
                let sidecars = Node::MORTAL.into_iter().map(Part::Sidecar);
                let app = Self::App(Node::Receiver2).parts();
                sidecars.chain(app).collect()
            }
            Self::ServerLinks(server) => {
                let link = |node| Part::ServerLink(node, server);
                Node::ALL.into_iter().map(link).collect()
            }
            Self::AllLinks(node) => {
                let mut parts = Self::OutsideLinks(node).parts();
                if Node::RECEIVERS.contains(&node) {
                    parts.push(Part::AppLink(node));
                }
                parts
            }
            Self::OutsideLinks(node) => {
                let link = |server| Part::ServerLink(node, server);
                let mut parts: Vec<_> = Server::ALL.into_iter().map(link).collect();
                if Node::RECEIVERS.contains(&node) {
                    parts.push(Part::PeerLink(node));
                }
                parts
            }
            Self::AppLink(node) => vec![Part::AppLink(node)],
            Self::PeerLink(node) => vec![Part::PeerLink(node)],
            Self::ApiLink(node) => vec![Part::ApiLink(node)],
        }
    }

    fn is_apart_from(self, other: Self) -> bool {
        let theirs = other.parts();
        self.parts().iter().all(|part| !theirs.contains(part))
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Server(server) => format!("{server:?}"),
            Self::Sidecar(node) => format!("sidecar {node:?}"),
            Self::App(node) => format!("app of {node:?}"),
            Self::Fleet => "fleet".to_owned(),
            Self::ServerLinks(server) => format!("links to {server:?}"),
            Self::AllLinks(node) => format!("links of {node:?}"),
            Self::OutsideLinks(node) => format!("links of {node:?} but to its app"),
            Self::AppLink(node) => format!("link of {node:?} to its app"),
            Self::PeerLink(node) => format!("link of peers to {node:?}"),
            Self::ApiLink(node) => format!("link of clients to {node:?}"),
        };
        f.write_str(&text)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) target: Target,
    pub(crate) kind: Kind,
    /// Until it is healed.
    pub(crate) hold: Duration,
    /// Of each piece of data, while it is slow.
    pub(crate) latency: Duration,
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.target)?;
        if !self.hold.is_zero() {
            write!(f, " for {:.1?}", self.hold)?;
        }
        if !self.latency.is_zero() {
            write!(f, ", {:?} each", self.latency)?;
        }
        Ok(())
    }
}

/// Some rest, and then faults that happen at the same time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Round {
    pub(crate) rest: Duration,
    pub(crate) faults: Vec<Fault>,
}

/// Rounds without end. Every fault comes once before one comes again.
#[derive(Debug)]
pub(crate) struct Plan {
    random: StdRng,
    deck: Vec<(Target, Kind)>,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            deck: Vec::new(),
        }
    }

    fn draw(&mut self) -> Option<(Target, Kind)> {
        if self.deck.is_empty() {
            self.deck = deck();
            self.deck.shuffle(&mut self.random);
        }
        self.deck.pop()
    }

    fn fault(&mut self, (target, kind): (Target, Kind)) -> Fault {
        let tenths = match kind {
            Kind::Kill => 2..50,
            Kind::Pause | Kind::Hang => 10..80,
            Kind::Cut => 5..80,
            Kind::Slow => 30..80,
            Kind::Restart | Kind::Reset | Kind::Strand => 0..1,
        };
        let latency = if kind == Kind::Slow { 5..60 } else { 0..1 };
        Fault {
            target,
            kind,
            hold: Duration::from_millis(100 * self.random.random_range(tenths)),
            latency: Duration::from_millis(10 * self.random.random_range(latency)),
        }
    }
}

impl Iterator for Plan {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let rest = Duration::from_millis(self.random.random_range(1_500..5_000));
        let first = self.draw()?;
        let mut faults = vec![self.fault(first)];
        if self.random.random_ratio(1, 3) {
            let apart = |(target, _): &(Target, Kind)| target.is_apart_from(first.0);
            if let Some(place) = self.deck.iter().rposition(apart) {
                let second = self.deck.remove(place);
                faults.push(self.fault(second));
            }
        }
        Some(Round { rest, faults })
    }
}

/// Everything that can happen.
fn deck() -> Vec<(Target, Kind)> {
    let mut deck = Vec::new();
    let mut add = |target, kinds: &[Kind]| deck.extend(kinds.iter().map(|kind| (target, *kind)));
    for server in Server::ALL {
        add(
            Target::Server(server),
            &[Kind::Kill, Kind::Pause, Kind::Restart],
        );
        add(
            Target::ServerLinks(server),
            &[Kind::Cut, Kind::Hang, Kind::Reset, Kind::Slow, Kind::Strand],
        );
    }
    for node in Node::ALL {
        add(Target::Sidecar(node), &[Kind::Pause]);
        add(Target::AllLinks(node), &[Kind::Cut, Kind::Hang]);
        add(Target::OutsideLinks(node), &[Kind::Strand]);
    }
    for node in Node::MORTAL {
        add(Target::Sidecar(node), &[Kind::Kill, Kind::Restart]);
    }
    for node in Node::RECEIVERS {
        add(Target::App(node), &[Kind::Kill, Kind::Pause, Kind::Restart]);
        add(
            Target::AppLink(node),
            &[Kind::Cut, Kind::Hang, Kind::Reset, Kind::Slow],
        );
        add(
            Target::PeerLink(node),
            &[Kind::Cut, Kind::Hang, Kind::Reset, Kind::Slow, Kind::Strand],
        );
    }
    add(
        Target::ApiLink(Node::Caller2),
        &[Kind::Cut, Kind::Reset, Kind::Slow],
    );
    add(Target::Fleet, &[Kind::Restart, Kind::Restart]);
    deck
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_seed_gives_the_same_plan_every_time_and_another_seed_another() {
        let plan = |seed| Plan::new(seed).take(200).collect::<Vec<_>>();
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn every_fault_comes_before_one_comes_again() {
        let all = deck();
        for seed in 0..50 {
            let faults = Plan::new(seed).flat_map(|round| round.faults);
            let mut counts = BTreeMap::<_, usize>::new();
            for fault in faults.take(all.len()) {
                *counts.entry((fault.target, fault.kind)).or_default() += 1;
            }
            for (target, kind) in &all {
                let wanted = all.iter().filter(|one| **one == (*target, *kind)).count();
                assert_eq!(counts[&(*target, *kind)], wanted, "{kind:?} {target}");
            }
        }
    }

    #[test]
    fn nothing_is_hurt_twice_at_a_time_and_everything_is_healed_before_long() {
        let mut pairs = 0;
        for round in (0..50).flat_map(|seed| Plan::new(seed).take(100)) {
            if let [first, second] = &*round.faults {
                assert!(first.target.is_apart_from(second.target), "{round:?}");
                pairs += 1;
            } else {
                assert_eq!(round.faults.len(), 1);
            }
            assert!(
                round
                    .faults
                    .iter()
                    .all(|fault| fault.hold < Duration::from_secs(8))
            );
            assert!(round.rest >= Duration::from_secs(1));
        }
        assert!((1_000..2_500).contains(&pairs), "{pairs}");
    }

    #[test]
    fn the_first_caller_and_the_first_receiver_are_never_ended() {
        for (target, kind) in deck() {
            let ends = matches!(kind, Kind::Kill | Kind::Restart);
            for node in [Node::Caller1, Node::Receiver1] {
                assert!(!(ends && target.parts().contains(&Part::Sidecar(node))));
            }
        }
    }
}
