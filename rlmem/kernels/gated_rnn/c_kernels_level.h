/* Both types for one vector width. c_kernels.c includes this file once per width and defines LEVEL
   (part of the names) and, other than what depends on the type, what c_kernels_typed.h requires. */

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
#include "c_kernels_typed.h"

#define NAME(f) EXPAND(f##_f64, LEVEL)
#define SCALAR double
#define EXP exp
#define TANH tanh
#define LOG1P log1p
#define BYTES LEVEL_BYTES
#define ROWS LEVEL_ROWS
#define BACK_ROWS LEVEL_BACK_ROWS
#include "c_kernels_typed.h"

#undef JOIN
#undef EXPAND
#undef LEVEL
#undef LEVEL_BYTES
#undef LEVEL_ROWS
#undef LEVEL_BACK_ROWS
