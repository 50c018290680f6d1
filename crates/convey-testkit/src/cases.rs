//! The fixtures of this project, written down as what goes in and what must come out. The expected frames
//! are built from their meaning with full checksums; nothing here knows how an engine rewrites.

mod dsr;
mod fragments;
mod icmp;
mod malformed;
mod passed;
mod passthrough;
mod refused;
mod world;

use crate::build::{PacketBuilder, hex};
use crate::fixture::{Case, FixtureFile, Input, Outcome};

/// All files: name without extension, and content.
pub fn all() -> Vec<(&'static str, FixtureFile)> {
    let file =
        |about: &str, cases: Vec<Case>| FixtureFile { about: about.into(), worlds: world::all(), cases };
    [
        ("passthrough", file("Translation in both directions.", passthrough::cases())),
        ("dsr", file("Direct server return by address rewriting and by MAC rewriting.", dsr::cases())),
        ("icmp", file("ICMP errors that follow the flow they quote, and errors of our own.", icmp::cases())),
        ("fragments", file("Datagrams in fragments.", fragments::cases())),
        ("malformed", file("Frames that are not what they say.", malformed::cases())),
        ("passed", file("Frames left to the kernel.", passed::cases())),
        ("refused", file("Packets that cannot be served.", refused::cases())),
    ]
    .map(|(name, mut file): (_, FixtureFile)| {
        file.worlds.retain(|world, _| file.cases.iter().any(|c| c.world == *world));
        (name, file)
    })
    .into()
}

/// A case being written.
pub(crate) struct Draft {
    name: &'static str,
    world: &'static str,
    before: Vec<Input>,
}

pub(crate) fn case(world: &'static str, name: &'static str) -> Draft {
    Draft { name, world, before: Vec::new() }
}

/// A frame from the client side, where interface 1 is.
pub(crate) fn client(packet: PacketBuilder) -> Input {
    input(&packet.macs(world::LB1, world::GATEWAY), 1)
}

/// A frame from the first server, where interface 2 is.
pub(crate) fn server(packet: PacketBuilder) -> Input {
    input(&packet.macs(world::LB2, world::S1), 2)
}

fn input(packet: &PacketBuilder, ingress: u32) -> Input {
    Input { frame: hex(&packet.build()), ingress, now_ms: 1000, partial: None, gso: None }
}

impl Input {
    pub(crate) fn at(mut self, now_ms: u64) -> Self {
        self.now_ms = now_ms;
        self
    }

    pub(crate) fn partial(mut self, packet: &PacketBuilder) -> Self {
        self.partial = Some((packet.transport_offset() as u16, packet.checksum_offset() as u16));
        self
    }

    pub(crate) fn gso(mut self, kind: u8, size: u16) -> Self {
        self.gso = Some((kind, size));
        self
    }

    pub(crate) fn raw(frame: Vec<u8>, ingress: u32) -> Self {
        Self { frame: hex(&frame), ingress, now_ms: 1000, partial: None, gso: None }
    }
}

impl Draft {
    pub(crate) fn after(mut self, before: impl IntoIterator<Item = Input>) -> Self {
        self.before.extend(before);
        self
    }

    /// Goes to the first server.
    pub(crate) fn reaches_server(self, input: Input, expected: PacketBuilder) -> Case {
        self.sent(input, "forward", None, 2, expected.macs(world::S1, world::LB2))
    }

    /// Goes to the second server.
    pub(crate) fn reaches_second(self, input: Input, expected: PacketBuilder) -> Case {
        self.sent(input, "forward", None, 2, expected.macs(world::S2, world::LB2))
    }

    /// Goes to the client's gateway.
    pub(crate) fn reaches_client(self, input: Input, expected: PacketBuilder) -> Case {
        self.sent(input, "forward", None, 1, expected.macs(world::GATEWAY, world::LB1))
    }

    /// Is answered to the client's side.
    pub(crate) fn reply(self, input: Input, reason: &str, expected: PacketBuilder) -> Case {
        self.sent(input, "reply", Some(reason), 1, expected.macs(world::GATEWAY, world::LB1))
    }

    /// Is answered to the first server.
    pub(crate) fn reply_to_server(self, input: Input, reason: &str, expected: PacketBuilder) -> Case {
        self.sent(input, "reply", Some(reason), 2, expected.macs(world::S1, world::LB2))
    }

    pub(crate) fn pass(self, input: Input, reason: &str) -> Case {
        self.ends(input, "pass", reason)
    }

    pub(crate) fn drop(self, input: Input, reason: &str) -> Case {
        self.ends(input, "drop", reason)
    }

    fn sent(
        self,
        input: Input,
        verdict: &str,
        reason: Option<&str>,
        egress: u32,
        expected: PacketBuilder,
    ) -> Case {
        let expect = Outcome {
            verdict: verdict.into(),
            reason: reason.map(Into::into),
            egress: Some(egress),
            frame: Some(hex(&expected.build())),
        };
        self.finish(input, expect)
    }

    fn ends(self, input: Input, verdict: &str, reason: &str) -> Case {
        let expect =
            Outcome { verdict: verdict.into(), reason: Some(reason.into()), egress: None, frame: None };
        self.finish(input, expect)
    }

    fn finish(self, input: Input, expect: Outcome) -> Case {
        Case { name: self.name.into(), world: self.world.into(), before: self.before, input, expect }
    }
}
