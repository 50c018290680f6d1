//! The flows of all workers as one list, and their end.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use convey_core::{FlowCursor, FlowFilter, FlowPage, Partial};
use convey_engine::{FlowView, Note, PacketSnapshot, Seen};

use crate::requests::Request;
use crate::shared::Shared;

/// Flows ended at a time: packets wait for a millisecond at most.
const BATCH: usize = 1024;

/// A page of the flows that `filter` takes, one worker's after the other's.
pub(crate) fn list(shared: &Shared, filter: &FlowFilter, cursor: FlowCursor, limit: usize) -> FlowPage {
    let (snapshot, now, views) = (shared.snapshot(), shared.now(), shared.views());
    let mut page = FlowPage { partial: why_partial(shared, &views, &snapshot), ..FlowPage::default() };
    let mut next = Some(cursor);
    while page.rows.len() < limit
        && let Some(FlowCursor { table, at }) = next
    {
        let Some(view) = views.get(table as usize) else { return FlowPage { next: None, ..page } };
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let rest = view.list(filter, &snapshot, now, from, (&mut page.rows, limit));
        next = after(table, rest, views.len());
        // It has looked at as much as a page may.
        if rest.is_some() {
            break;
        }
    }
    FlowPage { next, ..page }
}

/// Ends the flows that `filter` takes, each once it was found. Gives how many; `None` when a worker does not answer
/// within `timeout`.
pub(crate) fn end(shared: &Shared, filter: &FlowFilter, timeout: Duration) -> Option<u64> {
    let mut ended = 0;
    for (index, view) in shared.views().iter().enumerate() {
        let mut from = Some(0);
        while let Some(at) = from {
            let mut seen: Vec<Seen> = Vec::new();
            from = view.find(filter, &shared.snapshot(), shared.now(), at, (&mut seen, BATCH));
            if !seen.is_empty() {
                ended += end_of(shared, index, seen, timeout)?;
            }
        }
    }
    Some(ended)
}

fn end_of(shared: &Shared, worker: usize, flows: Vec<Seen>, timeout: Duration) -> Option<u64> {
    let (answer, answered) = sync_channel(1);
    let mut request = Request::End { flows, answer };
    let give_up = Instant::now() + timeout;
    // Too many wait: they are done with the worker's next turn.
    while let Err(refused) = shared.requests.get(worker)?.push(request) {
        request = refused;
        if Instant::now() >= give_up {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    answered.recv_timeout(timeout).ok()
}

fn after(table: u32, rest: Option<usize>, tables: usize) -> Option<FlowCursor> {
    match rest {
        Some(at) => Some(FlowCursor { table, at: at as u64 }),
        None => Some(FlowCursor { table: table + 1, at: 0 }).filter(|next| (next.table as usize) < tables),
    }
}

fn why_partial(shared: &Shared, views: &[Arc<FlowView>], snapshot: &PacketSnapshot) -> Option<Partial> {
    if snapshot.is_minimal() {
        return Some(Partial::MinimalTracking);
    }
    let is_elsewhere = views.iter().any(|view| !view.is_whole()) || shared.noted(Note::FlowsNotShared) > 0;
    is_elsewhere.then_some(Partial::NoMemory)
}
