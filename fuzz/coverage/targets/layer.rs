#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coracle_runtime::fuzz_targets::layer(bytes));
