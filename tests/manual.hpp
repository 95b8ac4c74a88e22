// SPDX-License-Identifier: BSL-1.0
// Entries drawn by hand as the manuals' figures show them, and the comparison of a format
// with such drawings. Nothing here asks the library what a bit is for.
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <ptebits/entry.hpp>
#include <ptebits/npt.hpp>
#include <ptebits/shadow.hpp>

namespace manual {

using namespace ptebits;

inline constexpr std::string_view role_names[] = {
    "none",      "present", "read",        "write",     "execute",  "user_execute", "user",     "execute_disable",
    "page_size", "address", "memory_type", "attribute", "accessed", "dirty",        "software", "reserved"};
static_assert(std::size(role_names) == role_count);

inline std::string hex(std::uint64_t value)
{
    std::string digits(16, '0');
    for (auto digit = digits.rbegin(); digit != digits.rend(); ++digit, value >>= 4) {
        *digit = "0123456789abcdef"[value & 15];
    }
    return digits;
}

/// The entries of some levels, one letter a bit, the high bit first, a blank between hex
/// digits. An empty drawing: the format has no such entry.
struct drawn {
    std::string_view levels;  ///< as digits: "23"
    kind in = kind::leaf;
    std::string_view drawing;
};

/// What a letter of a drawing stands for, and the named field that holds its bits.
template <class Fields>
struct letter {
    char sign;
    role is;
    field Fields::* name = nullptr;
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
        return d.in == k && d.levels.find(static_cast<char>('0' + level)) != std::string_view::npos;
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

