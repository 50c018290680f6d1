//! The command line: one command, then `--key value` or `--flag`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::Failure;

const FLAGS: [&str; 4] = ["close", "fresh", "rotate", "upload"];

/// A parsed command line.
#[derive(Debug)]
pub struct Args {
    command: String,
    values: HashMap<String, String>,
}

impl Args {
    /// Splits the arguments; `--help` is the command `help`.
    ///
    /// # Errors
    /// An argument without `--`, or a key without its value.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let command = arguments.next().unwrap_or_default().trim_start_matches("--").to_owned();
        let mut values = HashMap::new();
        while let Some(argument) = arguments.next() {
            let Some(key) = argument.strip_prefix("--") else {
                return Err(Failure::Usage(format!("unexpected argument \"{argument}\"")));
            };
            let value = if FLAGS.contains(&key) {
                String::new()
            } else {
                arguments.next().ok_or_else(|| Failure::Usage(format!("--{key} needs a value")))?
            };
            values.insert(key.to_owned(), value);
        }
        Ok(Self { command, values })
    }

    /// The command, or "".
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Whether a flag was given.
    pub fn flag(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// A value, or `default` when it was not given.
    ///
    /// # Errors
    /// The value does not parse.
    pub fn get<T: FromStr>(&self, key: &str, default: T) -> Result<T, Failure> {
        self.optional(key).map(|value| value.unwrap_or(default))
    }

    /// A value, if it was given.
    ///
    /// # Errors
    /// The value does not parse.
    pub fn optional<T: FromStr>(&self, key: &str) -> Result<Option<T>, Failure> {
        let Some(text) = self.values.get(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Failure::Usage(format!("--{key} cannot be \"{text}\"")))
    }

    /// An address that must be given.
    ///
    /// # Errors
    /// It is missing or does not parse.
    pub fn address(&self, key: &str) -> Result<SocketAddr, Failure> {
        self.optional(key)?.ok_or_else(|| Failure::Usage(format!("--{key} is missing")))
    }

    /// Seconds, fractions allowed.
    ///
    /// # Errors
    /// The value is no number of seconds.
    pub fn seconds(&self, key: &str, default: f64) -> Result<Duration, Failure> {
        let value = self.get(key, default)?;
        Duration::try_from_secs_f64(value)
            .map_err(|_| Failure::Usage(format!("--{key} cannot be {value} seconds")))
    }

    /// The bytes of a file; none when it was not given.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn file(&self, key: &str) -> Result<Vec<u8>, Failure> {
        let Some(path) = self.values.get(key) else { return Ok(Vec::new()) };
        std::fs::read(path).map_err(Failure::io(format!("read {path}")))
    }

    /// A comma-separated list; empty when not given.
    ///
    /// # Errors
    /// An entry does not parse.
    pub fn list<T: FromStr>(&self, key: &str) -> Result<Vec<T>, Failure> {
        let text: String = self.get(key, String::new())?;
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().map_err(|_| Failure::Usage(format!("--{key} cannot hold \"{part}\""))))
            .collect()
    }
}
