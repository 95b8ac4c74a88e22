// SPDX-License-Identifier: BSL-1.0
// Recorded walks: one access, the entries before it, and what an emulated MMU made of it.
//
// A recorded outcome must be the library's exactly. Where an emulator departs from the
// manuals, or the manuals leave something open, an exception below says so: a rule over
// both outcomes, tried only after they were found to differ, counted where it was needed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/text.hpp>
#include <ptebits/walk.hpp>
#include <ptebits/x86.hpp>

#include "report.hpp"

namespace replay {

using namespace ptebits;

/// Entries by level; nothing where the record has a '-'.
using level_entries = std::array<std::optional<std::uint64_t>, max_levels + 1>;

enum class ending : std::uint8_t { ok, page_fault, general_protection, nested_fault, violation, misconfig, other };

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
    bool accessed_dirty = false;
    std::uint64_t capabilities = 0;  ///< IA32_VMX_EPT_VPID_CAP
    std::uint64_t root = 0;
};

/// The access and the entries of one line.
struct vector_case {
    char letter = 0;
    ptebits::memory_access what;
    cpu_controls cpu;
    bool nxe = true;
    std::uint64_t address = 0;
    level_entries before{};
};

/// What an emulator does unlike the manuals, in one walk.
struct quirks {
    bool gigabyte_pages = false;                          ///< it has 1-Gbyte pages although the CPU has none
    bool pdpte_faults = false;                            ///< reserved bits of a PDPTE are a #PF
    std::array<std::uint64_t, max_levels + 1> ignored{};  ///< bits of the entry at a level that it does not look at
};

/// The memory of one case: the recorded entries, nothing else.
template <slot_word Word>
class case_memory {
public:
    case_memory(const header& head, const vector_case& c, const quirks& q)
    {
        // Places by the manuals' figures; what the library derives from its rows is under test.
        const bool narrow = head.levels == 2;
        const std::uint64_t address_bits = narrow ? 0xffff'f000 : 0xf'ffff'ffff'f000;
        std::uint64_t table = head.root;
        for (unsigned level = head.levels; level >= 1; --level) {
            if (!c.before[level]) continue;
            const std::uint64_t entry = *c.before[level] & ~q.ignored[level];
            const unsigned index_bits = narrow ? 10 : head.levels == 3 && level == 3 ? 2 : 9;
            const std::uint64_t index = c.address >> (12 + (narrow ? 10 : 9) * (level - 1)) & ones(index_bits - 1, 0);
            slots_[level] = {true, table + index * sizeof(Word), static_cast<Word>(entry)};
            table = entry & address_bits;
        }
    }

    [[nodiscard]] Word* operator()(std::uint64_t physical)
    {
        for (slot& s : slots_) {
            if (s.used && s.address == physical) return &s.value;
        }
        return nullptr;
    }

