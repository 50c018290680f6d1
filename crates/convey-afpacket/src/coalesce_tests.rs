//! What the coalescer merges is cut again by an independent reading of how kernels cut, and must be what came.

use convey_packet::{Fragment, Ip, Ports, TCP, Tcp, Tuple};
use proptest::prelude::*;

use super::*;

const VNET: usize = VNET_HEADER_BYTES;
const ACK: u8 = tcp_flags::ACK;
const PSH: u8 = tcp_flags::PSH;

#[derive(Debug, Clone)]
struct Frame {
    ifindex: u32,
    bytes: Vec<u8>,
    is_checked: bool,
}

/// How to build a frame.
#[derive(Debug, Clone)]
struct Recipe {
    is_v6: bool,
    protocol: u8,
    client: u8,
    ttl: u8,
    tos: u8,
    dont_fragment: bool,
    number: u16,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
    is_open: bool,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            is_v6: false,
            protocol: UDP,
            client: 1,
            ttl: 64,
            tos: 0,
            dont_fragment: true,
            number: 7,
            sequence: 1000,
            acknowledged: 5,
            flags: ACK,
            options: Vec::new(),
            payload: vec![1; 18],
            is_open: false,
        }
    }
}

fn word_sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Fills in lengths and checksums of the packet behind `IP`; an open checksum gets the pseudo-header's sum.
fn complete(bytes: &mut [u8], is_open: bool) {
    let is_v6 = bytes[IP] >> 4 == 6;
    let (l4, addresses) = if is_v6 { (IP + 40, IP + 8..IP + 40) } else { (IP + 20, IP + 12..IP + 20) };
    let protocol = if is_v6 { bytes[IP + 6] } else { bytes[IP + 9] };
    let l4_len = (bytes.len() - l4) as u16;
    if is_v6 {
        bytes[IP + 4..IP + 6].copy_from_slice(&l4_len.to_be_bytes());
    } else {
        bytes[IP + 2..IP + 4].copy_from_slice(&(l4_len + 20).to_be_bytes());
        bytes[IP + 10..IP + 12].fill(0);
        let sum = !fold(word_sum(&bytes[IP..l4]));
        bytes[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let pseudo = word_sum(&bytes[addresses]) + u32::from(protocol) + u32::from(l4_len);
    let field = if protocol == UDP { l4 + 6 } else { l4 + 16 };
    if protocol == UDP {
        bytes[l4 + 4..l4 + 6].copy_from_slice(&l4_len.to_be_bytes());
    }
    bytes[field..field + 2].fill(0);
    let checksum = if is_open { fold(pseudo) } else { !fold(pseudo + word_sum(&bytes[l4..])) };
    let checksum = if protocol == UDP && checksum == 0 { 0xffff } else { checksum };
    bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

impl Recipe {
    fn build(&self) -> Frame {
        let mut bytes = vec![0; VNET];
        if self.is_open {
            let l4 = if self.is_v6 { 54u16 } else { 34 };
            let field = if self.protocol == UDP { 6u16 } else { 16 };
            bytes[0] = 1;
            bytes[6..8].copy_from_slice(&l4.to_ne_bytes());
            bytes[8..10].copy_from_slice(&field.to_ne_bytes());
        }
        bytes.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        if self.is_v6 {
            bytes.extend([
                0x86,
                0xdd,
                0x60 | self.tos >> 4,
                self.tos << 4,
                0,
                9,
                0,
                0,
                self.protocol,
                self.ttl,
            ]);
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.client]);
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        } else {
            let [a, b] = self.number.to_be_bytes();
            let fragments = if self.dont_fragment { 0x40 } else { 0 };
            bytes.extend([8, 0, 0x45, self.tos, 0, 0, a, b, fragments, 0, self.ttl, self.protocol, 0, 0]);
            bytes.extend([10, 0, 0, self.client, 10, 0, 1, 1]);
        }
        bytes.extend([0x27, 0x10, 0x13, 0x88]);
        if self.protocol == UDP {
            bytes.extend([0; 4]);
        } else {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(self.acknowledged.to_be_bytes());
            bytes.extend([((20 + self.options.len()) / 4 * 16) as u8, self.flags, 1, 0, 0, 0, 0, 0]);
            bytes.extend(&self.options);
        }
        bytes.extend(&self.payload);
        complete(&mut bytes, self.is_open);
        Frame { ifindex: 3, bytes, is_checked: self.is_open }
    }
}

/// Cuts a super-frame as a kernel does; each piece has a complete checksum.
fn cut(bytes: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
    let (kind, headers, size) = (bytes[1], VNET + word(2), word(4));
    assert_eq!(bytes[0], 1, "a super-frame's checksum is open");
    let is_v6 = bytes[IP] >> 4 == 6;
    let l4 = VNET + word(6);
    assert_eq!((l4, word(8)), (if is_v6 { IP + 40 } else { IP + 20 }, if kind == 5 { 6 } else { 16 }));
    let mut whole = bytes.to_vec();
    complete(&mut whole, true);
    assert_eq!(whole, bytes, "lengths, header checksum and pseudo-header sum hold for the whole");
    let pieces: Vec<&[u8]> = bytes[headers..].chunks(size).collect();
    let mut out = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        let mut frame = [&[0; VNET], &bytes[VNET..headers], piece].concat();
        if !is_v6 {
            let number = u16::from_be_bytes([bytes[IP + 4], bytes[IP + 5]]).wrapping_add(i as u16);
            frame[IP + 4..IP + 6].copy_from_slice(&number.to_be_bytes());
        }
        if kind != 5 {
            assert_eq!(kind, if is_v6 { 4 } else { 1 });
            let first = u32::from_be_bytes([bytes[l4 + 4], bytes[l4 + 5], bytes[l4 + 6], bytes[l4 + 7]]);
            frame[l4 + 4..l4 + 8].copy_from_slice(&first.wrapping_add((i * size) as u32).to_be_bytes());
            if i + 1 < pieces.len() {
                frame[l4 + 13] &= !(PSH | 1);
            }
        }
        complete(&mut frame, false);
        out.push(frame);
    }
    out
}

