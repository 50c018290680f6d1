//! The relays that run on one worker.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use convey_core::Event;
use tokio::task::{self, JoinError, JoinHandle};

use super::group::Group;
use super::relay::Relay;
use crate::events::Subject;
use crate::worker::Worker;

/// Relays by their group. One whose group goes ends by itself.
#[derive(Debug, Default)]
pub(crate) struct Relays(HashMap<u64, JoinHandle<()>>);

impl Relays {
    /// Has a relay run for each of `groups`; false if one could not be made.
    pub fn follow(&mut self, worker: &Arc<Worker>, groups: Vec<Arc<Group>>) -> bool {
        self.0.retain(|_, relay| !relay.is_finished());
        let mut complete = true;
        for group in groups {
            if self.0.contains_key(&group.id) {
                continue;
            }
            match Relay::new(worker.clone(), group.clone()) {
                Ok(relay) => drop(self.0.insert(group.id, task::spawn(relay.run()))),
                Err(error) => {
                    complete = false;
                    let message = format!(
                        "{} cannot serve {} of frontend {}: {error}; it tries again",
                        Worker::name(worker.number),
                        group.local,
                        group.frontend
                    );
                    let subject = Subject("watch", group.frontend.clone(), "".into());
                    worker.shared.events.send_thinned(subject, || Event::Warning { message });
                }
            }
        }
        complete
    }

    /// Ready when one has ended, with how.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), JoinError>> {
        let ended = self.0.iter_mut().find_map(|(id, relay)| match Pin::new(relay).poll(cx) {
            Poll::Ready(outcome) => Some((*id, outcome)),
            Poll::Pending => None,
        });
        let Some((id, outcome)) = ended else { return Poll::Pending };
        self.0.remove(&id);
        Poll::Ready(outcome)
    }
}
