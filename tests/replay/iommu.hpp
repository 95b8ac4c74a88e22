// SPDX-License-Identifier: BSL-1.0
// Recorded accesses of a device through an emulated IOMMU: one access, the entries that it met, how it ended, and the
// entries after it. The library's outcome must be the recorded one exactly. What QEMU does otherwise than the manuals
// are rules here, and so is what the manuals leave open ("open-"): each says what becomes of an outcome.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <ptebits/amdvi_registers.hpp>
#include <ptebits/vtd_registers.hpp>

#include "image.hpp"
#include "report.hpp"

namespace replay::on_iommu {

using namespace ptebits;

/// Entries by level.
using entries_by_level = std::map<unsigned, std::uint64_t>;

/// One line: words key=value, an outcome, and words again.
struct recorded_line {
    bool writes = false;
    bool ok = false;
    std::uint64_t address = 0;
    std::map<std::string, std::string, std::less<>> said;
    entries_by_level before, after;

    recorded_line(words w, std::string_view text) : w_(text)
    {
        bool behind = false;
        for (std::string_view word = w.word(); !word.empty(); word = w.word()) {
            const std::size_t equals = word.find('=');
            if (word == "->") {
                const std::string_view how = w.word();
                if (how != "ok" && how != "fault") w.fail("no such outcome");
                ok = how == "ok";
                behind = true;
            } else if (equals == word.npos) {
                w.fail("no value");
            } else if (equals == 2 && (word[0] == 'e' || word[0] == 'a') && word[1] >= '1' && word[1] <= '6') {
                if (word.substr(3) == "-") continue;
                (word[0] == 'e' ? before : after)[static_cast<unsigned>(word[1] - '0')] = w.hexadecimal(word.substr(3));
            } else {
                said[std::string(word.substr(0, equals))] = std::string(word.substr(equals + 1));
            }
        }
        if (!behind) w.fail("no outcome");
        for (const auto& [level, entry] : before) {
            if (!after.contains(level)) w.fail("an entry is missing after the access");
        }
        writes = said["acc"] == "W";
        address = number(w, "iova");
    }
    [[nodiscard]] std::uint64_t number(const words& w, std::string_view key) const
    {
        const auto found = said.find(key);
        if (found == said.end()) w.fail("no " + std::string(key));
        return w.hexadecimal(found->second);
    }
    [[nodiscard]] std::string_view text() const { return w_; }

private:
    std::string_view w_;
};

/// The recorded entries, where the manuals have them; the pool of pages, whose words hold their own addresses; zeros.
class memory {
public:
    void put(unsigned level, std::uint64_t physical, std::uint64_t entry)
    {
        words_[physical] = entry;
        places_[level] = physical;
    }
    std::uint64_t* operator()(std::uint64_t physical)
    {
        const auto found = words_.find(physical);
        if (found != words_.end()) return &found->second;
        elsewhere_ = is_page(physical) ? 0x0ddc'0000'0000'0000 | physical : 0;
        return &elsewhere_;
    }
    [[nodiscard]] entries_by_level entries() const
    {
        entries_by_level all;
        for (const auto& [level, place] : places_) all[level] = words_.at(place);
        return all;
    }

private:
    static bool is_page(std::uint64_t physical)
    {
        const std::uint64_t gigabyte = physical >> 30, offset = physical & ones(29, 0);
        const bool held = gigabyte < 2 || (gigabyte >= 4 && gigabyte < 7);
        return held && offset >= 64 << 20 && offset < 80 << 20;
    }
    std::map<std::uint64_t, std::uint64_t> words_;
    std::map<unsigned, std::uint64_t> places_;
    std::uint64_t elsewhere_ = 0;
};

/// What the library makes of a line.
struct outcome {
    walk_result walked;
    std::uint64_t reason = 0;  ///< VT-d's
    entries_by_level after;
    bool twin = false;  ///< a constant format was asked, too
    bool same = true;   ///< and answers the same

