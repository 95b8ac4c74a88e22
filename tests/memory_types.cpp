// SPDX-License-Identifier: BSL-1.0
// Effective memory types, held against the manuals' tables.
#include <doctest/doctest.h>

#include <cstdint>
#include <map>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/memory_types.hpp>
#include <ptebits/x86.hpp>
#include <sstream>
#include <string>
#include <utility>

#include "walking.hpp"

using namespace walking;

namespace {

constexpr memory_type every_type[] = {memory_type::uc, memory_type::wc, memory_type::wt,       memory_type::wp,
                                      memory_type::wb, memory_type::cd, memory_type::uc_minus, memory_type::wc_plus};

memory_type type_named(const std::string& word)
{
    for (const memory_type t : every_type) {
        if (word == name(t)) return t;
    }
    FAIL("no memory type: " << word);
    return memory_type::reserved;
}

// Intel SDM volume 3, "Effective Page-Level Memory Types for Pentium III and More Recent Processor Families":
// MTRR, PAT, effective.
constexpr const char* intel_manual = R"(
    UC  UC UC   UC  UC- UC   UC  WC WC   UC  WT UC   UC  WB UC   UC  WP UC
    WC  UC UC   WC  UC- WC   WC  WC WC   WC  WT UC   WC  WB WC   WC  WP UC
    WT  UC UC   WT  UC- UC   WT  WC WC   WT  WT WT   WT  WB WT   WT  WP WP
    WB  UC UC   WB  UC- UC   WB  WC WC   WB  WT WT   WB  WB WB   WB  WP WP
    WP  UC UC   WP  UC- WC   WP  WC WC   WP  WT WT   WP  WB WP   WP  WP WP
)";

// AMD APM volume 2, "Combining PAT and MTRR Types": PAT; then UC WC WP WT WB of the MTRR. The rows but that
// of WC+ are those of "Combined Effect of MTRR and PAT Memory Types", too.
constexpr const char* amd_manual = R"(
    UC   UC CD CD  CD  CD
    UC-  UC WC CD  CD  CD
    WC   WC WC WC  WC  WC
    WC+  WC WC WC+ WC+ WC+
    WP   UC CD WP  CD  WP
    WT   UC CD CD  WT  WT
    WB   UC WC WP  WT  WB
)";

// AMD APM volume 2, "Combining Guest and Host PAT Types": guest; then UC UC- WC WP WT WB of the host.
constexpr const char* nested_manual = R"(
    UC   UC UC  UC UC  UC  UC
    UC-  UC UC- WC UC  UC  UC
    WC   WC WC  WC WC+ WC+ WC+
    WP   UC UC  UC WP  UC  WP
    WT   UC UC  UC UC  WT  WT
    WB   UC UC  WC WP  WT  WB
)";

using pairs = std::map<std::pair<memory_type, memory_type>, memory_type>;

/// A table with one row for each first type.
pairs read_rows(const char* table, const char* columns)
{
    pairs all;
    std::istringstream lines(table);
    std::string line;
    while (std::getline(lines, line)) {
        std::istringstream row(line);
        std::istringstream head(columns);
        std::string first;
        std::string column;
        std::string cell;
        if (!(row >> first)) continue;
        while (head >> column) {
            REQUIRE(static_cast<bool>(row >> cell));
            all[{type_named(first), type_named(column)}] = type_named(cell);
        }
    }
    return all;
}

/// What a table says of two types; reserved where it has no such row or column.
memory_type look_up(const pairs& table, memory_type first, memory_type second)
{
    const auto found = table.find({first, second});
    return found == table.end() ? memory_type::reserved : found->second;
}

}  // namespace

TEST_CASE("PAT and MTRR make what Intel's table says")
{
    pairs manual;
    std::istringstream words(intel_manual);
    std::string mtrr;
    std::string pat;
    std::string effective;
    while (words >> mtrr >> pat >> effective) manual[{type_named(pat), type_named(mtrr)}] = type_named(effective);
    REQUIRE(manual.size() == 30);
    for (unsigned p = 0; p < 12; ++p) {
        for (unsigned m = 0; m < 12; ++m) {
            const auto of_page = static_cast<memory_type>(p);
            const auto of_range = static_cast<memory_type>(m);
            CAPTURE(name(of_page));
            CAPTURE(name(of_range));
            CHECK(effective_type(of_page, of_range, vendor::intel) == look_up(manual, of_page, of_range));
        }
    }
}

