//! The heap.

/// Gives free heap pages back to the kernel.
pub fn trim() {
    // SAFETY: malloc_trim may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Larger allocations have pages of their own, which go back to the kernel when they are freed. Left
/// to itself, the libc raises this bound to the largest buffer that was ever freed; what is kept of
/// each large request then lies between the holes that its buffers left.
const OWN_PAGES_BYTES: libc::c_int = 128 << 10;

/// Free memory at the end of the heap that stays for the next allocations. By default it is the size
/// of two network buffers, and each request would ask the kernel for pages and give them back.
const SPARE_BYTES: libc::c_int = 1 << 20;

/// Lets all threads allocate from one heap, where what one frees serves the others, and gives large
/// allocations pages of their own. Threads that come to have heaps of their own keep them, so this
/// belongs before the first of them.
pub fn use_one_arena() {
    // SAFETY: mallopt may be called at any time. A libc that does not know the parameter says so
    // and changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // SAFETY: the same.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES) };
    // SAFETY: the same.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE_BYTES) };
}