    [[nodiscard]] level_entries entries(const quirks& q, const vector_case& c) const
    {
        level_entries all;
        for (unsigned level = 1; level <= max_levels; ++level) {
            if (slots_[level].used) all[level] = slots_[level].value | (*c.before[level] & q.ignored[level]);
        }
        return all;
    }

private:
    struct slot {
        bool used = false;
        std::uint64_t address = 0;
        Word value = 0;
    };
    std::array<slot, max_levels + 1> slots_{};
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

/// The outcome of a case by the library.
template <slot_word Word, class Format>
[[nodiscard]] walked run(const header& head, const vector_case& c, const quirks& q, const Format& format)
{
    case_memory<Word> memory(head, c, q);
    walked w;
    w.result = walk(format, head.root, c.address, c.what, c.cpu, memory, update_flags::yes, plain_access{});
    const walk_result& r = w.result;
    w.ended.after = memory.entries(q, c);
    w.ended.code = fault_code(r, c.what, c.cpu, format);
    w.ended.address = c.address;
    switch (r.fault) {
    case fault_kind::none:
        w.ended.how = ending::ok;
        w.ended.code = 0;
        w.ended.address = r.address;
        break;
    case fault_kind::not_present:
    case fault_kind::protection:
    case fault_kind::reserved_bits:
        w.ended.how = head.over == header::tables::ordinary ? ending::page_fault
                      : head.over == header::tables::nested ? ending::nested_fault
                                                            : ending::violation;
        if (head.over == header::tables::extended) w.ended.address = 0;
        break;
    case fault_kind::misconfiguration:
        w.ended.how = ending::misconfig;
        w.ended.code = w.ended.address = 0;
        break;
    case fault_kind::pdpte_reserved:
        w.ended.how = ending::general_protection;
        w.ended.code = w.ended.address = 0;
        break;
    case fault_kind::access_flag:
    case fault_kind::address_size:
    case fault_kind::not_canonical:
    case fault_kind::address_too_wide:
    case fault_kind::memory_absent:
        break;
    }
    // CR3 is loaded before anything is walked.
    if constexpr (sizeof(Word) == 8) {
        if (head.over == header::tables::ordinary && head.levels == 3) {
            const bool refused = static_cast<bool>(check_pdptes(format, head.root, memory, plain_access{}));
            if (refused != (w.ended.how == ending::general_protection)) w.ended.how = ending::other;
        }
    }
    return w;
}

/// Whether two formats have the same layouts and rules.
template <entry_format A, entry_format B>
[[nodiscard]] bool same_format(const A& a, const B& b)
{
    if (a->shape().levels != b->shape().levels || a->modes_apart() != b->modes_apart()) return false;
    for (unsigned level = 1; level <= max_levels; ++level) {
        for (const kind k : {kind::none, kind::table, kind::leaf, kind::run}) {
            const layout& of_a = a->layout_at(level, k);
            const layout& of_b = b->layout_at(level, k);
            if (a->exists(level, k) != b->exists(level, k) || of_a.denying != of_b.denying) return false;
            if (of_a.value != of_b.value || of_a.pieces[0] != of_b.pieces[0] || of_a.pieces[1] != of_b.pieces[1]) {
                return false;
            }
            for (unsigned r = 0; r < role_count; ++r) {
                if (of_a.masks[r] != of_b.masks[r]) return false;
            }
        }
    }
    const auto& rules = b->combinations();
    const auto* other = std::begin(rules);
    for (const combination& c : a->combinations()) {
        if (c.breaks != other->breaks || c.mask != other->mask || c.value != other->value) return false;
        ++other;
    }
    return true;
}

/// Formats of constants under features that the files have. Cases of other features are
/// walked by the run-time format alone.
template <class Features>
struct twins;
[[nodiscard]] constexpr shadow_features amd_features(unsigned levels, bool nxe)
{
    return {
        .levels = levels, .physical_bits = 40, .execute_disable = nxe, .global_pages = false, .reserved_bit_8 = true};
}
template <>
struct twins<shadow_features> {
    template <shadow_features F>
    using of = constant_format<shadow_description, F>;
    using all = std::tuple<of<amd_features(4, true)>, of<amd_features(4, false)>, of<amd_features(5, true)>,
                           of<amd_features(3, true)>, of<amd_features(2, false)>>;
};
template <>
struct twins<npt_features> {
    template <npt_features F>
    using of = constant_format<npt_description, F>;
    using all = std::tuple<of<npt_features{.physical_bits = 40}>,
                           of<npt_features{.physical_bits = 40, .execute_disable = false}>>;
};
template <>
struct twins<ept_features> {
    template <ept_features F>
    using of = constant_format<ept_description, F>;
    using all = std::tuple<of<ept_features{.physical_bits = 40}>,
                           of<ept_features{.physical_bits = 40, .accessed_dirty = false}>>;
};

/// Walks the cases of one file, by its features with and without NXE and 1-Gbyte pages.
template <class Features>
class walker {
public:
    using format = runtime_format<typename Features::description>;

