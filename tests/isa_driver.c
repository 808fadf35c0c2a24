/* Calls exports of tests/isa_exports.py: no library, so that any AArch64 compiler links it.

   Standard input: calls, each {function, size, pointers: int64} and `size` bytes of memory that begin with the arguments (int64);
   bit i of `pointers` says that argument i is an offset in that memory. Standard output: the memory after each call. */

typedef long long int64;

int64 dot_products(int64), int8_matrix(int64), linear_matrix(int64), float_matrix(int64);

enum { READ = 63, WRITE = 64, EXIT = 93 };

static union {
    int64 arguments[16];
    char bytes[1 << 22];
} memory __attribute__((aligned(64)));

static long linux_call(long number, long a, long b, long c) {
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}

static int transfer(int number, int file, char *bytes, int64 size) {
    while (size > 0) {
        long done = linux_call(number, file, (long)bytes, size);
        if (done <= 0) return 0;
        bytes += done;
        size -= done;
    }
    return 1;
}

void _start(void) {
    int64 head[3];
    while (transfer(READ, 0, (char *)head, sizeof head)) {
        if (head[1] > (int64)sizeof memory || !transfer(READ, 0, memory.bytes, head[1])) linux_call(EXIT, 1, 0, 0);
        for (int i = 0; i < 16; i++)
            if (head[2] >> i & 1) memory.arguments[i] += (int64)memory.bytes;
        int64 (*const functions[])(int64) = {dot_products, int8_matrix, linear_matrix, float_matrix};
        functions[head[0]]((int64)memory.bytes);
        if (!transfer(WRITE, 1, memory.bytes, head[1])) linux_call(EXIT, 1, 0, 0);
    }
    linux_call(EXIT, 0, 0, 0);
}
