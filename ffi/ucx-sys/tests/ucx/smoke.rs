//! Every UCX on this machine, each in a process of its own, loads, tells its version and works: a worker writes into
//! its own memory through an endpoint to itself, and the bytes arrive.

use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

use kvferry_ffi_testing::{
    Copy, distribution_libraries, each_in_its_own_process, files_of, python_folders, skipped,
};
use kvferry_ucx_sys::*;

/// What the loader knows UCX as.
const NAME: &str = "libucp.so.0";

/// Long enough that transports use their bulk path.
const BYTES: usize = 64 * 1024;

/// What a progress loop gives up after: no clock in tests, and a working loopback needs a few thousand.
const MOST_TURNS: u32 = 200_000_000;

/// The copies in pip's folders, and the distribution's, which the loader is to find by its name.
fn copies() -> Vec<Copy> {
    let mut copies = files_of(candidates_in(&python_folders()));
    let unpacked = distribution_libraries().into_iter().find(|folder| folder.join(NAME).exists());
    match unpacked {
        Some(folder) => copies.push(Copy::in_folder(NAME, folder)),
        None => skipped("the distribution's UCX is not unpacked (run `make setup`)"),
    }
    copies
}

fn opened(copy: &Path) -> Library {
    if copy == Path::new(NAME) { open_any(&candidates(None)).unwrap() } else { open(copy).unwrap() }
}

#[test]
fn every_copy_tells_which_file_it_is_and_a_supported_version() {
    each_in_its_own_process(
        "smoke::every_copy_tells_which_file_it_is_and_a_supported_version",
        &copies(),
        |file| {
            let ucx = opened(file);
            // SAFETY: takes nothing, answers with a terminated string that is never freed.
            let text = unsafe { CStr::from_ptr(ucx.ucp_get_version_string()) }.to_str().unwrap();
            println!("{} is UCX {} ({text})", ucx.file().display(), ucx.version());
            assert!(ucx.file().is_absolute() && ucx.file().exists());
            assert!(text.starts_with(&ucx.version().to_string()), "{text}");
            assert!(ucx.version() >= OLDEST);
            assert_eq!(ucx.later().ucp_memh_pack.is_ok(), ucx.version().minor > 13);
        },
    );
}

#[test]
fn every_copy_has_words_for_a_status() {
    each_in_its_own_process("smoke::every_copy_has_words_for_a_status", &copies(), |file| {
        let ucx = opened(file);
        assert_eq!(ucx.status_text(UCS_OK), "Success");
        assert_ne!(ucx.status_text(UCS_ERR_CONNECTION_RESET), ucx.status_text(UCS_ERR_BUSY));
        assert!(ucx.status_text(-99).contains("-99"));
    });
}

#[test]
fn every_copy_writes_into_remote_memory_by_its_key() {
    each_in_its_own_process("smoke::every_copy_writes_into_remote_memory_by_its_key", &copies(), |file| {
        let ucx = opened(file);
        // SAFETY: each call gets live handles of its own context, structs of its own header, and buffers that outlive it;
        // all handles are given back in the reverse order.
        unsafe {
            let context = context(&ucx);
            let worker = worker(&ucx, context);
            let (address, length) = address(&ucx, worker);
            assert!((1..4096).contains(&length), "an address of {length} bytes");
            let endpoint = endpoint(&ucx, worker, address);
            ucx.ucp_worker_release_address(worker, address);

            let source: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut target = vec![0_u8; BYTES];
            let (memory, key) = registered(&ucx, context, endpoint, &mut target);
            let param = Padded::<ucp_request_param_t>::zeroed();
            let remote = target.as_mut_ptr().expose_provenance() as u64;
            let put = ucx.ucp_put_nbx(endpoint, source.as_ptr().cast(), BYTES, remote, key, param.as_ptr());
            finish(&ucx, worker, put);
            finish(&ucx, worker, ucx.ucp_ep_flush_nbx(endpoint, param.as_ptr()));
            assert_eq!(target, source);

            println!("lanes: {:?}", lanes(&ucx, endpoint));
            println!("{}", printed(|stream| ucx.ucp_ep_print_info(endpoint, stream)));
            ucx.ucp_rkey_destroy(key);
            finish(&ucx, worker, ucx.ucp_ep_close_nbx(endpoint, param.as_ptr()));
            check(&ucx, ucx.ucp_mem_unmap(context, memory));
            ucx.ucp_worker_destroy(worker);
            ucx.ucp_cleanup(context);
        }
    });
}

