//! What a run found, as one line of JSON.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::usage::Usage;

/// Why requests or connections failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// The connection was not established.
    pub connect: u64,
    /// Reset after it was established.
    pub reset: u64,
    /// Closed before the answer was complete.
    pub closed_early: u64,
    /// Nothing moved for the time allowed.
    pub timeout: u64,
    /// The answer was not HTTP.
    pub malformed: u64,
}

/// One finished run.
#[derive(Debug)]
pub struct Report {
    /// Length of the measured window.
    pub window: Duration,
    /// Answers completed in it.
    pub requests: u64,
    /// The same with the warm-up's, of `requests` alone.
    pub all: u64,
    /// Payload bytes moved in it.
    pub bytes: u64,
    /// Failures over the whole run, the warm-up included.
    pub failures: Failures,
    /// Latencies in nanoseconds.
    pub latencies: Option<Histogram<u64>>,
    /// CPU used in the window.
    pub usage: Usage,
}

impl Report {
    /// Prints the line on stdout.
    pub fn print(&self) {
        println!("{}", self.json());
    }

    fn json(&self) -> String {
        let Failures { connect, reset, closed_early, timeout, malformed } = self.failures;
        let latency = self.latencies.as_ref().filter(|h| !h.is_empty()).map_or_else(
            || "null".to_owned(),
            |h| {
                let at = |quantile| h.value_at_quantile(quantile) as f64 / 1000.0;
                format!(
                    "{{\"p50\":{:.1},\"p90\":{:.1},\"p99\":{:.1},\"p999\":{:.1},\"max\":{:.1}}}",
                    at(0.5),
                    at(0.9),
                    at(0.99),
                    at(0.999),
                    h.max() as f64 / 1000.0
                )
            },
        );
        format!(
            "{{\"event\":\"result\",\"window_s\":{:.6},\"requests\":{},\"all\":{},\"bytes\":{},\"failures\":{{\"connect\":{connect},\
             \"reset\":{reset},\"closed_early\":{closed_early},\"timeout\":{timeout},\"malformed\":{malformed}}},\
             \"latency_us\":{latency},\"cpu_s\":{:.4},\"threads_s\":{:.6},\"beside_s\":{:.4},\"core_s\":{:.4},\"steal_share\":{:.5}}}",
            self.window.as_secs_f64(),
            self.requests,
            self.all,
            self.bytes,
            self.usage.cpu_s,
            self.usage.threads_s(),
            self.usage.beside_s,
            self.usage.core_s,
            if self.usage.machine_s > 0.0 { self.usage.steal_s / self.usage.machine_s } else { 0.0 },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_latencies_reports_null_rather_than_zero() {
        let report = Report {
            window: Duration::from_secs(2),
            requests: 3,
            all: 5,
            bytes: 4,
            failures: Failures { reset: 1, ..Failures::default() },
            latencies: None,
            usage: Usage { cpu_s: 0.5, beside_s: 0.25, core_s: 0.75, machine_s: 4.0, ..Usage::default() },
        };
        assert_eq!(
            report.json(),
            "{\"event\":\"result\",\"window_s\":2.000000,\"requests\":3,\"all\":5,\"bytes\":4,\"failures\":{\"connect\":0,\
             \"reset\":1,\"closed_early\":0,\"timeout\":0,\"malformed\":0},\"latency_us\":null,\"cpu_s\":0.5000,\"threads_s\":0.000000,\"beside_s\":0.2500,\"core_s\":0.7500,\
             \"steal_share\":0.00000}"
        );
    }
}