    [[nodiscard]] std::string words() const
    {
        std::string text = walked ? "ok pa=" + ptimg::hex(walked.address) : "fault fr=" + ptimg::hex(reason);
        for (const auto& [level, entry] : after) text += " a" + std::to_string(level) + '=' + ptimg::hex(entry);
        return text + " (" + name(walked.fault) + ')';
    }
};

inline bool same(const walk_result& a, const walk_result& b)
{
    bool path = a.steps == b.steps;
    for (unsigned n = 0; path && n < a.steps; ++n) {
        path = a.path[n].slot_address == b.path[n].slot_address && a.path[n].entry == b.path[n].entry;
    }
    return path && a.fault == b.fault && a.level == b.level && a.address == b.address && a.bits == b.bits &&
           a.page_shift == b.page_shift && a.allowed == b.allowed && a.broken == b.broken;
}

/// Walks by a format known at run time, and by constants that have the same features.
template <auto... Constants, class Features, class Controls>
outcome walked(const recorded_line& c, const Features& f, std::uint64_t root, const Controls& controls,
               const memory& met)
{
    const device_access a{.what = c.writes ? operation::write : operation::read};
    outcome o;
    memory own = met;
    const auto format = format_for(f);
    o.walked = walk(format, root, c.address, a, controls, own);
    o.reason = fault_code(o.walked, a, controls, format).value;
    o.after = own.entries();
    [[maybe_unused]] const auto by_constant = [&](const auto& constant) {
        if (constant->features() != f) return;
        memory others = met;
        const walk_result r = walk(constant, root, c.address, a, controls, others);
        o.twin = true;
        o.same =
            same(r, o.walked) && others.entries() == o.after && fault_code(r, a, controls, constant).value == o.reason;
    };
    (by_constant(constant_format<typename Features::description, Constants>{}), ...);
    return o;
}

/// The same for VT-d, whose tables have 4 Kbytes: entries from the root down, by `bits` of physical addresses.
inline memory chain(const recorded_line& c, unsigned levels, std::uint64_t root, unsigned bits)
{
    memory m;
    std::uint64_t table = root;
    for (unsigned level = levels; level >= 1 && c.before.contains(level); --level) {
        const std::uint64_t entry = c.before.at(level);
        m.put(level, table + 8 * (c.address >> (3 + 9 * level) & 0x1ff), entry);
        table = entry & ones(bits - 1, 12);
    }
    return m;
}

class vector_file {
public:
    vector_file(const std::string& file, report& to) : file_(file), report_(to) {}

    /// Whether a file is one of these.
    [[nodiscard]] static bool is_one(const std::string& file)
    {
        std::ifstream in(file);
        std::string first;
        if (!std::getline(in, first)) return false;
        return first.find("intel-iommu") != first.npos || first.find("amd-iommu") != first.npos;
    }

    void replay()
    {
        for_each_line(file_, [this](std::string_view text, std::size_t line) {
            words w(file_, line, text);
            if (text.starts_with('#')) return take_header(w);
            ++cases_;
            const recorded_line c(w, text);
            if (said_.contains("efr")) return take_host(c, w, line);
            said_.contains("pgtt") ? take_first_stage(c, w, line) : take_second_stage(c, w, line);
        });
        if (cases_ == 0) malformed(file_, 1, "no case in the file");
    }

private:
    void take_header(words w)
    {
        for (std::string_view word = w.word(); !word.empty(); word = w.word()) {
            if (word == "emulator:") return;
            const std::size_t equals = word.find('=');
            if (equals != word.npos) said_.try_emplace(std::string(word.substr(0, equals)), word.substr(equals + 1));
        }
    }
    [[nodiscard]] const std::string& need(const words& w, std::string_view key) const
    {
        const auto found = said_.find(key);
        if (found == said_.end()) w.fail("the header lacks " + std::string(key));
        return found->second;
    }
    [[nodiscard]] unsigned decimal(const words& w, std::string_view key) const
    {
        const auto number = numbers::parse<unsigned>(need(w, key), 10);
        if (!number) w.fail("the header's " + std::string(key) + " is no decimal number");
        return *number;
    }
    [[nodiscard]] std::uint64_t hexadecimal(const words& w, std::string_view key) const
    {
        std::string_view text = need(w, key);
        if (text.starts_with("0x")) text.remove_prefix(2);
        return w.hexadecimal(text);
    }

