//! The way back to the kernel for frames that the packet path leaves to it.
//!
//! They are fragments whose first belongs to another service of this host, and packets that make sense to the kernel
//! alone. A call takes about ten microseconds, so strangers who send such packets get no more than a budget.

use std::time::{Duration, Instant};

use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use crate::XdpError;

const PROGRAM: &str = "convey_pass";

/// Frames a second.
const BUDGET: u32 = 5000;

/// Gives frames to the kernel as if an interface had received them.
#[derive(Debug)]
pub struct GiveBack {
    ebpf: Ebpf,
    left: u32,
    since: Instant,
}

impl GiveBack {
    /// Loads the program for it.
    ///
    /// # Errors
    /// [`XdpError::Load`].
    pub fn load() -> Result<Self, XdpError> {
        let refused = |e: &(dyn std::error::Error + 'static)| XdpError::load(PROGRAM, e);
        let mut ebpf = EbpfLoader::new().btf(None).load(convey_bpf::pass()).map_err(|e| refused(&e))?;
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .ok_or_else(|| XdpError::object(PROGRAM, "the object has no such program"))?
            .try_into()
            .map_err(|e: aya::programs::ProgramError| refused(&e))?;
        program.load().map_err(|e| refused(&e))?;
        Ok(Self { ebpf, left: BUDGET, since: Instant::now() })
    }

    /// Gives it a frame; whether it took it.
    pub fn give(&mut self, ifindex: u32, frame: &[u8]) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            (self.left, self.since) = (BUDGET, Instant::now());
        }
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        let program: Option<&Xdp> = self.ebpf.program(PROGRAM).and_then(|program| program.try_into().ok());
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat();
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            attrs: TestRunAttrs::new().xdp_live_frames(1),
            ..TestRunOptions::new()
        };
        program.is_some_and(|program| program.test_run(options).is_ok())
    }
}