/// What the packet path tells of a frame.
fn told(frame: &[u8]) -> Option<(u32, Option<Headers>)> {
    let ip = Ip::parse(frame, false).ok()?;
    let ports = Ports::parse(frame, &ip).ok()?;
    let tuple = Tuple {
        source: ip.source,
        source_port: ports.source,
        destination: ip.destination,
        destination_port: ports.destination,
    };
    let payload = match ip.protocol {
        TCP => ip.end - Tcp::parse(frame, &ip).ok()?.payload_len as usize,
        _ => ip.l4 + 8,
    };
    let is_plain = ip.l4 - ip.l3 == if ip.is_v6 { 40 } else { 20 } && ip.fragment == Fragment::No;
    let headers =
        Headers { is_v6: ip.is_v6, protocol: ip.protocol, l4: ip.l4 as u16, payload: payload as u16 };
    Some((tuple.fingerprint(), is_plain.then_some(headers)))
}

fn gather(coalescer: &mut Coalescer, frames: &[Frame]) -> Vec<(Vec<usize>, Vec<u8>)> {
    let frame = |at: usize| {
        let Frame { ifindex, bytes, is_checked } = &frames[at];
        let (flow, headers) = told(bytes.get(VNET..).unwrap_or_default()).unzip();
        let headers = headers.flatten();
        TxFrame { ifindex: *ifindex, bytes, is_checked: *is_checked, flow, headers }
    };
    coalescer.clear();
    for at in 0..frames.len() {
        coalescer.add(at, frame);
    }
    coalescer.finish(frame);
    coalescer
        .groups()
        .map(|group| {
            let members: Vec<usize> = group.members().collect();
            assert_eq!(members.len(), group.len());
            let bytes = match group.header() {
                None => frames[members[0]].bytes.clone(),
                Some(header) => members.iter().fold(header.to_vec(), |mut all, at| {
                    all.extend(&frames[*at].bytes[header.len()..]);
                    all
                }),
            };
            (members, bytes)
        })
        .collect()
}

/// How many frames each group holds.
fn sizes(recipes: &[Recipe]) -> Vec<usize> {
    let frames: Vec<Frame> = recipes.iter().map(Recipe::build).collect();
    gather(&mut Coalescer::default(), &frames).iter().map(|(members, _)| members.len()).collect()
}

