//! Requests: lists of moves between this side and a peer, or this side's own files.

use std::ffi::CStr;
use std::mem;
use std::ptr::null_mut;
use std::rc::Rc;

use kvferry_nixl_sys::{
    Library, NIXL_CAPI_IN_PROG, NIXL_CAPI_XFER_OP_READ, NIXL_CAPI_XFER_OP_WRITE, Padded,
    nixl_capi_mem_type_t, nixl_capi_status_t, nixl_capi_xfer_dlist_handle_t, nixl_capi_xfer_op_t,
    nixl_capi_xfer_req_t, nixl_capi_xfer_telemetry_s,
};

use super::lists::XferList;
use super::{Agent, Memory, NOTHING, Registered, Status, checked};
use crate::fabric::Direction;

/// One move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Desc {
    /// Which of the request's registrations it is here, and where in it.
    pub(in super::super) local: usize,
    pub(in super::super) offset: u64,
    /// Where it is there, as its owner names it, and on which device.
    pub(in super::super) there: u64,
    pub(in super::super) device: u64,
    pub(in super::super) len: u64,
}

/// How a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Ended {
    Yes,
    NotYet,
}

fn ended(status: nixl_capi_status_t) -> Result<Ended, Status> {
    if status == NIXL_CAPI_IN_PROG { Ok(Ended::NotYet) } else { checked(status).map(|()| Ended::Yes) }
}

const fn operation(direction: Direction) -> nixl_capi_xfer_op_t {
    match direction {
        Direction::Read => NIXL_CAPI_XFER_OP_READ,
        Direction::Write => NIXL_CAPI_XFER_OP_WRITE,
    }
}

/// What NIXL has measured of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Measured {
    pub(in super::super) posting_us: u64,
    pub(in super::super) moving_us: u64,
    pub(in super::super) bytes: u64,
    pub(in super::super) descriptors: u64,
}

/// Descriptors that were looked up once, to be named by number: this side's, or a peer's.
#[derive(Debug)]
pub(in super::super) struct Prepared {
    agent: Agent,
    handle: nixl_capi_xfer_dlist_handle_t,
    count: usize,
    /// This side's memory.
    local: Option<Rc<Registered>>,
}

impl Prepared {
    /// Blocks of this side's memory: (offset, length).
    ///
    /// # Errors
    /// What NIXL says, or a block lies out of the region.
    pub(in super::super) fn local(
        agent: &Agent,
        registered: &Rc<Registered>,
        blocks: impl Iterator<Item = (u64, u64)>,
    ) -> Result<Self, Status> {
        let blocks = blocks.map(|(offset, len)| Ok((registered.at(offset, len).ok_or(NOTHING)?, len)));
        // The side that begins transfers has no name to NIXL.
        Self::new(agent, c"", registered.memory, blocks, Some(Rc::clone(registered)))
    }

    /// Blocks of a peer's memory, as it names them: (address, length).
    ///
    /// # Errors
    /// What NIXL says: the peer has given no key for them, for one.
    pub(in super::super) fn remote(
        agent: &Agent,
        peer: &CStr,
        memory: Memory,
        blocks: impl Iterator<Item = (u64, u64)>,
    ) -> Result<Self, Status> {
        let blocks = blocks.map(|(at, len)| Ok((usize::try_from(at).map_err(|_| NOTHING)?, len)));
        Self::new(agent, peer, memory, blocks, None)
    }

    fn new(
        agent: &Agent,
        whose: &CStr,
        memory: Memory,
        blocks: impl Iterator<Item = Result<(usize, u64), Status>>,
        local: Option<Rc<Registered>>,
    ) -> Result<Self, Status> {
        let nixl = &agent.0.handle.nixl;
        let (mut list, mut handle, mut count) = (XferList::new(nixl, memory.kind)?, null_mut(), 0);
        for block in blocks {
            let (at, len) = block?;
            list.add(at, usize::try_from(len).map_err(|_| NOTHING)?, memory.device)?;
            count += 1;
        }
        // SAFETY: a live agent, list and options, a terminated name, and a place for the handle.
        checked(unsafe {
            nixl.nixl_capi_prep_xfer_dlist(
                agent.0.handle.agent,
                whose.as_ptr(),
                list.handle(),
                &raw mut handle,
                agent.0.args,
            )
        })?;
        Ok(Self { agent: agent.clone(), handle, count, local })
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let handle = &self.agent.0.handle;
        // SAFETY: it was made for this agent once, and nobody uses it any more: requests copy what they take from it.
        let status = unsafe { handle.nixl.nixl_capi_release_xfer_dlist_handle(handle.agent, self.handle) };
        debug_assert!(checked(status).is_ok(), "it was made once: {status}");
    }
}

/// See the module.
#[derive(Debug)]
pub(in super::super) struct Request {
    agent: Agent,
    handle: nixl_capi_xfer_req_t,
    /// All that it uses of this side.
    held: Vec<Rc<Registered>>,
    /// Whether something may still read or write.
    under_way: bool,
}