    walker(const header& head, const Features& features) : head_(head)
    {
        for (const bool nxe : {false, true}) {
            for (const bool gigabyte : {false, true}) {
                Features f = features;
                if constexpr (requires { f.execute_disable; }) f.execute_disable = nxe;
                f.gigabyte_pages = gigabyte || head.gigabyte_pages;
                formats_.push_back(format_for(f));
                twins_.push_back(twin_of(formats_.back(), std::type_identity<typename twins<Features>::all>{}));
            }
        }
    }

    [[nodiscard]] const flaw& wrong() const { return formats_.front()->wrong(); }

    [[nodiscard]] walked run_time(const vector_case& c, const quirks& q) const
    {
        const format& f = formats_[index_of(c, q)];
        return head_.levels == 2 ? run<std::uint32_t>(head_, c, q, f) : run<std::uint64_t>(head_, c, q, f);
    }

    /// Walks by a constant format of the same masks, if there is one: whether it did what the
    /// run-time format did. Nothing if there is none.
    [[nodiscard]] std::optional<bool> twin_agrees(const vector_case& c, const walked& expected) const
    {
        const twin by_constants = twins_[index_of(c, {})];
        return by_constants != nullptr ? std::optional(by_constants(head_, c, expected)) : std::nullopt;
    }

private:
    using twin = bool (*)(const header&, const vector_case&, const walked&);

    [[nodiscard]] static std::size_t index_of(const vector_case& c, const quirks& q)
    {
        return c.nxe * 2U + q.gigabyte_pages;
    }

    template <class Constant>
    static bool constant_agrees(const header& head, const vector_case& c, const walked& expected)
    {
        constexpr bool narrow = Constant
        {
        } -> shape().entry_bits == 32;
        const walked w = run<std::conditional_t<narrow, std::uint32_t, std::uint64_t>>(head, c, {}, Constant{});
        return w.ended == expected.ended && same(w.result, expected.result);
    }

    template <class... Constants>
    [[nodiscard]] static twin twin_of(const format& f, std::type_identity<std::tuple<Constants...>>)
    {
        twin found = nullptr;
        ((found = (found == nullptr && same_format(Constants{}, f)) ? &constant_agrees<Constants> : found), ...);
        return found;
    }