    /// Counts a line, by the rules that made its outcome the recorded one; none where no rule does.
    void judge(const recorded_line& c, std::size_t line, const outcome& o, const std::optional<std::string>& rules)
    {
        report_.twins += o.twin ? 1 : 0;
        if (!o.same) return report_.fail(file_, line, c.text(), "constant and run-time features disagree");
        if (!rules) return report_.fail(file_, line, c.text(), o.words());
        if (!rules->empty()) report_.tolerate(*rules);
        report_.pass();
    }

    // ---- VT-d

    /// The tables by the context or PASID-table entry that was recorded, from the header. `pe`: bits 139:128 of it.
    [[nodiscard]] vtd_tables tables_of(const words& w, std::uint64_t pe = 0) const
    {
        const vtd_unit unit{hexadecimal(w, "cap"), hexadecimal(w, "ecap"), decimal(w, "haw")};
        const std::uint64_t root = hexadecimal(w, "root");
        const std::uint64_t width = decimal(w, "levels") - 2;
        if (need(w, "mode") == "legacy") return read_vtd_context(root | 1, width | 2 << 8, unit);
        const bool first = said_.contains("pgtt");
        const std::uint64_t words[3] = {1 | width << 2 | (first ? 1U << 6 : root | 2U << 6), 2, first ? root | pe : 0};
        return read_vtd_pasid_entry(words, unit);
    }

    /// Whether an outcome is the recorded one, with this reason of the library's.
    static bool is_recorded(const recorded_line& c, const words& w, const outcome& o, std::uint64_t reason)
    {
        if (o.after != c.after || static_cast<bool>(o.walked) != c.ok) return false;
        if (c.ok) return o.walked.address == c.number(w, "pa");
        return reason == c.number(w, "fr");
    }
    /// What the record of a fault tells beside the reason.
    static bool record_is_right(const recorded_line& c, const words& w)
    {
        return c.ok || (c.number(w, "fi") == (c.address & ~ones(11, 0)) && c.number(w, "t") == (c.writes ? 0 : 1));
    }

    /// The legacy reason that QEMU finds, which judges each entry as it comes: rights first, then reserved bits.
    [[nodiscard]] static std::uint64_t entry_by_entry(const outcome& o, const recorded_line& c, std::uint64_t otherwise)
    {
        const std::uint64_t right = c.writes ? 2 : 1;
        for (unsigned n = 0; n < o.walked.steps; ++n) {
            if ((o.walked.path[n].entry & right) == 0) return c.writes ? 5 : 6;
        }
        return otherwise;
    }
    /// Whether the one rule that is broken is that a table's entry has bit 11 or 62.
    [[nodiscard]] static bool only_open_bits(const walk_result& r)
    {
        constexpr std::uint64_t open = std::uint64_t{1} << 11 | std::uint64_t{1} << 62;
        const bool table = r.level > 1 && (r.level > 3 || (r.last_entry() & 0x80) == 0);
        return r.broken == rule::reserved_bits && table && (r.bits & ~open) == 0;
    }

