/* Both types for one width of vectors; cpu.c includes this file once for each and defines LEVEL
   (which is part of the names) and what cpu_typed.h asks for but the type's own. */

#define JOIN(a, b) a##_##b
#define EXPAND(a, b) JOIN(a, b)

#define NAME(f) EXPAND(f##_f32, LEVEL)
#define SCALAR float
#define EXP rlmem_expf
#define TANH rlmem_tanhf
#define LOG1P rlmem_log1pf
#define BYTES LEVEL_BYTES
#define ROWS LEVEL_ROWS
#define BACK_ROWS LEVEL_BACK_ROWS
#include "cpu_typed.h"

#define NAME(f) EXPAND(f##_f64, LEVEL)
#define SCALAR double
#define EXP exp
#define TANH tanh
#define LOG1P log1p
#define BYTES LEVEL_BYTES
#define ROWS LEVEL_ROWS
#define BACK_ROWS LEVEL_BACK_ROWS
#include "cpu_typed.h"

#undef JOIN
#undef EXPAND
#undef LEVEL
#undef LEVEL_BYTES
#undef LEVEL_ROWS
#undef LEVEL_BACK_ROWS
