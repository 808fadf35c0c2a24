/* The instruction-set levels of this library, and the CPU features that each needs. */
#ifndef TBRT_LEVELS_H
#define TBRT_LEVELS_H

#include "kernels.h"

#include <stdint.h>

/* One bit for each feature, by Linux's name without underscores. */
enum {
    TBRT_CPU_avx2,
    TBRT_CPU_fma,
    TBRT_CPU_bmi1,
    TBRT_CPU_bmi2,
    TBRT_CPU_f16c,
    TBRT_CPU_movbe,
    TBRT_CPU_avxvnni,
    TBRT_CPU_avx512f,
    TBRT_CPU_avx512bw,
    TBRT_CPU_avx512vl,
    TBRT_CPU_avx512dq,
    TBRT_CPU_avx512cd,
    TBRT_CPU_avx512vnni,
    TBRT_CPU_asimddp,
    TBRT_CPU_i8mm
};

typedef struct tbrt_level {
    const char *name;
    uint64_t needs;
    kernel_functions kernels;
} tbrt_level;

/* Slowest first. The first one runs everywhere. */
extern const tbrt_level tbrt_levels[];
extern const int tbrt_level_count;

/* The features of this machine, one bit each. */
uint64_t tbrt_cpu_features(void);

#endif
