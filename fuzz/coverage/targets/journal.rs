#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coracle_store::fuzz_targets::journal(bytes));
