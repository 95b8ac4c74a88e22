// SPDX-License-Identifier: BSL-1.0
// Whole tables: one operation on every slot, one bit a slot as the answer.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ptebits/ageing.hpp>

namespace ptebits {

/// One bit for each slot of a table.
template <std::size_t Slots>
class slot_bitmap {
public:
    static constexpr std::size_t word_count = (Slots + 63) / 64;

    /// Precondition of both: slot < Slots.
    constexpr void set(std::size_t slot) noexcept { words_[slot / 64] |= std::uint64_t{1} << slot % 64; }
    [[nodiscard]] constexpr bool test(std::size_t slot) const noexcept
    {
        return (words_[slot / 64] >> slot % 64 & 1) != 0;
    }

    [[nodiscard]] constexpr bool any() const noexcept
    {
        for (const std::uint64_t word : words_) {
            if (word != 0) return true;
        }
        return false;
    }

    /// Number of bits set. (std::popcount would need libgcc in a kernel.)
    [[nodiscard]] constexpr std::size_t count() const noexcept
    {
        std::size_t n = 0;
        for (std::uint64_t word : words_) {
            for (; word != 0; word &= word - 1) ++n;
        }
        return n;
    }

    [[nodiscard]] constexpr bool operator==(const slot_bitmap&) const = default;

private:
    std::uint64_t words_[word_count] = {};
};

/// Ages every slot of a table and returns which were young. `by` is a format, run-time
/// masks or an access_tracking. Every slot keeps the guarantees of age().
template <slot_word Word, std::size_t Slots, class By, slot_access Access = atomic_access<>>
constexpr slot_bitmap<Slots> age_table(Word (&table)[Slots], const By& by, Access access = {}) noexcept
{
    slot_bitmap<Slots> young_slots;
    for (std::size_t i = 0; i < Slots; ++i) {
        if (age(table[i], by, access)) young_slots.set(i);
    }
    return young_slots;
}

}  // namespace ptebits
