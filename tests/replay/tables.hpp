// SPDX-License-Identifier: BSL-1.0
// Page tables that real kernels built, held against what an independent source told of
// them: `ADDRESS PHYSADDR SIZE class touched-ever touched-since slot [flags]`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ptebits/walk.hpp>
#include <ptebits/x86.hpp>

#include "image.hpp"
#include "report.hpp"

namespace replay {

/// Replays one image: every line of its .expect is a case. So is a line `# info mem:` there,
/// the rights that an emulator derived from all levels.
class table_file {
public:
    table_file(const std::string& file, std::string expect, report& to)
        : file_(file), expect_(std::move(expect)), report_(to), image_(ptimg::read(file))
    {
    }

    void replay()
    {
        std::visit([this](const auto& features) { replay_as(ptebits::format_for(features)); }, image_.features);
    }

private:
    static constexpr std::uint64_t page_bytes = 4096;

    // An emulated MMU set bit 5 in PAE's top entries, where it is reserved.
    void clear_pdpte_bit_5()
    {
        const auto* const features = std::get_if<ptebits::shadow_features>(&image_.features);
        const bool qemu = image_.fact("emulator", "").starts_with("qemu");
        if (!qemu || features == nullptr || features->levels != 3) return;
        for (unsigned i = 0; i < 4; ++i) {
            std::uint64_t& entry = *image_.slot(image_.root + std::uint64_t{i} * 8);
            if ((entry & 0x21) != 0x21) continue;
            entry &= ~std::uint64_t{0x20};
            report_.tolerate("pdpte");
        }
    }

    template <class Format>
    void replay_as(const Format& format)
    {
        clear_pdpte_bit_5();
        std::size_t cases = 0;
        for_each_line(expect_, [&](std::string_view text, std::size_t line) {
            constexpr std::string_view rights = "# info mem: ";
            if (text.starts_with(rights)) return take_rights(text, text.substr(rights.size()), line, format);
            if (text.starts_with('#')) return;
            ++cases;
            take_case(text, line, format);
        });
        if (cases == 0) malformed(expect_, 1, "no case in the file");
    }

    template <class Format>
    [[nodiscard]] ptebits::walk_result walk(std::uint64_t address, ptebits::operation what, const Format& format)
    {
        using namespace ptebits;
        const ptebits::memory_access a{.what = what, .user = std::is_same_v<regime_of<Format>, nested_paging>};
        const auto at = [this, bytes = format->shape().entry_bytes()](std::uint64_t physical) {
            return bytes == image_.entry_bytes ? image_.slot(physical) : nullptr;
        };
        return ptebits::walk(format, image_.root, address, a, cpu_controls{}, at, update_flags::no, plain_access{});
    }

    struct expectation {
        std::uint64_t address = 0;
        std::uint64_t physical = 0;
        std::uint64_t size = 0;
        std::string_view kind;
        std::string_view touched_since;
        std::string_view flags;
    };

    [[nodiscard]] expectation parse(std::string_view text, std::size_t line) const
    {
        words w(expect_, line, text);
        expectation e;
        e.address = w.hexadecimal(w.word());
        e.physical = w.hexadecimal(w.word());
        e.size = w.hexadecimal(w.word());
        e.kind = w.word();
        if (e.kind == "tlb") {
            e.flags = w.word();
            if (e.flags.size() != 9) w.fail("flags are not nine letters");
        } else {
            const std::string_view ever = w.word();
            e.touched_since = w.word();
            if (ever.size() != 3 || e.touched_since.size() != 3) w.fail("touched is not three letters");
            if (w.word().empty()) w.fail("no slot");
            e.flags = w.word();
        }
        w.end();
        if (e.size == 0 || e.size % page_bytes != 0 || e.address % page_bytes != 0) w.fail("not whole pages");
        return e;
    }

    template <class Format>
    void take_case(std::string_view text, std::size_t line, const Format& format)
    {
        const expectation e = parse(text, line);
        for (std::uint64_t offset = 0; offset < e.size; offset += page_bytes) {
            const std::string wrong = e.kind == "tlb" ? check_tlb(e, offset, format) : check(e, offset, format, line);
            if (wrong.empty()) continue;
            return report_.fail(expect_, line, text, ptimg::hex(e.address + offset) + ": " + wrong);
        }
        report_.pass();
    }

    static std::string words_of(const ptebits::walk_result& r)
    {
        if (r) return "translates to " + ptimg::hex(r.address);
        return "fault kind " + std::to_string(static_cast<unsigned>(r.fault)) + " at level " + std::to_string(r.level);
    }

