//! Sizes, offsets and values here are those of UCX's own headers, of every version at hand.
//!
//! A field that came later must be where the newest header has it, and everything that 1.13 had must have stayed where
//! it was.

mod structs;
mod values;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use kvferry_ffi_testing::{Numbers, checkout, distribution, headers, python_folders};
use kvferry_ucx_sys::*;

use crate::CC;

/// What UCX's headers and the bindings must agree on.
struct Fact {
    /// UCX's minor version that brought it.
    since: u32,
    name: &'static str,
    /// Expressions of C.
    c: Vec<&'static str>,
    /// Their values here.
    here: Vec<i64>,
}

fn number(of: usize) -> i64 {
    i64::try_from(of).unwrap()
}

/// The structs that a caller hands over: how long they are here, and with the spare tail.
fn sizes() -> BTreeMap<&'static str, (i64, i64)> {
    macro_rules! sizes {
        ($($type:ident)*) => {
            BTreeMap::from([$((
                stringify!($type),
                (number(size_of::<$type>()), number(size_of::<Padded<$type>>())),
            )),*])
        };
    }
    sizes! {
        ucp_params_t ucp_lib_attr_t ucp_context_attr_t ucp_worker_params_t ucp_worker_attr_t
        ucp_worker_address_attr_t ucp_ep_params_t ucp_ep_attr_t ucp_ep_evaluate_perf_param_t
        ucp_ep_evaluate_perf_attr_t ucp_mem_map_params_t ucp_mem_attr_t ucp_request_param_t
        ucp_request_attr_t ucp_am_handler_param_t
    }
}

fn by_the_headers_of(include: &Path, test: &str, facts: &[Fact]) -> Numbers {
    let mut code = "#include <stddef.h>\n#include <stdio.h>\n#include <ucp/api/ucp.h>\n#include <ucp/api/ucp_version.h>\n\
        int main(void) {\nprintf(\"minor %d\\n\", UCP_API_MINOR);\n"
        .to_owned();
    for Fact { since, name, c, .. } in facts {
        let places = " %ld".repeat(c.len());
        let numbers = c.join("), (long)(");
        writeln!(code, "#if UCP_API_MINOR >= {since}").unwrap();
        writeln!(code, "printf(\"{name}{places}\\n\", (long)({numbers}));").unwrap();
        writeln!(code, "#endif").unwrap();
    }
    for name in sizes().keys() {
        writeln!(code, "printf(\"sizeof:{name} %ld\\n\", (long)sizeof({name}));").unwrap();
    }
    code.push_str("return 0;\n}\n");
    CC.numbers(&format!("{test}{}", include.display()).replace('/', "-"), &code, include)
}

/// The newest, the oldest of PyPI, and the distribution's.
fn include_folders() -> Vec<PathBuf> {
    let wheels = if python_folders().is_empty() { vec![checkout().join(".venv")] } else { python_folders() };
    let mut folders: Vec<PathBuf> = wheels.iter().map(|folder| folder.join("libucx/include")).collect();
    folders.push(distribution().join("usr/include"));
    headers(&folders, "ucp/api/ucp_version.h")
}

#[test]
fn every_field_and_value_is_what_the_headers_of_each_version_say() {
    let facts: Vec<Fact> = structs::facts().into_iter().chain(values::facts()).collect();
    for include in include_folders() {
        let there = by_the_headers_of(&include, "fields", &facts);
        let minor = there["minor"][0];
        let of_this_version = facts.iter().filter(|fact| i64::from(fact.since) <= minor);
        for fact in of_this_version {
            assert_eq!(
                there[fact.name],
                fact.here,
                "{} in UCX 1.{minor} of {}",
                fact.name,
                include.display()
            );
        }
    }
}

#[test]
fn structs_are_as_long_as_those_of_the_version_they_were_made_from_and_padded_ones_suffice_for_all() {
    for include in include_folders() {
        let there = by_the_headers_of(&include, "sizes", &[]);
        for (name, (here, padded)) in sizes() {
            let size = there[&format!("sizeof:{name}")][0];
            assert!(size <= padded, "{name} of {} does not fit: {size} bytes", include.display());
            if there["minor"][0] == i64::from(UCP_API_MINOR) {
                assert_eq!(size, here, "{name} in {}", include.display());
            }
        }
    }
}
