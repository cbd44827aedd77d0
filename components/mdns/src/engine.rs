//! Responder and browser, as decisions over packets and moments.
//!
//! The responder tells of our own app and answers for it. The browser asks for others the first time somebody wants them,
//! and keeps what it heard fresh from then on. Both see every packet.
//!
//! Owns: what is sent when, who waits for what. Never: touches a socket, reads a clock or waits.
//! Start at [`Engine::look_up`] and [`Engine::hear`]. Tests: below.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::advert::{Advert, service};
use crate::cache::{Addresses, BELIEVED};
use crate::interfaces::{Interfaces, needs_interface};
use crate::packet::{self, Audience, Heard, Service};
use crate::socket::{Origin, PORT};

/// How long a first look-up asks.
pub(crate) const FIRST_LOOK: Duration = Duration::from_secs(1);
/// A question is repeated within a first look-up, in case it got lost.
const ASK_AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(600)];
/// Apps that are known are asked for again in this rhythm.
const REFRESH: Duration = Duration::from_secs(30);
/// And once more after this.
const REFRESH_AGAIN: Duration = Duration::from_secs(1);
/// Two unsolicited announcements, the second after this.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);
/// Two probes, each followed by a pause of up to this.
pub(crate) const PROBE_PAUSE: Duration = Duration::from_millis(250);
/// How many apps are kept an eye on.
const MOST_APPS: usize = 4096;
/// How much may wait to be sent; what is older is given up.
const MOST_OUTGOING: usize = 1024;

/// Who gets the answer to a look-up.
type Waiter = oneshot::Sender<Vec<SocketAddr>>;

/// Something to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outgoing {
    /// To everybody in both families; through one interface, or all.
    Everybody {
        bytes: Vec<u8>,
        interface: Option<u32>,
    },
    /// To everybody, the way the question came.
    Back { bytes: Vec<u8>, origin: Origin },
    /// To the one who asked.
    Asker { bytes: Vec<u8>, origin: Origin },
}

/// What a look-up gave at once.
pub(crate) enum LookUp {
    Known(Vec<SocketAddr>),
    /// The network is being asked. The end of the channel without an answer means that nobody answered.
    Asked(oneshot::Receiver<Vec<SocketAddr>>),
}

pub(crate) struct Engine {
    advert: Option<Advert>,
    /// What we were known as before we left.
    withdrawn: Option<Advert>,
    /// What is left to say about ourselves, in order.
    introduction: VecDeque<(Instant, Step)>,
    apps: HashMap<String, App>,
    interfaces: Interfaces,
    outgoing: VecDeque<Outgoing>,
    /// Counts what somebody waits for to get out.
    farewells: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Probe,
    Announce,
}

/// An app that somebody wanted.
struct App {
    addresses: Addresses,
    waiters: Vec<Waiter>,
    /// When the waiters give up.
    deadline: Option<Instant>,
    /// When to ask, in order.
    questions: VecDeque<Instant>,
    wanted_at: Instant,
}

impl Engine {
    pub(crate) fn new(advert: Option<Advert>) -> Self {
        Self {
            advert,
            withdrawn: None,
            introduction: VecDeque::new(),
            apps: HashMap::new(),
            interfaces: Interfaces::default(),
            outgoing: VecDeque::new(),
            farewells: 0,
        }
    }

    /// Begins to introduce ourselves. The dice are pauses of up to [`PROBE_PAUSE`].
    pub(crate) fn start(&mut self, now: Instant, dice: [Duration; 2]) {
        let [first, second] = dice;
        let announced = now + first + second;
        self.introduction = VecDeque::from([
            (now, Step::Probe),
            (now + first, Step::Probe),
            (announced, Step::Announce),
            (announced + ANNOUNCE_AGAIN, Step::Announce),
        ]);
    }

    /// Takes note of the interfaces that are there, and introduces us where that has not been done.
    pub(crate) fn set_interfaces(&mut self, interfaces: Interfaces, new: &[u32]) {
        self.interfaces = interfaces;
        for index in new {
            if let Some(bytes) = self.advert.as_ref().map(packet::announcement) {
                self.send_all(bytes, Some(*index));
            }
        }
    }

