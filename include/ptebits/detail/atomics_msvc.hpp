// SPDX-License-Identifier: BSL-1.0
// The primitives of atomics.hpp by MSVC's intrinsics. Included by atomics.hpp only. The
// interlocked ones are full barriers on x64 and ARM64, so that every order is satisfied.
#pragma once

#include <ptebits/config.hpp>

#include <intrin.h>

namespace ptebits::detail {

struct barrier {
    static constexpr int none = 0;
    static constexpr int acquire = 0;
    static constexpr int release = 0;
    static constexpr int acq_rel = 0;
    static constexpr int seq_cst = 0;
};

template <class Word>
__int64 volatile* signed64(Word& slot) noexcept
{
    return reinterpret_cast<__int64 volatile*>(&slot);
}

template <class Word>
long volatile* signed32(Word& slot) noexcept
{
    return reinterpret_cast<long volatile*>(&slot);
}

template <int, class Word>
[[nodiscard]] Word slot_load(const Word& slot) noexcept
{
    Word seen;
    if constexpr (sizeof(Word) == 8) {
        seen = static_cast<Word>(__iso_volatile_load64(reinterpret_cast<const volatile __int64*>(&slot)));
    } else {
        seen = static_cast<Word>(__iso_volatile_load32(reinterpret_cast<const volatile int*>(&slot)));
    }
#if defined(_M_ARM64)
    __dmb(_ARM64_BARRIER_ISH);
#else
    _ReadWriteBarrier();  // x64 orders loads; this keeps the compiler from moving them
#endif
    return seen;
}

template <int, class Word>
Word slot_exchange(Word& slot, Word value) noexcept
{
    if constexpr (sizeof(Word) == 8) {
        return static_cast<Word>(_InterlockedExchange64(signed64(slot), static_cast<__int64>(value)));
    } else {
        return static_cast<Word>(_InterlockedExchange(signed32(slot), static_cast<long>(value)));
    }
}

template <int Order, class Word>
void slot_store(Word& slot, Word value) noexcept
{
    slot_exchange<Order>(slot, value);
}

template <int, int, class Word>
bool slot_compare_exchange(Word& slot, Word& expected, Word desired) noexcept
{
    Word found;
    if constexpr (sizeof(Word) == 8) {
        found = static_cast<Word>(_InterlockedCompareExchange64(signed64(slot), static_cast<__int64>(desired),
                                                                static_cast<__int64>(expected)));
    } else {
        found = static_cast<Word>(
            _InterlockedCompareExchange(signed32(slot), static_cast<long>(desired), static_cast<long>(expected)));
    }
    const bool same = found == expected;
    expected = found;
    return same;
}

template <int, class Word>
Word slot_fetch_or(Word& slot, Word mask) noexcept
{
    if constexpr (sizeof(Word) == 8) {
        return static_cast<Word>(_InterlockedOr64(signed64(slot), static_cast<__int64>(mask)));
    } else {
        return static_cast<Word>(_InterlockedOr(signed32(slot), static_cast<long>(mask)));
    }
}

template <int, class Word>
Word slot_fetch_and(Word& slot, Word mask) noexcept
{
    if constexpr (sizeof(Word) == 8) {
        return static_cast<Word>(_InterlockedAnd64(signed64(slot), static_cast<__int64>(mask)));
    } else {
        return static_cast<Word>(_InterlockedAnd(signed32(slot), static_cast<long>(mask)));
    }
}

inline void fetch_line(const void* address) noexcept
{
#if defined(_M_ARM64)
    __prefetch(address);
#else
    _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T0);
#endif
}

}  // namespace ptebits::detail
