// SPDX-License-Identifier: BSL-1.0
// Rows and features give the layout of an entry: which bit has which role, at a level.
//
// A description is one table of rows, in the order of the manual's figure, and a few
// functions that say how its tables are shaped. Everything else is derived from it here.
#pragma once

#include <cstdint>
#include <initializer_list>

#include <ptebits/field.hpp>

namespace ptebits {

/// What an entry does: it refers to a table of the level below, or it maps a page.
enum class kind : std::uint8_t { table, leaf };

/// What a bit is for. Under given features every bit of an entry has exactly one role.
enum class role : std::uint8_t {
    none,     ///< in a row's `otherwise` only: no such row
    present,  ///< the entry is used by the MMU if set (formats with one such bit)
    read,     ///< permissions: each grants if set
    write,
    execute,
    user_execute,     ///< execution in user mode, where it is granted apart
    user,             ///< access in user mode
    execute_disable,  ///< denies execution if set
    page_size,        ///< set in a leaf, clear in an entry that refers to a table
    address,          ///< physical address of the table or the page
    memory_type,      ///< takes part in the choice of the memory type
    attribute,        ///< anything else that the hardware looks at
    accessed,         ///< set on a use of the entry, by hardware or software
    dirty,            ///< set on a write, by hardware
    software,         ///< ignored by the MMU
    reserved,         ///< must be 0 in a present entry
};
inline constexpr unsigned role_count = static_cast<unsigned>(role::reserved) + 1;

/// Levels are counted as the manuals do: 1 is the level of 4-Kbyte pages.
inline constexpr unsigned max_levels = 5;

/// log2 of the smallest page, in bytes.
inline constexpr unsigned base_page_shift = 12;

/// Widest physical address that an entry can hold, in bits.
inline constexpr unsigned max_physical_bits = 52;

/// Least physical-address width of a CPU with these formats, in bits.
inline constexpr unsigned min_physical_bits = 32;

/// A set of entries, by level and kind.
class entries {
public:
    constexpr entries() = default;
    constexpr entries(unsigned level, kind k) noexcept
    {
        if (level >= 1 && level <= max_levels) set_ = static_cast<std::uint16_t>(1U << index(level, k));
    }

    [[nodiscard]] constexpr bool contains(unsigned level, kind k) const noexcept
    {
        return (set_ & entries(level, k).set_) != 0;
    }

    [[nodiscard]] friend constexpr entries operator|(entries a, entries b) noexcept
    {
        a.set_ = static_cast<std::uint16_t>(a.set_ | b.set_);
        return a;
    }
    [[nodiscard]] constexpr bool operator==(const entries&) const = default;

private:
    static constexpr unsigned index(unsigned level, kind k) noexcept
    {
        return (level - 1) * 2 + static_cast<unsigned>(k);
    }
    std::uint16_t set_ = 0;
};

/// The entries that refer to a table, or map a page, at one level.
[[nodiscard]] constexpr entries table(unsigned level) noexcept { return {level, kind::table}; }
[[nodiscard]] constexpr entries leaf(unsigned level) noexcept { return {level, kind::leaf}; }

/// All entries that refer to a table, from level 2 up to a level.
[[nodiscard]] constexpr entries tables_up_to(unsigned level) noexcept
{
    entries all;
    for (unsigned n = 2; n <= level && n <= max_levels; ++n) all = all | table(n);
    return all;
}

inline constexpr entries tables = tables_up_to(max_levels);
inline constexpr entries leaves = leaf(1) | leaf(2) | leaf(3) | leaf(4) | leaf(5);
inline constexpr entries every = tables | leaves;

/// A bit index that may be absent, as in "the C-bit, if there is one".
struct optional_bit {
    bool given = false;
    unsigned index = 0;

    constexpr optional_bit() = default;
    constexpr optional_bit(unsigned bit_index) noexcept : given(true), index(bit_index) {}
    [[nodiscard]] constexpr bool operator==(const optional_bit&) const = default;
};

/// When a row holds: words for people, and a switch among the features or a test of them.
template <class Features>
class condition {
public:
    constexpr condition() = default;  ///< always
    constexpr condition(const char* words, bool Features::* on) : text(words), switch_(on) {}
    constexpr condition(const char* words, bool (*test)(const Features&, unsigned level)) : text(words), test_(test) {}

    /// Whether it holds for the entries of a level.
    [[nodiscard]] constexpr bool holds(const Features& features, unsigned level) const
    {
        if (switch_ != nullptr) return features.*switch_;
        return test_ == nullptr || test_(features, level);
    }

