// SPDX-License-Identifier: BSL-1.0
// What AMD's IOMMU registers and entries say of tables, events, invalidation. Expectations are the specification's.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/amdvi_registers.hpp>
#include <ptebits/ptebits.hpp>
#include <string_view>

using namespace ptebits;

namespace {

using word = std::uint64_t;

/// HATS 2 (6 levels), GTSup, NXSup, HASup, HDSup.
constexpr amdvi_unit unit{.efr = word{1} << 52 | word{1} << 49 | 0x818, .physical_bits = 48};
constexpr amdvi_unit plain{.efr = 0x0};

amdvi_tables read(word w0, word w1 = 0, const amdvi_unit& by = unit)
{
    const word words[2] = {w0, w1};
    return read_amdvi_device_entry(words, by);
}

constexpr auto host = amdvi_host<amdvi_host_features{}>;
constexpr auto guest = amdvi_guest<amdvi_guest_features{}>;

}  // namespace

TEST_CASE("a device table entry: tables, and why there are none")
{
    const amdvi_tables t = read(0x6000'0000'1234'5603, 0x1234);
    CHECK(t);
    CHECK(t.stages == amdvi_stages::host);
    CHECK(t.host_root == 0x1234'5000);
    CHECK(t.domain == 0x1234);
    CHECK(t.host == amdvi_host_features{.levels = 3, .physical_bits = 48});
    CHECK(t.host_controls == amdvi_host_paging::controls{true, true});
    CHECK(read(0x2000'0000'1234'5603).host_controls == amdvi_host_paging::controls{true, false});
    CHECK(read(0x4000'0000'1234'5603).host_controls == amdvi_host_paging::controls{false, true});
    CHECK(read(0x1234'5683).host.accessed_bits);
    CHECK_FALSE(read(0x1234'5683).host.dirty_bits);
    CHECK(read(0x1234'5783).host.dirty_bits);
    CHECK(read(0x1234'5603, 0, {unit.efr, 48, true}).host.caches_absent);

    CHECK(read(0x1234'5602).stages == amdvi_stages::unchecked);
    CHECK_FALSE(read(0x1234'5602));
    CHECK(read(0x1234'5601).stages == amdvi_stages::none);
    CHECK(read(0x1234'5601).refused == amdvi_event::none);
    CHECK(read(0x6000'0000'1234'5003).stages == amdvi_stages::pass_through);
    CHECK_FALSE(read(0x6000'0000'1234'5003));

    const auto illegal = [](word w0, const amdvi_unit& by = unit) {
        const amdvi_tables r = read(w0, 0, by);
        CHECK(r.stages == (r.refused == amdvi_event::none ? r.stages : amdvi_stages::none));
        return r.refused == amdvi_event::illegal_device_entry;
    };
    for (word mode = 0; mode < 8; ++mode) {
        CAPTURE(mode);
        const word entry = 0x1234'5003 | mode << 9;
        CHECK(illegal(entry) == (mode == 7));
        CHECK(illegal(entry, plain) == (mode > 4));            // HATS 0
        CHECK(illegal(entry, {.efr = 0x400}) == (mode > 5));   // HATS 1
        CHECK(illegal(entry, {.efr = 0xc00}) == (mode != 0));  // HATS 3
        if (mode > 0 && mode < 7) CHECK(read(entry).host.levels == mode);
    }
    CHECK(illegal(0x1234'5703));                                  // HAD 2
    CHECK(illegal(0x1234'5783, {.efr = word{1} << 49 | 0x800}));  // D without HDSup
    CHECK_FALSE(illegal(0x1234'5683, {.efr = word{1} << 49 | 0x800}));
    CHECK_FALSE(illegal(0x1234'5703, plain));  // not looked at without HASup
    CHECK_FALSE(read(0x1234'5783, 0, plain).host.accessed_bits);
    CHECK(std::string_view(name(amdvi_stages::nested)) == "both tables");
}

TEST_CASE("a device table entry with guest tables")
{
    // GV; GLX 1; GCR3 bits 14:12 5, 30:15 1234h, 51:31 10'0001h.
    const word w0 = 0x0080'0000'0000'0003 | word{1} << 56 | word{5} << 58;
    const word w1 = word{0x10'0001} << 43 | word{0x1234} << 16 | 9;
    const amdvi_tables t = read(w0, w1);
    CHECK(t.stages == amdvi_stages::guest);
    CHECK(t.gcr3_table == (word{0x10'0001} << 31 | word{0x1234} << 15 | word{5} << 12));
    CHECK(t.gcr3_levels == 2);
    CHECK(t.domain == 9);
    CHECK(t.guest == amdvi_guest_features{.physical_bits = 48});
    CHECK(t.host_root == 0);
    CHECK(read(w0 | 0x1234'5600, w1).stages == amdvi_stages::nested);
    CHECK(read(w0 | 0x1234'5600, w1).host_root == 0x1234'5000);
    CHECK(read(w0, w1, plain).refused == amdvi_event::illegal_device_entry);
    CHECK(read(w0 | word{3} << 56, w1).refused == amdvi_event::illegal_device_entry);
    CHECK_FALSE(read(w0, w1, {.efr = 0x810}).guest.execute_disable);

    CHECK(read_amdvi_gcr3(0x1234'5001).root == 0x1234'5000);
    CHECK(read_amdvi_gcr3(0xfff0'0000'1234'5fff).root == 0x1234'5000);
    CHECK_FALSE(read_amdvi_gcr3(0x1234'5000));
}

TEST_CASE("events, and the way back")
{
    // IO_PAGE_FAULT of 00:01.0 in domain 7: a write that the entries do not allow.
    const amdvi_fault f = read_amdvi_event(0x2070'0007'0000'0008, 0x1234'5678);
    CHECK(f);
    CHECK(f.what == amdvi_event::page_fault);
    CHECK(f.fault == fault_kind::protection);
    CHECK(f.address == 0x1234'5678);
    CHECK(f.device == 8);
    CHECK(f.domain == 7);
    CHECK(f.access == device_access{.what = operation::write});
    CHECK(read_amdvi_event(0x2000'0007'0000'0008, 0).fault == fault_kind::not_present);
    CHECK(read_amdvi_event(0x2000'0007'0000'0008, 0).access == device_access{});
    CHECK(read_amdvi_event(0x2090'0007'0000'0008, 0).reserved_set);
    CHECK(read_amdvi_event(0x2010'0007'0000'0008, 0).fault == fault_kind::reserved_bits);
    CHECK_FALSE(read_amdvi_event(0x2010'0007'0000'0008, 0).reserved_set);
    CHECK(read_amdvi_event(0x4000'0007'0000'0008, 0).fault == fault_kind::memory_absent);
    // Of guest tables: PASID abcdeh; a privileged fetch.
    const amdvi_fault g = read_amdvi_event(0x2053'bcde'000a'0008, 0xffff'8000'0000'1000);
    CHECK(g.guest);
    CHECK(g.pasid == 0xabcde);
    CHECK(g.domain == 0);
    CHECK(g.access == device_access{.what = operation::fetch, .user = false});
    CHECK(read_amdvi_event(0x2057'bcde'000a'0008, 0).access.user);
    // Another event, and none.
    CHECK(read_amdvi_event(0x1000'0000'0000'0008, 0x1000).what == amdvi_event::illegal_device_entry);
    CHECK(read_amdvi_event(0x1000'0000'0000'0008, 0x1000).address == 0);
    CHECK_FALSE(read_amdvi_event(0, 0));
    // What fault_code() makes is read back.
    walk_result r;
    r.fault = fault_kind::protection;
    const device_access writing{.what = operation::write};
    CHECK(read_amdvi_event(fault_code(r, writing, {}, host).value, 0).fault == fault_kind::protection);
    CHECK(read_amdvi_event(fault_code(r, writing, {}, guest).value, 0).access == writing);
}

TEST_CASE("commands that invalidate")
{
    const amdvi_flush_target target{.domain = 0x1234, .pasid = 0xabcde};
    constexpr word low = 0x3000'1234'0000'0000;
    const auto high = [&](word begin, word end, bool upper = false) {
        const amdvi_command c = amdvi_invalidation({begin, end, 12, upper}, target, host);
        CHECK(c.low == low);
        return c.high;
    };
    CHECK(high(0x5000, 0x5fff) == 0x5000);
    CHECK(high(0x5000, 0x5fff, true) == 0x5002);
    CHECK(high(0x4000, 0x5fff) == 0x4001);  // 8 Kbytes: bit 12 is clear
    CHECK(high(0x4000, 0x7fff) == 0x5001);  // 16 Kbytes
    CHECK(high(0x4020'0000, 0x403f'ffff, true) == 0x402f'f003);
    CHECK(high(0x8000'0000'0000'0000, 0x800f'ffff'ffff'ffff) == 0x8007'ffff'ffff'f001);
    // Larger ones than 2^52 bytes are everything.
    CHECK(high(0x8000'0000'0000'0000, 0x801f'ffff'ffff'ffff) == 0x7fff'ffff'ffff'f001);
    CHECK(amdvi_invalidation_of_all(target, host) == amdvi_command{low, 0x7fff'ffff'ffff'f003});
    // Guest tables: GN and the PASID.
    CHECK(amdvi_invalidation({0x5000, 0x5fff, 12}, target, guest) == amdvi_command{low | 0xabcde, 0x5004});
    CHECK(amdvi_invalidation_of_all(target, guest) == amdvi_command{low | 0xabcde, 0x7fff'ffff'ffff'f007});
}
