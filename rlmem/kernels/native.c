/* What all kernels in C share. */

#include <stdint.h>

#include "native.h"

#include <stddef.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

/* A hint that memory about to be written for the first time may come in large pages: one fault
   per 2 MiB and not per 4 KiB. */
void rlmem_large(intptr_t address, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const intptr_t page = 1 << 21;
    intptr_t first = (address + page - 1) / page * page;
    intptr_t last = (address + bytes) / page * page;
    if (last > first) madvise((void *)first, (size_t)(last - first), MADV_HUGEPAGE);
#else
    (void)address, (void)bytes;
#endif
}
