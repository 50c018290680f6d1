//! The programs in the kernel as what feeds an engine: their maps, their interfaces, their counters.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use aya::maps::Map;
use convey_afpacket::workers::{Intake, Scope, lock};
use convey_core::Event;
use convey_core::EventSink;
use convey_core::conntrack::Memory;
use convey_core::nat_ports::{Partition, PortPool};
use convey_engine::{
    EngineError, EngineErrorKind, EngineSetup, EngineStats, KernelGauges, KernelMemory, NatPath, NextHops,
    PacketSnapshot, PathNumbers, PoolMemory, XdpMode,
};

use super::attach::{WayOn, refused};
use super::counts::{Counts, Refusals, SlotCounts};
use super::pins::{Pins, path_as_written, path_of_record};
use super::ring::{ClientHops, OpenChecksums};
use super::slot_uses::SlotUses;
use super::watched::Watched;
use crate::interface::{Refused, can_send, refusal};
use crate::kernel::{Kernel, Sizes, TableRecord, Tables};
use crate::lower::{self, Ways};
use crate::mapped::MapMemory;
use crate::netlink::interface_name;
use crate::{XdpError, kernel::Hook};

/// The programs at work.
pub(super) struct Programs {
    state: Mutex<State>,
    sizes: Sizes,
    /// All NAT ports.
    nat_ports: MapMemory,
    slot_uses: SlotUses,
    paths: Arc<PathNumbers>,
    client_hops: Arc<Mutex<ClientHops>>,
    open_checksums: Arc<OpenChecksums>,
    way: WayOn,
    events: EventSink,
    pins: Option<Pins>,
}

struct State {
    kernel: Kernel,
    counts: Counts,
    snapshot: Arc<PacketSnapshot>,
    next_hops: Arc<NextHops>,
    /// Of the next hops: grows with each change.
    generation: u32,
    /// Why interfaces cannot be taken.
    refused: Refused,
    /// Those by which XDP cannot send.
    mute: BTreeSet<u32>,
    told_slow: bool,
    told_checksums: bool,
    /// What another process has written is in force until the network is known.
    waits: bool,
    /// As written down.
    record: Option<TableRecord>,
}

impl Programs {
    /// Loads them with the tables of `snapshot`, on no interface yet. With tables of another process, what that one has
    /// written is in force until [`Programs::begin`].
    pub(super) fn load(
        hook: Hook,
        setup: &EngineSetup,
        pins: Option<Pins>,
    ) -> Result<Arc<Self>, EngineError> {
        let (snapshot, events) = (setup.snapshot.clone(), setup.events.clone());
        let adopted = pins.as_ref().and_then(|pins| pins.adopted.clone());
        let sizes = match &adopted {
            Some(record) => record.sizes,
            None => super::sizes::of(&snapshot)?,
        };
        let tables = match &pins {
            None => Tables::Own,
            Some(pins) if adopted.is_some() => Tables::Adopted(pins.folder.clone()),
            Some(pins) => Tables::Pinned(pins.folder.clone()),
        };
        let mut kernel = Kernel::load_with(hook, &sizes, &tables).map_err(|e| refused(hook, &e))?;
        kernel.replaces(pins.as_ref().map(|pins| pins.former.clone()).unwrap_or_default());
        let known = kernel.hop_generation();
        let programs = Self {
            nat_ports: kernel.memory("nat_ports").map_err(|e| refused(hook, &e))?,
            slot_uses: SlotUses::new(&kernel.memory("slot_uses").map_err(|e| refused(hook, &e))?),
            paths: Arc::default(),
            client_hops: Arc::new(Mutex::new(ClientHops::new(
                take(&mut kernel, "client_hops").map_err(|e| refused(hook, &e))?,
            ))),
            open_checksums: Arc::default(),
            way: WayOn {
                mode: snapshot.options().xdp_mode,
                on_filter: setup.on_filter.clone(),
                tcx: setup.tcx,
            },
            state: Mutex::new(State {
                refused: Refused::new(!snapshot.options().interfaces.is_empty(), events.clone()),
                counts: counts(&mut kernel).map_err(|e| refused(hook, &e))?,
                kernel,
                snapshot: snapshot.clone(),
                next_hops: Arc::default(),
                // What was remembered of clients goes by it.
                generation: if known == u32::MAX { 0 } else { known },
                mute: BTreeSet::new(),
                told_checksums: false,
                told_slow: false,
                waits: adopted.is_some(),
                record: None,
            }),
            sizes,
            events,
            pins,
        };
        if let Some(record) = adopted {
            programs.paths.adopt(record.paths.iter().map(|path| path.map(path_of_record)).collect());
            let state = &mut *lock(&programs.state);
            state.counts.begin_after(&snapshot);
            state.record = Some(record);
        } else {
            programs.install(snapshot)?;
        }
        Ok(Arc::new(programs))
    }