    const char* text = "";

private:
    bool Features::* switch_ = nullptr;
    bool (*test_)(const Features&, unsigned level) = nullptr;
};

/// One row of a format's table.
template <class Features, class Fields>
class row {
public:
    /// Bits at a fixed place. `named` is the member of Fields by which users reach the
    /// bits. Where the condition does not hold, the bits have the role `otherwise`;
    /// role::none means that another row speaks of them.
    constexpr row(const char* mnemonic, field at, entries scope, role is_role, field Fields::* named = nullptr,
                  condition<Features> only_with = {}, role otherwise_role = role::none)
        : name(mnemonic), bits(at), in(scope), is(is_role), member(named), when(only_with), otherwise(otherwise_role)
    {
    }

    /// One bit whose place is a feature, taken from the bits of the role `from`.
    constexpr row(const char* mnemonic, optional_bit Features::* at, entries scope, role is_role, role from,
                  field Fields::* named = nullptr)
        : name(mnemonic), in(scope), is(is_role), member(named), place(at), takes(from)
    {
    }

    /// The same row, its address bits holding the physical address from this bit up.
    [[nodiscard]] constexpr row holding(unsigned address_bit) const
    {
        row moved = *this;
        moved.address_shift = static_cast<std::uint8_t>(address_bit);
        return moved;
    }

    /// The role of this row's bits in an entry of a level; role::none: no such row.
    [[nodiscard]] constexpr role role_at(const Features& features, unsigned level) const
    {
        if (place != nullptr) return (features.*place).given ? is : role::none;
        return when.holds(features, level) ? is : otherwise;
    }

    /// The bits under these features.
    [[nodiscard]] constexpr field bits_at(const Features& features) const
    {
        return place == nullptr ? bits : (features.*place).given ? bit((features.*place).index) : field{};
    }

    const char* name;  ///< the manual's mnemonic, empty if it has none
    field bits;
    entries in;
    role is;
    field Fields::* member = nullptr;
    condition<Features> when = {};
    role otherwise = role::none;
    optional_bit Features::* place = nullptr;
    role takes = role::none;
    std::uint8_t address_shift = 0;  ///< 0: the bits hold the address where they stand
};

/// A rule that a present entry can break.
enum class rule : std::uint8_t {
    none,
    no_such_level,         ///< the format has no entries at this level
    too_wide,              ///< bits set that the entry does not have (above bit 31 of 32)
    reserved_bits,         ///< reserved bits set
    write_without_read,    ///< EPT: W set, R clear
    execute_without_read,  ///< EPT: X or XU set, R clear, on a CPU without execute-only pages
    memory_type,           ///< EPT: a memory type that is not one
};

/// A combination of fields that a present entry must not have: the field `which` holds
/// `value` while the field `without`, if named, is clear. Its condition does not depend on
/// the level.
template <class Features, class Fields>
struct forbidden {
    rule breaks;
    entries in;
    field Fields::* which;
    std::uint64_t value;
    field Fields::* without = nullptr;
    condition<Features> when = {};
};

/// The shape of a format's tables.
struct shape {
    unsigned levels = 4;          ///< 1 to 5
    unsigned entry_bits = 64;     ///< 64 or 32
    unsigned index_bits = 9;      ///< log2 of a table's entries
    unsigned top_index_bits = 9;  ///< the same at the top level
    bool canonical = false;       ///< addresses are sign-extended, as long mode's linear ones

    /// log2 of the bytes that one entry of a level maps. Precondition: 1 <= level <= levels + 1.
    [[nodiscard]] constexpr unsigned page_shift(unsigned level) const noexcept
    {
        return base_page_shift + (level - 1) * index_bits;
    }
    /// log2 of the entries of a table of this level.
    [[nodiscard]] constexpr unsigned index_bits_at(unsigned level) const noexcept
    {
        return level == levels ? top_index_bits : index_bits;
    }
    /// Bits of an address that the tables translate.
    [[nodiscard]] constexpr unsigned address_bits() const noexcept { return page_shift(levels) + top_index_bits; }
};

/// What is wrong with a format: with the features asked for, or with its rows.
enum class defect : std::uint8_t {
    none,
    levels,                ///< the format has no tables of so many levels
    physical_bits,         ///< a physical-address width outside 32..52
    encryption_bit,        ///< an encryption bit outside the address field (bits 32..51)
    software_bit_in_use,   ///< a software bit that the hardware uses under these features
    two_accessed_bits,     ///< a software accessed bit beside the hardware's
    contradiction,         ///< features that exclude each other
    rows_overlap,          ///< two rows claim the same bit of an entry
    bit_without_role,      ///< no row claims a bit of an entry
    name_in_two_places,    ///< one named field, different bits in different entries
    flag_of_several_bits,  ///< an accessed, dirty or page-size flag that is not one bit
};

/// The roles of all bits of one entry.
struct layout {
    std::uint64_t masks[role_count] = {};  ///< by role; they do not overlap
    std::uint64_t all = 0;                 ///< the bits that an entry has
    field moved_address;                   ///< address bits that stand elsewhere than they weigh
    unsigned moved_to = 0;                 ///< the address bit that the lowest of them holds
    defect wrong = defect::none;
    std::uint64_t wrong_bits = 0;

