// SPDX-License-Identifier: BSL-1.0
// Reader of page-table images: text files that hold the tables below one root.
//
//     # format=npt levels=4 root=572e000 maxphyaddr=40
//     # cr3_or_eptp=572e000 tables=22
//     # guest cr0=80010033 cr3=20000
//     000000000572e000 000000000572f827
//
// A # line of key=value pairs is header, any other # line a note. Then comes one line for
// each entry that is not 0, its physical address and its value in hexadecimal, ascending.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ptebits/entry.hpp>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/text.hpp>
#include <ptebits/x86_registers.hpp>

#include "features.hpp"
#include "file.hpp"
#include "numbers.hpp"
#include "registers.hpp"

namespace ptimg {

using dump::error;  ///< why a file is not an image, as FILE:LINE: reason

/// The 4-Kbyte page that an address lies in.
[[nodiscard]] constexpr std::uint64_t page_of(std::uint64_t physical) noexcept
{
    return physical & ~ptebits::ones(11, 0);
}

struct table {
    std::uint64_t address = 0;
    unsigned level = 0;
    std::vector<std::uint64_t> slots = {};    ///< every entry, by index
    std::vector<std::uint32_t> slots32 = {};  ///< the same where entries have 32 bits

    template <class Word>
    [[nodiscard]] auto& slots_of()
    {
        if constexpr (sizeof(Word) == sizeof(std::uint32_t)) {
            return slots32;
        } else {
            return slots;
        }
    }
};

struct image {
    std::map<std::string, std::string, std::less<>> facts;  ///< the header's pairs
    named::any_features features;
    std::uint64_t root = 0;
    unsigned entry_bytes = 0;
    std::map<std::uint64_t, table> tables;  ///< each table once, by the address of its page

    /// A fact, or a text that stands for its absence.
    [[nodiscard]] std::string_view fact(std::string_view key, std::string_view otherwise) const
    {
        const auto found = facts.find(key);
        return found == facts.end() ? otherwise : found->second;
    }

    /// The entry at a physical address; null outside the tables. Word: std::uint32_t where
    /// entries have 32 bits.
    template <class Word = std::uint64_t>
    [[nodiscard]] Word* slot(std::uint64_t physical)
    {
        const auto found = tables.find(page_of(physical));
        if (found == tables.end() || physical < found->second.address || physical % sizeof(Word) != 0) return nullptr;
        auto& slots = found->second.slots_of<Word>();
        const std::uint64_t index = (physical - found->second.address) / sizeof(Word);
        return index < slots.size() ? &slots[index] : nullptr;
    }

    /// The tables as memory, for walks and visits.
    template <class Word>
    [[nodiscard]] Word* operator()(std::uint64_t physical, std::type_identity<Word> /*entry*/)
    {
        return slot<Word>(physical);
    }
};

[[nodiscard]] inline std::string hex(std::uint64_t value)
{
    char digits[16];
    return {digits, std::to_chars(digits, digits + sizeof digits, value, 16).ptr};
}

/// Reads one image, line by line, then walks its tables.
class reader {
public:
    reader(std::string file, std::string_view text) : file_(std::move(file))
    {
        if (text.empty()) fail(1, "empty file");
        while (!text.empty()) {
            ++line_;
            const std::size_t end = text.find('\n');
            if (end == text.npos) fail(line_, "the last line is cut off");
            take(text.substr(0, end));
            text.remove_prefix(end + 1);
        }
        if (lines_.empty()) end_header();
        std::visit([this](const auto& features) { walk(ptebits::format_for(features)); }, image_.features);
    }

    [[nodiscard]] image result() && { return std::move(image_); }

private:
    struct entry_line {
        std::uint64_t address;
        std::uint64_t value;
        std::size_t line;
        bool reached;
    };

    [[noreturn]] void fail(std::size_t line, const std::string& reason) const
    {
        throw error(file_ + ':' + std::to_string(line) + ": " + reason);
    }

    void take(std::string_view line)
    {
        const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
        if (!std::all_of(line.begin(), line.end(), printable)) fail(line_, "a character that is not printable ASCII");
        if (!line.starts_with('#')) {
            take_entry(line);
        } else if (lines_.empty()) {
            take_header(line.substr(1));
        } else {
            fail(line_, "a header line below the first entry");
        }
    }

