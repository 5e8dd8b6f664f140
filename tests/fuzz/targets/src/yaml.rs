//! Feeds the target `yaml` from libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvferry_fuzz::yaml(data));
