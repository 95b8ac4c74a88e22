// SPDX-License-Identifier: BSL-1.0
// What replaying a file gave: cases that passed and failed, the rules that were needed,
// and the first mismatches in full.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "image.hpp"
#include "numbers.hpp"

namespace replay {

/// A case that failed is printed in full, up to this many of a file.
inline constexpr std::uint64_t printed_mismatches = 5;

class report {
public:
    explicit report(std::string file) : file_(std::move(file)) {}

    void pass() { ++passed; }

    /// A case that passed by rules, named together.
    void tolerate(std::string_view rules) { ++tolerated.try_emplace(std::string(rules)).first->second; }

    /// Adds another file's.
    void add(const report& other)
    {
        passed += other.passed;
        failed += other.failed;
        twins += other.twins;
        for (const auto& [rules, count] : other.tolerated) tolerated[rules] += count;
    }

    /// A case that failed: where, what the file says, what the library does.
    void fail(const std::string& file, std::size_t line, std::string_view recorded, const std::string& library)
    {
        if (failed++ >= printed_mismatches) return;
        std::printf("%s:%zu: mismatch\n    recorded: %.*s\n    library:  %s\n", file.c_str(), line,
                    static_cast<int>(recorded.size()), recorded.data(), library.c_str());
    }

    /// One line: the counts, and how many cases needed which rules.
    void print() const
    {
        std::printf("%s: %llu passed, %llu failed", file_.c_str(), static_cast<unsigned long long>(passed),
                    static_cast<unsigned long long>(failed));
        if (twins != 0) std::printf(", %llu also by constant features", static_cast<unsigned long long>(twins));
        for (const auto& [rules, count] : tolerated) {
            std::printf(", %s: %llu", rules.c_str(), static_cast<unsigned long long>(count));
        }
        std::printf("\n");
    }

    std::uint64_t passed = 0;
    std::uint64_t failed = 0;
    std::uint64_t twins = 0;                                      ///< cases walked by a constant format too
    std::map<std::string, std::uint64_t, std::less<>> tolerated;  ///< cases, by the rules that they needed

private:
    std::string file_;
};

[[noreturn]] inline void malformed(const std::string& file, std::size_t line, const std::string& reason)
{
    throw ptimg::error(file + ':' + std::to_string(line) + ": " + reason);
}

/// Calls a function with each line of a file, and its number.
template <class Function>
void for_each_line(const std::string& file, Function take)
{
    std::error_code problem;
    if (!std::filesystem::is_regular_file(file, problem)) throw ptimg::error(file + ": no such file");
    std::ifstream in(file, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    if (!in) throw ptimg::error(file + ": cannot be read");
    std::string_view rest = text;
    if (rest.empty()) malformed(file, 1, "empty file");
    for (std::size_t line = 1; !rest.empty(); ++line) {
        const std::size_t end = rest.find('\n');
        if (end == rest.npos) malformed(file, line, "the last line is cut off");
        take(rest.substr(0, end), line);
        rest.remove_prefix(end + 1);
    }
}

/// Takes a line apart, word by word.
class words {
public:
    words(const std::string& file, std::size_t line, std::string_view text) : file_(file), line_(line), rest_(text) {}

    [[noreturn]] void fail(const std::string& reason) const { malformed(file_, line_, reason); }

    /// The next word; empty at the end of the line.
    [[nodiscard]] std::string_view word()
    {
        const std::string_view next = rest_.substr(0, rest_.find(' '));
        rest_.remove_prefix(next.size() == rest_.size() ? next.size() : next.size() + 1);
        return next;
    }

    /// The word that must come next, without the key that it must begin with.
    [[nodiscard]] std::string_view value(std::string_view key)
    {
        const std::string_view next = word();
        if (!next.starts_with(key)) fail("'" + std::string(next) + "' stands where " + std::string(key) + " should");
        return next.substr(key.size());
    }

    [[nodiscard]] std::uint64_t hexadecimal(std::string_view text) const
    {
        const auto number = numbers::parse<std::uint64_t>(text, 16);
        if (!number) fail("'" + std::string(text) + "' is not a hexadecimal number of 64 bits");
        return *number;
    }
    [[nodiscard]] std::uint64_t number(std::string_view key) { return hexadecimal(value(key)); }

    /// Whether the next word begins with a key.
    [[nodiscard]] bool next_is(std::string_view key) const { return rest_.starts_with(key); }

    [[nodiscard]] bool flag(std::string_view key)
    {
        const std::string_view text = value(key);
        if (text != "0" && text != "1") fail(std::string(key) + " is not 0 or 1");
        return text == "1";
    }

    /// 0 where the word does not come next.
    [[nodiscard]] bool optional_flag(std::string_view key) { return next_is(key) && flag(key); }

    [[nodiscard]] std::string_view rest() const { return rest_; }

    void end() const
    {
        if (!rest_.empty()) fail("'" + std::string(rest_) + "' stands behind the end");
    }

private:
    const std::string& file_;
    std::size_t line_;
    std::string_view rest_;
};

}  // namespace replay
