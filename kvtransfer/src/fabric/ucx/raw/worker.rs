//! The worker: endpoints, messages, bytes, and what becomes of them.

use std::ffi::c_void;
use std::fmt;
use std::mem;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::slice;

use kvferry_ucx_sys::{
    Completion, Library, Padded, UCP_AM_FLAG_WHOLE_MSG, UCP_AM_HANDLER_PARAM_FIELD_ARG,
    UCP_AM_HANDLER_PARAM_FIELD_CB, UCP_AM_HANDLER_PARAM_FIELD_FLAGS, UCP_AM_HANDLER_PARAM_FIELD_ID,
    UCP_AM_SEND_FLAG_EAGER, UCP_EP_PARAM_FIELD_ERR_HANDLER, UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
    UCP_EP_PARAM_FIELD_REMOTE_ADDRESS, UCP_ERR_HANDLING_MODE_PEER, UCP_OP_ATTR_FIELD_CALLBACK,
    UCP_OP_ATTR_FIELD_FLAGS, UCP_OP_ATTR_FIELD_MEMH, UCP_OP_ATTR_FIELD_MEMORY_TYPE,
    UCP_OP_ATTR_FIELD_USER_DATA, UCP_WORKER_ATTR_FIELD_ADDRESS, UCP_WORKER_PARAM_FIELD_THREAD_MODE, UCS_OK,
    UCS_THREAD_MODE_SINGLE, ucp_am_handler_param_t, ucp_ep, ucp_ep_params_t, ucp_request_param_t,
    ucp_worker_attr_t, ucp_worker_h, ucp_worker_params_t, ucs_status_ptr_t,
};

use super::mail::Mail;
use super::memory::{Mapped, RemoteKey};
use super::ops::{Held, Ops, Posted};
use super::printed::printed;
use super::{Context, Status, checked, mail};

/// The number of our kind of message. Workers of ours take no other.
const MESSAGE: u32 = 0;

/// Of `ucp_ep_close_flags_t`: ends what is under way instead of waiting for it.
const CLOSE_FORCE: u32 = 1;

/// A worker's handle, destroyed when nothing uses it any more.
#[derive(Debug)]
pub(super) struct Handles {
    pub(super) context: Rc<Context>,
    pub(super) worker: ucp_worker_h,
}

impl Handles {
    pub(super) fn ucx(&self) -> &Library {
        &self.context.ucx
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        // SAFETY: the worker was made by `Worker::new`; keys have kept this alive, and are gone.
        unsafe { self.ucx().ucp_worker_destroy(self.worker) };
    }
}

/// The way to one peer. It ends by [`Worker::close`], or with the worker.
#[derive(Debug)]
pub(in super::super) struct Endpoint(NonNull<ucp_ep>);

/// What has happened. `T` is what the caller has called its operations. Whoever asks often uses the same lists again, so that
/// they do not grow anew each time.
#[derive(Debug)]
pub(in super::super) struct News<T> {
    pub(in super::super) arrived: Vec<Vec<u8>>,
    pub(in super::super) finished: Vec<(T, Result<(), Status>)>,
    /// Endpoints that broke, by the number that they were given.
    pub(in super::super) broken: Vec<(u32, Status)>,
}

impl<T> Default for News<T> {
    fn default() -> Self {
        Self { arrived: Vec::new(), finished: Vec::new(), broken: Vec::new() }
    }
}

impl<T> News<T> {
    pub(in super::super) fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.finished.is_empty() && self.broken.is_empty()
    }
}

/// See the module.
pub(in super::super) struct Worker<T> {
    handles: Rc<Handles>,
    ops: Ops<T>,
    /// Empty between calls; kept for its room.
    mail: Mail,
    /// Of puts and gets: what differs between two of them is set for each.
    of_bytes: Padded<ucp_request_param_t>,
    event_fd: RawFd,
}

