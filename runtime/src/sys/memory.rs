//! The heap.

/// Gives free heap pages back to the kernel.
pub fn trim() {
    // SAFETY: malloc_trim may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Lets all threads allocate from one heap, where what one frees serves the others. Threads that
/// come to have heaps of their own keep them, so this belongs before the first of them.
pub fn use_one_arena() {
    // SAFETY: mallopt may be called at any time. A libc that does not know the parameter says so
    // and changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
