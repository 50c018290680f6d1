//! Mutates ClientHellos for as long as asked and watches what the reader makes of them:
//! `cargo run --release -p convey-proxy --example fuzz_client_hello -- --seconds 600 [--seed N]`.
//!
//! A panic, a piece that is judged otherwise than the whole, more bytes asked for than may ever be looked at, a name that
//! is no text of the hello, and protocols that do not add up end it with a non-zero exit.

use std::time::{Duration, Instant};

use convey_proxy::client_hello::{LONGEST, Parsed, parse};

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

const HELLOS: [&[u8]; 5] = [
    include_bytes!("../tests/fixtures/client_hello/curl.bin"),
    include_bytes!("../tests/fixtures/client_hello/chromium.bin"),
    include_bytes!("../tests/fixtures/client_hello/openssl-records.bin"),
    include_bytes!("../tests/fixtures/client_hello/openssl-tls12.bin"),
    include_bytes!("../tests/fixtures/client_hello/openssl-noservername.bin"),
];

/// The message in records of random sizes.
fn in_records(random: &mut Random, message: &[u8]) -> Vec<u8> {
    let most = 1 + random.below(message.len() + 1);
    let mut rest = message;
    let mut bytes = Vec::new();
    while !rest.is_empty() {
        let (record, after) = rest.split_at((1 + random.below(most)).min(rest.len()));
        bytes.extend([22, 3, 1]);
        bytes.extend((record.len() as u16).to_be_bytes());
        bytes.extend(record);
        rest = after;
    }
    bytes
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        // Lengths stand at the beginning as often as anywhere.
        let near = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(100) };
        let at = random.below(near);
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 if !bytes.is_empty() => bytes[at] = *[0, 1, 0x7f, 0xff].get(random.below(4)).unwrap_or(&0),
            3 => bytes.truncate(at),
            4 => bytes.insert(at, random.next() as u8),
            _ => bytes.extend((0..random.below(3000)).map(|_| random.next() as u8).collect::<Vec<_>>()),
        }
    }
}

fn check(bytes: &[u8], cut: usize) {
    let whole = parse(bytes);
    match parse(&bytes[..cut]) {
        Parsed::Incomplete(needs) => {
            assert!(cut < needs && needs <= LONGEST, "{needs} after {cut} of {bytes:x?}");
        }
        piece => assert_eq!(piece, whole, "{cut} of {bytes:x?}"),
    }
    let Parsed::Hello(hello) = whole else { return };
    if let Some(name) = &hello.sni {
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()), "{name:?}");
    }
    assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()), "{hello:?}");
}

fn main() {
    let value = |flag: &str| {
        let mut args = std::env::args().skip_while(|arg| arg != flag);
        args.nth(1).and_then(|text| text.parse::<u64>().ok())
    };
    let seed = value("--seed").unwrap_or_else(|| u64::from(std::process::id()));
    let end = Instant::now() + Duration::from_secs(value("--seconds").unwrap_or(10));
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    println!("seed {seed}");
    let (mut rounds, mut hellos) = (0_u64, 0_u64);
    while Instant::now() < end {
        for _ in 0..1000 {
            let mut bytes = HELLOS[random.below(HELLOS.len())].to_vec();
            if random.below(2) == 0 {
                let mut message = bytes[5..].to_vec();
                mutate(&mut random, &mut message);
                bytes = in_records(&mut random, &message);
            }
            mutate(&mut random, &mut bytes);
            let cut = random.below(bytes.len() + 1);
            check(&bytes, cut);
            rounds += 1;
            hellos += u64::from(matches!(parse(&bytes), Parsed::Hello(_)));
        }
    }
    println!("{rounds} inputs, {hellos} of them whole hellos: no finding");
}
