//! What was asked, what was answered and what arrived: the books.
//!
//! Owns: the fate of each message by its number, the values of each key, and the counts of both.
//! Never: sends or waits. Start at [`Messages`] and [`Key`].

use std::fmt::{self, Display};

use crate::plan::Server;

/// Where a message goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Topic {
    /// Durable queues of RabbitMQ.
    Rabbit,
    /// A Redis stream.
    Stream,
}

impl Topic {
    pub(crate) const ALL: [Self; 2] = [Self::Rabbit, Self::Stream];

    /// The name of the topic; the component is `<name>-bus`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rabbit => "rabbit",
            Self::Stream => "stream",
        }
    }

    /// Who keeps its messages.
    pub(crate) fn server(self) -> Server {
        match self {
            Self::Rabbit => Server::RabbitMq,
            Self::Stream => Server::Stream,
        }
    }
}

/// What whoever asked was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Accepted,
    Refused,
    /// No answer, so anything may have happened.
    Nothing,
}

#[derive(Clone, Copy, Default, Debug)]
struct Message {
    told: Option<Told>,
    deliveries: u32,
}

/// The messages of one topic, by number.
#[derive(Default, Debug)]
pub(crate) struct Messages {
    all: Vec<Message>,
    dead: Vec<usize>,
    /// Deliveries of what nobody published.
    strange: usize,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Counts {
    pub(crate) published: usize,
    pub(crate) accepted: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
    /// Different messages that arrived.
    pub(crate) delivered: usize,
    /// Deliveries beyond the first of each.
    pub(crate) duplicated: usize,
    /// Arrived although they were refused, or although nothing was answered.
    pub(crate) refused_and_delivered: usize,
    pub(crate) unknown_and_delivered: usize,
    pub(crate) lost: Vec<usize>,
    pub(crate) dead: Vec<usize>,
    pub(crate) strange: usize,
}

impl Messages {
    /// The number of the next message.
    pub(crate) fn begin(&mut self) -> usize {
        self.all.push(Message::default());
        self.all.len() - 1
    }

    pub(crate) fn told(&mut self, number: usize, told: Told) {
        if let Some(message) = self.all.get_mut(number) {
            message.told = Some(told);
        }
    }

    pub(crate) fn delivered(&mut self, number: usize) {
        match self.all.get_mut(number) {
            Some(message) => message.deliveries += 1,
            None => self.strange += 1,
        }
    }

    pub(crate) fn dead(&mut self, number: usize) {
        self.dead.push(number);
    }

    /// How many were accepted and have not arrived.
    pub(crate) fn missing(&self) -> usize {
        let all = self.all.iter();
        all.filter(|message| message.is_lost()).count()
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts {
            published: self.all.len(),
            dead: self.dead.clone(),
            strange: self.strange,
            ..Counts::default()
        };
        for (number, message) in self.all.iter().enumerate() {
            let arrived = usize::from(message.deliveries > 0);
            counts.delivered += arrived;
            counts.duplicated += (message.deliveries as usize).saturating_sub(1);
            match message.told {
                Some(Told::Accepted) => counts.accepted += 1,
                Some(Told::Refused) => {
                    counts.refused += 1;
                    counts.refused_and_delivered += arrived;
                }
                Some(Told::Nothing) | None => {
                    counts.unknown += 1;
                    counts.unknown_and_delivered += arrived;
                }
            }
            if message.is_lost() {
                counts.lost.push(number);
            }
        }
        counts
    }
}

impl Message {
    fn is_lost(&self) -> bool {
        self.told == Some(Told::Accepted) && self.deliveries == 0
    }
}

/// The values of one key, which only ever grow. It has one writer, who leaves it after a write with an uncertain end: that
/// write may come late, and would then be newer than what was confirmed after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    pub(crate) name: String,
    confirmed: Option<u64>,
    attempted: u64,
}

/// A value that cannot be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WrongValue {
    key: Key,
    read: Option<u64>,
}

impl Display for WrongValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, read } = self;
        write!(
            f,
            "key {} is {read:?}; confirmed {:?}, tried up to {}",
            key.name, key.confirmed, key.attempted
        )
    }
}

impl Key {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            confirmed: None,
            attempted: 0,
        }
    }

    /// The value to write next.
    pub(crate) fn next(&mut self) -> u64 {
        self.attempted += 1;
        self.attempted
    }

    pub(crate) fn confirmed(&mut self, value: u64) {
        self.confirmed = Some(value);
    }

    /// # Errors
    /// When this cannot be what the store has. `self` is the key as it was before the store was asked.
    pub(crate) fn check(&self, read: Option<u64>) -> Result<(), WrongValue> {
        let is_kept = read >= self.confirmed && read.is_none_or(|read| read <= self.attempted);
        if is_kept {
            return Ok(());
        }
        Err(WrongValue {
            key: self.clone(),
            read,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_accepted_can_be_lost() {
        let mut messages = Messages::default();
        for told in [
            Some(Told::Accepted),
            Some(Told::Accepted),
            Some(Told::Refused),
            Some(Told::Nothing),
            None,
        ] {
            let number = messages.begin();
            if let Some(told) = told {
                messages.told(number, told);
            }
        }
        for number in [0, 0, 0, 3, 99] {
            messages.delivered(number);
        }
        messages.dead(2);
        assert_eq!(messages.missing(), 1);
        let expected = Counts {
            published: 5,
            accepted: 2,
            refused: 1,
            unknown: 2,
            delivered: 2,
            duplicated: 2,
            refused_and_delivered: 0,
            unknown_and_delivered: 1,
            lost: vec![1],
            dead: vec![2],
            strange: 1,
        };
        assert_eq!(messages.counts(), expected);
    }

    #[test]
    fn a_key_has_what_was_confirmed_or_what_was_tried_after_it() {
        let mut key = Key::new("k".to_owned());
        assert_eq!(key.check(None), Ok(()));
        assert!(key.check(Some(1)).is_err());
        let first = key.next();
        assert_eq!(key.check(Some(first)), Ok(()));
        key.confirmed(first);
        assert!(key.check(None).is_err());
        key.next();
        assert_eq!(key.check(Some(1)), Ok(()));
        assert_eq!(key.check(Some(2)), Ok(()));
        key.confirmed(2);
        assert!(
            key.check(Some(1))
                .unwrap_err()
                .to_string()
                .contains("key k is Some(1)")
        );
    }
}