    void take_second_stage(const recorded_line& c, const words& w, std::size_t line)
    {
        constexpr vtd_second_features legacy4{.physical_bits = 48, .coherent = false, .snoop_control = false};
        constexpr vtd_second_features legacy3{
            .levels = 3, .physical_bits = 39, .coherent = false, .snoop_control = false};
        constexpr vtd_second_features snoop4{.physical_bits = 48, .coherent = false};
        constexpr vtd_second_features scalable4{
            .physical_bits = 48, .scalable = true, .coherent = false, .snoop_control = false};
        const vtd_tables t = tables_of(w);
        if (t.stages != vtd_stages::second) w.fail("the context has no second stage");
        const vtd_second_features& f = t.second;
        const vtd_second_paging::controls& controls = t.second_controls;
        const std::uint64_t root = t.second_root;
        const memory met = chain(c, decimal(w, "levels"), root, decimal(w, "haw"));
        const outcome o = walked<legacy4, legacy3, snoop4, scalable4>(c, f, root, controls, met);
        std::optional<std::string> rules;
        if (!record_is_right(c, w)) return judge(c, line, o, rules);
        // QEMU has no reasons of its own for scalable mode: it records those of legacy mode.
        vtd_second_features old = f;
        old.scalable = false;
        const outcome by_legacy = walked(c, old, root, controls, met);
        const std::string in_legacy = f.scalable && !c.ok ? "legacy-reasons" : "";
        const auto add = [&](const std::string& rule) { return in_legacy.empty() ? rule : rule + '+' + in_legacy; };
        if (is_recorded(c, w, by_legacy, by_legacy.reason)) {
            const bool open = only_open_bits(o.walked);
            rules = open ? add("open-bits-of-tables") : in_legacy;
        } else if (is_recorded(c, w, by_legacy, entry_by_entry(o, c, by_legacy.reason))) {
            rules = add("open-order");
        } else if (f.scalable && o.walked.broken == rule::reserved_bits && o.walked.bits == 0x800) {
            // SNP in a leaf, though ECAP.SC is 0: let pass, in scalable mode.
            old.snoop_control = true;
            const outcome snooping = walked(c, old, root, controls, met);
            if (is_recorded(c, w, snooping, snooping.reason)) rules = add("snp-without-sc");
        }
        judge(c, line, o, rules);
    }

    void take_first_stage(const recorded_line& c, const words& w, std::size_t line)
    {
        constexpr vtd_first_features plain{.physical_bits = 48};
        constexpr vtd_first_features nxe{.physical_bits = 48, .execute_disable = true};
        const vtd_tables t = tables_of(w, c.number(w, "pe"));
        if (t.stages != vtd_stages::first) w.fail("the PASID-table entry has no first stage");
        vtd_first_features f = t.first;
        f.coherent = true;  // the unit says that it is not, and sets A and D: else each such line were reason 90
        const device_controls& controls = t.first_controls;
        const std::uint64_t root = t.first_root;
        const memory met = chain(c, decimal(w, "levels"), root, decimal(w, "haw"));
        const outcome o = walked<plain, nxe>(c, f, root, controls, met);
        if (!record_is_right(c, w)) return judge(c, line, o, {});
        const std::string rules = first_stage_rules(c, w, f, o, root, controls, met);
        judge(c, line, o, rules == "none" ? std::nullopt : std::optional(rules == "exact" ? "" : rules));
    }

    /// The rules that make the first stage's outcome the recorded one, "exact", or "none".
    [[nodiscard]] static std::string first_stage_rules(const recorded_line& c, const words& w, vtd_first_features f,
                                                       const outcome& o, std::uint64_t root,
                                                       const device_controls& controls, const memory& met)
    {
        if (is_recorded(c, w, o, o.reason)) return "exact";
        std::string names;
        outcome theirs = o;
        // Bit 63 without NXE: let pass.
        if (!f.execute_disable && o.walked.broken == rule::reserved_bits && o.walked.bits >> 63 != 0) {
            f.execute_disable = true;
            theirs = walked(c, f, root, controls, met);
            names = "+open-bit-63";
        }
        if (c.ok) {
            // A write's leaf with one of A and D set is left as it is.
            const unsigned level = theirs.walked.level;
            if (theirs.walked && theirs.after != c.after && c.writes) {
                const std::uint64_t flags = c.before.at(level) & 0x60;
                if (flags != 0x20 && flags != 0x40) return "none";
                theirs.after[level] = c.before.at(level);
                names += "+half-used-leaf";
            }
        } else {
            // Each entry is judged as it comes, and A set in those that passed.
            const outcome judged = entry_by_entry_first(theirs, c);
            if (judged.reason != theirs.reason) names += "+open-order";
            theirs.reason = judged.reason;
            bool marked = false;
            for (unsigned n = 0; n < judged.walked.steps; ++n) {
                const unsigned level = f.levels - n;
                const bool passed = n + 1 < judged.walked.steps;
                const std::uint64_t as_met = c.before.at(level);
                const std::uint64_t now = c.after.at(level);
                if (now != as_met && passed && now == (as_met | 0x20)) {
                    theirs.after[level] = now;
                    marked = true;
                }
            }
            if (marked) names += "+open-a-after-fault";
        }
        if (names.empty() || !is_recorded(c, w, theirs, theirs.reason)) return "none";
        return names.substr(1);
    }