    void add(role r, std::uint64_t bits) { masks[static_cast<unsigned>(r)] |= bits; }
    void move(std::uint64_t bits, role to)
    {
        for (std::uint64_t& mask : masks) mask &= ~bits;
        add(to, bits);
    }
    [[nodiscard]] std::uint64_t mask(role r) const { return masks[static_cast<unsigned>(r)]; }
};

/// An entry that does not exist: nothing in it may be set.
inline expected absent(unsigned entry_bits)
{
    expected e;
    e.add(role::reserved, ~std::uint64_t{0} >> (64 - entry_bits));
    return e;
}

/// Where a format's entry differs from what it must be, in words; empty: nowhere.
template <class Format>
std::string difference(const Format& format, unsigned level, kind k, const expected& e)
{
    const layout& l = format.layout_at(level, k);
    std::uint64_t all = 0;
    std::string found;
    for (unsigned r = 0; r < role_count; ++r) {
        all |= e.masks[r];
        if (l.masks[r] == e.masks[r]) continue;
        found += " " + std::string(role_names[r]) + " " + hex(l.masks[r]) + ", manual " + hex(e.masks[r]) + ";";
    }
    if (l.all != all) found += " all " + hex(l.all) + ", manual " + hex(all) + ";";
    if (format.exists(level, k) != e.exists) found += e.exists ? " missing;" : " exists;";
    if (format.reserved_mask(level, k) != e.mask(role::reserved)) found += " reserved_mask();";
    if (format.software_mask(level, k) != e.mask(role::software)) found += " software_mask();";
    if (format.address_mask(level, k) != e.mask(role::address)) found += " address_mask();";
    if (found.empty()) return found;
    return "level " + std::to_string(level) + (k == kind::leaf ? " leaf:" : " table:") + found;
}

/// Where a format differs from a setting's drawings: roles, named fields, and the fields
/// that follow from roles.
template <class Format, class Setting, class Fields, std::size_t Letters>
std::string difference(const Format& format, const Setting& drawings, const letter<Fields> (&legend)[Letters])
{
    std::uint64_t letters_drawn[Letters] = {};
    std::uint64_t roles_drawn[role_count] = {};
    const unsigned entry_bits = width_of(drawings.base[0].drawing);
    for (unsigned level = 0; level <= 7; ++level) {
        for (const kind k : {kind::table, kind::leaf}) {
            const std::string_view drawing = drawings.drawing(level, k);
            expected e = absent(entry_bits);
            if (!drawing.empty()) {
                e = {.exists = true};
                for (const part& p : parts_of(drawing)) {
                    std::size_t n = 0;
                    while (n < Letters && legend[n].sign != p.sign) ++n;
                    REQUIRE(n < Letters);
                    e.add(legend[n].is, p.bits);
                    letters_drawn[n] |= p.bits;
                    roles_drawn[static_cast<unsigned>(legend[n].is)] |= p.bits;
                }
            }
            if (std::string found = difference(format, level, k, e); !found.empty()) return found;
        }
    }
    for (std::size_t n = 0; n < Letters; ++n) {
        if (legend[n].name == nullptr) continue;
        const std::uint64_t mask = (format.fields().*legend[n].name).mask();
        if (mask != letters_drawn[n]) {
            return std::string("named field of letter ") + legend[n].sign + ": " + hex(mask) + ", manual " +
                   hex(letters_drawn[n]);
        }
    }
    const auto of = [&](role r) { return roles_drawn[static_cast<unsigned>(r)]; };
    if (format.accessed.mask() != of(role::accessed)) return "accessed " + hex(format.accessed.mask());
    if (format.dirty.mask() != of(role::dirty)) return "dirty " + hex(format.dirty.mask());
    const std::uint64_t grants = of(role::read) | of(role::write) | of(role::execute) | of(role::user_execute);
    const std::uint64_t present_bits = of(role::present) != 0 ? of(role::present) : grants;
    if (format.present_mask() != present_bits) return "present_mask() " + hex(format.present_mask());
    return {};
}

/// Where two formats that should be one differ: layouts, shape, masks, rules.
template <class A, class B>
std::string difference_of(const A& a, const B& b)
{
    for (unsigned level = 0; level <= 7; ++level) {
        for (const kind k : {kind::table, kind::leaf}) {
            const layout& x = a.layout_at(level, k);
            const layout& y = b.layout_at(level, k);
            bool same = x.all == y.all && x.moved_address == y.moved_address && x.moved_to == y.moved_to &&
                        a.exists(level, k) == b.exists(level, k);
            for (unsigned r = 0; r < role_count; ++r) same = same && x.masks[r] == y.masks[r];
            same = same && a.reserved_mask(level, k) == b.reserved_mask(level, k) &&
                   a.software_mask(level, k) == b.software_mask(level, k) &&
                   a.address_mask(level, k) == b.address_mask(level, k);
            if (!same) return "level " + std::to_string(level) + (k == kind::leaf ? " leaf" : " table");
        }
    }
    const shape s = a.tables();
    const shape t = b.tables();
    if (s.levels != t.levels || s.entry_bits != t.entry_bits || s.index_bits != t.index_bits ||
        s.top_index_bits != t.top_index_bits) {
        return "tables()";
    }
    if (a.present_mask() != b.present_mask()) return "present_mask()";
    if (a.accessed != b.accessed || a.dirty != b.dirty) return "accessed or dirty";
    if (a.user_bit() != b.user_bit()) return "user_bit()";
    if (a.wrong().what != b.wrong().what) return "wrong()";
    for (std::size_t n = 0; n < std::size(a.combinations()); ++n) {
        const combination& c = a.combinations()[n];
        const combination& d = b.combinations()[n];
        if (c.breaks != d.breaks || c.in != d.in || c.mask != d.mask || c.value != d.value) return "combinations()";
    }
    return {};
}

/// Whether a format whose features contradict each other leaves every entry alone.
template <class Format>
bool inert(const Format& format, unsigned entry_bits)
{
    if (format.present_mask() != 0 || format.accessed.exists() || format.dirty.exists()) return false;
    for (unsigned level = 0; level <= 7; ++level) {
        for (const kind k : {kind::table, kind::leaf}) {
            if (!difference(format, level, k, absent(entry_bits)).empty()) return false;
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
    {'P', role::present, &x86_fields::present},
    {'W', role::write, &x86_fields::write},
    {'U', role::user, &x86_fields::user},
    {'T', role::memory_type, &x86_fields::write_through},
    {'N', role::memory_type, &x86_fields::cache_disable},
    {'A', role::accessed},
    {'D', role::dirty},
    {'S', role::page_size, &x86_fields::page_size},
    {'M', role::memory_type, &x86_fields::pat},        // PAT, 4-Kbyte pages
    {'L', role::memory_type, &x86_fields::pat_large},  // PAT, large pages
    {'G', role::attribute, &x86_fields::global},
    {'R', role::attribute, &x86_fields::restart},
    {'a', role::address},
    {'h', role::address},  // address bits 39:32 in bits 20:13
    {'K', role::attribute, &x86_fields::protection_key},
    {'X', role::execute_disable, &x86_fields::execute_disable},
    {'C', role::attribute, &x86_fields::encryption},
    {'.', role::software},
    {'0', role::reserved},
};

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
        return f.execute_disable ? role::execute_disable : role::reserved;
    case 'K':
        return f.protection_keys ? role::attribute : role::software;
    case 'R':
        return f.hlat ? role::attribute : role::software;
    case 'G':
        return f.global_pages ? role::attribute : role::software;
    case '8':
        return f.reserved_bit_8 ? role::reserved : role::software;
    case 'h':
        return f.pse36 ? role::address : role::reserved;
    case 'S':
        if (f.levels == 2) return f.large_pages ? role::page_size : role::software;
        return level == 2 || f.gigabyte_pages ? role::page_size : role::reserved;
    default:
        break;
    }
    for (const auto& l : x86_letters) {
        if (l.sign == sign) return l.is;
    }
    FAIL("a letter without meaning");
    return role::none;
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
        entries_[4][5][0].clear();
    }

