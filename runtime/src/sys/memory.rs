//! The heap.

/// Gives free heap pages back to the kernel.
pub fn trim() {
    // SAFETY: malloc_trim may be called at any time.
    unsafe { libc::malloc_trim(0) };
}
