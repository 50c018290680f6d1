//! Who gives way to a new flow where there is no room, and who never does.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use convey_bpf::tables::Method;
use convey_core::conntrack::{FlowState, FlowTable};
use convey_testkit::build::{ACK, RST, SYN};
use convey_testkit::{PacketBuilder, few};
use convey_xdp::kernel::{Hook, Sizes};
use lab::tables::{age, assert_settles, flows, read};
use lab::{Lab, Verdict, at, ends, frontend, handed_up, image, path, server, sizes};

/// Of either family.
const ENTRIES: u64 = 64;

#[derive(Debug, Clone, Copy)]
struct Setup {
    passthrough: bool,
    v6: bool,
}

const NAT: Setup = Setup { passthrough: true, v6: false };
const NAT6: Setup = Setup { passthrough: true, v6: true };
const DSR: Setup = Setup { passthrough: false, v6: false };
const DSR6: Setup = Setup { passthrough: false, v6: true };

impl Setup {
    fn vip(self) -> &'static str {
        if self.v6 { "[2001:db8::10]" } else { "192.0.2.10" }
    }

    fn server(self) -> &'static str {
        if self.v6 { "[2001:db8:1::1]:80" } else { "10.1.0.1:80" }
    }

    fn client(self, n: u16) -> String {
        if self.v6 { format!("[2001:db8:c::7]:{}", 2000 + n) } else { format!("198.51.100.7:{}", 2000 + n) }
    }

    /// TCP in slot 0, UDP in slot 1.
    fn lab(self, hook: Hook) -> Lab {
        let nat = at(&format!("{}:0", self.vip())).ip().to_string();
        let listen = format!("{}:80", self.vip());
        let tcp = frontend(&listen, 0, &[&nat]);
        let mut udp = tcp.clone();
        udp.protocol = 17;
        let method = if self.passthrough { Method::Nat } else { Method::Rewrite };
        let paths = vec![path(&nat, self.server(), 6), path(&nat, self.server(), 17)];
        let sizes = Sizes { sets4: 16, sets6: 32, nat_width: 1000, ..sizes(self.passthrough) };
        let image = image(vec![Some(tcp), Some(udp)], vec![server(self.server(), method)], paths);
        let mut lab = Lab::new(hook, &sizes, &image);
        lab.know(at(&self.client(0)).ip());
        lab
    }

    fn syn(self, n: u16) -> PacketBuilder {
        PacketBuilder::syn(&self.client(n), &format!("{}:80", self.vip())).seq(1000, 0)
    }

    fn segment(self, n: u16, flags: u8) -> PacketBuilder {
        PacketBuilder::tcp(&self.client(n), &format!("{}:80", self.vip())).flags(flags).seq(1001, 5001)
    }

    /// Opens a connection; whether there was room.
    fn opens(self, lab: &Lab, n: u16) -> bool {
        let (verdict, sent) = lab.run(&self.syn(n).build());
        if verdict != Verdict::Forward {
            return false;
        }
        if self.passthrough {
            let (nat, server) = ends(&sent);
            let answer = PacketBuilder::tcp(&server.to_string(), &nat.to_string()).flags(SYN | ACK);
            lab.forwards(&answer.seq(5000, 1001));
        }
        lab.forwards(&self.segment(n, ACK));
        true
    }

    fn flows(self, lab: &Lab) -> FlowTable {
        flows(&lab.kernel, self.passthrough)
    }

    /// How many flows are in this state.
    fn count(self, lab: &Lab, state: FlowState) -> usize {
        let mut count = 0;
        self.flows(lab).take_all(|flow| count += usize::from(flow.state == state));
        count
    }
}

