//! Packets, in and out.
//!
//! Owns: which records a packet carries, and what is read from one. Names are compared byte by byte, unlike in DNS, since
//! Dapr does so. Never: sends, or remembers anything.
//! Tests: below, byte by byte against packets of daprd 1.18.

use std::net::IpAddr;

use simple_dns::rdata::{A, AAAA, PTR, RData, SRV, TXT};
use simple_dns::{
    CLASS, CharacterString, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord,
    SimpleDnsError, TYPE,
};

use crate::advert::{Advert, ENUMERATION};

type Built = Result<Vec<u8>, SimpleDnsError>;

/// Lifetimes in seconds, as they are sent.
const TTL: u32 = 3200;
const TTL_ADDRESS: u32 = 120;
/// Somebody who does not speak multicast DNS must not keep an answer for longer.
const TTL_LEGACY: u32 = 10;
/// A bigger packet is not ours.
pub(crate) const MOST_BYTES: usize = 9000;

/// Asks for the instances of a service, to be answered to all.
pub(crate) fn query(service: &str) -> Built {
    let mut packet = Packet::new_query(0);
    packet
        .questions
        .push(question(service, QTYPE::TYPE(TYPE::PTR))?);
    packet.build_bytes_vec_compressed()
}

/// Says which instance name is going to be used.
pub(crate) fn probe(advert: &Advert) -> Built {
    let records = Records::of(advert, TTL);
    let mut packet = Packet::new_query(0);
    packet
        .questions
        .push(question(&advert.instance, QTYPE::ANY)?);
    packet.name_servers = vec![records.srv()?, records.txt()?];
    packet.build_bytes_vec_compressed()
}

/// Tells everything unasked.
pub(crate) fn announcement(advert: &Advert) -> Built {
    complete(advert, TTL, TTL_ADDRESS).build_answer()
}

/// Takes everything back.
pub(crate) fn goodbye(advert: &Advert) -> Built {
    complete(advert, 0, 0).build_answer()
}

fn complete(advert: &Advert, ttl: u32, ttl_address: u32) -> Records<'_> {
    Records {
        ttl,
        ttl_address,
        flush: true,
        flush_address: true,
        advert,
    }
}

/// To whom an answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Audience {
    Everybody,
    /// The one who asked.
    Asker {
        id: u16,
    },
    /// The one who asked, an ordinary DNS client.
    Legacy {
        id: u16,
    },
}

/// Answers one question, if it is ours to answer.
pub(crate) fn answer(advert: &Advert, asked: &Asked, audience: Audience) -> Option<Built> {
    let is_legacy = matches!(audience, Audience::Legacy { .. });
    let records = Records {
        ttl: if is_legacy { TTL_LEGACY } else { TTL },
        ttl_address: if is_legacy { TTL_LEGACY } else { TTL_ADDRESS },
        flush: !is_legacy,
        flush_address: false,
        advert,
    };
    let wants = |kinds: &[TYPE]| match asked.kind {
        QTYPE::ANY => true,
        QTYPE::TYPE(kind) => kinds.contains(&kind),
        _ => false,
    };
    let built = if asked.name == advert.service && wants(&[TYPE::PTR]) {
        records.browsed()
    } else if asked.name == ENUMERATION && wants(&[TYPE::PTR]) {
        records.listed()
    } else if asked.name == advert.instance && wants(&[TYPE::SRV, TYPE::TXT]) {
        records.looked_up()
    } else {
        return None;
    };
    Some(built.and_then(|mut packet| {
        match audience {
            Audience::Everybody => {}
            Audience::Asker { id } => packet.set_id(id),
            Audience::Legacy { id } => {
                packet.set_id(id);
                packet.questions.push(question(&asked.name, asked.kind)?);
            }
        }
        packet.build_bytes_vec_compressed()
    }))
}