    [[nodiscard]] constexpr std::uint64_t mask(role r) const noexcept { return masks[static_cast<unsigned>(r)]; }
    [[nodiscard]] constexpr std::uint64_t& mask(role r) noexcept { return masks[static_cast<unsigned>(r)]; }

    /// Physical address in the entry's address bits, in bytes.
    [[nodiscard]] constexpr std::uint64_t address_in(std::uint64_t entry) const noexcept
    {
        return (entry & mask(role::address) & ~moved_address.mask()) | moved_address.get(entry) << moved_to;
    }

    /// The address bits of an entry for a physical address; what they cannot hold is left out.
    [[nodiscard]] constexpr std::uint64_t address_bits(std::uint64_t physical) const noexcept
    {
        const std::uint64_t low = physical & mask(role::address) & ~moved_address.mask();
        if (!moved_address.exists()) return low;
        return low | (physical >> moved_to << moved_address.shift() & moved_address.mask());
    }

    constexpr void note(defect what, std::uint64_t where) noexcept
    {
        if (wrong != defect::none || where == 0) return;
        wrong = what;
        wrong_bits = where;
    }
};

/// The layout of an entry that does not exist: nothing in it may be set.
[[nodiscard]] constexpr layout absent_layout(unsigned entry_bits) noexcept
{
    layout l;
    l.all = l.mask(role::reserved) = ones(entry_bits - 1, 0);
    return l;
}

/// The features that a description's rows are written for. NPT, say, is the host's own
/// paging format, so its features turn into those of ordinary paging.
template <class Description>
[[nodiscard]] constexpr auto row_features(const typename Description::features& features) noexcept
{
    if constexpr (requires { Description::row_features(features); }) {
        return Description::row_features(features);
    } else {
        return features;
    }
}

/// The layout of an entry: every bit's role, from the rows and the features.
/// Also finds what is wrong with it, first fault first, in `wrong` and `wrong_bits`.
template <class Description>
[[nodiscard]] constexpr layout compute_layout(const typename Description::features& features, unsigned level, kind k)
{
    const unsigned entry_bits = Description::shape_of(features).entry_bits;
    if (!Description::entries_of(features).contains(level, k)) return absent_layout(entry_bits);

    const auto switches = row_features<Description>(features);
    layout l;
    l.all = ones(entry_bits - 1, 0);

    // The address ends below the physical width, and below an encryption bit.
    unsigned address_end = switches.physical_bits;
    for (const auto& r : Description::rows) {
        if (r.takes != role::address || r.role_at(switches, level) == role::none) continue;
        const unsigned at = (switches.*r.place).index;
        if (at < address_end) address_end = at;
    }

    std::uint64_t claimed = 0;
    std::uint64_t address_field = 0;
    for (const auto& r : Description::rows) {
        const role is = r.role_at(switches, level);
        if (!r.in.contains(level, k) || is == role::none || r.place != nullptr) continue;
        const std::uint64_t mask = r.bits.mask() & l.all;
        l.note(defect::rows_overlap, claimed & mask);
        claimed |= mask;

        std::uint64_t usable = mask;
        if (is == role::address && mask != 0) {
            const unsigned weight = r.address_shift != 0 ? r.address_shift : r.bits.shift();
            usable &= address_end > weight ? ones(r.bits.shift() + (address_end - weight) - 1, r.bits.shift()) : 0;
            if (r.address_shift != 0) {
                l.moved_address = field{usable};
                l.moved_to = weight;
            } else {
                address_field |= mask;
            }
            l.mask(role::reserved) |= mask & ~usable;
        }
        l.mask(is) |= usable;
    }
    l.note(defect::bit_without_role, l.all & ~claimed);
    for (const role flag : {role::accessed, role::dirty, role::page_size}) {
        l.note(defect::flag_of_several_bits, several_bits(l.mask(flag)) ? l.mask(flag) : 0);
    }

    // Bits whose place is a feature take the role of the bit they stand on.
    for (const auto& r : Description::rows) {
        if (r.place == nullptr || !r.in.contains(level, k) || r.role_at(switches, level) == role::none) continue;
        const unsigned index = (switches.*r.place).index;
        const std::uint64_t mask = bit(index).mask();
        const bool from_address = r.takes == role::address;
        const std::uint64_t free = from_address ? address_field & ~ones(min_physical_bits - 1, 0) : l.mask(r.takes);
        if ((mask & free) == 0) {
            l.note(from_address ? defect::encryption_bit : defect::software_bit_in_use,
                   mask != 0 ? mask : ~std::uint64_t{0});
            continue;
        }
        for (std::uint64_t& m : l.masks) m &= ~mask;
        l.mask(r.is) |= mask;
    }

    l.note(defect::two_accessed_bits, several_bits(l.mask(role::accessed)) ? l.mask(role::accessed) : 0);
    return l;
}

}  // namespace ptebits
