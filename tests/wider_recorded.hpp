// SPDX-License-Identifier: BSL-1.0
// Replays recorded accesses over tables of AArch64: one access a line, the entries it
// meets, its outcome, and the entries after it. Known deviations of the emulator are rules here,
// each counted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "wider_walk.hpp"

namespace wider {

/// A recording beside this file.
inline std::string recording(const std::string& name)
{
    const std::string here = __FILE__;
    return here.substr(0, here.find_last_of("/\\") + 1) + "data/wider/" + name;
}

/// What replaying a file gave.
struct tally {
    unsigned lines = 0;
    unsigned failed = 0;
    unsigned by_constants = 0;                   ///< lines walked by a format of constants too
    std::map<std::string, unsigned> exceptions;  ///< lines by the deviation they show
    std::map<std::string, unsigned> outcomes;    ///< lines by what the library says
    std::vector<std::string> failures;           ///< the first ones
    std::map<unsigned, std::string> deviating;   ///< what the library says of lines that deviate, by number

    void fail(unsigned number, std::string_view text, const std::string& library)
    {
        if (failed++ < 5)
            failures.push_back(std::to_string(number) + ": " + std::string(text) + "\n  library: " + library);
    }
    [[nodiscard]] std::string first_failures() const
    {
        std::string all;
        for (const std::string& f : failures) all += f + "\n";
        return all;
    }
    [[nodiscard]] unsigned exception(const std::string& name) const
    {
        const auto found = exceptions.find(name);
        return found == exceptions.end() ? 0 : found->second;
    }
};

/// A line of a recording: words key=value, then an outcome with its own.
class recorded_line {
public:
    explicit recorded_line(const std::string& text)
    {
        std::istringstream in(text);
        bool outcome_next = false;
        for (std::string w; in >> w;) {
            const std::size_t equals = w.find('=');
            if (w == "->") {
                outcome_next = true;
            } else if (outcome_next) {
                outcome_ = w;
                outcome_next = false;
            } else if (equals == std::string::npos) {
                throw std::runtime_error("no value: " + text);
            } else {
                said_[w.substr(0, equals)] = w.substr(equals + 1);
            }
        }
    }

    [[nodiscard]] const std::string& outcome() const { return outcome_; }
    [[nodiscard]] bool ok() const { return outcome_ == "ok"; }

    /// A value in hexadecimal; none where the line has none, or - or ?.
    [[nodiscard]] std::optional<word> value(const std::string& key) const
    {
        const auto found = said_.find(key);
        if (found == said_.end() || found->second == "-" || found->second == "?") return {};
        return std::stoull(found->second, nullptr, 16);
    }
    [[nodiscard]] word need(const std::string& key) const
    {
        if (const auto v = value(key)) return *v;
        throw std::runtime_error("a line without " + key);
    }
    [[nodiscard]] request access() const
    {
        const std::string& letter = said_.at("acc");
        return {.what = letter == "R"   ? action::read
                        : letter == "W" ? action::write
                                        : action::fetch,
                .user = value("el").value_or(1) == 0};
    }

private:
    std::map<std::string, std::string> said_;
    std::string outcome_;
};

/// Memory with some words in it. Elsewhere it reads as zero or as its own address, or there is none.
class recorded_memory {
public:
    word end = ~word{0};         ///< there is none from here on
    bool has_addresses = false;  ///< some regions hold their own addresses

    void put(word physical, word entry) { words_[physical] = entry; }
    [[nodiscard]] const std::map<word, word>& words() const { return words_; }

