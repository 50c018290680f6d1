//! What programs tell those who watch: of which packets, how many at most, and until when. The packets go on as ever.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use std::sync::atomic::Ordering::Relaxed;

use aya::maps::RingBuf;
use convey_bpf::tables::{Config, Decided, Fate, REASONS, Watch, watches};
use convey_bpf::tables::{Hop, Method};
use convey_core::conntrack::{FlowState, Ticks};
use convey_testkit::build::{ACK, RST, SYN};
use convey_testkit::{PacketBuilder, few};
use convey_xdp::kernel::Hook;
use lab::{Lab, Verdict, at, ends, frontend, image, path, server, sizes};
use rustix::time::{ClockId, clock_gettime};

const HOOKS: [Hook; 2] = [Hook::Tc, Hook::Xdp];
/// VIP, NAT address and the client's address, by family.
const WORLDS: [[&str; 4]; 2] = [
    ["192.0.2.10:80", "192.0.2.10", "198.51.100.7:4000", "10.1.0.1:8080"],
    ["[2001:db8::10]:80", "2001:db8::10", "[2001:db8:c::7]:4000", "[2001:db8:1::1]:8080"],
];
/// Nobody is answered, so that what is refused is dropped.
fn lab(hook: Hook) -> Lab {
    let frontends =
        (0..2).map(|i| Some(frontend(WORLDS[i][0], i as u16, &[WORLDS[i][1]]))).collect::<Vec<_>>();
    let servers = WORLDS.iter().map(|[.., to]| server(to, Method::Nat)).collect();
    let paths = WORLDS.iter().map(|[_, nat, _, to]| path(nat, to, 6)).collect();
    let mut image = image(frontends, servers, paths);
    image.config.resets = false;
    let mut lab = Lab::new(hook, &sizes(true), &image);
    for [.., client, _] in WORLDS {
        lab.know(at(client).ip());
    }
    lab
}

fn tick() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let nanos = time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs();
    u64::from(Ticks::from_nanos(nanos).0)
}

fn set(lab: &Lab, word: usize, value: u64) {
    lab.kernel.memory("watches").unwrap().words64().get(word).unwrap().store(value, Relaxed);
}

fn get(lab: &Lab, word: usize) -> u64 {
    lab.kernel.memory("watches").unwrap().words64().get(word).unwrap().load(Relaxed)
}

fn is_watched(lab: &Lab) -> bool {
    lab.kernel.memory("config").unwrap().words64().get(Config::WATCHED).unwrap().load(Relaxed) != 0
}

/// These are watched from now on, and of so many packets may be told.
fn watch(lab: &Lab, filters: &[Watch], leave: u64) {
    for i in 0..4 {
        let bytes = filters.get(i).map_or([0; Watch::BYTES], Watch::to_bytes);
        for (word, bytes) in (watches::FILTERS + i * watches::FILTER..).zip(bytes.chunks_exact(8)) {
            set(lab, word, u64::from_ne_bytes(bytes.try_into().unwrap()));
        }
    }
    set(lab, watches::LEAVE, leave);
    set(lab, watches::RENEWED, tick());
    lab.kernel.memory("config").unwrap().words64().get(Config::WATCHED).unwrap().store(1, Relaxed);
}