    /// What is wrong with the translation of one page; empty: nothing.
    template <class Format>
    [[nodiscard]] std::string check(const expectation& e, std::uint64_t offset, const Format& format, std::size_t line)
    {
        using namespace ptebits;
        const std::uint64_t address = e.address + offset;
        const walk_result first = walk(address, operation::read, format);
        const walk_result last = walk(address + page_bytes - 1, operation::read, format);
        const walk_result written = walk(address, operation::write, format);
        if (first.fault != last.fault || (first && last.address != first.address + page_bytes - 1)) {
            return words_of(first) + ", its last byte " + words_of(last);
        }
        const bool none = first.fault == fault_kind::not_present;
        const bool so = first && first.address == e.physical + offset;
        if (e.kind == "mmio") {
            // The marker, or nothing yet.
            const fault_kind marker = std::is_same_v<regime_of<Format>, extended_paging> ? fault_kind::misconfiguration
                                                                                         : fault_kind::reserved_bits;
            return none || first.fault == marker ? "" : words_of(first);
        }
        if (e.kind == "absent") return none ? "" : words_of(first);
        if (e.kind != "must" && e.kind != "maybe" && e.kind != "ifmapped") malformed(expect_, line, "unknown class");
        if (!so && (e.kind == "must" || !none)) return words_of(first);
        if (!so) return "";

        // A write was allowed where one was just made, unless logging has sealed the page since.
        const bool sealed = e.flags.starts_with("ro") || e.flags.starts_with("zero");
        if (sealed && written.fault != fault_kind::protection) return "a write " + words_of(written);
        const bool just_written = e.kind == "must" && e.touched_since[1] == 'w' && e.flags != "log";
        if (just_written && !sealed && !written) return "a write " + words_of(written);
        if (e.kind == "must" && e.touched_since[2] == 'x') {
            const walk_result fetched = walk(address, operation::fetch, format);
            if (fetched.address != e.physical + offset) return "a fetch " + words_of(fetched);
        }
        return "";
    }

    /// A line of the emulator's TLB listing: the page's place, size and leaf.
    template <class Format>
    [[nodiscard]] std::string check_tlb(const expectation& e, std::uint64_t offset, const Format& format)
    {
        const ptebits::walk_result r = walk(e.address + offset, ptebits::operation::read, format);
        if (!r || r.address != e.physical + offset) return words_of(r);
        if (std::uint64_t{1} << r.page_shift != e.size) return "a page of " + ptimg::hex(1ULL << r.page_shift);
        const std::uint64_t leaf = r.path[r.steps - 1].entry;
        std::string flags;
        constexpr std::pair<char, unsigned> letters[] = {{'X', 63}, {'G', 8}, {'P', 7}, {'D', 6}, {'A', 5},
                                                         {'C', 4},  {'T', 3}, {'U', 2}, {'W', 1}};
        for (const auto& [letter, index] : letters) flags += (leaf >> index & 1) != 0 ? letter : '-';
        return flags == e.flags ? "" : "leaf has " + flags;
    }

    /// `START-END SIZE urw`: what all levels together allow.
    template <class Format>
    void take_rights(std::string_view text, std::string_view range, std::size_t line, const Format& format)
    {
        words w(expect_, line, range);
        const std::string_view from_to = w.word();
        const std::size_t dash = from_to.find('-');
        if (dash == from_to.npos) w.fail("not a range");
        const std::uint64_t from = w.hexadecimal(from_to.substr(0, dash));
        const std::uint64_t to = w.hexadecimal(from_to.substr(dash + 1));
        if (w.hexadecimal(w.word()) != to - from || to <= from) w.fail("the range has another size");
        const std::string_view rights = w.word();
        if (rights.size() != 3) w.fail("rights are not three letters");
        w.end();
        for (std::uint64_t address = from; address < to; address += page_bytes) {
            const ptebits::walk_result r = walk(address, ptebits::operation::read, format);
            std::string found = "---";
            if (r.allowed.user) found[0] = 'u';
            if (r.allowed.read) found[1] = 'r';
            if (r.allowed.write) found[2] = 'w';
            if (r && found == rights) continue;
            return report_.fail(expect_, line, text, ptimg::hex(address) + ": " + words_of(r) + " with " + found);
        }
        report_.pass();
    }

    const std::string& file_;
    std::string expect_;
    report& report_;
    ptimg::image image_;
};

}  // namespace replay
