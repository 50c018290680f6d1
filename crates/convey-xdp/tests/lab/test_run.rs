//! A program run by BPF_PROG_TEST_RUN with what aya's call leaves out: flags, and a descriptor that threads share.

use std::io;

use aya::programs::{SchedClassifier, Xdp};
use convey_xdp::kernel::{Hook, Kernel};
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// `union bpf_attr` of BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct Attribute {
    program: u32,
    verdict: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_F_TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// The descriptor of the engine's program, open for as long as `kernel` lives.
pub fn program(kernel: &Kernel) -> RawFd {
    let program = kernel.ebpf.program(kernel.hook.program()).unwrap();
    match kernel.hook {
        Hook::Tc => <&SchedClassifier>::try_from(program).unwrap().fd().unwrap().as_fd().as_raw_fd(),
        Hook::Xdp => <&Xdp>::try_from(program).unwrap().fd().unwrap().as_fd().as_raw_fd(),
    }
}

/// One run.
pub struct TestRun<'a> {
    pub program: RawFd,
    pub frame: &'a [u8],
    /// `struct __sk_buff` or `struct xdp_md`; may be empty.
    pub context: &'a [u8],
    /// tc, since Linux 6.16: as if a network card had taken the sum of the frame, which must be right afterwards.
    pub checksum_complete: bool,
    pub repeat: u32,
}

impl TestRun<'_> {
    /// What the program returned, and how long the frame in `sent` is. EBADMSG: the network card's sum is wrong now.
    pub fn run(&self, sent: &mut [u8]) -> io::Result<(u32, usize)> {
        let mut attribute = Attribute {
            program: self.program.unsigned_abs(),
            data_size_in: self.frame.len() as u32,
            data_size_out: sent.len() as u32,
            data_in: self.frame.as_ptr() as u64,
            data_out: if sent.is_empty() { 0 } else { sent.as_mut_ptr() as u64 },
            repeat: self.repeat,
            context_size_in: self.context.len() as u32,
            context_in: if self.context.is_empty() { 0 } else { self.context.as_ptr() as u64 },
            flags: if self.checksum_complete { BPF_F_TEST_SKB_CHECKSUM_COMPLETE } else { 0 },
            ..Attribute::default()
        };
        let size = size_of::<Attribute>();
        // SAFETY: the kernel reads and writes the buffers, which are as long as told, and `attribute`, during the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attribute, size) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((attribute.verdict, attribute.data_size_out as usize))
    }
}