TEST_CASE("PAT and MTRR, and guest and host, make what AMD's tables say")
{
    const pairs manual = read_rows(amd_manual, "UC WC WP WT WB");
    const pairs nested = read_rows(nested_manual, "UC UC- WC WP WT WB");
    REQUIRE(manual.size() == 35);
    REQUIRE(nested.size() == 36);
    for (unsigned a = 0; a < 12; ++a) {
        for (unsigned b = 0; b < 12; ++b) {
            const auto first = static_cast<memory_type>(a);
            const auto second = static_cast<memory_type>(b);
            CAPTURE(name(first));
            CAPTURE(name(second));
            CHECK(effective_type(first, second, vendor::amd) == look_up(manual, first, second));
            const memory_type guest = first == memory_type::wc_plus ? memory_type::wc : first;
            CHECK(combined_pat_type(first, second) == look_up(nested, guest, second));
        }
    }
}

TEST_CASE("the PAT: after reset, and what it may hold")
{
    constexpr memory_type after_reset[] = {memory_type::wb, memory_type::wt, memory_type::uc_minus, memory_type::uc};
    for (unsigned i = 0; i < 8; ++i) {
        CHECK(pat_type(pat_after_reset, i) == after_reset[i % 4]);
        CHECK(std::string(pat_type_after_reset(i)) == name(after_reset[i % 4]));
        for (unsigned byte = 0; byte < 256; ++byte) {
            const word pat = (pat_after_reset & ~(word{0xff} << 8 * i)) | word{byte} << 8 * i;
            const bool legal_byte = byte < 8 && byte != 2 && byte != 3;
            CHECK(check_pat(pat) == (legal_byte ? pat_error::none : pat_error::reserved_type));
            CHECK(pat_type(pat, i) == (legal_byte ? static_cast<memory_type>(byte) : memory_type::reserved));
        }
    }
    CHECK(find_pat_index(pat_after_reset, memory_type::wb) == 0);
    CHECK(find_pat_index(pat_after_reset, memory_type::uc) == 3);
    CHECK(find_pat_index(pat_after_reset, memory_type::wc) == 8);
    CHECK(find_pat_index(pat_after_reset | 2, memory_type::reserved) == 8);
    CHECK(find_pat_index(pat_after_reset, memory_type::wc_plus) == 8);
    for (const memory_type t : every_type) CHECK(std::string(name(t)) != name(memory_type::reserved));
    CHECK(std::string(name(static_cast<memory_type>(10))) == "unknown");
}

TEST_CASE("EPT's type takes the place of the MTRR's, if the PAT is not ignored")
{
    constexpr memory_type ept_types[] = {memory_type::uc, memory_type::wc, memory_type::wt, memory_type::wp,
                                         memory_type::wb};
    for (const memory_type t : ept_types) {
        for (unsigned p = 0; p < 8; ++p) {
            const auto pat = static_cast<memory_type>(p);
            CHECK(effective_type({t, false}, pat) == effective_type(pat, t, vendor::intel));
            CHECK(effective_type({t, true}, pat) == t);
            CHECK(effective_type({t, false}, pat, true) == memory_type::uc);
            CHECK(effective_type({t, true}, pat, true) == memory_type::uc);
        }
    }
    CHECK(ept_table_type(memory_type::wb, false) == memory_type::wb);
    CHECK(ept_table_type(memory_type::wb, true) == memory_type::uc);
}