impl<T> Worker<T> {
    /// The one worker of this thread.
    ///
    /// # Errors
    /// What UCX says.
    pub(in super::super) fn new(context: &Rc<Context>) -> Result<Self, Status> {
        let ucx = Rc::clone(context);
        let ucx = &ucx.ucx;
        let mut params = Padded::<ucp_worker_params_t>::zeroed();
        params.field_mask = u64::from(UCP_WORKER_PARAM_FIELD_THREAD_MODE);
        params.thread_mode = UCS_THREAD_MODE_SINGLE;
        let mut worker = null_mut();
        // SAFETY: a live context, parameters whose mask names what is set, and a place for the handle.
        checked(unsafe { ucx.ucp_worker_create(context.handle, params.as_ptr(), &raw mut worker) })?;
        let handles = Rc::new(Handles { context: Rc::clone(context), worker });
        let mut handler = Padded::<ucp_am_handler_param_t>::zeroed();
        handler.field_mask = u64::from(
            UCP_AM_HANDLER_PARAM_FIELD_ID
                | UCP_AM_HANDLER_PARAM_FIELD_FLAGS
                | UCP_AM_HANDLER_PARAM_FIELD_CB
                | UCP_AM_HANDLER_PARAM_FIELD_ARG,
        );
        handler.id = MESSAGE;
        handler.flags = UCP_AM_FLAG_WHOLE_MSG;
        handler.cb = Some(mail::arrived);
        // SAFETY: a live worker, and a callback of the type that UCX states.
        checked(unsafe { ucx.ucp_worker_set_am_recv_handler(worker, handler.as_ptr()) })?;
        let mut event_fd = -1;
        // SAFETY: a live worker and a place for a number.
        checked(unsafe { ucx.ucp_worker_get_efd(worker, &raw mut event_fd) })?;
        // Whatever an earlier worker of this thread has left is not for this one.
        mail::swap(&mut Mail::default());
        let mut of_bytes = with_callback();
        of_bytes.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
        Ok(Self { handles, ops: Ops::default(), mail: Mail::default(), of_bytes, event_fd })
    }

    pub(in super::super) fn context(&self) -> &Rc<Context> {
        &self.handles.context
    }

    pub(in super::super) fn ucx(&self) -> &Library {
        self.handles.ucx()
    }

    /// Where peers reach it.
    ///
    /// # Errors
    /// What UCX says.
    pub(in super::super) fn address(&self) -> Result<Vec<u8>, Status> {
        let (ucx, worker) = (self.ucx(), self.handles.worker);
        let mut attributes = Padded::<ucp_worker_attr_t>::zeroed();
        attributes.field_mask = u64::from(UCP_WORKER_ATTR_FIELD_ADDRESS);
        // SAFETY: a live worker, and a struct to fill in.
        checked(unsafe { ucx.ucp_worker_query(worker, attributes.as_mut_ptr()) })?;
        let bytes = attributes.address.cast::<u8>().cast_const();
        // SAFETY: UCX has written so many bytes there.
        let address = unsafe { slice::from_raw_parts(bytes, attributes.address_length) }.to_vec();
        // SAFETY: it came from this worker, and is not used after.
        unsafe { ucx.ucp_worker_release_address(worker, attributes.address) };
        Ok(address)
    }

    /// Does what can be done now, at most `turns` times in a row. Returns whether anything was done.
    pub(in super::super) fn progress(&mut self, turns: usize) -> bool {
        // SAFETY: a live worker, on its thread, not inside of a callback.
        let turn = || unsafe { self.ucx().ucp_worker_progress(self.handles.worker) };
        (0..turns).take_while(|_| turn() != 0).count() > 0
    }

    /// Adds what has happened since to `news`.
    pub(in super::super) fn news(&mut self, news: &mut News<T>) {
        mail::swap(&mut self.mail);
        for (number, request, status) in self.mail.finished.drain(..) {
            if let Some(request) = request {
                // SAFETY: UCX has handed it to the callback of this operation, which has ended; it is freed once.
                unsafe { self.handles.ucx().ucp_request_free(request.as_ptr()) };
            }
            news.finished.extend(self.ops.remove(number).map(|tag| (tag, checked(status))));
        }
        let number = |number| u32::try_from(number).expect("it was made from a u32");
        news.arrived.append(&mut self.mail.arrived);
        let broken = self.mail.broken.drain(..);
        news.broken.extend(broken.map(|(endpoint, status)| (number(endpoint), Status(status))));
    }

    /// Whether this thread may sleep until [`event_fd`](Self::event_fd) is readable: there is nothing to be done now.
    pub(in super::super) fn arm(&mut self) -> bool {
        // SAFETY: a live worker.
        unsafe { self.ucx().ucp_worker_arm(self.handles.worker) == UCS_OK }
    }