    header head_;
    std::vector<format> formats_;
    std::vector<twin> twins_;
};

/// Both sides of a comparison, as the exceptions see and change them.
struct comparison {
    const header& head;
    const vector_case& c;
    outcome recorded;
    walked library;
    quirks emulator;
};

/// One exception: returns whether it applies, after changing one side accordingly.
/// A changed `emulator` makes the library walk again.
struct exception {
    unsigned number;
    bool (*apply)(comparison&);
};

// Bits by the manuals' figures.
inline constexpr std::uint64_t pdpte_reserved_low = 0x1e6;
inline constexpr std::uint64_t pdpte_bit_5 = 0x20;

inline bool is_fault(const outcome& o) { return o.how != ending::ok && o.how != ending::other; }
inline bool is_fault_with_code(const outcome& o)
{
    return o.how == ending::page_fault || o.how == ending::nested_fault;
}

inline constexpr exception exceptions[] = {
    // After a fault A may or may not be set, in the entries that were read; D never.
    {1,
     [](comparison& x) {
         if (!is_fault(x.recorded) || !is_fault(x.library.ended)) return false;
         const std::uint64_t a = x.head.over != header::tables::extended ? 0x20 : x.head.accessed_dirty ? 0x100 : 0;
         bool changed = false;
         for (unsigned i = 0; i < x.library.result.steps; ++i) {
             const unsigned level = x.library.result.level_of(i);
             auto& theirs = x.recorded.after[level];
             const auto& ours = x.library.ended.after[level];
             if (!theirs || !ours || *theirs == *ours || *theirs != (*ours | a)) continue;
             theirs = ours;
             changed = true;
         }
         return changed;
     }},
    // QEMU: a fault for reserved bits has P = 0.
    {2,
     [](comparison& x) {
         if (!x.head.qemu || !is_fault_with_code(x.recorded) || (x.recorded.code & 0x9) != 0x8) return false;
         x.recorded.code |= 1;
         return true;
     }},
    // QEMU: 1-Gbyte leaves also where the CPU has none.
    {3,
     [](comparison& x) {
         const walk_result& r = x.library.result;
         const bool applies = x.head.qemu && !x.head.gigabyte_pages && !x.emulator.gigabyte_pages &&
                              r.fault == fault_kind::reserved_bits && r.level == 3 && (r.bits & 0x80) != 0;
         x.emulator.gigabyte_pages = x.emulator.gigabyte_pages || applies;
         return applies;
     }},
    // QEMU sets bit 5 in PAE's top entries, and knows no #GP for their reserved bits: it
    // ignores the low ones, the high ones are a page fault to it.
    {4,
     [](comparison& x) {
         if (!x.head.qemu || x.head.over != header::tables::ordinary || x.head.levels != 3) return false;
         if (x.library.ended.how == ending::general_protection && x.emulator.ignored[3] == 0) {
             x.emulator.ignored[3] = pdpte_reserved_low;
             return true;
         }
         if (x.library.ended.how == ending::general_protection && !x.emulator.pdpte_faults) {
             x.emulator.pdpte_faults = true;
             return true;
         }
         auto& theirs = x.recorded.after[3];
         const auto& ours = x.library.ended.after[3];
         if (!theirs || !ours || *theirs == *ours || *theirs != (*ours | pdpte_bit_5)) return false;
         theirs = ours;
         return true;
     }},
    // Both accept bit 8 of level 4 and 5 on AMD models.
    {5,
     [](comparison& x) {
         const walk_result& r = x.library.result;
         const bool applies =
             x.head.amd && r.fault == fault_kind::reserved_bits && r.level >= 4 && (r.bits & 0x100) != 0;
         if (applies) x.emulator.ignored[r.level] |= 0x100;
         return applies;
     }},
    // EXITINFO1's fetch bit with the host's NXE off: open.
    {6,
     [](comparison& x) {
         const bool both = x.recorded.how == ending::nested_fault && x.library.ended.how == ending::nested_fault;
         const std::uint64_t fetch = std::uint64_t{1} << 4;
         if (!both || x.c.nxe || x.c.letter != 'X' || ((x.recorded.code ^ x.library.ended.code) & fetch) == 0) {
             return false;
         }
         x.recorded.code ^= fetch;
         return true;
     }},
    // Bochs: bit 12 of a large EPT leaf is not reserved.
    {7,
     [](comparison& x) {
         const walk_result& r = x.library.result;
         const bool large = r.steps != 0 && (r.level == 2 || r.level == 3) && (r.path[r.steps - 1].entry & 0x80) != 0;
         const bool applies = !x.head.qemu && r.fault == fault_kind::misconfiguration && large &&
                              r.broken == rule::reserved_bits && (r.bits & 0x1000) != 0;
         if (applies) x.emulator.ignored[r.level] |= 0x1000;
         return applies;
     }},
    // Bochs: an access to a guest's table with EPT A/D is a write only.
    {8,
     [](comparison& x) {
         const bool applies = !x.head.qemu && x.recorded.how == ending::violation && x.c.letter == 'T' &&
                              x.head.accessed_dirty && (x.recorded.code & 3) == 2;
         if (applies) x.recorded.code |= 1;
         return applies;
     }},
    // The read bit of a read-modify-write's qualification: open.
    {9,
     [](comparison& x) {
         const bool both = x.recorded.how == ending::violation && x.library.ended.how == ending::violation;
         if (!both || x.c.letter != 'M' || ((x.recorded.code ^ x.library.ended.code) & 1) == 0) return false;
         x.recorded.code ^= 1;
         return true;
     }},
};

/// Reads a file of vectors and replays it, line by line.
class vector_file {
public:
    vector_file(const std::string& file, report& to) : file_(file), report_(to) {}