impl Request {
    /// A request for moves between the registrations `held`, all of one kind, and what lies at `whose`: a peer's memory, or,
    /// by this agent's own name, files of its own, which are held, too.
    ///
    /// # Errors
    /// What NIXL says; nothing has moved.
    pub(in super::super) fn of(
        agent: &Agent,
        direction: Direction,
        held: Vec<Rc<Registered>>,
        (whose, there): (&CStr, nixl_capi_mem_type_t),
        moves: &[Desc],
    ) -> Result<Self, Status> {
        let nixl = &agent.0.handle.nixl;
        let kind = held.first().ok_or(NOTHING)?.memory.kind;
        let (mut here, mut there) = (XferList::new(nixl, kind)?, XferList::new(nixl, there)?);
        for one in moves {
            let len = usize::try_from(one.len).map_err(|_| NOTHING)?;
            let local = held.get(one.local).filter(|local| local.memory.kind == kind).ok_or(NOTHING)?;
            here.add(local.at(one.offset, one.len).ok_or(NOTHING)?, len, local.memory.device)?;
            there.add(usize::try_from(one.there).map_err(|_| NOTHING)?, len, one.device)?;
        }
        let mut handle = null_mut();
        // SAFETY: a live agent, lists and options, a terminated name, and a place for the handle. The local ranges lie in
        // registered memory (`at`), which the request keeps.
        checked(unsafe {
            nixl.nixl_capi_create_xfer_req(
                agent.0.handle.agent,
                operation(direction),
                here.handle(),
                there.handle(),
                whose.as_ptr(),
                &raw mut handle,
                agent.0.args,
            )
        })?;
        Ok(Self { agent: agent.clone(), handle, held, under_way: false })
    }

    /// A request for moves between prepared blocks, by their numbers, as many here as there.
    ///
    /// # Errors
    /// What NIXL says; nothing has moved.
    pub(in super::super) fn of_blocks(
        direction: Direction,
        (local, here): (&Prepared, &[i32]),
        (remote, there): (&Prepared, &[i32]),
    ) -> Result<Self, Status> {
        let in_range = |list: &Prepared, numbers: &[i32]| {
            numbers.iter().all(|number| usize::try_from(*number).is_ok_and(|number| number < list.count))
        };
        let registered = local.local.as_ref().ok_or(NOTHING)?;
        if here.len() != there.len() || !in_range(local, here) || !in_range(remote, there) {
            return Err(NOTHING);
        }
        let (agent, mut handle) = (&local.agent, null_mut());
        // SAFETY: a live agent, options and lists of its own; numbers of blocks that the lists have, so many as stated; a
        // place for the handle. The local blocks lie in registered memory, which the request keeps.
        checked(unsafe {
            agent.0.handle.nixl.nixl_capi_make_xfer_req(
                agent.0.handle.agent,
                operation(direction),
                local.handle,
                here.as_ptr(),
                here.len(),
                remote.handle,
                there.as_ptr(),
                there.len(),
                &raw mut handle,
                agent.0.args,
            )
        })?;
        Ok(Self { agent: agent.clone(), handle, held: vec![Rc::clone(registered)], under_way: false })
    }

    fn nixl(&self) -> &Library {
        &self.agent.0.handle.nixl
    }

    /// Begins it. Once.
    ///
    /// # Errors
    /// What NIXL says. Some of the bytes may have moved.
    pub(in super::super) fn post(&mut self) -> Result<Ended, Status> {
        debug_assert!(!self.under_way, "a request is begun once");
        // SAFETY: a live agent, and a request of its that is not under way. Both ends are kept until it has ended.
        let status = unsafe {
            self.nixl().nixl_capi_post_xfer_req(self.agent.0.handle.agent, self.handle, null_mut())
        };
        let posted = ended(status);
        self.under_way = posted == Ok(Ended::NotYet);
        posted
    }

    /// Whether it has ended. Lets the backend work, too.
    ///
    /// # Errors
    /// What NIXL says. Some of the bytes may have moved.
    pub(in super::super) fn look(&mut self) -> Result<Ended, Status> {
        if !self.under_way {
            return Ok(Ended::Yes);
        }
        // SAFETY: a live agent, and a request of its whose peer is known still (see `Agent::forget`).
        let status = unsafe { self.nixl().nixl_capi_get_xfer_status(self.agent.0.handle.agent, self.handle) };
        let looked = ended(status);
        self.under_way = looked == Ok(Ended::NotYet);
        looked
    }

    /// What NIXL has measured of it, if it was told to when the agent was opened.
    pub(in super::super) fn telemetry(&self) -> Option<Measured> {
        let mut telemetry = Padded::<nixl_capi_xfer_telemetry_s>::zeroed();
        // SAFETY: a live agent, a request of its, and a struct to fill in, with spare room.
        let asked = unsafe {
            self.nixl().nixl_capi_get_xfer_telemetry(
                self.agent.0.handle.agent,
                self.handle,
                telemetry.as_mut_ptr(),
            )
        };
        checked(asked).ok()?;
        Some(Measured {
            posting_us: telemetry.post_duration_us,
            moving_us: telemetry.xfer_duration_us,
            bytes: telemetry.total_bytes,
            descriptors: telemetry.desc_count,
        })
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.under_way {
            // NIXL cancels, and does not say when that is over: what it uses stays for good.
            mem::forget(mem::take(&mut self.held));
        }
        let agent = self.agent.0.handle.agent;
        // SAFETY: a live agent and a request of its, which nobody uses any more.
        let released = unsafe { self.nixl().nixl_capi_release_xfer_req(agent, self.handle) };
        if checked(released).is_ok() {
            // SAFETY: what it was a handle of is gone. If that is not so, the handle stays, too.
            unsafe { self.nixl().nixl_capi_destroy_xfer_req(self.handle) };
        }
    }
}
