/* Shared parts of the kernels in C. */

#include <stdint.h>

#include "native.h"

#include <stddef.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

/* Hint to the system: back memory that is written for the first time with large pages, which
   means one page fault per 2 MiB instead of one per 4 KiB. */
void rlmem_use_large_pages(intptr_t address, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const intptr_t page = 1 << 21;
    intptr_t first = (address + page - 1) / page * page;
    intptr_t last = (address + bytes) / page * page;
    if (last > first) madvise((void *)first, (size_t)(last - first), MADV_HUGEPAGE);
#else
    (void)address, (void)bytes;
#endif
}
