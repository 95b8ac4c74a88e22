// SPDX-License-Identifier: BSL-1.0
// Kinds of fault that others' RISC-V code and models had, by public reports; docs/faults.md names these tests.
// Expectations are the manual's: RISC-V ISA manual, volume II.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "walking.hpp"

using namespace ptebits;
using does = riscv_operation;

namespace {

using word = std::uint64_t;

constexpr auto sv39 = riscv<riscv_features{}>;
constexpr auto svadu = riscv<riscv_features{.svadu = true}>;
constexpr auto all = riscv<riscv_features{.svnapot = true, .svpbmt = true, .svadu = true}>;
constexpr auto sv39x4 = gstage<gstage_features{.svadu = true}>;
constexpr auto sv39x4_all = gstage<gstage_features{.svnapot = true, .svpbmt = true, .svadu = true}>;

constexpr riscv_access a_load{};
constexpr riscv_access a_store{.what = does::store};
constexpr riscv_access a_fetch{.what = does::fetch};

/// A walk of Sv39, or of Sv39x4, to address 0 (its root's first slot) through tables at 1000, 2000 and 3000, the entry
/// of a level as given; and what the entry is then.
struct walked {
    walk_result r;
    word after = 0;
};
template <class Format>
walked walk_to(word entry, unsigned level, const Format& format, const riscv_access& a, const riscv_controls& c = {})
{
    walking::arena memory(0x4000, 6);
    const word slot = level == 3 ? 0x4000 : level == 2 ? 0x8000 : 0x9000;
    memory.put<word>(0x4000, 0x2001);
    memory.put<word>(0x8000, 0x2401);
    memory.put<word>(slot, entry);
    walked w{walk(format, 0x4000, 0, a, c, memory)};
    w.after = memory.get<word>(slot);
    return w;
}
template <class Format>
word cause_of(word entry, unsigned level, const Format& format, const riscv_access& a, const riscv_controls& c = {})
{
    const walked w = walk_to(entry, level, format, a, c);
    return fault_code(w.r, a, c, format).value;
}

/// Some tables, the first of which is a root.
struct some_tables {
    walking::arena memory{0x4000, 10};
    word next = 0x8000;  // behind a root of 16 Kbytes

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
};

}  // namespace

