//! One direction of a connection: what was read and not yet written, how it is moved, and its end.
//!
//! Invariants: nothing is read while something read before waits to be written, so a slow receiver holds up
//! the sender and memory is bounded by one read; the FIN goes out after the last byte.

use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::yield_now;

use super::copy::{self, LARGEST_READ, SMALLEST_READ};
use super::pipe_pool::{self, Pipe};
use super::splice;
use crate::source;

/// A read of this much or more counts towards splicing; a run of such reads this long starts it.
const BULK_READ: usize = 8 * 1024;
const BULK_RUN: usize = 240 * 1024;
/// A splice that finds less goes back to copying.
const SMALL_SPLICE: usize = 4 * 1024;
/// Moves in a row before others on this thread get their turn.
const TURNS: usize = 8;

/// Which socket failed.
#[derive(Debug)]
pub(super) enum Failure {
    From,
    To(Break),
}

/// What the error of a socket says about the stream that its peer was sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// The peer's FIN had arrived before: what can be read is whole.
    AfterFin,
    /// There was no FIN. Whoever takes the error from the socket has to remember it, for reads then end like
    /// after a FIN.
    Midway,
}

impl Break {
    /// Judges the error of a failed write, or the one that waits on a socket. The kernel says EPIPE instead of
    /// ECONNRESET when the reset comes after the peer's FIN (`tcp_reset` in CLOSE_WAIT).
    pub fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::AfterFin } else { Self::Midway }
    }
}

/// What was read and not yet written.
#[derive(Debug)]
enum Held {
    Nothing,
    Bytes { bytes: Box<[u8]>, written: u32 },
    Pipe { pipe: Pipe, bytes: u32 },
}

#[derive(Debug)]
pub(super) struct Direction {
    held: Held,
    /// Bytes of the present run of bulk reads; splicing from [`BULK_RUN`] on.
    run: u32,
    /// How much the next copying read may take.
    read_bytes: u32,
    eof: bool,
    finished: bool,
    /// One of its sockets failed: nothing more goes this way, and no FIN.
    failed: bool,
    /// The source's error was taken from it: an end read from now on is a reset.
    pub source_broken: bool,
    /// The source is waited for (and its reset would therefore be noticed).
    pub reading: bool,
    /// Whether anything was written before; a first small write needs no TCP_NODELAY.
    wrote: bool,
    /// The receiving socket has TCP_NODELAY.
    nodelay: bool,
    /// The first bytes carry the acknowledgement that ends the receiver's handshake; see [`source::Destination`].
    holds_ack: bool,
}

enum Step {
    Moved,
    Blocked,
    Finished,
}

impl Direction {
    /// `holds_ack`: whether the handshake ends with the first bytes.
    pub fn to_server(holds_ack: bool) -> Self {
        Self { holds_ack, nodelay: false, ..Self::to_client() }
    }

    /// Accepted sockets inherit TCP_NODELAY from their listener.
    pub fn to_client() -> Self {
        Self {
            held: Held::Nothing,
            run: 0,
            read_bytes: SMALLEST_READ as u32,
            eof: false,
            finished: false,
            failed: false,
            source_broken: false,
            reading: false,
            wrote: false,
            nodelay: true,
            holds_ack: false,
        }
    }

    /// Whether the source has sent its FIN.
    pub fn source_closed(&self) -> bool {
        self.eof && !self.source_broken
    }

    /// Whether all bytes and the FIN were passed on.
    pub fn finished(&self) -> bool {
        self.finished
    }

    /// Whether it is over: finished, or ended without a FIN.
    pub fn ended(&self) -> bool {
        self.finished || self.failed
    }

    /// Whether it ends, or will end, without a FIN.
    pub fn is_cut(&self) -> bool {
        self.failed || (self.source_broken && !self.finished)
    }

    /// Whether bytes were read that the receiver has not got.
    pub fn holds_bytes(&self) -> bool {
        !matches!(self.held, Held::Nothing)
    }

