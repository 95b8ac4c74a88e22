// SPDX-License-Identifier: BSL-1.0
// The named fields of ordinary and nested paging's entries, and what their values mean.
#pragma once

#include <cstdint>

#include <ptebits/layout.hpp>

namespace ptebits {

struct x86_fields;
[[nodiscard]] constexpr unsigned pat_index(std::uint64_t entry, const layout& l, const x86_fields& named) noexcept;
[[nodiscard]] constexpr const char* pat_type_after_reset(unsigned index) noexcept;

/// The named fields of an ordinary entry. A field is empty where the features lack it.
struct x86_fields {
    entry_field present;
    entry_field write;
    entry_field user;
    entry_field write_through;    ///< PWT
    entry_field cache_disable;    ///< PCD
    entry_field page_size;        ///< PS: set in a large leaf
    entry_field pat;              ///< of a 4-Kbyte leaf
    entry_field pat_large;        ///< of a large leaf
    entry_field global;           ///< G
    entry_field restart;          ///< R, with HLAT
    entry_field protection_key;   ///< four bits
    entry_field execute_disable;  ///< XD, AMD's NX
    entry_field encryption;       ///< C

    /// What a value of a named field means, "" if its role says it all.
    static constexpr const char* meaning(entry_field x86_fields::* named, std::uint64_t value) noexcept
    {
        using fields = x86_fields;
        const bool set = value != 0;
        if (named == &fields::present) return set ? "present" : "not present";
        if (named == &fields::write_through) return set ? "PAT index +1" : "PAT index +0";
        if (named == &fields::cache_disable) return set ? "PAT index +2" : "PAT index +0";
        if (named == &fields::pat || named == &fields::pat_large) return set ? "PAT index +4" : "PAT index +0";
        if (named == &fields::user) return set ? "user and supervisor" : "supervisor only";
        if (named == &fields::global) return set ? "global" : "not global";
        if (named == &fields::restart) return set ? "HLAT walk restarts" : "HLAT walk goes on";
        if (named == &fields::protection_key) return "protection key";
        if (named == &fields::encryption) return set ? "encryption bit set" : "encryption bit clear";
        return "";
    }

    /// The memory type, in a line of its own. Intel SDM volume 3, "Page Attribute Table".
    template <class Writer>
    static constexpr void describe_more(Writer& out, std::uint64_t entry, const layout& l, const x86_fields& named)
    {
        const unsigned index = pat_index(entry, l, named);
        out.put("memory type: PAT index ").decimal(index).put(", after reset ").put(pat_type_after_reset(index));
        out.end_line();
    }
};

/// Index into the PAT of the memory type of an ordinary or nested entry.
constexpr unsigned pat_index(std::uint64_t entry, const layout& l, const x86_fields& named) noexcept
{
    const std::uint64_t typed = entry & l.mask(role::memory_type);  // PAT's bit has other uses at other levels
    return static_cast<unsigned>(named.write_through.get(typed) + 2 * named.cache_disable.get(typed) +
                                 ((typed & (named.pat.mask() | named.pat_large.mask())) != 0 ? 4 : 0));
}

/// Memory type of a PAT index after reset. Precondition: index < 8. Intel SDM volume 3, "Page Attribute Table".
constexpr const char* pat_type_after_reset(unsigned index) noexcept
{
    constexpr const char* types[] = {"WB", "WT", "UC-", "UC"};
    return types[index % 4];
}

}  // namespace ptebits
