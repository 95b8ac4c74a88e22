// SPDX-License-Identifier: BSL-1.0
// Rows and features give the layout of an entry: which bit has which role, at a level.
//
// A description is one table of rows, in the order of the manual's figure, and a few
// functions that say how its tables are shaped. Everything else is derived from it here.
#pragma once

#include <cstdint>
#include <initializer_list>

#include <ptebits/entries.hpp>
#include <ptebits/shape.hpp>

namespace ptebits {

namespace broken {
[[noreturn]] inline void too_many_rows_of_one_sort() noexcept { stop(); }
}  // namespace broken

/// What a bit is for. Under given features every bit of an entry has exactly one role.
enum class role : std::uint8_t {
    none,            ///< in a row's `otherwise` only: no such row
    fixed,           ///< has one value in entries of this kind: tells kinds apart
    read,            ///< permissions: granted if set, or denied if set; see denies()
    write,           ///<
    execute,         ///< in supervisor mode, where modes are told apart
    user_execute,    ///< execution in user mode, where it is granted apart
    user,            ///< access in user mode
    address,         ///< physical address of the table or the page
    next_level,      ///< level of the table that the entry refers to
    memory_type,     ///< takes part in the choice of the memory type
    attribute,       ///< anything else that the hardware looks at
    accessed,        ///< set on a use of the entry, by hardware or software
    dirty,           ///< set on a write, by hardware
    dirty_modifier,  ///< if set, the write permission is the dirty state: hardware grants it on a write
    software,        ///< ignored by the MMU: software may use it
    written,         ///< ignored by the MMU, but software must write one value; see writes()
    reserved,        ///< must be 0 in a present entry
    beyond,          ///< address bits above the physical width, where they fault in their own way
};
/// How many roles there are.
inline constexpr unsigned role_count = static_cast<unsigned>(role::beyond) + 1;

[[nodiscard]] constexpr const char* name(role r) noexcept
{
    constexpr const char* names[] = {
        "none",  "fixed",          "read",       "write",       "execute",   "user execute",
        "user",  "address",        "next level", "memory type", "attribute", "accessed",
        "dirty", "dirty modifier", "software",   "written",     "reserved",  "beyond the width"};
    static_assert(sizeof names / sizeof *names == role_count);
    return detail::word_of(names, static_cast<unsigned>(r));
}

/// The roles that are permissions.
inline constexpr role permission_roles[] = {role::read, role::write, role::execute, role::user_execute, role::user};

/// What a row's bits are for: a role, or one of the words below.
struct use {
    role is = role::none;
    bool denies = false;          ///< a permission that is denied by a set bit
    bool sized = false;           ///< an address that has the size of its page in it
    role below = role::reserved;  ///< what address bits are below the page
    role above = role::reserved;  ///< and above the physical width
    std::uint64_t value = 0;      ///< of role::fixed and role::written, and what encode() writes

    constexpr use() = default;
    constexpr use(role r) noexcept : is(r) {}
};

/// These bits have this value in entries of this kind, and so tell kinds apart.
[[nodiscard]] constexpr use is(std::uint64_t value) noexcept
{
    use u = role::fixed;
    u.value = value;
    return u;
}
/// The MMU ignores these bits, and software must write this value.
[[nodiscard]] constexpr use writes(std::uint64_t value) noexcept
{
    use u = role::written;
    u.value = value;
    return u;
}
/// Bits of a role that encode() gives this value.
[[nodiscard]] constexpr use encoded_as(role r, std::uint64_t value) noexcept
{
    use u = r;
    u.value = value;
    return u;
}
/// A permission that is denied by a set bit.
[[nodiscard]] constexpr use denies(role permission) noexcept
{
    use u = permission;
    u.denies = true;
    return u;
}
/// An address, and what its bits are below the page and above the physical width:
/// role::reserved, role::software, role::written (as 0) or role::beyond.
[[nodiscard]] constexpr use address_with(role below, role above) noexcept
{
    use u = role::address;
    u.below = below;
    u.above = above;
    return u;
}
/// An address of a page whose size is coded in it: as many ones from the lowest address bit
/// up as the size has bits above the smallest page, less one, then a zero.
[[nodiscard]] constexpr use address_with_size() noexcept
{
    use u = role::address;
    u.sized = true;
    return u;
}

/// Bits whose place is a feature, as in "the C-bit, if there is one": one bit, or several.
struct optional_bits {
    bool given = false;
    unsigned high = 0;
    unsigned low = 0;

