//! Keeps a thread's work going: a panic is caught, reported, and the work begun again.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use convey_core::{Event, EventSink};

/// Panics closer together than this are one trouble.
const TROUBLE: Duration = Duration::from_secs(10);

/// Pause before the work begins again when it keeps panicking.
const PAUSE: Duration = Duration::from_millis(100);

/// Panics in a row after which state is to be thrown away and a pause made.
pub const STUBBORN: u32 = 3;

/// Runs `work` until it returns. It is told how many panics in a row came before; from [`STUBBORN`] on it had
/// better begin with fresh state.
pub fn supervise(thread: &str, events: &EventSink, mut work: impl FnMut(u32)) {
    let mut panics = 0;
    loop {
        let began = Instant::now();
        // What a panic leaves half done is the work's own state, which it is told to distrust.
        let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(panics))) else { return };
        panics = if began.elapsed() < TROUBLE { panics + 1 } else { 1 };
        let cause = message(payload.as_ref());
        events(Event::WorkerPanicked { worker: thread.to_owned(), cause, restarted: true });
        if panics >= STUBBORN {
            std::thread::sleep(PAUSE);
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn work_that_panics_is_reported_and_goes_on_with_what_it_had() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink: EventSink = {
            let seen = seen.clone();
            Arc::new(move |event| seen.lock().unwrap().push(event))
        };
        let (mut rounds, mut told) = (0, Vec::new());
        supervise("convey-packet-7", &sink, |panics| {
            told.push(panics);
            rounds += 1;
            if rounds <= 4 {
                std::panic::panic_any(format!("round {rounds}"));
            }
        });
        assert_eq!(told, [0, 1, 2, 3, 4]);
        let events = seen.lock().unwrap();
        assert_eq!(events.len(), 4);
        assert_eq!(
            events[0],
            Event::WorkerPanicked {
                worker: "convey-packet-7".into(),
                cause: "round 1".into(),
                restarted: true
            }
        );
    }
}
