//! The system calls that have no safe form: two socket options, a signal handler that runs on every thread, and the
//! end of the process.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// Ends the process with this code, now: nothing is flushed or freed, no thread is waited for, not even one that
/// hangs in the kernel.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: it takes a number and never returns, so nothing can be used afterwards.
    unsafe { libc::_exit(code) }
}

/// Whether something keeps the system clock right, as the kernel was told; `None` where it does not tell.
pub fn clock_is_synchronized() -> Option<bool> {
    // SAFETY: timex is plain old data, for which all zeroes is a value; with no modes set it only reads.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: timex lives across the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    (state >= 0).then_some(timex.status & libc::STA_UNSYNC == 0)
}

/// Names the network namespace of the calling thread: its cookie, never used twice before the next boot, or the
/// inode number on kernels before 5.14.
pub fn netns_id() -> String {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    if let Ok(fd) = socket(AddressFamily::UNIX) {
        // SAFETY: value and length point to live locals of the size named, and fd is open.
        let done = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        if done == 0 && cookie != 0 {
            return format!("cookie-{cookie:x}");
        }
    }
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata("/proc/thread-self/ns/net").map(|m| m.ino()).unwrap_or(0);
    format!("inode-{inode:x}")
}

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_LRO: u32 = 1 << 15;

#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

fn ethtool(interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let fd = socket(AddressFamily::INET)?;
    // SAFETY: ifreq is plain old data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero and ends the name.
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    let mut value = EthtoolValue { command, data };
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: request and the value it points to live across the call; both commands use a struct ethtool_value.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if done == 0 { Ok(value.data) } else { Err(io::Error::last_os_error()) }
}

/// Whether large receive offload is on; `None` where it cannot be told.
pub fn lro(interface: &str) -> Option<bool> {
    ethtool(interface, ETHTOOL_GFLAGS, 0).ok().map(|flags| flags & ETH_FLAG_LRO != 0)
}

/// Switches large receive offload.
///
/// # Errors
/// The driver's.
pub fn set_lro(interface: &str, on: bool) -> io::Result<()> {
    let flags = ethtool(interface, ETHTOOL_GFLAGS, 0)?;
    let flags = if on { flags | ETH_FLAG_LRO } else { flags & !ETH_FLAG_LRO };
    ethtool(interface, ETHTOOL_SFLAGS, flags).map(drop)
}

// ---- Capabilities on every thread ----
//
// capset(2) and the bounding set belong to a thread, and Node's threads (libuv, V8, the inspector) exist before
// any of our code runs. So each thread is sent a signal whose handler gives up its own capabilities, as glibc
// does for setuid(2), and with the same signal: 33. It is the one that threads cannot block by pthread_sigmask;
// Node's SignalInspector thread blocks all others. glibc's handler for it ignores what it did not send itself,
// and ours passes on whatever does not carry our mark.

const BROADCAST: libc::c_int = 33;
const SI_QUEUE: libc::c_int = -1;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_LAST: u64 = 63;

/// Capabilities to keep, as bits; read by the handler.
static KEEP: AtomicU64 = AtomicU64::new(0);
/// Address and flags of the handler that was there before ours.
static FORMER: AtomicU64 = AtomicU64::new(0);

/// `struct sigaction` as the kernel takes it; libc refuses to touch signal 33.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelAction {
    handler: usize,
    flags: libc::c_ulong,
    #[cfg(target_arch = "x86_64")]
    restorer: usize,
    mask: u64,
}

/// `siginfo_t` as rt_tgsigqueueinfo(2) takes it, on 64-bit machines.
#[repr(C)]
struct QueuedInfo {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    padding: libc::c_int,
    pid: libc::c_int,
    uid: libc::c_uint,
    value: usize,
    rest: [u64; 12],
}
const _: () = assert!(size_of::<QueuedInfo>() == 128);

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// x86-64 leaves it to user space to return from a handler.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn restorer() {
    // 15 is rt_sigreturn.
    std::arch::naked_asm!("mov eax, 15", "syscall")
}

