#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coracle_apiserver::fuzz_targets::merge_patch(bytes));