fn question(name: &str, kind: QTYPE) -> Result<Question<'_>, SimpleDnsError> {
    Ok(Question::new(
        Name::new(name)?,
        kind,
        QCLASS::CLASS(CLASS::IN),
        false,
    ))
}

type Record<'a> = Result<ResourceRecord<'a>, SimpleDnsError>;

struct Records<'a> {
    ttl: u32,
    ttl_address: u32,
    /// Whether the service's records replace what others remember.
    flush: bool,
    flush_address: bool,
    advert: &'a Advert,
}

impl<'a> Records<'a> {
    /// As in questions: nothing replaces anything.
    fn of(advert: &'a Advert, ttl: u32) -> Self {
        Self {
            ttl,
            ttl_address: TTL_ADDRESS,
            flush: false,
            flush_address: false,
            advert,
        }
    }

    /// All that a peer needs, in one packet: Dapr does not look at a second one.
    fn browsed(&self) -> Result<Packet<'a>, SimpleDnsError> {
        let plain = Self {
            flush: false,
            ..*self
        };
        let mut packet = authoritative();
        packet.answers.push(plain.ptr()?);
        packet.additional_records = vec![plain.srv()?, plain.txt()?, plain.address()?];
        Ok(packet)
    }

    fn listed(&self) -> Result<Packet<'a>, SimpleDnsError> {
        let mut packet = authoritative();
        packet.answers.push(self.enumeration()?);
        Ok(packet)
    }

    fn looked_up(&self) -> Result<Packet<'a>, SimpleDnsError> {
        let mut packet = authoritative();
        packet.answers = vec![
            self.srv()?,
            self.txt()?,
            self.ptr()?,
            self.enumeration()?,
            self.address()?,
        ];
        Ok(packet)
    }

    fn build_answer(&self) -> Built {
        self.looked_up()?.build_bytes_vec_compressed()
    }

    fn ptr(&self) -> Record<'a> {
        let target = PTR(Name::new(&self.advert.instance)?);
        record(&self.advert.service, self.ttl, RData::PTR(target))
    }

    fn enumeration(&self) -> Record<'a> {
        let target = PTR(Name::new(&self.advert.service)?);
        record(ENUMERATION, self.ttl, RData::PTR(target))
    }

    fn srv(&self) -> Record<'a> {
        let srv = SRV {
            priority: 0,
            weight: 0,
            port: self.advert.address.port(),
            target: Name::new(&self.advert.host)?,
        };
        let srv = record(&self.advert.instance, self.ttl, RData::SRV(srv))?;
        Ok(srv.with_cache_flush(self.flush))
    }

    fn txt(&self) -> Record<'a> {
        let text = CharacterString::new(self.advert.app_id.as_bytes())?;
        let txt = RData::TXT(TXT::new().with_char_string(text));
        let txt = record(&self.advert.instance, self.ttl, txt)?;
        Ok(txt.with_cache_flush(self.flush))
    }

    fn address(&self) -> Record<'a> {
        let address = match self.advert.address.ip() {
            IpAddr::V4(ip) => RData::A(A::from(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA::from(ip)),
        };
        let address = record(&self.advert.host, self.ttl_address, address)?;
        Ok(address.with_cache_flush(self.flush_address))
    }
}

fn authoritative<'a>() -> Packet<'a> {
    let mut packet = Packet::new_reply(0);
    packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    packet
}

fn record<'a>(name: &'a str, ttl: u32, data: RData<'a>) -> Record<'a> {
    Ok(ResourceRecord::new(Name::new(name)?, CLASS::IN, ttl, data))
}

/// What a packet says, as far as it concerns us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    Questions {
        id: u16,
        asked: Vec<Asked>,
        known: Vec<Known>,
    },
    Services(Vec<Service>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) kind: QTYPE,
    /// The answer is wanted by the asker alone.
    pub(crate) is_unicast: bool,
}

/// An answer that the asker has already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) ttl: u32,
}

