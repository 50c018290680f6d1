//! One connection as a line of JSON.

use std::fmt::{Display, Write};
use std::net::SocketAddr;

use super::sink::{Entry, Got};
use super::story::{Fate, Side};

/// Appends the line of `entry`, with its end.
pub(super) fn write(to: &mut String, entry: &Entry) {
    let Entry { at, client, listen, frontend, backend, server, total, bytes, fate, killed, .. } = entry;
    let story = entry.story();
    let end = end(*fate, *killed);
    let level = if *fate == Fate::Closed { "info" } else { "warn" };
    // Writing to a String cannot fail.
    let _ = write!(to, "{{\"level\":\"{level}\",\"time\":\"{}\"", humantime::format_rfc3339_millis(*at));
    address(to, "client", Some(*client));
    text(to, "frontend", Some(frontend));
    address(to, "listen", Some(*listen));
    text(to, "backend", Some(backend));
    let Got { name, addr, source } = server.as_ref().map_or(Got::NONE, |got| Got {
        name: Some(&*got.name),
        addr: Some(&got.addr as &dyn Display),
        source: got.source,
    });
    text(to, "server", name);
    quoted(to, "server_addr", addr);
    address(to, "source", source);
    number(to, "attempts", Some(u64::from(story.map_or(0, |story| story.attempts()))));
    millis(to, "wait_ms", story.and_then(|story| story.wait()));
    millis(to, "connect_ms", story.and_then(|story| story.connect()));
    millis(to, "first_byte_ms", story.and_then(|story| story.first_byte()));
    let _ = write!(to, ",\"total_ms\":{}.{:03}", total.as_millis(), total.subsec_micros() % 1000);
    number(to, "bytes_tx", Some(bytes[0]));
    number(to, "bytes_rx", Some(bytes[1]));
    text(to, "closed_first", story.and_then(|story| story.closed_first()).map(side));
    text(to, "end", Some(end));
    let flags = flags(entry, end);
    let _ = writeln!(to, ",\"flags\":\"{}{}\",\"msg\":\"connection\"}}", flags.0, flags.1);
}

/// Appends a line that says how many were lost.
pub(super) fn write_lost(to: &mut String, at: std::time::SystemTime, lost: u64) {
    let _ = writeln!(
        to,
        "{{\"level\":\"warn\",\"time\":\"{}\",\"lost\":{lost},\"msg\":\"lines of connections were lost: they could not be \
         written in time\"}}",
        humantime::format_rfc3339_millis(at)
    );
}

/// How it ended, as a reason is named everywhere else.
fn end(fate: Fate, killed: bool) -> &'static str {
    match fate {
        Fate::Closed => "closed",
        Fate::Ended(reason) => reason.name(),
        Fate::Cut if killed => "killed",
        Fate::Cut => "internal",
    }
}

/// HAProxy's two letters: who or what ended it, and in which state it was then.
fn flags(entry: &Entry, end: &str) -> (char, char) {
    let reached = |story: &super::Story| match (story.wait(), entry.server.is_some()) {
        (_, true) => 'D',
        (Some(_), false) => 'C',
        (None, false) => 'Q',
    };
    let state = entry.story().map_or('C', reached);
    match end {
        "closed" => ('-', '-'),
        "client_reset" | "queue_abandoned" => ('C', state),
        "client_hello_timeout" => ('c', 'R'),
        "client_hello_missing" => ('C', 'R'),
        "server_reset" => ('S', state),
        "no_server" | "retries_exhausted" | "connect_refused" | "connect_failed" => ('S', 'C'),
        "connect_timeout" => ('s', 'C'),
        "idle_timeout" | "half_close_timeout" => match entry.story().and_then(|story| story.waits_for()) {
            Some(Side::Server) => ('s', 'D'),
            _ => ('c', 'D'),
        },
        "no_answer" => ('s', 'D'),
        "queue_timeout" => ('s', 'Q'),
        "fds_exhausted" | "ports_exhausted" => ('R', 'C'),
        "killed" | "drain_deadline" | "leaving" => ('K', state),
        "internal" => ('I', state),
        // What the proxy refuses: limits, lists, rates, headers.
        _ => ('P', if state == 'Q' { 'R' } else { state }),
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

fn text(to: &mut String, key: &str, value: Option<&str>) {
    let _ = write!(to, ",\"{key}\":");
    match value {
        None => to.push_str("null"),
        Some(value) => {
            to.push('"');
            for c in value.chars() {
                match c {
                    '"' | '\\' => to.extend(['\\', c]),
                    c if c < ' ' => {
                        let _ = write!(to, "\\u{:04x}", c as u32);
                    }
                    c => to.push(c),
                }
            }
            to.push('"');
        }
    }
}

fn quoted(to: &mut String, key: &str, value: Option<&dyn Display>) {
    match value {
        Some(value) => text(to, key, Some(&value.to_string())),
        None => text(to, key, None),
    }
}

/// An address has nothing to escape.
fn address(to: &mut String, key: &str, value: Option<SocketAddr>) {
    let _ = match value {
        Some(value) => write!(to, ",\"{key}\":\"{value}\""),
        None => write!(to, ",\"{key}\":null"),
    };
}

fn number(to: &mut String, key: &str, value: Option<u64>) {
    let _ = match value {
        Some(value) => write!(to, ",\"{key}\":{value}"),
        None => write!(to, ",\"{key}\":null"),
    };
}

fn millis(to: &mut String, key: &str, micros: Option<u32>) {
    let _ = match micros {
        Some(us) => write!(to, ",\"{key}\":{}.{:03}", us / 1000, us % 1000),
        None => write!(to, ",\"{key}\":null"),
    };
}
