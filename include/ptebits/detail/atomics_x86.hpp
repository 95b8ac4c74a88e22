// SPDX-License-Identifier: BSL-1.0
// What the builtins of GCC and Clang do not give on x86-64. Included by atomics.hpp only.
//
// Clang 14 compiles every fetch whose result is one bit to a compare-exchange loop, later Clangs do so
// for bit 63; `lock bts` and `lock btr` are one instruction with every compiler. A locked
// instruction is a full barrier, and the compiler is told that memory changes, so that every
// order is satisfied. These functions are separate because constexpr ones may not have assembly.
//
// These instructions accept a bit index outside the operand. With an index below the operand's
// width, as here, they access only the operand's own 4 or 8 bytes.
#pragma once

#include <ptebits/config.hpp>

namespace ptebits::detail {

inline constexpr bool neighbours_at_once = true;

template <int, class Word>
PTEBITS_INLINE inline bool slot_test_and_set(Word& slot, unsigned shift) noexcept
{
    bool was_set;
    if constexpr (sizeof(Word) == 8) {
        __asm__ volatile("lock btsq %2, %1"
                         : "=@ccc"(was_set), "+m"(slot)
                         : "Jr"(static_cast<unsigned long long>(shift))
                         : "memory");
    } else {
        __asm__ volatile("lock btsl %2, %1" : "=@ccc"(was_set), "+m"(slot) : "Ir"(shift) : "memory");
    }
    return was_set;
}

template <int, class Word>
PTEBITS_INLINE inline bool slot_test_and_clear(Word& slot, unsigned shift) noexcept
{
    bool was_set;
    if constexpr (sizeof(Word) == 8) {
        __asm__ volatile("lock btrq %2, %1"
                         : "=@ccc"(was_set), "+m"(slot)
                         : "Jr"(static_cast<unsigned long long>(shift))
                         : "memory");
    } else {
        __asm__ volatile("lock btrl %2, %1" : "=@ccc"(was_set), "+m"(slot) : "Ir"(shift) : "memory");
    }
    return was_set;
}

/// Replaces two neighbouring slots at once if both are as expected. Returns whether it did.
/// Preconditions: slots of 8 bytes, the first 16-byte aligned. All x86-64 CPUs have the
/// instruction except AMD's first, which have no nested paging either.
template <class Word>
PTEBITS_INLINE inline bool slot_compare_exchange_pair(Word* pair, const Word (&expected)[2],
                                                      const Word (&desired)[2]) noexcept
{
    static_assert(sizeof(Word) == 8, "ptebits: only slots of 8 bytes are exchanged in pairs");
    using two_slots = Word[2];
    bool same;
    Word low = expected[0];
    Word high = expected[1];
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(same), "+m"(*reinterpret_cast<two_slots*>(pair)), "+a"(low), "+d"(high)
                     : "b"(desired[0]), "c"(desired[1])
                     : "memory");
    return same;
}

}  // namespace ptebits::detail
