// Stands for MSVC's <intrin.h>: the intrinsics that slot.hpp uses, over the builtins of the
// compiler that runs the test.
#pragma once

#include <cstdlib>

[[noreturn]] inline void __fastfail(unsigned) { std::abort(); }
// A builtin of Clang has this name.
#define _mm_prefetch(at, hint) __builtin_prefetch(at)
inline void _ReadWriteBarrier() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
inline long long __iso_volatile_load64(const volatile long long* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
inline int __iso_volatile_load32(const volatile int* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }

using msvc_int64 = long long;
#define __int64 msvc_int64
using msvc_long = int;  // 32 bits, as long is there
#define long msvc_long

inline __int64 _InterlockedExchange64(__int64 volatile* at, __int64 value)
{
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);
}
inline long _InterlockedExchange(long volatile* at, long value)
{
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);
}
inline __int64 _InterlockedOr64(__int64 volatile* at, __int64 mask)
{
    return __atomic_fetch_or(at, mask, __ATOMIC_SEQ_CST);
}
inline long _InterlockedOr(long volatile* at, long mask) { return __atomic_fetch_or(at, mask, __ATOMIC_SEQ_CST); }
inline __int64 _InterlockedAnd64(__int64 volatile* at, __int64 mask)
{
    return __atomic_fetch_and(at, mask, __ATOMIC_SEQ_CST);
}
inline long _InterlockedAnd(long volatile* at, long mask) { return __atomic_fetch_and(at, mask, __ATOMIC_SEQ_CST); }
inline __int64 _InterlockedCompareExchange64(__int64 volatile* at, __int64 desired, __int64 expected)
{
    __atomic_compare_exchange_n(at, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}
inline long _InterlockedCompareExchange(long volatile* at, long desired, long expected)
{
    __atomic_compare_exchange_n(at, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}