/// What was told since the last time.
fn told(lab: &mut Lab) -> Vec<Decided> {
    let mut ring = RingBuf::try_from(lab.kernel.ebpf.map_mut("slow_path").unwrap()).unwrap();
    std::iter::from_fn(|| ring.next().map(|record| Decided::parse(&record).unwrap())).collect()
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn packets_that_are_watched_are_told_as_they_were_decided_and_go_on_as_ever() {
    for &hook in few(&HOOKS) {
        for (slot, [vip, nat, client, server]) in (0u16..).zip(WORLDS) {
            let (plain, mut lab) = (self::lab(hook), lab(hook));
            watch(&lab, &[Watch::default()], 100);
            let syn = PacketBuilder::syn(client, vip).seq(1000, 0);
            let sent = lab.forwards(&syn);
            let (source, _) = ends(&sent);
            assert_eq!(plain.forwards(&syn).len(), sent.len());
            assert_eq!(source.ip().to_string(), nat);
            let answer = PacketBuilder::tcp(server, &source.to_string()).flags(SYN | ACK).seq(5000, 1001);
            lab.forwards(&answer);
            lab.forwards(&PacketBuilder::tcp(client, vip).seq(1001, 5001));
            let stranger = PacketBuilder::tcp(&client.replace("4000", "4001"), vip).flags(RST);
            assert_eq!(lab.run(&stranger.build()).0, Verdict::Drop);
            let forwarded = |met: u8, is_reply, from_to: [std::net::SocketAddr; 2]| Fate::Forwarded {
                slots: [slot, slot],
                met,
                is_reply,
                from_to,
            };
            let no_flow = REASONS.iter().position(|name| *name == "no_flow").unwrap() as u32;
            let fates = [
                ([at(client), at(vip)], forwarded(0, false, [source, at(server)])),
                ([at(server), source], forwarded(FlowState::SynSent as u8, true, [at(vip), at(client)])),
                ([at(client), at(vip)], forwarded(FlowState::SynReceived as u8, false, [source, at(server)])),
                ([at(&client.replace("4000", "4001")), at(vip)], Fate::Dropped(no_flow)),
            ];
            let wanted: Vec<_> =
                fates.into_iter().map(|(from_to, fate)| Decided { protocol: 6, from_to, fate }).collect();
            assert_eq!(told(&mut lab), wanted, "{hook:?} {vip}");
            assert_eq!(get(&lab, watches::LEAVE), 96, "{hook:?}");
        }
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn only_what_a_filter_may_take_is_told_of_and_answers_belong_to_their_client() {
    for &hook in few(&HOOKS) {
        for (family, [vip, _, client, server]) in WORLDS.into_iter().enumerate() {
            let mut lab = lab(hook);
            let source = ends(&lab.forwards(&PacketBuilder::syn(client, vip).seq(1000, 0))).0;
            let answer =
                PacketBuilder::tcp(server, &source.to_string()).flags(SYN | ACK).seq(5000, 1001).build();
            let (ip, other) = (at(client).ip(), at(WORLDS[1 - family][2]).ip());
            let width = if family == 0 { 32 } else { 128 };
            let neighbour = if family == 0 { "198.51.100.6" } else { "2001:db8:c::6" }.parse().unwrap();
            let any = Watch::default();
            let (near, far) = (Some((neighbour, width - 1)), Some((neighbour, width)));
            for (filter, takes) in [
                (any, true),
                (Watch { protocol: 6, ..any }, true),
                (Watch { protocol: 17, ..any }, false),
                (Watch { client: Some((ip, width)), ..any }, true),
                (Watch { client: near, client_port: 4000, ..any }, true),
                (Watch { client: far, ..any }, false),
                (Watch { client: Some((other, 0)), ..any }, false),
                (Watch { client: Some((ip, 0)), ..any }, true),
                (Watch { client_port: 4000, vip_port: 80, ..any }, true),
                (Watch { client_port: 4001, ..any }, false),
                (Watch { vip: Some(at(vip).ip()), ..any }, true),
                (Watch { vip: Some(ip), ..any }, false),
                (Watch { vip_port: 81, ..any }, false),
            ] {
                watch(&lab, &[filter], 100);
                assert_eq!(lab.run(&answer).0, Verdict::Forward);
                assert_eq!(told(&mut lab).len(), usize::from(takes), "{hook:?} {filter:?}");
                // One that takes nothing beside it does not matter, whichever comes first.
                watch(&lab, &[Watch { protocol: 17, ..any }, filter], 100);
                assert_eq!(lab.run(&answer).0, Verdict::Forward);
                assert_eq!(told(&mut lab).len(), usize::from(takes), "{hook:?} {filter:?}");
            }
        }
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn packets_for_which_there_is_no_leave_or_no_room_go_on_and_are_counted_for_who_wanted_them() {
    for &hook in few(&HOOKS) {
        let mut lab = lab(hook);
        let [vip, _, client, _] = WORLDS[0];
        let syn = PacketBuilder::syn(client, vip).seq(1000, 0);
        let lost = |lab: &Lab| (0..4).map(|i| get(lab, watches::LOST + i)).collect::<Vec<_>>();
        let udp = Watch { protocol: 17, ..Watch::default() };
        watch(&lab, &[udp, Watch::default()], 2);
        for _ in 0..5 {
            lab.forwards(&syn);
        }
        assert_eq!(told(&mut lab).len(), 2, "{hook:?}");
        assert_eq!(lost(&lab), [0, 3, 0, 0], "{hook:?}");
        // Half of the ring is for what has to be answered.
        watch(&lab, &[Watch::default()], 1 << 40);
        for _ in 0..3000 {
            assert_eq!(lab.run(&syn.build()).0, Verdict::Forward);
        }
        let told = told(&mut lab).len();
        assert!((1000..1600).contains(&told), "{hook:?}: {told} records in half of 256 KiB");
        assert_eq!(lost(&lab)[0], 3000 - told as u64, "{hook:?}");
        assert_eq!(lab.counted("ring_full"), 0, "{hook:?}");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn programs_stop_telling_by_themselves_a_second_after_user_space_was_heard_of_last() {
    for &hook in few(&HOOKS) {
        let mut lab = lab(hook);
        let [vip, _, client, _] = WORLDS[0];
        let syn = PacketBuilder::syn(client, vip).seq(1000, 0);
        watch(&lab, &[Watch::default()], 100);
        set(&lab, watches::RENEWED, tick() - 55);
        lab.forwards(&syn);
        assert_eq!(told(&mut lab).len(), 1, "{hook:?}");
        set(&lab, watches::RENEWED, tick() - 70);
        lab.forwards(&syn);
        assert!(told(&mut lab).is_empty() && !is_watched(&lab), "{hook:?}: nobody reads it");
        // A change of the configuration does not begin it anew, nor end it.
        let mut image = image(vec![], vec![], vec![]);
        lab.install(&image);
        assert!(!is_watched(&lab), "{hook:?}");
        watch(&lab, &[Watch::default()], 100);
        image.config.max_connections = 5;
        lab.install(&image);
        assert!(is_watched(&lab), "{hook:?}");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn what_is_not_decided_by_the_program_is_not_told_by_it() {
    for &hook in few(&HOOKS) {
        let mut lab = lab(hook);
        let [vip, _, client, _] = WORLDS[0];
        watch(&lab, &[Watch::default()], 100);
        let elsewhere = PacketBuilder::syn(client, "192.0.2.99:80");
        assert_eq!(lab.run(&elsewhere.build()).0, Verdict::Pass);
        assert!(told(&mut lab).is_empty(), "{hook:?}: not ours");
        let mut image = image(
            vec![Some(frontend(vip, 0, &["192.0.2.10"]))],
            vec![server("10.1.0.1:8080", Method::Nat)],
            vec![path("192.0.2.10", "10.1.0.1:8080", 6)],
        );
        image.servers[0].as_mut().unwrap().hop = Hop::default();
        lab.install(&image);
        assert_eq!(lab.run(&PacketBuilder::syn(client, vip).build()).0, Verdict::Drop);
        let up = lab::handed_up(&mut lab);
        assert_eq!(up.iter().map(|(reason, ..)| *reason).collect::<Vec<_>>(), ["no_next_hop"], "{hook:?}");
    }
}
