// SPDX-License-Identifier: BSL-1.0
// The pages of a tree of tables, what one is, and how inspect writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include <ptebits/formats/x86_fields.hpp>
#include <ptebits/text.hpp>
#include <ptebits/visit.hpp>

#include "physical_memory.hpp"

namespace dump {

/// A page as a walk over its tables finds it, whether or not an entry breaks a rule.
struct mapped_page {
    std::uint64_t address = 0;
    std::uint64_t physical = 0;
    unsigned level = 0;
    unsigned page_shift = 0;
    std::uint64_t entry = 0;
    ptebits::permissions allowed;  ///< by all entries on the way

    [[nodiscard]] std::uint64_t last() const { return address + ptebits::ones(page_shift - 1, 0); }
};

/// Shows `found` every page of a range, in the order of addresses. `found` returns whether to go on. An entry that
/// breaks a rule is taken by what its bits say: so people find out why. A table that was found to map nothing is not
/// entered again, so that hostile tables, which refer to each other in many ways, do not keep it from ending.
template <class Format, class Found>
void for_each_page(const Format& format, std::uint64_t root, ptebits::inclusive_range range, physical_memory& memory,
                   const Found& found)
{
    using namespace ptebits;
    struct entered {
        std::uint64_t table = 0;
        std::uint64_t pages_before = 0;
        bool open = false;
    };
    entered way[max_levels + 1];
    permissions above[max_levels + 2];  // of the entries that lead to a table, by the level that refers to it
    std::set<std::pair<std::uint64_t, unsigned>> barren;
    std::uint64_t pages = 0;
    const bool whole = range.first == 0 && range.last == ~std::uint64_t{0};  // else a part of a table may be all seen
    visit(
        format, root, range, memory,
        [&](const auto& e) {
            for (unsigned level = 1; level < e.level; ++level) {  // tables that were left
                if (whole && way[level].open && way[level].pages_before == pages)
                    barren.emplace(way[level].table, level);
                way[level].open = false;
            }
            if (e.is == kind::none || !present(e.entry, format)) return visit_next::over;
            const permissions allowed = above[e.level + 1] & permissions_of(e.entry, e.level, format);
            const std::uint64_t physical = address_of(e.entry, e.level, format);
            if (e.is == kind::table) {
                const unsigned below = format->level_below(e.entry, e.level);
                if (barren.contains({physical, below})) return visit_next::over;
                above[e.level] = allowed;
                way[below] = {physical, pages, true};
                return visit_next::into;
            }
            ++pages;
            return found(mapped_page{e.address, physical, e.level, e.page_shift, e.entry, allowed}) ? visit_next::over
                                                                                                    : visit_next::stop;
        },
        nullptr, slot_order{});
}

/// Whether bits of a role are set in a page's leaf.
template <class Format>
[[nodiscard]] bool has(ptebits::role r, const mapped_page& page, const Format& format)
{
    return (page.entry & format->layout_at(page.level, ptebits::kind::leaf).mask(r)) != 0;
}

/// The memory type that a leaf asks for, of the PAT's where the format goes by one.
template <class Format>
[[nodiscard]] std::string memory_type_of(const mapped_page& page, const Format& format, std::uint64_t pat)
{
    using namespace ptebits;
    const layout& l = format->layout_at(page.level, kind::leaf);
    if constexpr (requires { format->ignore_pat; }) {
        return name(static_cast<memory_type>(format->memory_type.get(page.entry)));
    } else {
        return name(pat_type(pat, pat_index(page.entry, l, format->fields())));
    }
}

/// The leaf in nine places, as the monitor of QEMU has it: X no execution, G global, P large (or the third bit for
/// the PAT of a small page), D dirty, A accessed, C cache disable, T write-through, U user, W write.
template <class Format>
[[nodiscard]] std::string flags_of(const mapped_page& page, const Format& format)
{
    using namespace ptebits;
    const permissions leaf = permissions_of(page.entry, page.level, format);
    std::string flags;
    const auto add = [&](char letter, bool set) { flags += set ? letter : '-'; };
    const auto bit = [&](const auto& field) { return field.get(page.entry) != 0; };
    bool third = page.level > 1;
    bool global = false;
    bool disable = false;
    bool through = false;
    bool user = leaf.user_execute;
    if constexpr (requires { format->pat; }) {
        third = third || bit(format->pat);
        disable = bit(format->cache_disable);
        through = bit(format->write_through);
        user = bit(format->user);
    }
    if constexpr (requires { format->global; }) global = bit(format->global);
    add('X', !leaf.execute);
    add('G', global);
    add('P', third);
    add('D', has(role::dirty, page, format));
    add('A', has(role::accessed, page, format));
    add('C', disable);
    add('T', through);
    add('U', user);
    add('W', leaf.write);
    return flags;
}

// ---- text

/// A number in hexadecimal with leading zeros.
[[nodiscard]] inline std::string hex16(std::uint64_t value)
{
    std::string digits(16, '0');
    for (std::size_t at = digits.size(); at-- > 0; value >>= 4) digits[at] = "0123456789abcdef"[value & 15];
    return digits;
}

/// The size of pages by its log2: 4K, 2M, 1G.
[[nodiscard]] inline std::string size_of_page(unsigned page_shift)
{
    char text[16];
    ptebits::text_writer(text, sizeof text).page_size(page_shift).end();
    return text;
}

/// Bytes in the largest unit of which they are whole ones.
[[nodiscard]] inline std::string size_in_words(std::uint64_t bytes)
{
    unsigned unit = 0;
    while (unit < 6 && bytes != 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        ++unit;
    }
    return std::to_string(bytes) + "BKMGTPE"[unit];
}

/// What all entries on the way allow: user, read, write, execute.
[[nodiscard]] inline std::string rights_in_letters(const ptebits::permissions& p)
{
    const bool execute = p.user ? p.user_execute || p.execute : p.execute;
    return {p.user ? 'u' : '-', p.read ? 'r' : '-', p.write ? 'w' : '-', execute ? 'x' : '-'};
}

}  // namespace dump