    word* operator()(word physical)
    {
        if (physical >= end) return nullptr;
        const auto found = words_.find(physical);
        if (found != words_.end()) return &found->second;
        elsewhere_ = has_addresses && is_target(physical) ? 0x0ddc'0000'0000'0000 | physical : 0;
        return &elsewhere_;
    }

private:
    static bool is_target(word physical)
    {
        const word gigabyte = physical >> 30;
        const word offset = physical & ones(29, 0);
        const bool held = gigabyte < 2 || (gigabyte >= 4 && gigabyte < 7);
        return held && offset >= 64 << 20 && offset < 80 << 20;
    }
    std::map<word, word> words_;
    word elsewhere_ = 0;
};

/// Formats of constants, found by their features.
template <auto... Features>
struct constants {
    /// Calls with the format of these features, if it is among them. Returns whether it is.
    template <class F, class Call>
    static bool with([[maybe_unused]] const F& features, [[maybe_unused]] Call call)
    {
        return (with_one<Features>(features, call) || ...);
    }

private:
    template <auto One, class F, class Call>
    static bool with_one(const F& features, Call call)
    {
        if (features != One) return false;
        call(constant_format<typename F::description, One>{});
        return true;
    }
};

/// Calls with each line of a file that is no header, and its number.
template <class Call>
void for_each_case(const std::string& file, Call call)
{
    std::ifstream in(file);
    if (!in) throw std::runtime_error(file + " cannot be read");
    unsigned number = 0;
    for (std::string text; std::getline(in, text);) {
        ++number;
        if (!text.empty() && text[0] != '#') call(number, text, recorded_line(text));
    }
}

/// A walk by the format known at run time, and by constants where there are any: the same.
template <class Constants, class Features, class Controls>
walk_result walk_both(tally& t, const Features& features, word root, word address, const request& a,
                      const Controls& controls, recorded_memory& memory, bool& same)
{
    recorded_memory other = memory;
    const walk_result r = walk(format_for(features), root, address, a, controls, memory);
    same = true;
    t.by_constants += Constants::with(features, [&](auto constant) {
        const walk_result s = walk(constant, root, address, a, controls, other);
        same = walking::same_outcome(r, s) && walking::same_path(r, s) && memory.words() == other.words();
    });
    return r;
}

// ---- AArch64

/// What both stages' lines say.
template <class Features, class Controls>
struct arm_case {
    Features features;
    word root = 0;
    word address = 0;
    Controls controls;
    unsigned top = 0;  ///< level of the first table, as the manual counts
};

/// Physical addresses of the machine that was recorded.
inline constexpr unsigned recorded_physical_bits = 52;

inline unsigned physical_bits_of(unsigned code, unsigned granule)
{
    constexpr unsigned sizes[] = {32, 36, 40, 42, 44, 48, 52, 52};
    return std::min({sizes[code], recorded_physical_bits, granule == 16 ? 52U : 48U});
}

/// TG0: 4, 64, 16 Kbytes.
inline unsigned granule_of(word control)
{
    constexpr unsigned granules[] = {12, 16, 14, 0};
    return granules[control >> 14 & 3];
}

inline arm_case<stage1_features, stage1_controls> read_stage1(const recorded_line& line)
{
    const word tcr = line.need("tcr");
    const unsigned granule = granule_of(tcr);
    const bool ha = (tcr >> 39 & 1) != 0;
    arm_case<stage1_features, stage1_controls> c;
    c.features = {.granule = granule,
                  .input_bits = 64 - static_cast<unsigned>(tcr & 63),
                  .physical_bits = physical_bits_of(static_cast<unsigned>(tcr >> 32 & 7), granule),
                  .access_flag = ha,
                  .dirty_state = ha && (tcr >> 40 & 1) != 0,
                  .hierarchical = (tcr >> 41 & 1) == 0,
                  .large_addresses = granule == 16};
    c.root = line.need("ttbr");
    c.address = line.need("va");
    c.controls = {.privileged_never = line.need("pan") != 0, .write_execute_never = line.need("wxn") != 0};
    c.top = 3 - (c.features.input_bits - 1 - granule) / (granule - 3);
    return c;
}

inline arm_case<stage2_features, stage2_paging::controls> read_stage2(const recorded_line& line)
{
    const word vtcr = line.need("vtcr");
    const unsigned granule = granule_of(vtcr);
    const auto code = static_cast<unsigned>(vtcr >> 6 & 3);
    // SL0 of 4 Kbytes: levels 2, 1, 0, 3; else 3, 2, 1.
    constexpr unsigned starts[] = {2, 1, 0, 3};
    const bool ha = (vtcr >> 21 & 1) != 0;
    arm_case<stage2_features, stage2_paging::controls> c;
    c.top = granule == 12 ? starts[code] : 3 - code;
    c.features = {.granule = granule,
                  .levels = 4 - c.top,
                  .input_bits = 64 - static_cast<unsigned>(vtcr & 63),
                  .physical_bits = physical_bits_of(static_cast<unsigned>(vtcr >> 16 & 7), granule),
                  .access_flag = ha,
                  .dirty_state = ha && (vtcr >> 22 & 1) != 0,
                  .large_addresses = granule == 16};
    c.root = line.need("vttbr");
    c.address = line.need("ipa");
    return c;
}

/// The address that a table's entry holds: bits 51:48 in bits 15:12 with 64-Kbyte pages.
inline word table_address(word entry, unsigned granule)
{
    const word high = granule == 16 ? (entry & ones(15, 12)) << 36 : 0;
    return (entry & ones(47, granule)) | high;
}

inline constexpr word access_flag = 1 << 10;

/// The deviation that a line shows, if it shows one.
template <class Features>
std::string arm_deviation(const recorded_line& line, const walk_result& r, const Features& f, const request& a)
{
    const word last = r.steps == 0 ? 0 : r.path[r.steps - 1].entry;
    if (f.granule == 16 && r.fault == fault_kind::address_size && (last & ones(15, 12)) != 0) return "64k-bits15-12";
    const bool clean = (last >> 51 & 1) != 0 && (last >> 7 & 1) != 0;
    if (line.ok() && a.fetches() && f.dirty_state && clean && r.fault == fault_kind::protection) return "dbm-fetch";
    const unsigned shift = f.granule + (r.level == 0 ? 0 : r.level - 1) * (f.granule - 3);
    const word low = last & ones(shift - 1, f.granule) & ~ones(f.physical_bits - 1, 0);
    if (!line.ok() && line.need("fsc") < 4 && r.level > 1 && low != 0) return "block-low-bits";
    return "";
}

template <class Constants, class Read>
tally replay_arm(const std::string& file, Read read)
{
    tally t;
    for_each_case(file, [&](unsigned number, const std::string& text, const recorded_line& line) {
        ++t.lines;
        const auto c = read(line);
        const unsigned granule = c.features.granule;
        const auto shift_of = [&](unsigned level) { return granule + (3 - level) * (granule - 3); };
        const auto format = format_for(c.features);

        recorded_memory memory;
        memory.end = word{1} << 40;
        // The root is aligned to its size, of at least 64 bytes.
        const unsigned top_bits = c.features.input_bits > shift_of(c.top) ? c.features.input_bits - shift_of(c.top) : 1;
        const word root = c.root & ~ones(std::max(top_bits + 3, 6U) - 1, 0);
        word table = root;
        std::map<unsigned, word> places;
        for (unsigned level = c.top; level <= 3; ++level) {
            const auto before = line.value("e" + std::to_string(level));
            if (!before) break;
            const word index_bits = level == c.top ? top_bits : granule - 3;
            places[level] = table + 8 * (c.address >> shift_of(level) & ones(static_cast<unsigned>(index_bits) - 1, 0));
            memory.put(places[level], *before);
            table = table_address(*before, granule);
        }
        const std::map<word, word> before = memory.words();

        const request a = line.access();
        bool same = true;
        walk_result r;
        if (format->shape().translates(c.address) && root >> c.features.physical_bits != 0) {
            r.fault = fault_kind::address_size;
        } else {
            r = walk_both<Constants>(t, c.features, root, c.address, a, c.controls, memory, same);
        }
        const unsigned status = arm_paging::status(r, format);
        std::ostringstream words;
        if (r) {
            words << "ok pa=" << std::hex << r.address;
        } else {
            words << "fault fsc=" << std::hex << status;
        }
        ++t.outcomes[r ? "ok" : words.str()];

        // After a fault, only the access flag may have been set by the emulator.
        bool agrees = line.ok() == static_cast<bool>(r);
        for (const auto& [level, place] : places) {
            const word recorded = line.need("a" + std::to_string(level));
            if (r) {
                agrees = agrees && memory.words().at(place) == recorded;
            } else {
                agrees = agrees && ((recorded ^ before.at(place)) & ~access_flag) == 0;
            }
        }
        if (line.ok()) agrees = agrees && line.value("pa").value_or(r.address) == r.address;
        if (!line.ok()) agrees = agrees && line.need("fsc") == status;
        const bool sound = same && (r || memory.words() == before);
        if (agrees && sound) return;
        const std::string deviation = sound ? arm_deviation(line, r, c.features, a) : "";
        if (deviation.empty()) {
            t.fail(number, text, same ? words.str() : "constants and run time differ");
            return;
        }
        ++t.exceptions[deviation];
        t.deviating[number] = deviation + " " + words.str();
    });
    return t;
}

}  // namespace wider
