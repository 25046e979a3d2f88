/* What Python sees of native.c: cffi reads this file too, so it holds declarations only. */

void rlmem_large(intptr_t address, int64_t bytes);
