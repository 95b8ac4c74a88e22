// SPDX-License-Identifier: BSL-1.0
// VT-d's formats and the reasons of its faults. Expectations are the specification's. What was recorded on an emulator
// is replayed beside this, by tests/replay/iommu.hpp: legacy mode's reasons are there.
#include "leaf_model.hpp"

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <ptebits/vtd.hpp>
#include <string_view>

#include "manual.hpp"
#include "walking.hpp"
#include "wider_walk.hpp"

using namespace ptebits;
using wider::entry_chain;
using wider::walk_to;

namespace {

using word = std::uint64_t;

constexpr auto legacy = vtd_second<vtd_second_features{.physical_bits = 48}>;
constexpr auto tracked = vtd_second<vtd_second_features{.scalable = true, .accessed_dirty = true}>;
constexpr auto not_snooped =
    vtd_second<vtd_second_features{.scalable = true, .accessed_dirty = true, .coherent = false}>;
constexpr auto first = vtd_first<vtd_first_features{.physical_bits = 48}>;
constexpr auto first_not_snooped = vtd_first<vtd_first_features{.coherent = false}>;

constexpr device_access reading{};
constexpr device_access writing{.what = operation::write};
constexpr device_access modifying{.what = operation::read_write};
constexpr device_access fetching{.what = operation::fetch};

// ---- the specification's figures

constexpr manual::letter<vtd_second_fields> second_letters[] = {
    {'R', role::read, &vtd_second_fields::read},
    {'W', role::write, &vtd_second_fields::write},
    {'p', role::fixed, &vtd_second_fields::page_size, leaves},
    {'S', role::attribute, &vtd_second_fields::snoop},
    {'T', role::attribute, &vtd_second_fields::transient},
    {'A', role::accessed},
    {'D', role::dirty},
    {'a', role::address},
    {'.', role::software},
    {'0', role::reserved},
};
constexpr manual::letter<x86_fields> first_letters[] = {
    {'1', role::fixed, &x86_fields::present, every},
    {'W', role::write, &x86_fields::write},
    {'U', role::user, &x86_fields::user},
    {'T', role::memory_type, &x86_fields::write_through},
    {'C', role::memory_type, &x86_fields::cache_disable},
    {'A', role::accessed},
    {'D', role::dirty},
    {'t', role::memory_type, &x86_fields::pat},
    {'l', role::memory_type, &x86_fields::pat_large},
    {'p', role::fixed, &x86_fields::page_size, leaves},
    {'X', role::execute, &x86_fields::execute_disable, {}, true},
    {'a', role::address},
    {'.', role::software},
    {'0', role::reserved},
};

// clang-format off
constexpr manual::drawn second_full[] = {
    {"45", kind::table, ".0.. .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa 0..A 0... ..WR"},
    {"23", kind::table, ".0.. .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa 0..A p... ..WR"},
    {"3",  kind::leaf,  ".T.. .... .... aaaa aaaa aaaa aaaa aaaa aa00 0000 0000 0000 0000 S.DA p... ..WR"},
    {"2",  kind::leaf,  ".T.. .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 0000 S.DA p... ..WR"},
    {"1",  kind::leaf,  ".T.. .... .... aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa S.DA .... ..WR"},
};
constexpr manual::drawn second_plain[] = {
    {"23", kind::table, ".0.. .... .... 0000 0000 0000 0aaa aaaa aaaa aaaa aaaa aaaa aaaa 0... 0... ..WR"},
    {"1",  kind::leaf,  ".0.. .... .... 0000 0000 0000 0aaa aaaa aaaa aaaa aaaa aaaa aaaa 0... .... ..WR"},
};
constexpr manual::drawn first_48[] = {
    {"4",  kind::table, "0... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AC TUW1"},
    {"23", kind::table, "0... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... p.AC TUW1"},
    {"3",  kind::leaf,  "0... .... .... 0000 aaaa aaaa aaaa aaaa aa00 0000 0000 0000 000l .... pDAC TUW1"},
    {"2",  kind::leaf,  "0... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000l .... pDAC TUW1"},
    {"1",  kind::leaf,  "0... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... tDAC TUW1"},
};
constexpr manual::setting<vtd_second_features, 5> second_settings[] = {
    {"5 levels, SSADE, SC, DT", {.levels = 5, .scalable = true, .accessed_dirty = true, .transient = true}, second_full},
};
constexpr manual::setting<vtd_second_features, 2> plain_settings[] = {
    {"3 levels, HAW 39, 4K only", {.levels = 3, .physical_bits = 39, .large_pages = false, .gigabyte_pages = false, .snoop_control = false}, second_plain},
};
constexpr manual::setting<vtd_first_features, 5> first_settings[] = {
    {"4 levels, HAW 48", {.physical_bits = 48}, first_48},
    {"without 1G, with NXE", {.physical_bits = 48, .execute_disable = true, .gigabyte_pages = false}, first_48, {
    {"4",  kind::table, "X... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AC TUW1"},
    {"3",  kind::table, "X... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... 0.AC TUW1"},
    {"2",  kind::table, "X... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... p.AC TUW1"},
    {"3",  kind::leaf,  ""},
    {"2",  kind::leaf,  "X... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaa0 0000 000l .... pDAC TUW1"},
    {"1",  kind::leaf,  "X... .... .... 0000 aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa .... tDAC TUW1"}}},
};
// clang-format on

template <const auto& Settings, class Letters>
void check_layouts(const Letters& letters)
{
    const auto check = [&](auto index) {
        constexpr auto& s = Settings[index];
        CAPTURE(s.words);
        const auto found = format_for(s.features);
        REQUIRE(found->wrong().what == defect::none);
        CHECK(manual::difference(found, s, letters) == "");
        constexpr constant_format<typename decltype(s.features)::description, s.features> constants;
        CHECK(manual::difference(constants, s, letters) == "");
        CHECK(manual::difference_of(found, constants) == "");
    };
    [&]<std::size_t... Index>(std::index_sequence<Index...>) {
        (check(std::integral_constant<std::size_t, Index>{}), ...);
    }(std::make_index_sequence<std::size(Settings)>{});
}

/// The reason of a fault; 0: none.
template <class Format>
word reason(const Format& format, const walk_result& r, const device_access& a, const controls_of<Format>& c = {})
{
    return fault_code(r, a, c, format).value;
}

}  // namespace