fn check(ucx: &Library, status: ucs_status_t) {
    assert_eq!(status, UCS_OK, "{}", ucx.status_text(status));
}

unsafe fn context(ucx: &Library) -> ucp_context_h {
    let (mut config, mut context) = (null_mut(), null_mut());
    let mut params = Padded::<ucp_params_t>::zeroed();
    params.field_mask = u64::from(UCP_PARAM_FIELD_FEATURES);
    params.features = u64::from(UCP_FEATURE_RMA | UCP_FEATURE_AM | UCP_FEATURE_WAKEUP);
    // SAFETY: places for two handles; the strings are terminated; the configuration is released once used.
    unsafe {
        check(ucx, ucx.ucp_config_read(null(), null(), &raw mut config));
        check(ucx, ucx.ucp_config_modify(config, c"RNDV_THRESH".as_ptr(), c"inf".as_ptr()));
        check(ucx, ucx.ucp_init_version(API.0, API.1, params.as_ptr(), config, &raw mut context));
        ucx.ucp_config_release(config);
    }
    context
}

unsafe fn worker(ucx: &Library, context: ucp_context_h) -> ucp_worker_h {
    let (mut worker, mut event_fd) = (null_mut(), -1);
    let mut params = Padded::<ucp_worker_params_t>::zeroed();
    params.field_mask = u64::from(UCP_WORKER_PARAM_FIELD_THREAD_MODE);
    params.thread_mode = UCS_THREAD_MODE_SINGLE;
    // SAFETY: a live context, and places for a handle and a number.
    unsafe {
        check(ucx, ucx.ucp_worker_create(context, params.as_ptr(), &raw mut worker));
        check(ucx, ucx.ucp_worker_get_efd(worker, &raw mut event_fd));
        assert!(event_fd >= 0);
        // Armed once there is nothing left to do; busy until then.
        while ucx.ucp_worker_arm(worker) == UCS_ERR_BUSY {
            ucx.ucp_worker_progress(worker);
        }
        check(ucx, ucx.ucp_worker_signal(worker));
    }
    worker
}

unsafe fn address(ucx: &Library, worker: ucp_worker_h) -> (*mut ucp_address_t, usize) {
    let mut attributes = Padded::<ucp_worker_attr_t>::zeroed();
    attributes.field_mask = u64::from(UCP_WORKER_ATTR_FIELD_ADDRESS);
    // SAFETY: a live worker, and a struct to fill in.
    check(ucx, unsafe { ucx.ucp_worker_query(worker, attributes.as_mut_ptr()) });
    (attributes.address, attributes.address_length)
}

unsafe fn endpoint(ucx: &Library, worker: ucp_worker_h, address: *const ucp_address_t) -> ucp_ep_h {
    let mut endpoint = null_mut();
    let mut params = Padded::<ucp_ep_params_t>::zeroed();
    params.field_mask = u64::from(UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE);
    params.address = address;
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    // SAFETY: a live worker, an address that lives during the call, a place for a handle.
    check(ucx, unsafe { ucx.ucp_ep_create(worker, params.as_ptr(), &raw mut endpoint) });
    endpoint
}

