//! `memory_bytes_max` against an allocator that counts, with peers that fill whatever can be filled.
