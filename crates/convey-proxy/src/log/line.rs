//! One connection as a line of JSON.
//!
//! Written by the worker that served it, so it is put together from pieces: the standard formatting takes twice as long.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use convey_core::Endpoint;

use super::entry::Entry;
use super::story::{Fate, Side};

/// A key of an object, with what stands around it.
macro_rules! key {
    ($key:literal) => {
        concat!(",\"", $key, "\":")
    };
}

/// Writes times; what it wrote of a second serves for all of that second.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    /// Without fraction and zone.
    text: String,
}

impl Clock {
    /// Appends `at` as RFC 3339 with milliseconds.
    fn write(&mut self, to: &mut String, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.text.clear();
            let whole = UNIX_EPOCH + Duration::from_secs(since.as_secs());
            // Writing to a String fails for years that have five digits alone.
            let _ = write!(self.text, "{}", humantime::format_rfc3339_seconds(whole));
            self.text.pop();
            self.second = Some(since.as_secs());
        }
        to.push_str(&self.text);
        fraction(to, since.subsec_millis());
        to.push('Z');
    }
}

/// Appends the line of `entry`, with its end.
pub(super) fn write(to: &mut String, clock: &mut Clock, entry: &Entry<'_>) {
    let story = entry.story;
    let end = end(entry.fate, entry.killed);
    to.push_str(if entry.fate == Fate::Closed {
        "{\"level\":\"info\",\"time\":\""
    } else {
        "{\"level\":\"warn\",\"time\":\""
    });
    clock.write(to, entry.at);
    to.push('"');
    address(to, key!("client"), Some(entry.client));
    text(to, key!("frontend"), Some(entry.frontend));
    address(to, key!("listen"), Some(entry.listen));
    text(to, key!("backend"), Some(entry.backend));
    let server = entry.server.as_ref();
    text(to, key!("server"), server.map(|got| got.name));
    match server.map(|got| got.addr) {
        Some(Endpoint::Ip(addr)) => address(to, key!("server_addr"), Some(*addr)),
        Some(path) => text(to, key!("server_addr"), Some(&path.to_string())),
        None => text(to, key!("server_addr"), None),
    }
    address(to, key!("source"), server.and_then(|got| got.source));
    number(to, key!("attempts"), u64::from(story.map_or(0, |story| story.attempts())));
    millis(to, key!("wait_ms"), story.and_then(|story| story.wait()).map(u64::from));
    millis(to, key!("connect_ms"), story.and_then(|story| story.connect()).map(u64::from));
    millis(to, key!("first_byte_ms"), story.and_then(|story| story.first_byte()).map(u64::from));
    millis(to, key!("total_ms"), Some(u64::try_from(entry.total.as_micros()).unwrap_or(u64::MAX)));
    number(to, key!("bytes_tx"), entry.bytes[0]);
    number(to, key!("bytes_rx"), entry.bytes[1]);
    text(to, key!("closed_first"), story.and_then(|story| story.closed_first()).map(side));
    text(to, key!("end"), Some(end));
    let flags = flags(entry, end);
    to.push_str(key!("flags"));
    to.extend(['"', flags.0, flags.1]);
    to.push_str("\",\"msg\":\"connection\"}\n");
}

/// Appends a line that says how many were lost.
pub(super) fn write_lost(to: &mut String, clock: &mut Clock, at: SystemTime, lost: u64) {
    to.push_str("{\"level\":\"warn\",\"time\":\"");
    clock.write(to, at);
    to.push('"');
    number(to, key!("lost"), lost);
    to.push_str(",\"msg\":\"lines of connections were lost: they could not be written in time\"}\n");
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
fn flags(entry: &Entry<'_>, end: &str) -> (char, char) {
    let reached = |story: &super::Story| match (story.wait(), entry.server.is_some()) {
        (_, true) => 'D',
        (Some(_), false) => 'C',
        (None, false) => 'Q',
    };
    let state = entry.story.map_or('C', reached);
    match end {
        "closed" => ('-', '-'),
        "client_reset" | "queue_abandoned" => ('C', state),
        "client_hello_timeout" => ('c', 'R'),
        "client_hello_missing" => ('C', 'R'),
        "server_reset" => ('S', state),
        "no_server" | "retries_exhausted" | "connect_refused" | "connect_failed" => ('S', 'C'),
        "connect_timeout" => ('s', 'C'),
        "idle_timeout" | "half_close_timeout" => match entry.story.and_then(|story| story.waits_for()) {
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
    to.push_str(key);
    let Some(value) = value else { return to.push_str("null") };
    to.push('"');
    if value.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        escaped(to, value);
    } else {
        to.push_str(value);
    }
    to.push('"');
}

#[cold]
fn escaped(to: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '"' | '\\' => to.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(to, "\\u{:04x}", c as u32);
            }
            c => to.push(c),
        }
    }
}

