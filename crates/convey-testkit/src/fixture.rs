//! The fixtures' format: see `fixtures/README.md`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One file of fixtures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixtureFile {
    /// What the file is about.
    pub about: String,
    /// Configurations with their surroundings, by name.
    pub worlds: BTreeMap<String, World>,
    /// The cases.
    pub cases: Vec<Case>,
}

/// A configuration with its surroundings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// `passthrough` or `dsr`.
    pub mode: String,
    /// `rewrite` or `l2`.
    pub dsr_method: String,
    /// `reset` or `drop`.
    pub refusal: String,
    /// First and last NAT port; one port where a case depends on which is taken.
    pub nat_ports: (u16, u16),
    /// Frontends.
    pub frontends: Vec<WorldFrontend>,
    /// Servers of the only backend.
    pub servers: Vec<WorldServer>,
    /// Interfaces.
    pub links: Vec<WorldLink>,
    /// Routes.
    pub routes: Vec<WorldRoute>,
    /// Neighbours.
    pub neighbours: Vec<WorldNeighbour>,
}

/// A frontend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldFrontend {
    /// Its name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `ip:port`.
    pub listen: String,
}

/// A server; it serves the frontends of its family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldServer {
    /// Its name.
    pub name: String,
    /// `ip:port`.
    pub addr: String,
    /// Its share.
    pub weight: u16,
    /// Whether it is up.
    pub up: bool,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldLink {
    /// Its index.
    pub ifindex: u32,
    /// Its MAC, 12 hexadecimal digits.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldRoute {
    /// Network address.
    pub network: String,
    /// Prefix length in bits.
    pub prefix_len: u8,
    /// Interface.
    pub ifindex: u32,
    /// Gateway, if any.
    pub gateway: Option<String>,
}

/// A neighbour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldNeighbour {
    /// Interface.
    pub ifindex: u32,
    /// Address.
    pub ip: String,
    /// Its MAC, 12 hexadecimal digits.
    pub mac: String,
}

/// A frame that comes in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Hexadecimal digits.
    pub frame: String,
    /// Interface it comes in on.
    pub ingress: u32,
    /// Milliseconds since the start.
    pub now_ms: u64,
    /// CHECKSUM_PARTIAL: start (from the first byte of the frame) and offset of the field (from start).
    pub partial: Option<(u16, u16)>,
    /// GSO: type and segment payload size.
    pub gso: Option<(u8, u16)>,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// `forward`, `reply`, `pass` or `drop`.
    pub verdict: String,
    /// Reason of a pass or drop; what a reply is, a dot, and why.
    pub reason: Option<String>,
    /// Interface it leaves by.
    pub egress: Option<u32>,
    /// The frame that leaves, hexadecimal digits.
    pub frame: Option<String>,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Unique over all files; a sentence.
    pub name: String,
    /// Name of a world of the same file.
    pub world: String,
    /// Frames that came before, whose outcomes do not matter here.
    pub before: Vec<Input>,
    /// The frame.
    pub input: Input,
    /// What becomes of it.
    pub expect: Outcome,
}

/// Where the files lie.
pub fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures"))
}

/// All files, by name.
///
/// # Errors
/// A file that cannot be read or is not of the format, with its path.
pub fn load_all() -> Result<Vec<(String, FixtureFile)>, String> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(directory()).map_err(|e| format!("{}: {e}", directory().display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.extension().is_some_and(|e| e == "json") {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let file = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
            files.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), file));
        }
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}
