//! Privileges: which are needed, whether they are there, and giving up the rest on every thread.
//!
//! Kept in the packet modes, because a reload and the undoing at the end need them:
//!
//! | capability | for |
//! | --- | --- |
//! | CAP_NET_ADMIN | attaching the guard there, nft, reserved ports, neighbour resolution |
//! | CAP_BPF | the guard's maps on kernels before 6.0, its program on a new interface |
//! | CAP_NET_BIND_SERVICE | the HTTP port, when a reload moves it below 1024 |
//!
//! CAP_NET_RAW goes: the packet sockets are opened once and see every interface. With AF_XDP it stays, and CAP_IPC_LOCK
//! with it: an interface that comes gets sockets of its own, and memory for their frames. Proxy mode keeps CAP_NET_BIND_SERVICE alone. The bounding set shrinks with the others, so that a child
//! process of root does not get back what its parent gave up.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use convey_core::Mode;
use convey_engine::EngineKind;

use super::sys;
use crate::ladder::EngineChoice;

/// A capability that some mode needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// CAP_NET_BIND_SERVICE.
    NetBindService,
    /// CAP_NET_ADMIN.
    NetAdmin,
    /// CAP_NET_RAW.
    NetRaw,
    /// CAP_IPC_LOCK.
    IpcLock,
    /// CAP_BPF.
    Bpf,
}

impl Capability {
    /// As in capabilities(7).
    pub fn name(self) -> &'static str {
        match self {
            Self::NetBindService => "CAP_NET_BIND_SERVICE",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::Bpf => "CAP_BPF",
        }
    }

    fn bit(self) -> u64 {
        1 << match self {
            Self::NetBindService => 10,
            Self::NetAdmin => 12,
            Self::NetRaw => 13,
            Self::IpcLock => 14,
            Self::Bpf => 39,
        }
    }
}

/// What a mode still needs once everything is set up, with the engine that was asked for.
pub fn kept_capabilities(mode: Mode, engine: EngineChoice) -> &'static [Capability] {
    use Capability::{Bpf, IpcLock, NetAdmin, NetBindService, NetRaw};
    match (mode, engine) {
        (Mode::Proxy, _) => &[NetBindService],
        (_, EngineChoice::Only(EngineKind::AfXdp)) => &[NetBindService, NetAdmin, NetRaw, IpcLock, Bpf],
        (Mode::Passthrough | Mode::Dsr, _) => &[NetBindService, NetAdmin, Bpf],
    }
}

/// A privilege without which a mode cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} needs {}, which this process does not have; run it as root (sudo), or give the capabilities to node \
     (sudo setcap cap_net_raw,cap_net_admin,cap_bpf+ep \"$(readlink -f \"$(command -v node)\")\"), or to its systemd unit \
     (AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN CAP_BPF)",
    names(missing)
)]
pub struct MissingPrivilege {
    /// What needs it.
    pub what: &'static str,
    /// The capabilities that are missing.
    pub missing: Vec<Capability>,
}

fn names(capabilities: &[Capability]) -> String {
    capabilities.iter().map(|c| c.name()).collect::<Vec<_>>().join(" and ")
}

/// Whether the calling thread may do what the mode takes. CAP_BPF is not asked for: nft stands in.
///
/// # Errors
/// [`MissingPrivilege`].
pub fn check_privileges(mode: Mode) -> Result<(), MissingPrivilege> {
    let what = match mode {
        Mode::Proxy => return Ok(()),
        Mode::Passthrough => "passthrough mode",
        Mode::Dsr => "dsr mode",
    };
    require(what, &[Capability::NetRaw, Capability::NetAdmin])
}

/// Whether the calling thread has these capabilities; `what` says in the error who needs them.
///
/// # Errors
/// [`MissingPrivilege`].
pub fn require(what: &'static str, needed: &[Capability]) -> Result<(), MissingPrivilege> {
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective.bits()).unwrap_or(0);
    let missing: Vec<_> = needed.iter().filter(|c| effective & c.bit() == 0).copied().collect();
    if missing.is_empty() { Ok(()) } else { Err(MissingPrivilege { what, missing }) }
}