TEST_CASE("VT-d's entries are drawn as in the specification")
{
    check_layouts<second_settings>(second_letters);
    check_layouts<plain_settings>(second_letters);
    check_layouts<first_settings>(first_letters);
    CHECK(format_for(vtd_second_features{.levels = 2})->wrong().what == defect::levels);
    CHECK(format_for(vtd_second_features{.levels = 6})->wrong().what == defect::levels);
    CHECK(format_for(vtd_second_features{.accessed_dirty = true})->wrong().what == defect::contradiction);
    CHECK(format_for(vtd_first_features{.levels = 3})->wrong().what == defect::levels);
    CHECK(format_for(vtd_first_features{.levels = 5})->shape().address_bits() == 57);
    CHECK(legacy->shape().above == extension::zeros);
    CHECK(first->shape().above == extension::sign);
}

TEST_CASE("VT-d: who sets A and D, and whether absent entries are cached")
{
    CHECK(legacy->accessed_by() == accessed_setter::nobody);
    CHECK_FALSE(legacy->accessed.exists());
    CHECK(tracked->accessed_by() == accessed_setter::hardware);
    CHECK(not_snooped->accessed_by() == accessed_setter::fault);
    CHECK(first->accessed_by() == accessed_setter::hardware);
    CHECK(first_not_snooped->accessed_by() == accessed_setter::fault);
    CHECK_FALSE(legacy->caches_absent());
    CHECK(format_for(vtd_second_features{.caching_mode = true})->caches_absent());
    CHECK_FALSE(first->caches_absent());
    CHECK(format_for(vtd_first_features{.caching_mode = true})->caches_absent());
}