    void replay()
    {
        for_each_line(file_, [this](std::string_view text, std::size_t line) {
            words w(file_, line, text);
            if (!text.starts_with('#')) {
                if (cases_++ == 0) end_header(w);
                take_case(w, text, line);
            } else if (cases_ == 0) {
                take_header(text.substr(1), line);
            }
        });
        if (cases_ == 0) malformed(file_, 1, "no case in the file");
    }

private:
    void take_header(std::string_view text, std::size_t line)
    {
        words w(file_, line, text);
        while (!w.rest().empty()) {
            const std::string_view word = w.word();
            if (word.starts_with("emulator=") || word == "emulator:") {
                // The rest is the emulator's name, version and command.
                const std::string_view name = word == "emulator:" ? w.rest() : word.substr(word.find('=') + 1);
                facts_.try_emplace("emulator", name.substr(0, name.find(' ')));
                return;
            }
            const std::size_t equals = word.find('=');
            if (equals != word.npos) facts_.try_emplace(std::string(word.substr(0, equals)), word.substr(equals + 1));
        }
    }

    [[nodiscard]] const std::string& need(const words& w, const std::string& key) const
    {
        const auto found = facts_.find(key);
        if (found == facts_.end()) w.fail("the header lacks " + key + '=');
        return found->second;
    }
    [[nodiscard]] bool need_flag(const words& w, const std::string& key) const
    {
        const std::string& text = need(w, key);
        if (text != "0" && text != "1") w.fail("the header's " + key + " is not 0 or 1");
        return text == "1";
    }
    [[nodiscard]] std::uint64_t need_number(const words& w, const std::string& key) const
    {
        std::string_view text = need(w, key);
        if (text.starts_with("0x")) text.remove_prefix(2);
        return w.hexadecimal(text);
    }

    void end_header(const words& w)
    {
        const std::string& emulator = need(w, "emulator");
        if (emulator != "QEMU" && emulator != "Bochs") w.fail("the emulator is neither QEMU nor Bochs");
        head_.qemu = emulator == "QEMU";
        const auto width = ptimg::number<unsigned>(need(w, "maxphyaddr"), 10);
        if (!width) w.fail("the header's maxphyaddr is not a decimal number");
        head_.physical_bits = *width;

        if (facts_.contains("ia32_vmx_ept_vpid_cap")) {
            head_.over = header::tables::extended;
            head_.capabilities = need_number(w, "ia32_vmx_ept_vpid_cap");
            head_.accessed_dirty = need_flag(w, "ept_ad");
            const std::uint64_t eptp = need_number(w, "eptp");
            head_.root = eptp & 0xf'ffff'ffff'f000;
            head_.levels = static_cast<unsigned>(eptp >> 3 & 7) + 1;
            head_.gigabyte_pages = (head_.capabilities >> 17 & 1) != 0;
            ept_.emplace(head_, ept_features{.levels = head_.levels,
                                             .physical_bits = head_.physical_bits,
                                             .accessed_dirty = head_.accessed_dirty,
                                             .execute_only = (head_.capabilities & 1) != 0,
                                             .large_pages = (head_.capabilities >> 16 & 1) != 0,
                                             .mode_based_execute = need_flag(w, "mbe")});
            if (ept_->wrong().what != defect::none) w.fail(name(ept_->wrong().what));
            return;
        }

        const std::string& mode = need(w, "mode");
        head_.root = need_number(w, "root");
        head_.amd = need(w, "vendor") == "AuthenticAMD";
        head_.gigabyte_pages = need_flag(w, "pdpe1gb");
        head_.pse36 = need_flag(w, "pse36");
        head_.pse = need_flag(w, "CR4.PSE");
        head_.global_pages = need_flag(w, "CR4.PGE");
        head_.protection_keys = need_flag(w, "CR4.PKE");
        if (mode == "npt" || mode == "nptg") {
            head_.over = header::tables::nested;
            npt_.emplace(head_, npt_features{.physical_bits = head_.physical_bits, .reserved_bit_8 = head_.amd});
            if (npt_->wrong().what != defect::none) w.fail(name(npt_->wrong().what));
            return;
        }
        if (mode == "lm5")
            head_.levels = 5;
        else if (mode == "lm4")
            head_.levels = 4;
        else if (mode == "pae")
            head_.levels = 3;
        else if (mode == "p32")
            head_.levels = 2;
        else
            w.fail("unknown mode '" + mode + "'");
        shadow_.emplace(head_, shadow_features{.levels = head_.levels,
                                               .physical_bits = head_.physical_bits,
                                               .large_pages = head_.pse,
                                               .pse36 = head_.pse36,
                                               .global_pages = head_.global_pages,
                                               .protection_keys = head_.protection_keys,
                                               .reserved_bit_8 = head_.amd});
        if (shadow_->wrong().what != defect::none) w.fail(name(shadow_->wrong().what));
    }

