// SPDX-License-Identifier: BSL-1.0
// The shape of a format's tables: pages, indices, slots, and the addresses they translate.
#pragma once

#include <cstdint>

#include <ptebits/entries.hpp>

namespace ptebits {

/// Addresses from first to last, both included; the default is all. Units: bytes.
struct inclusive_range {
    std::uint64_t first = 0;
    std::uint64_t last = ~std::uint64_t{0};

    [[nodiscard]] constexpr bool empty() const noexcept { return first > last; }
};

/// What the address bits are that no table translates.
enum class extension : std::uint8_t {
    zeros,
    ones,
    sign,  ///< copies of the highest bit that is translated: canonical addresses
};

/// What a format says of its tables.
struct dimensions {
    unsigned levels = 4;                                       ///< 1 to 6
    unsigned entry_bits = 64;                                  ///< 64 or 32
    unsigned granule = 12;                                     ///< log2 of the smallest page's bytes
    std::uint8_t index_bits[max_levels] = {9, 9, 9, 9, 9, 9};  ///< log2 of a table's entries, from level 1 up
    std::uint8_t run_bits[max_levels] = {};                    ///< log2 of the entries of a run, from level 1 up
    extension above = extension::zeros;
};

/// Dimensions, and what follows from them. Levels count from 1, the level of the smallest page.
class shape : public dimensions {
public:
    constexpr shape() noexcept : shape(dimensions{}) {}
    constexpr explicit(false) shape(const dimensions& d) noexcept : dimensions(d)
    {
        unsigned at = granule;
        for (unsigned level = 1; level <= max_levels; ++level) {
            page_shifts_[level] = static_cast<std::uint8_t>(at);
            at += index_bits[level - 1];
            if (level == levels) address_bits_ = static_cast<std::uint8_t>(at < 64 ? at : 64);
        }
        page_shifts_[max_levels + 1] = static_cast<std::uint8_t>(at);
    }

    /// log2 of the bytes that one entry of a level translates; of a run, that the run translates.
    /// Precondition: 1 <= level <= levels + 1.
    [[nodiscard]] constexpr unsigned page_shift(unsigned level, kind k = kind::leaf) const noexcept
    {
        return k == kind::run ? page_shifts_[level] + unsigned{run_bits[level - 1]} : page_shifts_[level];
    }
    /// log2 of the entries of a table of this level. Precondition: 1 <= level <= 6.
    [[nodiscard]] constexpr unsigned index_bits_at(unsigned level) const noexcept { return index_bits[level - 1]; }

    /// Bits of an address that the tables translate, at most 64.
    [[nodiscard]] constexpr unsigned address_bits() const noexcept { return address_bits_; }

    /// Bytes of an entry.
    [[nodiscard]] constexpr unsigned entry_bytes() const noexcept { return entry_bits / 8; }

    /// log2 of the bytes of a table of this level.
    [[nodiscard]] constexpr unsigned table_shift(unsigned level) const noexcept
    {
        return index_bits_at(level) + (entry_bits == 64 ? 3 : 2);
    }

    /// Index of the slot of a level that translates an address. Precondition: 1 <= level <= levels.
    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t index(std::uint64_t address, unsigned level) const noexcept
    {
        return address >> page_shift(level) & ones(index_bits_at(level) - 1U, 0);
    }
    /// Address of that slot in a table, in bytes. Precondition: 1 <= level <= levels.
    [[nodiscard]] constexpr std::uint64_t slot_address(std::uint64_t table, std::uint64_t address,
                                                       unsigned level) const noexcept
    {
        return table + index(address, level) * entry_bytes();
    }

    /// Whether a table of level `below`, to which an entry of a level refers, translates an address. One that skips
    /// levels translates the first addresses of its span alone, whose bits for these levels are 0.
    [[nodiscard]] constexpr bool reaches(unsigned level, unsigned below, std::uint64_t address) const noexcept
    {
        return below + 1 == level || (address & ones(page_shift(level) - 1, page_shift(below + 1))) == 0;
    }

    /// Whether the address bits that no table translates are as they must be.
    [[nodiscard]] PTEBITS_INLINE constexpr bool translates(std::uint64_t address) const noexcept
    {
        const unsigned bits = address_bits();
        if (bits == 64) return true;
        if (bits == 0) return false;  // of a format that is wrong
        switch (above) {
        case extension::sign:
            return (address + (std::uint64_t{1} << (bits - 1))) >> bits == 0;
        case extension::ones:
            return ~address >> bits == 0;
        case extension::zeros:
            break;
        }
        return address >> bits == 0;
    }

    /// The address that programs use, from an offset into what the tables translate.
    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t extended(std::uint64_t offset) const noexcept
    {
        const std::uint64_t upper = ~space();
        const bool set = above == extension::ones ||
                         (above == extension::sign && address_bits() != 0 && (offset >> (address_bits() - 1) & 1) != 0);
        return set ? offset | upper : offset;
    }

    /// The part of a range that the tables translate, as offsets into what they translate.
    /// Empty if they translate none of it.
    [[nodiscard]] PTEBITS_INLINE constexpr inclusive_range translated_part(inclusive_range range) const noexcept
    {
        if (range.empty()) return {1, 0};
        std::uint64_t low_end = space();      // the last address of the lower part
        std::uint64_t high_begin = ~space();  // the first of the upper part
        switch (above) {
        case extension::sign:
            low_end >>= 1;
            high_begin = ~low_end;
            break;
        case extension::ones:
            if (range.first < high_begin) range.first = high_begin;
            if (range.empty()) return {1, 0};
            return {range.first & space(), range.last & space()};
        case extension::zeros:
            if (range.last > low_end) range.last = low_end;
            return range.empty() ? inclusive_range{1, 0} : range;
        }
        if (range.first > low_end && range.first < high_begin) range.first = high_begin;
        if (range.last > low_end && range.last < high_begin) range.last = low_end;
        if (range.empty()) return {1, 0};
        return {range.first & space(), range.last & space()};
    }

private:
    /// The last offset into what the tables translate.
    [[nodiscard]] constexpr std::uint64_t space() const noexcept { return ones(address_bits() - 1U, 0); }

    std::uint8_t page_shifts_[max_levels + 2] = {};
    std::uint8_t address_bits_ = 0;
};

/// The slots of one table that lie in a range, in order. Units: index.
struct slot_run {
    std::uint64_t begin = 0;  ///< of what the table translates: an offset
    std::uint64_t next = 0;   ///< index of the slot that comes next
    std::uint64_t last = 0;

    constexpr slot_run() = default;
    /// The slots of a table of a level. Precondition: it translates some of the range.
    constexpr slot_run(const shape& s, unsigned level, std::uint64_t table_begin, inclusive_range part) noexcept
        : begin(table_begin), last(ones(s.index_bits_at(level) - 1U, 0))
    {
        const unsigned shift = s.page_shift(level);
        if (part.first > begin) next = (part.first - begin) >> shift;
        if (const std::uint64_t end = (part.last - begin) >> shift; end < last) last = end;
    }

    [[nodiscard]] constexpr bool empty() const noexcept { return next > last; }
};

}  // namespace ptebits
