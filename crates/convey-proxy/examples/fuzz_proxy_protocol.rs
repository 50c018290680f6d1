//! Mutates PROXY headers for as long as asked and watches what the reader makes of them:
//! `cargo run --release -p convey-proxy --example fuzz_proxy_protocol -- --seconds 600 [--seed N]`.
//!
//! A panic, a header longer than its bytes or than the limit, a piece judged otherwise than the whole, and a header that
//! does not survive being told on end it with a non-zero exit.

use std::time::{Duration, Instant};

use convey_core::ProxyVersion;
use convey_proxy::proxy_protocol::{LONGEST_HEADER, Parsed, parse, write};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n.max(1)
    }
}

const LINES: [&[u8]; 3] = [
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 0 65535\r\n",
    b"PROXY UNKNOWN and more\r\n",
];

/// A header of version 2 with TLVs.
fn binary(family: u8, addresses: usize, tlvs: &[u8]) -> Vec<u8> {
    let length = (addresses + tlvs.len()) as u16;
    let head: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21";
    [head, &[family], &length.to_be_bytes(), &vec![7; addresses], tlvs].concat()
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, *b" \r\n0:.\0\x21\xff".get(random.below(9)).unwrap_or(&0)),
            _ => bytes.extend((0..random.below(300)).map(|_| random.next() as u8).collect::<Vec<_>>()),
        }
    }
}

fn check(bytes: &[u8], cut: usize) {
    let whole = parse(bytes);
    let piece = parse(&bytes[..cut]);
    if piece.is_err() {
        assert!(whole.is_err(), "a piece is refused, the whole is not: {bytes:x?}");
    }
    let Ok(Parsed::Whole(header, length)) = whole else { return };
    assert!(length <= bytes.len() && length <= LONGEST_HEADER, "{length} of {bytes:x?}");
    if cut < length {
        assert_eq!(piece, Ok(Parsed::Incomplete), "{cut} of {bytes:x?}");
    }
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let told = write(version, &header);
        match parse(&told) {
            Ok(Parsed::Whole(again, all)) => {
                assert_eq!(all, told.len());
                // IPv4 addresses written as IPv6 are told as IPv4.
                assert_eq!(again.client().is_some(), header.client().is_some(), "{told:x?}");
            }
            other => panic!("{other:?} of {told:x?}, which was made of {bytes:x?}"),
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1)?.parse::<u64>().ok()
    };
    let mut random = Random(value("--seed").unwrap_or(1) | 1);
    let mut corpus: Vec<Vec<u8>> = LINES.iter().map(|line| line.to_vec()).collect();
    for (family, addresses) in [(0, 0), (0x11, 12), (0x12, 12), (0x21, 36), (0x31, 216)] {
        corpus.push(binary(family, addresses, b""));
        corpus.push(binary(family, addresses, b"\x01\0\x02h2\x04\0\x01\0\x30\0\0\xe0\0\x03abc"));
    }
    let with_checksum = |bytes: &Vec<u8>| match parse(bytes) {
        Ok(Parsed::Whole(mut header, _)) => {
            header.has_checksum = true;
            Some(write(ProxyVersion::V2, &header))
        }
        _ => None,
    };
    let with_checksum: Vec<_> = corpus.iter().filter_map(with_checksum).collect();
    corpus.extend(with_checksum);
    let end = Instant::now() + Duration::from_secs(value("--seconds").unwrap_or(10));
    let mut total = 0u64;
    while Instant::now() < end {
        for _ in 0..1000 {
            let mut bytes = corpus[random.below(corpus.len())].clone();
            mutate(&mut random, &mut bytes);
            check(&bytes, random.below(bytes.len() + 1));
            total += 1;
        }
    }
    println!("{total} headers");
}