    constexpr optional_bits() = default;
    constexpr optional_bits(unsigned index) noexcept : given(true), high(index), low(index) {}
    constexpr optional_bits(unsigned highest, unsigned lowest) noexcept : given(true), high(highest), low(lowest) {}
    [[nodiscard]] constexpr field bits() const noexcept { return given ? ptebits::bits(high, low) : field{}; }
    [[nodiscard]] constexpr bool several() const noexcept { return given && high > low; }
    [[nodiscard]] constexpr bool operator==(const optional_bits&) const = default;
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
    /// bits. Where the condition does not hold, the bits are used as `otherwise` says;
    /// role::none means that another row speaks of them.
    constexpr row(const char* mnemonic, field at, entries scope, use used, entry_field Fields::* named = nullptr,
                  condition<Features> only_with = {}, use other = role::none)
        : name(mnemonic), bits(at), in(scope), is(used), member(named), when(only_with), otherwise(other)
    {
    }

    /// Bits whose place is a feature, taken from bits of the role `from`. With role::address they
    /// stay part of the address, and end it.
    constexpr row(const char* mnemonic, optional_bits Features::* at, entries scope, use used, role from,
                  entry_field Fields::* named = nullptr)
        : name(mnemonic), in(scope), is(used), member(named), place(at), takes(from)
    {
    }

    /// The same row, its address bits holding the physical address from this bit up.
    [[nodiscard]] constexpr row holding(unsigned address_bit) const
    {
        row moved = *this;
        moved.address_shift = static_cast<std::uint8_t>(address_bit);
        return moved;
    }

    /// Whether the row is in force, not its `otherwise`.
    [[nodiscard]] constexpr bool in_force(const Features& features, unsigned level) const
    {
        return place != nullptr ? (features.*place).given : when.holds(features, level);
    }

    /// What this row's bits are for in an entry of a level; role::none: no such row.
    [[nodiscard]] constexpr const use& use_at(const Features& features, unsigned level) const
    {
        return in_force(features, level) ? is : otherwise;
    }

    /// The bits under these features.
    [[nodiscard]] constexpr field bits_at(const Features& features) const
    {
        return place == nullptr ? bits : (features.*place).bits();
    }