TEST_CASE("VT-d, second stage: an entry is there by R or W, and W needs no R")
{
    CHECK_FALSE(present(0x1234'5004, legacy));
    CHECK(present(0x1234'5001, legacy));
    CHECK(present(0x1234'5002, legacy));
    CHECK(legal(0x1234'5002, 1, legacy));
    // Reserved bits count in present entries alone.
    CHECK(legal(0x4000'0000'1234'5804, 1, legacy));
    CHECK(diagnose(0x4000'0000'1234'5001, 1, legacy).broken == rule::reserved_bits);
    CHECK(encode(kind::leaf, 1, 0x1234'5000, {.read = false}, legacy).entry == 0x1234'5002);
    CHECK(encode(kind::leaf, 3, 0x4000'0000, {}, legacy, legacy->snoop(1)).entry == 0x4000'0883);
    CHECK(encode(kind::table, 4, 0x1234'5000, {}, legacy).entry == 0x1234'5003);
    CHECK(leaf_model::wrong_translations_both_ways(legacy) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(tracked) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(first) == 0);
}

TEST_CASE("VT-d, second stage: reasons in scalable mode, and in legacy mode")
{
    struct expected {
        word leaf;
        device_access a;
        word in_legacy;
        word in_scalable;
    };
    constexpr expected all[] = {
        {0x1234'5003, reading, 0, 0},
        {0x1234'5003, modifying, 0, 0},
        {0x1234'5004, reading, 6, 0x79},
        {0x1234'5000, writing, 5, 0x79},
        {0x1234'5002, reading, 6, 0x86},
        {0x1234'5001, writing, 5, 0x85},
        {0x1234'5001, modifying, 5, 0x85},
        {0x1234'5002, modifying, 6, 0x86},
        {0x4000'0000'1234'5003, reading, 0xc, 0x7a},
        {0x1234'5002, fetching, 6, 0x86},
        {0x8'0000'1234'5003, reading, 0xc, 0x7a},
    };
    constexpr auto scalable = vtd_second<vtd_second_features{.physical_bits = 48, .scalable = true}>;
    for (const expected& e : all) {
        CAPTURE(e.leaf);
        CHECK(reason(legacy, walk_to(legacy, 1, e.leaf, 0x1000, e.a).ended, e.a) == e.in_legacy);
        CHECK(reason(scalable, walk_to(scalable, 1, e.leaf, 0x1000, e.a).ended, e.a) == e.in_scalable);
    }
    // Beyond the tables, and beyond the unit's width.
    const walk_result wide = walk_to(scalable, 1, 0x1234'5003, 0x1000).ended;
    CHECK(wide);
    entry_chain chain(scalable, 1, 0x1234'5003, 0x1000);
    for (const unsigned bit : {40U, 48U, 63U}) {
        const word address = 0x1000 | word{1} << bit;
        const walk_result r = walk(scalable, wider::chain_root, address, reading, {.address_bits = 40}, chain.memory());
        CHECK(r.fault == fault_kind::address_too_wide);
        CHECK(reason(scalable, r, reading) == 0x84);
        CHECK(reason(legacy, r, reading) == 4);
    }
    CHECK(walk(scalable, wider::chain_root, 0x1000, reading, {.address_bits = 40}, chain.memory()));
    // Tables that cannot be read.
    const auto nowhere = [](word) -> word* { return nullptr; };
    const walk_result none = walk(scalable, 0x1000, 0, reading, {}, nowhere);
    CHECK(reason(scalable, none, reading) == 0x7b);
    CHECK(reason(legacy, none, reading) == 7);
    chain.put(4, 0x7fff'f003);
    const walk_result lost = walk(scalable, wider::chain_root, 0x1000, reading, {}, chain.memory());
    CHECK(reason(scalable, lost, reading) == 0x78);
    CHECK_FALSE(fault_code(wide, reading, {}, scalable));
}

TEST_CASE("VT-d, second stage: A in every entry and D in the page, or a fault where walks do not snoop")
{
    entry_chain chain(tracked, 1, 0x1234'5003, 0x1000);
    const word above = chain.get(4);
    CHECK(chain.walked(writing));
    CHECK(chain.get(1) == 0x1234'5303);
    CHECK(chain.get(4) == (above | 0x100));

    entry_chain silent(not_snooped, 1, 0x1234'5303, 0x1000);
    CHECK(silent.walked(reading));  // nothing sets A in tables' entries, so encode() did
    for (const unsigned level : {2U, 3U, 4U}) silent.put(level, silent.get(level) & ~word{0x100});
    const walk_result r = silent.walked(reading);
    CHECK(r.fault == fault_kind::access_flag);  // A is clear in a table's entry
    CHECK(reason(not_snooped, r, reading) == 0x7c);
    CHECK(silent.get(4) == above);
    for (const unsigned level : {2U, 3U, 4U}) silent.put(level, silent.get(level) | 0x100);
    CHECK(silent.walked(writing));
    silent.put(1, 0x1234'5103);
    CHECK(silent.walked(reading));
    CHECK(reason(not_snooped, silent.walked(writing), writing) == 0x7c);
    silent.put(1, 0x1234'5001);
    CHECK(reason(not_snooped, silent.walked(writing), writing) == 0x85);
    CHECK(reason(not_snooped, silent.walked(reading), reading) == 0x7c);
}

TEST_CASE("VT-d, first stage: rights of a user's and of a privileged request")
{
    constexpr device_access kernel_writing{.what = operation::write, .user = false};
    constexpr device_controls no_wpe{.write_protect = false};
    const auto reason_of = [](word leaf, const device_access& a, const device_controls& c = {}) {
        return reason(first, walk_to(first, 1, leaf, 0x1000, a, c).ended, a, c);
    };
    CHECK(reason_of(0x1234'5007, writing) == 0);
    CHECK(reason_of(0x1234'5006, reading) == 0x71);
    CHECK(reason_of(0x1234'5003, reading) == 0x81);
    CHECK(reason_of(0x1234'5005, reading) == 0);
    CHECK(reason_of(0x1234'5005, writing) == 0x85);
    CHECK(reason_of(0x1234'5001, writing) == 0x81);
    CHECK(reason_of(0x8'0000'1234'5007, reading) == 0x72);
    CHECK(reason_of(0x8000'0000'1234'5007, reading) == 0x72);  // XD without NXE
    CHECK(reason_of(0x1234'5003, kernel_writing) == 0);
    CHECK(reason_of(0x1234'5001, kernel_writing) == 0x85);
    CHECK(reason_of(0x1234'5001, kernel_writing, no_wpe) == 0);
    constexpr auto nxe = vtd_first<vtd_first_features{.execute_disable = true}>;
    CHECK(reason(nxe, walk_to(nxe, 1, 0x8000'0000'1234'5007, 0x1000, fetching).ended, fetching) == 0x82);
    constexpr device_access kernel_fetches{.what = operation::fetch, .user = false};
    CHECK(walk_to(nxe, 1, 0x1234'5007, 0x1000, kernel_fetches).ended);
    CHECK(walk_to(nxe, 1, 0x1234'5007, 0x1000, kernel_fetches, {.smep = true}).ended.fault == fault_kind::protection);
    // Both halves of the address space, and nothing between them.
    CHECK(walk_to(first, 1, 0x1234'5007, 0xffff'8000'0000'1000).ended);
    entry_chain chain(first, 1, 0x1234'5007, 0x1000);
    const walk_result r = walk(first, wider::chain_root, 0x8000'0000'1000, reading, {}, chain.memory());
    CHECK(reason(first, r, reading) == 0x80);
    chain.put(4, 0x7fff'f007);
    CHECK(reason(first, chain.walked(reading), reading) == 0x70);
    const auto nowhere = [](word) -> word* { return nullptr; };
    CHECK(reason(first, walk(first, 0x1000, 0, reading, {}, nowhere), reading) == 0x73);
}

TEST_CASE("VT-d, first stage where walks do not snoop: A and D are preset, or a fault")
{
    entry_chain chain(first_not_snooped, 1, 0x1234'5067, 0x1000);
    CHECK(chain.walked(reading));
    for (const unsigned level : {2U, 3U, 4U}) chain.put(level, chain.get(level) & ~word{0x20});
    CHECK(reason(first_not_snooped, chain.walked(reading), reading) == 0x90);
    for (const unsigned level : {2U, 3U, 4U}) chain.put(level, chain.get(level) | 0x20);
    CHECK(chain.walked(writing));
    chain.put(1, 0x1234'5027);
    CHECK(chain.walked(reading));
    CHECK(reason(first_not_snooped, chain.walked(writing), writing) == 0x90);
    chain.put(1, 0x1234'5003);
    CHECK(reason(first_not_snooped, chain.walked(reading), reading) == 0x81);
    CHECK(chain.get(1) == 0x1234'5003);
}

TEST_CASE("VT-d, both stages: the first stage's tables are read, and A and D set, by the second's rights")
{
    constexpr auto below = vtd_second<vtd_second_features{.levels = 3, .scalable = true}>;
    constexpr word second_root = 0x10'0000, first_root = 0x20'0000;
    walking::arena memory(second_root, 0x200);
    // Gigabyte 0 as it is; level 2 and 1 for single pages.
    constexpr word level_2 = 0x10'1000, level_1 = 0x10'2000;
    memory.put(second_root, level_2 | 3);
    memory.put(level_2 + 8, level_1 | 3);
    const auto second_page = [&](word address, word rights) {
        memory.put(level_1 + 8 * (address >> 12 & 0x1ff), address | rights);
    };
    // The first stage's tables at 20'0000h, 20'1000h and on; a page at 20'8000h.
    for (word n = 0; n < 4; ++n) {
        memory.put(first_root + 0x1000 * n, (n < 3 ? first_root + 0x1000 * (n + 1) : first_root + 0x8000) | 7);
    }
    const auto walked = [&](const device_access& a, word& why) {
        const auto r = nested_walk(first, first_root, below, second_root, 0x123, a, {}, memory);
        why = static_cast<word>(nested_reason(r, a, {}, first, below));
        return r;
    };
    const auto all_pages = [&](word rights) {
        for (word n = 0; n < 16; ++n) second_page(first_root + 0x1000 * n, rights);
    };
    word why = 0;
    all_pages(3);
    const auto r = walked(writing, why);
    CHECK(r);
    CHECK(why == 0);
    CHECK(r.address() == first_root + 0x8123);
    CHECK(memory.get<word>(first_root + 0x3000) == ((first_root + 0x8000) | 0x67));
    CHECK(memory.get<word>(first_root) == ((first_root + 0x1000) | 0x27));

    second_page(first_root + 0x8000, 1);
    CHECK_FALSE(walked(writing, why));
    CHECK(why == 0x85);
    second_page(first_root + 0x8000, 0);
    CHECK_FALSE(walked(reading, why));
    CHECK(why == 0x79);
    second_page(first_root, 2);
    CHECK_FALSE(walked(reading, why));
    CHECK(why == 0x75);
    second_page(first_root, 3);
    second_page(first_root + 0x2000, 2);
    CHECK_FALSE(walked(reading, why));
    CHECK(why == 0x76);
    all_pages(1);
    CHECK(walked(reading, why));  // A is set in all
    memory.put(first_root + 0x1000, (first_root + 0x2000) | 7);
    CHECK_FALSE(walked(reading, why));
    CHECK(why == 0x77);
    memory.put(first_root, word{1} << 39 | 0x27);
    CHECK_FALSE(walked(reading, why));
    CHECK(why == 0x74);
    memory.put(first_root, word{0});
    CHECK_FALSE(walked(reading, why));
    CHECK(why == 0x71);
}
