#!/usr/bin/env bash
# Writes the generated half of both crates anew from the headers of the newest tested versions: `make bindings`.
# The output is committed, so that a build needs neither libclang nor a header. Comments of the headers are left out:
# they belong to their projects, and a version of them would go stale here.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
site=$("$root/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
bindgen=$root/target/tools/bin/bindgen
ucx_headers=$site/libucx/include
nixl_headers=$root/.venv/include/nixl/1.5.1
export LIBCLANG_PATH=$site/clang/native
# The wheel of libclang comes without the compiler's own headers (stddef.h and the like): gcc's serve.
compiler_headers=$(gcc -print-file-name=include)

die() {
    printf 'bindings: error: %s\n' "$*" >&2
    exit 1
}
for needed in "$bindgen" "$ucx_headers/ucp/api/ucp.h" "$nixl_headers/nixl_capi.h" "$LIBCLANG_PATH/libclang.so"; do
    [ -e "$needed" ] || die "$needed is missing; run: bash tests/setup/setup.sh fabric bindings"
done

joined() { printf '%s|' "$@" | sed 's/|$//'; }

# generate CRATE OUTPUT STRUCT HEADERS FUNCTIONS OPTION...: one struct of function pointers.
generate() {
    local crate=$1 output=$here/$1/src/generated/$2.rs name=$3 headers=$4 functions=$5
    shift 5
    "$bindgen" "$here/$crate/include/${crate%-sys}.h" \
        --rust-target 1.88 --rust-edition 2024 \
        --dynamic-loading "$name" --allowlist-function "$functions" --wrap-unsafe-ops \
        --default-enum-style consts --no-prepend-enum-name --no-doc-comments \
        --blocklist-type 'FILE|_IO_.*|__off.*' "$@" -- -I "$headers" -isystem "$compiler_headers" |
        only_what_holds_everywhere >"$output"
    rustfmt --edition 2024 --config-path "$root" "$output"
}

# Values that move when a version adds a member are left out, so that nobody relies on them.
only_what_holds_everywhere() {
    sed -E '/^pub const UCS_(MEMORY_TYPE|THREAD_MODE)_(LAST|UNKNOWN):/d'
}

# What a version may lack is a `Result` in its struct, to be asked first; bindgen's methods would panic instead.
without_methods() {
    local file=$here/$1/src/generated/$2.rs
    awk '/^    pub unsafe fn (ucp|nixl_capi)_/ { skip = 1 } !skip { print } /^    }$/ { skip = 0 }' "$file" >"$file.new"
    mv "$file.new" "$file"
}

# Present since UCX 1.13, the oldest version that is loaded: one that lacks any of these is refused.
ucp_required=(
    ucp_get_version ucp_get_version_string ucp_lib_query ucs_status_string
    ucp_config_read ucp_config_modify ucp_config_print ucp_config_release
    ucp_init_version ucp_cleanup ucp_context_query ucp_context_print_info
    ucp_worker_create ucp_worker_destroy ucp_worker_query ucp_worker_print_info
    ucp_worker_release_address ucp_worker_address_query
    ucp_worker_progress ucp_worker_get_efd ucp_worker_arm ucp_worker_signal ucp_worker_wait
    ucp_worker_fence ucp_worker_flush_nbx
    ucp_ep_create ucp_ep_close_nbx ucp_ep_flush_nbx ucp_ep_query ucp_ep_print_info ucp_ep_evaluate_perf
    ucp_mem_map ucp_mem_unmap ucp_mem_query
    ucp_rkey_pack ucp_ep_rkey_unpack ucp_rkey_ptr ucp_rkey_destroy
    ucp_put_nbx ucp_get_nbx
    ucp_worker_set_am_recv_handler ucp_am_send_nbx ucp_am_recv_data_nbx ucp_am_data_release
    ucp_request_check_status ucp_request_query ucp_request_cancel ucp_request_free
)
# Came after 1.13, or are on their way out since.
ucp_optional=(ucp_rkey_buffer_release ucp_memh_buffer_release ucp_memh_pack ucp_rkey_compare)
# Field masks and flags are enums of their own that no function's type mentions.
ucp_types=(
    'ucp_(params|worker_params|ep_params|mem_map_params|memh_pack_params|am_handler_param)_field'
    'ucp_(lib|context|worker|worker_address|ep|mem)_attr_field' 'ucp_ep_perf_(param|attr)_field'
    ucp_feature ucp_ep_params_flags_field ucp_am_cb_flags ucp_send_am_flags ucp_cb_param_flags
    ucp_op_attr_t ucp_req_attr_field ucp_wakeup_event_types ucp_memh_pack_flags ucp_worker_address_flags_t
    ucp_transports_t ucp_transport_entry_t
    'ucp_(memh_pack|memh_buffer_release|rkey_compare)_params_t'
)

generate ucx-sys ucp Ucp "$ucx_headers" "$(joined "${ucp_required[@]}")" --dynamic-link-require-all \
    --allowlist-type "$(joined "${ucp_types[@]}")" --allowlist-var 'UCP_API_M.*|UCP_MEM_MAP_.*' --raw-line 'use libc::FILE;'
generate ucx-sys ucp_later UcpLater "$ucx_headers" "$(joined "${ucp_optional[@]}")" \
    --blocklist-type '.*' --blocklist-var '.*' --raw-line 'use super::ucp::*;'
without_methods ucx-sys ucp_later

# Not in NIXL 1.0, the oldest version that is loaded, nor in 1.2; in 1.5.
nixl_later='nixl_capi_(opt_args_[gs]et_custom_param|prep_mem_view_(local|remote)|release_mem_view|(create|destroy)_remote_dlist|remote_dlist_add_desc)'
# No use of these here: editing a list in place, printing to stdout, and metadata by way of etcd or a listener thread.
nixl_unused='nixl_capi_(.*_(print|trim|rem_desc|resize|clear)|(send|invalidate)_local_.*|fetch_remote_md|opt_args_set_(ip_addr|port))'
generate nixl-sys nixl Nixl "$nixl_headers" 'nixl_capi_.*' --dynamic-link-require-all \
    --blocklist-function "$nixl_later|$nixl_unused" --allowlist-type 'nixl_capi_.*'
generate nixl-sys nixl_later NixlLater "$nixl_headers" "$nixl_later" \
    --blocklist-type '.*' --raw-line 'use super::nixl::*;'
without_methods nixl-sys nixl_later
