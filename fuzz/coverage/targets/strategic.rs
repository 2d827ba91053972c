#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coracle_api::fuzz_targets::strategic(bytes));
