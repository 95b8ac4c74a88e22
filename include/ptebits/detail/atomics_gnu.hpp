// SPDX-License-Identifier: BSL-1.0
// The primitives of atomics.hpp by the builtins of GCC and Clang. Included by atomics.hpp only.
#pragma once

#include <ptebits/config.hpp>

namespace ptebits::detail {

struct barrier {
    static constexpr int none = __ATOMIC_RELAXED;
    static constexpr int acquire = __ATOMIC_ACQUIRE;
    static constexpr int release = __ATOMIC_RELEASE;
    static constexpr int acq_rel = __ATOMIC_ACQ_REL;
    static constexpr int seq_cst = __ATOMIC_SEQ_CST;
};

template <int Order, class Word>
[[nodiscard]] PTEBITS_INLINE inline Word slot_load(const Word& slot) noexcept
{
    return __atomic_load_n(&slot, Order);
}

template <int Order, class Word>
PTEBITS_INLINE inline void slot_store(Word& slot, Word value) noexcept
{
    __atomic_store_n(&slot, value, Order);
}

template <int Order, class Word>
PTEBITS_INLINE inline Word slot_exchange(Word& slot, Word value) noexcept
{
    return __atomic_exchange_n(&slot, value, Order);
}

template <int Order, int OnFailure, class Word>
PTEBITS_INLINE inline bool slot_compare_exchange(Word& slot, Word& expected, Word desired) noexcept
{
    return __atomic_compare_exchange_n(&slot, &expected, desired, false, Order, OnFailure);
}

template <int Order, class Word>
PTEBITS_INLINE inline Word slot_fetch_or(Word& slot, Word mask) noexcept
{
    return __atomic_fetch_or(&slot, mask, Order);
}

template <int Order, class Word>
PTEBITS_INLINE inline Word slot_fetch_and(Word& slot, Word mask) noexcept
{
    return __atomic_fetch_and(&slot, mask, Order);
}

PTEBITS_INLINE inline void fetch_line(const void* address) noexcept { __builtin_prefetch(address); }

}  // namespace ptebits::detail