    const char* name;  ///< the manual's mnemonic, empty if it has none
    field bits;
    entries in;
    use is;
    entry_field Fields::* member = nullptr;
    condition<Features> when = {};
    use otherwise = role::none;
    optional_bits Features::* place = nullptr;
    role takes = role::none;
    std::uint8_t address_shift = 0;  ///< 0: the bits hold the address where they stand
};

/// A rule that an entry can break.
enum class rule : std::uint8_t {
    none,
    no_such_level,         ///< the format has no entries at this level
    no_such_kind,          ///< not absent, and of no kind that the format has at this level
    too_wide,              ///< bits set that the entry does not have (above bit 31 of 32)
    reserved_bits,         ///< reserved bits set
    beyond_the_width,      ///< address bits above the physical width, where these are not reserved
    page_size,             ///< a coded size that pages of this level do not have
    next_level,            ///< a next level that is none below this one
    write_without_read,    ///< W set, or EPT's PW, and R clear
    execute_without_read,  ///< execution granted, R clear, on a CPU without execute-only pages
    memory_type,           ///< a memory type that is not one
};
/// How many rules there are. Counted by the last: add others before it, so that one without a name does not compile.
inline constexpr unsigned rule_count = static_cast<unsigned>(rule::memory_type) + 1;

[[nodiscard]] constexpr const char* name(rule r) noexcept
{
    constexpr const char* names[] = {"no rule broken",       "no such level",      "no such kind of entry",
                                     "bits above the entry", "reserved bits set",  "address beyond the physical width",
                                     "no such page size",    "no such next level", "write without read",
                                     "execute without read", "illegal memory type"};
    static_assert(sizeof names / sizeof *names == rule_count);
    return detail::word_of(names, static_cast<unsigned>(r));
}

/// A combination of fields that a present entry must not have: the field `which` holds
/// `value` while the field `without`, if named, is clear. Its condition does not depend on
/// the level.
template <class Features, class Fields>
struct forbidden {
    rule breaks;
    entries in;
    entry_field Fields::* which;
    std::uint64_t value;
    entry_field Fields::* without = nullptr;
    condition<Features> when = {};
};

/// Widest physical address that an entry can hold, in bits. A description may say less.
inline constexpr unsigned max_physical_bits = 56;

/// Least physical-address width of a CPU with these formats, in bits.
inline constexpr unsigned min_physical_bits = 32;

/// What is wrong with a format: with the features asked for, or with its rows.
enum class defect : std::uint8_t {
    none,
    levels,                ///< the format has no tables of so many levels
    physical_bits,         ///< a physical-address width that the format does not have
    encryption_bit,        ///< bits claimed from the address that are not address bits 32 and up
    always_on,             ///< a feature is off that tables of so many levels always have
    software_bit_in_use,   ///< a software bit that the hardware uses under these features
    two_accessed_bits,     ///< a software accessed bit beside the hardware's
    memory_bits,           ///< memory may end at the last address: no absent entry points past it
    contradiction,         ///< features that exclude each other
    rows_overlap,          ///< two rows claim the same bit of an entry
    bit_without_role,      ///< no row claims a bit of an entry
    name_in_two_places,    ///< one named field, different bits in different entries
    flag_of_several_bits,  ///< an accessed, dirty, encryption or shared bit that is not one bit
    kinds_alike,           ///< two kinds of entries that cannot be told apart
    address_in_pieces,     ///< an address in more than two pieces
    not_constant,          ///< boot_format: a feature differs from the constants that must not
    no_format,             ///< a run-time format that was made without features
};

[[nodiscard]] constexpr const char* name(defect d) noexcept
{
    constexpr const char* names[] = {"no defect",
                                     "the format has no tables of so many levels",
                                     "the format does not have this physical-address width",
                                     "bits are claimed from outside the address",
                                     "a feature is off that tables of so many levels always have",
                                     "the hardware uses the software bit",
                                     "two accessed bits",
                                     "no address lies past the memory",
                                     "features that exclude each other",
                                     "two rows claim the same bit",
                                     "a bit has no role",
                                     "a named field stands in two places",
                                     "a flag is not one bit",
                                     "two kinds of entries cannot be told apart",
                                     "an address stands in more than two pieces",
                                     "a feature differs from the constants that must not",
                                     "no features were given"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(defect::no_format) + 1);
    return detail::word_of(names, static_cast<unsigned>(d));
}

/// Address bits `holds` and up stand at `at`.
struct address_piece {
    PTEBITS_NO_UNIQUE_ADDRESS field at;  // so that `holds` lies in its padding
    unsigned holds = 0;

    [[nodiscard]] constexpr bool operator==(const address_piece&) const = default;
};

/// The roles of all bits of one entry.
struct layout {
    std::uint64_t masks[role_count] = {};  ///< by role; they do not overlap
    std::uint64_t all = 0;                 ///< the bits that an entry has
    std::uint64_t denying = 0;             ///< permissions that are denied by a set bit
    std::uint64_t value = 0;               ///< of the fixed, the written and other bits that encode() writes
    address_piece pieces[2] = {};          ///< of the address
    unsigned offset_bits = 0;              ///< bits of an address that the page or table does not hold
    bool sized = false;                    ///< the address has the size of its page in it

    [[nodiscard]] constexpr bool operator==(const layout&) const = default;

    [[nodiscard]] constexpr std::uint64_t mask(role r) const noexcept { return masks[static_cast<unsigned>(r)]; }
    [[nodiscard]] constexpr std::uint64_t& mask(role r) noexcept { return masks[static_cast<unsigned>(r)]; }

    /// log2 of the bytes from which an entry's address counts: those below come from the address
    /// that is translated.
    [[nodiscard]] PTEBITS_INLINE constexpr unsigned offset_bits_of(std::uint64_t entry) const noexcept
    {
        if (!sized) return offset_bits;
        return offset_bits + 1 + static_cast<unsigned>(std::countr_one(pieces[0].at.get(entry)));
    }

    /// Physical address in the entry's address bits, in bytes.
    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t address_in(std::uint64_t entry) const noexcept
    {
        // Not a loop: GCC 12 at -O2 does not unroll one over constants.
        const std::uint64_t held = pieces[0].at.get(entry) << pieces[0].holds | pieces[1].at.get(entry)
                                                                                    << pieces[1].holds;
        return sized ? held & ~ones(offset_bits_of(entry) - 1, 0) : held;
    }

    /// The address bits of an entry for a physical address; what they cannot hold is left out.
    [[nodiscard]] PTEBITS_INLINE constexpr std::uint64_t address_bits(std::uint64_t physical) const noexcept
    {
        return placed(pieces[0], physical) | placed(pieces[1], physical);
    }