    /// Readable once there is something to be done, if [`arm`](Self::arm) has said so.
    pub(in super::super) fn event_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the worker owns it and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.event_fd) }
    }

    /// Operations that have not ended.
    pub(in super::super) fn under_way(&self) -> usize {
        self.ops.len()
    }

    /// Goes to a peer whose worker is at `address`. If that breaks, `number` is in [`News::broken`].
    ///
    /// # Errors
    /// What UCX says: no way leads there.
    pub(in super::super) fn connect(&mut self, address: &[u8], number: u32) -> Result<Endpoint, Status> {
        let mut params = Padded::<ucp_ep_params_t>::zeroed();
        params.field_mask = u64::from(
            UCP_EP_PARAM_FIELD_REMOTE_ADDRESS
                | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE
                | UCP_EP_PARAM_FIELD_ERR_HANDLER,
        );
        params.address = address.as_ptr().cast();
        params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
        params.err_handler.cb = Some(mail::broken);
        params.err_handler.arg =
            mail::as_argument(usize::try_from(number).expect("pointers have 32 bits or more"));
        let mut endpoint = null_mut();
        // SAFETY: a live worker, an address that lives during the call, and a place for the handle. UCX reads an address as
        // far as its own counts say; the caller has it from a peer that it trusts to be an agent (see the fabric's notes).
        checked(unsafe {
            self.ucx().ucp_ep_create(self.handles.worker, params.as_ptr(), &raw mut endpoint)
        })?;
        NonNull::new(endpoint).map(Endpoint).ok_or(Status(kvferry_ucx_sys::UCS_ERR_UNREACHABLE))
    }

    /// How a peer is reached, in UCX's words.
    pub(in super::super) fn describe(&self, endpoint: &Endpoint) -> String {
        // SAFETY: a live endpoint and an open stream.
        printed(|stream| unsafe { self.ucx().ucp_ep_print_info(endpoint.0.as_ptr(), stream) })
    }

    /// Takes in what a peer has [packed](Mapped::pack): the key to its region of `len` bytes from `base` on.
    ///
    /// # Errors
    /// What UCX says.
    pub(in super::super) fn unpack(
        &mut self,
        endpoint: &Endpoint,
        packed: &[u8],
        base: u64,
        len: u64,
    ) -> Result<RemoteKey, Status> {
        let mut key = null_mut();
        // SAFETY: a live endpoint, bytes that live during the call, and a place for the key.
        checked(unsafe {
            self.ucx().ucp_ep_rkey_unpack(endpoint.0.as_ptr(), packed.as_ptr().cast(), &raw mut key)
        })?;
        RemoteKey::new(&self.handles, key, base, len).ok_or(Status(kvferry_ucx_sys::UCS_ERR_INVALID_PARAM))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// What UCX says.
    pub(in super::super) fn send(
        &mut self,
        endpoint: &Endpoint,
        message: Vec<u8>,
        tag: T,
    ) -> Result<Posted, Status> {
        // Moving the vector into what is held leaves its bytes where they are.
        let (bytes, len) = (message.as_ptr(), message.len());
        self.post(tag, Held::Message(message), |ucx, params| {
            params.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
            params.flags = UCP_AM_SEND_FLAG_EAGER;
            let (endpoint, params) = (endpoint.0.as_ptr(), params.as_ptr());
            // SAFETY: a live endpoint; the bytes are held until the operation has ended.
            unsafe { ucx.ucp_am_send_nbx(endpoint, MESSAGE, null_mut(), 0, bytes.cast(), len, params) }
        })
    }

    /// Writes `len` bytes at `offset` of `local` to `remote_offset` of what `key` opens. Its end says that they were taken
    /// from here; that they have arrived, a [`flush`](Self::flush) says.
    ///
    /// # Errors
    /// What UCX says.
    #[expect(clippy::too_many_arguments, reason = "they are what a copy takes")]
    pub(in super::super) fn put(
        &mut self,
        endpoint: &Endpoint,
        local: &Rc<Mapped>,
        offset: u64,
        key: &Rc<RemoteKey>,
        remote_offset: u64,
        len: u64,
        tag: T,
    ) -> Result<Posted, Status> {
        let (buffer, count, remote) = ranges(local, offset, key, remote_offset, len)?;
        let rkey = key.key.as_ptr();
        self.post_bytes(tag, local, key, |ucx, params| {
            // SAFETY: a live endpoint and a key of its worker; the bytes lie in a region (`ranges`) that is held, with the
            // key, until the operation has ended. UCX reads the parameters during the call only.
            unsafe { ucx.ucp_put_nbx(endpoint.0.as_ptr(), buffer.cast(), count, remote, rkey, params) }
        })
    }

    /// Reads `len` bytes at `remote_offset` of what `key` opens to `offset` of `local`. Its end says that they are there.
    ///
    /// # Errors
    /// What UCX says.
    #[expect(clippy::too_many_arguments, reason = "they are what a copy takes")]
    pub(in super::super) fn get(
        &mut self,
        endpoint: &Endpoint,
        local: &Rc<Mapped>,
        offset: u64,
        key: &Rc<RemoteKey>,
        remote_offset: u64,
        len: u64,
        tag: T,
    ) -> Result<Posted, Status> {
        let (buffer, count, remote) = ranges(local, offset, key, remote_offset, len)?;
        let rkey = key.key.as_ptr();
        self.post_bytes(tag, local, key, |ucx, params| {
            // SAFETY: as in `put`; others may write the bytes meanwhile, which nobody holds references to (`Region`).
            unsafe { ucx.ucp_get_nbx(endpoint.0.as_ptr(), buffer.cast(), count, remote, rkey, params) }
        })
    }

    /// Ends when all that was written to the peer before has arrived.
    ///
    /// # Errors
    /// What UCX says.
    pub(in super::super) fn flush(&mut self, endpoint: &Endpoint, tag: T) -> Result<Posted, Status> {
        self.post(tag, Held::Nothing, |ucx, params| {
            // SAFETY: a live endpoint.
            unsafe { ucx.ucp_ep_flush_nbx(endpoint.0.as_ptr(), params.as_ptr()) }
        })
    }

    /// Ends an endpoint. What is under way on it ends with an error, each by itself.
    ///
    /// # Errors
    /// What UCX says; the endpoint is gone all the same.
    #[expect(clippy::needless_pass_by_value, reason = "an endpoint ends once")]
    pub(in super::super) fn close(&mut self, endpoint: Endpoint, tag: T) -> Result<Posted, Status> {
        self.post(tag, Held::Nothing, |ucx, params| {
            params.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
            params.flags = CLOSE_FORCE;
            // SAFETY: a live endpoint, which nobody can name any more.
            unsafe { ucx.ucp_ep_close_nbx(endpoint.0.as_ptr(), params.as_ptr()) }
        })
    }

    /// Posts what has parameters of its own.
    fn post(
        &mut self,
        tag: T,
        held: Held,
        call: impl FnOnce(&Library, &mut Padded<ucp_request_param_t>) -> ucs_status_ptr_t,
    ) -> Result<Posted, Status> {
        let number = self.ops.add(tag, held);
        let mut params = with_callback();
        params.user_data = mail::as_argument(number);
        let answer = call(self.handles.ucx(), &mut params);
        self.posted(number, answer)
    }

    /// Posts a put or a get.
    fn post_bytes(
        &mut self,
        tag: T,
        local: &Rc<Mapped>,
        key: &Rc<RemoteKey>,
        call: impl FnOnce(&Library, *const ucp_request_param_t) -> ucs_status_ptr_t,
    ) -> Result<Posted, Status> {
        let number = self.ops.add(tag, Held::Memory(Rc::clone(local), Rc::clone(key)));
        self.of_bytes.user_data = mail::as_argument(number);
        self.of_bytes.memh = local.handle;
        self.of_bytes.memory_type = local.kind;
        let answer = call(self.handles.ucx(), self.of_bytes.as_ptr());
        self.posted(number, answer)
    }

    fn posted(&mut self, number: usize, answer: ucs_status_ptr_t) -> Result<Posted, Status> {
        let posted = match Completion::of(answer) {
            Completion::Pending(_) => return Ok(Posted::Pending),
            Completion::Done => Ok(Posted::Done),
            Completion::Failed(status) => Err(Status(status)),
        };
        self.ops.remove(number);
        posted
    }
}

