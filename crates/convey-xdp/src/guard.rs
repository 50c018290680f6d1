//! Keeps the kernel from answering what the engine forwards: `guard.c` at TCX ingress, or nft where BPF is refused.
//!
//! Between two lives of a balancer the kernel must stay silent as well, or it resets every connection whose
//! packets it sees. So the program hangs twice on an interface: by a link, first in its chain, which goes with the
//! process; and by a clsact filter ([`Guard::keep_after_death`]), which stays and has to be remembered, as an nft
//! table has ([`Guard::nft_table`]). Dropping a [`Guard`] takes away the link and the table, not the filters.

use std::collections::HashMap;

use aya::maps::{MapData, PerCpuArray};
use aya::programs::tc::{SchedClassifierLinkId, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};

use crate::error::reason;
use crate::netlink::{Hook, interface_name};
use crate::ours::{MOST_ADDRESSES, Ours, map_error, missing};
use crate::rules::Entries;
use crate::{GuardRules, XdpError, filter, nft};

const PROGRAM: &str = "convey_guard";

/// How the kernel is kept out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardMethod {
    /// A kernel program at TCX ingress.
    Bpf,
    /// A table of nft's netdev family.
    Nft,
}

/// Packets kept from the kernel since the guard was installed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuardDrops {
    /// To a VIP.
    pub to_vip: u64,
    /// From a server to a NAT port.
    pub from_server: u64,
    /// ICMP errors about handled packets.
    pub icmp_errors: u64,
}

/// An installed guard.
#[derive(Debug)]
pub struct Guard {
    works: Works,
    interfaces: Vec<u32>,
    bpf_refused: Option<String>,
}

#[derive(Debug)]
enum Works {
    Bpf(Box<Program>),
    Nft { table: String, rules: GuardRules },
}

#[derive(Debug)]
struct Program {
    ebpf: Ebpf,
    links: HashMap<u32, SchedClassifierLinkId>,
    ours: Ours,
}

impl Guard {
    /// Keeps the kernel of this network namespace from what `rules` names, on the interfaces with these indices.
    ///
    /// `method` `None` tries the kernel program, then nft. `id` names the nft table, `convey_<id>`; a table
    /// of that name is replaced. Rules apply from the first moment a program is attached.
    ///
    /// # Errors
    /// [`XdpError::NoGuard`] when neither works; the method's own error when `method` is given. Nothing is left.
    pub fn install(
        id: &str,
        interfaces: &[u32],
        rules: &GuardRules,
        method: Option<GuardMethod>,
    ) -> Result<Self, XdpError> {
        let with = |works, bpf_refused| Self { works, interfaces: interfaces.to_vec(), bpf_refused };
        if method != Some(GuardMethod::Nft) {
            match Program::install(interfaces, rules) {
                Ok(program) => return Ok(with(Works::Bpf(Box::new(program)), None)),
                Err(error) if method == Some(GuardMethod::Bpf) || matches!(error, XdpError::Rules(_)) => {
                    return Err(error);
                }
                Err(bpf) => {
                    let bpf = reason(&bpf);
                    let works = install_nft(id, interfaces, rules)
                        .map_err(|nft| XdpError::NoGuard { bpf: bpf.clone(), nft: reason(&nft) })?;
                    return Ok(with(works, Some(bpf)));
                }
            }
        }
        Ok(with(install_nft(id, interfaces, rules)?, None))
    }

    /// Brings interfaces and rules up to date. What is new is guarded before what is old is released, and what
    /// is in both is guarded throughout.
    ///
    /// # Errors
    /// [`XdpError`]; the former rules then still hold, possibly with some of the new ones beside them.
    pub fn update(&mut self, interfaces: &[u32], rules: &GuardRules) -> Result<(), XdpError> {
        match &mut self.works {
            Works::Bpf(program) => program.update(interfaces, rules)?,
            Works::Nft { table, rules: old } => {
                nft::run(&nft::guard_ruleset(table, &names(interfaces)?, rules)?)?;
                rules.clone_into(old);
            }
        }
        self.interfaces = interfaces.to_vec();
        Ok(())
    }

    /// The interfaces it stands on, by index, also after [`Guard::update`] failed on some.
    pub fn interfaces(&self) -> Vec<u32> {
        match &self.works {
            Works::Bpf(program) => program.links.keys().copied().collect(),
            Works::Nft { .. } => self.interfaces.clone(),
        }
    }

    /// How the kernel is kept out.
    pub fn method(&self) -> GuardMethod {
        match self.works {
            Works::Bpf(_) => GuardMethod::Bpf,
            Works::Nft { .. } => GuardMethod::Nft,
        }
    }

    /// Why the kernel program is not used, where nft stands in for it.
    pub fn bpf_refused(&self) -> Option<&str> {
        self.bpf_refused.as_deref()
    }

    /// The nft table, if that is the method.
    pub fn nft_table(&self) -> Option<&str> {
        match &self.works {
            Works::Bpf(_) => None,
            Works::Nft { table, .. } => Some(table),
        }
    }

