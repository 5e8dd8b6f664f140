//! Libraries with the names of NIXL's functions and nothing behind them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::CC;

const STUB: &str = "nixl_capi_is_stub";

/// Every function that a supported NIXL must have, as the generated code asks for them.
pub fn required() -> BTreeSet<&'static str> {
    let generated = include_str!("../../src/generated/nixl.rs");
    generated.split("get(b\"").skip(1).filter_map(|after| after.split("\\0").next()).collect()
}

/// A library that has these functions, all empty but the one that tells whether it is a stub.
pub fn look_alike(name: &str, stub: bool, functions: &BTreeSet<&str>) -> PathBuf {
    let told = format!("#include <stdbool.h>\nbool {STUB}(void) {{ return {stub}; }}\n");
    let empty = functions.iter().filter(|name| **name != STUB).map(|name| format!("void {name}() {{}}\n"));
    CC.shared_library(name, &(told + &empty.collect::<String>()))
}