impl<T: fmt::Debug> fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("handles", &self.handles)
            .field("ops", &self.ops)
            .finish_non_exhaustive()
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        if self.ops.len() > 0 {
            // Something may still write: what it uses stays for good.
            mem::forget(Rc::clone(&self.handles));
            mem::forget(mem::take(&mut self.ops));
        }
    }
}

/// Parameters of an operation whose end is told.
fn with_callback() -> Padded<ucp_request_param_t> {
    let mut params = Padded::<ucp_request_param_t>::zeroed();
    params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    params.cb.send = Some(mail::finished);
    params
}

/// The local address, the count and the remote address; an error if either range reaches out of its region.
fn ranges(
    local: &Mapped,
    offset: u64,
    key: &RemoteKey,
    remote_offset: u64,
    len: u64,
) -> Result<(*mut c_void, usize, u64), Status> {
    let invalid = Status(kvferry_ucx_sys::UCS_ERR_OUT_OF_RANGE);
    let here = local.region.address(offset, len).ok_or(invalid)?;
    let there = remote_offset
        .checked_add(len)
        .filter(|end| *end <= key.len())
        .and_then(|_| key.base.checked_add(remote_offset))
        .ok_or(invalid)?;
    Ok((here.as_ptr().cast(), usize::try_from(len).map_err(|_| invalid)?, there))
}
