#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coracle_netproxy::fuzz_targets::rule_notifications(bytes));
