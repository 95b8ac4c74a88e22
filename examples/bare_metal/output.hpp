// SPDX-License-Identifier: BSL-1.0
// Text on the machine's serial port.
#pragma once

#include <cstdint>

#include "platform.hpp"

struct hex {
    std::uint64_t value;
};
/// A number or a text in a column of a table.
struct right_aligned {
    std::uint64_t value;
    unsigned width;
};
struct left_aligned {
    const char* text;
    unsigned width;
};

[[gnu::noinline]] inline void print(char c)
{
    if (c == '\n') machine::put('\r');
    machine::put(c);
}
[[gnu::noinline]] inline void print(const char* s)
{
    while (*s != '\0') print(*s++);
}
[[gnu::noinline]] inline void print(hex h)
{
    print("0x");
    unsigned shift = 60;
    while (shift != 0 && h.value >> shift == 0) shift -= 4;
    for (;; shift -= 4) {
        print("0123456789abcdef"[h.value >> shift & 15]);
        if (shift == 0) return;
    }
}
[[gnu::noinline]] inline void print(right_aligned c)
{
    char text[20];
    unsigned n = 0;
    do {
        text[n++] = static_cast<char>('0' + c.value % 10);
        c.value /= 10;
    } while (c.value != 0);
    for (unsigned i = n; i < c.width; ++i) print(' ');
    while (n != 0) print(text[--n]);
}
[[gnu::noinline]] inline void print(left_aligned c)
{
    unsigned n = 0;
    for (; c.text[n] != '\0'; ++n) print(c.text[n]);
    for (; n < c.width; ++n) print(' ');
}
[[gnu::noinline]] inline void print(std::uint64_t v) { print(right_aligned{v, 0}); }
[[gnu::noinline]] inline void print(unsigned v) { print(right_aligned{v, 0}); }
template <class... Parts>
    requires(sizeof...(Parts) > 1)
void print(const Parts&... parts)
{
    (print(parts), ...);
}

/// Whether all that was checked is right.
inline bool all_right = true;
inline unsigned wrongs = 0;

[[noreturn]] inline void finish()
{
    print(all_right ? "PASSED\n" : "FAILED\n");
    machine::leave(all_right);
}
/// What nothing can go on after.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts)
{
    print("  FATAL: ", parts..., "\n");
    all_right = false;
    finish();
}

/// Says what is wrong; the run goes on, and fails.
[[gnu::noinline]] inline bool check(bool right, const char* what)
{
    if (!right) {
        print("  WRONG: ", what, "\n");
        all_right = false;
        if (++wrongs == 10) fail("that is enough");
    }
    return right;
}