    [[nodiscard]] expected entry(unsigned level, kind k, const shadow_features& f) const
    {
        const bool too_large =
            k == kind::leaf && ((level == 3 && !f.gigabyte_pages) || (f.levels == 2 && level == 2 && !f.large_pages));
        const std::vector<part>& parts = entries_[f.levels][level][static_cast<unsigned>(k)];
        if (parts.empty() || too_large) return absent(f.levels == 2 ? 32 : 64);

        // The address ends at the physical width; an encryption bit is none of it, nor is what lies above.
        const unsigned encrypted = f.encryption_bit.given ? f.encryption_bit.index : 64;
        const unsigned end = encrypted < f.physical_bits ? encrypted : f.physical_bits;
        expected e{.exists = true};
        for (const part& p : parts) {
            e.add(x86_role(p.sign, level, f), p.bits);
            const unsigned above = p.sign == 'h' ? end - 32 + 13 : end;
            if (p.sign == 'h' || p.sign == 'a') e.move(p.bits & ~std::uint64_t{0} << above, role::reserved);
        }
        if (f.encryption_bit.given) e.move(std::uint64_t{1} << encrypted, role::attribute);
        return e;
    }

    [[nodiscard]] static defects wrong(const shadow_features& f)
    {
        defects all;
        all.add_if(f.physical_bits < 32 || f.physical_bits > 52, defect::physical_bits);
        all.add_if(f.levels < 2 || f.levels > 5, defect::levels);
        all.add_if(f.levels < 4 && (f.protection_keys || f.hlat), defect::contradiction);
        all.add_if(
            f.encryption_bit.given && (f.levels == 2 || f.encryption_bit.index < 32 || f.encryption_bit.index > 51),
            defect::encryption_bit);
        return all;
    }

    /// Whether a format is as these features, turned into those of ordinary paging, say.
    template <class Format>
    [[nodiscard]] std::string compare(const Format& format, const shadow_features& f) const
    {
        const defects bad = wrong(f);
        if (bad.empty() != (format.wrong().what == defect::none)) return "wrong() is not what it should be";
        if (find_flaw(format).what != format.wrong().what) return "find_flaw() and wrong() differ";
        if (!bad.empty()) {
            if (!bad.contains(format.wrong().what)) return "wrong() names another defect";
            return inert(format, f.levels == 2 ? 32 : 64) ? "" : "a format with a defect still describes entries";
        }
        for (unsigned level = 0; level <= 7; ++level) {
            for (const kind k : {kind::table, kind::leaf}) {
                const expected e = level >= 1 && level <= 5 ? entry(level, k, f) : absent(f.levels == 2 ? 32 : 64);
                if (std::string found = difference(format, level, k, e); !found.empty()) return found;
            }
        }
        return {};
    }

private:
    using prepared = std::vector<part>[6][2];

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

/// The names of an ordinary entry, as constants of the type and as found at run time.
template <class Static>
void check_names(const x86_fields& f)
{
    CHECK(Static::present == f.present);
    CHECK(Static::write == f.write);
    CHECK(Static::user == f.user);
    CHECK(Static::write_through == f.write_through);
    CHECK(Static::cache_disable == f.cache_disable);
    CHECK(Static::page_size == f.page_size);
    CHECK(Static::pat == f.pat);
    CHECK(Static::pat_large == f.pat_large);
    CHECK(Static::global == f.global);
    CHECK(Static::restart == f.restart);
    CHECK(Static::protection_key == f.protection_key);
    CHECK(Static::execute_disable == f.execute_disable);
    CHECK(Static::encryption == f.encryption);
}

/// Whether one of these arguments, called by a template, makes a constant expression: a
/// broken precondition does not.
template <auto Call>
concept constant_expression = requires { typename std::bool_constant<(static_cast<void>(Call()), true)>; };

}  // namespace manual
