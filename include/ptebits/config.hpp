// SPDX-License-Identifier: BSL-1.0
// What every other header needs first: the language, the target, and how a program stops.
#pragma once

// The language of the translation unit. MSVC tells it in __cplusplus only if asked to.
#if __cplusplus < 202002L && (!defined(_MSVC_LANG) || _MSVC_LANG < 202002L)
#error ptebits needs C++20: compile with -std=c++20 or later
// No such file: compilers end here, where a thousand errors would follow otherwise.
#include <ptebits/needs_cpp20>
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

// Inlined whatever the compiler's measure says, where only then what a caller does not use
// costs nothing. For the library's own functions.
#if defined(__GNUC__) || defined(__clang__)
#define PTEBITS_INLINE __attribute__((always_inline))
#else
#define PTEBITS_INLINE
#endif

// Never inlined: what is seldom called, so that it does not slow down what is around it.
#if defined(__GNUC__) || defined(__clang__)
#define PTEBITS_NOINLINE __attribute__((noinline))
#else
#define PTEBITS_NOINLINE
#endif

// A member in whose padding the next may lie. Targets of Microsoft's ABI have no such.
#if __has_cpp_attribute(no_unique_address)
#define PTEBITS_NO_UNIQUE_ADDRESS [[no_unique_address]]
#else
#define PTEBITS_NO_UNIQUE_ADDRESS
#endif

namespace ptebits {

// 8 bytes at once would take a lock elsewhere.
static_assert(sizeof(void*) == 8, "ptebits: only 64-bit targets are supported");

namespace broken {

/// Stops the program at once, by an instruction that traps: without a message and without
/// a call, so that it needs no library. It does not return.
[[noreturn]] inline void stop() noexcept
{
#if defined(__GNUC__) || defined(__clang__)
    __builtin_trap();
#else
    __fastfail(5);  // FAST_FAIL_INVALID_ARG
#endif
}

}  // namespace broken

}  // namespace ptebits
