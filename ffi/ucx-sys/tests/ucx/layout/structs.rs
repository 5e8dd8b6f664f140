//! The fields of every struct that is used. The number is UCX's minor version since which a field is there.

use std::mem::offset_of;

use kvferry_ucx_sys::*;

use super::{Fact, number};

fn size_of_what<T, F>(_field: fn(&T) -> &F) -> i64 {
    number(size_of::<F>())
}

macro_rules! fields {
    ($($since:literal $type:ident { $($field:ident)* })*) => {
        vec![$($(Fact {
            since: $since,
            name: concat!(stringify!($type), ".", stringify!($field)),
            c: vec![
                concat!("offsetof(", stringify!($type), ", ", stringify!($field), ")"),
                concat!("sizeof(((", stringify!($type), " *)0)->", stringify!($field), ")"),
            ],
            here: vec![number(offset_of!($type, $field)), size_of_what(|it: &$type| &it.$field)],
        },)*)*]
    };
}

/// Offset and size of each field.
pub fn facts() -> Vec<Fact> {
    fields! {
        13 ucp_params_t {
            field_mask features request_size request_init request_cleanup tag_sender_mask mt_workers_shared
            estimated_num_eps estimated_num_ppn name
        }
        20 ucp_params_t { node_local_id }
        13 ucp_lib_attr_t { field_mask max_thread_level }
        13 ucp_context_attr_t { field_mask request_size thread_mode memory_types name }
        20 ucp_context_attr_t { device_counter_size }
        13 ucp_worker_params_t {
            field_mask thread_mode cpu_mask events user_data event_fd flags name am_alignment client_id
        }
        13 ucp_worker_attr_t {
            field_mask thread_mode address_flags address address_length max_am_header name max_debug_string
        }
        13 ucp_worker_address_attr_t { field_mask worker_uid }
        13 ucp_ep_params_t {
            field_mask address err_mode err_handler user_data flags sockaddr conn_request name
            local_sockaddr
        }
        13 ucp_err_handler_t { cb arg }
        13 ucs_sock_addr_t { addr addrlen }
        13 ucp_ep_attr_t { field_mask name local_sockaddr remote_sockaddr }
        14 ucp_ep_attr_t { transports }
        18 ucp_ep_attr_t { user_data }
        14 ucp_transports_t { entries num_entries entry_size }
        14 ucp_transport_entry_t { transport_name device_name }
        13 ucp_ep_evaluate_perf_param_t { field_mask message_size }
        13 ucp_ep_evaluate_perf_attr_t { field_mask estimated_time }
        13 ucp_mem_map_params_t { field_mask address length flags prot memory_type }
        14 ucp_mem_map_params_t { exported_memh_buffer }
        13 ucp_mem_attr_t { field_mask address length mem_type }
        14 ucp_memh_pack_params_t { field_mask flags }
        14 ucp_memh_buffer_release_params_t { field_mask }
        16 ucp_rkey_compare_params_t { field_mask }
        13 ucp_request_param_t {
            op_attr_mask flags request cb datatype user_data reply_buffer memory_type recv_info memh
        }
        22 ucp_request_param_t { remote_datatype remote remote_count }
        13 ucp_request_attr_t { field_mask debug_string debug_string_size status mem_type }
        13 ucp_am_handler_param_t { field_mask id flags cb arg }
        13 ucp_am_recv_param_t { recv_attr reply_ep }
    }
}
