// SPDX-License-Identifier: BSL-1.0
// RISC-V's registers and fences; traps and the way back from them. Expectations are the manual's: RISC-V ISA manual,
// volume II.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <string_view>
#include <type_traits>
#include <vector>

using namespace ptebits;
using does = riscv_operation;

namespace {

using word = std::uint64_t;

constexpr auto sv39 = riscv<riscv_features{}>;
constexpr auto sv39x4 = gstage<gstage_features{}>;
constexpr auto with_runs = riscv<riscv_features{.svnapot = true}>;

struct no_memory {
    template <class Word>
    Word* operator()(word, std::type_identity<Word>) const
    {
        return nullptr;
    }
};

}  // namespace

TEST_CASE("satp and vsatp: mode, ASID, root, and what is none of the format's")
{
    const atp_root r = root_of_satp(0x8000'5000'0008'0001, sv39);
    CHECK(r);
    CHECK(r.root == 0x8000'1000);
    CHECK(r.id == 5);
    CHECK(r.levels == 3);
    CHECK(read_satp(0x9fff'f000'0008'0001).levels == 4);
    CHECK(read_satp(0x9fff'f000'0008'0001).id == 0xffff);
    CHECK(read_satp(0xa000'0fff'ffff'ffff).root == 0x00ff'ffff'ffff'f000);
    CHECK(read_satp(0).error == atp_error::bare);
    CHECK(read_satp(1).error == atp_error::bare_bits);
    for (word mode = 1; mode < 16; ++mode) {
        CAPTURE(mode);
        const bool paged = mode >= 8 && mode <= 10;
        CHECK(read_satp(mode << 60).error == (paged ? atp_error::none : atp_error::mode));
        CHECK(read_hgatp(mode << 60).error == (paged ? atp_error::none : atp_error::mode));
    }
    CHECK(root_of_satp(0x9000'0000'0008'0001, sv39).error == atp_error::levels);
    CHECK(root_of_satp(0x9000'0000'0008'0001, sv39).root == 0);
    CHECK(root_of_satp(0x8000'0000'0008'0001, format_for(riscv_features{.levels = 9})).error == atp_error::no_tables);

    const auto sv32 = format_for(riscv_features{.levels = 2});
    const atp_root narrow = root_of_satp(0x8140'0003, sv32);
    CHECK(narrow.root == 0x3000);
    CHECK(narrow.id == 5);
    CHECK(root_of_satp(0xffff'ffff, sv32).root == 0x3'ffff'f000);
    CHECK(root_of_satp(0xffff'ffff, sv32).id == 0x1ff);
    CHECK(root_of_satp(0x0000'0003, sv32).error == atp_error::bare_bits);
    CHECK(root_of_satp(0x1'8000'0003, sv32).error == atp_error::reserved);
}

TEST_CASE("hgatp: VMID, and a root on 16 Kbytes")
{
    const atp_root r = root_of_hgatp(0x83ff'f000'0008'0004, sv39x4);
    CHECK(r);
    CHECK(r.root == 0x8000'4000);
    CHECK(r.id == 0x3fff);
    CHECK(root_of_hgatp(0x8000'0000'0008'0001, sv39x4).error == atp_error::root);
    CHECK(root_of_hgatp(0x8400'0000'0008'0004, sv39x4).error == atp_error::reserved);
    CHECK(root_of_hgatp(0x9000'0000'0008'0004, sv39x4).error == atp_error::levels);
    const auto sv32x4 = format_for(gstage_features{.levels = 2});
    CHECK(root_of_hgatp(0x9fc0'0004, sv32x4).root == 0x4000);
    CHECK(root_of_hgatp(0x9fc0'0004, sv32x4).id == 0x7f);
    CHECK(root_of_hgatp(0xa000'0004, sv32x4).error == atp_error::reserved);
}

TEST_CASE("values for satp and hgatp are what their readers take")
{
    CHECK(atp_for(0x8000'1000, sv39, 5).value == 0x8000'5000'0008'0001);
    CHECK(atp_for(0x8000'4000, sv39x4, 0x3fff).value == 0x83ff'f000'0008'0004);
    CHECK(atp_for(0x8000'1000, sv39x4).error == atp_error::root);
    CHECK(atp_for(0x8000'1800, sv39).error == atp_error::root);
    CHECK(atp_for(word{1} << 56, sv39).error == atp_error::root);
    CHECK(atp_for(0x8000'4000, sv39x4, 0x4000).error == atp_error::asid);
    CHECK(atp_for(0x4000, format_for(riscv_features{.levels = 2}), 0x200).error == atp_error::asid);
    CHECK(atp_for(0x3'ffff'f000, format_for(riscv_features{.levels = 2}), 0x1ff).value == 0xffff'ffff);
    CHECK(atp_for(0x4000, format_for(riscv_features{.levels = 1})).error == atp_error::no_tables);
    for (const unsigned levels : {2U, 3U, 4U, 5U}) {
        const auto format = format_for(riscv_features{.levels = levels});
        const auto host = format_for(gstage_features{.levels = levels});
        CHECK(root_of_satp(atp_for(0x8765'4000, format, 7).value, format).root == 0x8765'4000);
        CHECK(root_of_hgatp(atp_for(0x8765'4000, host, 7).value, host).root == 0x8765'4000);
        CHECK(root_of_hgatp(atp_for(0x8765'4000, host, 7).value, host).id == 7);
    }
    CHECK(std::string_view(name(atp_error::asid)) == "the ASID or VMID is too wide");
}

TEST_CASE("SUM, MXR, ADUE and PBMTE as the registers have them")
{
    CHECK(controls_in(0xc'0000) == riscv_controls{true, true});
    CHECK(controls_in(0x4'0000) == riscv_controls{true, false});
    const auto both = [](word vsstatus, word sstatus) { return controls_in(vsstatus, sstatus, sv39, sv39x4); };
    CHECK(both(0x4'0000, 0).guest == riscv_controls{true, false});
    CHECK(both(0, 0x4'0000).guest == riscv_controls{false, false});  // SUM of HS does not count
    CHECK(both(0x8'0000, 0).guest.mxr);
    CHECK_FALSE(both(0x8'0000, 0).host.mxr);
    CHECK(both(0, 0x8'0000).guest.mxr);
    CHECK(both(0, 0x8'0000).host.mxr);
    const riscv_features has{.svpbmt = true, .svadu = true};
    CHECK(under_envcfg(has, word{3} << 61) == has);
    CHECK(under_envcfg(has, word{1} << 61) == riscv_features{.svadu = true});
    CHECK(under_envcfg(riscv_features{}, ~word{0}) == riscv_features{});
}

TEST_CASE("causes by access, kind of fault and stage")
{
    constexpr does operations[] = {does::fetch, does::load, does::execute_load, does::store, does::manage};
    constexpr unsigned page[] = {12, 13, 13, 15, 15};
    constexpr unsigned guest_page[] = {20, 21, 21, 23, 23};
    constexpr unsigned no_slot_at[] = {1, 5, 5, 7, 7};
    for (unsigned n = 0; n < 5; ++n) {
        const riscv_access a{.what = operations[n]};
        walk_result r;
        for (const fault_kind f : {fault_kind::not_present, fault_kind::protection, fault_kind::access_flag,
                                   fault_kind::reserved_bits, fault_kind::not_canonical}) {
            r.fault = f;
            CHECK(fault_code(r, a, {}, sv39).value == page[n]);
            CHECK(fault_code(r, a, {}, sv39x4).value == guest_page[n]);
        }
        r.fault = fault_kind::memory_absent;
        CHECK(fault_code(r, a, {}, sv39).value == no_slot_at[n]);
        CHECK(fault_code(r, a, {}, sv39x4).value == no_slot_at[n]);
        for (const fault_kind f : {fault_kind::none, fault_kind::not_a_root, fault_kind::second_stage}) {
            r.fault = f;
            CHECK_FALSE(fault_code(r, a, {}, sv39));
            CHECK_FALSE(trap_of(r, 0x1000, a, sv39));
        }
    }
}

TEST_CASE("HLVX needs X, cache-block management R or W")
{
    for (unsigned n = 0; n < 8; ++n) {
        const permissions p{.read = (n & 1) != 0, .write = (n & 2) != 0, .execute = (n & 4) != 0};
        for (const bool mxr : {false, true}) {
            CHECK(detail::riscv_allows(p, does::execute_load, mxr) == p.execute);
            CHECK(detail::riscv_allows(p, does::fetch, mxr) == p.execute);
            CHECK(detail::riscv_allows(p, does::manage, mxr) == (p.read || p.write));
            CHECK(detail::riscv_allows(p, does::store, mxr) == p.write);
            CHECK(detail::riscv_allows(p, does::load, mxr) == (p.read || (mxr && p.execute)));
        }
    }
    CHECK_FALSE(riscv_access{.what = does::manage}.writes());  // D is not looked at
}

TEST_CASE("from cause, htval and htinst back to the access")
{
    const auto told = [](word cause, word tval2 = 0, word tinst = 0) {
        return told_by({cause, 0xc0ff'ee7, tval2, tinst, true, true}, true);
    };
    CHECK(told(12).kind == riscv_trap_kind::page);
    CHECK(told(12).what == does::fetch);
    CHECK(told(7).kind == riscv_trap_kind::access);
    CHECK(told(7).what == does::store);
    for (const word none : {word{0}, word{2}, word{3}, word{4}, word{6}, word{8}, word{9}, word{10}, word{14}, word{16},
                            word{22}, word{1} << 63 | 5}) {
        CAPTURE(none);
        CHECK_FALSE(told(none));
    }
    const riscv_told final = told(23, 0x30'3ff9);
    CHECK(final.what == does::store);
    CHECK(final.refused == riscv_access{.what = does::store, .user = true});
    CHECK(final.guest_physical == (0xc0'ffe4 | 3));
    CHECK_FALSE(told(23).address_known);
    // A store whose walk was refused a read of a table.
    const riscv_told implicit = told(23, 0x500'0000'0000, 0x3000);
    CHECK(implicit.what == does::store);
    CHECK(implicit.refused == riscv_access{.what = does::load, .user = true, .implicit = true});
    CHECK(implicit.guest_physical == 0x1400'0000'0000);
    CHECK(told(20, 1, 0x3020).refused.writes());
    CHECK(told(20, 1, 0x2020).refused.implicit);
    CHECK(told(21, 1, 0x2000).refused == riscv_access{.what = does::load, .user = true, .implicit = true});
    // HLVX.HU and HLVX.WU, transformed: rd is kept.
    CHECK(told(21, 1, 0x6430'4573).what == does::execute_load);
    CHECK(told(13, 0, 0x6830'4573).what == does::execute_load);
    CHECK(told(21, 1, 0x6c00'4573).what == does::load);  // HLV.D
}

TEST_CASE("traps of two stages and their way back agree")
{
    const riscv_access a{.what = does::store, .user = true};
    const auto nested = nested_walk(sv39, 0x1000, sv39x4, 0x4000, 0x1234, a, {}, no_memory{});
    // The first entry of the G-stage lies in no memory: an access fault, which tells no guest-physical address.
    CHECK(trap_of(nested, 0x1234, a, sv39, sv39x4) == riscv_trap{7, 0x1234, 0, 0, true, true});
    const auto unpaged_guest = nested_walk(unpaged{}, 0, sv39x4, 0x4000, word{1} << 41, a, {}, no_memory{});
    const riscv_trap t = trap_of(unpaged_guest, word{1} << 41, a, unpaged{}, sv39x4);
    CHECK(t == riscv_trap{23, word{1} << 41, word{1} << 39, 0, true, true});
    CHECK(told_by(t, true).guest_physical == word{1} << 41);
    // One stage of a guest: hgatp is Bare.
    const walk_result one = walk(sv39, 0x1000, word{1} << 40, a, {}, no_memory{});
    CHECK(trap_of(one, word{1} << 40, a, sv39, true) == riscv_trap{15, word{1} << 40, 0, 0, true, true});
    CHECK(trap_of(one, word{1} << 40, a, sv39) == riscv_trap{15, word{1} << 40, 0, 0, false, true});
}

TEST_CASE("operands of fences")
{
    const riscv_fence both{true, true};
    CHECK(fence_for(both, sv39, 0x8020'1000, 7).rs1 == 0x8020'1000);
    CHECK(fence_for(both, sv39, 0x8020'1000, 7).rs2 == 7);
    CHECK(fence_for(both, sv39x4, 0x8020'1000, 7).rs1 == 0x2008'0400);
    CHECK(fence_for(both, sv39, 0x40'0000'0000).error == fence_error::address);
    CHECK(fence_for(both, sv39, 0xffff'ffc0'0000'0000));
    CHECK(fence_for(both, sv39x4, word{1} << 41).error == fence_error::address);
    CHECK(fence_for(both, sv39, 0, 0x1'0000).error == fence_error::id);
    CHECK(fence_for(both, sv39x4, 0, 0x4000).error == fence_error::id);
    CHECK(fence_for(both, format_for(riscv_features{.levels = 2}), 0, 0x200).error == fence_error::id);
    CHECK(fence_for({}, sv39, 0x40'0000'0000, 0x1'0000));  // neither counts
    CHECK(fence_for({}, sv39, 1, 1).rs1 == 0);
    // The words of binutils for `sfence.vma a0, a1` and the like.
    using enum fence_instruction;
    CHECK(encode_fence(sfence_vma) == 0x1200'0073);
    CHECK(encode_fence(sfence_vma, 10, 11) == 0x12b5'0073);
    CHECK(encode_fence(hfence_gvma, 10, 11) == 0x62b5'0073);
    CHECK(encode_fence(hfence_vvma, 10, 0) == 0x2205'0073);
    CHECK(encode_fence(sinval_vma, 10, 11) == 0x16b5'0073);
    CHECK(encode_fence(hinval_vvma, 10, 11) == 0x26b5'0073);
    CHECK(encode_fence(hinval_gvma, 10, 11) == 0x66b5'0073);
    CHECK(encode_fence(sfence_w_inval) == 0x1800'0073);
    CHECK(encode_fence(sfence_inval_ir) == 0x1810'0073);
}

TEST_CASE("fences of a flush list: by address, by ASID, or all; of runs every entry")
{
    const auto addresses = [](const flush_item& item, const auto& format) {
        std::vector<word> all;
        for (const word a : fence_addresses(item, format)) all.push_back(a);
        return all;
    };
    CHECK(addresses({0x1000, 0x2fff, 12}, sv39) == std::vector<word>{0x1000, 0x2000});
    CHECK(addresses({0x20'0000, 0x5f'ffff, 21}, sv39) == std::vector<word>{0x20'0000, 0x40'0000});
    CHECK(addresses({0x1'0000, 0x1'ffff, 16}, with_runs).size() == 16);
    CHECK(addresses({0xffff'ffff'ffff'e000, 0xffff'ffff'ffff'ffff, 12}, sv39) ==
          std::vector<word>{0xffff'ffff'ffff'e000, 0xffff'ffff'ffff'f000});
    CHECK(addresses({0x100'0000'0000, 0x100'0000'0fff, 12}, sv39x4) == std::vector<word>{0x100'0000'0000});

    const flush_item page{0x1000, 0x1fff, 12};
    const flush_item table{0x1000, 0x1fff, 12, true};
    const flush_item many{0, 0xff'ffff, 12};
    using choice = flush_choice<riscv_fence>;
    CHECK(choose_fence(page, sv39) == choice{flush_scope::addresses, {true, false}, 1});
    CHECK(choose_fence(page, sv39, {.global = false}) == choice{flush_scope::addresses, {true, true}, 1});
    CHECK(choose_fence(table, sv39, {.global = false}) == choice{flush_scope::context, {false, true}});
    CHECK(choose_fence(many, sv39, {.global = false}) == choice{flush_scope::context, {false, true}});
    CHECK(choose_fence(many, sv39) == choice{flush_scope::everything, {false, false}});
    CHECK(choose_fence(many, sv39, {.threshold = 0x1000}).addresses == 0x1000);
    // The G-stage has no global translations.
    CHECK(choose_fence(page, sv39x4) == choice{flush_scope::addresses, {true, true}, 1});
    CHECK(choose_fence(table, sv39x4) == choice{flush_scope::context, {false, true}});
    flush_list_of<1, 1> list;
    CHECK(choose_fence(list, sv39).scope == flush_scope::nothing);
    list.overflow();
    CHECK(choose_fence(list, sv39).scope == flush_scope::everything);
}

TEST_CASE("which fence a change of an entry calls for")
{
    constexpr auto svvptc = riscv<riscv_features{.svpbmt = true, .svadu = true, .svvptc = true}>;
    constexpr auto plain = riscv<riscv_features{.svpbmt = true, .svadu = true}>;
    const word leaf = 0x2000'00df;
    const word table = 0x2000'0001;
    CHECK(fence_after(0, leaf, plain) == fence_due::late);
    CHECK(fence_after(0, table, plain, 2) == fence_due::all_levels);
    CHECK(fence_after(0, leaf, svvptc) == fence_due::none);
    CHECK(fence_after(0, table, svvptc, 2) == fence_due::none);
    CHECK(fence_after(leaf ^ 4, leaf, plain) == fence_due::late);            // W given
    CHECK(fence_after(leaf & ~word{0xc0}, leaf, plain) == fence_due::late);  // A, D set
    CHECK(fence_after(leaf, leaf & ~word{0x40}, plain) == fence_due::none);  // A cleared: a hint
    CHECK(fence_after(leaf, leaf & ~word{0x80}, plain) == fence_due::by_address);
    CHECK(fence_after(leaf, leaf & ~word{4}, plain) == fence_due::by_address);
    CHECK(fence_after(leaf, 0, plain) == fence_due::by_address);
    CHECK(fence_after(leaf, leaf + 0x400, plain) == fence_due::by_address);
    CHECK(fence_after(leaf, leaf | word{1} << 61, plain) == fence_due::by_address);
    CHECK(fence_after(leaf, leaf | 0x20, plain) == fence_due::by_address);  // G: rs2 is x0
    CHECK(fence_after(leaf, leaf | 0x300, plain) == fence_due::none);       // RSW
    CHECK(fence_after(table, table | 0x300, plain, 2) == fence_due::none);
    CHECK(fence_after(table, table + 0x400, plain, 2) == fence_due::all_levels);
    CHECK(fence_after(table, leaf, plain, 2) == fence_due::all_levels);
    CHECK(fence_after(leaf, table, plain, 2) == fence_due::all_levels);
    CHECK(fence_after(table, 0, plain, 2) == fence_due::all_levels);
    CHECK(fence_after(0, 0, plain) == fence_due::none);
    // A code that faults counts as absent.
    CHECK(fence_after(0x2000'00c5, leaf, plain) == fence_due::late);
}
