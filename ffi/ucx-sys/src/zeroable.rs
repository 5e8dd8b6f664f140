//! The structs that callers fill in and hand over, each of which may start as zeroes.

use kvferry_dynlib::Zeroable;

use crate::{
    ucp_am_handler_param, ucp_context_attr, ucp_ep_attr, ucp_ep_evaluate_perf_attr_t,
    ucp_ep_evaluate_perf_param_t, ucp_ep_params, ucp_lib_attr, ucp_mem_attr, ucp_mem_map_params,
    ucp_memh_buffer_release_params_t, ucp_memh_pack_params_t, ucp_params, ucp_request_attr_t,
    ucp_request_param_t, ucp_rkey_compare_params_t, ucp_worker_address_attr, ucp_worker_attr,
    ucp_worker_params,
};

macro_rules! zeroable {
    ($($name:ty),* $(,)?) => {
        $(
            // SAFETY: bindgen made it of integers, floats, raw pointers, optional function pointers, and arrays,
            // structs and unions of these.
            unsafe impl Zeroable for $name {}
        )*
    };
}

zeroable!(
    ucp_am_handler_param,
    ucp_context_attr,
    ucp_ep_attr,
    ucp_ep_evaluate_perf_attr_t,
    ucp_ep_evaluate_perf_param_t,
    ucp_ep_params,
    ucp_lib_attr,
    ucp_mem_attr,
    ucp_mem_map_params,
    ucp_memh_buffer_release_params_t,
    ucp_memh_pack_params_t,
    ucp_params,
    ucp_request_attr_t,
    ucp_request_param_t,
    ucp_rkey_compare_params_t,
    ucp_worker_address_attr,
    ucp_worker_attr,
    ucp_worker_params,
);
