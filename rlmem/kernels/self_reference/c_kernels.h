/* Declarations of c_kernels.c. cffi parses this file too, so it holds declarations only. */

typedef struct {
    /* 0 float32, 1 float64. */
    int dtype;
    /* `size` inputs and `outputs` outputs of a matrix; `width` of the outputs are y. The matrices
       before every `chunk` steps are kept. */
    int64_t time, heads, size, outputs, width, chunk;
    /* The split of the work: `rows` matrices, as in linear_scan/c_kernels.h with one channel. */
    int64_t rows, row_splits, next;
    /* Addresses, all contiguous: x and grad_x [B, T, H, D]; y and grad_y [B, T, H, Y]; weight
       [H, R, D]; change, after, grad_after, grad_change and grad_weight [B, H, R, D]; start [B, T],
       a byte each; kept [B, N, H, D, R]. */
    intptr_t x, weight, change, start, y, after, kept, grad_y, grad_after, grad_x, grad_weight,
        grad_change;
    /* `scratch_size` numbers for each work item. */
    intptr_t scratch;
    int64_t scratch_size;
} rlmem_self_reference;

/* Compute work items until there are none left; threads may call concurrently with one job. */
void rlmem_self_reference_forward(rlmem_self_reference *job);
void rlmem_self_reference_backward(rlmem_self_reference *job);
