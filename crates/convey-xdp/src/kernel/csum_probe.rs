//! What the running kernel can do with checksums.

use std::sync::OnceLock;

use aya::EbpfLoader;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};

/// Whether bpf_l4_csum_replace knows IPv6 (Linux 6.16). Asked once; where it cannot be asked, it does not.
pub fn takes_csum_ipv6() -> bool {
    static TAKES: OnceLock<bool> = OnceLock::new();
    *TAKES.get_or_init(|| probe().unwrap_or(false))
}

fn probe() -> Option<bool> {
    let mut ebpf = EbpfLoader::new().btf(None).load(convey_bpf::csum_probe()).ok()?;
    let program: &mut SchedClassifier = ebpf.program_mut("csum_probe")?.try_into().ok()?;
    program.load().ok()?;
    let frame = [0; 64];
    let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
    Some(program.test_run(options).ok()?.return_value == 1)
}
