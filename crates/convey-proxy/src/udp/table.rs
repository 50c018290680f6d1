//! The sessions of one socket on one worker: by client, and in the order in which they were last heard of.
//!
//! Two queues, those that are no conversation yet and conversations, each from the longest silent on. A session moves
//! to the end of its queue when it was heard of a while after it had moved last ([`Table::touch`]), so that most
//! datagrams write to no neighbour in the queue.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::batch::Local;

const NONE: u32 = u32::MAX;
/// With fewer places than this, memory is not given back.
const FEW: usize = 256;

/// Whose session: the client, and which of our addresses it talks to where that is not the socket's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub client: SocketAddr,
    pub local: Option<Local>,
}

/// Names a session as long as it lives, and nothing afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    place: u32,
    serial: u32,
}

impl Id {
    pub const fn to_u64(self) -> u64 {
        (self.place as u64) << 32 | self.serial as u64
    }

    pub const fn of_u64(id: u64) -> Self {
        Self { place: (id >> 32) as u32, serial: id as u32 }
    }
}

/// Which queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// The client has not gone on after an answer.
    New,
    Conversations,
}

#[derive(Debug)]
struct Place<S> {
    serial: u32,
    session: Option<S>,
    key: Key,
    /// The client's next datagram is for this session.
    is_bound: bool,
    queue: Queue,
    touched: Instant,
    before: u32,
    after: u32,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

#[derive(Debug)]
pub(super) struct Table<S> {
    places: Vec<Place<S>>,
    free: Vec<u32>,
    // A keyed hash: clients cannot aim at a slot.
    bound: HashMap<Key, u32>,
    queues: [Ends; 2],
    next_serial: u32,
    len: usize,
}

impl<S> Table<S> {
    pub fn new() -> Self {
        let queues = [Ends { first: NONE, last: NONE }; 2];
        Self { places: Vec::new(), free: Vec::new(), bound: HashMap::new(), queues, next_serial: 0, len: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The session that the next datagram of `key` is for.
    pub fn find(&self, key: &Key) -> Option<Id> {
        let place = *self.bound.get(key)?;
        Some(Id { place, serial: self.places[place as usize].serial })
    }

    /// Adds a session for `key`, which must have none.
    pub fn add(&mut self, key: Key, session: S, now: Instant) -> Id {
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        let place = Place {
            serial,
            session: Some(session),
            key,
            is_bound: true,
            queue: Queue::New,
            touched: now,
            before: NONE,
            after: NONE,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.places[at as usize] = place;
                at
            }
            None => {
                self.places.push(place);
                (self.places.len() - 1) as u32
            }
        };
        self.bound.insert(key, at);
        self.link(at);
        self.len += 1;
        Id { place: at, serial }
    }

    pub fn get(&self, id: Id) -> Option<&S> {
        self.places.get(id.place as usize).filter(|place| place.serial == id.serial)?.session.as_ref()
    }

    pub fn get_mut(&mut self, id: Id) -> Option<&mut S> {
        self.places.get_mut(id.place as usize).filter(|place| place.serial == id.serial)?.session.as_mut()
    }

    /// Whose session it is; `None` when it has ended.
    pub fn key(&self, id: Id) -> Option<Key> {
        self.live(id).map(|place| place.key)
    }

    /// Whether the client's next datagram is for it.
    pub fn is_bound(&self, id: Id) -> bool {
        self.live(id).is_some_and(|place| place.is_bound)
    }

    /// The client's next datagram begins another session.
    pub fn unbind(&mut self, id: Id) {
        if self.is_bound(id) {
            let place = &mut self.places[id.place as usize];
            place.is_bound = false;
            self.bound.remove(&place.key);
        }
    }

    pub fn remove(&mut self, id: Id) -> Option<S> {
        self.live(id)?;
        self.unbind(id);
        self.unlink(id.place);
        let session = self.places[id.place as usize].session.take();
        self.free.push(id.place);
        self.len -= 1;
        if self.len == 0 && self.places.len() > FEW {
            // Numbers are never given twice, so what is left of an old id names nothing here either.
            (self.places, self.free) = (Vec::new(), Vec::new());
            self.bound.shrink_to_fit();
        }
        session
    }

    /// It was heard of. It moves only when it has not moved for `pace`.
    pub fn touch(&mut self, id: Id, now: Instant, pace: Duration) {
        let Some(place) = self.live(id) else { return };
        if now.saturating_duration_since(place.touched) >= pace {
            self.unlink(id.place);
            self.places[id.place as usize].touched = now;
            self.link(id.place);
        }
    }

    /// It is a conversation from now on.
    pub fn confirm(&mut self, id: Id, now: Instant) {
        if self.live(id).is_some_and(|place| place.queue == Queue::New) {
            self.unlink(id.place);
            let place = &mut self.places[id.place as usize];
            (place.queue, place.touched) = (Queue::Conversations, now);
            self.link(id.place);
        }
    }

    /// The longest silent of a queue, and when it was touched.
    pub fn longest_silent(&self, queue: Queue) -> Option<(Id, Instant)> {
        let at = self.queues[queue as usize].first;
        let place = self.places.get(at as usize)?;
        Some((Id { place: at, serial: place.serial }, place.touched))
    }

    /// All there are.
    pub fn ids(&self) -> Vec<Id> {
        let live = |(at, place): (usize, &Place<S>)| {
            place.session.is_some().then_some(Id { place: at as u32, serial: place.serial })
        };
        self.places.iter().enumerate().filter_map(live).collect()
    }

    fn live(&self, id: Id) -> Option<&Place<S>> {
        self.places
            .get(id.place as usize)
            .filter(|place| place.serial == id.serial && place.session.is_some())
    }

    /// Puts it at the end of its queue.
    fn link(&mut self, at: u32) {
        let queue = self.places[at as usize].queue as usize;
        let last = self.queues[queue].last;
        let place = &mut self.places[at as usize];
        (place.before, place.after) = (last, NONE);
        match self.places.get_mut(last as usize) {
            Some(last) => last.after = at,
            None => self.queues[queue].first = at,
        }
        self.queues[queue].last = at;
    }

    fn unlink(&mut self, at: u32) {
        let place = &self.places[at as usize];
        let (before, after, queue) = (place.before, place.after, place.queue as usize);
        match self.places.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.queues[queue].first = after,
        }
        match self.places.get_mut(after as usize) {
            Some(after) => after.before = before,
            None => self.queues[queue].last = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> Key {
        Key { client: SocketAddr::from(([192, 0, 2, 1], port)), local: None }
    }

    /// What is in a queue, from the longest silent on.
    fn queue(table: &Table<u16>, queue: Queue) -> Vec<u16> {
        let mut at = table.queues[queue as usize].first;
        let mut found = Vec::new();
        while let Some(place) = table.places.get(at as usize) {
            found.push(place.session.unwrap());
            at = place.after;
        }
        found
    }

    #[test]
    fn an_id_names_nothing_once_its_session_has_ended_and_its_place_is_taken_again() {
        let (mut table, now) = (Table::new(), Instant::now());
        let first = table.add(key(1), 1, now);
        assert_eq!(table.remove(first), Some(1));
        let second = table.add(key(1), 2, now);
        assert_eq!((table.get(first), table.get(second)), (None, Some(&2)));
        assert_eq!((table.remove(first), table.find(&key(1))), (None, Some(second)));
        assert_eq!(Id::of_u64(second.to_u64()), second);
    }

    #[test]
    fn an_unbound_session_lives_on_while_its_client_begins_another() {
        let (mut table, now) = (Table::new(), Instant::now());
        let old = table.add(key(1), 1, now);
        table.unbind(old);
        assert_eq!(table.find(&key(1)), None);
        let new = table.add(key(1), 2, now);
        assert_eq!(table.remove(old), Some(1));
        assert_eq!((table.find(&key(1)), table.get(new)), (Some(new), Some(&2)));
    }

    #[test]
    fn the_longest_silent_comes_first_and_one_heard_of_within_the_pace_stays_where_it_is() {
        let (mut table, start) = (Table::new(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let pace = Duration::from_millis(10);
        let ids = [1, 2, 3].map(|n| table.add(key(n), n, start));
        table.touch(ids[0], at(5), pace);
        assert_eq!(queue(&table, Queue::New), [1, 2, 3]);
        table.touch(ids[0], at(10), pace);
        assert_eq!(queue(&table, Queue::New), [2, 3, 1]);
        table.confirm(ids[2], at(12));
        assert_eq!((queue(&table, Queue::New), queue(&table, Queue::Conversations)), (vec![2, 1], vec![3]));
        assert_eq!(table.longest_silent(Queue::New), Some((ids[1], start)));
        assert_eq!(table.longest_silent(Queue::Conversations), Some((ids[2], at(12))));
    }

    #[test]
    fn a_table_that_was_full_once_gives_its_memory_back() {
        let (mut table, now) = (Table::new(), Instant::now());
        let ids: Vec<_> = (0..10_000).map(|n| table.add(key(n), n, now)).collect();
        for id in ids {
            table.remove(id);
        }
        assert!(table.is_empty() && table.places.capacity() == 0 && table.bound.capacity() < 1000);
        assert_eq!(table.longest_silent(Queue::New), None);
    }

    #[test]
    fn any_order_of_operations_keeps_queues_and_look_ups_whole() {
        let (mut table, start) = (Table::new(), Instant::now());
        let mut model: Vec<(Id, u16, bool)> = Vec::new();
        let mut random = 0x9e37_79b9_u32;
        for step in 0..20_000u64 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let now = start + Duration::from_millis(step);
            let some = model.get(random as usize % model.len().max(1)).copied();
            match (random >> 24) % 6 {
                0 | 1 if table.find(&key(random as u16)).is_none() => {
                    let session = random as u16;
                    model.push((table.add(key(session), session, now), session, true));
                }
                2 => some.iter().for_each(|(id, ..)| table.touch(*id, now, Duration::from_millis(50))),
                3 => some.iter().for_each(|(id, ..)| table.confirm(*id, now)),
                4 => {
                    if let Some((id, ..)) = some {
                        table.unbind(id);
                        model.iter_mut().filter(|m| m.0 == id).for_each(|m| m.2 = false);
                    }
                }
                _ => {
                    if let Some((id, session, _)) = some {
                        assert_eq!(table.remove(id), Some(session));
                        model.retain(|m| m.0 != id);
                    }
                }
            }
        }
        let mut queued = queue(&table, Queue::New);
        queued.extend(queue(&table, Queue::Conversations));
        let mut expected: Vec<_> = model.iter().map(|m| m.1).collect();
        queued.sort_unstable();
        expected.sort_unstable();
        assert_eq!(queued, expected);
        assert_eq!(table.ids().len(), model.len());
        for (id, session, is_bound) in model {
            assert_eq!(table.get(id), Some(&session));
            assert_eq!(table.is_bound(id), is_bound);
            assert!(!is_bound || table.find(&key(session)) == Some(id));
        }
    }
}
