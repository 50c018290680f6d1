//! Random frames through the portable engine and through a kernel program with the worker beside it: verdicts, bytes
//! and tables must be the same.
//!
//! Episodes of some hundred steps each begin with empty tables, so that what differs can be told as a short story. A
//! step is a frame, time that passes, a sweep, or a change of servers, frontends, limits and lists of networks. Both sides read clocks of
//! their own: moments may differ by two ticks, and what differs only once of three times is put down to the clock.
#![allow(dead_code)] // The example and the test use parts.

pub mod pair;
pub mod race;
mod random;
mod tables;
#[path = "../lab/test_run.rs"]
mod test_run;
pub mod traffic;
mod watched;
pub mod worlds;

use pair::{Counts, Difference, Pair, Setup, Step};
use random::Random;
use traffic::Traffic;

const STEPS: usize = 500;

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    pub frames: u64,
    pub forwarded: u64,
    pub forwarded_by_program: u64,
    pub handed_up: u64,
    pub denied: u64,
    /// Decisions of programs that were told to those who watch.
    pub watched: u64,
    /// Steps after which the same flows lay elsewhere in the tables.
    pub elsewhere: u64,
    /// Frames that the kernel does not run.
    pub refused: u64,
    pub episodes: u64,
    /// Episodes that differed once and not again.
    pub by_the_clock: u64,
}

/// Runs `frames` frames at least, or until so many differences were found. A difference is told with the steps that
/// lead to it.
pub fn run(frames: u64, seed: u64, most: usize) -> (Report, Vec<String>) {
    // Nobody's routes but those told.
    alone();
    let setups = worlds::all();
    let mut pairs: Vec<Pair> = setups.iter().cloned().map(Pair::new).collect();
    let mut report = Report::default();
    let mut random = Random::new(seed);
    let mut differences = Vec::new();
    while report.frames < frames {
        let at = report.episodes as usize % pairs.len();
        let episode = random.next();
        report.episodes += 1;
        pairs[at].counts = Counts::default();
        let (steps, result) = play(&mut pairs[at], &setups[at], episode);
        let Counts {
            frames,
            forwarded,
            forwarded_by_program,
            handed_up,
            denied,
            watched,
            elsewhere,
            refused,
        } = pairs[at].counts;
        report.frames += frames;
        report.forwarded += forwarded;
        report.forwarded_by_program += forwarded_by_program;
        report.handed_up += handed_up;
        report.denied += denied;
        report.watched += watched;
        report.elsewhere += elsewhere;
        report.refused += refused;
        if let Err(Difference(what)) = result {
            let again = (0..2).filter(|_| replay(&mut pairs[at], &steps).is_err()).count();
            if again == 0 {
                report.by_the_clock += 1;
                println!("{}: once only: {what}", setups[at].name);
                continue;
            }
            let steps = shortened(&mut pairs[at], steps);
            differences.push(told(&mut pairs[at], &setups[at], &steps, &what));
            if differences.len() >= most {
                break;
            }
        }
    }
    (report, differences)
}

/// An episode, and its steps so far.
fn play(pair: &mut Pair, setup: &Setup, seed: u64) -> (Vec<Step>, Result<(), Difference>) {
    let mut random = Random::new(seed);
    let clients: Vec<String> =
        setup.clients.iter().map(ToString::to_string).chain(worlds::STRANGERS.map(Into::into)).collect();
    let mut frontends = worlds::listening(&setup.spec);
    // What a backend with a server of its own listens on, too.
    frontends.rotate_left(random.below(2));
    let passthrough = worlds::is_passthrough(setup);
    let ports = random.of(&[3, 12, 60]);
    let mut traffic =
        Traffic::new(Random::new(random.next()), clients.clone(), frontends, ports, passthrough);
    let mut spec = setup.spec.clone();
    let mut steps = Vec::new();
    pair.is_precise = false;
    pair.is_watched = random.one_in(2);
    pair.reset();
    let changes = random.of(&[0, 100, 300]);
    if random.one_in(3) {
        worlds::deny_some(&mut spec, &clients, &mut random);
        steps.push(Step::Change(Box::new(spec.clone())));
    }
    for _ in 0..STEPS {
        let step = match random.below(100) {
            0..=2 => {
                Step::Age(random.of(&[1, 60, 118, 119, 120, 600, 1787, 1789, 1800, 3700, 20_000, 500_000]))
            }
            3 if random.one_in(2) => Step::Sweep,
            4 if changes > 0 && random.one_in(changes / 50) => {
                worlds::change(&mut spec, &setup.spec, &clients, &mut random);
                Step::Change(Box::new(spec.clone()))
            }
            _ => Step::Frame(traffic.next()),
        };
        steps.push(step);
        let Some(step) = steps.last() else { continue };
        match pair.step(step) {
            Ok(Some(pair::Outcome::Sent(frame))) => traffic.sent(&frame),
            Ok(_) => {}
            Err(difference) => return (steps, Err(difference)),
        }
    }
    let result = pair.check().and_then(|()| pair.check_counts());
    (steps, result)
}

fn replay(pair: &mut Pair, steps: &[Step]) -> Result<(), (usize, Difference)> {
    pair.is_precise = false;
    pair.reset();
    for (at, step) in steps.iter().enumerate() {
        pair.step(step).map_err(|difference| (at, difference))?;
    }
    let checks = pair.check().and_then(|()| pair.check_counts());
    checks.map_err(|difference| (steps.len() - 1, difference))
}

/// As few steps as still lead to a difference.
fn shortened(pair: &mut Pair, steps: Vec<Step>) -> Vec<Step> {
    let mut steps = steps;
    if let Err((at, _)) = replay(pair, &steps) {
        steps.truncate(at + 1);
    }
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match replay(pair, &fewer) {
                Err((end, _)) => {
                    fewer.truncate(end + 1);
                    steps = fewer;
                }
                Ok(()) => at += size,
            }
        }
        size /= 2;
    }
    steps
}

fn told(pair: &mut Pair, setup: &Setup, steps: &[Step], first: &str) -> String {
    let mut text = format!("{}\n", setup.name);
    pair.reset();
    pair.is_precise = true;
    for step in steps {
        match step {
            Step::Frame(frame) => text += &format!("  frame {}\n", convey_testkit::hex(frame)),
            Step::Age(ticks) => text += &format!("  {ticks} ticks pass\n"),
            Step::Sweep => text += "  a sweep\n",
            Step::Change(spec) => text += &format!("  a change: {}\n", worlds::described(spec)),
        }
        match pair.step(step) {
            Ok(Some(outcome)) => text += &format!("    {outcome:?}\n"),
            Ok(None) => {}
            Err(Difference(what)) => return text + &what,
        }
    }
    text + "at first:\n" + first
}

/// Moves this thread into a network namespace of its own.
pub fn alone() {
    // SAFETY: no memory is touched, and files stay open.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "root may make a network namespace: {}", std::io::Error::last_os_error());
}
