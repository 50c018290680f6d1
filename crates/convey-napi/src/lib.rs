//! The boundary to Node: plain objects with every field present in, plain objects out, error codes.
//! Nothing is decided here.
//!
//! Counters cross as `f64` (exact to 2^53), durations as milliseconds, addresses as `ip:port` text.
#![allow(missing_docs, reason = "napi's generated glue is public; the exports themselves are documented")]
#![cfg_attr(test, allow(dead_code, reason = "without Node the exports have no caller"))]

mod abstract_socket;
mod config;
mod dataplane;
mod doctor;
mod error;
mod event;
mod explain;
mod flows;
mod host;
mod listening;
mod live;
mod probe;
mod selection;
mod service_manager;
mod stats;