/// The frame as a receiver sees it: checksum filled in; where DF is set, the identification means nothing.
fn on_the_wire(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let is_v6 = bytes[IP] >> 4 == 6;
    if bytes[0] & 1 != 0 {
        complete(&mut bytes, false);
    }
    if !is_v6 && bytes[IP + 6] & 0x40 != 0 {
        bytes[IP + 4..IP + 6].fill(0);
        bytes[IP + 10..IP + 12].fill(0);
    }
    bytes[..VNET].fill(0);
    bytes
}

fn check(frames: &[Frame]) -> Result<(), TestCaseError> {
    let mut seen = Vec::new();
    for (members, bytes) in gather(&mut Coalescer::default(), frames) {
        let pieces = if members.len() > 1 { cut(&bytes) } else { vec![bytes] };
        prop_assert_eq!(pieces.len(), members.len());
        for (piece, at) in pieces.iter().zip(&members) {
            prop_assert_eq!(on_the_wire(piece), on_the_wire(&frames[*at].bytes));
        }
        seen.extend(members);
    }
    let flow = |at: usize| {
        let Frame { ifindex, bytes, .. } = &frames[at];
        (*ifindex, bytes[if bytes[IP] >> 4 == 6 { IP + 23 } else { IP + 15 }])
    };
    for at in 0..frames.len() {
        let of = seen.iter().filter(|other| flow(**other) == flow(at));
        prop_assert!(of.is_sorted(), "a flow's order changed: {:?}", seen);
    }
    seen.sort_unstable();
    prop_assert_eq!(seen, (0..frames.len()).collect::<Vec<_>>(), "each frame leaves once");
    Ok(())
}

/// Sequences that mostly continue each other, with every kind of break between.
fn stream() -> impl Strategy<Value = Vec<Frame>> {
    let step = (0u8..3, 0u8..24, prop::sample::select(vec![0usize, 1, 17, 18, 18, 18, 18]), any::<u8>());
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), prop::collection::vec(step, 1..BATCH))
        .prop_map(|(is_v6, is_tcp, dont_fragment, is_open, steps)| {
            let options = if is_open { vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { Vec::new() };
            let mut flows = [0u8, 1, 2].map(|client| Recipe {
                is_v6,
                protocol: if is_tcp { TCP } else { UDP },
                client,
                dont_fragment,
                sequence: u32::MAX - 40,
                number: u16::MAX - 3,
                options: options.clone(),
                is_open,
                ..Recipe::default()
            });
            let build = |(client, twist, len, seed): (u8, u8, usize, u8)| {
                let flow = &mut flows[usize::from(client)];
                flow.payload = (0..len).map(|i| (i as u8).wrapping_mul(seed)).collect();
                let mut recipe = flow.clone();
                match twist {
                    0 => recipe.flags |= PSH,
                    1 => recipe.flags |= 1,
                    2 => recipe.flags |= 0x80,
                    3 => recipe.ttl += 1,
                    4 => recipe.tos ^= 3,
                    5 => recipe.sequence = recipe.sequence.wrapping_add(1),
                    6 => recipe.acknowledged += 1,
                    7 => recipe.number = recipe.number.wrapping_add(5),
                    8 => recipe.dont_fragment = !recipe.dont_fragment,
                    9 => recipe.is_open = !recipe.is_open,
                    _ => (),
                }
                flow.sequence = flow.sequence.wrapping_add(len as u32);
                flow.number = flow.number.wrapping_add(1);
                let mut frame = recipe.build();
                let l4 = if is_v6 { IP + 40 } else { IP + 20 };
                match twist {
                    10 if !recipe.is_open => frame.bytes[l4 + 7] ^= 0x55,
                    // A datagram that ends before its packet does.
                    11 if !is_tcp => frame.bytes[l4 + 5] -= 1,
                    13 => frame.ifindex += 1,
                    14 if !is_tcp => frame.bytes[l4 + 6..l4 + 8].fill(0),
                    _ => (),
                }
                frame
            };
            steps.into_iter().map(build).collect()
        })
}

