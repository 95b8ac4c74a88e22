// SPDX-License-Identifier: BSL-1.0
// Entries drawn by hand as the manuals' figures show them, and the comparison of a format
// with such drawings. Nothing here asks the library what a bit is for.
#pragma once

#include <doctest/doctest.h>
#include <algorithm>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ptebits/entry.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>

namespace manual {

using namespace ptebits;

inline constexpr kind all_kinds[] = {kind::none, kind::table, kind::leaf, kind::run};
static_assert(std::size(all_kinds) == kind_count);

inline std::string hex(std::uint64_t value)
{
    std::string digits(16, '0');
    for (auto digit = digits.rbegin(); digit != digits.rend(); ++digit, value >>= 4) {
        *digit = "0123456789abcdef"[value & 15];
    }
    return digits;
}

/// The entries of some levels, one letter a bit, the high bit first, a blank between hex
/// digits. An empty drawing: the format has no such entry. Absent entries are drawn once, or
/// not at all where they have nothing but the bits that make them absent.
struct drawn {
    std::string_view levels;  ///< as digits: "23"; of absent entries: ""
    kind in = kind::leaf;
    std::string_view drawing;
};

/// What a letter of a drawing stands for, and the named field that holds its bits.
template <class Fields>
struct letter {
    char sign;
    role is;
    entry_field Fields::* name = nullptr;
    entries set_in = {};  ///< where bits of one value, fixed or written, are 1; elsewhere 0
    bool denies = false;  ///< a permission that a set bit denies
    unsigned up = 0;      ///< address bits weigh 2^up of what they would where they stand
};

/// Features, the drawings that some simpler setting has, and those that differ from it.
template <class Features, std::size_t BaseSize>
struct setting {
    std::string_view words;
    Features features;
    const drawn (&base)[BaseSize];
    drawn changes[6] = {};

    [[nodiscard]] constexpr std::string_view drawing(unsigned level, kind k) const
    {
        for (const drawn& d : changes) {
            if (draws(d, level, k)) return d.drawing;
        }
        for (const drawn& d : base) {
            if (draws(d, level, k)) return d.drawing;
        }
        return {};
    }

    static constexpr bool draws(const drawn& d, unsigned level, kind k)
    {
        if (d.in != k) return false;
        return k == kind::none || d.levels.find(static_cast<char>('0' + level)) != std::string_view::npos;
    }
};

/// All bits of one letter.
struct part {
    char sign;
    std::uint64_t bits;
};

inline unsigned width_of(std::string_view drawing)
{
    unsigned width = 0;
    for (const char sign : drawing) width += sign != ' ';
    return width;
}

inline std::vector<part> parts_of(std::string_view drawing)
{
    std::vector<part> parts;
    const unsigned width = width_of(drawing);
    REQUIRE((width == 64 || width == 32));
    std::uint64_t at = std::uint64_t{1} << (width - 1);
    for (const char sign : drawing) {
        if (sign == ' ') continue;
        std::size_t n = 0;
        while (n < parts.size() && parts[n].sign != sign) ++n;
        if (n == parts.size()) parts.push_back({sign, 0});
        parts[n].bits |= at;
        at >>= 1;
    }
    return parts;
}

/// What an entry must be: each bit in the mask of one role.
struct expected {
    bool exists = false;
    std::uint64_t masks[role_count] = {};
    std::uint64_t value = 0;    ///< of the fixed and the written bits
    std::uint64_t denying = 0;  ///< permissions that are denied by a set bit
    std::uint64_t address = 0;  ///< that all its address bits together hold

