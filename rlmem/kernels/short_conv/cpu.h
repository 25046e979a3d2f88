/* What Python sees of cpu.c: cffi reads this file too, so it holds declarations only. */

typedef struct {
    /* 0 float32, 1 float64. */
    int dtype;
    /* `size` is the width of the filter, 1 to 4. */
    int64_t time, channels, size;
    /* How the work is cut, as in linear_scan/cpu.h. */
    int64_t rows, row_cuts, channel_cuts, next;
    /* Addresses. x and grad_y have any strides over batch and time, in elements, and stride 1 over
       channels. All others are contiguous: weight [size, D], the newest step's first; bias [D];
       window and grad_window [B, size-1, D]; start [B, T] one byte each; y and grad_x [B, T, D]. */
    intptr_t x, grad_y, weight, bias, window, start, y, grad_x, grad_window;
    int64_t x_row, x_time, grad_y_row, grad_y_time;
    /* [row_cuts * channel_cuts, 5, D], added to: gradients for weight, as above in the first 4,
       and for bias in the last, apart for each share. */
    intptr_t sums;
} rlmem_conv;

/* Take shares until there are none left; any number of threads may call with the same conv. */
void rlmem_short_conv(rlmem_conv *conv);
void rlmem_short_conv_backward(rlmem_conv *conv);
