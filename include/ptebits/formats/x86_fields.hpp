// SPDX-License-Identifier: BSL-1.0
// The named fields of ordinary and nested paging's entries, what their values mean, and the PAT.
#pragma once

#include <cstdint>

#include <ptebits/layout.hpp>

namespace ptebits {

/// How memory is cached. The numbers are those of the PAT, of MTRRs and of EPT.
/// Intel SDM volume 3, "Page Attribute Table"; AMD APM volume 2, "Memory Types".
enum class memory_type : std::uint8_t {
    uc = 0,        ///< uncacheable
    wc = 1,        ///< write-combining
    reserved = 2,  ///< none: what no register may hold
    wt = 4,        ///< write-through
    wp = 5,        ///< write-protected
    wb = 6,        ///< write-back
    uc_minus = 7,  ///< PAT only: uncacheable, where the MTRR does not say write-combining
    cd = 8,        ///< AMD, in no register: uncacheable, and other caches are probed
    wc_plus = 9,   ///< AMD, in no register: write-combining, and other caches are probed
};

[[nodiscard]] constexpr const char* name(memory_type t) noexcept
{
    constexpr const char* names[] = {"UC", "WC", "reserved", "reserved", "WT", "WP", "WB", "UC-", "CD", "WC+"};
    return detail::word_of(names, static_cast<unsigned>(t));
}

/// What the PAT MSR holds after reset. Intel SDM volume 3, "Programming the PAT".
inline constexpr std::uint64_t pat_after_reset = 0x0007'0406'0007'0406;

/// Memory type of an index into a PAT; reserved where its byte is no type. Precondition: index < 8.
[[nodiscard]] constexpr memory_type pat_type(std::uint64_t pat, unsigned index) noexcept
{
    const std::uint64_t byte = pat >> 8 * (index & 7) & 0xff;
    return byte > 7 || byte == 3 ? memory_type::reserved : static_cast<memory_type>(byte);
}

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
    entry_field encryption;       ///< C: set if encrypted
    entry_field shared;           ///< TDX: set if shared; part of the address
    entry_field key_id;           ///< key identifier of memory encryption

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
        if (named == &fields::encryption) return set ? "encrypted" : "not encrypted";
        if (named == &fields::shared) return set ? "shared" : "private";
        if (named == &fields::key_id) return "key identifier";
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

/// Memory type of a PAT index after reset. Precondition: index < 8.
constexpr const char* pat_type_after_reset(unsigned index) noexcept { return name(pat_type(pat_after_reset, index)); }

}  // namespace ptebits