    /// The addresses of an app, or a promise of them.
    pub(crate) fn look_up(&mut self, app_id: &str, now: Instant) -> LookUp {
        let own = self
            .advert
            .as_ref()
            .filter(|advert| advert.app_id == app_id)
            .map(|advert| advert.address);
        if !self.apps.contains_key(app_id) {
            self.make_room(now);
            self.apps.insert(app_id.to_owned(), App::new(now));
        }
        let Some(app) = self.apps.get_mut(app_id) else {
            return LookUp::Known(own.into_iter().collect());
        };
        app.wanted_at = now;
        app.addresses.expire(now);
        let known = app.addresses.next(own);
        if !known.is_empty() {
            return LookUp::Known(known);
        }
        let (sender, receiver) = oneshot::channel();
        app.waiters.push(sender);
        if app.deadline.is_none() {
            app.deadline = Some(now + FIRST_LOOK);
            app.questions = VecDeque::from([now]);
            app.questions.extend(ASK_AGAIN.map(|after| now + after));
        }
        LookUp::Asked(receiver)
    }

    /// A caller could not connect.
    pub(crate) fn forget(&mut self, app_id: &str, address: &str) {
        if let Some(app) = self.apps.get_mut(app_id) {
            app.addresses.remove_address(address);
        }
    }

    /// Takes us off the network. What we know of others stays. It is done when all that waits at the returned count is
    /// sent.
    pub(crate) fn leave(&mut self) -> u64 {
        self.introduction.clear();
        if let Some(advert) = self.advert.take() {
            self.send_all(packet::goodbye(&advert), None);
            self.withdrawn = Some(advert);
        }
        self.farewells += 1;
        self.farewells
    }

    /// Introduces us again after we have left.
    pub(crate) fn come_back(&mut self, now: Instant, dice: [Duration; 2]) {
        if let Some(advert) = self.withdrawn.take() {
            self.advert = Some(advert);
            self.start(now, dice);
        }
    }

    pub(crate) fn farewells(&self) -> u64 {
        self.farewells
    }

    /// Takes a packet in.
    pub(crate) fn hear(&mut self, bytes: &[u8], origin: Origin, now: Instant) {
        match packet::read(bytes) {
            None => {}
            Some(Heard::Questions { id, asked, known }) => {
                let Some(advert) = &self.advert else {
                    return;
                };
                // An answer to one receiver must not be of use against somebody far away.
                let ip = origin.source.ip();
                let is_neighbour = self.interfaces.is_near(ip) || self.interfaces.is_own(ip);
                let mut answers = Vec::new();
                for asked in asked {
                    if known.iter().any(|known| known.covers(advert, &asked)) {
                        continue;
                    }
                    let audience = if !is_neighbour {
                        Audience::Everybody
                    } else if origin.source.port() != PORT {
                        Audience::Legacy { id }
                    } else if asked.is_unicast {
                        Audience::Asker { id }
                    } else {
                        Audience::Everybody
                    };
                    let Some(Ok(bytes)) = packet::answer(advert, &asked, audience) else {
                        continue;
                    };
                    answers.push(match audience {
                        Audience::Everybody => Outgoing::Back { bytes, origin },
                        Audience::Asker { .. } | Audience::Legacy { .. } => {
                            Outgoing::Asker { bytes, origin }
                        }
                    });
                }
                answers.into_iter().for_each(|answer| self.send(answer));
            }
            // Answers from another port are forged, or meant for somebody else.
            Some(Heard::Services(services)) if origin.source.port() == PORT => {
                for service in services {
                    self.learn(&service, origin, now);
                }
            }
            Some(Heard::Services(_)) => {}
        }
    }

    fn learn(&mut self, service: &Service, origin: Origin, now: Instant) {
        let Some(app) = self.apps.get_mut(&service.app_id) else {
            return;
        };
        let best = service
            .port
            .filter(|port| *port != 0)
            .map(|port| best_of(&self.interfaces, &service.addresses, port, origin))
            .unwrap_or_default();
        if !service.is_alive {
            app.addresses.remove(&service.instance, &best);
            return;
        }
        if service.text.as_ref() != Some(&service.app_id) {
            return;
        }
        for address in &best {
            app.addresses.add(*address, &service.instance, now);
        }
        if best.is_empty() || (app.waiters.is_empty() && !app.questions.is_empty()) {
            return;
        }
        for waiter in std::mem::take(&mut app.waiters) {
            waiter.send(app.addresses.next(None)).ok();
        }
        app.deadline = None;
        // Others may have more to say; from here on the app is kept fresh.
        app.questions = VecDeque::from([now + REFRESH_AGAIN, now + REFRESH]);
    }

