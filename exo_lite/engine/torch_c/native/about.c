/* What the library says of itself, so that layout.py can check its mirror of the structs. */
#include "simd.h"

#define SIZEOF(NAME) EXPORT int el_sizeof_##NAME(void) { return (int)sizeof(el_##NAME); }

SIZEOF(linear)
SIZEOF(layer)
SIZEOF(model)
SIZEOF(row)
SIZEOF(scratch)
SIZEOF(float_linear)
SIZEOF(float_layer)
SIZEOF(float_model)
SIZEOF(float_scratch)

/* Whether it was compiled with OpenMP. */
EXPORT int el_has_threads(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}
