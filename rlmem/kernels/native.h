/* Declarations of native.c. cffi parses this file too, so it holds declarations only. */

void rlmem_use_large_pages(intptr_t address, int64_t bytes);