    void take_header(std::string_view line)
    {
        bool first = true;
        while (!line.empty()) {
            const std::string_view word = line.substr(0, line.find(' '));
            line.remove_prefix(std::min(word.size() + 1, line.size()));
            if (word.empty()) continue;
            const std::size_t equals = word.find('=');
            if (equals == word.npos && first) return;  // a note
            if (equals == word.npos || equals == 0) fail(line_, "'" + std::string(word) + "' is not key=value");
            const std::string key(word.substr(0, equals));
            if (!image_.facts.try_emplace(key, word.substr(equals + 1)).second) fail(line_, key + " is given twice");
            fact_lines_[key] = line_;
            first = false;
        }
    }

    [[nodiscard]] const std::string& need(const std::string& key) const
    {
        const auto found = image_.facts.find(key);
        if (found == image_.facts.end()) fail(line_, "the header lacks " + key + '=');
        return found->second;
    }

    template <class Number>
    [[nodiscard]] Number need_number(const std::string& key, int base) const
    {
        const auto value = numbers::parse<Number>(need(key), base);
        if (!value) {
            fail(fact_lines_.at(key), key + " is not a " + (base == 16 ? "hexadecimal" : "decimal") + " number");
        }
        return *value;
    }

    // What the header tells of the CPU. Features that it does not tell have the library's defaults.
    void end_header()
    {
        const std::string& format = need("format");
        const auto levels = need_number<unsigned>("levels", 10);
        const auto width = need_number<unsigned>("maxphyaddr", 10);
        image_.root = need_number<std::uint64_t>("root", 16);
        table_count_ = need_number<std::size_t>("tables", 10);
        ptebits::optional_bits encryption;
        if (image_.fact("c_bit", "none") != "none") encryption = need_number<unsigned>("c_bit", 10);

        if (format == "x86" || format == "shadow") {
            const std::string saved = format == "x86" ? "" : "save_";  // the guest runs on its shadow tables
            const auto efer = need_number<std::uint64_t>(saved + "efer", 16);
            const auto cr4 = need_number<std::uint64_t>(saved + "cr4", 16);
            ptebits::shadow_features f = registers::features_of(levels, cr4, efer);
            f.physical_bits = width;
            f.encryption_bit = encryption;
            image_.features = f;
        } else if (format == "npt") {
            // save_efer is the guest's. The host's is not recorded, so NXE stays on, as Linux has it.
            image_.features =
                ptebits::npt_features{.levels = levels, .physical_bits = width, .encryption_bit = encryption};
        } else if (format == "ept") {
            const auto eptp = need_number<std::uint64_t>("eptp", 16);
            image_.features =
                ptebits::ept_features{.levels = levels,
                                      .physical_bits = width,
                                      .accessed_dirty = registers::has(eptp, ptebits::eptp_fields::accessed_dirty)};
        } else {
            fail(fact_lines_.at("format"), "format is not npt, shadow, ept or x86");
        }
        std::visit([this](const auto& features) { check_root(ptebits::format_for(features)); }, image_.features);
    }

    template <class Format>
    void check_root(const Format& format)
    {
        if (const ptebits::defect d = format->wrong().what; d != ptebits::defect::none) {
            fail(fact_lines_.at("format"), name(d));
        }
        image_.entry_bytes = format->shape().entry_bytes();
        const std::uint64_t table_bytes = std::uint64_t{1} << format->shape().table_shift(format->shape().levels);
        const std::uint64_t wide = ~ptebits::ones(format->features().physical_bits - 1, 0);
        if ((image_.root & wide) != 0) fail(fact_lines_.at("root"), "root is wider than maxphyaddr");
        if (image_.root % table_bytes != 0) {
            fail(fact_lines_.at("root"), "root is not aligned to the size of its table");
        }
    }

