// SPDX-License-Identifier: BSL-1.0
// explain: page-table entries in words, as a command or as a filter.
#include <algorithm>
#include <cstdint>
#include <iomanip>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include <ptebits/ageing.hpp>
#include <ptebits/riscv_flush.hpp>
#include <ptebits/text.hpp>
#include <ptebits/text_stream.hpp>

#include "colours.hpp"
#include "features.hpp"
#include "numbers.hpp"

namespace {

using namespace ptebits;
using named::any_entry_features, named::error, named::in_quotes;

constexpr std::string_view usage =
    "usage: explain [--short | --long] FORMAT[,FEATURE=VALUE]... LEVEL HEX...\n"
    "       explain [--short | --long] FORMAT[,FEATURE=VALUE]... LEVEL -\n"
    "       explain --diff FORMAT[,FEATURE=VALUE]... LEVEL OLD NEW\n"
    "       explain --help\n"
    "\n"
    "FORMAT is shadow (or x86), npt, ept, riscv (Sv32 to Sv57), gstage (their x4 forms), vtd_second,\n"
    "vtd_first (VT-d's stages), amdvi_host or amdvi_guest (AMD-Vi's tables). Features are those of the\n"
    "library, as in ept,physical_bits=39,accessed_dirty=0; the others have the library's defaults, but\n"
    "levels is 5 or 6 if LEVEL is. LEVEL is the level of the entry: 1 is the level of 4-Kbyte pages,\n"
    "also of RISC-V, whose manual counts from 0.\n"
    "\n"
    "With -, entries come from standard input, one a line: the last word of the line, behind the last\n"
    "blank, '=' or ':', in hexadecimal; without a decimal digit it needs 0x. If a ':' is followed by\n"
    "numbers with 0x alone, as a debugger dumps memory, each is an entry. Empty lines and lines that\n"
    "begin with # are passed over. Of a run of empty entries only the first has a line.\n"
    "\n"
    "--long is one line a field (the default for HEX), --short one line an entry (the default for -):\n"
    "what it is, its address, its rights, the flags that are set, and behind sw= the numbers of the bits\n"
    "that are set and that the MMU leaves to software.\n"
    "--diff tells which fields changed; whether the TLB must be flushed; and whether the old entry had\n"
    "to be replaced by one atomic operation, because hardware may have changed it underneath.\n"
    "\n"
    "Exit status: 0, or 2 if the command line or a line of input is wrong.\n";

/// Of the formats that can be asked for.
constexpr unsigned highest_level = 6;

const colours paint = choose_colours();

// ---- reading

std::uint64_t need_entry(std::string_view text)
{
    const auto value = numbers::hexadecimal(text);
    if (!value) throw error(in_quotes(text) + " is not a hexadecimal number of 64 bits");
    return *value;
}

/// The entries in a line of a log or a debugger. Words that happen to be made of a to f are none.
std::vector<std::uint64_t> entries_in(const std::string& line)
{
    if (const std::size_t colon = line.rfind(':'); colon != line.npos) {
        std::istringstream words(line.substr(colon + 1));
        std::vector<std::string> numbers;
        for (std::string word; words >> word && word.starts_with("0x");) numbers.push_back(word);
        if (!words && !numbers.empty()) {
            std::vector<std::uint64_t> entries;
            for (const std::string& text : numbers) entries.push_back(need_entry(text));
            return entries;
        }
    }
    const std::string word = line.substr(line.find_last_of(" \t=:") + 1);
    if (word.find_first_of("0123456789") == word.npos) throw error(in_quotes(word) + " is not an entry");
    return {need_entry(word)};
}

/// The features in FORMAT,FEATURE=VALUE,...
any_entry_features read_format(std::string_view text, unsigned level)
{
    const auto next = [&] {
        const std::string_view word = text.substr(0, text.find(','));
        text.remove_prefix(std::min(word.size() + 1, text.size()));
        return word;
    };
    any_entry_features all = named::entry_format_named(next());
    std::visit(
        [&](auto& features) {
            if (level > features.levels) features.levels = level;
            while (!text.empty()) named::set_feature(features, next());
        },
        all);
    return all;
}

// ---- writing

/// One entry, one line. What is broken stands behind the semicolon.
template <class Format>
void print_short(std::uint64_t entry, unsigned level, const Format& format)
{
    const std::string line = in_words(entry, level, format).line();
    const std::size_t end = std::min(line.find(';'), line.size());
    std::cout << "0x" << std::hex << std::setfill('0') << std::setw(static_cast<int>(format->shape().entry_bits / 4))
              << entry << std::dec << std::setfill(' ') << "  " << line.substr(0, end);
    if (end < line.size()) std::cout << paint.alarm << line.substr(end) << paint.off;
    std::cout << '\n';
}

/// One entry, one line a field; fields of 0 fade.
template <class Format>
void print_long(std::uint64_t entry, unsigned level, const Format& format)
{
    std::istringstream lines(in_words(entry, level, format).fields());
    std::string line;
    for (bool first = true; std::getline(lines, line); first = false) {
        std::string word, bits, value;
        std::istringstream(line) >> word >> bits >> value;
        const char* colour = first ? paint.head : word == "broken:" ? paint.alarm : value == "0" ? paint.dim : "";
        std::cout << colour << line << (*colour != '\0' ? paint.off : "") << '\n';
    }
}

/// What one part of an entry of this kind means with a new value. The bits that tell kinds apart
/// say what the entry became.
template <class Format, class Part>
void write_change(text_writer& out, const Part& part, std::uint64_t after, unsigned level, kind k, const Format& format)
{
    const kind is = kind_of(after, level, format);
    if (part.is != role::fixed || is == k) return write_meaning(out, part, after, level, k, format);
    if (is == kind::leaf) {
        out.page_size(page_shift_of(after, level, format)).put(" page");
    } else {
        out.put(name(is));
    }
}

/// The fields that differ, taken as fields of an entry of this kind.
template <class Format>
void print_changes(std::uint64_t before, std::uint64_t after, unsigned level, kind k, const Format& format)
{
    struct change {
        std::string place, values, means;
    };
    std::vector<change> changes;
    std::size_t width = 0;
    const auto text = [](auto write) {
        char buffer[200];
        text_writer out(buffer, sizeof buffer);
        write(out);
        out.end();
        return std::string(buffer);
    };
    for (unsigned low = 0; low < 64;) {
        const auto part = part_at(low, level, k, format);
        low += part.bits.width();
        if (((before ^ after) & part.bits.mask()) == 0) continue;
        changes.push_back({
            text([&](text_writer& out) { out.put("  ").put(part.label()).column(12).bit_range(part.bits).column(19); }),
            text([&](text_writer& out) { out.number(part.bits.get(before)).put(" -> ").number(part.bits.get(after)); }),
            text([&](text_writer& out) { write_change(out, part, after, level, k, format); }),
        });
        width = std::max(width, changes.back().values.size());
    }
    for (const change& c : changes) {
        std::cout << c.place << std::left << std::setw(static_cast<int>(width)) << c.values << "  " << c.means << '\n';
    }
}

template <class Format>
void print_difference(std::uint64_t before, std::uint64_t after, unsigned level, const Format& format)
{
    std::cout << "old: " << in_words(before, level, format) << '\n'
              << "new: " << in_words(after, level, format) << '\n';
    const kind was = kind_of(before, level, format);
    const kind is = kind_of(after, level, format);
    if (before == after) {
        std::cout << "changed: nothing\n";
    } else if (was == is || was == kind::none || is == kind::none) {
        // An absent entry has no fields, so those of the other one tell.
        std::cout << "changed:\n";
        print_changes(before, after, level, was == kind::none ? is : was, format);
    } else {
        for (const kind k : {was, is}) {
            std::cout << "changed, as fields of a " << (k == kind::leaf ? "leaf" : "table's entry") << ":\n";
            print_changes(before, after, level, k, format);
        }
    }
    if constexpr (std::is_base_of_v<riscv_description, typename Format::description>) {
        std::cout << "fence: " << name(fence_after(before, after, format, level)) << '\n';
    }
    const bool flush = needs_flush(before, after, format, level);
    std::cout << "TLB flush: " << (flush ? paint.alarm : "") << (flush ? "needed" : "not needed") << paint.off << '\n';
    std::cout << "atomic update: ";
    if (was == kind::table) {
        std::cout << "asked of leaves only\n";
    } else {
        const bool atomic = needs_atomic_update(before, format);
        std::cout << (atomic ? paint.alarm : "") << (atomic ? "needed" : "not needed") << paint.off << '\n';
    }
}

// ---- the command line

enum class output : std::uint8_t { by_default, brief, full, difference };

struct request {
    output how = output::by_default;
    unsigned level = 0;
    std::vector<std::string> entries;
};

/// Entries from standard input. A bad line is told of and passed over.
template <class Format>
int filter(const request& r, const Format& format)
{
    int status = 0;
    bool first = true;
    bool was_empty = false;
    std::uint64_t more_empty = 0;  // behind the first of a run
    const auto end_run = [&] {
        if (more_empty != 0) std::cout << "  and " << more_empty << " more, empty\n";
        more_empty = 0;
    };
    std::string line;
    for (std::size_t number = 1; std::getline(std::cin, line); ++number) {
        line.erase(line.find_last_not_of(" \t\r") + 1);
        if (line.empty() || line.starts_with('#')) continue;
        try {
            for (const std::uint64_t entry : entries_in(line)) {
                if (r.how == output::full) {
                    if (!first) std::cout << '\n';
                    print_long(entry, r.level, format);
                } else if (was_empty && entry == format->empty()) {
                    ++more_empty;
                } else {
                    end_run();
                    print_short(entry, r.level, format);
                    was_empty = entry == format->empty();
                }
                first = false;
            }
        } catch (const error& e) {
            std::cerr << "-:" << number << ": " << e.what() << '\n';
            status = 2;
        }
    }
    end_run();
    if (std::cin.bad()) {
        std::cerr << "-: cannot be read\n";
        return 2;
    }
    return status;
}

template <class Features>
int explain(const request& r, const Features& features)
{
    const auto format = format_for(features);
    if (format->wrong().what != defect::none) throw error(name(format->wrong().what));
    if (r.level > format->shape().levels) throw error("the format has no level " + std::to_string(r.level));

    if (r.how != output::difference && r.entries.size() == 1 && r.entries.front() == "-") return filter(r, format);
    std::vector<std::uint64_t> entries;
    for (const std::string& text : r.entries) entries.push_back(need_entry(text));
    if (r.how == output::difference) {
        print_difference(entries[0], entries[1], r.level, format);
        return 0;
    }
    for (std::size_t n = 0; n < entries.size(); ++n) {
        if (r.how == output::brief) {
            print_short(entries[n], r.level, format);
        } else {
            if (n > 0) std::cout << '\n';
            print_long(entries[n], r.level, format);
        }
    }
    return 0;
}

int run(std::vector<std::string> words)
{
    if (words.size() == 1 && words.front() == "--help") {
        std::cout << usage;
        return 0;
    }
    request r;
    while (!words.empty() && words.front().starts_with("--")) {
        const std::string& word = words.front();
        if (r.how != output::by_default) throw error("one of --short, --long and --diff, no more");
        if (word == "--short") {
            r.how = output::brief;
        } else if (word == "--long") {
            r.how = output::full;
        } else if (word == "--diff") {
            r.how = output::difference;
        } else {
            throw error("unknown option " + in_quotes(word));
        }
        words.erase(words.begin());
    }
    if (r.how == output::difference && words.size() != 4) throw error("--diff takes FORMAT LEVEL OLD NEW");
    if (words.size() < 3) throw error("it takes FORMAT LEVEL HEX... or FORMAT LEVEL -");

    const auto level = numbers::decimal(words[1]);
    if (!level || *level < 1 || *level > highest_level) throw error("LEVEL is 1 to 6, not " + in_quotes(words[1]));
    r.level = *level;
    r.entries.assign(words.begin() + 2, words.end());
    return std::visit([&](const auto& features) { return explain(r, features); }, read_format(words[0], r.level));
}

}  // namespace

int main(int argc, char** argv)
{
    std::ios::sync_with_stdio(false);  // so that an error of standard input is seen
    int status = 2;
    try {
        status = run({argv + 1, argv + argc});
    } catch (const error& e) {
        std::cerr << "explain: " << e.what() << "; see explain --help\n";
    }
    if (std::cout.flush()) return status;
    std::cerr << "explain: cannot write the output\n";
    return 2;
}
