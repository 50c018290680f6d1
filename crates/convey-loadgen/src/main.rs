//! `convey-loadgen`: the client and the server of the benches and of the tests under load.
//!
//! One thread and one epoll loop each, so that on two cores the balancer between them stays the bottleneck.
//! Results are one JSON object a line on stdout; `{"event":"ready"}` comes first where there is something to
//! wait for. Everything that is not a result goes to stderr.
#![forbid(unsafe_code)]

mod args;
mod bulk;
mod datagrams;
mod hold;
mod http;
mod opening;
mod poll;
mod report;
mod requests;
mod server;
mod usage;

use std::process::ExitCode;

use args::Args;

const HELP: &str = "\
usage: convey-loadgen <command> [--key value]…

  serve     --listen ip:port [--body bytes] [--close] [--expect proxy|hello]
            GET / answers `body` bytes (1024), GET /bulk streams without end, POST /sink swallows without end;
            --close: closes after one answer; PROXY headers and ClientHellos before a request are skipped,
            --expect: a connection without one is closed; prints {\"event\":\"ready\",\"address\":…}
  requests  --connect ip:port [--connections 64] [--duration s] [--warmup s] [--rate per-second] [--fresh]
            [--rotate] [--hello file] [--timeout s] [--watch pid,…] [--beside pid,…] [--core n]
            keep-alive requests, one outstanding a connection; --fresh: a new connection for each request;
            --rate: open loop, latencies counted from the moment a request was due; --rotate: the connection that
            was idle for longest is next, not the last one used; --hello: the file's bytes open each connection
  bulk      --connect ip:port [--connections 4] [--duration s] [--warmup s] [--upload]
            [--watch pid,…] [--beside pid,…] [--core n]
  hold      --connect ip:port --connections n [--from ip,…] [--hello file] [--at-once 1]
            opens them, from each address in turn, --at-once before the first answer is awaited, one request each, then keeps them idle until stdin ends; prints {\"event\":\"ready\"}

  echo      --listen ip:port
            sends datagrams back; prints {\"event\":\"ready\",\"address\":…}
  datagrams --connect ip:port [--clients 64] [--outstanding 1] [--bytes 64] [--fresh] [--duration s] [--warmup s]
            [--timeout s] [--watch pid,…] [--beside pid,…] [--core n]
            datagrams that are answered; --fresh: a new client for each

  The report's cpu_s is what the processes of --watch used in the window, threads_s the same to the nanosecond, but
  without threads that ended in it, beside_s what the generator itself and
  those of --beside used, core_s the busy time of one core, whoever had it.
";

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line is wrong.
    #[error("{0}; see convey-loadgen --help")]
    Usage(String),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done, on what.
        what: String,
        /// The answer.
        source: std::io::Error,
    },
}

impl Failure {
    /// Wraps an I/O error with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

fn run() -> Result<(), Failure> {
    let args = Args::parse(std::env::args().skip(1))?;
    match args.command() {
        "serve" => server::serve(&args),
        "requests" => requests::run(&args),
        "bulk" => bulk::run(&args),
        "hold" => hold::run(&args),
        "echo" => datagrams::echo(&args),
        "datagrams" => datagrams::run(&args),
        "" | "help" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(Failure::Usage(format!("unknown command \"{other}\""))),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("convey-loadgen: {failure}");
            ExitCode::from(2)
        }
    }
}
