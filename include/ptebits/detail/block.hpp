// SPDX-License-Identifier: BSL-1.0
// Reading a block of 64 slots at once: which of them have a bit set.
//
// The result is a hint. It selects the slots that may need an operation, and an atomic operation
// then reads and judges each of these again. So it does not matter whether a vector load reads
// its slots at one moment, or a slot in one piece (x86-64 does read aligned 8 bytes in one
// piece): a bit that stays set is found, and a slot that changes meanwhile counts as read before
// or after the change. The compiler's -m options decide which instructions are used; as for all
// inline functions, they must be the same in the whole program.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ptebits/slot.hpp>

namespace ptebits::detail {

/// Slots in a block: one for each bit of a word.
inline constexpr std::size_t block_slots = 64;

// Where several_at_once holds for an access policy, this takes the place of its loads:
//   look_at_block(slots, flag): the slots of a block that have a bit set. `flag.flag()` is
//   the bit, as a function so that it is a constant where the format is one.
// Preconditions: 64 slots of 8 bytes, the first at the start of a cache line; flag.flag()
// exists. Loads are volatile: each call reads memory.
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

/// A block's bits from those of its eight cache lines. line(n) is called in order, so that hardware
/// prefetchers follow. Inlined by force, like its parts: GCC at -O2 would call each.
template <class Line>
[[nodiscard]] PTEBITS_INLINE inline std::uint64_t by_lines(Line line) noexcept
{
    std::uint64_t found = line(0);
    found |= line(1) << 8;
    found |= line(2) << 16;
    found |= line(3) << 24;
    found |= line(4) << 32;
    found |= line(5) << 40;
    found |= line(6) << 48;
    return found | line(7) << 56;
}

#if defined(__AVX512DQ__)

template <slot_word Word, class Flag>
[[nodiscard]] std::uint64_t look_at_block(const Word* slots, const Flag& flag) noexcept
{
    using quads = long long __attribute__((vector_size(64), may_alias));
    const unsigned to_sign = 63 - flag.flag().shift();
    const auto* const at = reinterpret_cast<const volatile quads*>(slots);
    return by_lines([&](unsigned line) PTEBITS_INLINE {
        return std::uint64_t{static_cast<std::uint8_t>(__builtin_ia32_cvtq2mask512(at[line] << to_sign))};
    });
}

#elif defined(__AVX2__)

template <slot_word Word, class Flag>
[[nodiscard]] std::uint64_t look_at_block(const Word* slots, const Flag& flag) noexcept
{
    using quads = long long __attribute__((vector_size(32), may_alias));
    using ints = int __attribute__((vector_size(32)));
    using floats = float __attribute__((vector_size(32)));
    const unsigned to_sign = 63 - flag.flag().shift();
    const auto* const at = reinterpret_cast<const volatile quads*>(slots);
    return by_lines([&](unsigned line) PTEBITS_INLINE {
        // Moves the bit to the sign of eight ints, puts these in order, and gathers their signs.
        const ints low = reinterpret_cast<ints>(at[2 * line] << to_sign);
        const ints high = reinterpret_cast<ints>(at[2 * line + 1] << to_sign);
        const quads mixed = reinterpret_cast<quads>(__builtin_shufflevector(low, high, 1, 3, 9, 11, 5, 7, 13, 15));
        const quads eight = __builtin_shufflevector(mixed, mixed, 0, 2, 1, 3);
        return std::uint64_t{static_cast<unsigned>(__builtin_ia32_movmskps256(reinterpret_cast<floats>(eight)))};
    });
}

#elif defined(__SSE2__)

template <slot_word Word, class Flag>
[[nodiscard]] std::uint64_t look_at_block(const Word* slots, const Flag& flag) noexcept
{
    using quads = long long __attribute__((vector_size(16), may_alias));
    using ints = int __attribute__((vector_size(16)));
    const unsigned shift = flag.flag().shift();
    const auto* const at = reinterpret_cast<const volatile quads*>(slots);
    // Moves the bit to the sign of four ints, which are narrowed with their signs to words, then to bytes.
    const auto four = [&](unsigned i) PTEBITS_INLINE {
        const ints low = reinterpret_cast<ints>(at[i]);
        const ints high = reinterpret_cast<ints>(at[i + 1]);
        return shift < 32 ? __builtin_shufflevector(low, high, 0, 2, 4, 6) << (31 - shift)
                          : __builtin_shufflevector(low, high, 1, 3, 5, 7) << (63 - shift);
    };
    const auto eight = [&](unsigned i) PTEBITS_INLINE { return __builtin_ia32_packssdw128(four(i), four(i + 2)); };
    const auto sixteen = [&](unsigned i) PTEBITS_INLINE {
        const auto signs = __builtin_ia32_packsswb128(eight(i), eight(i + 4));
        return std::uint64_t{static_cast<unsigned>(__builtin_ia32_pmovmskb128(signs))};
    };
    std::uint64_t found = sixteen(0);
    found |= sixteen(8) << 16;
    found |= sixteen(16) << 32;
    return found | sixteen(24) << 48;
}

#else  // general registers only

template <slot_word Word, class Flag>
[[nodiscard]] std::uint64_t look_at_block(const Word* slots, const Flag& flag) noexcept
{
    using halves = std::uint32_t __attribute__((may_alias));
    const unsigned shift = flag.flag().shift() % 32;
    const auto* const at = reinterpret_cast<const volatile halves*>(slots) + flag.flag().shift() / 32;
    // Each bit next to its neighbour's: by one instruction that shifts and adds.
    const auto one = [&](unsigned i) PTEBITS_INLINE { return std::uint64_t{at[2 * i] & 1U << shift}; };
    const auto four = [&](unsigned i)
                          PTEBITS_INLINE { return one(i) + 2 * one(i + 1) + 4 * one(i + 2) + 8 * one(i + 3); };
    const auto eight = [&](unsigned line)
                           PTEBITS_INLINE { return (four(8 * line) + 16 * four(8 * line + 4)) >> shift; };
    return by_lines(eight);
}

#endif
#else  // never called: several_at_once does not hold

template <slot_word Word, class Flag>
std::uint64_t look_at_block(const Word*, const Flag&) noexcept = delete;

#endif

}  // namespace ptebits::detail