    /// When [`Engine::catch_up`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        let introduction = self.introduction.front().map(|(at, _)| *at);
        let apps = self.apps.values().filter_map(App::due);
        introduction.into_iter().chain(apps).min()
    }

    /// Does what is due.
    pub(crate) fn catch_up(&mut self, now: Instant) {
        while let Some((at, step)) = self.introduction.front().copied() {
            if at > now {
                break;
            }
            self.introduction.pop_front();
            let bytes = match (&self.advert, step) {
                (None, _) => continue,
                (Some(advert), Step::Probe) => packet::probe(advert),
                (Some(advert), Step::Announce) => packet::announcement(advert),
            };
            self.send_all(bytes, None);
        }
        let mut asking = Vec::new();
        for (app_id, app) in &mut self.apps {
            if app.is_asking(now) {
                asking.push(app_id.clone());
            }
        }
        for app_id in asking {
            self.send_all(packet::query(&service(&app_id)), None);
        }
        self.apps.retain(|_, app| !app.is_over(now));
    }

    /// Takes what is to be sent.
    pub(crate) fn take_outgoing(&mut self) -> Option<Outgoing> {
        self.outgoing.pop_front()
    }

    fn send_all<E>(&mut self, bytes: Result<Vec<u8>, E>, interface: Option<u32>) {
        // A name that is too long has been told of, or has no bearer.
        if let Ok(bytes) = bytes {
            self.send(Outgoing::Everybody { bytes, interface });
        }
    }

    fn send(&mut self, outgoing: Outgoing) {
        if self.outgoing.len() >= MOST_OUTGOING {
            self.outgoing.pop_front();
        }
        self.outgoing.push_back(outgoing);
    }

    /// Lets go of the app that nobody wanted for the longest time, if there are too many.
    fn make_room(&mut self, now: Instant) {
        if self.apps.len() < MOST_APPS {
            return;
        }
        self.apps.retain(|_, app| !app.is_over(now));
        let oldest = self
            .apps
            .iter()
            .filter(|(_, app)| app.waiters.is_empty())
            .min_by_key(|(_, app)| app.wanted_at)
            .map(|(app_id, _)| app_id.clone());
        if let Some(oldest) = oldest.filter(|_| self.apps.len() >= MOST_APPS) {
            self.apps.remove(&oldest);
        }
    }
}

impl App {
    fn new(now: Instant) -> Self {
        Self {
            addresses: Addresses::default(),
            waiters: Vec::new(),
            deadline: None,
            // For our own app, which is known before anybody is asked.
            questions: VecDeque::from([now, now + REFRESH_AGAIN, now + REFRESH]),
            wanted_at: now,
        }
    }

    fn due(&self) -> Option<Instant> {
        let question = self.questions.front().copied();
        question.into_iter().chain(self.deadline).min()
    }

    /// Whether to ask now; plans the next time.
    fn is_asking(&mut self, now: Instant) -> bool {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            // The end of their channels is their answer.
            self.waiters.clear();
        }
        self.addresses.expire(now);
        let mut is_asking = false;
        while self.questions.front().is_some_and(|at| *at <= now) {
            self.questions.pop_front();
            is_asking = true;
        }
        if is_asking && self.questions.is_empty() && self.deadline.is_none() {
            self.questions = VecDeque::from([now + REFRESH_AGAIN, now + REFRESH]);
        }
        is_asking
    }

    /// Whether nobody is there and nobody asks.
    fn is_over(&self, now: Instant) -> bool {
        self.addresses.is_empty() && self.waiters.is_empty() && now >= self.wanted_at + BELIEVED
    }
}

