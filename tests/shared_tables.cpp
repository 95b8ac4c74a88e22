// SPDX-License-Identifier: BSL-1.0
// Tables that a CPU and an IOMMU walk both: EPT and VT-d's second stage, NPT and AMD-Vi's host tables, ordinary paging
// and first-stage tables. Expectations are the manuals' figures, laid over each other.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <ptebits/shared_tables.hpp>
#include <string_view>

#include "walking.hpp"

using namespace ptebits;

namespace {

using word = std::uint64_t;

constexpr auto cpu = ept<ept_features{.physical_bits = 46}>;
constexpr auto unit = vtd_second<vtd_second_features{.physical_bits = 46}>;
constexpr auto nested = npt<npt_features{.physical_bits = 48}>;
constexpr auto iommu = amdvi_host<amdvi_host_features{.physical_bits = 48, .accessed_bits = true, .dirty_bits = true}>;

}  // namespace

TEST_CASE("EPT tables as VT-d's second stage: bit by bit")
{
    const shared_tables s = share_tables(cpu, unit);
    CHECK(s);
    CHECK(s.address_bits == 48);
    CHECK_FALSE(s.flush_after_absent);
    CHECK(s.both == (leaves_up_to(3) | tables_up_to(4)));
    // A page: EPT's X, memory type, IPAT, A and D are ignored; SNP is ignored by EPT; TM is reserved.
    CHECK(shared_bits_of(1, kind::leaf, cpu, unit) ==
          shared_bits{.second_reserves = word{1} << 62, .first_ignores = 0x800, .second_ignores = 0x37c});
    // With SSADE both have A and D; without SC bit 11 is reserved.
    constexpr auto tracked = vtd_second<vtd_second_features{
        .physical_bits = 46, .scalable = true, .accessed_dirty = true, .snoop_control = false}>;
    CHECK(shared_bits_of(1, kind::leaf, cpu, tracked) ==
          shared_bits{.second_reserves = word{1} << 62 | 0x800, .second_ignores = 0x7c});
    // A table: EPT reserves bits 6:3, VT-d bits 62 and 11.
    CHECK(shared_bits_of(2, kind::table, cpu, tracked) ==
          shared_bits{.first_reserves = 0x78, .second_reserves = word{1} << 62 | 0x800, .second_ignores = 0x4});
    // A narrower unit.
    constexpr auto narrow = vtd_second<vtd_second_features{.physical_bits = 39}>;
    CHECK(shared_bits_of(2, kind::table, cpu, narrow).second_reserves == (word{1} << 62 | 0x800 | ones(45, 39)));

    // What keeps tables from being shared.
    constexpr auto three = vtd_second<vtd_second_features{.levels = 3}>;
    CHECK(share_tables(cpu, three).error == sharing_error::shape);
    constexpr auto small = vtd_second<vtd_second_features{.large_pages = false, .gigabyte_pages = false}>;
    CHECK(share_tables(cpu, small).both == (leaf_at(1) | tables_up_to(4)));
    CHECK(share_tables(cpu, format_for(vtd_second_features{.levels = 7})).error == sharing_error::wrong_format);
    CHECK(share_tables(cpu, format_for(vtd_second_features{.caching_mode = true})).flush_after_absent);
    CHECK(std::string_view(name(sharing_error::shape)) == "tables of different shapes");
}