    /// The network is known: the programs go by the snapshot and next hops of this process, in place of another's.
    pub(super) fn begin(&self) -> Result<(), EngineError> {
        let state = &mut *lock(&self.state);
        state.kernel.detach_strays();
        if std::mem::take(&mut state.waits) {
            let snapshot = state.snapshot.clone();
            self.write(state, &snapshot)?;
        }
        Ok(())
    }

    /// Whether they forward without this process.
    pub(super) fn are_pinned(&self) -> bool {
        self.pins.is_some()
    }

    /// The programs go by this snapshot.
    pub(super) fn install(&self, snapshot: Arc<PacketSnapshot>) -> Result<(), EngineError> {
        let state = &mut *lock(&self.state);
        state.counts.collect(&state.snapshot);
        self.write(state, &snapshot)?;
        state.snapshot = snapshot;
        Ok(())
    }

    fn write(&self, state: &mut State, snapshot: &PacketSnapshot) -> Result<(), EngineError> {
        super::sizes::check(snapshot, &self.sizes)?;
        let is_held = |number| PortPool::in_memory(self.partition(), self.pool_words(number)).held() > 0;
        let paths = self.paths.assign(snapshot, self.sizes.paths as usize, is_held);
        let paths = paths.ok_or_else(|| super::sizes::too_many_paths(snapshot, &self.sizes))?;
        self.write_down(state, &paths);
        let ways = Ways { next_hops: &state.next_hops, mute: &state.mute };
        let image = lower::image(snapshot, &ways, state.generation, &paths, self.sizes.sets4.max(1));
        state.kernel.install(&image).map_err(|e| {
            EngineError::new(EngineErrorKind::Failed, format!("The kernel programs' tables: {e}"), "")
        })
    }

    /// What numbers stand for is on disk before a flow names them.
    fn write_down(&self, state: &mut State, paths: &[Option<NatPath>]) {
        let Some(pins) = &self.pins else { return };
        let record =
            TableRecord::new(self.sizes, paths.iter().map(|path| path.map(path_as_written)).collect());
        if state.record.as_ref() != Some(&record) {
            state.record = (pins.write)(&record).then_some(record);
        }
    }

    /// Looks by which interfaces XDP cannot send: what leaves there takes the way through user space.
    fn find_mute(&self, state: &mut State) {
        if state.kernel.hook == Hook::Tc || self.way.mode == XdpMode::Generic {
            return;
        }
        let held = state.kernel.interfaces();
        let links = state.next_hops.links().all_usable().map(|link| link.ifindex);
        // What comes by the only one goes back by it, which needs no redirection.
        let is_only = |ifindex| held == [ifindex];
        let mute = links.filter(|&ifindex| !is_only(ifindex) && !can_send(ifindex)).collect();
        for &ifindex in BTreeSet::difference(&mute, &state.mute) {
            let Ok(name) = interface_name(ifindex) else { continue };
            let message = format!(
                "XDP cannot send by {name}: what leaves there takes the way through user space, which is slow; {}",
                "at the other end of a veth \"ethtool -K <device> gro on\" helps"
            );
            (self.events)(Event::Warning { message });
        }
        state.mute = mute;
    }

    const fn partition(&self) -> Partition {
        Partition {
            first: self.sizes.nat_first,
            last: (self.sizes.nat_first as u32 + self.sizes.nat_width - 1) as u16,
            stride: 1,
            remainder: 0,
        }
    }

    fn pool_words(&self, number: u16) -> Memory<std::sync::atomic::AtomicU64> {
        let words = PortPool::words(self.partition());
        self.nat_ports.part64(usize::from(number) * words, words)
    }

    /// Their tables, for the worker beside them.
    pub(super) fn memory(self: &Arc<Self>) -> Result<KernelMemory, XdpError> {
        let state = lock(&self.state);
        let map = |name| state.kernel.memory(name);
        let programs = Arc::downgrade(self);
        Ok(KernelMemory {
            flows: [map("flows4")?.words32(), map("flows6")?.words32()],
            spills: [map("spills4")?.words32(), map("spills6")?.words32()],
            later_syns: map("later_syns")?.words64(),
            half_open: map("shared")?.part64(2, 1),
            gauges: KernelGauges {
                total: map("shared")?.part64(0, 2),
                frontends: map("frontend_gauges")?.words64(),
                servers: map("server_gauges")?.words64(),
            },
            pools: PoolMemory {
                paths: self.paths.clone(),
                words: Arc::new(move |number| {
                    programs.upgrade().map_or_else(|| Memory::own(0), |p| p.pool_words(number))
                }),
            },
        })
    }

    /// What they are to tell of.
    pub(super) fn watched(&self) -> Result<Watched, XdpError> {
        let state = lock(&self.state);
        Ok(Watched::new(state.kernel.memory("config")?.words64(), state.kernel.memory("watches")?.words64()))
    }

    /// The ring by which packets are handed up.
    pub(super) fn ring<T: TryFrom<Map, Error = aya::maps::MapError>>(&self) -> Result<T, XdpError> {
        take(&mut lock(&self.state).kernel, "slow_path")
    }