/// What [`drop_capabilities`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropReport {
    /// Threads that have only what was to be kept.
    pub threads: usize,
    /// What is left of what was to be kept: no more than there was before.
    pub kept: Vec<Capability>,
    /// Whether the bounding set shrank too; it takes CAP_SETPCAP, which only root usually has.
    pub bounding: bool,
}

/// Why capabilities are still there.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// The kernel refused a step.
    #[error("cannot give up capabilities: {0}")]
    Refused(#[from] std::io::Error),
    /// Some threads did not answer.
    #[error("the threads {0:?} still have capabilities that should be gone; they may block signal 33")]
    Threads(Vec<i32>),
}

/// Makes every thread of this process keep only `keep`, for good, and verifies it in /proc. Threads started
/// later inherit it. System calls of other threads may see EINTR.
///
/// # Errors
/// [`DropError`]; some threads may have given theirs up by then.
pub fn drop_capabilities(keep: &[Capability]) -> Result<DropReport, DropError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    const PATIENCE: Duration = Duration::from_secs(2);
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);

    let keep_bits = keep.iter().fold(0, |bits, c| bits | c.bit());
    let broadcast = sys::Broadcast::install(keep_bits)?;
    let me = rustix::thread::gettid().as_raw_nonzero().get();
    let before = ThreadCapabilities::of(me)?;
    const CAP_SETPCAP: u64 = 1 << 8;
    // Without it the bounding set cannot change; whoever started the process has not given it to begin with.
    let bounding = before.effective & CAP_SETPCAP != 0;

    sys::reduce_this_thread(keep_bits);
    let mut signalled = HashSet::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let excessive = |tid: &i32| {
            // A thread whose status cannot be read has ended.
            ThreadCapabilities::of(*tid).is_ok_and(|c| c.exceed(keep_bits, bounding))
        };
        let threads = thread_ids()?;
        let count = threads.len();
        let left: Vec<i32> = threads.into_iter().filter(excessive).collect();
        if left.is_empty() {
            broadcast.restore();
            let now = ThreadCapabilities::of(me)?;
            let kept = keep.iter().filter(|c| now.permitted & c.bit() != 0).copied().collect();
            return Ok(DropReport { threads: count, kept, bounding });
        }
        if Instant::now() > deadline {
            // The handler stays: a signal may still be under way.
            return Err(DropError::Threads(left));
        }
        for tid in left {
            // Once each: real-time signals queue, and the last must be handled before the handler goes.
            if tid != me && signalled.insert(tid) {
                broadcast.send(tid);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn thread_ids() -> std::io::Result<Vec<i32>> {
    let mut ids = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        ids.extend(task?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(ids)
}

/// The capability sets of one thread, as /proc shows them.
#[derive(Debug, Clone, Copy, Default)]
struct ThreadCapabilities {
    inheritable: u64,
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
}

impl ThreadCapabilities {
    fn of(tid: i32) -> std::io::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status"))?;
        let mut sets = Self::default();
        for line in status.lines() {
            let Some((name, value)) = line.split_once(":\t") else { continue };
            let field = match name {
                "CapInh" => &mut sets.inheritable,
                "CapPrm" => &mut sets.permitted,
                "CapEff" => &mut sets.effective,
                "CapBnd" => &mut sets.bounding,
                "CapAmb" => &mut sets.ambient,
                _ => continue,
            };
            *field = u64::from_str_radix(value.trim(), 16).map_err(std::io::Error::other)?;
        }
        Ok(sets)
    }

    fn exceed(self, keep: u64, bounding: bool) -> bool {
        let mut has = self.inheritable | self.permitted | self.effective | self.ambient;
        if bounding {
            has |= self.bounding;
        }
        has & !keep != 0
    }
}
