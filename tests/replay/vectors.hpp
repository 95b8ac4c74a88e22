// SPDX-License-Identifier: BSL-1.0
// Recorded walks: one access, the entries before it, and what an emulated MMU made of it. A
// recorded outcome must be the library's exactly, but for the rules of rules.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <ptebits/text.hpp>
#include <ptebits/x86_registers.hpp>

#include "formats.hpp"
#include "outcomes.hpp"
#include "report.hpp"
#include "rules.hpp"

namespace replay {

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
            if (equals == word.npos) continue;
            std::string_view key = word.substr(0, equals);
            constexpr std::string_view cr4 = "CR4.";  // left out where it stands before the word ahead
            if (key.starts_with(cr4)) key.remove_prefix(cr4.size());
            facts_.try_emplace(std::string(key), word.substr(equals + 1));
        }
    }

    [[nodiscard]] const std::string& need(const words& w, const std::string& key) const
    {
        const auto found = facts_.find(key);
        if (found == facts_.end()) w.fail("the header lacks " + key + '=');
        return found->second;
    }
    /// A flag that is 0 in the header where each line has its own.
    [[nodiscard]] bool flag(const words& w, const std::string& key, bool if_absent) const
    {
        const auto found = facts_.find(key);
        if (found == facts_.end()) return if_absent;
        const std::string& text = found->second;
        if (text != "0" && text != "1" && text != "case") w.fail("the header's " + key + " is not 0, 1 or case");
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
        const auto width = numbers::parse<unsigned>(need(w, "maxphyaddr"), 10);
        if (!width) w.fail("the header's maxphyaddr is not a decimal number");
        head_.physical_bits = *width;

        if (facts_.contains("ia32_vmx_ept_vpid_cap")) {
            head_.over = header::tables::extended;
            head_.capabilities = need_number(w, "ia32_vmx_ept_vpid_cap");
            head_.accessed_dirty = flag(w, "ept_ad", false);
            head_.mode_based_execute = flag(w, "mbe", false);
            const std::uint64_t eptp = need_number(w, "eptp");
            head_.root = eptp & 0xf'ffff'ffff'f000;
            head_.levels = static_cast<unsigned>(eptp >> 3 & 7) + 1;
            head_.gigabyte_pages = (head_.capabilities >> 17 & 1) != 0;
            if (facts_.contains("spptp")) head_.sub_page_table = need_number(w, "spptp");
            ept_.emplace(head_);
            return;
        }

        const std::string& mode = need(w, "mode");
        head_.root = need_number(w, "root");
        head_.amd = facts_.contains("vendor") && need(w, "vendor") == "AuthenticAMD";
        head_.gigabyte_pages = flag(w, "pdpe1gb", true);
        head_.pse36 = flag(w, "pse36", true);
        head_.pse = flag(w, "PSE", true);
        head_.global_pages = flag(w, "PGE", false);
        head_.protection_keys = flag(w, "PKE", false);
        if (mode == "npt" || mode == "nptg") {
            head_.over = header::tables::nested;
            if (flag(w, "LA57", false)) head_.levels = 5;
            npt_.emplace(head_);
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
        shadow_.emplace(head_);
    }

    /// The access to a shadow stack that an instruction makes.
    [[nodiscard]] static operation shadow_stack_operation(const words& w, std::string_view letter, std::string_view op)
    {
        constexpr std::string_view loads[] = {"incssp", "ret"};
        constexpr std::string_view stores[] = {"call", "wrss", "wruss"};
        constexpr std::string_view tokens[] = {"rstorssp", "setssbsy", "clrssbsy"};
        const auto is_one_of = [op](const auto& names) { return std::ranges::find(names, op) != std::end(names); };
        if (letter == "SR" && is_one_of(loads)) return operation::read;
        if (letter == "SW" && is_one_of(stores)) return operation::write;
        if (letter == "SW" && is_one_of(tokens)) return operation::read_write;
        w.fail("acc= and op= make no access to a shadow stack");
    }

    /// Reads acc= and op=.
    void read_access(words& w, vector_case& c) const
    {
        const bool extended = head_.over == header::tables::extended;
        const bool ordinary = head_.over == header::tables::ordinary;
        const std::string_view letter = w.value("acc=");
        const std::string_view op = w.next_is("op=") ? w.value("op=") : "";
        ptebits::memory_access& a = c.what;
        c.address_is_told = op != "incssp";
        if (letter == "R") {
            a.what = operation::read;
        } else if (letter == "W") {
            a.what = operation::write;
        } else if (letter == "X") {
            a.what = operation::fetch;
        } else if (letter == "M" && extended) {
            a.what = operation::read_write;
        } else if (letter == "I" && ordinary) {
            a.what = operation::read;
            a.implicit = true;
        } else if (letter == "T" && !ordinary) {
            a.guest_table = true;
            a.what = !extended ? operation::write : head_.accessed_dirty ? operation::read_write : operation::read;
        } else if ((letter == "SR" || letter == "SW") && head_.over != header::tables::nested) {
            a.what = shadow_stack_operation(w, letter, op);
            a.shadow_stack = true;
        } else {
            w.fail("acc is none of the format's accesses");
        }
        c.letter = letter.front();
        if (ordinary || w.next_is("cpl=")) {
            const std::string_view cpl = w.value("cpl=");
            if (cpl != "0" && cpl != "3") w.fail("cpl is not 0 or 3");
            a.user = (cpl == "3" && !a.implicit) || op == "wruss";
        }
        if (head_.over == header::tables::nested) a.user = true;
    }

    /// Reads the controls between the access and the address.
    void read_controls(words& w, vector_case& c) const
    {
        c.on.gigabyte_pages = head_.gigabyte_pages;
        if (head_.over == header::tables::extended) {
            c.cpu.exit_information = (head_.capabilities >> 22 & 1) != 0;
            c.cpu.sub_page_table = head_.sub_page_table;
            if (w.next_is("gu=")) {
                c.what.user = w.flag("gu=");
                c.what.guest_writes = w.flag("gw=");
                c.what.guest_fetches = !w.flag("gnx=");
            }
            c.on.mode_based_execute = head_.mode_based_execute || w.optional_flag("mbe=");
            c.on.supervisor_shadow_stack = w.optional_flag("sss=");
            c.on.sub_page_write = w.optional_flag("spp=");
            c.on.suppress_ve = w.optional_flag("ve=");
            c.ve_area_is_busy = w.optional_flag("busy=");
            return;
        }
        c.cpu.write_protect = w.flag("wp=");
        c.on.nxe = w.flag("nxe=");
        if (head_.over == header::tables::nested) return;
        c.cpu.smep = w.flag("smep=");
        c.cpu.smap = w.flag("smap=");
        c.cpu.alignment_check = w.flag("ac=");
        c.on.shadow_stacks = w.optional_flag("cet=");
        c.on.user_keys = head_.protection_keys;
        if (w.next_is("pke=")) {
            c.on.user_keys = w.flag("pke=");
            c.cpu.pkru = read_rights(w, "pkru=");
            c.on.supervisor_keys = w.flag("pks=");
            c.cpu.pkrs = read_rights(w, "pkrs=");
        }
        c.cpu.lass = w.optional_flag("lass=");
    }

    [[nodiscard]] static std::uint32_t read_rights(words& w, std::string_view key)
    {
        const std::uint64_t rights = w.number(key);
        if (rights >> 32 != 0) w.fail(std::string(key) + " has more than 32 bits");
        return static_cast<std::uint32_t>(rights);
    }

    [[nodiscard]] vector_case read_case(words& w) const
    {
        vector_case c;
        read_access(w, c);
        read_controls(w, c);
        c.address = w.number(head_.over == header::tables::ordinary ? "la=" : "gpa=");
        for (unsigned level = head_.over == header::tables::extended ? 4 : 5; level >= 1; --level) {
            const std::string_view text = w.value("e" + std::to_string(level) + "=");
            if (text == "-") continue;
            if (level > head_.levels) w.fail("an entry above the top level");
            c.before[level] = w.hexadecimal(text);
            if (head_.levels == 2 && *c.before[level] >> 32 != 0) w.fail("an entry of more than 32 bits");
        }
        if (!c.before[head_.levels]) w.fail("the top level has no entry");
        for (unsigned level = 4; level >= 1 && w.next_is("s"); --level) {
            const std::string_view text = w.value("s" + std::to_string(level) + "=");
            if (text != "-") c.sub_pages[level] = w.hexadecimal(text);
        }
        return c;
    }

    [[nodiscard]] outcome read_outcome(words& w, const vector_case& c) const
    {
        outcome o;
        const std::string_view word = w.word();
        const bool extended = head_.over == header::tables::extended;
        if (word == "ok") {
            o.how = ending::ok;
            const std::string_view address = w.value(extended ? "hpa=" : "pa=");
            if (c.address_is_told == (address == "-")) w.fail("an address that the instruction does not show");
            if (c.address_is_told) o.address = w.hexadecimal(address);
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
        } else if (word == "misconfig" && extended) {
            o.how = ending::misconfig;
        } else if ((word == "violation" || word == "spp" || word == "ve") && extended) {
            o.how = word == "violation" ? ending::violation
                    : word == "spp"     ? ending::sub_page_event
                                        : ending::virtualization_exception;
            o.code = w.number("qual=");
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
    void judge(Walker& by, const vector_case& c, const outcome& recorded, std::string_view text, std::size_t line)
    {
        if (by.wrong(c.on).what != defect::none) malformed(file_, line, name(by.wrong(c.on).what));
        const walked first = by.run_time(c);
        if (const std::optional<bool> agrees = by.twin_agrees(c, first)) {
            ++report_.twins;
            if (!*agrees) return report_.fail(file_, line, text, "constant and run-time features disagree");
        }
        comparison x{head_, c, recorded, first, c};
        const rule_set used = reconcile(x, by);
        if (x.recorded != x.library.ended) return report_.fail(file_, line, text, words_of(first.ended, first.result));
        count(used);
        report_.pass();
    }

    /// Counts a case under each rule that is counted apart, and once under all others that it needed.
    void count(const rule_set& used)
    {
        std::string departures;
        for (std::size_t i = 0; i < used.size(); ++i) {
            if (!used[i]) continue;
            if (tolerances[i].apart) {
                report_.tolerate(tolerances[i].name);
                continue;
            }
            if (!departures.empty()) departures += '+';
            departures += tolerances[i].name;
        }
        if (!departures.empty()) report_.tolerate(departures);
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
