// SPDX-License-Identifier: BSL-1.0
// Kinds of fault that others' IOMMU code had, by public reports; docs/faults.md names these tests. Expectations are the
// specifications'.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/amdvi_registers.hpp>
#include <ptebits/ptebits.hpp>
#include <ptebits/vtd_registers.hpp>
#include <type_traits>
#include <utility>

#include "walking.hpp"

using namespace ptebits;

namespace {

using word = std::uint64_t;

constexpr auto unit = vtd_second<vtd_second_features{.levels = 3}>;
constexpr auto first = vtd_first<vtd_first_features{}>;
constexpr auto host = amdvi_host<amdvi_host_features{.levels = 3, .accessed_bits = true, .dirty_bits = true}>;

constexpr device_access writing{.what = operation::write};

/// Some tables, the first of which is a root.
struct some_tables {
    walking::arena memory{0x4000, 12};
    word next = 0x5000;

    struct slots {
        walking::arena* of;
        template <class Word>
        Word* operator()(word physical, std::type_identity<Word> t) const
        {
            return (*of)(physical, t);
        }
    };
    struct allocator {
        some_tables* of;
        [[nodiscard]] optional_address allocate(unsigned) const { return std::exchange(of->next, of->next + 0x1000); }
        void release(word, unsigned) const {}
    };
    template <class Format>
    auto as_tree(const Format& format)
    {
        return tree{format, word{0x4000}, slots{&memory}, allocator{this}};
    }
    [[nodiscard]] word get(word physical) const { return memory.get<word>(physical); }
    template <class Format>
    walk_result walked(word address, const device_access& a, const Format& format)
    {
        return walk(format, 0x4000, address, a, {}, memory);
    }
};

}  // namespace