TEST_CASE("the PAT index of a walk, of pages of each size, is what pat_bits made")
{
    const auto check = [](const auto& format, unsigned level) {
        for (unsigned index = 0; index < 8; ++index) {
            arena memory(0x1000, 5);
            const chain c = build_chain(memory, format, level, 0, 0);
            const encoded leaf = encode(kind::leaf, level, 0, {}, format, pat_bits(index, level, format));
            REQUIRE(leaf);
            put_entry(memory, c.slots[level], leaf.entry, format->shape().entry_bits);
            const auto with_words = [&](auto word_type) {
                const auto slots = [&](word physical) { return memory(physical, word_type); };
                const walk_result r = walk(format, 0x1000, 0x123, {}, {}, slots);
                REQUIRE(r);
                CHECK(pat_index(r, format) == index);
            };
            if (format->shape().entry_bits == 64) {
                with_words(std::type_identity<std::uint64_t>{});
            } else {
                with_words(std::type_identity<std::uint32_t>{});
            }
        }
    };
    for (const unsigned level : {1U, 2U, 3U}) {
        check(format_for(shadow_features{}), level);
        check(format_for(npt_features{.levels = 5}), level);
        if (level == 3) continue;
        check(format_for(shadow_features{.levels = 3}), level);
        check(format_for(shadow_features{.levels = 2}), level);
    }
    CHECK(pat_index(walk_result{}, long_mode) == 0);
}

TEST_CASE("what an EPT leaf says of the type, of pages of each size")
{
    constexpr auto host = ept<ept_features{}>;
    for (const unsigned level : {1U, 2U, 3U}) {
        for (const memory_type t :
             {memory_type::uc, memory_type::wc, memory_type::wt, memory_type::wp, memory_type::wb}) {
            for (const bool ignore : {false, true}) {
                arena memory(0x1000, 5);
                const chain c = build_chain(memory, host, level, 0, 0);
                memory.put(c.slots[level],
                           memory.get<word>(c.slots[level]) | static_cast<word>(t) << 3 | word{ignore} << 6);
                const walk_result r = walk(host, 0x1000, 0x123, {}, {}, memory);
                REQUIRE(r);
                CHECK(ept_type(r, host) == ept_memory_type{t, ignore});
            }
        }
    }
}

TEST_CASE("the type of memory of a nested access")
{
    // The guest's page has PAT index 1, the host's EPT says WB or NPT index 0.
    constexpr auto guest = long_mode;
    constexpr auto intel = ept<ept_features{}>;
    constexpr auto amd = npt<npt_features{}>;
    nested_result<asked> r{};
    r.guest.level = r.host.level = 1;
    r.guest.page_shift = r.host.page_shift = 12;
    r.guest.bits = 0x08;
    r.host.bits = 0x30;

    CHECK(effective_type(r, guest, intel) == memory_type::wt);
    CHECK(effective_type(r, unpaged{}, intel) == memory_type::wb);
    CHECK(effective_type(r, guest, intel, {.guest_pat = 0x0100}) == memory_type::wc);
    CHECK(effective_type(r, guest, intel, {.mtrr = memory_type::uc}) == memory_type::wt);  // MTRRs do not count
    CHECK(effective_type(r, guest, intel, {.cache_disable = true}) == memory_type::uc);
    r.host.bits = 0x70;  // IPAT
    CHECK(effective_type(r, guest, intel) == memory_type::wb);
    r.host.bits = 0x00;
    CHECK(effective_type(r, guest, intel) == memory_type::uc);

    CHECK(effective_type(r, guest, amd) == memory_type::wt);
    CHECK(effective_type(r, unpaged{}, amd) == memory_type::wb);
    CHECK(effective_type(r, guest, amd, {.guest_pat = 0x0100}) == memory_type::wc_plus);
    CHECK(effective_type(r, guest, amd, {.host_pat = 0x01}) == memory_type::cd);  // WT and WC
    CHECK(effective_type(r, guest, amd, {.mtrr = memory_type::uc}) == memory_type::uc);
    CHECK(effective_type(r, guest, amd, {.mtrr = memory_type::wp}) == memory_type::cd);
    CHECK(effective_type(r, guest, amd, {.cache_disable = true}) == memory_type::cd);
    r.host.bits = 0x08;  // the host's index 1
    CHECK(effective_type(r, unpaged{}, amd) == memory_type::wt);
}
