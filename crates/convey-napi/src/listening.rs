//! Many listening addresses as one text for people.

use std::net::SocketAddr;

/// "127.0.0.1:80, [::1]:80, 0.0.0.0:8000-8010": in the order given, ports that follow each other as a range.
pub fn listening_text(addresses: &[SocketAddr]) -> String {
    let follows = |a: &SocketAddr, b: &SocketAddr| {
        a.ip() == b.ip() && a.port().checked_add(1).is_some_and(|next| next == b.port())
    };
    let runs = addresses.chunk_by(follows).filter_map(|run| match run {
        [only] => Some(only.to_string()),
        [first, .., last] => Some(format!("{first}-{}", last.port())),
        [] => None,
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
    use super::*;

    #[test]
    fn ports_that_follow_each_other_on_one_address_are_told_as_a_range() {
        let text = |addresses: &[&str]| {
            listening_text(&addresses.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(text(&[]), "");
        assert_eq!(text(&["127.0.0.1:80", "[::1]:80"]), "127.0.0.1:80, [::1]:80");
        assert_eq!(
            text(&["[::1]:8000", "[::1]:8001", "[::1]:8002", "[::2]:8003"]),
            "[::1]:8000-8002, [::2]:8003"
        );
        assert_eq!(text(&["10.0.0.1:65535", "10.0.0.1:0"]), "10.0.0.1:65535, 10.0.0.1:0");
    }
}