TEST_CASE("RISC-V: a large page on the way down is no table: it is split, or refused")
{
    some_tables t;
    auto tree = t.as_tree(svadu);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x4000'0000, 0x401f'ffff}, 0x4000'0000, {}, list));
    CHECK(t.get(0x8000) == 0x1000'001f);
    CHECK(unmap(tree, {0x4000'1000, 0x4000'1fff}, list).end == tree_end::inside_page);
    CHECK(t.get(0x8000) == 0x1000'001f);
    CHECK(unmap(tree, {0x4000'1000, 0x4000'1fff}, list, {.ends = range_end::split}).pages == 1);
    CHECK(t.get(0x8000) == 0x2401);
    CHECK(t.get(0x9000) == 0x1000'001f);
    CHECK(t.get(0x9008) == 0);
    CHECK(t.get(0x9010) == 0x1000'081f);
}

TEST_CASE("RISC-V: a leaf without rights would refer to a table: refused, or kept without access")
{
    CHECK(encode(kind::leaf, 2, 0x8000'0000, no_permissions, sv39).error == encode_error::permission_not_offered);
    some_tables t;
    auto tree = t.as_tree(sv39);
    flush_list_of<> list;
    REQUIRE(map(tree, {0, 0x1f'ffff}, 0x8000'0000, {}, list));
    const word leaf = t.get(0x8000);
    REQUIRE(leaf == 0x2000'001f);
    CHECK_FALSE(protect(tree, {0, 0x1f'ffff}, no_permissions, list));
    CHECK(t.get(0x8000) == leaf);
    const auto kept = keep_without_access<8>(sv39);
    const no_access_entry none = take_access(0x2000'00c7, 2, kept);
    CHECK(none.entry == 0x2000'01c6);
    CHECK_FALSE(present(none.entry, sv39));
    CHECK(give_access(none.entry, kept) == 0x2000'00c7);
}

TEST_CASE("RISC-V: bits of leaves in entries that refer to tables are faults, but G and RSW are not")
{
    for (const word bit : {word{0x10}, word{0x40}, word{0x80}, word{1} << 63, word{1} << 61, word{1} << 62,
                           word{1} << 54, word{1} << 58, word{1} << 59, word{1} << 60}) {
        CAPTURE(bit);
        CHECK(walk_to(0x2401 | bit, 2, all, a_load).r.broken == rule::reserved_bits);
        CHECK(walk_to(0x2401 | bit, 2, sv39x4_all, a_load).r.broken == rule::reserved_bits);
    }
    CHECK(cause_of(0x2401 | 0xd0, 2, all, a_store) == 15);
    CHECK(walk_to(0x2401 | 0x320, 2, all, a_load).r.fault == fault_kind::not_present);
    // Bits 60:59 are software's with Svrsw60t59b, in tables too.
    const auto more = format_for(riscv_features{.svrsw60t59b = true});
    CHECK(walk_to(0x2401 | word{3} << 59, 2, more, a_load).r.fault == fault_kind::not_present);
}

TEST_CASE("RISC-V: an entry made invalid to trap the next access is still taken away, counted and reported")
{
    const auto tracking = track_accesses<8>(sv39x4);
    some_tables t;
    auto tree = t.as_tree(sv39x4);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x1000, 0x1fff}, 0x8000'1000, {}, list));
    word& slot = *t.memory(0x9008, std::type_identity<word>{});
    REQUIRE(slot == 0x2000'041f);
    CHECK(track(slot, tracking) == track_result::tracked_writable);
    CHECK(slot == 0x2000'051a);
    std::vector<word> taken;
    const tree_result r =
        unmap(tree, {0x1000, 0x1fff}, list, {}, [&](const taken_page& page) { taken.push_back(page.entry); });
    CHECK(r);
    CHECK(taken == std::vector<word>{0x2000'051a});
    CHECK(slot == 0);
}

TEST_CASE("RISC-V: a large page whose base is not aligned is a page fault, and map takes smaller pages")
{
    CHECK(cause_of(0x2000'04c3, 3, svadu, a_load) == 13);
    CHECK(cause_of(0x2000'04d3, 3, sv39x4, a_load) == 21);
    some_tables t;
    auto tree = t.as_tree(svadu);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x4000'0000, 0x7fff'ffff}, 0x4100'0000, {}, list));
    CHECK(t.get(0x8000) == (0x4100'0000 >> 2 | 0x1f));  // of 2 Mbytes
    CHECK(t.get(0x8ff8) == (0x80e0'0000 >> 2 | 0x1f));
}

TEST_CASE("RISC-V: Sv32 reaches 34 bits of physical address, and Sv57 looks at bit 56 of a virtual one")
{
    const auto sv32 = format_for(riscv_features{.levels = 2, .svadu = true});
    walking::arena memory(0x3000, 2);
    memory.put<std::uint32_t>(0x3ffc, 0x1001);
    memory.put<std::uint32_t>(0x4ffc, 0xffff'fccf);
    const walk_result r = walk(sv32, 0x3000, 0xffff'fabc, a_load, {}, memory);
    CHECK(r);
    CHECK(r.address == 0x3'ffff'fabc);
    CHECK(walk(sv32, 0x3000, 0x1'0000'0000, a_load, {}, memory).fault == fault_kind::address_too_wide);

    const auto sv57 = format_for(riscv_features{.levels = 5, .svadu = true});
    memory.put<word>(0x3000, 0xcf);
    memory.given.clear();
    const walk_result upper = walk(sv57, 0x3000, 0xff00'8000'0000'1000, a_load, {}, memory);
    CHECK(upper.fault == fault_kind::not_present);
    CHECK(memory.given == std::vector<word>{0x3800});  // slot 100, not 0
    CHECK(walk(sv57, 0x3000, 0x0100'8000'0000'1000, a_load, {}, memory).fault == fault_kind::not_canonical);
    const walk_result lower = walk(sv57, 0x3000, 0x0000'8000'0000'1000, a_load, {}, memory);
    CHECK(lower.address == 0x8000'0000'1000);
}

TEST_CASE("RISC-V: an address beyond the memory is an access fault where it is read, and no rule of entries")
{
    const word beyond = word{1} << 53 | 0xcf;
    CHECK(legal(beyond, 1, svadu));
    const walked at_page = walk_to(beyond, 1, svadu, a_load);
    CHECK(at_page.r);
    CHECK(at_page.r.address == word{1} << 55);
    CHECK(cause_of(word{1} << 53 | 1, 2, svadu, a_load) == 5);
    CHECK(cause_of(word{1} << 53 | 1, 2, svadu, a_store) == 7);
    CHECK(cause_of(word{1} << 53 | 1, 2, svadu, a_fetch) == 1);
    CHECK(cause_of(word{1} << 53 | 1, 2, sv39x4, a_fetch) == 1);
}

TEST_CASE("RISC-V: the root of the G-stage has 16 Kbytes: its slots, its alignment, its address bits")
{
    CHECK(sv39x4->shape().slot_address(0x4000, 0x80'0000'0000, 3) == 0x5000);
    const auto sv32x4 = format_for(gstage_features{.levels = 2});
    CHECK(sv32x4->shape().slot_address(0x4000, 0x3'0000'0000, 2) == 0x7000);
    CHECK_FALSE(is_root(0x1000, sv39x4));
    CHECK(is_root(0x1000, sv39));
    // Zero-extended: bits above are a guest-page fault, bit 40 is not.
    walking::arena memory(0x4000, 4);
    memory.put<word>(0x4000 + 0x400 * 8, 0xd3);  // the slot of bit 40
    CHECK(walk(sv39x4, 0x4000, word{1} << 40, a_load, {}, memory));
    memory.given.clear();
    const walk_result r = walk(sv39x4, 0x4000, word{1} << 41, a_load, {}, memory);
    CHECK(r.fault == fault_kind::address_too_wide);
    CHECK(fault_code(r, a_load, {}, sv39x4).value == 21);
    CHECK(memory.given.empty());
    // Virtual ones are sign-extended, and no entry is read either.
    const walk_result wild = walk(svadu, 0x4000, 0x40'0000'0000, a_load, {}, memory);
    CHECK(fault_code(wild, a_load, {}, svadu).value == 13);
    CHECK(memory.given.empty());
}

TEST_CASE("RISC-V: write without read is reserved, with MXR and X or not, and never made")
{
    for (const word entry : {word{0x2000'00c5}, word{0x2000'00cd}}) {
        for (const bool mxr : {false, true}) {
            CHECK(cause_of(entry, 1, svadu, a_store, {.mxr = mxr}) == 15);
            CHECK(cause_of(entry, 1, svadu, a_load, {.mxr = mxr}) == 13);
            CHECK(cause_of(entry | 0x10, 1, sv39x4, a_store, {.mxr = mxr}) == 23);
        }
    }
    CHECK(encode(kind::leaf, 1, 0, {.read = false}, sv39).error == encode_error::permission_not_offered);
    CHECK(encode(kind::leaf, 1, 0, {.read = false}, sv39x4).error == encode_error::permission_not_offered);
}

TEST_CASE("RISC-V: every access of the G-stage is a user's: a leaf without U maps nothing, and is never made")
{
    for (const riscv_access& a : {a_load, a_store, a_fetch}) {
        CHECK(cause_of(0x2008'00cf, 1, sv39x4, a) == (a.writes() ? 23 : a.what == does::fetch ? 20 : 21));
        CHECK(walk_to(0x2008'00df, 1, sv39x4, a).r.address == 0x8020'0000);
    }
    CHECK(permissions_of(0x2008'00cf, 1, sv39x4) == no_permissions);
    CHECK(encode(kind::leaf, 1, 0x8020'0000, {}, sv39x4).entry == 0x2008'001f);
    CHECK(encode(kind::leaf, 1, 0, {.user = false}, sv39x4).error == encode_error::permission_not_offered);
    CHECK_FALSE((permissions_of(0x2008'00cf, 1, sv39).user));
    // G is none of its bits.
    CHECK(encode_page(kind::leaf, 1, 0, {}, {.global = true}, sv39x4).error == encode_error::no_such_field);
}

TEST_CASE("RISC-V: A and D are set from the start where nothing sets them, or a handler is told what to set")
{
    some_tables t;
    auto tree = t.as_tree(sv39);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x1000, 0x1fff}, 0x8000'1000, {}, list, {.attributes = {.used = true}}));
    REQUIRE(map(tree, {0x2000, 0x2fff}, 0x8000'2000, {.write = false}, list, {.attributes = {.used = true}}));
    REQUIRE(map(tree, {0x3000, 0x3fff}, 0x8000'3000, {}, list));
    CHECK(t.get(0x9008) == 0x2000'04df);
    CHECK(t.get(0x9010) == 0x2000'085b);  // D is for who may write
    CHECK(t.get(0x9018) == 0x2000'0c1f);
    CHECK(sv39->accessed_by() == accessed_setter::fault);

    // The handler's question, for each state of the leaf.
    const riscv_access user_load{.user = true};
    const riscv_access user_store{.what = does::store, .user = true};
    const auto answer = [](word entry, const riscv_access& a) {
        const walked w = walk_to(entry, 1, sv39, a);
        CHECK(w.after == entry);
        return repair_of(w.r, a, {}, sv39);
    };
    CHECK(answer(0x2000'001f, user_load).set == 0x40);
    CHECK(answer(0x2000'001f, user_store).set == 0xc0);
    CHECK(answer(0x2000'005f, user_store).set == 0x80);
    CHECK(answer(0x2000'005f, user_load).nothing_wrong());
    CHECK(answer(0x2000'00df, user_store).nothing_wrong());
    CHECK(answer(0x2000'001b, user_store).refused);  // no W: A is not set either
    CHECK(answer(0x2000'000f, user_load).refused);   // no U
    CHECK(answer(0, user_load).refused);
    CHECK_FALSE(answer(0x2000'001f, user_load).refused);
}

TEST_CASE("RISC-V: a store that is refused leaves D clear, and a changed entry is judged anew")
{
    const walked refused = walk_to(0x2000'0003, 1, svadu, a_store);
    CHECK(refused.r.fault == fault_kind::protection);
    CHECK(refused.after == 0x2000'0003);

    // Another hart unmaps the page between the walk's reading and its update: it must not come back.
    walking::arena memory(0x4000, 6);
    memory.put<word>(0x4000, 0x2001);
    memory.put<word>(0x8000, 0x2401);
    memory.put<word>(0x9000, 0x2000'000f);
    struct unmapping {
        walking::arena& of;
        unsigned reads = 0;
        word* operator()(word physical, std::type_identity<word> t)
        {
            word* const slot = of(physical, t);
            if (physical == 0x9000 && ++reads == 2) *slot = 0;  // asked for again, to set D
            return slot;
        }
    };
    unmapping other{memory};
    CHECK(walk(svadu, 0x4000, 0, a_store, {}, other).fault == fault_kind::not_present);
    CHECK(memory.get<word>(0x9000) == 0);

    // An entry of Sv32 at the end of a page: 4 bytes are written, not 8.
    const auto sv32 = format_for(riscv_features{.levels = 2, .svadu = true});
    walking::arena narrow(0x3000, 2);
    narrow.put<std::uint32_t>(0x3ff8, 0x1001);
    narrow.put<std::uint32_t>(0x4ffc, 0x2000'000f);
    CHECK(walk(sv32, 0x3000, 0xffbf'f000, a_store, {}, narrow));
    CHECK(narrow.get<std::uint32_t>(0x4ffc) == 0x2000'00cf);
    CHECK(narrow.get<std::uint32_t>(0x3ff8) == 0x1001);
}

TEST_CASE("RISC-V: write-protecting pages inside a large one says how much is protected")
{
    some_tables t;
    auto tree = t.as_tree(sv39x4);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x8000'0000, 0x801f'ffff}, 0x8020'0000, {}, list));
    const inclusive_range logged{0x8001'0000, 0x8004'ffff};
    CHECK(protect(tree, logged, {.write = false}, list).end == tree_end::inside_page);
    const tree_result whole = protect(tree, logged, {.write = false}, list, {.ends = range_end::whole});
    CHECK(whole);
    CHECK(whole.range.first == 0x8000'0000);
    CHECK(whole.range.last == 0x801f'ffff);
    CHECK(t.get(0x8000) == 0x2008'001b);
    // By parts instead: the other pages keep W.
    REQUIRE(protect(tree, {0x8000'0000, 0x801f'ffff}, {}, list));
    CHECK(protect(tree, logged, {.write = false}, list, {.ends = range_end::split}).pages == 64);
    CHECK(t.get(0x9000 + 15 * 8) == (0x2008'0000 | 15 << 10 | 0x1f));
    CHECK(t.get(0x9000 + 16 * 8) == (0x2008'0000 | 16 << 10 | 0x1b));
    CHECK(t.get(0x9000 + 79 * 8) == (0x2008'0000 | 79 << 10 | 0x1b));
    CHECK(t.get(0x9000 + 80 * 8) == (0x2008'0000 | 80 << 10 | 0x1f));
}

TEST_CASE("RISC-V: a run's 16 entries are one page for A and D, and one entry where it is changed")
{
    some_tables t;
    auto tree = t.as_tree(all);
    flush_list_of<> list;
    REQUIRE(map(tree, {0x1'0000, 0x1'ffff}, 0x8001'0000, {}, list));
    const auto entry = [&](word n) { return t.get(0x9080 + n * 8); };
    for (word n = 0; n < 16; ++n) CHECK(entry(n) == 0x8000'0000'2000'601f);
    // A walk uses one, and leads anywhere in the run by it.
    const walk_result r = walk(all, 0x4000, 0x1'3abc, {.what = does::store, .user = true}, {}, t.memory);
    CHECK(r.address == 0x8001'3abc);
    CHECK(entry(3) == 0x8000'0000'2000'60df);
    CHECK(entry(5) == 0x8000'0000'2000'601f);
    std::vector<word> run;
    for (word n = 0; n < 16; ++n) run.push_back(entry(n));
    CHECK(young_any(run, all));
    CHECK(mark_accessed(run[5], all));  // its own A, though another one's is set
    CHECK(run[5] == 0x8000'0000'2000'605f);
    CHECK(age_all(run, all));
    CHECK_FALSE(young_any(run, all));
    // Both addresses are aligned, or there is no run.
    REQUIRE(map(tree, {0x2'0000, 0x2'ffff}, 0x8002'1000, {}, list));
    CHECK(t.get(0x9100) == 0x2000'841f);
    // A part of it is changed: none of the others stays one of a run, and all have its A and D.
    CHECK(protect(tree, {0x1'5000, 0x1'5fff}, {.write = false}, list, {.ends = range_end::split}).pages == 1);
    CHECK(entry(0) == 0x2000'40df);
    CHECK(entry(5) == 0x2000'54db);
    CHECK(entry(15) == 0x2000'7cdf);
}

TEST_CASE("RISC-V: NAPOT entries lead by the address in the run, and other codes, levels and harts refuse N")
{
    const word leaf = word{1} << 63 | 0x2000'20df;
    for (const auto& check : {true, false}) {
        walking::arena memory(0x4000, 6);
        memory.put<word>(0x4000, 0x2001);
        memory.put<word>(0x8000, 0x2401);
        memory.put<word>(0x9000 + 3 * 8, leaf);
        const riscv_access a{.user = true};
        const walk_result r =
            check ? walk(all, 0x4000, 0x3abc, a, {}, memory) : walk(sv39x4_all, 0x4000, 0x3abc, a, {}, memory);
        CHECK(r.address == 0x8000'3abc);
        CHECK(r.page_shift == 16);
    }
    for (word low = 0; low < 16; ++low) {
        const word entry = word{1} << 63 | 0x2000'00cf | low << 10;
        CHECK(cause_of(entry, 1, all, a_load) == (low == 8 ? 0 : 13));
        CHECK(cause_of(entry, 1, svadu, a_load) == 13);
    }
    CHECK(cause_of(word{1} << 63 | 0x2000'00cf, 2, all, a_load) == 13);
}

TEST_CASE("RISC-V: a memory type that the hart lacks is refused and not lost, and PBMT 3 is a fault")
{
    CHECK(encode_page(kind::leaf, 1, 0x1000'0000, {}, {.type = memory_type::uc}, sv39).error ==
          encode_error::no_such_field);
    CHECK(encode_page(kind::leaf, 1, 0x1000'0000, {}, {.type = memory_type::uc}, all).entry == 0x4000'0000'0400'001f);
    CHECK(encode_page(kind::leaf, 1, 0x1000'0000, {}, {.type = memory_type::wc}, all).entry == 0x2000'0000'0400'001f);
    CHECK(encode_page(kind::leaf, 1, 0x1000'0000, {}, {}, all).entry == 0x0400'001f);
    CHECK(encode_page(kind::leaf, 1, 0, {}, {.type = memory_type::wt}, all).error == encode_error::value_not_legal);
    CHECK(cause_of(0x6000'0000'2000'00cf, 1, all, a_load) == 13);
    CHECK(cause_of(0x2000'0000'2000'00cf, 1, svadu, a_load) == 13);  // PBMTE is clear
    CHECK(walk_to(0x2000'0000'2000'00cf, 1, all, a_load).r.memory_type() == 0x2000'0000'0000'0000);
}

TEST_CASE("RISC-V: what was made valid is reported, unless the hart has Svvptc")
{
    const auto due = [](const auto& format) {
        some_tables t;
        auto tree = t.as_tree(format);
        flush_list_of<> list;
        REQUIRE(map(tree, {0x1000, 0x1fff}, 0x8000'1000, {}, list));
        return list.due();
    };
    CHECK(due(svadu) == flush_due::items);
    CHECK(due(riscv<riscv_features{.svadu = true, .svvptc = true}>) == flush_due::nothing);
    CHECK(fence_after(0, 0x2000'00df, svadu) == fence_due::late);
    CHECK(fence_after(0, 0x2000'00df, format_for(riscv_features{.svvptc = true})) == fence_due::none);
}

TEST_CASE("RISC-V: what is cached of two stages is the smaller page, and each stage has its own address bits")
{
    walking::arena memory(0x4000, 12);
    // G-stage: the lowest 1 Gbyte to itself, for tables; 8000'0000 by 2 Mbytes to 8020'0000.
    memory.put<word>(0x4000, 0xdf);
    memory.put<word>(0x4010, 0x2001);
    memory.put<word>(0x8000, 0x2008'00df);
    // VS-stage at 9000: 4 Kbytes at 0 lead to 8001'0000.
    memory.put<word>(0x9000, 0x2801);
    memory.put<word>(0xa000, 0x2c01);
    memory.put<word>(0xb000, 0x2000'40cf);
    const auto r = nested_walk(svadu, 0x9000, sv39x4, 0x4000, 0x123, a_load, {}, memory);
    CHECK(r);
    CHECK(r.address() == 0x8021'0123);
    CHECK(r.page_shift() == 12);
}

TEST_CASE("RISC-V: the walk's own accesses are refused as loads and stores, and told by the instruction's cause")
{
    walking::arena memory(0x4000, 12);
    memory.put<word>(0x4000, 0xdf);  // the lowest 1 Gbyte
    memory.put<word>(0x4010, 0x2001);
    memory.put<word>(0x9000, 0x2801);
    memory.put<word>(0xa000, 0x2000'4001);  // the next table at 8001'0000, which is not mapped
    const auto trap = [&](const riscv_access& a) {
        const auto r = nested_walk(svadu, 0x9000, sv39x4, 0x4000, 0x1000, a, {}, memory);
        CHECK(fault_code(r, a, {}, svadu, sv39x4).value == trap_of(r, 0x1000, a, svadu, sv39x4).cause);
        return trap_of(r, 0x1000, a, svadu, sv39x4);
    };
    CHECK(trap(a_store) == riscv_trap{23, 0x1000, 0x2000'4002, 0x3000, true, true});
    CHECK(trap(a_load) == riscv_trap{21, 0x1000, 0x2000'4002, 0x3000, true, true});
    CHECK(trap(a_fetch) == riscv_trap{20, 0x1000, 0x2000'4002, 0x3000, true, true});

    // The table may be read but not written, and A is to be set in it.
    memory.put<word>(0x8000, 0x2c00 << 0 | 0);
    memory.put<word>(0x8000 + 0 * 8, word{0x3001});               // 8000'0000: a table of 4 Kbytes at c000
    memory.put<word>(0xc000 + 16 * 8, word{0xd000} >> 2 | 0xd3);  // 8001'0000: d000, read-only
    memory.put<word>(0xd008, 0x800f);
    CHECK(trap(a_load) == riscv_trap{21, 0x1000, 0x2000'4002, 0x3020, true, true});
    CHECK(trap(a_store) == riscv_trap{23, 0x1000, 0x2000'4002, 0x3020, true, true});
    CHECK(memory.get<word>(0xd008) == 0x800f);
    // Executable is not readable, whatever MXR says of explicit loads.
    memory.put<word>(0xc000 + 16 * 8, word{0xd000} >> 2 | 0xd9);
    const auto r = nested_walk(svadu, 0x9000, sv39x4, 0x4000, 0x1000, a_load, {{.mxr = true}, {.mxr = true}}, memory);
    CHECK(trap_of(r, 0x1000, a_load, svadu, sv39x4).tinst == 0x3000);
    // With W the entry is marked, and D of the page that holds it, too.
    memory.put<word>(0xc000 + 16 * 8, word{0xd000} >> 2 | 0x57);
    CHECK(nested_walk(svadu, 0x9000, sv39x4, 0x4000, 0x1000, a_load, {}, memory));
    CHECK(memory.get<word>(0xd008) == 0x804f);
    CHECK(memory.get<word>(0xc000 + 16 * 8) == (word{0xd000} >> 2 | 0xd7));
}