    pub(super) fn client_hops(&self) -> Arc<Mutex<ClientHops>> {
        self.client_hops.clone()
    }

    /// Takes the packets of these interfaces, and of no others any more; returns those where the program is.
    pub(super) fn attach(&self, interfaces: &[u32]) -> Vec<u32> {
        let state = &mut *lock(&self.state);
        let held = state.kernel.interfaces();
        for &ifindex in interfaces.iter().filter(|ifindex| !held.contains(ifindex)) {
            match self.way.attach(&mut state.kernel, ifindex) {
                Ok(()) => state.refused.remove(ifindex),
                Err(error) => state.refused.add(ifindex, error),
            }
        }
        for gone in held.into_iter().filter(|i| !interfaces.contains(i)) {
            state.kernel.detach(gone);
        }
        state.kernel.interfaces()
    }

    /// From now on an interface that cannot be taken is a warning. Tells why the engine cannot start, if so.
    pub(super) fn started(&self) -> Option<EngineError> {
        let state = &mut *lock(&self.state);
        let interfaces = state.kernel.interfaces().len();
        state.refused.started(interfaces)
    }

    pub(super) fn open_checksums(&self) -> Arc<OpenChecksums> {
        self.open_checksums.clone()
    }

    pub(super) fn collect(&self) {
        let state = &mut *lock(&self.state);
        state.counts.collect(&state.snapshot);
        self.slot_uses.collect(&state.snapshot);
        if state.kernel.hook == Hook::Xdp && !state.told_checksums && self.open_checksums.count() > 0 {
            state.told_checksums = true;
            let names = self.open_checksums.interfaces();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let message =
                refusal::open_checksums(&names, "they take the way through user space, which is slow");
            (self.events)(Event::Warning { message });
        }
    }

    pub(super) fn add_to(&self, stats: &mut EngineStats) {
        let state = lock(&self.state);
        state.counts.add_to(stats);
        if state.kernel.hook == Hook::Xdp {
            stats.noted.push(("open_checksum", self.open_checksums.count()));
        }
    }
}

impl Intake for Programs {
    /// Interfaces are taken by [`Programs::attach`], the scope is in the maps.
    fn listen(&self, _scope: &Scope, _interfaces: &[u32]) -> io::Result<()> {
        Ok(())
    }

    fn next_hops(&self, next_hops: &Arc<NextHops>) {
        let state = &mut *lock(&self.state);
        state.next_hops = next_hops.clone();
        self.find_mute(state);
        let former = state.generation;
        state.generation = former % (u32::MAX - 1) + 1;
        {
            let mut client_hops = lock(&self.client_hops);
            client_hops.generation = Some(state.generation);
            client_hops.mute.clone_from(&state.mute);
            if former != 0 {
                client_hops.renew(next_hops, former);
            }
        }
        if state.waits {
            return;
        }
        let snapshot = state.snapshot.clone();
        let tell = |kernel: &mut Kernel| {
            let links = kernel.interfaces().into_iter().filter_map(|i| next_hops.links().usable(i));
            links.into_iter().try_for_each(|link| kernel.set_address(link.ifindex, link.mac)).map_err(|e| {
                EngineError::new(EngineErrorKind::Failed, format!("The addresses of interfaces: {e}"), "")
            })
        };
        if let Err(error) = tell(&mut state.kernel).and_then(|()| self.write(state, &snapshot)) {
            let message = format!("Next hops of the kernel programs are not up to date: {error}");
            (self.events)(Event::Warning { message });
        }
        if !next_hops.is_by_destination() && !state.told_slow {
            state.told_slow = true;
            let message = "Routes here depend on more than the destination (rules or several paths): every packet takes the \
                           way through user space; engine \"af_packet\" is faster then"
                .to_owned();
            (self.events)(Event::Warning { message });
        }
    }
}

fn counts(kernel: &mut Kernel) -> Result<Counts, XdpError> {
    let gauges = |kernel: &Kernel, name| Ok::<_, XdpError>(kernel.memory(name)?.words64());
    let frontends = gauges(kernel, "frontend_gauges")?;
    let servers = gauges(kernel, "server_gauges")?;
    Ok(Counts {
        frontends: SlotCounts::new(take(kernel, "frontend_traffic")?, frontends),
        servers: SlotCounts::new(take(kernel, "server_traffic")?, servers),
        refusals: Refusals::new(take(kernel, "refusals")?),
        reasons: take(kernel, "reasons")?,
        nat_port_probes: take(kernel, "nat_port_probes")?,
    })
}

fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(
    kernel: &mut Kernel,
    name: &'static str,
) -> Result<T, XdpError> {
    let missing = || XdpError::Map { map: name, reason: "the object has no such map".into() };
    let map = kernel.ebpf.take_map(name).ok_or_else(missing)?;
    T::try_from(map).map_err(|e| XdpError::Map { map: name, reason: crate::error::reason(&e) })
}