    [[nodiscard]] ptebits::memory_access access_of(const words& w, char letter) const
    {
        ptebits::memory_access a;
        switch (letter) {
        case 'R':
            a.what = operation::read;
            return a;
        case 'W':
            a.what = operation::write;
            return a;
        case 'X':
            a.what = operation::fetch;
            return a;
        case 'M':
            if (head_.over != header::tables::extended) break;
            a.what = operation::read_write;
            return a;
        case 'T':
            if (head_.over == header::tables::ordinary) break;
            a.guest_table = true;
            a.what = head_.over == header::tables::nested ? operation::write
                     : head_.accessed_dirty               ? operation::read_write
                                                          : operation::read;
            return a;
        default:
            break;
        }
        w.fail("acc is none of the format's accesses");
    }

    [[nodiscard]] vector_case read_case(words& w) const
    {
        vector_case c;
        const std::string_view letter = w.value("acc=");
        if (letter.size() != 1) w.fail("acc is not one letter");
        c.letter = letter.front();
        c.what = access_of(w, c.letter);
        if (head_.over == header::tables::ordinary) {
            const std::string_view cpl = w.value("cpl=");
            if (cpl != "0" && cpl != "3") w.fail("cpl is not 0 or 3");
            c.what.user = cpl == "3";
        }
        if (head_.over == header::tables::nested) c.what.user = true;
        if (head_.over != header::tables::extended) {
            c.cpu.write_protect = w.flag("wp=");
            c.nxe = w.flag("nxe=");
        }
        if (head_.over == header::tables::ordinary) {
            c.cpu.smep = w.flag("smep=");
            c.cpu.smap = w.flag("smap=");
            c.cpu.alignment_check = w.flag("ac=");
        }
        c.address = w.number(head_.over == header::tables::ordinary ? "la=" : "gpa=");
        for (unsigned level = head_.over == header::tables::extended ? 4 : 5; level >= 1; --level) {
            const std::string_view text = w.value("e" + std::to_string(level) + "=");
            if (text == "-") continue;
            if (level > head_.levels) w.fail("an entry above the top level");
            c.before[level] = w.hexadecimal(text);
            if (head_.levels == 2 && *c.before[level] >> 32 != 0) w.fail("an entry of more than 32 bits");
        }
        if (!c.before[head_.levels]) w.fail("the top level has no entry");
        return c;
    }

    [[nodiscard]] outcome read_outcome(words& w, const vector_case& c) const
    {
        outcome o;
        const std::string_view word = w.word();
        const bool extended = head_.over == header::tables::extended;
        if (word == "ok") {
            o.how = ending::ok;
            o.address = w.number(extended ? "hpa=" : "pa=");
        } else if (word == "pf" && head_.over == header::tables::ordinary) {
            o.how = ending::page_fault;
            o.code = w.number("code=");
            o.address = w.number("cr2=");
        } else if (word == "gp" && head_.over == header::tables::ordinary) {
            o.how = ending::general_protection;
            o.code = w.number("code=");
        } else if (word == "npf" && head_.over == header::tables::nested) {
            o.how = ending::nested_fault;
            o.code = w.number("info1=");
            o.address = w.number("info2=");
        } else if (word == "violation" && extended) {
            o.how = ending::violation;
            o.code = w.number("qual=");
        } else if (word == "misconfig" && extended) {
            o.how = ending::misconfig;
        } else {
            w.fail("'" + std::string(word) + "' is no outcome of the format");
        }
        for (unsigned level = head_.levels; level >= 1; --level) {
            if (!extended && !c.before[level]) continue;
            const std::string_view text = w.value("a" + std::to_string(level) + "=");
            if ((text == "-") == c.before[level].has_value()) w.fail("entries before and after do not match");
            if (text != "-") o.after[level] = w.hexadecimal(text);
        }
        return o;
    }