    /// Moves what can be moved; `delivered` counts it, even when it then fails. Fails once.
    /// `last`: the other direction has finished, so that closing replaces the FIN.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        last: bool,
        delivered: &mut u64,
    ) -> Result<(), Failure> {
        if self.ended() {
            return Ok(());
        }
        self.reading = false;
        for _ in 0..TURNS {
            match self.step(cx, from, to, last, delivered) {
                Ok(Step::Moved) => {}
                Ok(Step::Blocked) => return Ok(()),
                Ok(Step::Finished) => {
                    self.finished = true;
                    return Ok(());
                }
                Err(failure) => {
                    self.failed = true;
                    self.held = Held::Nothing;
                    return Err(failure);
                }
            }
        }
        // Not only others that are ready go first, also those the reactor has yet to hear of.
        let _ = pin!(yield_now()).poll(cx);
        Ok(())
    }

    fn step(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        last: bool,
        delivered: &mut u64,
    ) -> Result<Step, Failure> {
        if self.holds_bytes() {
            return match to.poll_write_ready(cx) {
                Poll::Pending => Ok(Step::Blocked),
                Poll::Ready(Err(error)) => Err(Failure::To(Break::of(&error))),
                Poll::Ready(Ok(())) => self.write_held(to, delivered),
            };
        }
        if self.eof {
            if self.source_broken {
                return Err(Failure::From);
            }
            // The receiver may have gone meanwhile; then its own direction tells.
            if !last {
                let _ = SockRef::from(to).shutdown(Shutdown::Write);
            }
            return Ok(Step::Finished);
        }
        match from.poll_read_ready(cx) {
            Poll::Pending => {
                self.reading = true;
                return Ok(Step::Blocked);
            }
            Poll::Ready(Err(_)) => return Err(Failure::From),
            Poll::Ready(Ok(())) => {}
        }
        if self.run as usize >= BULK_RUN {
            self.splice(from, to, delivered)
        } else {
            self.copy(from, to, delivered)
        }
    }

    fn copy(&mut self, from: &TcpStream, to: &TcpStream, delivered: &mut u64) -> Result<Step, Failure> {
        let limit = self.read_bytes as usize;
        copy::with_scratch(|scratch| {
            let scratch = &mut scratch[..limit];
            let read = match copy::read(from, scratch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Moved),
                Err(_) => return Err(Failure::From),
                Ok(0) => {
                    self.eof = true;
                    return Ok(Step::Moved);
                }
                Ok(read) => read,
            };
            self.run = if read >= BULK_READ.min(limit) { self.run.saturating_add(read as u32) } else { 0 };
            self.set_nodelay(to, read);
            let written = match copy::write(to, &scratch[..read]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(Failure::To(Break::of(&error))),
                Ok(written) => written,
            };
            *delivered += written as u64;
            if self.holds_ack && written > 0 {
                self.holds_ack = false;
                source::acknowledge_at_once(to);
            }
            if written < read {
                // A receiver this slow gets less at a time, so that many of them cost little memory.
                self.read_bytes = SMALLEST_READ as u32;
                self.held = Held::Bytes { bytes: scratch[written..read].into(), written: 0 };
            } else if read == limit {
                self.read_bytes = (limit * 2).min(LARGEST_READ) as u32;
            }
            Ok(Step::Moved)
        })
    }

    /// Nagle's algorithm holds nothing back on a connection with nothing in flight, so a single small
    /// request never pays for the option.
    fn set_nodelay(&mut self, to: &TcpStream, bytes: usize) {
        const FITS_ANY_SEGMENT: usize = 512;
        if !self.nodelay && (self.wrote || bytes > FITS_ANY_SEGMENT) {
            // A Unix socket refuses: it delays nothing.
            let _ = to.set_nodelay(true);
            self.nodelay = true;
        }
        self.wrote = true;
    }

    fn splice(&mut self, from: &TcpStream, to: &TcpStream, delivered: &mut u64) -> Result<Step, Failure> {
        let Ok(pipe) = pipe_pool::take() else {
            self.run = 0;
            return Ok(Step::Moved);
        };
        // The pipe is empty, so "would block" can only mean that the socket is: the other meaning, that all
        // slots hold small fragments, cannot lose a wake-up here.
        match splice::fill(from, &pipe) {
            Ok(bytes) if bytes > 0 => {
                if bytes < SMALL_SPLICE {
                    self.run = 0;
                }
                self.held = Held::Pipe { pipe, bytes: bytes as u32 };
                self.set_nodelay(to, bytes);
                self.write_held(to, delivered)
            }
            other => {
                pipe_pool::give_back(pipe);
                match other {
                    Ok(_) => self.eof = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Splicing is not possible from this socket: copying will tell what is wrong.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.run = 0,
                    Err(_) => return Err(Failure::From),
                }
                Ok(Step::Moved)
            }
        }
    }

    fn write_held(&mut self, to: &TcpStream, delivered: &mut u64) -> Result<Step, Failure> {
        let (outcome, left) = match &mut self.held {
            Held::Nothing => return Ok(Step::Moved),
            Held::Bytes { bytes, written } => {
                let outcome = copy::write(to, &bytes[*written as usize..]);
                *written += outcome.as_ref().map_or(0, |n| *n as u32);
                (outcome, bytes.len() - *written as usize)
            }
            Held::Pipe { pipe, bytes } => {
                let outcome = splice::empty(pipe, to, *bytes as usize);
                *bytes -= outcome.as_ref().map_or(0, |n| *n as u32);
                (outcome, *bytes as usize)
            }
        };
        match outcome {
            Ok(written) => *delivered += written as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Failure::To(Break::of(&error))),
        }
        if left == 0
            && let Held::Pipe { pipe, .. } = std::mem::replace(&mut self.held, Held::Nothing)
        {
            pipe_pool::give_back(pipe);
        }
        Ok(Step::Moved)
    }
}
