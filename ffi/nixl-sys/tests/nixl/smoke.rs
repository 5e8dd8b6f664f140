//! Every NIXL on this machine, each in a process of its own, loads, tells its version and works: an agent comes up,
//! lists its plugins, loads one, and goes.

use std::ffi::{CStr, c_char};
use std::ptr::{null, null_mut};

use kvferry_ffi_testing::{Copy, each_in_its_own_process, files_of, python_folders};
use kvferry_nixl_sys::*;

fn copies() -> Vec<Copy> {
    files_of(candidates_in(&python_folders()))
}

fn check(status: nixl_capi_status_t) {
    assert_eq!(status, NIXL_CAPI_SUCCESS);
}

#[test]
fn every_copy_tells_which_file_it_is_and_the_version_of_its_wheel() {
    each_in_its_own_process(
        "smoke::every_copy_tells_which_file_it_is_and_the_version_of_its_wheel",
        &copies(),
        |file| {
            let nixl = open(file).unwrap();
            println!("{} is NIXL {}", nixl.file().display(), nixl.version());
            assert_eq!(nixl.file(), file.canonicalize().unwrap());
            let version = nixl.version().packaged.as_deref().unwrap();
            assert!(version.starts_with("1."), "{version}");
            // They came at some version between.
            assert!(!version.starts_with("1.0.") || !nixl.version().later);
            assert!(!version.starts_with("1.5.") || nixl.version().later);
        },
    );
}

#[test]
fn an_agent_comes_up_lists_its_plugins_and_goes() {
    each_in_its_own_process("smoke::an_agent_comes_up_lists_its_plugins_and_goes", &copies(), |file| {
        let nixl = open(file).unwrap();
        // SAFETY: each call gets live handles, terminated strings and places for its answers; all is destroyed once, the
        // agent last.
        unsafe {
            let agent = agent(&nixl);
            let plugins = plugins(&nixl, agent);
            println!("plugins: {plugins:?}");
            for expected in ["POSIX", "UCX"] {
                assert!(plugins.iter().any(|plugin| plugin == expected), "{expected} is not in {plugins:?}");
            }
            let memories = memories_of(&nixl, agent, c"POSIX");
            assert!(
                memories.contains(&NIXL_CAPI_MEM_FILE) && memories.contains(&NIXL_CAPI_MEM_DRAM),
                "{memories:?}"
            );
            check(nixl.nixl_capi_destroy_agent(agent));
        }
    });
}

#[test]
fn a_plugin_that_is_not_there_is_an_error_and_no_end() {
    each_in_its_own_process("smoke::a_plugin_that_is_not_there_is_an_error_and_no_end", &copies(), |file| {
        let nixl = open(file).unwrap();
        let (mut memories, mut params) = (null_mut(), null_mut());
        // SAFETY: as above.
        unsafe {
            let agent = agent(&nixl);
            let name = c"NO_SUCH_PLUGIN".as_ptr();
            let status = nixl.nixl_capi_get_plugin_params(agent, name, &raw mut memories, &raw mut params);
            assert!(status < NIXL_CAPI_SUCCESS, "{status}");
            check(nixl.nixl_capi_destroy_agent(agent));
        }
    });
}

unsafe fn agent(nixl: &Library) -> nixl_capi_agent_t {
    let mut agent = null_mut();
    let mut config = Padded::<nixl_capi_agent_config_s>::zeroed();
    config.enable_prog_thread = true;
    config.thread_sync = NIXL_CAPI_THREAD_SYNC_STRICT;
    // SAFETY: a terminated name, a configuration of this header with spare zeroes, a place for the handle.
    check(unsafe {
        nixl.nixl_capi_create_configured_agent(c"smoke".as_ptr(), config.as_ptr(), &raw mut agent)
    });
    agent
}

unsafe fn plugins(nixl: &Library, agent: nixl_capi_agent_t) -> Vec<String> {
    let (mut list, mut length) = (null_mut(), 0);
    // SAFETY: a live agent; strings of the list are copied before it is destroyed.
    unsafe {
        check(nixl.nixl_capi_get_available_plugins(agent, &raw mut list));
        check(nixl.nixl_capi_string_list_size(list, &raw mut length));
        let text = |at| {
            let mut text: *const c_char = null();
            check(nixl.nixl_capi_string_list_get(list, at, &raw mut text));
            CStr::from_ptr(text).to_str().unwrap().to_owned()
        };
        let plugins = (0..length).map(text).collect();
        check(nixl.nixl_capi_destroy_string_list(list));
        plugins
    }
}

/// The kinds of memory that a plugin moves. Loads the plugin.
unsafe fn memories_of(nixl: &Library, agent: nixl_capi_agent_t, plugin: &CStr) -> Vec<nixl_capi_mem_type_t> {
    let (mut list, mut params, mut length) = (null_mut(), null_mut(), 0);
    // SAFETY: a live agent; both answers are destroyed once.
    unsafe {
        check(nixl.nixl_capi_get_plugin_params(agent, plugin.as_ptr(), &raw mut list, &raw mut params));
        check(nixl.nixl_capi_mem_list_size(list, &raw mut length));
        let kind = |at| {
            let mut kind = NIXL_CAPI_MEM_UNKNOWN;
            check(nixl.nixl_capi_mem_list_get(list, at, &raw mut kind));
            kind
        };
        let kinds = (0..length).map(kind).collect();
        check(nixl.nixl_capi_destroy_mem_list(list));
        check(nixl.nixl_capi_destroy_params(params));
        kinds
    }
}