impl Known {
    /// Whether repeating what we would say about `asked` tells the asker nothing new.
    pub(crate) fn covers(&self, advert: &Advert, asked: &Asked) -> bool {
        let ours = if asked.name == advert.service {
            &advert.instance
        } else if asked.name == ENUMERATION {
            &advert.service
        } else {
            return false;
        };
        self.name == asked.name && self.target == *ours && self.ttl >= TTL / 2
    }
}

/// An instance of a service, with all that the packet says about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Service {
    pub(crate) app_id: String,
    pub(crate) instance: String,
    /// It is there, or it says goodbye.
    pub(crate) is_alive: bool,
    /// The first text; an instance whose text is not the app id is not Dapr's.
    pub(crate) text: Option<String>,
    pub(crate) port: Option<u16>,
    /// Addresses under the name that the instance gives for its host.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Reads a packet; `None` for what is no packet, or nothing for us.
pub(crate) fn read(bytes: &[u8]) -> Option<Heard> {
    if !is_plausible(bytes) {
        return None;
    }
    let packet = Packet::parse(bytes).ok()?;
    if packet.has_flags(PacketFlag::RESPONSE) {
        let services = read_services(&packet);
        return (!services.is_empty()).then_some(Heard::Services(services));
    }
    // A query with records of authority is a probe.
    if !packet.name_servers.is_empty() {
        return None;
    }
    let asked = packet.questions.iter().filter_map(|question| {
        Some(Asked {
            name: text_of(&question.qname)?,
            kind: question.qtype,
            is_unicast: question.unicast_response,
        })
    });
    let known = packet.answers.iter().filter_map(|record| {
        let RData::PTR(target) = &record.rdata else {
            return None;
        };
        Some(Known {
            name: text_of(&record.name)?,
            target: text_of(&target.0)?,
            ttl: record.ttl,
        })
    });
    Some(Heard::Questions {
        id: packet.id(),
        asked: asked.collect(),
        known: known.collect(),
    })
}

/// Whether the counts in the header fit the size, so that a small packet cannot make us reserve much memory.
fn is_plausible(bytes: &[u8]) -> bool {
    let counts = bytes.get(4..12).map(|counts| {
        counts
            .chunks(2)
            .map(|pair| {
                pair.iter()
                    .fold(0, |sum, byte| sum * 256 + usize::from(*byte))
            })
            .sum::<usize>()
    });
    // The smallest entry is a question for the root.
    bytes.len() <= MOST_BYTES && counts.is_some_and(|entries| entries * 5 <= bytes.len())
}

fn read_services(packet: &Packet<'_>) -> Vec<Service> {
    let records: Vec<_> = packet
        .answers
        .iter()
        .chain(&packet.name_servers)
        .chain(&packet.additional_records)
        .filter(|record| record.class == CLASS::IN)
        .filter_map(|record| Some((text_of(&record.name)?, record)))
        .collect();
    let mut services: Vec<Service> = Vec::new();
    for (name, record) in &records {
        let RData::PTR(target) = &record.rdata else {
            continue;
        };
        let (Some(app_id), Some(instance)) = (name.strip_suffix(".local"), text_of(&target.0))
        else {
            continue;
        };
        if name == ENUMERATION || services.iter().any(|service| service.instance == instance) {
            continue;
        }
        services.push(describe(app_id, instance, record.ttl > 0, &records));
    }
    services
}