proptest! {
    #[test]
    fn what_is_merged_is_cut_into_what_came(frames in stream()) {
        check(&frames)?;
    }

    #[test]
    fn no_bytes_whatever_upset_it(garbage in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..20)) {
        let frames: Vec<Frame> =
            garbage.into_iter().map(|bytes| Frame { ifindex: 1, bytes, is_checked: true }).collect();
        gather(&mut Coalescer::default(), &frames);
    }

    #[test]
    fn no_flipped_byte_upsets_it(frames in stream(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut frames = frames;
        for (frame, at, value) in flips {
            let bytes = &mut frame.get_mut(&mut frames).bytes;
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        gather(&mut Coalescer::default(), &frames);
    }
}

fn with(change: impl Fn(usize, &mut Recipe)) -> Vec<Recipe> {
    (0..4usize)
        .map(|i| {
            let mut recipe = Recipe { number: 7 + i as u16, ..Recipe::default() };
            change(i, &mut recipe);
            recipe
        })
        .collect()
}

#[test]
fn equal_datagrams_of_a_flow_become_one_and_a_shorter_one_is_the_last() {
    assert_eq!(sizes(&with(|_, _| ())), [4]);
    assert_eq!(sizes(&with(|i, r| r.payload.truncate(if i == 1 { 5 } else { 18 }))), [2, 2]);
    assert_eq!(sizes(&with(|i, r| r.payload.resize(if i == 2 { 19 } else { 18 }, 0))), [2, 2]);
}

#[test]
fn segments_in_sequence_become_one_up_to_a_push() {
    let tcp = |r: &mut Recipe, i: usize| {
        r.protocol = TCP;
        r.sequence = 1000 + 18 * i as u32;
    };
    assert_eq!(sizes(&with(|i, r| tcp(r, i))), [4]);
    assert_eq!(
        sizes(&with(|i, r| {
            tcp(r, i);
            r.flags |= if i == 1 { PSH } else { 0 };
        })),
        [2, 2]
    );
    assert_eq!(
        sizes(&with(|i, r| {
            tcp(r, i);
            r.sequence += u32::from(i == 2);
        })),
        [2, 1, 1]
    );
    assert_eq!(
        sizes(&with(|i, r| {
            tcp(r, i);
            r.flags |= u8::from(i == 3);
        })),
        [3, 1]
    );
}

#[test]
fn flows_that_take_turns_are_merged_each_for_itself() {
    assert_eq!(sizes(&with(|i, r| r.client = i as u8 % 2)), [2, 2]);
}

#[test]
fn identifications_that_do_not_count_up_matter_only_without_df() {
    assert_eq!(sizes(&with(|_, r| r.number = 7)), [4]);
    assert_eq!(sizes(&with(|_, r| (r.number, r.dont_fragment) = (7, false))), [1, 1, 1, 1]);
    assert_eq!(sizes(&with(|_, r| r.dont_fragment = false)), [4]);
}

#[test]
fn a_wrong_checksum_is_passed_on_as_it_is() {
    for wrong in 0..3 {
        let mut frames: Vec<Frame> = with(|_, _| ()).iter().map(Recipe::build).collect();
        frames[wrong].bytes[IP + 26] ^= 1;
        let groups = gather(&mut Coalescer::default(), &frames);
        let alone: Vec<_> = groups.iter().filter(|(members, _)| members == &[wrong]).collect();
        assert_eq!(alone, [&(vec![wrong], frames[wrong].bytes.clone())]);
    }
}

#[test]
fn a_fragment_is_passed_by_nothing_of_its_flow() {
    let mut frames: Vec<Frame> = with(|_, _| ()).iter().map(Recipe::build).collect();
    frames[1].bytes[IP + 6] = 0x20;
    complete(&mut frames[1].bytes, false);
    let members: Vec<_> = gather(&mut Coalescer::default(), &frames).into_iter().map(|(m, _)| m).collect();
    assert_eq!(members, [vec![0], vec![1], vec![2, 3]]);
}

#[test]
fn a_protocol_that_the_kernel_refused_is_merged_no_more() {
    let frames: Vec<Frame> = with(|_, _| ()).iter().map(Recipe::build).collect();
    let mut coalescer = Coalescer::default();
    assert_eq!(gather(&mut coalescer, &frames).len(), 1);
    coalescer.refuse(0);
    assert_eq!(gather(&mut coalescer, &frames).len(), 4);
    let tcp: Vec<Frame> =
        with(|i, r| (r.protocol, r.sequence) = (TCP, 18 * i as u32)).iter().map(Recipe::build).collect();
    assert_eq!(gather(&mut coalescer, &tcp).len(), 1);
}