    void take_case(words& w, std::string_view text, std::size_t line)
    {
        if (text.starts_with("eptp=")) return take_eptp(w, text, line);
        const vector_case c = read_case(w);
        if (w.word() != "->") w.fail("no -> behind the entries");
        const outcome recorded = read_outcome(w, c);
        w.end();
        if (shadow_) return judge(*shadow_, c, recorded, text, line);
        if (npt_) return judge(*npt_, c, recorded, text, line);
        judge(*ept_, c, recorded, text, line);
    }

    template <class Walker>
    void judge(const Walker& by, const vector_case& c, const outcome& recorded, std::string_view text, std::size_t line)
    {
        const walked first = by.run_time(c, {});
        if (const std::optional<bool> agrees = by.twin_agrees(c, first)) {
            ++report_.twins;
            if (!*agrees) return report_.fail(file_, line, text, "constant and run-time features disagree");
        }

        comparison x{head_, c, recorded, first, {}};
        std::array<bool, exception_count + 1> used{};
        // Each exception applies a few times at most: each time it removes one difference.
        while (x.recorded != x.library.ended) {
            bool any = false;
            for (const exception& e : exceptions) {
                if (x.recorded == x.library.ended || !e.apply(x)) continue;
                any = used[e.number] = true;
                x.library = by.run_time(c, x.emulator);
                if (x.emulator.pdpte_faults && x.library.ended.how == ending::general_protection) {
                    as_page_fault(x);
                }
            }
            if (!any) return report_.fail(file_, line, text, words_of(first.ended, first.result));
        }
        for (unsigned n = 1; n <= exception_count; ++n) report_.exceptions[n] += used[n];
        report_.pass();
    }

    static void as_page_fault(comparison& x)
    {
        x.library.ended.how = ending::page_fault;
        x.library.ended.address = x.c.address;
        x.library.ended.code = 9U | (x.c.what.writes() ? 2U : 0U) | (x.c.what.user ? 4U : 0U) |
                               (x.c.what.fetches() && (x.c.nxe || x.c.cpu.smep) ? 0x10U : 0U);
    }

    void take_eptp(words& w, std::string_view text, std::size_t line)
    {
        if (!ept_) w.fail("an EPTP in a file without EPT");
        const std::uint64_t eptp = w.number("eptp=");
        if (w.word() != "->") w.fail("no -> behind the EPTP");
        const std::string_view word = w.word();
        if (word != "ok" && word != "vmfail") w.fail("'" + std::string(word) + "' is no outcome of loading an EPTP");
        // VM-instruction error 7: VM entry with invalid control fields.
        const bool refused = word == "vmfail";
        if (refused && w.number("err=") != 7) w.fail("VM entry failed for another reason than control fields");
        w.end();
        const eptp_error found = check_eptp(eptp, head_.capabilities, head_.physical_bits);
        if ((found != eptp_error::none) == refused) return report_.pass();
        report_.fail(file_, line, text, "eptp_error " + std::to_string(static_cast<unsigned>(found)));
    }

    const std::string& file_;
    report& report_;
    std::map<std::string, std::string, std::less<>> facts_;
    header head_;
    std::size_t cases_ = 0;
    std::optional<walker<shadow_features>> shadow_;
    std::optional<walker<npt_features>> npt_;
    std::optional<walker<ept_features>> ept_;
};

}  // namespace replay