    void add(role r, std::uint64_t bits) { masks[static_cast<unsigned>(r)] |= bits; }
    template <class Fields>
    void add(const letter<Fields>& l, role r, std::uint64_t bits, entries in)
    {
        add(r, bits);
        if (r == role::address) address |= bits << l.up;
        if (r != l.is) return;
        if (!(l.set_in & in).empty()) value |= bits;
        if (l.denies) denying |= bits;
    }
    void move(std::uint64_t bits, role to)
    {
        for (std::uint64_t& mask : masks) mask &= ~bits;
        add(to, bits);
    }
    [[nodiscard]] std::uint64_t mask(role r) const { return masks[static_cast<unsigned>(r)]; }
};

inline std::uint64_t all_of(unsigned entry_bits) { return ~std::uint64_t{0} >> (64 - entry_bits); }

/// An entry that does not exist: nothing in it may be set.
inline expected no_entry(unsigned entry_bits)
{
    expected e;
    e.add(role::reserved, all_of(entry_bits));
    return e;
}

/// An absent entry: what is not clear so that it is absent, software may have.
inline expected absent_entry(unsigned entry_bits, std::uint64_t present_bits)
{
    expected e;
    e.add(role::software, all_of(entry_bits) & ~present_bits);
    e.add(role::fixed, present_bits);
    return e;
}

/// Where a format's entry differs from what it must be, in words; empty: nowhere.
template <class Format>
std::string difference(const Format& format, unsigned level, kind k, const expected& e)
{
    const layout& l = format->layout_at(level, k);
    std::uint64_t all = 0;
    std::string found;
    for (unsigned r = 0; r < role_count; ++r) {
        all |= e.masks[r];
        if (l.masks[r] == e.masks[r]) continue;
        found += " " + std::string(name(role{static_cast<std::uint8_t>(r)})) + " " + hex(l.masks[r]) + ", manual " +
                 hex(e.masks[r]) + ";";
    }
    if (l.all != all) found += " all " + hex(l.all) + ", manual " + hex(all) + ";";
    if (l.value != e.value) found += " value " + hex(l.value) + ", manual " + hex(e.value) + ";";
    if (l.denying != e.denying) found += " denying " + hex(l.denying) + ", manual " + hex(e.denying) + ";";
    if (l.address_in(all) != e.address)
        found += " address " + hex(l.address_in(all)) + ", manual " + hex(e.address) + ";";
    if (l.address_bits(e.address) != e.mask(role::address)) found += " address_bits();";
    if (format->exists(level, k) != e.exists) found += e.exists ? " missing;" : " exists;";
    if (format->reserved_mask(level, k) != e.mask(role::reserved)) found += " reserved_mask();";
    if (format->software_mask(level, k) != e.mask(role::software)) found += " software_mask();";
    if (format->address_mask(level, k) != e.mask(role::address)) found += " address_mask();";
    if (k == kind::none && format->empty() != e.value) found += " empty();";
    if (found.empty()) return found;
    return "level " + std::to_string(level) + " " + name(k) + ":" + found;
}

/// Where a format differs from a setting's drawings: roles, named fields, and the fields
/// that follow from roles.
template <class Format, class Setting, class Fields, std::size_t Letters>
std::string difference(const Format& format, const Setting& drawings, const letter<Fields> (&legend)[Letters])
{
    const auto read = [&](std::string_view drawing, bool exists, entries in, auto see) {
        expected e{.exists = exists};
        for (const part& p : parts_of(drawing)) {
            std::size_t n = 0;
            while (n < Letters && legend[n].sign != p.sign) ++n;
            REQUIRE(n < Letters);
            e.add(legend[n], legend[n].is, p.bits, in);
            see(n, p.bits);
        }
        return e;
    };
    std::uint64_t letters_drawn[Letters] = {};
    entries drawn_in[Letters];
    std::uint64_t grants = 0;
    std::uint64_t always_set = ~std::uint64_t{0};
    const unsigned entry_bits = width_of(drawings.base[0].drawing);
    for (unsigned level = 0; level <= 7; ++level) {
        for (const kind k : present_kinds) {
            const std::string_view drawing = drawings.drawing(level, k);
            expected e = no_entry(entry_bits);
            if (!drawing.empty()) {
                e = read(drawing, true, entries(level, k), [&](std::size_t n, std::uint64_t bits) {
                    letters_drawn[n] |= bits;
                    drawn_in[n] = drawn_in[n] | entries(level, k);
                });
                const std::uint64_t granted =
                    (e.mask(role::read) | e.mask(role::write) | e.mask(role::execute) | e.mask(role::user_execute)) &
                    ~e.denying;
                grants |= granted;
                always_set &= e.value;
                const kind is = kind_of(e.value | granted, level, format);
                if (is != k) return "level " + std::to_string(level) + " " + name(k) + ": taken for " + name(is);
            }
            if (std::string found = difference(format, level, k, e); !found.empty()) return found;
        }
    }
    const std::uint64_t present_bits = always_set != 0 ? always_set : grants;
    if (format->present_mask() != present_bits) return "present_mask() " + hex(format->present_mask());
    const std::string_view drawing = drawings.drawing(1, kind::none);
    const expected none = drawing.empty() ? absent_entry(entry_bits, present_bits)
                                          : read(drawing, false, absent, [](std::size_t, std::uint64_t) {});
    for (unsigned level = 0; level <= 7; ++level) {
        if (std::string found = difference(format, level, kind::none, none); !found.empty()) return found;
        for (const std::uint64_t entry : {none.value, all_of(entry_bits) & ~present_bits}) {
            if (kind_of(entry, level, format) != kind::none) return "an absent entry is " + hex(entry);
        }
    }
    const auto compare = [&](const std::string& words, const entry_field& f, std::uint64_t mask, entries in) {
        if (f.mask() != mask) return words + ": " + hex(f.mask()) + ", manual " + hex(mask);
        // A field that absent entries have too is compared where the manual draws them.
        return (f.in() & every) == in ? std::string() : words + " stands in other entries";
    };
    for (std::size_t n = 0; n < Letters; ++n) {
        if (legend[n].name == nullptr) continue;
        const std::string words = std::string("named field of letter ") + legend[n].sign;
        std::string found = compare(words, format->fields().*legend[n].name, letters_drawn[n], drawn_in[n]);
        if (!found.empty()) return found;
    }
    for (const role flag : {role::accessed, role::dirty}) {
        std::uint64_t mask = 0;
        entries in;
        for (std::size_t n = 0; n < Letters; ++n) {
            if (legend[n].is != flag) continue;
            mask |= letters_drawn[n];
            in = in | drawn_in[n];
        }
        std::string found = compare(name(flag), flag == role::dirty ? format->dirty : format->accessed, mask, in);
        if (!found.empty()) return found;
    }
    return {};
}

/// The fields that have a letter; a legend should have all.
template <class Fields, std::size_t Letters>
constexpr bool names_all(const letter<Fields> (&legend)[Letters])
{
    std::size_t named = 0;
    for (const letter<Fields>& l : legend) named += l.name != nullptr;
    return named == sizeof(Fields) / sizeof(entry_field);
}

constexpr bool same(const entry_field& a, const entry_field& b) { return a == b && a.in() == b.in(); }

inline bool same(const layout& a, const layout& b)
{
    bool same = a.all == b.all && a.denying == b.denying && a.value == b.value && a.offset_bits == b.offset_bits &&
                a.sized == b.sized;
    for (std::size_t n = 0; n < std::size(a.pieces); ++n) same = same && a.pieces[n] == b.pieces[n];
    for (unsigned r = 0; r < role_count; ++r) same = same && a.masks[r] == b.masks[r];
    return same;
}

/// Permissions by a number below 32.
constexpr permissions permissions_number(unsigned n)
{
    return {(n & 1) != 0, (n & 2) != 0, (n & 4) != 0, (n & 8) != 0, (n & 16) != 0};
}

/// Where two formats that should be one differ: layouts, shape, masks, rules.
template <class A, class B>
std::string difference_of(const A& a, const B& b)
{
    for (unsigned level = 0; level <= 7; ++level) {
        for (const kind k : all_kinds) {
            const bool alike = same(a->layout_at(level, k), b->layout_at(level, k)) &&
                               a->exists(level, k) == b->exists(level, k) &&
                               a->reserved_mask(level, k) == b->reserved_mask(level, k) &&
                               a->software_mask(level, k) == b->software_mask(level, k) &&
                               a->address_mask(level, k) == b->address_mask(level, k);
            if (!alike) return "level " + std::to_string(level) + " " + name(k);
            for (unsigned n = 0; n < 32; ++n) {
                const permissions p = permissions_number(n);
                if (a->allowed(p, k) != b->allowed(p, k)) return "allowed()";
                if (a->roles_for(p, k) != b->roles_for(p, k)) return "roles_for()";
            }
        }
    }
    const shape& s = a->shape();
    const shape& t = b->shape();
    bool alike = s.levels == t.levels && s.entry_bits == t.entry_bits && s.granule == t.granule && s.above == t.above;
    for (unsigned n = 0; n < max_levels; ++n) {
        alike = alike && s.index_bits[n] == t.index_bits[n] && s.run_bits[n] == t.run_bits[n];
    }
    if (!alike) return "shape()";
    if (a->present_mask() != b->present_mask()) return "present_mask()";
    if (a->empty() != b->empty()) return "empty()";
    if (!same(a->accessed, b->accessed) || !same(a->dirty, b->dirty)) return "accessed or dirty";
    if (a->accessed_by() != b->accessed_by()) return "accessed_by()";
    if (a->modes_apart() != b->modes_apart()) return "modes_apart()";
    if (a->permissions_in_place() != b->permissions_in_place()) return "permissions_in_place()";
    if (a->memory_bits() != b->memory_bits()) return "memory_bits()";
    if (a->wrong().what != b->wrong().what) return "wrong()";
    for (std::size_t n = 0; n < std::size(a->combinations()); ++n) {
        const combination& c = a->combinations()[n];
        const combination& d = b->combinations()[n];
        if (c.breaks != d.breaks || c.in != d.in || c.mask != d.mask || c.value != d.value) return "combinations()";
    }
    return {};
}

/// Checks each setting as a constant and as found at run time: both as drawn, and the same.
template <const auto& Settings, class Fields, std::size_t Letters>
void check_settings(const letter<Fields> (&legend)[Letters])
{
    const auto check = [&](auto index) {
        constexpr auto& s = Settings[index];
        CAPTURE(s.words);
        const auto found = format_for(s.features);
        constexpr constant_format<typename decltype(found)::description, s.features> constant;
        REQUIRE(found->wrong().what == defect::none);
        CHECK(difference(found, s, legend) == "");
        CHECK(difference(constant, s, legend) == "");
        CHECK(difference_of(found, constant) == "");
        for (const letter<Fields>& l : legend) {
            if (l.name != nullptr) CHECK(same(constant->fields().*l.name, found->fields().*l.name));
        }
        CHECK(well_formed(found));
        static_assert(well_formed(constant));
    };
    [&]<std::size_t... Index>(std::index_sequence<Index...>) {
        (check(std::integral_constant<std::size_t, Index>{}), ...);
    }(std::make_index_sequence<std::size(Settings)>{});
}

/// Whether a format whose features contradict each other leaves every entry alone.
template <class Format>
bool inert(const Format& format, unsigned entry_bits)
{
    if (format->present_mask() != 0 || format->accessed.exists() || format->dirty.exists()) return false;
    if (format->accessed_by() != accessed_setter::nobody || format->empty() != 0) return false;
    for (unsigned level = 0; level <= 7; ++level) {
        for (const kind k : all_kinds) {
            if (!difference(format, level, k, no_entry(entry_bits)).empty()) return false;
        }
        for (const std::uint64_t entry : {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0}}) {
            if (kind_of(entry, level, format) != kind::none) return false;
        }
    }
    return true;
}

