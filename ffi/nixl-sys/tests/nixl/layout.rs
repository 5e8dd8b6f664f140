//! Sizes, offsets and values here are those of NIXL's own header, in the oldest and the newest supported version.

use std::fmt::Write;
use std::mem::offset_of;
use std::path::PathBuf;

use kvferry_ffi_testing::{checkout, headers};
use kvferry_nixl_sys::*;

use crate::CC;

/// An expression of C, and its value here.
type Fact = (String, i64);

fn number(of: usize) -> i64 {
    i64::try_from(of).unwrap()
}

fn size_of_what<T, F>(_field: fn(&T) -> &F) -> i64 {
    number(size_of::<F>())
}

macro_rules! fields {
    ($facts:ident, $type:ident { $($field:ident),* $(,)? }) => {
        $facts.push((concat!("sizeof(struct ", stringify!($type), ")").to_owned(), number(size_of::<$type>())));
        $(
            $facts.push((
                concat!("offsetof(struct ", stringify!($type), ",", stringify!($field), ")").to_owned(),
                number(offset_of!($type, $field)),
            ));
            $facts.push((
                concat!("sizeof(((struct ", stringify!($type), "*)0)->", stringify!($field), ")").to_owned(),
                size_of_what(|it: &$type| &it.$field),
            ));
        )*
    };
}

macro_rules! values {
    ($facts:ident, $($name:ident),* $(,)?) => {
        $($facts.push((stringify!($name).to_owned(), i64::from($name)));)*
    };
}

macro_rules! types {
    ($facts:ident, $($name:ident),* $(,)?) => {
        $($facts.push((concat!("sizeof(", stringify!($name), ")").to_owned(), number(size_of::<$name>())));)*
    };
}

fn facts_of_every_version() -> Vec<Fact> {
    let mut facts = Vec::new();
    fields!(
        facts,
        nixl_capi_agent_config_s {
            enable_prog_thread,
            enable_listen_thread,
            listen_port,
            thread_sync,
            num_workers,
            pthr_delay_us,
            lthr_delay_us,
            capture_telemetry,
        }
    );
    fields!(
        facts,
        nixl_capi_xfer_telemetry_s {
            start_time_us,
            post_duration_us,
            xfer_duration_us,
            total_bytes,
            desc_count,
        }
    );
    types!(
        facts,
        nixl_capi_status_t,
        nixl_capi_mem_type_t,
        nixl_capi_thread_sync_t,
        nixl_capi_xfer_op_t,
        nixl_capi_cost_t
    );
    values!(
        facts,
        NIXL_CAPI_SUCCESS,
        NIXL_CAPI_IN_PROG,
        NIXL_CAPI_ERROR_INVALID_PARAM,
        NIXL_CAPI_ERROR_BACKEND,
        NIXL_CAPI_ERROR_INVALID_STATE,
        NIXL_CAPI_ERROR_EXCEPTION,
        NIXL_CAPI_ERROR_NO_TELEMETRY,
        NIXL_CAPI_MEM_DRAM,
        NIXL_CAPI_MEM_VRAM,
        NIXL_CAPI_MEM_BLOCK,
        NIXL_CAPI_MEM_OBJECT,
        NIXL_CAPI_MEM_FILE,
        NIXL_CAPI_MEM_UNKNOWN,
        NIXL_CAPI_THREAD_SYNC_NONE,
        NIXL_CAPI_THREAD_SYNC_STRICT,
        NIXL_CAPI_THREAD_SYNC_RW,
        NIXL_CAPI_THREAD_SYNC_DEFAULT,
        NIXL_CAPI_XFER_OP_READ,
        NIXL_CAPI_XFER_OP_WRITE,
        NIXL_CAPI_COST_ANALYTICAL_BACKEND,
    );
    facts
}

fn include_folders() -> Vec<PathBuf> {
    let folders = ["1.0.0", "1.5.1"].map(|version| checkout().join(".venv/include/nixl").join(version));
    headers(&folders, "nixl_capi.h")
}

#[test]
fn every_field_and_value_is_what_the_header_of_each_version_says() {
    for include in include_folders() {
        let mut facts = facts_of_every_version();
        if include.ends_with("1.5.1") {
            values!(facts, NIXL_CAPI_ERROR_NOT_FOUND);
        }
        let mut code = "#include <stdio.h>\n#include \"nixl_capi.h\"\nint main(void) {\n".to_owned();
        for (at, (c, _)) in facts.iter().enumerate() {
            writeln!(code, "printf(\"{at} %ld\\n\", (long)({c}));").unwrap();
        }
        code.push_str("return 0;\n}\n");
        let name = format!("nixl-layout{}", include.display()).replace('/', "-");
        let there = CC.numbers(&name, &code, &include);
        for (at, (c, here)) in facts.iter().enumerate() {
            assert_eq!(there[&at.to_string()], [*here], "{c} in {}", include.display());
        }
    }
}
