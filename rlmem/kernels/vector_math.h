/* Elementary functions of float32 that compilers can vectorise; for float64 libm's are used.

   Relative errors are within 2e-7 if the result is a normal number. There are no branches: both
   sides of a selection are computed. A NaN stays a NaN.  */

INLINE float rlmem_expf(float x) {
    /* e^x = 2^k e^r. Adding `magic` rounds k to the last bits of the sum. */
    const float magic = 12582912.0f;
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float sum = x * 1.44269504f + magic;
    float k = sum - magic;
    float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float q = 0.5f + r * (0.1666652f + r * (0.0416683927f + r * (0.00836878084f + r * 0.00138144672f)));
    float p = 1.0f + (r + r * r * q);
    uint32_t bits;
    memcpy(&bits, &sum, sizeof bits);
    bits = (bits + 127u) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

INLINE float rlmem_tanhf(float x) {
    float size = x < 0 ? -x : x;
    float z = x * x;
    float q = -0.33333269f + z * (0.13331084f + z * (-0.053709f + z * (0.020536682f + z * -0.0055886442f)));
    float near = x + x * z * q;
    float far = 1.0f - 2.0f / (rlmem_expf(2.0f * size) + 1.0f);
    far = x < 0 ? -far : far;
    return size < 0.625f ? near : far;
}

/* log(1 + x) for x in [0, 1]: 2 atanh(x / (2 + x)). */
INLINE float rlmem_log1pf(float x) {
    float s = x / (2.0f + x), z = s * s;
    float q = 0.33333337f + z * (0.19999439f + z * (0.14308442f + z * (0.10713829f + z * 0.12150467f)));
    return 2.0f * (s + s * z * q);
}
