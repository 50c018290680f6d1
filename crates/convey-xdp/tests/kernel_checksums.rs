//! Frames of which a network card has taken the sum (CHECKSUM_COMPLETE): it is right after the program at tc, too.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use std::io;

use convey_bpf::tables::Method;
use convey_testkit::PacketBuilder;
use convey_testkit::build::{ACK, SYN};
use convey_xdp::kernel::Hook;
use lab::test_run::{TestRun, program};
use lab::{Lab, at, ends, frontend, image, path, server, sizes};

const REDIRECT: u32 = 7;

/// The frame that leaves; EBADMSG where the sum does not fit it any more.
fn forwards(lab: &Lab, packet: &PacketBuilder) -> io::Result<Vec<u8>> {
    let (frame, mut sent) = (packet.build(), vec![0; 256]);
    let program = program(&lab.kernel);
    let run = TestRun { program, frame: &frame, context: &[], checksum_complete: true, repeat: 1 };
    let (verdict, len) = run.run(&mut sent)?;
    assert_eq!(verdict, REDIRECT);
    sent.truncate(len);
    Ok(sent)
}

fn lab(v6: bool, passthrough: bool) -> Lab {
    let (vip, to) =
        if v6 { ("[2001:db8::10]:80", "[2001:db8:1::1]:8080") } else { ("192.0.2.10:80", "10.1.0.1:8080") };
    let nat = at(vip).ip().to_string();
    let tcp = frontend(vip, 0, &[&nat]);
    let mut udp = tcp.clone();
    udp.protocol = 17;
    let method = if passthrough { Method::Nat } else { Method::Rewrite };
    let paths = vec![path(&nat, to, 6), path(&nat, to, 17)];
    let mut lab = Lab::new(
        Hook::Tc,
        &sizes(passthrough),
        &image(vec![Some(tcp), Some(udp)], vec![server(to, method)], paths),
    );
    lab.know(at(client(v6)).ip());
    lab
}

const fn client(v6: bool) -> &'static str {
    if v6 { "[2001:db8:c::7]:4000" } else { "198.51.100.7:4000" }
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn the_sum_of_a_network_card_fits_what_is_sent_on() {
    for v6 in [false, true] {
        for passthrough in [true, false] {
            let lab = lab(v6, passthrough);
            let vip = if v6 { "[2001:db8::10]:80" } else { "192.0.2.10:80" };
            let fits = |what: &str, packet: &PacketBuilder| {
                let sent = forwards(&lab, packet);
                sent.unwrap_or_else(|e| panic!("{what}, IPv6 {v6}, passthrough {passthrough}: {e}"))
            };
            let sent = fits("a SYN", &PacketBuilder::syn(client(v6), vip).seq(1000, 0));
            let (nat, to) = ends(&sent);
            if passthrough {
                let answer = PacketBuilder::tcp(&to.to_string(), &nat.to_string()).flags(SYN | ACK);
                fits("its answer", &answer.seq(5000, 1001).tcp_options(&[2, 4, 5, 180]));
            }
            fits("data", &PacketBuilder::tcp(client(v6), vip).seq(1001, 5001).payload(b"odd").ttl(7));
            fits("with padding", &PacketBuilder::tcp(client(v6), vip).seq(1001, 5001).trailer(6));
            let datagram = PacketBuilder::udp(client(v6), vip).payload(b"question");
            let (nat, to) = ends(&fits("a datagram", &datagram));
            fits("one without a checksum", &datagram.clone().no_checksum());
            if passthrough {
                let answer = PacketBuilder::udp(&to.to_string(), &nat.to_string()).payload(b"answer");
                fits("its answer", &answer);
                fits("one without a checksum", &answer.no_checksum());
            }
        }
    }
}
