// SPDX-License-Identifier: BSL-1.0
// One atomic operation on one slot, for each compiler: atomic_access uses these.
//
// Everything that differs between compilers is in the header that is chosen here. Each has,
// for slots of 4 and 8 bytes that are aligned to their size:
//   barrier::none, acquire, release, acq_rel, seq_cst      what the order arguments may be
//   slot_load<Order>(slot), slot_store<Order>(slot, value)
//   slot_exchange<Order>(slot, value), slot_fetch_or<Order>(slot, mask), slot_fetch_and<...>
//   slot_compare_exchange<Order, OnFailure>(slot, expected, desired)
//   fetch_line(address)                                    a prefetch of a cache line
// None of them works in constant expressions.
#pragma once

#include <ptebits/config.hpp>

#if defined(__GNUC__) || defined(__clang__)
#include <ptebits/detail/atomics_gnu.hpp>
#else
#include <ptebits/detail/atomics_msvc.hpp>
#endif

// Sanitizers check the builtins, but not assembly.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define PTEBITS_SANITIZED
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define PTEBITS_SANITIZED
#endif

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__) && defined(__GCC_ASM_FLAG_OUTPUTS__) && \
    !defined(PTEBITS_SANITIZED)
#include <ptebits/detail/atomics_x86.hpp>
#else

namespace ptebits::detail {

/// Whether neighbouring slots may be read or exchanged at once.
inline constexpr bool neighbours_at_once = false;

/// Sets the bit at a shift. Returns whether it was set. Precondition: the shift is
/// below the slot's width.
template <int Order, class Word>
PTEBITS_INLINE inline bool slot_test_and_set(Word& slot, unsigned shift) noexcept
{
    return (slot_fetch_or<Order>(slot, static_cast<Word>(Word{1} << shift)) >> shift & 1) != 0;
}

/// Clears the bit at a shift. Returns whether it was set. Precondition: as above.
template <int Order, class Word>
PTEBITS_INLINE inline bool slot_test_and_clear(Word& slot, unsigned shift) noexcept
{
    return (slot_fetch_and<Order>(slot, static_cast<Word>(~(Word{1} << shift))) >> shift & 1) != 0;
}

template <class Word>
bool slot_compare_exchange_pair(Word*, const Word (&)[2], const Word (&)[2]) noexcept = delete;

}  // namespace ptebits::detail

#endif
#undef PTEBITS_SANITIZED