/// An address has nothing to escape.
fn address(to: &mut String, key: &str, value: Option<SocketAddr>) {
    to.push_str(key);
    match value {
        Some(SocketAddr::V4(addr)) => {
            let octets = addr.ip().octets();
            to.push('"');
            for (octet, end) in octets.into_iter().zip(['.', '.', '.', ':']) {
                digits(to, u64::from(octet));
                to.push(end);
            }
            digits(to, u64::from(addr.port()));
            to.push('"');
        }
        Some(SocketAddr::V6(addr)) => {
            let _ = write!(to, "\"{addr}\"");
        }
        None => to.push_str("null"),
    }
}

fn number(to: &mut String, key: &str, value: u64) {
    to.push_str(key);
    digits(to, value);
}

fn millis(to: &mut String, key: &str, micros: Option<u64>) {
    to.push_str(key);
    match micros {
        Some(us) => {
            digits(to, us / 1000);
            fraction(to, (us % 1000) as u32);
        }
        None => to.push_str("null"),
    }
}

fn digits(to: &mut String, value: u64) {
    to.push_str(itoa::Buffer::new().format(value));
}

/// Thousandths, three digits behind a point.
fn fraction(to: &mut String, thousandths: u32) {
    let digit = |n: u32| char::from(b'0' + (n % 10) as u8);
    to.extend(['.', digit(thousandths / 100), digit(thousandths / 10), digit(thousandths)]);
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddrV6};
    use std::sync::Arc;

    use super::super::entry::Got;
    use super::super::story::Story;
    use super::*;
    use crate::meters::Way;

    fn line(entry: &Entry<'_>) -> String {
        let mut text = String::new();
        write(&mut text, &mut Clock::default(), entry);
        text
    }

    #[test]
    fn every_field_is_written_as_it_is_read_elsewhere() {
        let story = Story::default();
        story.tries(|| Duration::from_micros(7));
        story.connected(Duration::from_micros(1_012));
        story.moved(Way::Rx, || Duration::from_micros(12_345_678));
        story.closes(Side::Server);
        let name: Arc<str> = "one".into();
        let entry = Entry {
            at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
            client: ([192, 0, 2, 255], 65_535).into(),
            listen: SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 0, 0).into(),
            frontend: "web",
            backend: "a \"b\" \\ \u{1} ü",
            server: Some(Got {
                name: &name,
                addr: &Endpoint::Unix("/run/\"x\"".into()),
                source: Some(([10, 0, 0, 9], 0).into()),
            }),
            total: Duration::from_micros(12_400_100),
            bytes: [0, u64::MAX],
            fate: Fate::Closed,
            killed: false,
            story: Some(&story),
        };
        let expected = concat!(
            r#"{"level":"info","time":"2023-11-14T22:13:20.042Z","client":"192.0.2.255:65535","frontend":"web","#,
            r#""listen":"[::1]:80","backend":"a \"b\" \\ \u0001 ü","server":"one","#,
            r#""server_addr":"unix:/run/\"x\"","source":"10.0.0.9:0","attempts":1,"wait_ms":0.007,"#,
            r#""connect_ms":1.005,"first_byte_ms":12344.666,"total_ms":12400.100,"bytes_tx":0,"#,
            r#""bytes_rx":18446744073709551615,"closed_first":"server","end":"closed","flags":"--","#,
            r#""msg":"connection"}"#,
        );
        assert_eq!(line(&entry), format!("{expected}\n"));
    }

    #[test]
    fn a_client_that_is_refused_has_nothing_but_its_reason() {
        let (client, listen) = (([127, 0, 0, 1], 9).into(), ([127, 0, 0, 1], 8).into());
        let refused = Entry::refused((client, listen), ("web", "pool"), convey_core::Reason::LimitTotal);
        let entry = Entry { at: UNIX_EPOCH, ..refused };
        let expected = concat!(
            r#"{"level":"warn","time":"1970-01-01T00:00:00.000Z","client":"127.0.0.1:9","frontend":"web","#,
            r#""listen":"127.0.0.1:8","backend":"pool","server":null,"server_addr":null,"source":null,"#,
            r#""attempts":0,"wait_ms":null,"connect_ms":null,"first_byte_ms":null,"total_ms":0.000,"#,
            r#""bytes_tx":0,"bytes_rx":0,"closed_first":null,"end":"limit_total","flags":"PC","#,
            r#""msg":"connection"}"#,
        );
        assert_eq!(line(&entry), format!("{expected}\n"));
    }

    #[test]
    fn times_are_those_of_the_moment_also_when_seconds_pass_or_the_clock_is_set_back() {
        let mut clock = Clock::default();
        for millis in [1_700_000_000_999, 1_700_000_001_000, 1_700_000_001_001, 5, 1_700_000_001_002] {
            let at = UNIX_EPOCH + Duration::from_millis(millis);
            let mut text = String::new();
            clock.write(&mut text, at);
            assert_eq!(text, humantime::format_rfc3339_millis(at).to_string());
        }
    }
}