TEST_CASE("IOMMUs: a large page on the way down is no table: it is split, or refused")
{
    some_tables t;
    auto tree = t.as_tree(unit);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x4000'0000, 0x401f'ffff}, 0x4000'0000, {}, list));
    CHECK(t.get(0x5000) == 0x4000'0083);
    CHECK(unmap(tree, {0x4000'1000, 0x4000'1fff}, list).end == tree_end::inside_page);
    CHECK(t.get(0x5000) == 0x4000'0083);
    CHECK(unmap(tree, {0x4000'1000, 0x4000'1fff}, list, {.ends = range_end::split}).pages == 1);
    CHECK(t.get(0x5000) == 0x6003);
    CHECK(t.get(0x6000) == 0x4000'0003);
    CHECK(t.get(0x6008) == 0);
    CHECK(t.get(0x6010) == 0x4000'2003);
    CHECK(t.walked(0x4000'1000, {}, unit).fault == fault_kind::not_present);
    CHECK(t.walked(0x4000'2123, writing, unit).address == 0x4000'2123);
}

TEST_CASE("IOMMUs: a large page whose base is not aligned is a fault, and map takes smaller pages")
{
    CHECK(diagnose(0x4000'1083, 3, unit).broken == rule::reserved_bits);
    some_tables t;
    t.memory.put<word>(0x4000, 0x4000'1083);
    const walk_result r = t.walked(0, {}, unit);
    CHECK(fault_code(r, {}, {}, unit).value == 0xc);
    // 1 Gbyte to a physical address that is aligned to 2 Mbytes alone.
    some_tables u;
    auto tree = u.as_tree(unit);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x4000'0000, 0x7fff'ffff}, 0x4020'0000, {}, list));
    CHECK(u.get(0x4008) == 0x5003);
    CHECK(u.get(0x5000) == 0x4020'0083);
}

TEST_CASE("IOMMUs: AW and SAGAW are a code and a set, and Mode is held against HATS")
{
    // AW 1 is 3 levels, 2 is 4; SAGAW 6 has both, 4 has AW 2 alone.
    CHECK(read_vtd_context(0x5001, 1, {.cap = 0x600}).second.levels == 3);
    CHECK(read_vtd_context(0x5001, 2, {.cap = 0x600}).second.levels == 4);
    CHECK(read_vtd_context(0x5001, 2, {.cap = 0x400}).second.levels == 4);
    CHECK(read_vtd_context(0x5001, 1, {.cap = 0x400}).refused == vtd_reason::context_invalid);
    CHECK(read_amdvi_device_entry({0x5a03, 0}, {.efr = 0x400}).host.levels == 5);
    CHECK(read_amdvi_device_entry({0x5a03, 0}, {.efr = 0}).refused == amdvi_event::illegal_device_entry);
}

TEST_CASE("IOMMUs: a page may be written and not read")
{
    some_tables t;
    auto tree = t.as_tree(unit);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x1000, 0x1fff}, 0x5000'0000, {.read = false}, list));
    CHECK(t.get(0x6008) == 0x5000'0002);
    CHECK(t.walked(0x1000, writing, unit));
    CHECK(t.walked(0x1000, {}, unit).fault == fault_kind::protection);
    CHECK(t.walked(0x1000, {.what = operation::read_write}, unit).fault == fault_kind::protection);
    CHECK(encode(kind::leaf, 1, 0x5000, {.read = false}, host).entry == 0x4000'0000'0000'5001);
    // The first stage has no right to read of its own.
    CHECK(encode(kind::leaf, 1, 0x5000, {.read = false}, first).error == encode_error::permission_not_offered);
}

TEST_CASE("IOMMUs: what was made present is reported where absent entries are cached")
{
    const auto due = [](const auto& format) {
        some_tables t;
        auto tree = t.as_tree(format);
        flush_list_of<> list;
        REQUIRE(map(tree, {0x1000, 0x1fff}, 0x8000'1000, {}, list));
        return list.due();
    };
    CHECK(due(unit) == flush_due::nothing);
    CHECK(due(vtd_second<vtd_second_features{.levels = 3, .caching_mode = true}>) == flush_due::items);
    CHECK(due(host) == flush_due::nothing);
    CHECK(due(amdvi_host<amdvi_host_features{.levels = 3, .caches_absent = true}>) == flush_due::items);
    CHECK(due(format_for(vtd_first_features{.caching_mode = true})) == flush_due::items);
}

TEST_CASE("IOMMUs: where tables were taken out, the invalidation takes entries that refer to tables, too")
{
    some_tables t;
    auto tree = t.as_tree(unit);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x1000, 0x1fff}, 0x8000'1000, {}, list));
    REQUIRE(unmap(tree, {0x1000, 0x1fff}, list));
    REQUIRE(prune(tree, {0, 0x3fff'ffff}, list));
    CHECK(t.get(0x4000) == 0);
    REQUIRE(list.item_count() >= 1);
    constexpr vtd_unit by{.cap = word{1} << 39 | word{63} << 48};
    bool upper = false;
    for (const flush_item& item : list) {
        upper = upper || item.upper;
        CHECK((vtd_invalidation(item, {}, by, unit).high >> 6 & 1) == (item.upper ? 0 : 1));  // IH
        CHECK((amdvi_invalidation(item, {}, host).high >> 1 & 1) == (item.upper ? 1 : 0));    // PDE
    }
    CHECK(upper);
}

TEST_CASE("IOMMUs: where walks do not snoop, A and D are set from the start")
{
    const auto check = [](const auto& silent, word in_table, word in_page, word reason) {
        some_tables t;
        auto tree = t.as_tree(silent);
        flush_list_of<> list;
        REQUIRE(map(tree, {0x1000, 0x1fff}, 0x8000'1000, {}, list, {.attributes = {.used = true}}));
        CHECK(t.walked(0x1000, writing, silent));
        CHECK((t.get(0x4000) & in_table) != 0);
        // A page that nobody marked faults, and nothing is set.
        REQUIRE(map(tree, {0x2000, 0x2fff}, 0x8000'2000, {}, list));
        const walk_result r = t.walked(0x2000, {}, silent);
        CHECK(r.fault == fault_kind::access_flag);
        CHECK(fault_code(r, {}, {}, silent).value == reason);
        CHECK((r.last_entry() & in_page) == 0);
        // A large page that is split stays so.
        REQUIRE(map(tree, {0x4000'0000, 0x401f'ffff}, 0x4000'0000, {}, list, {.attributes = {.used = true}}));
        REQUIRE(unmap(tree, {0x4000'1000, 0x4000'1fff}, list, {.ends = range_end::split}));
        CHECK(t.walked(0x4000'2000, writing, silent));
    };
    check(vtd_first<vtd_first_features{.coherent = false}>, 0x20, 0x60, 0x90);
    check(vtd_second<vtd_second_features{.levels = 3, .scalable = true, .accessed_dirty = true, .coherent = false}>,
          0x100, 0x300, 0x7c);
}

TEST_CASE("IOMMUs: pages of coded sizes are mapped, protected, split and taken away with all their copies")
{
    some_tables t;
    auto tree = t.as_tree(host);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x1'0000, 0x1'ffff}, 0x8001'0000, {}, list));
    // 64 Kbytes: bits 14:12 are ones, bit 15 is zero; 16 copies.
    for (word n = 0; n < 16; ++n) CHECK(t.get(0x6080 + 8 * n) == 0x6000'0000'8001'7e01);
    CHECK(t.walked(0x1'3123, writing, host).address == 0x8001'3123);
    // The one copy that was used has A and D; protecting keeps them and changes all.
    CHECK(t.get(0x6098) == 0x6000'0000'8001'7e61);
    REQUIRE(protect(tree, {0x1'0000, 0x1'ffff}, {.write = false}, list));
    for (word n = 0; n < 16; ++n) CHECK((t.get(0x6080 + 8 * n) & ~word{0x60}) == 0x2000'0000'8001'7e01);
    // A part of it: its ends are inside a page.
    CHECK(unmap(tree, {0x1'0000, 0x1'0fff}, list).end == tree_end::inside_page);
    CHECK(unmap(tree, {0x1'0000, 0x1'0fff}, list, {.ends = range_end::split}).pages == 1);
    CHECK(t.get(0x6080) == 0);
    for (word n = 1; n < 16; ++n) CHECK(t.walked(0x1'0000 + 0x1000 * n, {}, host).address == 0x8001'0000 + 0x1000 * n);
    CHECK(t.walked(0x1'0000, {}, host).fault == fault_kind::not_present);
    // The dirty state was the page's: each of its parts may have been written.
    const auto report = [](word, word) {};
    CHECK(harvest_range(host, 0x4000, {}, t.memory, report).pages > 0);
}
