//! UDP: a session for each client that talks to a frontend, with a connected socket to its server.
//!
//! A worker has one socket a frontend ([`group`]), at which the kernel gives it its clients, and one task that serves
//! it ([`relay`]). A client is an address and port and, where the frontend listens on every address, which of ours it
//! talks to: answers come from there. Its session ([`session`]) begins with a datagram, goes to one server, and ends
//! by silence, by number ([`exchange`]), or because its server went down or refused: then the client's next datagram
//! begins one with another server.
//!
//! Invariants: a datagram is sent on whole or not at all; nothing waits for room to send; every session holds its
//! places until it is dropped; strangers can take no more than `max_sessions`, and no conversation's place.

mod batch;
mod begin;
mod datagrams;
mod epoll;
mod exchange;
mod group;
mod groups;
mod relay;
mod relays;
mod select;
mod session;
mod table;

pub(crate) use datagrams::Datagrams;
pub(crate) use group::Group;
pub(crate) use groups::{Groups, Plan};
pub(crate) use relays::Relays;