    /// The same outcome, had each entry been judged as it came: P, U/S, R/W, reserved bits.
    [[nodiscard]] static outcome entry_by_entry_first(outcome o, const recorded_line& c)
    {
        walk_result& r = o.walked;
        for (unsigned n = 0; n < r.steps; ++n) {
            const std::uint64_t entry = r.path[n].entry;
            std::uint64_t reason = 0;
            if ((entry & 1) == 0) {
                reason = 0x71;
            } else if ((entry & 4) == 0) {
                reason = 0x81;
            } else if (c.writes && (entry & 2) == 0) {
                reason = 0x85;
            }
            if (reason == 0) continue;
            o.reason = reason;
            r.steps = static_cast<std::uint16_t>(n + 1);
            break;
        }
        return o;
    }

    // ---- AMD-Vi

    /// The entries from the root down, each in the table that the one above has the address of, whatever its level.
    [[nodiscard]] static memory amd_chain(const recorded_line& c, std::uint64_t device_entry)
    {
        memory m;
        std::uint64_t table = device_entry & ones(51, 12);
        for (unsigned level = max_levels; level >= 1; --level) {
            const auto entry = c.before.find(level);
            if (entry == c.before.end()) continue;
            m.put(level, table + 8 * (c.address >> (3 + 9 * level) & (level == 6 ? 0x7f : 0x1ff)), entry->second);
            table = entry->second & ones(51, 12);
        }
        return m;
    }

    /// Why QEMU lets an access pass that the manual refuses; none where it has no reason to.
    [[nodiscard]] static std::optional<std::string> let_pass(const walk_result& r)
    {
        const std::uint64_t next = r.last_entry() >> 9 & 7;
        const bool page = next == 0 || next == 7;
        switch (r.fault) {
        case fault_kind::not_present:
            if (r.last_entry() != 0 && page) return "absent-leaf";
            return {};
        case fault_kind::address_too_wide:
            return r.level == 0 ? "address-too-wide" : "skipped-bits";
        case fault_kind::reserved_bits:
            break;
        default:
            return {};
        }
        if (r.broken == rule::reserved_bits && (r.bits & ~ones(58, 52)) == 0) return "bits-58-52";
        if (r.level == 6 && page) return "page-at-level-6";
        if (r.broken == rule::page_size || (r.broken == rule::next_level && next == 7)) return "size-of-another-level";
        if (r.broken == rule::next_level || r.broken == rule::no_such_kind) return "level-not-below";
        return {};
    }

    void take_host(const recorded_line& c, const words& w, std::size_t line)
    {
        constexpr amdvi_host_features one{.levels = 1}, two{.levels = 2}, three{.levels = 3}, four{.levels = 4},
            five{.levels = 5}, six{.levels = 6};
        const std::uint64_t device_entry = c.number(w, "dte");
        const amdvi_tables t = read_amdvi_device_entry({device_entry, 2}, {.efr = hexadecimal(w, "efr")});
        outcome o;
        if (t.stages == amdvi_stages::host) {
            o = walked<one, two, three, four, five, six>(c, t.host, t.host_root, t.host_controls,
                                                         amd_chain(c, device_entry));
        } else {
            const bool passes =
                t.stages == amdvi_stages::unchecked ||
                (t.stages == amdvi_stages::pass_through && (c.writes ? t.host_controls.write : t.host_controls.read));
            o.after = amd_chain(c, device_entry).entries();
            o.walked.address = c.address;
            if (!passes) o.walked.fault = fault_kind::protection;
        }
        std::optional<std::string> rules;
        if (o.after == c.after && static_cast<bool>(o.walked) == c.ok) {
            if (!c.ok || o.walked.address == c.number(w, "pa")) rules = "";
        } else if (o.after == c.after && c.ok) {
            rules = (device_entry & 3) == 1 ? "v-without-tv" : let_pass(o.walked);
        }
        judge(c, line, o, rules);
    }

    const std::string& file_;
    report& report_;
    std::size_t cases_ = 0;
    std::map<std::string, std::string, std::less<>> said_;
};

}  // namespace replay::on_iommu