    void take_entry(std::string_view line)
    {
        if (lines_.empty()) end_header();
        const std::size_t space = line.find(' ');
        if (space == line.npos) fail(line_, "not an address and a value");
        const auto parse = [&](std::string_view text) {
            const auto value = numbers::parse<std::uint64_t>(text, 16);
            if (!value) fail(line_, "'" + std::string(text) + "' is not a hexadecimal number of 64 bits");
            return *value;
        };
        const std::uint64_t address = parse(line.substr(0, space));
        const std::uint64_t value = parse(line.substr(space + 1));
        if (address % image_.entry_bytes != 0) {
            fail(line_, "the address is not aligned to " + std::to_string(image_.entry_bytes) + " bytes");
        }
        if (value == 0) fail(line_, "the value is 0, such an entry has no line");
        if ((value & ~ptebits::ones(image_.entry_bytes * 8 - 1, 0)) != 0) {
            fail(line_, "the value has more than 32 bits");
        }
        if (!lines_.empty() && address == lines_.back().address) fail(line_, "the address is given twice");
        if (!lines_.empty() && address < lines_.back().address) fail(line_, "the addresses do not ascend");
        lines_.push_back({address, value, line_, false});
    }

    [[nodiscard]] std::span<entry_line> lines_of(const table& t)
    {
        const auto at = [&](std::uint64_t address) {
            return std::lower_bound(lines_.begin(), lines_.end(), address,
                                    [](const entry_line& e, std::uint64_t a) { return e.address < a; });
        };
        const std::size_t bytes = t.slots.size() * sizeof(std::uint64_t) + t.slots32.size() * sizeof(std::uint32_t);
        return {at(t.address), at(t.address + bytes)};
    }

    // Enters the tables that the root reaches, level by level. A present entry is followed even
    // where it breaks a rule: emulators set a reserved bit in PAE's top level, and walk on.
    //
    // An image has no line for an entry of 0, and many tables of real images have no other
    // entries. So a table without lines is not missing but empty, and what tells of a table
    // that was lost, or referred to by mistake, is the header's count of them.
    template <class Format>
    void walk(const Format& format)
    {
        using namespace ptebits;
        std::vector<const table*> todo;
        const auto enter = [&](std::uint64_t address, unsigned level, std::size_t line) {
            const std::uint64_t page = page_of(address);
            const auto [at, added] = image_.tables.try_emplace(page, table{address, level});
            table& t = at->second;
            if (!added) {
                if (t.level == level) return;  // two entries share it
                fail(line, "table " + hex(page) + " is reached at level " + std::to_string(t.level) + " and at level " +
                               std::to_string(level));
            }
            const std::size_t count = std::size_t{1} << format->shape().index_bits_at(level);
            const bool narrow = image_.entry_bytes == sizeof(std::uint32_t);
            (narrow ? t.slots32.resize(count) : t.slots.resize(count));
            for (entry_line& e : lines_of(t)) {
                const std::size_t index = (e.address - address) / image_.entry_bytes;
                (narrow ? t.slots32[index] = static_cast<std::uint32_t>(e.value) : t.slots[index] = e.value);
                e.reached = true;
            }
            todo.push_back(&t);
        };

        enter(image_.root, format->shape().levels, fact_lines_.at("root"));
        for (std::size_t next = 0; next < todo.size(); ++next) {
            const table& t = *todo[next];
            for (const entry_line& e : lines_of(t)) {
                if (kind_of(e.value, t.level, format) != kind::table) continue;
                enter(address_of(e.value, t.level, format), format->level_below(e.value, t.level), e.line);
            }
        }

        for (const entry_line& e : lines_) {
            if (!e.reached) fail(e.line, "the entry is in no table that the root reaches");
        }
        if (todo.size() != table_count_) {
            fail(fact_lines_.at("tables"), "the header tells of " + std::to_string(table_count_) +
                                               " tables, the root reaches " + std::to_string(todo.size()));
        }
    }

    std::string file_;
    std::size_t line_ = 0;
    std::map<std::string, std::size_t> fact_lines_;
    std::vector<entry_line> lines_;
    std::size_t table_count_ = 0;
    image image_;
};

/// The image in a text; `file` is what errors call it. Throws error.
[[nodiscard]] inline image parse(const std::string& file, std::string_view text) { return reader(file, text).result(); }

/// The image in a file. Throws error.
[[nodiscard]] inline image read(const std::string& file) { return parse(file, dump::file(file).text()); }

}  // namespace ptimg
