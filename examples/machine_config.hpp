// SPDX-License-Identifier: BSL-1.0
// Reader of a simulated machine's config, and of the lines of its script.
#pragma once

#include <array>
#include <charconv>
#include <cstdint>
#include <istream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <variant>
#include <vector>

#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/nested_walk.hpp>
#include <ptebits/x86.hpp>

#include "features.hpp"

namespace simulated {

using namespace ptebits;

/// What is wrong with a line; the caller knows which.
struct bad_input : std::runtime_error {
    using std::runtime_error::runtime_error;
};

[[nodiscard]] inline std::uint64_t number(std::string_view text, int base)
{
    std::string_view digits = text;
    if (digits.starts_with("0x")) {
        digits.remove_prefix(2);
        base = 16;
    }
    std::uint64_t value = 0;
    const auto [stop, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (problem != std::errc{} || stop != digits.data() + digits.size()) {
        throw bad_input("'" + std::string(text) + "' is not a number");
    }
    return value;
}

[[nodiscard]] inline std::uint64_t number(std::string_view text, int base, std::uint64_t least, std::uint64_t most)
{
    const std::uint64_t value = number(text, base);
    if (value < least || value > most) throw bad_input("'" + std::string(text) + "' is out of range");
    return value;
}

[[nodiscard]] inline bool on_off(std::string_view text)
{
    if (text != "on" && text != "off") throw bad_input("'" + std::string(text) + "' is neither on nor off");
    return text == "on";
}

[[nodiscard]] inline std::string hex(std::uint64_t value)
{
    std::array<char, 16> digits;
    return {digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), value, 16).ptr};
}

// One setter for each kind of member.
template <class Struct>
void set_member(Struct& s, bool Struct::* member, std::string_view value)
{
    s.*member = on_off(value);
}
template <class Struct>
void set_member(Struct& s, std::uint32_t Struct::* member, std::string_view value)
{
    s.*member = static_cast<std::uint32_t>(number(value, 10, 0, 0xffff'ffff));
}
template <class Struct>
void set_member(Struct& s, optional_bits Struct::* member, std::string_view value)
{
    s.*member = static_cast<unsigned>(number(value, 10, 0, 63));
}

template <class Struct, class Members>
void set_named(Struct& s, const Members& members, std::string_view name, std::string_view value)
{
    for (const auto& m : members) {
        if (m.name == name) return std::visit([&](auto member) { set_member(s, member, value); }, m.member);
    }
    throw bad_input("there is no '" + std::string(name) + "'");
}

struct control {
    std::string_view name;
    std::variant<bool cpu_controls::*, std::uint32_t cpu_controls::*> member;
};
inline constexpr control controls[] = {
    {"write_protect", &cpu_controls::write_protect},     {"smep", &cpu_controls::smep}, {"smap", &cpu_controls::smap},
    {"alignment_check", &cpu_controls::alignment_check}, {"pkru", &cpu_controls::pkru}, {"pkrs", &cpu_controls::pkrs},
};

/// Lines of a file in words, comments left out. Errors carry the file's name and the line.
template <class Function>
void for_each_line(std::istream& in, const std::string& file, Function take)
{
    std::string line;
    for (unsigned number = 1; std::getline(in, line); ++number) {
        try {
            std::istringstream text(line.substr(0, line.find('#')));
            std::vector<std::string> words;
            for (std::string word; text >> word;) words.push_back(word);
            if (!words.empty()) take(words, number);
        } catch (const bad_input& e) {
            throw bad_input(file + ':' + std::to_string(number) + ": " + e.what());
        }
    }
    if (in.bad()) throw bad_input(file + ": cannot be read");
}

struct config {
    std::uint64_t memory_pages = 256;
    std::uint64_t tlb_entries = 16;
    bool translation_cache = false;
    std::uint64_t guest_tables = 0x10000;
    std::variant<shadow_features, unpaged> guest;
    std::variant<ept_features, npt_features> host;
    cpu_controls cpu;
};

/// Sets a feature of the one format that is in use.
template <class Variant>
void set_feature(Variant& format, std::string_view name, std::string_view value)
{
    std::visit(
        [&]<class Features>(Features& features) {
            if constexpr (std::is_same_v<Features, unpaged>) {
                throw bad_input("a guest without paging has no features");
            } else {
                set_named(features, named::features_of(features), name, value);
            }
        },
        format);
}

/// What contradicts itself in the features, as a reason.
template <class Variant>
void check_features(const Variant& format, const std::string& whose)
{
    std::visit(
        [&]<class Features>(const Features& features) {
            if constexpr (!std::is_same_v<Features, unpaged>) {
                const flaw wrong = format_for(features)->wrong();
                if (wrong.what != defect::none) throw bad_input(whose + ": " + name(wrong.what));
            }
        },
        format);
}

/// The config in a stream; `file` is what errors call it. Throws bad_input.
[[nodiscard]] inline config read_config(std::istream& in, const std::string& file)
{
    config c;
    std::map<std::string, unsigned> seen;  // key to line
    const auto take = [&](const std::vector<std::string>& words, unsigned line) {
        if (words.size() != 3 || words[1] != "=") throw bad_input("not KEY = VALUE");
        const std::string& key = words[0];
        const std::string& value = words[2];
        if (!seen.emplace(key, line).second) throw bad_input(key + " is given twice");
        if (key == "memory") {
            c.memory_pages = number(value, 10, 16, 65536);
        } else if (key == "tlb") {
            c.tlb_entries = number(value, 10, 1, 4096);
        } else if (key == "translation_cache") {
            c.translation_cache = on_off(value);
        } else if (key == "guest") {
            if (value != "paging" && value != "none") throw bad_input("guest is paging or none");
            if (value == "none") c.guest = unpaged{};
        } else if (key == "host") {
            if (value != "ept" && value != "npt") throw bad_input("host is ept or npt");
            if (value == "npt") c.host = npt_features{};
        } else if (key == "guest.tables") {
            c.guest_tables = number(value, 16);
            if (c.guest_tables % 4096 != 0) throw bad_input("guest.tables is not the address of a page");
        } else if (key.starts_with("guest.")) {
            if (!seen.contains("guest")) throw bad_input("guest must come before " + key);
            set_feature(c.guest, std::string_view(key).substr(6), value);
        } else if (key.starts_with("host.")) {
            if (!seen.contains("host")) throw bad_input("host must come before " + key);
            set_feature(c.host, std::string_view(key).substr(5), value);
        } else if (key.starts_with("cpu.")) {
            set_named(c.cpu, controls, std::string_view(key).substr(4), value);
        } else {
            throw bad_input("unknown key '" + key + "'");
        }
    };
    for_each_line(in, file, take);
    for (const char* key : {"guest", "host"}) {
        if (!seen.contains(key)) throw bad_input(file + ": " + key + " is missing");
    }
    const auto check = [&](const auto& format, const std::string& whose) {
        try {
            check_features(format, whose);
        } catch (const bad_input& e) {
            throw bad_input(file + ':' + std::to_string(seen.at(whose)) + ": " + e.what());
        }
    };
    check(c.guest, "guest");
    check(c.host, "host");
    return c;
}

}  // namespace simulated