/// A set of defects. Where features are wrong in several ways, any of them may be named.
class defects {
public:
    void add_if(bool wrong, defect what) { set_ |= wrong ? 1U << static_cast<unsigned>(what) : 0; }
    [[nodiscard]] bool empty() const { return set_ == 0; }
    [[nodiscard]] bool contains(defect what) const { return (set_ >> static_cast<unsigned>(what) & 1) != 0; }

private:
    unsigned set_ = 0;
};

/// What the letters mean in entries of ordinary x86 paging.
inline constexpr letter<x86_fields> x86_letters[] = {
    {'P', role::fixed, &x86_fields::present, every},
    {'W', role::write, &x86_fields::write},
    {'U', role::user, &x86_fields::user},
    {'T', role::memory_type, &x86_fields::write_through},
    {'N', role::memory_type, &x86_fields::cache_disable},
    {'A', role::accessed},
    {'D', role::dirty},
    {'S', role::fixed, &x86_fields::page_size, leaves},
    {'M', role::memory_type, &x86_fields::pat},        // PAT, 4-Kbyte pages
    {'L', role::memory_type, &x86_fields::pat_large},  // PAT, large pages
    {'G', role::attribute, &x86_fields::global},
    {'R', role::attribute, &x86_fields::restart},
    {'a', role::address},
    {'h', role::address, nullptr, {}, false, 19},  // address bits 39:32 in bits 20:13
    {'K', role::attribute, &x86_fields::protection_key},
    {'X', role::execute, &x86_fields::execute_disable, {}, true},
    {'C', role::attribute, &x86_fields::encryption, tables},  // a table's memory is encrypted
    {'s', role::address, &x86_fields::shared},
    {'k', role::attribute, &x86_fields::key_id},
    {'.', role::software},
    {'0', role::reserved},
    {'8', role::reserved},  // bit 8, which not all CPUs reserve
    {'-', role::fixed},     // clear in absent entries
};
static_assert(names_all(x86_letters));

