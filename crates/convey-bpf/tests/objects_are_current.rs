//! The committed objects are what the sources compile to.

use std::path::Path;
use std::process::Command;

fn instructions(object: &Path) -> String {
    let output =
        Command::new("llvm-objdump-16").arg("-d").arg(object).output().expect("llvm-objdump-16 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("objdump prints text");
    // The first lines name the file.
    text.lines().skip_while(|line| !line.starts_with("Disassembly")).collect::<Vec<_>>().join("\n")
}

fn compiler_is_here() -> bool {
    Command::new("clang-16").arg("--version").output().is_ok()
        && Command::new("llvm-objdump-16").arg("--version").output().is_ok()
}

#[test]
#[ignore = "needs clang-16, llvm-16 and libbpf-dev"]
fn committed_objects_have_the_instructions_of_their_sources() {
    assert!(compiler_is_here(), "install clang-16 llvm-16 libbpf-dev, or leave this test out");
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = std::env::temp_dir().join(format!("convey-bpf-{}", std::process::id()));
    let build = Command::new(crate_dir.join("build.sh")).arg(&fresh).output().expect("build.sh runs");
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    for object in [
        "guard.o",
        "af_xdp.o",
        "pass.o",
        "dsr_egress.o",
        "tc.o",
        "xdp.o",
        "csum_probe.o",
        "wrapper.o",
        "reference.o",
        "generator.o",
    ] {
        let committed = instructions(&crate_dir.join("objects").join(object));
        assert!(!committed.is_empty());
        assert_eq!(committed, instructions(&fresh.join(object)), "run crates/convey-bpf/build.sh ({object})");
    }
    std::fs::remove_dir_all(&fresh).expect("the scratch folder can be removed");
}
