// SPDX-License-Identifier: BSL-1.0
// One recorded access, the memory that it met, and what the library makes of both.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include <ptebits/walk.hpp>
#include <ptebits/x86.hpp>
#include <ptebits/x86_registers.hpp>

#include "image.hpp"

namespace replay {

using namespace ptebits;

/// Entries by level; nothing where the record has a '-'.
using level_entries = std::array<std::optional<std::uint64_t>, max_levels + 1>;

enum class ending : std::uint8_t {
    ok,
    page_fault,
    general_protection,
    nested_fault,
    violation,
    misconfig,
    sub_page_event,
    virtualization_exception,
    other
};

/// How an access ended.
struct outcome {
    ending how = ending::other;
    std::uint64_t code = 0;     ///< error code, EXITINFO1 or qualification
    std::uint64_t address = 0;  ///< the physical address reached; of a fault CR2 or EXITINFO2
    level_entries after{};

    [[nodiscard]] bool operator==(const outcome&) const = default;
};

[[nodiscard]] inline std::string words_of(const outcome& o, const walk_result& r)
{
    using ptimg::hex;
    std::string text;
    switch (o.how) {
    case ending::ok:
        text = "ok address=" + hex(o.address);
        break;
    case ending::page_fault:
        text = "pf code=" + hex(o.code) + " cr2=" + hex(o.address);
        break;
    case ending::general_protection:
        text = "gp code=" + hex(o.code);
        break;
    case ending::nested_fault:
        text = "npf info1=" + hex(o.code) + " info2=" + hex(o.address);
        break;
    case ending::violation:
        text = "violation qual=" + hex(o.code);
        break;
    case ending::misconfig:
        text = "misconfig";
        break;
    case ending::sub_page_event:
        text = "spp qual=" + hex(o.code);
        break;
    case ending::virtualization_exception:
        text = "ve qual=" + hex(o.code);
        break;
    case ending::other:
        text = "other";
        break;
    }
    for (unsigned level = max_levels; level >= 1; --level) {
        if (o.after[level]) text += " a" + std::to_string(level) + "=" + hex(*o.after[level]);
    }
    text += " (fault kind " + std::to_string(static_cast<unsigned>(r.fault)) + " at level " + std::to_string(r.level) +
            ", bits " + hex(r.bits) + ")";
    return text;
}

/// What a file's header tells.
struct header {
    enum class tables : std::uint8_t { ordinary, nested, extended } over = tables::ordinary;
    bool qemu = false;  ///< else Bochs
    bool amd = false;
    unsigned levels = 4;
    unsigned physical_bits = 0;
    bool gigabyte_pages = true;
    bool pse = true;
    bool pse36 = true;
    bool global_pages = false;
    bool protection_keys = false;
    bool mode_based_execute = false;
    bool accessed_dirty = false;
    std::uint64_t capabilities = 0;  ///< IA32_VMX_EPT_VPID_CAP
    std::uint64_t root = 0;
    std::uint64_t sub_page_table = 0;  ///< SPPTP
};

/// Features that may differ from line to line.
struct switches {
    bool gigabyte_pages = true;
    bool nxe = true;
    bool user_keys = false;
    bool supervisor_keys = false;
    bool shadow_stacks = false;
    bool mode_based_execute = false;
    bool supervisor_shadow_stack = false;
    bool sub_page_write = false;
    bool suppress_ve = false;

    [[nodiscard]] auto operator<=>(const switches&) const = default;
};

/// The access and the entries of one line.
struct vector_case {
    char letter = 0;  ///< of acc=; S for both accesses to shadow stacks
    ptebits::memory_access what;
    cpu_controls cpu;
    switches on;
    bool ve_area_is_busy = false;
    bool address_is_told = true;  ///< of an access that is allowed
    std::uint64_t address = 0;
    level_entries before{};
    level_entries sub_pages{};                            ///< of the sub-page permission table
    std::array<std::uint64_t, max_levels + 1> ignored{};  ///< bits of entries by level that are not looked at
};

/// The memory of one case: the recorded entries, nothing else.
template <slot_word Word>
class case_memory {
public:
    case_memory(const header& head, const vector_case& c)
    {
        // Places by the manuals' figures; what the library derives from its rows is under test.
        const bool narrow = head.levels == 2;
        const unsigned index_bits = narrow ? 10 : 9;
        const std::uint64_t address_bits = narrow ? 0xffff'f000 : 0xf'ffff'ffff'f000;
        const auto add = [&](std::uint64_t table, unsigned level, unsigned bits, std::uint64_t entry) -> slot& {
            const std::uint64_t index = c.address >> (12 + index_bits * (level - 1)) & ones(bits - 1, 0);
            return slots_[used_++] = {0, table + index * sizeof(Word), static_cast<Word>(entry)};
        };
        std::uint64_t table = head.root;
        for (unsigned level = head.levels; level >= 1; --level) {
            if (c.before[level]) {
                const std::uint64_t entry = *c.before[level] & ~c.ignored[level];
                add(table, level, head.levels == 3 && level == 3 ? 2 : index_bits, entry).level = level;
                table = entry & address_bits;
            } else if (table == 0) {
                add(table, level, index_bits, 0);  // page 0, which an entry of permissions alone names
            }
        }
        table = head.sub_page_table;
        for (unsigned level = 4; level >= 1 && c.sub_pages[level]; --level) {
            add(table, level, index_bits, *c.sub_pages[level]);
            table = *c.sub_pages[level] & address_bits;
        }
    }

