// The intrinsics of MSVC's <intrin.h> that the library uses, as its documentation declares
// them: for compilers that read the library as MSVC does. MSVC has no other with these names.
#pragma once

extern "C" {
__declspec(noreturn) void __fastfail(unsigned code);
void _ReadWriteBarrier();
__int64 __iso_volatile_load64(const volatile __int64* at);
__int32 __iso_volatile_load32(const volatile __int32* at);

__int64 _InterlockedExchange64(__int64 volatile* at, __int64 value);
long _InterlockedExchange(long volatile* at, long value);
__int64 _InterlockedOr64(__int64 volatile* at, __int64 mask);
long _InterlockedOr(long volatile* at, long mask);
__int64 _InterlockedAnd64(__int64 volatile* at, __int64 mask);
long _InterlockedAnd(long volatile* at, long mask);
__int64 _InterlockedCompareExchange64(__int64 volatile* at, __int64 desired, __int64 expected);
long _InterlockedCompareExchange(long volatile* at, long desired, long expected);

#if defined(_M_X64)
#define _MM_HINT_T0 1
void _mm_prefetch(const char* at, int hint);
#endif

#if defined(_M_ARM64)
void __prefetch(const void* at);
enum _tag_ARM64INTR_BARRIER_TYPE { _ARM64_BARRIER_ISH = 0xB };
void __dmb(unsigned type);
#endif
}