/// The best address of each family. A sidecar gives one, as a rule; of several, those on a network of ours are nearer.
fn best_of(
    interfaces: &Interfaces,
    addresses: &[IpAddr],
    port: u16,
    origin: Origin,
) -> Vec<SocketAddr> {
    let is_local = interfaces.is_own(origin.source.ip());
    let usable = |ip: &&IpAddr| {
        // A loopback address is its owner's, and no way to another machine.
        !ip.is_unspecified() && !ip.is_multicast() && (is_local || !ip.is_loopback())
    };
    [true, false]
        .into_iter()
        .filter_map(|is_v4| {
            let mut family = addresses
                .iter()
                .filter(|ip| ip.is_ipv4() == is_v4)
                .filter(usable);
            let near = family.clone().find(|ip| interfaces.is_near(**ip));
            near.or_else(|| family.next()).map(|ip| match ip {
                IpAddr::V6(v6) if needs_interface(v6) => {
                    SocketAddrV6::new(*v6, port, 0, origin.interface).into()
                }
                ip => SocketAddr::new(*ip, port),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Heard;

    const SECOND: Duration = Duration::from_secs(1);

    fn advert(app_id: &str, address: &str) -> Advert {
        Advert::new(app_id, "host", 1, address.parse().unwrap()).unwrap()
    }

    fn from(source: &str) -> Origin {
        Origin {
            source: source.parse().unwrap(),
            interface: 2,
        }
    }

    fn peer() -> Origin {
        from("192.0.2.9:5353")
    }

    fn us() -> Engine {
        Engine::new(Some(advert("us", "192.0.2.1:50002")))
    }

    fn sent(engine: &mut Engine) -> Vec<Outgoing> {
        std::iter::from_fn(|| engine.take_outgoing()).collect()
    }

    /// The names that the engine asks all others for.
    fn questions(engine: &mut Engine) -> Vec<String> {
        let read = |outgoing: Outgoing| match outgoing {
            Outgoing::Everybody { bytes, .. } => packet::read(&bytes),
            _ => None,
        };
        sent(engine)
            .into_iter()
            .filter_map(read)
            .flat_map(|heard| match heard {
                Heard::Questions { asked, .. } => asked,
                Heard::Services(_) => Vec::new(),
            })
            .map(|asked| asked.name)
            .collect()
    }

    fn known(look_up: LookUp) -> Vec<String> {
        match look_up {
            LookUp::Known(addresses) => addresses.iter().map(ToString::to_string).collect(),
            LookUp::Asked(_) => Vec::new(),
        }
    }

    fn promise(look_up: LookUp) -> oneshot::Receiver<Vec<SocketAddr>> {
        match look_up {
            LookUp::Known(addresses) => panic!("known already: {addresses:?}"),
            LookUp::Asked(receiver) => receiver,
        }
    }

    fn hear_announcement(engine: &mut Engine, advert: &Advert, origin: Origin, now: Instant) {
        engine.hear(&packet::announcement(advert).unwrap(), origin, now);
    }

    #[test]
    fn an_introduction_is_two_probes_and_two_announcements() {
        let (mut engine, now) = (us(), Instant::now());
        let ms = Duration::from_millis;
        engine.start(now, [ms(100), ms(50)]);
        let mut moments = Vec::new();
        while let Some(due) = engine.due() {
            engine.catch_up(due);
            for outgoing in sent(&mut engine) {
                let Outgoing::Everybody { bytes, interface } = outgoing else {
                    panic!("not to all");
                };
                assert_eq!(interface, None);
                let is_announced = packet::read(&bytes).is_some();
                moments.push((due.duration_since(now).as_millis(), is_announced));
            }
        }
        assert_eq!(
            moments,
            [(0, false), (100, false), (150, true), (1150, true)]
        );
    }

    #[test]
    fn many_first_look_ups_are_one_question() {
        let (mut engine, now) = (us(), Instant::now());
        let mut waiters: Vec<_> = (0..1000)
            .map(|_| promise(engine.look_up("app", now)))
            .collect();
        engine.catch_up(now);
        assert_eq!(questions(&mut engine), ["app.local"]);
        hear_announcement(&mut engine, &advert("app", "192.0.2.9:1"), peer(), now);
        for waiter in &mut waiters {
            assert_eq!(waiter.try_recv().unwrap().len(), 1);
        }
        assert_eq!(known(engine.look_up("app", now)), ["192.0.2.9:1"]);
    }

    #[test]
    fn a_question_is_repeated_and_given_up_after_a_second() {
        let (mut engine, now) = (us(), Instant::now());
        let mut waiter = promise(engine.look_up("app", now));
        let mut moments = Vec::new();
        while let Some(due) = engine.due() {
            engine.catch_up(due);
            let asked = questions(&mut engine).len();
            moments.push((due.duration_since(now).as_millis(), asked));
        }
        assert_eq!(moments, [(0, 1), (200, 1), (600, 1), (1000, 0)]);
        assert_eq!(waiter.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        // The next one asks again.
        promise(engine.look_up("app", now + 2 * SECOND));
        engine.catch_up(now + 2 * SECOND);
        assert_eq!(questions(&mut engine), ["app.local"]);
    }

    #[test]
    fn a_known_app_is_asked_for_again_and_forgotten_when_it_is_silent() {
        let (mut engine, now) = (us(), Instant::now());
        let _waiter = promise(engine.look_up("app", now));
        hear_announcement(&mut engine, &advert("app", "192.0.2.9:1"), peer(), now);
        let mut moments = Vec::new();
        while let Some(due) = engine.due() {
            engine.catch_up(due);
            if !questions(&mut engine).is_empty() {
                moments.push(due.duration_since(now).as_secs());
            }
        }
        // Nobody wanted it for a minute, and it did not answer.
        assert_eq!(moments, [1, 30, 31, 60]);
        assert!(engine.apps.is_empty());
    }

    #[test]
    fn an_app_that_answers_is_kept_without_being_wanted() {
        let (mut engine, now) = (us(), Instant::now());
        let _waiter = promise(engine.look_up("app", now));
        let app = advert("app", "192.0.2.9:1");
        hear_announcement(&mut engine, &app, peer(), now);
        let mut at = now;
        while at < now + 600 * SECOND {
            at = engine.due().unwrap();
            engine.catch_up(at);
            if !questions(&mut engine).is_empty() {
                hear_announcement(&mut engine, &app, peer(), at);
            }
        }
        assert_eq!(known(engine.look_up("app", at)), ["192.0.2.9:1"]);
    }

    #[test]
    fn instances_take_turns_and_new_ones_are_learned_in_passing() {
        let (mut engine, now) = (us(), Instant::now());
        let _waiter = promise(engine.look_up("app", now));
        for port in 1..=2 {
            let address = format!("192.0.2.9:{port}");
            hear_announcement(&mut engine, &advert("app", &address), peer(), now);
        }
        let mut firsts: Vec<_> = (0..2)
            .map(|_| known(engine.look_up("app", now)).remove(0))
            .collect();
        firsts.sort();
        assert_eq!(firsts, ["192.0.2.9:1", "192.0.2.9:2"]);
    }

    #[test]
    fn an_app_that_nobody_wants_is_not_remembered() {
        let (mut engine, now) = (us(), Instant::now());
        hear_announcement(&mut engine, &advert("app", "192.0.2.9:1"), peer(), now);
        assert!(engine.apps.is_empty());
    }

    #[test]
    fn goodbye_and_a_failed_connection_take_an_address_away() {
        let (mut engine, now) = (us(), Instant::now());
        let _waiter = promise(engine.look_up("app", now));
        let app = advert("app", "192.0.2.9:1");
        hear_announcement(&mut engine, &app, peer(), now);
        engine.hear(&packet::goodbye(&app).unwrap(), peer(), now);
        assert!(known(engine.look_up("app", now)).is_empty());
        hear_announcement(&mut engine, &app, peer(), now);
        engine.forget("app", "192.0.2.9:1");
        assert!(known(engine.look_up("app", now)).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_not_believed() {
        let (mut engine, now) = (us(), Instant::now());
        let _waiter = promise(engine.look_up("app", now));
        // The case differs, the text differs, the port is not that of multicast DNS.
        hear_announcement(&mut engine, &advert("App", "192.0.2.9:1"), peer(), now);
        let liar = Advert {
            app_id: "other".into(),
            ..advert("app", "192.0.2.9:1")
        };
        hear_announcement(&mut engine, &liar, peer(), now);
        let forged = from("192.0.2.9:40000");
        hear_announcement(&mut engine, &advert("app", "192.0.2.9:1"), forged, now);
        assert!(known(engine.look_up("app", now)).is_empty());
    }

    #[test]
    fn a_loopback_address_is_believed_of_this_machine_only() {
        let (mut engine, now) = (us(), Instant::now());
        let _waiter = promise(engine.look_up("app", now));
        let app = advert("app", "127.0.0.1:1");
        hear_announcement(&mut engine, &app, peer(), now);
        assert!(known(engine.look_up("app", now)).is_empty());
        hear_announcement(&mut engine, &app, from("127.0.0.1:5353"), now);
        assert_eq!(known(engine.look_up("app", now)), ["127.0.0.1:1"]);
    }

    #[test]
    fn a_link_local_address_gets_its_interface() {
        let (mut engine, now) = (us(), Instant::now());
        let _waiter = promise(engine.look_up("app", now));
        hear_announcement(&mut engine, &advert("app", "[fe80::1]:1"), peer(), now);
        assert_eq!(known(engine.look_up("app", now)), ["[fe80::1%2]:1"]);
    }

    #[test]
    fn questions_are_answered_the_way_they_came() {
        let (mut engine, now) = (us(), Instant::now());
        engine.set_interfaces(Interfaces::with("192.0.2.1", "255.255.255.0"), &[]);
        let question = packet::query("us.local").unwrap();
        engine.hear(&question, peer(), now);
        let answered = sent(&mut engine);
        assert!(
            matches!(answered.as_slice(), [Outgoing::Back { origin, .. }] if *origin == peer())
        );
        let mut unicast = question.clone();
        let class = unicast.len() - 2;
        unicast[class] |= 0x80;
        for (bytes, origin) in [(&unicast, peer()), (&question, from("192.0.2.9:40000"))] {
            engine.hear(bytes, origin, now);
            let answered = sent(&mut engine);
            assert!(
                matches!(answered.as_slice(), [Outgoing::Asker { origin: to, .. }] if *to == origin)
            );
        }
        engine.hear(&packet::query("them.local").unwrap(), peer(), now);
        assert_eq!(sent(&mut engine), []);
        // Nobody can have answers sent to where there is no neighbour.
        engine.hear(&unicast, from("203.0.113.1:40000"), now);
        assert!(matches!(
            sent(&mut engine).as_slice(),
            [Outgoing::Back { .. }]
        ));
    }

    #[test]
    fn our_own_app_is_known_without_a_network_and_asked_for_as_well() {
        let (mut engine, now) = (us(), Instant::now());
        assert_eq!(known(engine.look_up("us", now)), ["192.0.2.1:50002"]);
        engine.catch_up(now);
        assert_eq!(questions(&mut engine), ["us.local"]);
        hear_announcement(&mut engine, &advert("us", "192.0.2.2:1"), peer(), now);
        assert_eq!(known(engine.look_up("us", now)).len(), 2);
    }

    #[test]
    fn who_has_left_says_goodbye_once_and_answers_no_more() {
        let (mut engine, now) = (us(), Instant::now());
        engine.start(now, [Duration::ZERO; 2]);
        engine.leave();
        engine.leave();
        assert_eq!(sent(&mut engine).len(), 1);
        engine.catch_up(now + 10 * SECOND);
        engine.hear(&packet::query("us.local").unwrap(), peer(), now);
        engine.set_interfaces(Interfaces::default(), &[7]);
        assert_eq!(sent(&mut engine), []);
        promise(engine.look_up("us", now));
    }

    #[test]
    fn who_comes_back_introduces_itself_again() {
        let (mut engine, now) = (us(), Instant::now());
        engine.come_back(now, [Duration::ZERO; 2]);
        assert_eq!(engine.due(), None, "who has not left need not come back");
        engine.leave();
        sent(&mut engine);
        engine.come_back(now, [Duration::ZERO; 2]);
        engine.catch_up(now + SECOND);
        assert!(!sent(&mut engine).is_empty());
        assert_eq!(known(engine.look_up("us", now)), ["192.0.2.1:50002"]);
    }

    #[test]
    fn a_new_interface_is_told_of_us() {
        let mut engine = us();
        engine.set_interfaces(Interfaces::default(), &[7]);
        let told = sent(&mut engine);
        assert!(matches!(
            told.as_slice(),
            [Outgoing::Everybody {
                interface: Some(7),
                ..
            }]
        ));
    }

    #[test]
    fn the_number_of_apps_is_limited() {
        let (mut engine, now) = (us(), Instant::now());
        for i in 0..MOST_APPS + 10 {
            engine.look_up(&format!("app-{i}"), now);
            // Its waiter has gone.
            engine.catch_up(now + 2 * SECOND);
        }
        assert!(engine.apps.len() <= MOST_APPS);
    }

    #[test]
    fn an_app_id_that_cannot_be_sent_is_not_found() {
        let (mut engine, now) = (us(), Instant::now());
        let mut waiter = promise(engine.look_up(&"x".repeat(64), now));
        engine.catch_up(now);
        engine.catch_up(now + 2 * SECOND);
        assert!(waiter.try_recv().is_err());
        assert_eq!(sent(&mut engine), []);
    }
}