    [[nodiscard]] Word* operator()(std::uint64_t physical)
    {
        for (unsigned i = 0; i < used_; ++i) {
            if (slots_[i].address == physical) return &slots_[i].value;
        }
        return nullptr;
    }

    [[nodiscard]] level_entries entries(const vector_case& c) const
    {
        level_entries all;
        for (unsigned i = 0; i < used_; ++i) {
            const unsigned level = slots_[i].level;
            if (level != 0) all[level] = slots_[i].value | (*c.before[level] & c.ignored[level]);
        }
        return all;
    }

private:
    struct slot {
        unsigned level = 0;  // 0: none whose entry is recorded after the access
        std::uint64_t address = 0;
        Word value = 0;
    };
    std::array<slot, max_levels + 4> slots_{};
    unsigned used_ = 0;
};

[[nodiscard]] inline bool same(const walk_result& a, const walk_result& b)
{
    bool path = a.steps == b.steps;
    for (unsigned i = 0; path && i < a.steps; ++i) {
        path = a.level_of(i) == b.level_of(i) && a.path[i].slot_address == b.path[i].slot_address &&
               a.path[i].entry == b.path[i].entry;
    }
    return path && a.fault == b.fault && a.level == b.level && a.address == b.address && a.page_shift == b.page_shift &&
           a.allowed == b.allowed && a.broken == b.broken && a.bits == b.bits && a.key_denies == b.key_denies;
}

/// An outcome and the walk that it came from.
struct walked {
    outcome ended;
    walk_result result;
};

/// How an access ends that the tables refuse.
template <class Format>
[[nodiscard]] ending refused(const header& head, const vector_case& c, const walk_result& r, const Format& format)
{
    if (head.over == header::tables::ordinary) return ending::page_fault;
    if (head.over == header::tables::nested) return ending::nested_fault;
    if constexpr (requires { raises_ve(r, c.ve_area_is_busy, format); }) {
        if (raises_ve(r, c.ve_area_is_busy, format)) return ending::virtualization_exception;
    }
    return ending::violation;
}

/// The outcome of a case by the library.
template <slot_word Word, class Format>
[[nodiscard]] walked run(const header& head, const vector_case& c, const Format& format)
{
    case_memory<Word> memory(head, c);
    walked w;
    w.result = walk(format, head.root, c.address, c.what, c.cpu, memory, update_flags::yes, plain_access{});
    const walk_result& r = w.result;
    w.ended.after = memory.entries(c);
    w.ended.code = fault_code(r, c.what, c.cpu, format).value;
    w.ended.address = head.over == header::tables::extended ? 0 : c.address;
    switch (r.fault) {
    case fault_kind::none:
        w.ended.how = ending::ok;
        w.ended.code = 0;
        w.ended.address = c.address_is_told ? r.address : 0;
        break;
    case fault_kind::not_present:
    case fault_kind::protection:
    case fault_kind::reserved_bits:
        w.ended.how = refused(head, c, r, format);
        break;
    case fault_kind::misconfiguration:
        w.ended.how = ending::misconfig;
        w.ended.code = 0;
        break;
    case fault_kind::sub_page_miss:
    case fault_kind::sub_page_misconfiguration:
        w.ended.how = ending::sub_page_event;
        break;
    case fault_kind::pdpte_reserved:
    case fault_kind::not_canonical:
    case fault_kind::wrong_half:
        w.ended.how = ending::general_protection;
        w.ended.code = w.ended.address = 0;
        break;
    case fault_kind::access_flag:
    case fault_kind::address_size:
    case fault_kind::address_too_wide:
    case fault_kind::not_a_root:
    case fault_kind::restart:
    case fault_kind::second_stage:
    case fault_kind::memory_absent:
        break;
    }
    // CR3 is loaded before anything is walked.
    if constexpr (sizeof(Word) == 8) {
        if (head.over == header::tables::ordinary && head.levels == 3) {
            const bool bad = static_cast<bool>(check_pdptes(format, head.root, memory, plain_access{}));
            if (bad != (w.ended.how == ending::general_protection)) w.ended.how = ending::other;
        }
    }
    return w;
}

}  // namespace replay
