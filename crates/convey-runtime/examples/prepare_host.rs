//! Prepares this host as a passthrough balancer would, gives up what privileges it can, says "ready", and takes
//! everything back when its input ends: `prepare_host <state folder> <interface> <vip:port> <first NAT port> <last NAT port> [nft] [flows] [filter]`; with `flows` it
//! keeps an empty table of flows in shared memory, too, with `filter` a program of engine "tc" at clsact, as on kernels without TCX.

use std::io::Read;
use std::net::SocketAddr;

use convey_afpacket::share_flows;
use convey_core::{Mode, Protocol};
use convey_engine::{Layout, PacketOptions, SlotTable};
use convey_runtime::EngineChoice;
use convey_runtime::host::{Host, HostSpec, check_privileges, drop_capabilities, kept_capabilities};
use convey_xdp::kernel::{Hook, Kernel, Sizes};
use convey_xdp::{Endpoint, GuardMethod, GuardRules, NatRange, netlink};

const SIZES: Sizes = Sizes {
    passthrough: true,
    minimal: false,
    sets4: 16,
    sets6: 16,
    nat_first: 40_000,
    nat_width: 100,
    paths: 1,
    frontends: 1,
    servers: 1,
    backends: 1,
    ring_bytes: 1 << 14,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [state_dir, interface, vip, from, to, rest @ ..] = args.as_slice() else {
        return Err(
            "usage: prepare_host <state folder> <interface> <vip:port> <first port> <last port> [nft] [flows] [filter]"
                .into(),
        );
    };
    check_privileges(Mode::Passthrough)?;
    let addr: SocketAddr = vip.parse()?;
    let protocol = Protocol::Tcp;
    let mut host = Host::install(&HostSpec {
        interfaces: vec![interface.clone()],
        rules: GuardRules {
            vips: vec![Endpoint { protocol, addr }],
            nat: vec![NatRange { protocol, addr: addr.ip(), ports: from.parse()?..=to.parse()? }],
            servers: Vec::new(),
        },
        guard: rest.iter().any(|a| a == "nft").then_some(GuardMethod::Nft),
        state_dir: state_dir.into(),
    })?;
    let mut memory = Vec::new();
    if rest.iter().any(|a| a == "flows") {
        let options = PacketOptions { capacity: 64, ..PacketOptions::default() };
        memory = share_flows(&host.keep_flows()?, &Layout::new(Mode::Passthrough, &options), false)?;
        host.write_slots(&SlotTable::default())?;
    }
    let mut kernel = None;
    if rest.iter().any(|a| a == "filter") {
        let index = netlink::interface_index(interface)?.ok_or("no such interface")?;
        let handle = host.prepare_filter(index)?;
        let mut program = Kernel::load(Hook::Tc, &SIZES)?;
        program.attach_filter(index, handle)?;
        kernel = Some(program);
    }
    for note in host.notes() {
        println!("{note}");
    }
    drop_capabilities(kept_capabilities(Mode::Passthrough, EngineChoice::Auto))?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop((memory, kernel));
    for line in host.close()? {
        println!("{line}");
    }
    Ok(())
}