    /// Whether the entry grants a permission. One that it has no bit for is granted.
    [[nodiscard]] constexpr bool grants(std::uint64_t entry, role permission) const noexcept
    {
        return ((entry ^ denying) & mask(permission)) == mask(permission);
    }

    /// The bits of all permissions.
    [[nodiscard]] constexpr std::uint64_t permission_mask() const noexcept
    {
        return mask(role::read) | mask(role::write) | mask(role::execute) | mask(role::user_execute) | mask(role::user);
    }

private:
    static constexpr std::uint64_t placed(const address_piece& p, std::uint64_t physical) noexcept
    {
        return p.at.exists() ? physical >> p.holds << p.at.shift() & p.at.mask() : 0;
    }
};

/// The layout of an entry that the format does not have: nothing in it may be set.
[[nodiscard]] constexpr layout no_layout(unsigned entry_bits) noexcept
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

namespace detail {

/// Whether some row of a description has a role; with `denied`, a row that denies it by a set
/// bit. What no row has costs nothing, even where features are known at run time only.
template <class Description>
[[nodiscard]] consteval bool rows_have(role wanted, bool denied = false) noexcept
{
    for (const auto& r : Description::rows) {
        for (const use& u : {r.is, r.otherwise}) {
            if (u.is == wanted && (u.denies || !denied)) return true;
        }
    }
    return false;
}

/// A layout, and the first thing that is wrong with it.
struct computed_layout : layout {
    defect wrong = defect::none;
    std::uint64_t wrong_bits = 0;

    constexpr void note(defect what, std::uint64_t where) noexcept
    {
        if (wrong != defect::none || where == 0) return;
        wrong = what;
        wrong_bits = where;
    }
};

/// Computes the layouts of a description under features, one entry at a time, and finds the
/// places of its named fields.
template <class Description>
class layout_computer {
public:
    using fields = typename Description::fields;
    using switches = decltype(row_features<Description>(typename Description::features{}));
    using row_type = row<switches, fields>;

    constexpr layout_computer(const switches& f, const shape& s) : switches_(f), shape_(s)
    {
        address_end_ = switches_.physical_bits;
        for (const auto& r : Description::rows) {
            if (r.takes != role::address || !(switches_.*r.place).given) continue;
            const optional_bits& at = switches_.*r.place;
            const unsigned end = r.is.is == role::address ? at.high + 1 : at.low;
            if (end < address_end_) address_end_ = end;
        }
    }

    /// The layout of an entry that the format has: every bit's role, from the rows and the
    /// features. Adds the entry to the named fields that it has. Also finds what is wrong with
    /// it, first fault first.
    [[nodiscard]] constexpr computed_layout compute(unsigned level, kind k, fields& named) const
    {
        computed_layout l;
        l.all = ones(shape_.entry_bits - 1, 0);
        std::uint64_t claimed = 0;
        row_list addresses;
        row_list placed;
        for (const auto& r : Description::rows) {
            if (!r.in.contains(level, k)) continue;
            const bool in_force = r.in_force(switches_, level);
            if (r.member != nullptr && in_force) name_field(l, named.*r.member, r.bits_at(switches_), level, k);
            if (r.place != nullptr) {
                if (in_force) placed.add(r);
                continue;
            }
            const use& u = in_force ? r.is : r.otherwise;
            if (u.is == role::none) continue;
            if (u.is == role::address) {
                addresses.add(r);
                continue;
            }
            const std::uint64_t mask = r.bits.mask() & l.all;
            l.note(defect::rows_overlap, claimed & mask);
            claimed |= mask;
            l.mask(u.is) |= mask;
            if (u.denies) l.denying |= mask;
            if (u.value != 0) l.value |= r.bits(u.value) & l.all;
        }
        const std::uint64_t address_field = place_address(l, claimed, addresses, level, k);
        if (k == kind::none) {
            l.mask(role::software) |= l.all & ~claimed;
        } else {
            l.note(defect::bit_without_role, l.all & ~claimed);
        }
        for (const role flag : {role::accessed, role::dirty}) {
            l.note(defect::flag_of_several_bits, several_bits(l.mask(flag)) ? l.mask(flag) : 0);
        }
        claim_by_feature(l, address_field, placed);
        l.note(defect::two_accessed_bits, several_bits(l.mask(role::accessed)) ? l.mask(role::accessed) : 0);
        return l;
    }

private:
    /// Some of the rows.
    struct row_list {
        const row_type* rows[8] = {};
        unsigned count = 0;