TEST_CASE("EPT tables as VT-d's second stage: entry by entry")
{
    const auto both = encode_for_both(kind::leaf, 2, 0x4020'0000, {.execute = false}, cpu, unit, cpu->memory_type(6));
    CHECK(both.entry == 0x4020'00b3);
    CHECK(same_for_both(0x4020'00b3, 2, cpu, unit));
    CHECK(encode_for_both(kind::leaf, 1, 0x5000, {}, cpu, unit, {}, unit->snoop(1)).entry == 0x5807);
    CHECK(encode_for_both(kind::table, 4, 0x5000, {}, cpu, unit).entry == 0x5007);
    CHECK(encode_for_both(kind::leaf, 2, 0x5000, {}, cpu, unit).error == encode_error::address_misaligned);
    // Present to one alone; legal to one alone.
    CHECK_FALSE(same_for_both(0x5004, 1, cpu, unit));  // execute-only
    CHECK_FALSE(same_for_both(0x5002, 1, cpu, unit));  // write without read is a misconfiguration
    CHECK_FALSE(same_for_both(word{1} << 62 | 0x5003, 1, cpu, unit));
    CHECK_FALSE(same_for_both(0x580f, 2, cpu, unit));
    CHECK(same_for_both(0, 1, cpu, unit));
    CHECK(same_for_both(word{1} << 63, 1, cpu, unit));
    constexpr auto small = vtd_second<vtd_second_features{.large_pages = false}>;
    CHECK_FALSE(same_for_both(0x4020'00b3, 2, cpu, small));
    CHECK(encode_for_both(kind::leaf, 2, 0x4020'0000, {}, cpu, small).error == encode_error::no_such_entry);
}

TEST_CASE("NPT's tables as AMD-Vi's host tables: one entry has both formats' fields")
{
    const shared_tables s = share_tables(nested, iommu);
    CHECK(s);
    CHECK(s.address_bits == 48);
    CHECK(s.both == (leaves_up_to(3) | tables_up_to(4)));
    // A page: R/W, U/S, PWT, PCD, PAT and NX are the CPU's; NextLevel, U, FC, IR and IW the IOMMU's; it reserves 58:52.
    CHECK(shared_bits_of(1, kind::leaf, nested, iommu) == shared_bits{.second_reserves = ones(58, 52),
                                                                      .first_ignores = ones(62, 59) | 0xe00,
                                                                      .second_ignores = word{1} << 63 | 0x9e});
    CHECK(encode_for_both(kind::leaf, 1, 0x5000, {}, nested, iommu).entry == 0x6000'0000'0000'5007);
    CHECK(encode_for_both(kind::leaf, 2, 0x20'0000, {.write = false}, nested, iommu).entry == 0x2000'0000'0020'0085);
    CHECK(encode_for_both(kind::table, 3, 0x5000, {}, nested, iommu).entry == 0x6000'0000'0000'5407);
    // Entries of one that are not the other's: rights or the level missing, a coded size, a skipped level.
    CHECK_FALSE(same_for_both(0x5007, 1, nested, iommu));
    CHECK_FALSE(same_for_both(0x6000'0000'0000'5001, 1, nested, iommu));
    CHECK_FALSE(same_for_both(0x6000'0000'0000'4e07, 1, nested, iommu));
    CHECK_FALSE(same_for_both(0x6000'0000'0000'5007, 3, nested, iommu));
    CHECK_FALSE(same_for_both(0x6000'0000'0000'5207, 3, nested, iommu));
    CHECK_FALSE(same_for_both(0x6010'0000'0000'5007, 1, nested, iommu));
    CHECK(share_tables(nested, amdvi_host<amdvi_host_features{.levels = 3}>).error == sharing_error::shape);
}

TEST_CASE("ordinary tables as first-stage tables")
{
    constexpr auto paging = shadow<shadow_features{.physical_bits = 46}>;
    constexpr auto first = vtd_first<vtd_first_features{.physical_bits = 46, .execute_disable = true}>;
    const shared_tables s = share_tables(paging, first);
    CHECK(s);
    CHECK(s.address_bits == 48);
    CHECK(shared_bits_of(1, kind::leaf, paging, first) == shared_bits{.second_ignores = 0x100});  // G
    // Without NXE, XD is reserved.
    constexpr auto no_xd = vtd_first<vtd_first_features{.physical_bits = 46}>;
    CHECK(shared_bits_of(1, kind::leaf, paging, no_xd) ==
          shared_bits{.second_reserves = word{1} << 63, .second_ignores = 0x100});
    CHECK(encode_for_both(kind::leaf, 1, 0x5000, {.execute = false}, paging, first).error == encode_error::none);
    // Ordinary entries and EPT's have other meanings for bits 0, 2, 5, 6 and 8.
    CHECK(shared_bits_of(1, kind::leaf, paging, cpu).different == 0x165);
}

TEST_CASE("walks of shared tables by both formats come to one address")
{
    walking::arena memory(0x10'0000, 8);
    const auto put = [&](unsigned n, word entry) { memory.put(0x10'0000 + 0x1000 * n, entry); };
    for (unsigned n = 0; n < 3; ++n) {
        put(n, encode_for_both(kind::table, 4 - n, 0x10'1000 + 0x1000 * n, {}, nested, iommu).entry);
    }
    put(3, encode_for_both(kind::leaf, 1, 0x1234'5000, {.write = false}, nested, iommu).entry);
    const walk_result by_cpu = walk(nested, 0x10'0000, 0x678, {.what = operation::read, .user = true}, {}, memory);
    const walk_result by_iommu = walk(iommu, 0x10'0000, 0x678, {}, {}, memory);
    CHECK(by_cpu.address == 0x1234'5678);
    CHECK(by_iommu.address == 0x1234'5678);
    CHECK(walk(iommu, 0x10'0000, 0x678, {.what = operation::write}, {}, memory).fault == fault_kind::protection);
    CHECK(walk(nested, 0x10'0000, 0x678, {.what = operation::write, .user = true}, {}, memory).fault ==
          fault_kind::protection);
}