/// Registers `memory`, and takes its key through the packed form as a peer would.
unsafe fn registered(
    ucx: &Library,
    context: ucp_context_h,
    endpoint: ucp_ep_h,
    memory: &mut [u8],
) -> (ucp_mem_h, ucp_rkey_h) {
    let (mut handle, mut key, mut packed, mut length) = (null_mut(), null_mut(), null_mut::<c_void>(), 0);
    let mut params = Padded::<ucp_mem_map_params_t>::zeroed();
    params.field_mask = u64::from(UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH);
    params.address = memory.as_mut_ptr().cast();
    params.length = memory.len();
    // SAFETY: live handles, memory that outlives its registration, and the packed key is released once unpacked, by
    // whichever function this version has for it.
    unsafe {
        check(ucx, ucx.ucp_mem_map(context, params.as_ptr(), &raw mut handle));
        check(ucx, ucx.ucp_rkey_pack(context, handle, &raw mut packed, &raw mut length));
        check(ucx, ucx.ucp_ep_rkey_unpack(endpoint, packed, &raw mut key));
        match (&ucx.later().ucp_memh_buffer_release, &ucx.later().ucp_rkey_buffer_release) {
            (Ok(release), _) => {
                release(packed, Padded::<ucp_memh_buffer_release_params_t>::zeroed().as_ptr());
            }
            (_, Ok(release)) => release(packed),
            _ => unreachable!("one of them was found when the library was opened"),
        }
    }
    (handle, key)
}

unsafe fn finish(ucx: &Library, worker: ucp_worker_h, answer: ucs_status_ptr_t) {
    match Completion::of(answer) {
        Completion::Done => {}
        Completion::Failed(status) => panic!("{}", ucx.status_text(status)),
        Completion::Pending(request) => {
            // SAFETY: a live worker and a request of it that is freed once and not used after.
            unsafe {
                let mut turns = 0;
                while ucx.ucp_request_check_status(request.as_ptr()) == UCS_INPROGRESS {
                    ucx.ucp_worker_progress(worker);
                    turns += 1;
                    assert!(turns < MOST_TURNS, "no end after {turns} turns");
                }
                check(ucx, ucx.ucp_request_check_status(request.as_ptr()));
                ucx.ucp_request_free(request.as_ptr());
            }
        }
    }
}

/// Transport and device of each lane; nothing from a version that does not tell.
unsafe fn lanes(ucx: &Library, endpoint: ucp_ep_h) -> Vec<(String, String)> {
    const MOST: u32 = 16;
    let empty = ucp_transport_entry_t { transport_name: null(), device_name: null() };
    let mut entries = vec![empty; MOST as usize];
    let mut attributes = Padded::<ucp_ep_attr_t>::zeroed();
    attributes.field_mask = u64::from(UCP_EP_ATTR_FIELD_TRANSPORTS);
    attributes.transports.entries = entries.as_mut_ptr();
    attributes.transports.num_entries = MOST;
    attributes.transports.entry_size = size_of::<ucp_transport_entry_t>();
    // SAFETY: a live endpoint, and room for as many entries as stated.
    check(ucx, unsafe { ucx.ucp_ep_query(endpoint, attributes.as_mut_ptr()) });
    // A version that does not know the field leaves the number as it was and the entries empty.
    let filled = entries.iter().take(attributes.transports.num_entries as usize);
    let told: Vec<_> = filled
        .take_while(|entry| !entry.transport_name.is_null())
        // SAFETY: a filled entry holds two terminated strings that live as long as the endpoint.
        .map(|entry| unsafe { (text(entry.transport_name), text(entry.device_name)) })
        .collect();
    assert_eq!(told.is_empty(), ucx.version().minor < 14, "{told:?}");
    told
}

unsafe fn text(pointer: *const c_char) -> String {
    // SAFETY: the caller's: a terminated string.
    unsafe { CStr::from_ptr(pointer) }.to_str().unwrap().to_owned()
}

/// What a call prints to a stream.
fn printed(call: impl FnOnce(*mut libc::FILE)) -> String {
    let (mut buffer, mut length) = (null_mut::<c_char>(), 0);
    // SAFETY: the places outlive the stream, which is closed before the buffer is read; the buffer is freed once.
    unsafe {
        let stream = libc::open_memstream(&raw mut buffer, &raw mut length);
        call(stream);
        libc::fclose(stream);
        let printed = text(buffer);
        libc::free(buffer.cast());
        printed
    }
}