fn mark() -> usize {
    (&raw const KEEP) as usize
}

extern "C" fn on_broadcast(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo to a SA_SIGINFO handler; for SI_QUEUE it has the layout above.
    let (code, value) = unsafe { ((*info).si_code, (*info.cast::<QueuedInfo>()).value) };
    if code == SI_QUEUE && value == mark() {
        // SAFETY: errno is this thread's; the interrupted code must find it unchanged.
        unsafe {
            let errno = *libc::__errno_location();
            reduce_this_thread(KEEP.load(Ordering::Relaxed));
            *libc::__errno_location() = errno;
        }
        return;
    }
    let former = FORMER.load(Ordering::Relaxed) as usize;
    if former > 1 {
        // SAFETY: it was the installed handler of this signal, and libc's handlers for it take three arguments.
        let former: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(former) };
        former(signal, info, context);
    }
}

/// Gives up what is not in `keep`. Only system calls: safe in a signal handler.
pub fn reduce_this_thread(keep: u64) {
    for cap in 0..=CAP_LAST {
        if keep & (1 << cap) == 0 {
            // SAFETY: takes numbers only. Refused without CAP_SETPCAP and for numbers the kernel does not know.
            unsafe {
                libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0);
                libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_LOWER, cap, 0, 0);
            }
        }
    }
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 reads and writes one header and two data structs, which live here.
    unsafe {
        if libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) != 0 {
            return;
        }
        for (half, data) in data.iter_mut().enumerate() {
            let keep = (keep >> (32 * half)) as u32;
            data.effective &= keep;
            data.permitted &= keep;
            data.inheritable &= keep;
        }
        libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr());
    }
}

/// The installed handler; while it lives, [`Broadcast::send`] makes a thread keep only `keep`.
pub struct Broadcast {
    former: KernelAction,
}

impl Broadcast {
    /// Installs the handler. One at a time: the caller holds a lock.
    ///
    /// # Errors
    /// The kernel's.
    pub fn install(keep: u64) -> io::Result<Self> {
        KEEP.store(keep, Ordering::Relaxed);
        #[cfg(target_arch = "x86_64")]
        const SA_RESTORER: libc::c_ulong = 0x0400_0000;
        #[cfg(not(target_arch = "x86_64"))]
        const SA_RESTORER: libc::c_ulong = 0;
        let action = KernelAction {
            handler: on_broadcast as *const () as usize,
            flags: (libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK) as libc::c_ulong | SA_RESTORER,
            #[cfg(target_arch = "x86_64")]
            restorer: restorer as *const () as usize,
            mask: 0,
        };
        let mut former = action;
        exchange_action(None, Some(&mut former))?;
        // Before ours can run, so that it never misses whom to pass a stranger's signal on to.
        FORMER.store(former.handler as u64, Ordering::Relaxed);
        exchange_action(Some(&action), None)?;
        Ok(Self { former })
    }

    /// Signals one thread of this process. Returns false when it is gone.
    pub fn send(&self, tid: i32) -> bool {
        // SAFETY: getpid and getuid cannot fail; the info is of the size the kernel reads, and lives here.
        unsafe {
            let info = QueuedInfo {
                signal: BROADCAST,
                errno: 0,
                code: SI_QUEUE,
                padding: 0,
                pid: libc::getpid(),
                uid: libc::getuid(),
                value: mark(),
                rest: [0; 12],
            };
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, info.pid, tid, BROADCAST, &raw const info) == 0
        }
    }

    /// Puts the former handler back. Only when every signal sent has been handled: with the default action one
    /// that is still under way would end the process.
    pub fn restore(self) {
        // A failure leaves our handler, which passes everything on.
        let _ = exchange_action(Some(&self.former), None);
    }
}

fn exchange_action(new: Option<&KernelAction>, old: Option<&mut KernelAction>) -> io::Result<()> {
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    let old = old.map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: both are null or point to live structs of the kernel's layout; the mask is 8 bytes there.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigaction, BROADCAST, new, old, 8usize) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
