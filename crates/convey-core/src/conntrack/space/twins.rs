//! One flow a key, where several threads begin some at once.
//!
//! Two threads may both find a key absent and both begin a flow. Neither can know before both are published; so each
//! searches the chain once more afterwards. At least one of them meets the other (both publish before they search, in
//! one order for all). It takes out the flow that lies further along, which a lookup would not reach.

use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst, fence};

use super::super::entry::Key;
use super::{Claimed, Clock, Flow, PortField, Space};

impl<const WORDS: usize> Space<WORDS> {
    /// Leaves of all flows with the key of `flow`, which was published, the first of the chain. The others are given to
    /// `ended` by whoever took them out, once each.
    ///
    /// # Errors
    /// The flow that stays, when it is not this one.
    pub(in super::super) fn end_twins(
        &self,
        claimed: Claimed,
        hash: u64,
        flow: &Flow,
        clock: Clock<'_>,
        hash_of: impl Fn(&Flow) -> u64,
        mut ended: impl FnMut(Flow),
    ) -> Result<(), Flow> {
        fence(SeqCst);
        let key = Key::<WORDS>::new(&flow.key(), self.sets.field);
        let is_twin = |other: &Flow| self.is_twin(flow, other);
        let mut is_behind = false;
        for i in 0..Self::CHAIN {
            let set = self.set_of(hash, i);
            for at in set * Self::WAYS..(set + 1) * Self::WAYS {
                if at == claimed.at {
                    is_behind = true;
                } else if self.sets.entry(at).has_key(&key)
                    && let Some(twin) = self.get(at).filter(is_twin)
                {
                    if !is_behind && !clock.has_ended(&twin) {
                        let is_mine = |other: &Flow| other.claim == flow.claim && is_twin(other);
                        self.end_while(claimed.at, is_mine, &hash_of, &mut ended);
                        return Err(twin);
                    }
                    self.end_while(at, is_twin, &hash_of, &mut ended);
                }
            }
            // Whoever has passed this set was counted here before it was published.
            if self.spills[set].load(Relaxed) == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Takes out the flow at `at`, in whatever state it comes to be, while it is the one meant.
    fn end_while(
        &self,
        at: usize,
        is_meant: impl Fn(&Flow) -> bool,
        hash_of: impl Fn(&Flow) -> u64,
        mut ended: impl FnMut(Flow),
    ) {
        while let Some(flow) = self.get(at).filter(&is_meant) {
            if self.remove_as(at, &flow, &hash_of) {
                return ended(flow);
            }
        }
    }

    /// Whether two flows have one key.
    fn is_twin(&self, a: &Flow, b: &Flow) -> bool {
        (a.client, a.client_port, a.frontend) == (b.client, b.client_port, b.frontend)
            && (self.sets.field == PortField::InFlight || a.port == b.port)
    }
}
