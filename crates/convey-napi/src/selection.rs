//! What a change of servers would do to the Maglev table of a backend.

use std::collections::HashMap;

use convey_core::Endpoint;
use convey_core::selection::maglev::SLOTS;
use convey_core::selection::{Balance, Member, Part, SLOW_START_STEPS, Selector, moved_slots};
use napi::bindgen_prelude::AsyncTask;
use napi::{Env, Task};
use napi_derive::napi;

use crate::error::{Error, Result, invalid};

/// A server that takes part in a table.
#[napi(object)]
pub struct NativeMember {
    /// `ip:port`, IPv6 in brackets.
    pub addr: String,
    /// The weight in force; 0 for a server that is down or draining.
    pub weight: u32,
    pub backup: bool,
}

/// How much of a backend's table would move.
#[napi(object)]
pub struct NativeMovedSlots {
    pub moved: u32,
    pub slots: u32,
}

/// Builds two tables on a thread of Node's pool.
pub struct MovedSlotsTask {
    before: Vec<Member>,
    after: Vec<Member>,
}

impl Task for MovedSlotsTask {
    type Output = usize;
    type JsValue = NativeMovedSlots;

    fn compute(&mut self) -> napi::Result<usize> {
        Ok(moved_slots(&self.before, &self.after))
    }

    fn resolve(&mut self, _: Env, moved: usize) -> napi::Result<NativeMovedSlots> {
        Ok(NativeMovedSlots { moved: moved as u32, slots: SLOTS as u32 })
    }
}

/// How many slots of a backend's Maglev table would name another address with `after` than with `before`.
///
/// Throws with `code` CONFIG_INVALID.
#[napi(catch_unwind, ts_return_type = "Promise<NativeMovedSlots>")]
pub fn moved_maglev_slots(
    before: Vec<NativeMember>,
    after: Vec<NativeMember>,
) -> Result<AsyncTask<MovedSlotsTask>> {
    let mut values = HashMap::new();
    let mut members = |list: Vec<NativeMember>| {
        let (mut parts, mut value_of) = (Vec::with_capacity(list.len()), Vec::with_capacity(list.len()));
        for NativeMember { addr, weight, backup } in list {
            let addr: Endpoint = addr.parse().map_err(|e| invalid("addr", e))?;
            let next = u16::try_from(values.len()).map_err(|_| invalid("servers", "too many"))?;
            value_of.push(*values.entry(addr.clone()).or_insert(next));
            let weight = u16::try_from(weight).map_err(|e| invalid("weight", e))?.into();
            parts.push(Part { addr, weight, share: SLOW_START_STEPS, backup });
        }
        let selector = Selector::new(Balance::Maglev, &parts, None);
        Ok::<_, Error>(selector.members(|i| value_of[i]))
    };
    Ok(AsyncTask::new(MovedSlotsTask { before: members(before)?, after: members(after)? }))
}
