//! Has the linker keep one copy of functions that are the same to the last byte, in releases: there,
//! no backtrace names them anyway.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
