/* Which features the CPU and the operating system offer. */
#include "levels.h"

#define BIT(feature) ((uint64_t)1 << TBRT_CPU_##feature)

#if defined __x86_64__
#include <cpuid.h>

/* The parts of the register state that the operating system saves (XCR0). */
static uint64_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

/* Bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID. */
uint64_t tbrt_cpu_features(void) {
    uint32_t a, b, c, d;
    uint64_t found = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    const int avx = (c >> 27 & 1) != 0 && (c >> 28 & 1) != 0 && (saved_state() & 0x6) == 0x6;
    const int avx512 = avx && (saved_state() & 0xe6) == 0xe6;
    found |= (c >> 22 & 1) ? BIT(movbe) : 0;
    if (avx) {
        found |= (c >> 12 & 1) ? BIT(fma) : 0;
        found |= (c >> 29 & 1) ? BIT(f16c) : 0;
    }
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return found;
    const uint32_t subleaves = a;
    found |= (b >> 3 & 1) ? BIT(bmi1) : 0;
    found |= (b >> 8 & 1) ? BIT(bmi2) : 0;
    found |= avx && (b >> 5 & 1) ? BIT(avx2) : 0;
    if (avx512) {
        found |= (b >> 16 & 1) ? BIT(avx512f) : 0;
        found |= (b >> 17 & 1) ? BIT(avx512dq) : 0;
        found |= (b >> 28 & 1) ? BIT(avx512cd) : 0;
        found |= (b >> 30 & 1) ? BIT(avx512bw) : 0;
        found |= (b >> 31 & 1) ? BIT(avx512vl) : 0;
        found |= (c >> 11 & 1) ? BIT(avx512vnni) : 0;
    }
    if (avx && subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
        found |= (a >> 4 & 1) ? BIT(avxvnni) : 0;
    return found;
}

#elif defined __aarch64__ && defined __linux__
#include <sys/auxv.h>

/* Bits: the Linux kernel's arch/arm64/include/uapi/asm/hwcap.h. */
uint64_t tbrt_cpu_features(void) {
    uint64_t found = 0;
    found |= (getauxval(AT_HWCAP) >> 20 & 1) ? BIT(asimddp) : 0;
    found |= (getauxval(AT_HWCAP2) >> 13 & 1) ? BIT(i8mm) : 0;
    return found;
}

#elif defined __aarch64__ && defined __APPLE__
#include <stddef.h>
#include <sys/sysctl.h>

static int offered(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}

uint64_t tbrt_cpu_features(void) {
    uint64_t found = 0;
    found |= offered("hw.optional.arm.FEAT_DotProd") ? BIT(asimddp) : 0;
    found |= offered("hw.optional.arm.FEAT_I8MM") ? BIT(i8mm) : 0;
    return found;
}

#else
uint64_t tbrt_cpu_features(void) {
    return 0;
}
#endif