        constexpr void add(const row_type& r)
        {
            if (count == 8) broken::too_many_rows_of_one_sort();
            rows[count++] = &r;
        }
    };

    constexpr void name_field(computed_layout& l, entry_field& named, field at, unsigned level, kind k) const
    {
        if ((at.mask() & ~l.all) != 0) return;
        if (named.exists() && named.mask() != at.mask()) l.note(defect::name_in_two_places, named.mask() | at.mask());
        named = {at, named.in() | entries(level, k)};
    }

    /// The address rows: what other rows left of them, from where the page or table begins up to
    /// the physical width. Returns the bits of all of them.
    constexpr std::uint64_t place_address(computed_layout& l, std::uint64_t& claimed, const row_list& addresses,
                                          unsigned level, kind k) const
    {
        const unsigned begin = k == kind::table  ? shape_.table_shift(level - 1)
                               : k == kind::none ? 0
                                                 : shape_.page_shift(level);
        std::uint64_t field_mask = 0;
        std::uint64_t weighed = 0;  // address bits that a row holds
        unsigned pieces = 0;
        l.offset_bits = 64;
        for (unsigned n = 0; n < addresses.count; ++n) {
            const row_type& r = *addresses.rows[n];
            const use& u = r.use_at(switches_, level);
            const std::uint64_t mask = r.bits.mask() & l.all;
            if (mask == 0) continue;
            const unsigned low = r.bits.shift();
            const unsigned weight = r.address_shift != 0 ? r.address_shift : low;
            unsigned first = begin > weight ? low + begin - weight : low;
            // A run's entries may tell with their lowest address bits that they are one.
            while (k == kind::run && first < 64 && (claimed >> first & 1) != 0) ++first;
            const std::uint64_t above = address_end_ > weight ? ~ones(low + (address_end_ - weight) - 1, 0) : mask;
            const std::uint64_t usable = mask & ones(63, first) & ~above;
            const std::uint64_t below = mask & ~ones(63, first);
            l.note(defect::rows_overlap, claimed & (mask & ~below));
            l.mask(role::address) |= usable;
            l.mask(u.below) |= below & ~claimed;
            l.mask(u.above) |= mask & above & ~below & ~claimed;
            if (usable != 0) {
                const unsigned holds = weight + (first - low);
                const std::uint64_t weights = usable >> first << holds;
                l.note(defect::rows_overlap, (weighed & weights) != 0 ? usable : 0);
                weighed |= weights;
                if (pieces < 2) {
                    l.pieces[pieces] = {field{usable}, holds};
                } else {
                    l.note(defect::address_in_pieces, usable);
                }
                ++pieces;
                if (holds < l.offset_bits) l.offset_bits = holds;
            }
            l.sized = l.sized || u.sized;
            claimed |= mask;
            if (r.address_shift == 0) field_mask |= mask & ~below;
        }
        if (l.offset_bits == 64) l.offset_bits = begin;
        return field_mask;
    }

    /// Bits whose place is a feature take the role of the bits that they stand on.
    constexpr void claim_by_feature(computed_layout& l, std::uint64_t address_field, const row_list& placed) const
    {
        for (unsigned n = 0; n < placed.count; ++n) {
            const row_type& r = *placed.rows[n];
            const std::uint64_t mask = r.bits_at(switches_).mask();
            const bool from_address = r.takes == role::address;
            const bool stays = r.is.is == role::address;
            const std::uint64_t free =
                from_address ? (stays ? l.mask(role::address) : address_field) & ~ones(min_physical_bits - 1, 0)
                             : l.mask(r.takes);
            if (mask == 0 || (mask & ~free) != 0) {
                l.note(from_address ? defect::encryption_bit : defect::software_bit_in_use,
                       mask != 0 ? mask : ~std::uint64_t{0});
                continue;
            }
            if (stays) continue;
            for (std::uint64_t& m : l.masks) m &= ~mask;
            l.mask(r.is.is) |= mask;
            if (r.is.denies) l.denying |= mask;
            l.value = (l.value & ~mask) | r.bits_at(switches_)(r.is.value);
        }
    }

    const switches& switches_;
    const shape& shape_;
    unsigned address_end_ = 0;
};

}  // namespace detail
}  // namespace ptebits
