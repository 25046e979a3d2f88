/* Declarations of c_kernels.c. cffi parses this file too, so it holds declarations only. */

typedef struct {
    /* 0 float32, 1 float64. */
    int dtype;
    /* `size` is the width of the filter, 1 to 4. */
    int64_t time, channels, size;
    /* The split of the work, as in linear_scan/c_kernels.h. */
    int64_t rows, row_splits, channel_splits, next;
    /* Addresses. x and grad_y have any strides over batch and time, in elements, and stride 1 over
       channels. All others are contiguous: weight [size, D], the newest step's tap first; bias [D];
       window and grad_window [B, size-1, D]; start [B, T], a byte each; y and grad_x [B, T, D]. */
    intptr_t x, grad_y, weight, bias, window, start, y, grad_x, grad_window;
    int64_t x_row, x_time, grad_y_row, grad_y_time;
    /* [row_splits * channel_splits, 5, D], added to: gradients for weight in the first 4 rows (taps
       as in `weight`) and for bias in the last. One slice per work item. */
    intptr_t sums;
} rlmem_conv;

/* Compute work items until there are none left; threads may call concurrently with one conv. */
void rlmem_short_conv(rlmem_conv *conv);
void rlmem_short_conv_backward(rlmem_conv *conv);