fn half_open(lab: &Lab) -> u64 {
    let shared: [u8; 24] = read(&lab.kernel, "shared")[0];
    u64::from_ne_bytes(shared[16..].try_into().unwrap())
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_flood_of_first_packets_takes_a_quarter_of_the_table_and_no_connection() {
    for setup in [NAT, NAT6, DSR, DSR6] {
        for &hook in few(&[Hook::Tc, Hook::Xdp]) {
            let lab = setup.lab(hook);
            let open = (0..ENTRIES as u16 / 4).filter(|n| setup.opens(&lab, *n)).count();
            assert_eq!(open as u64, ENTRIES / 4);
            for n in 100..600 {
                lab.forwards(&setup.syn(n));
            }
            let quarter = ENTRIES / 4;
            assert_eq!(half_open(&lab), quarter, "{setup:?} {hook:?}");
            assert_eq!(setup.count(&lab, FlowState::SynSent) as u64, quarter);
            assert_eq!(setup.count(&lab, FlowState::Established), open);
            assert_eq!(lab.counted("half_open_evicted"), 500 - quarter);
            assert_eq!(lab.counted("flow_evicted"), 0);
            for n in 0..open as u16 {
                lab.forwards(&setup.segment(n, ACK));
            }
            assert_eq!(lab.counted("flow_begun"), open as u64 + 500, "they went on");
            assert_settles(setup.flows(&lab));
        }
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn in_passthrough_connections_give_way_to_nobody_and_closed_ones_to_all() {
    for setup in [NAT, NAT6] {
        let mut lab = setup.lab(Hook::Tc);
        let open: Vec<u16> = (0..200).filter(|n| setup.opens(&lab, *n)).collect();
        assert_eq!(open.len() as u64, ENTRIES, "{setup:?}: all entries are in use");
        handed_up(&mut lab);
        assert_eq!(lab.run(&setup.syn(500).build()).0, Verdict::Drop);
        assert_eq!(handed_up(&mut lab)[0].0, "flow_table_full", "{setup:?}");
        for n in &open {
            lab.forwards(&setup.segment(*n, ACK));
        }
        assert_eq!(lab.counted("flow_evicted") + lab.counted("half_open_evicted"), 0);
        for n in &open {
            lab.forwards(&setup.segment(*n, RST | ACK));
        }
        for n in 500..530 {
            assert!(setup.opens(&lab, n), "{setup:?}");
        }
        assert_eq!(lab.counted("flow_evicted") + lab.counted("half_open_evicted"), 0, "{setup:?}");
        assert_settles(setup.flows(&lab));
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn idle_udp_conversations_give_way_and_busy_ones_do_not() {
    for setup in [NAT, NAT6] {
        let mut lab = setup.lab(Hook::Xdp);
        let vip = format!("{}:80", setup.vip());
        let asks = |lab: &Lab, n| lab.run(&PacketBuilder::udp(&setup.client(n), &vip).payload(&[1]).build());
        for n in 0..200 {
            let (verdict, sent) = asks(&lab, n);
            if verdict == Verdict::Forward {
                let (nat, server) = ends(&sent);
                lab.forwards(&PacketBuilder::udp(&server.to_string(), &nat.to_string()).payload(&[2]));
                asks(&lab, n);
            }
        }
        assert_eq!(setup.count(&lab, FlowState::UdpStream) as u64, ENTRIES, "{setup:?}");
        assert_eq!(asks(&lab, 700).0, Verdict::Drop, "{setup:?}: all are busy");
        assert_eq!(lab.counted("flow_evicted"), 0);
        // Brief ones give way after two seconds.
        age(&mut lab.kernel, 130);
        assert_eq!(asks(&lab, 701).0, Verdict::Forward, "{setup:?}");
        assert_eq!(lab.counted("flow_evicted"), 1, "{setup:?}");
        assert_settles(setup.flows(&lab));
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn in_dsr_the_least_recently_used_flow_of_all_gives_way() {
    for setup in [DSR, DSR6] {
        let mut lab = setup.lab(Hook::Tc);
        for n in 0..300 {
            assert!(setup.opens(&lab, n), "{setup:?}");
        }
        let open = setup.count(&lab, FlowState::Established) as u64;
        assert!(open > ENTRIES * 9 / 10, "{setup:?} {open}");
        assert_eq!(lab.counted("flow_evicted"), 300 - open, "{setup:?}");
        // One that was used a moment ago stays.
        age(&mut lab.kernel, 1000);
        lab.forwards(&setup.segment(299, ACK));
        for n in 1000..1020 {
            lab.forwards(&setup.syn(n));
        }
        let before = lab.counted("flow_begun");
        lab.forwards(&setup.segment(299, ACK));
        assert_eq!(lab.counted("flow_begun"), before, "{setup:?}");
        assert_settles(setup.flows(&lab));
    }
}