constexpr const letter<x86_fields>* x86_letter(char sign)
{
    for (const auto& l : x86_letters) {
        if (l.sign == sign) return &l;
    }
    return nullptr;
}

/// Every feature in use, 52 address bits. Letter 8: bit 8, which AMD reserves at levels 4
/// and 5. Intel SDM volume 3, "Paging", the tables of the formats of paging-structure
/// entries; AMD APM volume 2, "Page Translation and Protection".
// clang-format off
inline constexpr drawn x86_long[] = {
    {"45", kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa R..8 0.AN TUWP"},
    {"23", kind::table, "X... .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa R... S.AN TUWP"},
    {"3",  kind::leaf,  "XKKK K... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000L R..G SDAN TUWP"},
    {"2",  kind::leaf,  "XKKK K... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L R..G SDAN TUWP"},
    {"1",  kind::leaf,  "XKKK K... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa R..G MDAN TUWP"},
};
inline constexpr drawn x86_pae[] = {
    {"3",  kind::table, "0000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...0 000N T00P"},
    {"2",  kind::table, "X000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"2",  kind::leaf,  "X000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000L ...G SDAN TUWP"},
    {"1",  kind::leaf,  "X000 0000 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"},
};
inline constexpr drawn x86_32[] = {
    {"2",  kind::table, "aaaa aaaa aaaa aaaa aaaa .... S.AN TUWP"},
    {"2",  kind::leaf,  "aaaa aaaa aa0h hhhh hhhL ...G SDAN TUWP"},
    {"1",  kind::leaf,  "aaaa aaaa aaaa aaaa aaaa ...G MDAN TUWP"},
};
// clang-format on

/// A letter's role where features are off.
inline role x86_role(char sign, unsigned level, const shadow_features& f)
{
    switch (sign) {
    case 'X':
        return f.execute_disable ? role::execute : role::reserved;
    case 'K':
        return f.user_keys || f.supervisor_keys ? role::attribute : role::software;
    case 'R':
        return f.hlat ? role::attribute : role::software;
    case 'G':
        return f.global_pages ? role::attribute : role::software;
    case '8':
        return f.reserved_bit_8 ? role::reserved : role::software;
    case 'h':
        return f.pse36 ? role::address : role::reserved;
    case 'S':
        if (f.levels == 2) return f.large_pages ? role::fixed : role::software;
        return level == 2 || f.gigabyte_pages ? role::fixed : role::reserved;
    default:
        break;
    }
    const letter<x86_fields>* const found = x86_letter(sign);
    REQUIRE(found != nullptr);
    return found->is;
}

/// The entries of ordinary paging under any features without a defect.
class x86_manual {
public:
    x86_manual()
    {
        prepare(entries_[2], x86_32);
        prepare(entries_[3], x86_pae);
        prepare(entries_[4], x86_long);
        prepare(entries_[5], x86_long);
        entries_[4][5][static_cast<unsigned>(kind::table)].clear();
    }

    [[nodiscard]] expected entry(unsigned level, kind k, const shadow_features& f) const
    {
        const unsigned entry_bits = f.levels == 2 ? 32 : 64;
        const unsigned end = address_end(f);
        if (k == kind::none) {
            expected e = absent_entry(entry_bits, 1);
            if (f.memory_bits == 0) return e;
            e.address = ones(end - 1, 12) & all_of(entry_bits);
            e.move(e.address, role::address);
            return e;
        }
        const bool too_large =
            k == kind::leaf && ((level == 3 && !f.gigabyte_pages) || (f.levels == 2 && level == 2 && !f.large_pages));
        if (level < 1 || level > 5 || too_large) return no_entry(entry_bits);
        const std::vector<part>& parts = entries_[f.levels][level][static_cast<unsigned>(k)];
        if (parts.empty()) return no_entry(entry_bits);

        expected e{.exists = true};
        for (const part& p : parts) {
            const letter<x86_fields>& l = *x86_letter(p.sign);
            const role r = x86_role(p.sign, level, f);
            const std::uint64_t above = r == role::address ? p.bits & ~std::uint64_t{0} << (end - l.up) : 0;
            e.add(l, r, p.bits & ~above, entries(level, k));
            e.add(role::reserved, above);
        }
        for (const optional_bits& b : {f.encryption_bit, f.key_id_bits}) {
            if (b.given) e.move(ones(b.high, b.low), role::attribute);
        }
        if (k == kind::table) e.value |= f.encryption_bit.bits().mask();
        return e;
    }

    /// The address ends at the physical width; a C-bit or a key identifier is none of it, a shared bit is
    /// its highest, and nothing lies above them.
    [[nodiscard]] static unsigned address_end(const shadow_features& f)
    {
        unsigned end = f.physical_bits;
        if (f.encryption_bit.given) end = std::min(end, f.encryption_bit.low);
        if (f.key_id_bits.given) end = std::min(end, f.key_id_bits.low);
        if (f.shared_bit.given) end = std::min(end, f.shared_bit.high + 1);
        return end;
    }

    [[nodiscard]] static defects wrong(const shadow_features& f)
    {
        defects all;
        all.add_if(f.physical_bits < 32 || f.physical_bits > 52, defect::physical_bits);
        all.add_if(f.levels < 2 || f.levels > 5, defect::levels);
        all.add_if(f.levels < 4 && (f.user_keys || f.supervisor_keys || f.hlat), defect::contradiction);
        all.add_if(f.levels >= 3 && f.levels <= 5 && !f.large_pages, defect::always_on);
        // Past the memory there must be an address that entries can hold.
        const unsigned entry_end = f.levels == 2 ? 32 : 64;
        all.add_if(f.memory_bits >= f.physical_bits ||
                       (f.memory_bits != 0 && f.memory_bits >= std::min(address_end(f), entry_end)),
                   defect::memory_bits);
        int ways = 0;
        for (const optional_bits& b : {f.encryption_bit, f.shared_bit, f.key_id_bits}) {
            ways += b.given;
            const bool outside = b.low < 32 || b.high > 51 || b.low > b.high;
            all.add_if(b.given && (f.levels == 2 || outside), defect::encryption_bit);
        }
        all.add_if(f.shared_bit.given && f.shared_bit.high >= f.physical_bits, defect::encryption_bit);
        all.add_if(f.key_id_bits.given && f.key_id_bits.high >= f.physical_bits, defect::encryption_bit);
        all.add_if(ways > 1, defect::contradiction);
        for (const optional_bits& b : {f.encryption_bit, f.shared_bit}) {
            all.add_if(b.given && b.high > b.low, defect::flag_of_several_bits);
        }
        return all;
    }

    /// Whether a format is as these features, turned into those of ordinary paging, say.
    template <class Format>
    [[nodiscard]] std::string compare(const Format& format, const shadow_features& f) const
    {
        const defects bad = wrong(f);
        if (bad.empty() != (format->wrong().what == defect::none)) return "wrong() is not what it should be";
        if (find_flaw(format).what != format->wrong().what) return "find_flaw() and wrong() differ";
        if (!bad.empty()) {
            if (!bad.contains(format->wrong().what)) return "wrong() names another defect";
            return inert(format, f.levels == 2 ? 32 : 64) ? "" : "a format with a defect still describes entries";
        }
        for (unsigned level = 0; level <= 7; ++level) {
            for (const kind k : all_kinds) {
                if (std::string found = difference(format, level, k, entry(level, k, f)); !found.empty()) return found;
            }
        }
        return {};
    }

private:
    using prepared = std::vector<part>[6][kind_count];

    template <std::size_t Size>
    static void prepare(prepared& entries, const drawn (&drawings)[Size])
    {
        for (const drawn& d : drawings) {
            for (const char level : d.levels) {
                entries[level - '0'][static_cast<unsigned>(d.in)] = parts_of(d.drawing);
            }
        }
    }

    prepared entries_[6];
};

/// Whether one of these arguments, called by a template, makes a constant expression: a
/// broken precondition does not.
template <auto Call>
concept constant_expression = requires { typename std::bool_constant<(static_cast<void>(Call()), true)>; };

}  // namespace manual