fn describe(
    app_id: &str,
    instance: String,
    is_alive: bool,
    records: &[(String, &ResourceRecord<'_>)],
) -> Service {
    let mut service = Service {
        app_id: app_id.to_owned(),
        instance,
        is_alive,
        text: None,
        port: None,
        addresses: Vec::new(),
    };
    let mut host = None;
    for (name, record) in records {
        if *name != service.instance {
            continue;
        }
        match &record.rdata {
            RData::SRV(srv) => {
                service.port = Some(srv.port);
                service.is_alive &= record.ttl > 0;
                host = text_of(&srv.target);
            }
            RData::TXT(txt) => service.text = first_text(txt),
            _ => {}
        }
    }
    for (name, record) in records {
        if Some(name) != host.as_ref() {
            continue;
        }
        match &record.rdata {
            RData::A(a) => service.addresses.push(IpAddr::V4(a.address.into())),
            RData::AAAA(a) => service.addresses.push(IpAddr::V6(a.address.into())),
            _ => {}
        }
    }
    service
}

fn first_text(txt: &TXT<'_>) -> Option<String> {
    let (key, value) = txt.iter_raw().next()?;
    let mut text = key.to_vec();
    if let Some(value) = value {
        text.push(b'=');
        text.extend_from_slice(value);
    }
    String::from_utf8(text).ok()
}

/// A name with dots between its labels. Dots inside a label look the same, which does no harm to comparing.
fn text_of(name: &Name<'_>) -> Option<String> {
    let labels: Vec<&[u8]> = name.as_bytes().collect();
    String::from_utf8(labels.join(&b'.')).ok()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use proptest::prelude::*;

    // What daprd 1.18 sends for app `App-1` on host `host-a`, process 26711, at 198.51.100.1:33502.
    const DAPRD_ANSWER: &str = "000084000000000100000003054170702d31056c6f63616c00000c000100000c80000f0c686f73742d613a3236373131c00cc0230021000100000c8000140000000082de06686f73742d61056c6f63616c00c0230010000100000c800006054170702d31c04400010001000000780004c6336401";
    const DAPRD_ANNOUNCEMENT: &str = "0000800000000005000000000c686f73742d613a3236373131054170702d31056c6f63616c000021800100000c8000140000000082de06686f73742d61056c6f63616c00c00c0010800100000c800006054170702d31c019000c000100000c800002c00c095f7365727669636573075f646e732d7364045f756470c01f000c000100000c800002c019c03600018001000000780004c6336401";
    const DAPRD_GOODBYE: &str = "0000800000000005000000000c686f73742d613a3236373131054170702d31056c6f63616c00002180010000000000140000000082de06686f73742d61056c6f63616c000c686f73742d613a3236373131054170702d31056c6f63616c0000108001000000000006054170702d31054170702d31056c6f63616c00000c000100000000001a0c686f73742d613a3236373131054170702d31056c6f63616c00095f7365727669636573075f646e732d7364045f756470056c6f63616c00000c000100000000000d054170702d31056c6f63616c0006686f73742d61056c6f63616c0000018001000000000004c6336401";
    const DAPRD_PROBE: &str = "5a69000000010000000200000c686f73742d613a3236373131054170702d31056c6f63616c00000c00010c686f73742d613a3236373131054170702d31056c6f63616c000021000100000c8000140000000082de06686f73742d61056c6f63616c000c686f73742d613a3236373131054170702d31056c6f63616c000010000100000c800006054170702d31";
    const DAPRD_QUERY: &str = "d4c100000001000000000000064f7572732d32056c6f63616c00000c0001";

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2).unwrap(), 16).unwrap())
            .collect()
    }

    fn same_as_daprd() -> Advert {
        let address = "198.51.100.1:33502".parse().unwrap();
        Advert::new("App-1", "host-a", 26711, address).unwrap()
    }

    fn asked(name: &str, kind: QTYPE) -> Asked {
        Asked {
            name: name.to_owned(),
            kind,
            is_unicast: false,
        }
    }

    const PTR_QUESTION: QTYPE = QTYPE::TYPE(TYPE::PTR);

    /// Records without regard to how names are compressed.
    fn records(bytes: &[u8]) -> [Vec<String>; 3] {
        let packet = Packet::parse(bytes).unwrap();
        let show = |record: &ResourceRecord<'_>| {
            format!(
                "{} {} {} {:?}",
                text_of(&record.name).unwrap(),
                record.ttl,
                record.cache_flush,
                record.rdata
            )
        };
        [
            packet.answers.iter().map(show).collect(),
            packet.name_servers.iter().map(show).collect(),
            packet.additional_records.iter().map(show).collect(),
        ]
    }

    #[test]
    fn our_records_are_daprs() {
        let advert = same_as_daprd();
        let browsed = answer(
            &advert,
            &asked("App-1.local", PTR_QUESTION),
            Audience::Everybody,
        );
        for (ours, daprs) in [
            (browsed.unwrap(), DAPRD_ANSWER),
            (announcement(&advert), DAPRD_ANNOUNCEMENT),
            (goodbye(&advert), DAPRD_GOODBYE),
            (probe(&advert), DAPRD_PROBE),
        ] {
            assert_eq!(records(&ours.unwrap()), records(&hex(daprs)));
        }
    }

    #[test]
    fn an_answer_has_its_layout() {
        let advert = same_as_daprd();
        let question = asked("App-1.local", PTR_QUESTION);
        let bytes = answer(&advert, &question, Audience::Everybody)
            .unwrap()
            .unwrap();
        let expected = [
            // Header: an authoritative answer of one record, no question, three more records.
            "0000 8400 0000 0001 0000 0003",
            // PTR App-1.local, class IN without flush, 3200 s, to host-a:26711.App-1.local.
            "05 4170702d31 05 6c6f63616c 00 000c 0001 00000c80 000f 0c 686f73742d613a3236373131 c00c",
            // SRV, priority and weight 0, port 33502, to host-a.local.
            "c023 0021 0001 00000c80 0014 0000 0000 82de 06 686f73742d61 05 6c6f63616c 00",
            // TXT with one string.
            "c023 0010 0001 00000c80 0006 05 4170702d31",
            // A, 120 s.
            "06 686f73742d61 c012 0001 0001 00000078 0004 c6336401",
        ];
        let expected = expected.concat().replace(' ', "");
        let shown: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_query_is_one_question_to_all() {
        let shown: String = query("Ours-2.local")
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        // Like daprd's but for the number, which stays zero in multicast DNS.
        assert_eq!(shown.get(4..), DAPRD_QUERY.get(4..));
        assert_eq!(shown.get(..4), Some("0000"));
    }

    #[test]
    fn packets_of_daprd_are_understood() {
        let service = |is_alive| {
            Heard::Services(vec![Service {
                app_id: "App-1".into(),
                instance: "host-a:26711.App-1.local".into(),
                is_alive,
                text: Some("App-1".into()),
                port: Some(33502),
                addresses: vec!["198.51.100.1".parse().unwrap()],
            }])
        };
        assert_eq!(read(&hex(DAPRD_ANSWER)), Some(service(true)));
        assert_eq!(read(&hex(DAPRD_ANNOUNCEMENT)), Some(service(true)));
        assert_eq!(read(&hex(DAPRD_GOODBYE)), Some(service(false)));
        assert_eq!(read(&hex(DAPRD_PROBE)), None);
        assert_eq!(
            read(&hex(DAPRD_QUERY)),
            Some(Heard::Questions {
                id: 0xd4c1,
                asked: vec![asked("Ours-2.local", PTR_QUESTION)],
                known: Vec::new(),
            })
        );
    }

    #[test]
    fn only_our_own_names_are_answered_case_by_case() {
        let advert = same_as_daprd();
        let is_answered = |name: &str, kind: QTYPE| {
            answer(&advert, &asked(name, kind), Audience::Everybody).is_some()
        };
        assert!(is_answered("App-1.local", PTR_QUESTION));
        assert!(is_answered("App-1.local", QTYPE::ANY));
        assert!(is_answered(ENUMERATION, PTR_QUESTION));
        assert!(is_answered(
            "host-a:26711.App-1.local",
            QTYPE::TYPE(TYPE::SRV)
        ));
        assert!(!is_answered("app-1.local", PTR_QUESTION));
        assert!(!is_answered("App-1.local", QTYPE::TYPE(TYPE::A)));
        assert!(!is_answered("App-2.local", PTR_QUESTION));
        assert!(!is_answered("host-a.local", QTYPE::TYPE(TYPE::A)));
    }

    #[test]
    fn an_ordinary_client_gets_its_question_back_and_short_lifetimes() {
        let advert = same_as_daprd();
        let question = asked("App-1.local", PTR_QUESTION);
        let bytes = answer(&advert, &question, Audience::Legacy { id: 7 });
        let bytes = bytes.unwrap().unwrap();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.id(), packet.questions.len()), (7, 1));
        let all = packet.answers.iter().chain(&packet.additional_records);
        assert!(all.clone().count() == 4);
        for record in all {
            assert!(record.ttl <= 10 && !record.cache_flush);
        }
        let bytes = answer(&advert, &question, Audience::Asker { id: 9 });
        let bytes = bytes.unwrap().unwrap();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.id(), packet.questions.len()), (9, 0));
    }

    #[test]
    fn known_answers_count_down_to_half_their_life() {
        let advert = same_as_daprd();
        let question = asked("App-1.local", PTR_QUESTION);
        let known = |target: &str, ttl| Known {
            name: "App-1.local".into(),
            target: target.into(),
            ttl,
        };
        assert!(known(&advert.instance, 1600).covers(&advert, &question));
        assert!(!known(&advert.instance, 1599).covers(&advert, &question));
        assert!(!known("host-b:1.App-1.local", 3200).covers(&advert, &question));
    }

    #[test]
    fn ipv6_addresses_are_told_as_such() {
        let address = "[fd00::1]:50002".parse().unwrap();
        let advert = Advert::new("a", "h", 1, address).unwrap();
        let Some(Heard::Services(services)) = read(&announcement(&advert).unwrap()) else {
            panic!("not understood");
        };
        assert_eq!(
            services[0].addresses,
            ["fd00::1".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn an_address_under_another_name_does_not_count() {
        let bytes = hex(DAPRD_ANSWER);
        let mut packet = Packet::parse(&bytes).unwrap();
        for record in &mut packet.additional_records {
            if matches!(record.rdata, RData::A(_)) {
                record.name = Name::new("host-b.local").unwrap();
            }
        }
        let Some(Heard::Services(services)) = read(&packet.build_bytes_vec().unwrap()) else {
            panic!("not understood");
        };
        assert_eq!(services[0].addresses, Vec::<IpAddr>::new());
    }

    #[test]
    fn a_small_packet_cannot_claim_many_records() {
        let mut bytes = hex(DAPRD_QUERY);
        bytes[6] = 0xff;
        assert_eq!(read(&bytes), None);
        assert_eq!(read(&[]), None);
        assert_eq!(read(&vec![0; MOST_BYTES + 1]), None);
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            read(&bytes);
        }

        #[test]
        fn no_damage_to_a_packet_panics(at in 0..114_usize, byte: u8) {
            for packet in [DAPRD_ANSWER, DAPRD_ANNOUNCEMENT, DAPRD_PROBE] {
                let mut bytes = hex(packet);
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
                read(&bytes);
            }
        }

        #[test]
        fn what_is_announced_is_understood(app_id in "[A-Za-z0-9-]{1,63}", host in "[a-z0-9.-]{0,80}", port in 1..u16::MAX) {
            let address = SocketAddr::from(([192, 0, 2, 1], port));
            if let Ok(advert) = Advert::new(&app_id, &host, 1, address) {
                let heard = read(&announcement(&advert).unwrap());
                let Some(Heard::Services(services)) = heard else {
                    return Err(TestCaseError::fail("not understood"));
                };
                prop_assert_eq!(&services[0].app_id, &app_id);
                prop_assert_eq!(services[0].port, Some(port));
            }
        }
    }
}
