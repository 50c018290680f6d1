//! The backend of a connection by what its TLS ClientHello says. TLS is not ended here: what is looked at stays in the
//! socket, so whatever reads next (the relay) finds the client's first byte.
//!
//! What becomes of a client:
//! - a whole hello: the backend of its name or protocol; without a name, with one that has no route or an encrypted
//!   one (of which the outer name is seen) the frontend's own;
//! - other bytes than those of TLS, or broken TLS: the frontend's own, where a server answers as it would without us;
//! - silence until the time is over: the frontend's own, whose protocol may be one where servers speak first;
//! - a hello that has begun and is not whole in time: closed, since its backend cannot be known;
//! - a FIN before anything or amid the hello: closed, nothing can follow;
//! - a longer hello than [`LONGEST_HELLO`] in more than [`MOST_RECORDS`] records: closed.

mod parse;
mod wait;

pub use parse::{Alpn, ClientHello, LONGEST, LONGEST_HELLO, MOST_RECORDS, Parsed, parse};
pub(crate) use wait::choose;