    /// Keeps the guard on the interface, which needs a clsact qdisc, also after this process, until
    /// [`remove_kept`] with the same handle ([`crate::next_handle`]). An nft table stays by itself.
    ///
    /// # Errors
    /// [`XdpError`]; the guard stands as before.
    pub fn keep_after_death(&mut self, interface: u32, handle: u32) -> Result<(), XdpError> {
        match &mut self.works {
            Works::Bpf(program) => {
                let program = classifier(&mut program.ebpf)?;
                filter::attach(program, PROGRAM, interface, Hook::Ingress, handle)
            }
            Works::Nft { .. } => Ok(()),
        }
    }

    /// Packets kept from the kernel; `None` with nft, which counts in its own rules (`nft list ruleset`).
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn drops(&self) -> Result<Option<GuardDrops>, XdpError> {
        match &self.works {
            Works::Bpf(program) => program.drops().map(Some),
            Works::Nft { .. } => Ok(None),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Works::Nft { table, .. } = &self.works {
            // Nobody is left to tell; the table's name stands in the journal of whoever installed it.
            let _ = nft::delete_table(table);
        }
    }
}

/// Takes away what [`Guard::keep_after_death`] left on an interface. Returns whether it was there.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn remove_kept(interface: u32, handle: u32) -> Result<bool, XdpError> {
    filter::detach(interface, Hook::Ingress, handle, PROGRAM)
}

fn names(interfaces: &[u32]) -> Result<Vec<String>, XdpError> {
    interfaces.iter().map(|&index| interface_name(index)).collect()
}

fn install_nft(id: &str, interfaces: &[u32], rules: &GuardRules) -> Result<Works, XdpError> {
    let table = nft::guard_table(id);
    nft::run(&nft::guard_ruleset(&table, &names(interfaces)?, rules)?)?;
    Ok(Works::Nft { table, rules: rules.clone() })
}

impl Program {
    fn install(interfaces: &[u32], rules: &GuardRules) -> Result<Self, XdpError> {
        let entries = Entries::of(rules)?;
        let refused = |e: &(dyn std::error::Error + 'static)| XdpError::load(PROGRAM, e);
        // No CO-RE: reading the kernel's types would only cost time.
        // As many addresses as a configuration can have; memory is taken for those that are there.
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .map_max_entries("vips", MOST_ADDRESSES)
            .map_max_entries("nat", MOST_ADDRESSES)
            .load(convey_bpf::guard())
            .map_err(|e| refused(&e))?;
        classifier(&mut ebpf)?.load().map_err(|e| refused(&e))?;
        let mut program = Self { ebpf, links: HashMap::new(), ours: Ours::default() };
        program.ours.add(&mut program.ebpf, &entries)?;
        for &index in interfaces {
            program.attach(index)?;
        }
        Ok(program)
    }

    fn attach(&mut self, index: u32) -> Result<(), XdpError> {
        let interface = interface_name(index)?;
        let link = classifier(&mut self.ebpf)?
            .attach_with_options(
                &interface,
                TcAttachType::Ingress,
                // In front of other programs: what they do with a frame must not depend on ours.
                TcAttachOptions::TcxOrder(LinkOrder::first()),
            )
            .map_err(|e| XdpError::Attach {
                program: PROGRAM,
                interface,
                reason: reason(&e),
                source: Some(Box::new(e)),
            })?;
        self.links.insert(index, link);
        Ok(())
    }

    fn update(&mut self, interfaces: &[u32], rules: &GuardRules) -> Result<(), XdpError> {
        let next = Entries::of(rules)?;
        self.ours.add(&mut self.ebpf, &next)?;
        // One that has just been removed must not keep the others unguarded.
        let mut failed = Ok(());
        for &index in interfaces {
            if !self.links.contains_key(&index)
                && let Err(error) = self.attach(index)
            {
                failed = failed.and(Err(error));
            }
        }
        failed?;
        let gone: Vec<u32> = self.links.keys().filter(|i| !interfaces.contains(i)).copied().collect();
        for index in gone {
            if let Some(link) = self.links.remove(&index) {
                // Fails only when the interface, and the link with it, is gone already.
                let _ = classifier(&mut self.ebpf)?.detach(link);
            }
        }
        self.ours.remove_stale(&mut self.ebpf, &next)
    }

    fn drops(&self) -> Result<GuardDrops, XdpError> {
        let data = self.ebpf.map("drops").ok_or_else(|| missing("drops"))?;
        let counters: PerCpuArray<&MapData, u64> =
            PerCpuArray::try_from(data).map_err(|e| map_error("drops", &e))?;
        let total = |index: u32| {
            let per_cpu = counters.get(&index, 0).map_err(|e| map_error("drops", &e))?;
            Ok::<u64, XdpError>(per_cpu.iter().sum())
        };
        Ok(GuardDrops { to_vip: total(1)?, from_server: total(2)?, icmp_errors: total(3)? })
    }
}

fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, XdpError> {
    let program = ebpf
        .program_mut(PROGRAM)
        .ok_or_else(|| XdpError::object(PROGRAM, "the object has no such program"))?;
    program.try_into().map_err(|e| XdpError::load(PROGRAM, &e))
}
