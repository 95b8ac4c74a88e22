// SPDX-License-Identifier: BSL-1.0
// What VT-d's registers and entries say of tables, fault records, invalidation. Expectations are the specification's.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <ptebits/vtd_registers.hpp>
#include <string_view>

using namespace ptebits;

namespace {

using word = std::uint64_t;

/// A unit as one was found: 3 and 4 levels, 2M and 1G, MGAW 48, MAMV 18, PSI; scalable mode, both stages.
constexpr vtd_unit unit{.cap = 0x00d2'008c'222f'0606, .ecap = 0xc800'00f0'0f4a, .host_bits = 48};

constexpr vtd_unit with(word cap, word ecap = 0) { return {unit.cap | cap, unit.ecap | ecap, unit.host_bits}; }

constexpr auto second = vtd_second<vtd_second_features{}>;
constexpr auto first = vtd_first<vtd_first_features{}>;

}  // namespace

TEST_CASE("a context entry: tables, and why there are none")
{
    const vtd_tables t = read_vtd_context(0x1234'5001, 0x0502, unit);
    CHECK(t);
    CHECK(t.stages == vtd_stages::second);
    CHECK(t.second_root == 0x1234'5000);
    CHECK(t.domain == 5);
    CHECK(t.second == vtd_second_features{.levels = 4, .physical_bits = 48, .coherent = false, .snoop_control = false});
    CHECK(t.second_controls.address_bits == 48);
    const vtd_tables three = read_vtd_context(0x1234'5001, 0xffff01, with(0x80, 0x85));
    CHECK(three.second == vtd_second_features{.levels = 3, .physical_bits = 48, .caching_mode = true});
    CHECK(three.domain == 0xffff);
    CHECK(read_vtd_context(0x1234'5001, 0x0502, {unit.cap & ~(word{1} << 34), unit.ecap}).second.large_pages == false);
    CHECK(read_vtd_context(0x1234'5001, 0x0502, {unit.cap & ~(word{1} << 35), unit.ecap}).second.gigabyte_pages ==
          false);
    CHECK(read_vtd_context(0x1234'5001, 0x0502, {unit.cap, unit.ecap | 4, 48, true}).second.transient);
    CHECK_FALSE(read_vtd_context(0x1234'5001, 0x0502, {unit.cap, unit.ecap, 48, true}).second.transient);

    const auto refused = [](word low, word high, const vtd_unit& by = unit) {
        const vtd_tables r = read_vtd_context(low, high, by);
        CHECK(r.second_root == 0);
        CHECK(r.stages == vtd_stages::none);
        return r.refused;
    };
    CHECK(refused(0x1234'5000, 2) == vtd_reason::context_not_present);
    for (const unsigned width : {0U, 3U, 4U, 5U, 6U, 7U})
        CHECK(refused(0x1234'5001, width) == vtd_reason::context_invalid);
    CHECK(refused(0x1234'500d, 2) == vtd_reason::context_invalid);  // TT 3
    CHECK(refused(0x1234'5005, 2) == vtd_reason::context_invalid);  // TT 1 without device TLBs
    CHECK(read_vtd_context(0x1234'5005, 2, with(0, 4)).stages == vtd_stages::second);
    CHECK(read_vtd_context(0x1234'5009, 2, unit).stages == vtd_stages::pass_through);
    CHECK(refused(0x1234'5009, 2, {unit.cap, unit.ecap & ~word{0x40}, 48}) == vtd_reason::context_invalid);
    CHECK(read_vtd_context(0x1234'5001, 3, with(0x800)).second.levels == 5);
    for (unsigned bit = 4; bit < 12; ++bit) {
        CHECK(refused(0x1234'5001 | word{1} << bit, 2) == vtd_reason::context_reserved);
    }
    CHECK(refused(0x1234'5001 | word{1} << 48, 2) == vtd_reason::context_reserved);
    CHECK(read_vtd_context(0x1234'5003, 0x7a, unit));  // FPD and AVAIL
    CHECK(refused(0x1234'5001, 0x82) == vtd_reason::context_reserved);
    CHECK(refused(0x1234'5001, 0x100'0002) == vtd_reason::context_reserved);
}

TEST_CASE("a PASID-table entry: stages, features, and why there are none")
{
    const auto read = [](word w0, word w1, word w2, const vtd_unit& by = unit) {
        const word words[3] = {w0, w1, w2};
        return read_vtd_pasid_entry(words, by);
    };
    const vtd_unit all = with(word{1} << 60 | word{1} << 56,
                              word{1} << 26 | word{1} << 31 | word{1} << 34 | word{1} << 45 | word{1} << 48);
    // Second stage: PGTT 2, AW 2.
    const vtd_tables s = read(0x1234'5089, 0x0100'0007, 0);
    CHECK(s.stages == vtd_stages::second);
    CHECK(s.second_root == 0x1234'5000);
    CHECK(s.first_root == 0);
    CHECK(s.domain == 7);
    CHECK(s.pages_snoop);
    CHECK(s.second ==
          vtd_second_features{
              .levels = 4, .physical_bits = 48, .scalable = true, .coherent = false, .snoop_control = false});
    const vtd_tables tracked = read(0x1234'5289, 0x0080'0007, 0, all);
    CHECK(tracked.second.accessed_dirty);
    CHECK(tracked.second.coherent);
    CHECK_FALSE(tracked.pages_snoop);
    // First stage: PGTT 1; WPE, NXE, SMEP.
    const vtd_tables f = read(0x1234'5041, 7, 0x8765'4071);
    CHECK(f.refused == vtd_reason::pasid_reserved);  // SRE without SRS
    const vtd_tables kernel = read(0x1234'5041, 0x0080'0007, 0x8765'4071, all);
    CHECK(kernel.stages == vtd_stages::first);
    CHECK(kernel.first_root == 0x8765'4000);
    CHECK(kernel.second_root == 0);
    CHECK(kernel.first == vtd_first_features{.physical_bits = 48, .execute_disable = true});
    CHECK(kernel.first_controls == device_controls{.write_protect = true, .smep = true});
    const vtd_tables five = read(0x41, 7, 0x8765'4004, all);
    CHECK(five.first == vtd_first_features{.levels = 5, .physical_bits = 48, .coherent = false});
    CHECK(five.first_controls == device_controls{.write_protect = false, .smep = false});
    CHECK_FALSE(read(0x41, 7, 0x8765'4000).first.gigabyte_pages);
    // Both, and neither.
    const vtd_tables nested = read(0x1234'50c9, 7, 0x8765'4000, all);
    CHECK(nested.stages == vtd_stages::nested);
    CHECK(nested.first_root == 0x8765'4000);
    CHECK(nested.second_root == 0x1234'5000);
    CHECK(nested.second.levels == 4);
    CHECK(read(0x101, 7, 0).stages == vtd_stages::pass_through);

    const auto refused = [&](word w0, word w1, word w2, const vtd_unit& by = unit) {
        const vtd_tables r = read(w0, w1, w2, by);
        CHECK(r.stages == vtd_stages::none);
        CHECK(r.first_root == 0);
        CHECK(r.second_root == 0);
        return r.refused;
    };
    CHECK(refused(0x1234'5088, 7, 0) == vtd_reason::pasid_not_present);
    CHECK(refused(0x1234'5001, 7, 0) == vtd_reason::pasid_invalid);          // PGTT 0
    CHECK(refused(0x1234'5149, 7, 0) == vtd_reason::pasid_invalid);          // PGTT 5
    CHECK(refused(0x1234'508d, 7, 0) == vtd_reason::pasid_invalid);          // AW 3
    CHECK(refused(0x1234'50c9, 7, 0) == vtd_reason::pasid_invalid);          // nested without NEST
    CHECK(refused(0x41, 7, 0x8765'4004) == vtd_reason::pasid_invalid);       // 5 levels without FS5LP
    CHECK(refused(0x41, 7, 0x8765'4008, all) == vtd_reason::pasid_invalid);  // FSPM 2
    CHECK(refused(0x41, 7, 0, {unit.cap, unit.ecap & ~(word{1} << 47), 48}) == vtd_reason::pasid_invalid);
    CHECK(refused(0x89, 7, 0, {unit.cap, unit.ecap & ~(word{1} << 46), 48}) == vtd_reason::pasid_invalid);
    CHECK(refused(0x101, 7, 0, {unit.cap, unit.ecap & ~word{0x40}, 48}) == vtd_reason::pasid_invalid);
    CHECK(refused(0x1234'5289, 7, 0) == vtd_reason::pasid_reserved);     // SSADE
    CHECK(refused(0x89, 0x0080'0007, 0) == vtd_reason::pasid_reserved);  // PWSNP
    CHECK(refused(0x41, 7, 0x80) == vtd_reason::pasid_reserved);         // EAFE
    CHECK(refused(0x89 | word{1} << 48, 7, 0) == vtd_reason::pasid_reserved);
    CHECK(refused(0x41, 7, word{1} << 48) == vtd_reason::pasid_reserved);
    CHECK(read(0xc9, 7, word{1} << 48, all));  // second-stage input
    CHECK(std::string_view(name(vtd_stages::pass_through)) == "pass-through");
}

TEST_CASE("fault records, and the way back")
{
    // A write of 00:01.0 to 1234'5000h, reason 5.
    const vtd_fault f = read_vtd_fault(0x1234'5000, 0x8000'0005'0000'0008);
    CHECK(f);
    CHECK(f.reason == vtd_reason::write);
    CHECK(f.page == 0x1234'5000);
    CHECK(f.source == 8);
    CHECK(f.access == device_access{.what = operation::write});
    CHECK_FALSE(f.has_pasid);
    CHECK(vtd_record_of(f) == vtd_fault_record{0x1234'5000, 0x8000'0005'0000'0008});
    // A privileged fetch with PASID abcdeh, reason 82.
    const vtd_fault g = read_vtd_fault(0xffff'8000'0000'1000, 0xcabc'de82'e000'0010);
    CHECK(g.reason == vtd_reason::execute);
    CHECK(g.pasid == 0xabcde);
    CHECK(g.access == device_access{.what = operation::fetch, .user = false});
    CHECK(vtd_record_of(g) == vtd_fault_record{0xffff'8000'0000'1000, 0xcabc'de82'e000'0010});
    // Without PP the PASID, EXE and PRIV are junk.
    CHECK(read_vtd_fault(0x1000, 0xcabc'de06'6000'0010).access == device_access{});
    CHECK(read_vtd_fault(0x1000, 0xcabc'de06'6000'0010).pasid == 0);
    CHECK_FALSE(read_vtd_fault(0x1000, 0x4000'0006'0000'0010));
    CHECK(vtd_record_of({}) == vtd_fault_record{});
    CHECK(vtd_record_of({vtd_reason::read, 0x1fff, {}}).low == 0x1000);
}

TEST_CASE("the block around a range")
{
    CHECK(block_around(0x1000, 0x1fff) == address_block{0x1000, 12});
    CHECK(block_around(0x1234, 0x1235) == address_block{0x1000, 12});
    CHECK(block_around(0x1000, 0x2fff) == address_block{0x0, 14});
    CHECK(block_around(0x2000, 0x3fff) == address_block{0x2000, 13});
    CHECK(block_around(0x1f'f000, 0x20'0fff) == address_block{0, 22});
    CHECK(block_around(0, ~word{0}) == address_block{0, 64});
    CHECK(block_around(0x7fff'ffff'ffff'f000, 0x8000'0000'0000'0000) == address_block{0, 64});
    CHECK(block_around(0, 0x7fff'ffff'ffff'ffff) == address_block{0, 63});
}

TEST_CASE("descriptors that invalidate")
{
    const vtd_flush_target target{.domain = 0x1234, .pasid = 0xabcde};
    // Second stage: type 2, granularity 3, DW, DR; AM and IH.
    CHECK(vtd_invalidation({0x5000, 0x5fff, 12}, target, unit, second) == vtd_descriptor{0x1234'00f2, 0x5040});
    CHECK(vtd_invalidation({0x4000, 0x5fff, 12}, target, unit, second) == vtd_descriptor{0x1234'00f2, 0x4041});
    CHECK(vtd_invalidation({0x4000'0000, 0x401f'ffff, 21, true}, target, unit, second) ==
          vtd_descriptor{0x1234'00f2, 0x4000'0009});
    CHECK(vtd_invalidation({0x4000'0000, 0x7fff'ffff, 30}, target, unit, second) ==
          vtd_descriptor{0x1234'00f2, 0x4000'0052});
    // Larger than MAMV 18, or without PSI: the domain.
    const vtd_descriptor domain{0x1234'00e2, 0};
    CHECK(vtd_invalidation({0, 0x7fff'ffff, 30}, target, unit, second) == domain);
    CHECK(vtd_invalidation({0x5000, 0x5fff, 12}, target, {unit.cap & ~(word{1} << 39)}, second) == domain);
    CHECK(vtd_invalidation_of_all(target, second) == domain);
    // First stage: type 6, the PASID.
    CHECK(vtd_invalidation({0xffff'8000'0000'5000, 0xffff'8000'0000'5fff, 12}, target, unit, first) ==
          vtd_descriptor{0xabcde'1234'0036, 0xffff'8000'0000'5040});
    CHECK(vtd_invalidation({0x7fff'ffff'f000, 0xffff'8000'0000'0fff, 12}, target, unit, first) ==
          vtd_descriptor{0xabcde'1234'0026, 0});
    CHECK(vtd_invalidation_of_all(target, first) == vtd_descriptor{0xabcde'1234'0026, 0});
}
