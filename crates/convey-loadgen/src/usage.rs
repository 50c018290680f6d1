//! CPU time of processes and stolen time of the machine, from /proc.

use std::collections::HashMap;
use std::fs;

use crate::Failure;
use crate::args::Args;

/// The kernel reports in units of 1/100 s to user space on every architecture we run on.
const TICKS_A_SECOND: f64 = 100.0;

/// Whose time is to be read.
#[derive(Debug, Default)]
pub struct Watch {
    /// The processes measured.
    pub pids: Vec<u32>,
    /// Those that load them or are loaded by them; the generator itself always counts among them.
    pub beside: Vec<u32>,
    /// The core whose busy time counts, whoever has it.
    pub core: Option<usize>,
}

impl Watch {
    /// Reads `--watch pid,…`, `--beside pid,…` and `--core n`.
    ///
    /// # Errors
    /// A value does not parse.
    pub fn parse(args: &Args) -> Result<Self, Failure> {
        let mut beside = args.list("beside")?;
        beside.push(std::process::id());
        Ok(Self { pids: args.list("watch")?, beside, core: args.optional("core")? })
    }
}

/// CPU used up to one moment.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// User and system seconds of the watched processes, all threads, dead ones included.
    pub cpu_s: f64,
    /// Nanoseconds on a core of each thread of the watched processes: 1/100 s is much where little is done.
    pub threads: HashMap<u32, u64>,
    /// The same of the generator and the processes beside it.
    pub beside_s: f64,
    /// Seconds the watched core was not idle, interrupts included; 0 when none is watched.
    pub core_s: f64,
    /// Seconds over all CPUs that the hypervisor gave to somebody else.
    pub steal_s: f64,
    /// All seconds of all CPUs.
    pub machine_s: f64,
}

impl Usage {
    /// Reads /proc now; a process that is gone counts as 0.
    pub fn now(watch: &Watch) -> Self {
        let of = |pids: &[u32]| {
            pids.iter()
                .filter_map(|pid| process_seconds(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
                .sum()
        };
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let all = core_seconds(&stat, "cpu").unwrap_or_default();
        let core = watch.core.and_then(|n| core_seconds(&stat, &format!("cpu{n}"))).unwrap_or_default();
        Self {
            cpu_s: of(&watch.pids),
            threads: watch.pids.iter().flat_map(|&pid| threads(pid)).collect(),
            beside_s: of(&watch.beside),
            core_s: core.busy,
            steal_s: all.steal,
            machine_s: all.all,
        }
    }

    /// Seconds on a core of the watched threads; what threads used that have ended is not in it.
    pub fn threads_s(&self) -> f64 {
        self.threads.values().sum::<u64>() as f64 / 1e9
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: &Self) -> Self {
        let threads = self.threads.into_iter().map(|(thread, ns)| {
            (thread, ns.saturating_sub(earlier.threads.get(&thread).copied().unwrap_or_default()))
        });
        Self {
            threads: threads.collect(),
            cpu_s: self.cpu_s - earlier.cpu_s,
            beside_s: self.beside_s - earlier.beside_s,
            core_s: self.core_s - earlier.core_s,
            steal_s: self.steal_s - earlier.steal_s,
            machine_s: self.machine_s - earlier.machine_s,
        }
    }
}

/// Nanoseconds on a core by thread.
fn threads(pid: u32) -> Vec<(u32, u64)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .filter_map(|task| {
            let task = task.ok()?;
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let ns = text.split_ascii_whitespace().next()?.parse().ok()?;
            Some((task.file_name().to_str()?.parse().ok()?, ns))
        })
        .collect()
}

fn process_seconds(stat: &str) -> Option<f64> {
    // The command name may hold spaces and brackets; the fields are counted from the last bracket.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_A_SECOND)
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct CoreSeconds {
    busy: f64,
    steal: f64,
    all: f64,
}

/// The line `name` of /proc/stat: "cpu" is all of them together.
fn core_seconds(stat: &str, name: &str) -> Option<CoreSeconds> {
    let line = stat.lines().find(|line| line.split_ascii_whitespace().next() == Some(name))?;
    let ticks: Vec<f64> = line.split_ascii_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is already in user.
    let all: f64 = ticks.iter().take(8).sum();
    let (idle, steal) = (ticks.get(3)? + ticks.get(4)?, *ticks.get(7)?);
    let seconds = |ticks: f64| ticks / TICKS_A_SECOND;
    Some(CoreSeconds { busy: seconds(all - idle - steal), steal: seconds(steal), all: seconds(all) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 9 9 20 0 1 0 5";
        assert_eq!(process_seconds(stat), Some(2.0));
    }

    #[test]
    fn a_thread_counts_from_when_it_was_first_seen_and_not_after_its_end() {
        let of =
            |threads: &[(u32, u64)]| Usage { threads: threads.iter().copied().collect(), ..Usage::default() };
        let used =
            of(&[(1, 1_500_000_000), (3, 250_000_000)]).since(&of(&[(1, 500_000_000), (2, 9_000_000_000)]));
        assert!((used.threads_s() - 1.25).abs() < 1e-9, "{used:?}");
    }

    #[test]
    fn a_core_is_busy_when_it_is_neither_idle_nor_waiting_nor_stolen() {
        let stat =
            "cpu  100 0 100 700 0 0 50 50 9 9\ncpu1 10 20 30 500 40 1 9 5 7 7\ncpu10 1 1 1 1 1 1 1 1 1 1";
        assert_eq!(core_seconds(stat, "cpu"), Some(CoreSeconds { busy: 2.5, steal: 0.5, all: 10.0 }));
        assert_eq!(core_seconds(stat, "cpu1"), Some(CoreSeconds { busy: 0.7, steal: 0.05, all: 6.15 }));
        assert_eq!(core_seconds(stat, "cpu2"), None);
    }
}
