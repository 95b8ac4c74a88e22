// SPDX-License-Identifier: BSL-1.0
// Looking at a block of 64 slots at once: which of them have a bit set.
//
// A look is a hint. It tells which slots are worth an operation, and each of those is then
// read anew and judged by an atomic operation. So nothing depends on a vector load reading
// its slots at one moment, or a slot in one piece (x86-64 does read aligned 8 bytes in one
// piece): a bit that stays set is seen, and a slot that changes meanwhile is as good as
// read before or after. Which instructions are used is up to the compiler's -m options; as
// for all inline functions, they must be the same all over a program.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ptebits/slot.hpp>

namespace ptebits {

/// Slots in a block: one for each bit of a word.
inline constexpr std::size_t block_slots = 64;

// Where several_at_once holds for an access policy, this stands for it:
//   look_at_block(slots, flag): the slots of a block that have a bit set. `flag.flag()` is
//   the bit, as a function so that it is a constant where the format is one.
// Preconditions: 64 slots of 8 bytes, the first at the start of a cache line; flag.flag()
// exists. Loads are volatile: each look reads memory, in the program's order.
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

#if defined(__AVX512DQ__)

template <slot_word Word, class Flag>
[[nodiscard]] std::uint64_t look_at_block(const Word* slots, const Flag& flag) noexcept
{
    using quads = long long __attribute__((vector_size(64), may_alias));
    const unsigned to_sign = 63 - flag.flag().shift();
    const auto* at = reinterpret_cast<const volatile quads*>(slots + block_slots);
    std::uint64_t found = 0;
    for (unsigned line = 0; line < 8; ++line) {
        at -= 1;
        found = found << 8 | static_cast<std::uint8_t>(__builtin_ia32_cvtq2mask512(at[0] << to_sign));
    }
    return found;
}

#elif defined(__AVX2__)

template <slot_word Word, class Flag>
[[nodiscard]] std::uint64_t look_at_block(const Word* slots, const Flag& flag) noexcept
{
    using quads = long long __attribute__((vector_size(32), may_alias));
    using ints = int __attribute__((vector_size(32)));
    using floats = float __attribute__((vector_size(32)));
    const unsigned to_sign = 63 - flag.flag().shift();
    const auto* at = reinterpret_cast<const volatile quads*>(slots + block_slots);
    std::uint64_t found = 0;
    for (unsigned line = 0; line < 8; ++line) {
        at -= 2;
        // The bit as sign of eight ints, these put in order, and their signs gathered.
        const ints low = reinterpret_cast<ints>(at[0] << to_sign);
        const ints high = reinterpret_cast<ints>(at[1] << to_sign);
        const quads mixed = reinterpret_cast<quads>(__builtin_shufflevector(low, high, 1, 3, 9, 11, 5, 7, 13, 15));
        const quads signs = __builtin_shufflevector(mixed, mixed, 0, 2, 1, 3);
        found = found << 8 | static_cast<unsigned>(__builtin_ia32_movmskps256(reinterpret_cast<floats>(signs)));
    }
    return found;
}

#elif defined(__SSE2__)

template <slot_word Word, class Flag>
[[nodiscard]] std::uint64_t look_at_block(const Word* slots, const Flag& flag) noexcept
{
    using quads = long long __attribute__((vector_size(16), may_alias));
    using ints = int __attribute__((vector_size(16)));
    const unsigned shift = flag.flag().shift();
    const auto* at = reinterpret_cast<const volatile quads*>(slots + block_slots);
    // The bit as sign of four ints, narrowed with their signs to words, then to bytes.
    const auto four = [&](unsigned i) {
        const ints low = reinterpret_cast<ints>(at[i]);
        const ints high = reinterpret_cast<ints>(at[i + 1]);
        return shift < 32 ? __builtin_shufflevector(low, high, 0, 2, 4, 6) << (31 - shift)
                          : __builtin_shufflevector(low, high, 1, 3, 5, 7) << (63 - shift);
    };
    const auto eight = [&](unsigned i) { return __builtin_ia32_packssdw128(four(i), four(i + 2)); };
    std::uint64_t found = 0;
    for (unsigned two_lines = 0; two_lines < 4; ++two_lines) {
        at -= 8;
        const auto sixteen = __builtin_ia32_packsswb128(eight(0), eight(4));
        found = found << 16 | static_cast<unsigned>(__builtin_ia32_pmovmskb128(sixteen));
    }
    return found;
}

#else  // general registers only

template <slot_word Word, class Flag>
[[nodiscard]] std::uint64_t look_at_block(const Word* slots, const Flag& flag) noexcept
{
    using halves = std::uint32_t __attribute__((may_alias));
    const unsigned shift = flag.flag().shift() % 32;
    const auto* at = reinterpret_cast<const volatile halves*>(slots + block_slots) + flag.flag().shift() / 32;
    // Each bit next to its neighbour's: by one instruction that shifts and adds.
    const auto one = [&](unsigned i) { return std::uint64_t{at[2 * i] & 1U << shift}; };
    const auto four = [&](unsigned i) { return one(i) + 2 * one(i + 1) + 4 * one(i + 2) + 8 * one(i + 3); };
    std::uint64_t found = 0;
    for (unsigned line = 0; line < 8; ++line) {
        at -= 16;
        found = found << 8 | (four(0) + 16 * four(4)) >> shift;
    }
    return found;
}

#endif
#endif

}  // namespace ptebits
