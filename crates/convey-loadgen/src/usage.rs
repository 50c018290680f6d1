//! CPU time of processes and stolen time of the machine, from /proc.

use std::fs;

/// The kernel reports in units of 1/100 s to user space on every architecture we run on.
const TICKS_A_SECOND: f64 = 100.0;

/// CPU used up to one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system seconds of the watched processes, all threads, dead ones included.
    pub cpu_s: f64,
    /// Seconds over all CPUs that the hypervisor gave to somebody else.
    pub steal_s: f64,
    /// All seconds of all CPUs.
    pub machine_s: f64,
}

impl Usage {
    /// Reads /proc now; a process that is gone counts as 0.
    pub fn now(pids: &[u32]) -> Self {
        let cpu_s = pids
            .iter()
            .filter_map(|pid| process_seconds(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
            .sum();
        let (steal_s, machine_s) =
            fs::read_to_string("/proc/stat").ok().and_then(|text| machine_seconds(&text)).unwrap_or_default();
        Self { cpu_s, steal_s, machine_s }
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_s: self.cpu_s - earlier.cpu_s,
            steal_s: self.steal_s - earlier.steal_s,
            machine_s: self.machine_s - earlier.machine_s,
        }
    }
}

fn process_seconds(stat: &str) -> Option<f64> {
    // The command name may hold spaces and brackets; the fields are counted from the last bracket.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_A_SECOND)
}

fn machine_seconds(stat: &str) -> Option<(f64, f64)> {
    let ticks: Vec<f64> =
        stat.lines().next()?.split_ascii_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is already in user.
    let all: f64 = ticks.iter().take(8).sum();
    Some((ticks.get(7)? / TICKS_A_SECOND, all / TICKS_A_SECOND))
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
    fn steal_is_the_eighth_figure_of_the_first_line() {
        assert_eq!(machine_seconds("cpu  100 0 100 700 0 0 50 50 9 9\ncpu0 1"), Some((0.5, 10.0)));
    }
}
