// SPDX-License-Identifier: BSL-1.0
// AArch64's tables: permissions in other bits above, the dirty state in the write permission, contiguous entries, wide
// roots, aborts and registers. Recorded accesses are replayed by tests/replay.
#include <cstdint>
#include <ptebits/aarch64.hpp>
#include <ptebits/aarch64_registers.hpp>
#include <ptebits/text.hpp>
#include <string>

#include "leaf_model.hpp"
#include "manual.hpp"
#include "wider_walk.hpp"

using namespace ptebits;
using walking::word;
using wider::chain_root;
using wider::entry_chain;
using wider::one_walk;
using wider::walk_to;

namespace {

constexpr auto first = aarch64_stage1<aarch64_stage1_features{}>;
constexpr auto by_software = aarch64_stage1<aarch64_stage1_features{.access_flag = false, .dirty_state = false}>;
constexpr auto upper = aarch64_stage1<aarch64_stage1_features{.input_bits = 39, .upper_half = true}>;
constexpr auto wide = aarch64_stage1<aarch64_stage1_features{
    .granule = 16, .input_bits = 42, .physical_bits = 52, .large_addresses = true}>;
constexpr auto second = aarch64_stage2<aarch64_stage2_features{}>;
constexpr auto second_40 = aarch64_stage2<aarch64_stage2_features{.levels = 3, .input_bits = 40, .dirty_state = false}>;

constexpr word dirty_modifier = word{1} << 51;

constexpr aarch64_access reads{};
constexpr aarch64_access writes_it{.what = aarch64_operation::write};
constexpr aarch64_access fetches_it{.what = aarch64_operation::fetch};

/// DFSC or IFSC of a walk's fault.
template <class Format>
std::uint64_t status(const walk_result& r, const Format& f)
{
    return fault_code(r, reads, {}, f).value;
}

}  // namespace

TEST_CASE("what tables take away at stage 1, from every leaf and for every access")
{
    const auto check = [](const auto& f, bool updates) {
        for (unsigned above = 0; above < 16; ++above) {
            for (unsigned n = 0; n < 32; ++n) {
                const bool ap_1 = (n & 1) != 0;
                const bool ap_2 = (n & 2) != 0;
                const bool pxn = (n & 4) != 0 || (above & 1) != 0;
                const bool uxn = (n & 8) != 0 || (above & 2) != 0;
                const bool dbm = (n & 16) != 0;
                const bool user = ap_1 && (above & 4) == 0;
                const bool write = (!ap_2 || (dbm && updates)) && (above & 8) == 0;
                const word leaf = 0x1234'5403 | word{n & 3} << 6 | word{n >> 2 & 3} << 53 | word{dbm} << 51;
                entry_chain chain(f, 1, leaf, 0x1000);
                // One bit at each of three levels, the fourth beside the last of them.
                chain.put(4, chain.get(4) | word{above & 1} << 59);
                chain.put(3, chain.get(3) | word{above & 2} << 59);
                chain.put(2, chain.get(2) | word{above & 12} << 59);
                for (unsigned cpu = 0; cpu < 4; ++cpu) {
                    const bool pan = (cpu & 1) != 0;
                    const bool wxn = (cpu & 2) != 0;
                    const auto expect = [&](aarch64_access a, bool granted) {
                        chain.put(1, leaf);
                        const walk_result r = chain.walked(a, {.privileged_never = pan, .write_execute_never = wxn});
                        if ((r.fault == fault_kind::none) == granted) return;
                        FAIL_CHECK("above " << above << " leaf " << n << " cpu " << cpu << " access "
                                            << static_cast<unsigned>(a.what) << (a.user ? " EL0" : " EL1"));
                    };
                    const bool kept_out = pan && user;
                    expect({aarch64_operation::read}, !kept_out);
                    expect({aarch64_operation::write}, write && !kept_out);
                    const bool becomes_dirty = write && !kept_out && ap_2;
                    CHECK(chain.get(1) == (becomes_dirty ? leaf & ~word{0x80} : leaf));
                    expect({aarch64_operation::fetch}, !pxn && !(user && write) && !(wxn && write));
                    CHECK(chain.get(1) == leaf);
                    expect({aarch64_operation::read, true}, user);
                    expect({aarch64_operation::write, true}, user && write);
                    expect({aarch64_operation::fetch, true}, !uxn && !(wxn && user && write));
                }
            }
        }
    };
    check(first, true);
    check(format_for(aarch64_stage1_features{.dirty_state = false}), false);
    CHECK_FALSE(first->permissions_in_place());
    CHECK(second->permissions_in_place());
}

TEST_CASE("permissions above are ignored with HPD")
{
    constexpr auto flat = aarch64_stage1<aarch64_stage1_features{.hierarchical = false}>;
    constexpr word all = word{0xf} << 59;
    CHECK(walk_to(flat, 1, 0x1443, 0x1000, {aarch64_operation::write, true}, {}, all).ended);
    CHECK_FALSE(walk_to(first, 1, 0x1443, 0x1000, {aarch64_operation::write, true}, {}, all).ended);
    CHECK(flat->permissions_in_place());
    CHECK(available(flat, word{7} << 55));
}

TEST_CASE("execution by regime: the same text page, stage 1 and 2")
{
    // Kernel text: UXN set, PXN clear, read-only.
    constexpr word text = 0x0040'0000'8000'0783;
    CHECK(permissions_of(text, 1, first) == permissions{true, false, true, false, false});
    CHECK(walk_to(first, 1, text, 0x1000, fetches_it).ended.address == 0x8000'0000);
    CHECK(walk_to(first, 1, text, 0x1000, {aarch64_operation::fetch, true}).ended.fault == fault_kind::protection);
    // Execute-only for EL0: a fetch needs no read permission.
    constexpr word hidden = 0x0020'0000'8000'0783;
    CHECK(walk_to(first, 1, hidden, 0x1000, {aarch64_operation::fetch, true}).ended);
    CHECK_FALSE(walk_to(first, 1, hidden, 0x1000, {aarch64_operation::read, true}).ended);
    // Stage 2: XN[1:0] by number.
    constexpr bool el0[] = {true, true, false, false};
    constexpr bool el1[] = {true, false, false, true};
    for (unsigned xn = 0; xn < 4; ++xn) {
        const word leaf = 0x8000'043f | word{xn} << 53;
        CHECK(permissions_of(leaf, 1, second) == permissions{false, false, el1[xn], true, el0[xn]});
        CHECK(bool{walk_to(second, 1, leaf, 0x1000, fetches_it).ended} == el1[xn]);
        CHECK(bool{walk_to(second, 1, leaf, 0x1000, {aarch64_operation::fetch, true}).ended} == el0[xn]);
        CHECK_FALSE(walk_to(second, 1, leaf, 0x1000).ended);
    }
    constexpr auto without = aarch64_stage2<aarch64_stage2_features{.execute_by_level = false}>;
    CHECK(permissions_of(0x0040'0000'8000'043f, 1, without).user_execute == false);
    CHECK(permissions_of(0x0020'0000'8000'043f, 1, without) == permissions{false, false, true, true, true});
}

TEST_CASE("what a block allows is asked at its level: at another it is of no kind")
{
    constexpr word block = 0x0040'0000'8000'0701;  // UXN set, PXN clear, writable
    CHECK(readable(block, first, 2));
    CHECK(writable(block, first, 2));
    CHECK(executable(block, first, 2));
    CHECK_FALSE(readable(block, first));
    CHECK_FALSE(writable(block, first));
    CHECK_FALSE(executable(block, first));
}

TEST_CASE("occupied, but of no kind: a translation fault")
{
    // 01 is no page, and no block at the top level; 11 is no block.
    for (const word entry : {word{0x8000'0701}, word{0x8000'0001}, ~word{2}}) {
        CHECK(present(entry, first));
        CHECK(kind_of(entry, 1, first) == kind::none);
        CHECK(kind_of(entry, 4, first) == kind::none);
        CHECK(diagnose(entry, 1, first).broken == rule::no_such_kind);
        CHECK(permissions_of(entry, 1, first) == no_permissions);
        CHECK(address_of(entry, 1, first) == 0);
        for (const unsigned level : {1U, 4U}) {
            const walk_result r = walk_to(first, level, entry, 0x1000).ended;
            CHECK(r.fault == fault_kind::not_present);
            CHECK(r.broken == rule::no_such_kind);
            CHECK(r.allowed == no_permissions);
            CHECK(status(r, first) == 8 - level);
        }
        // Not empty, and so not dropped: what software leaves there is its own.
        word slot = entry;
        CHECK_FALSE(needs_flush(entry, 0, first));
        CHECK(unmap(slot, first) == entry);
        CHECK(slot == 0);
    }
    CHECK(encode(kind::leaf, 4, 0, {}, first).error == encode_error::no_such_entry);
    CHECK(encode(kind::leaf, 3, 0, {}, aarch64_stage1<aarch64_stage1_features{.granule = 14}>).error ==
          encode_error::no_such_entry);
    // Invalid entries are software's but for bit 0.
    CHECK(check_absent(~word{0x401}, second) == absent_error::none);
    CHECK(check_absent(~word{1}, second) == absent_error::looks_accessed);
    CHECK(check_absent(0x3, second) == absent_error::looks_present);
    CHECK(walk_to(second, 1, 0x0080'0000'8000'07fe, 0).ended.fault == fault_kind::not_present);
}

TEST_CASE("blocks ignore address bits below them, and fault for those above the output size")
{
    constexpr auto narrow = aarch64_stage1<aarch64_stage1_features{.physical_bits = 40}>;
    CHECK(walk_to(first, 3, 0x8000'1701, 0x1234'5678).ended.address == 0x9234'5678);
    CHECK(walk_to(first, 2, 0x801f'f701, 0x1234'5678).ended.address == 0x8014'5678);
    for (unsigned bit = 12; bit < 51; ++bit) {
        CAPTURE(bit);
        for (const unsigned level : {1U, 2U, 3U}) {
            const word entry = (level == 1 ? 0x403 : 0x401) | word{1} << bit;
            const unsigned shift = 12 + 9 * (level - 1);
            const walk_result r = walk_to(narrow, level, entry, 0x1010).ended;
            if (bit < 40 || bit >= 48) {
                CHECK(r.fault == fault_kind::none);
                const word held = bit >= shift && bit < 40 ? word{1} << bit : 0;
                CHECK(r.address == (held | (0x1010 & ones(shift - 1, 0))));
                CHECK(legal(entry, level, narrow));
            } else {
                CHECK(r.fault == fault_kind::address_size);
                CHECK(r.broken == rule::beyond_the_width);
                CHECK(r.bits == word{1} << bit);
                CHECK(r.level == level);
                CHECK(diagnose(entry, level, narrow) == finding{rule::beyond_the_width, word{1} << bit});
            }
        }
        if (bit < 40 || bit >= 48) continue;
        const walk_result above = walk_to(narrow, 1, 0x1403, 0x1010, {}, {}, word{1} << bit).ended;
        CHECK(above.fault == fault_kind::address_size);
        CHECK(above.level == 4);
    }
    CHECK(encode(kind::leaf, 1, word{1} << 40, {}, narrow).error == encode_error::address_too_wide);
}

TEST_CASE("64-Kbyte pages: the address in two pieces, tables and pages alike")
{
    const auto f = format_for(wide->features());
    CHECK(encode(kind::table, 2, 0x000f'0000'4001'0000, {}, wide).entry == 0x4001'f003);
    CHECK(encode(kind::table, 2, 0x000f'0000'4001'0000, {}, f).entry == 0x4001'f003);
    CHECK(address_of(0x4001'f003, 2, wide) == 0x000f'0000'4001'0000);
    CHECK(encode(kind::leaf, 1, 0x000a'bcde'f012'0000,
                 {.write = false, .execute = false, .user = false, .user_execute = false}, wide)
              .entry == 0x0060'bcde'f012'a083);
    CHECK(address_of(0x0060'bcde'f012'a783, 1, wide) == 0x000a'bcde'f012'0000);
    CHECK(encode(kind::leaf, 2, 0x000a'bcde'e000'0000, {.execute = false, .user_execute = true}, wide).entry ==
          0x0020'bcde'e000'a041);
    CHECK(address_of(0x0020'bcde'ffff'a041, 2, wide) == 0x000a'bcde'e000'0000);
    for (unsigned bit = 16; bit < 52; ++bit) {
        const word one = word{1} << bit;
        const word place = bit < 48 ? one : one >> 36;
        CHECK(address_of(place | 3, 1, wide) == one);
        CHECK((encode(kind::leaf, 1, one, {.execute = false, .user_execute = true}, wide).entry &
               ~word{0x20'0000'0000'0000}) == (place | 0x43));
    }
    // A walk whose tables lie above 2^48.
    constexpr word high = 0x000f'0000'0000'0000;
    word tables_there[2] = {};
    const auto memory = [&](word physical) -> word* {
        if (physical == high + 0x1'0888) return &tables_there[0];
        return physical == high + 0x2'1110 ? &tables_there[1] : nullptr;
    };
    tables_there[0] = 0x2'f003;
    tables_there[1] = 0x7'5403;
    const word address = word{0x111} << 29 | word{0x222} << 16 | 0x1234;
    const walk_result r = walk(wide, high + 0x1'0000, address, reads, {}, memory);
    CHECK(r.fault == fault_kind::none);
    CHECK(r.address == 0x0005'0000'0007'1234);
    CHECK(walking::same_outcome(r, walk(f, high + 0x1'0000, address, reads, {}, memory)));
}

TEST_CASE("the upper half of the addresses: all bits above are ones")
{
    const shape& s = upper->shape();
    CHECK(s.levels == 3);
    CHECK(s.translates(0xffff'ff80'0000'0000));
    CHECK(s.translates(~word{0}));
    CHECK_FALSE(s.translates(0xffff'ff7f'ffff'ffff));
    CHECK_FALSE(s.translates(0));
    CHECK_FALSE(s.translates(0x7f'ffff'ffff));
    CHECK(s.extended(0x12'3456'7000) == 0xffff'ff92'3456'7000);
    const word address = 0xffff'ff92'3456'7abc;
    const one_walk w = walk_to(upper, 1, 0x8000'0403, address);
    CHECK(w.ended.address == 0x8000'0abc);
    CHECK(walk_to(format_for(upper->features()), 1, 0x8000'0403, address).ended.address == 0x8000'0abc);
    entry_chain chain(upper, 1, 0x8000'0403, address);
    for (unsigned bit = 39; bit < 64; ++bit) {
        const walk_result r = walk(upper, chain_root, address ^ word{1} << bit, reads, {}, chain.memory());
        CHECK(r.fault == fault_kind::address_too_wide);
        CHECK(status(r, upper) == 4);
    }
    unsigned found = 0;
    const auto look = [&](const mapping& m) {
        ++found;
        CHECK(m.address == 0xffff'ff92'3456'7000);
        CHECK(m.physical == 0x8000'0000);
    };
    static_cast<void>(for_each_mapping(upper, chain_root, {}, chain.memory(), look));
    static_cast<void>(for_each_mapping(upper, chain_root, {0, 0xffff'ff7f'ffff'ffff}, chain.memory(), look));
    CHECK(found == 1);
}

TEST_CASE("tables side by side at the top of stage 2")
{
    // 40 bits from level 1: two tables, 1024 entries.
    CHECK(second_40->shape().index_bits_at(3) == 10);
    CHECK(second_40->shape().slot_address(0x4000'0000, 0xff'ffff'f000, 3) == 0x4000'1ff8);
    CHECK(walk_to(second_40, 1, 0x8000'07ff, 0xff'ffff'f123).ended.address == 0x8000'0123);
    CHECK(walk_to(second_40, 3, 0x8000'07fd, 0x80'0000'0123).ended.address == 0x8000'0123);
    entry_chain chain(second_40, 1, 0x8000'07ff, 0xff'ffff'f123);
    const walk_result r = walk(second_40, chain_root, 0x100'0000'0000, reads, {}, chain.memory());
    CHECK(r.fault == fault_kind::address_too_wide);
    CHECK(status(r, second_40) == 4);
    // 16 tables; and one level alone.
    CHECK(format_for(aarch64_stage2_features{.levels = 3, .input_bits = 43})->shape().index_bits_at(3) == 13);
    const auto alone = format_for(aarch64_stage2_features{.granule = 16, .levels = 1, .input_bits = 33});
    CHECK(alone->shape().index_bits_at(1) == 17);
    CHECK(alone->shape().slot_address(0, ones(32, 16), 1) == 8 * ones(16, 0));
    CHECK(alone->exists(1, kind::leaf));
    CHECK_FALSE(alone->exists(2, kind::table));
}

TEST_CASE("contiguous entries: each has its own address, the run has their size")
{
    for (const unsigned level : {1U, 2U, 3U}) {
        CAPTURE(level);
        const unsigned shift = 12 + 9 * (level - 1);
        const word place = word{0x35} << shift;
        const encoded e = encode(kind::run, level, place, {.execute = false, .user_execute = true}, first);
        CHECK(e.entry == ((level == 1 ? 3 : 1) | 0x40 | place | word{1} << 52 | word{1} << 53));
        CHECK(kind_of(e.entry, level, first) == kind::run);
        CHECK(address_of(e.entry, level, first) == place);
        CHECK(page_shift_of(e.entry, level, first) == shift + 4);
        const word address = word{5} << shift | 0x10;
        const walk_result r = walk_to(first, level, e.entry, address).ended;
        CHECK(r.address == (place | 0x10));
        CHECK(r.page_shift == shift + 4);
        CHECK(needs_flush(e.entry, e.entry & ~(word{1} << 52), first, level));
    }
    CHECK(page_shift_of(word{1} << 52 | 3, 1, aarch64_stage1<aarch64_stage1_features{.granule = 14}>) == 21);
    CHECK(page_shift_of(word{1} << 52 | 1, 2, aarch64_stage1<aarch64_stage1_features{.granule = 14}>) == 30);
    CHECK(page_shift_of(word{1} << 52 | 3, 1, wide) == 21);
    CHECK(page_shift_of(word{1} << 52 | 1, 2, wide) == 34);

    // To read, over the run; to act, each entry by itself.
    word run[16];
    for (unsigned n = 0; n < 16; ++n) run[n] = 0x0078'0000'8000'0383 | word{n} << 12;
    run[3] = 0x0078'0000'8000'3703;
    CHECK(young_any(run, first));
    CHECK(dirty(run[3], first));
    CHECK_FALSE(dirty(run[5], first));
    CHECK(mark_accessed(run[5], first));
    CHECK(run[5] == 0x0078'0000'8000'5783);
    CHECK(young_in(run, first).count() == 2);
    CHECK(age_table(run, first).count() == 2);
    CHECK(harvest_dirty(run, first).count() == 1);
    CHECK(harvest_dirty(run, first).count() == 0);
    CHECK(run[3] == 0x0078'0000'8000'3383);
}

TEST_CASE("the dirty state is the write permission: stage 1")
{
    constexpr word page = 0x0068'0000'8000'0703;
    CHECK(dirty(page, first));
    CHECK_FALSE(dirty(page | 0x80, first));
    CHECK_FALSE(dirty(page & ~dirty_modifier, first));  // writable, and not managed by hardware

    word slot = page;
    CHECK(write_protect(slot, first));
    CHECK(slot == 0x0060'0000'8000'0783);
    CHECK_FALSE(write_protect(slot, first));
    CHECK(needs_flush(page, slot, first));
    slot = page | 0x80;  // clean, but a write would make it dirty
    CHECK(write_protect(slot, first));
    CHECK(slot == 0x0060'0000'8000'0783);
    CHECK(needs_flush(page | 0x80, slot, first));
    CHECK(walk_to(first, 1, slot, 0, writes_it).ended.fault == fault_kind::protection);

    slot = page;
    CHECK(clear_dirty(slot, first));
    CHECK(slot == 0x0068'0000'8000'0783);
    CHECK_FALSE(clear_dirty(slot, first));
    CHECK(needs_flush(page, slot, first));
    CHECK_FALSE(needs_flush(slot, page, first));
    CHECK(walk_to(first, 1, slot, 0, writes_it).entry == page);
    CHECK(walk_to(first, 1, slot, 0).entry == slot);
    CHECK(walk_to(first, 1, slot, 0, fetches_it).ended.fault == fault_kind::protection);  // PXN

    slot = page;
    CHECK(harvest_dirty(slot, first));
    CHECK(slot == 0x0068'0000'8000'0783);
    CHECK_FALSE(harvest_dirty(slot, first));
    slot = page;
    CHECK(harvest_dirty(slot, format_for(aarch64_stage1_features{})));
    CHECK(slot == 0x0068'0000'8000'0783);

    // Where hardware does not manage it, DBM says nothing.
    slot = page;
    CHECK(write_protect(slot, by_software));
    CHECK(slot == 0x0068'0000'8000'0783);
    CHECK(walk_to(by_software, 1, slot, 0, writes_it).ended.fault == fault_kind::protection);
    CHECK_FALSE(needs_flush(slot, slot & ~dirty_modifier, by_software));
    CHECK(available(by_software, dirty_modifier));

    // An absent entry is left alone.
    slot = page & ~word{1};
    CHECK_FALSE(clear_dirty(slot, first));
    CHECK_FALSE(write_protect(slot, first));
    CHECK_FALSE(harvest_dirty(slot, first));
    CHECK(slot == (page & ~word{1}));
}

TEST_CASE("the dirty state is the write permission: stage 2")
{
    constexpr word page = 0x0008'0000'8000'07ff;
    CHECK(dirty(page, second));
    CHECK_FALSE(dirty(page & ~word{0x80}, second));
    CHECK_FALSE(dirty(page & ~dirty_modifier, second));
    word slot = page;
    CHECK(write_protect(slot, second));
    CHECK(slot == 0x8000'077f);
    CHECK(needs_flush(page, slot, second));
    CHECK_FALSE(write_protect(slot, second));
    slot = page;
    CHECK(clear_dirty(slot, second));
    CHECK(slot == 0x0008'0000'8000'077f);
    CHECK_FALSE(clear_dirty(slot, second));
    CHECK(walk_to(second, 1, slot, 0, writes_it).entry == page);
    CHECK(walk_to(second, 1, slot, 0).entry == slot);
    slot = 0x8000'07ff;
    CHECK(write_protect(slot, second_40));
    CHECK(slot == 0x8000'077f);
    CHECK(walk_to(second, 1, 0x8000'077f, 0, writes_it).ended.fault == fault_kind::protection);
}

TEST_CASE("tables of pages, the dirty state in the write permission")
{
    alignas(64) static word table[512];
    for (unsigned n = 0; n < 512; ++n) {
        table[n] = 0x8000'0403 | word{n} << 12 | word{n & 1} << 51 | word{n >> 1 & 1} << 7;
        if (n % 8 == 7) table[n] &= ~word{1};
    }
    word copy[512];
    for (unsigned n = 0; n < 512; ++n) copy[n] = table[n];
    const auto harvested = harvest_dirty(table, first);
    const auto protected_ones = write_protect_table(copy, first);
    for (unsigned n = 0; n < 512; ++n) {
        const bool valid = n % 8 != 7;
        const bool writable = (n >> 1 & 1) == 0;
        // Without DBM, a write permission that software gave is taken away.
        if (harvested.test(n) != (valid && writable)) FAIL_CHECK("harvested " << n);
        if (protected_ones.test(n) != (valid && (writable || (n & 1) != 0))) FAIL_CHECK("protected " << n);
        const word before = 0x8000'0403 | word{n} << 12 | word{n & 1} << 51 | word{n >> 1 & 1} << 7;
        if (table[n] != (valid ? before | 0x80 : before & ~word{1})) FAIL_CHECK("entry " << n);
        if (copy[n] != (valid ? (before & ~dirty_modifier) | 0x80 : before & ~word{1})) FAIL_CHECK("copy " << n);
    }
}

TEST_CASE("ageing by the access flag, set by hardware or by software")
{
    const auto check = [](const auto& f, bool hardware) {
        word slot = 0x8000'0743;
        CHECK(age(slot, f));
        CHECK(slot == 0x8000'0343);
        CHECK_FALSE(age(slot, f));
        CHECK_FALSE(needs_flush(0x8000'0743, slot, f));
        CHECK_FALSE(needs_flush(slot, 0x8000'0743, f));
        const one_walk w = walk_to(f, 1, slot, 0x10);
        CHECK(w.ended.fault == (hardware ? fault_kind::none : fault_kind::access_flag));
        CHECK(w.entry == (hardware ? 0x8000'0743 : 0x8000'0343));
        CHECK(f->accessed_by() == (hardware ? accessed_setter::hardware : accessed_setter::fault));
        CHECK(mark_accessed(slot, f));
        CHECK(slot == 0x8000'0743);
        CHECK_FALSE(mark_accessed(slot, f));
        CHECK(walk_to(f, 1, slot, 0x10).ended);
        // The flag comes before permissions.
        if (!hardware) CHECK(walk_to(f, 1, 0x8000'0383, 0x10, writes_it).ended.fault == fault_kind::access_flag);
        if (!hardware) CHECK(walk_to(f, 2, 0x8000'0301, 0x10).ended.level == 2);
        // A table's bit 10 is nobody's.
        entry_chain chain(f, 1, 0x8000'0343, 0x10);
        const word above = chain.get(2) | 0x400;
        chain.put(2, above);
        CHECK(bool{chain.walked()} == hardware);
        CHECK(chain.get(2) == above);
        CHECK(chain.get(1) == (hardware ? 0x8000'0743 : 0x8000'0343));
        word gone = 0x8000'0742;
        CHECK_FALSE(age(gone, f));
        CHECK_FALSE(mark_accessed(gone, f));
    };
    check(first, true);
    check(format_for(aarch64_stage1_features{}), true);
    check(by_software, false);
    check(format_for(aarch64_stage1_features{.access_flag = false, .dirty_state = false}), false);
}

TEST_CASE("changes of live entries at stage 1")
{
    constexpr word page = 0x0060'0000'8000'0f43;
    CHECK(needs_flush(page, page ^ 0x4, first));          // AttrIndx
    CHECK(needs_flush(page, page ^ 0x100, first));        // SH
    CHECK(needs_flush(page, page ^ 0x800, first));        // nG
    CHECK(needs_flush(page, page | 0x80, first));         // read-only
    CHECK(needs_flush(page, page & ~word{0x40}, first));  // no longer EL0's
    CHECK(needs_flush(page, page ^ 0x1000, first));
    CHECK(needs_flush(page, page ^ dirty_modifier, first));
    CHECK_FALSE(needs_flush(page, page & ~(word{3} << 53), aarch64_stage1<aarch64_stage1_features{}>));
    CHECK(needs_flush(page & ~(word{1} << 54), page, first));
    CHECK_FALSE(needs_flush(page | 0x80, page, first));
    CHECK_FALSE(needs_flush(page, page ^ word{1} << 55, first));
    CHECK_FALSE(needs_flush(0, page, first));
    CHECK(needs_flush(page, page & ~word{1}, first));
    CHECK(needs_flush(0x8000'0701, 0x4000'1003, first, 2));
}

TEST_CASE("a block of stage 1 split into what means the same, and merged")
{
    constexpr word block = 0x0068'0000'8000'0f41;
    word table[512];
    for (unsigned n = 0; n < 512; ++n) {
        const resized part = split(block, 2, n, first);
        REQUIRE(part);
        table[n] = part.entry;
        if (table[n] != (block | 2 | word{n} << 12)) FAIL_CHECK("part " << n);
    }
    const resized whole = merge(table, encode(kind::table, 2, 0x10'0000, {}, first).entry, 2, first);
    CHECK(whole.error == split_error::none);
    CHECK(whole.entry == block);
    CHECK(split(0x0060'0000'8000'0741, 3, 511, first).entry == 0x0060'0000'bfe0'0741);
    CHECK(split(block | word{1} << 52, 2, 0, first).error == split_error::not_a_leaf);
    CHECK(split(block, 2, 0x1fff, wide).error == split_error::none);
    // A table that takes rights away does not mean what a block does.
    CHECK(merge(table, 0x4000'0000'0010'0003, 2, first).error == split_error::rights_above);
}

TEST_CASE("accesses tracked by stage 2's valid bit")
{
    constexpr auto tracking = track_accesses<55>(second_40);
    word slot = 0x8000'07ff;
    CHECK(track(slot, tracking) == track_result::tracked_writable);
    CHECK(slot == 0x0180'0000'8000'077e);  // bit 56: it may have been written
    CHECK(is_tracked(slot, tracking));
    CHECK_FALSE(present(slot, second_40));
    CHECK(walk_to(second_40, 1, slot, 0).ended.fault == fault_kind::not_present);
    CHECK(restore(slot, tracking));
    CHECK(slot == 0x0100'0000'8000'077f);
    CHECK(harvest_dirty(slot, tracking));
    CHECK(slot == 0x8000'077f);
    CHECK(unmap(slot, second_40) == 0x8000'077f);
}

TEST_CASE("blocks are pages of their levels, and what is of no kind is no page")
{
    CHECK(leaf_model::wrong_translations_both_ways(first) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(by_software) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(second) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(second_40) == 0);
    CHECK(leaf_model::wrong_translations_both_ways(aarch64_stage1<aarch64_stage1_features{.physical_bits = 40}>) == 0);

    word block = 0x8000'0701;
    CHECK_FALSE(age(block, first, {}, 1));
    CHECK_FALSE(age(block, first, {}, 4));
    CHECK(age(block, first, {}, 2));
    CHECK(block == 0x8000'0301);
    CHECK(mark_accessed(block, first));
    word table[] = {block, 0x8000'0703, block};
    CHECK(age_table(table, first).count() == 3);
    CHECK(age_table(table, first, {}, 2).count() == 0);
    // An address past the width: no page at any level.
    word past = 0x2000'8000'0703;
    CHECK_FALSE(age(past, aarch64_stage1<aarch64_stage1_features{.physical_bits = 40}>));
    CHECK_FALSE(write_protect(past, aarch64_stage1<aarch64_stage1_features{.physical_bits = 40}>));
    CHECK(past == 0x2000'8000'0703);
}

TEST_CASE("LPA2: bits 51:48 of the address, and where they stand")
{
    constexpr auto low =
        aarch64_stage1<aarch64_stage1_features{.input_bits = 52, .physical_bits = 52, .large_addresses = true}>;
    CHECK(low->shape().levels == 5);
    CHECK(low->manual_level(5) == -1);
    CHECK(low->exists(4, kind::leaf));  // 512 Gbytes, at level 0
    CHECK_FALSE(low->exists(5, kind::leaf));
    CHECK_FALSE(first->exists(4, kind::leaf));
    // Bits 51:50 in bits 9:8, 49:48 where they are.
    CHECK(address_of(0x0003'0000'0000'0303, 1, low) == 0x000f'0000'0000'0000);
    CHECK(encode(kind::table, 5, 0x000f'0000'4000'1000, {}, low).entry == 0x0003'0000'4000'1303);
    for (unsigned bit = 12; bit < 52; ++bit) {
        const word one = word{1} << bit;
        CHECK(address_of((bit < 50 ? one : one >> 42) | 3, 1, low) == one);
    }
    CHECK(address_of(0x0003'0000'0000'0303, 1, first) == 0);  // shareability, and ignored
    CHECK_FALSE(low->shareability.exists());
    constexpr auto narrow = aarch64_stage1<aarch64_stage1_features{.large_addresses = true}>;
    CHECK(walk_to(narrow, 1, 0x8000'0603, 0x1000).ended.fault == fault_kind::address_size);
    // 16 Kbytes: level 0 by 5 index bits, blocks of 64 Gbytes at level 1.
    constexpr auto middle = aarch64_stage1<aarch64_stage1_features{
        .granule = 14, .input_bits = 52, .physical_bits = 52, .large_addresses = true}>;
    CHECK(middle->shape().levels == 4);
    CHECK(middle->shape().index_bits_at(4) == 5);
    CHECK(middle->exists(3, kind::leaf));
    CHECK(middle->shape().page_shift(3) == 36);
    // A fault at level -1 has a status of its own.
    const walk_result r = walk_to(low, 5, 0, 0x1000).ended;
    CHECK(status(r, low) == 0x2b);
    CHECK(status(walk_to(narrow, 1, 0x8000'0603, 0x1000).ended, narrow) == 3);
}

TEST_CASE("EL2's own tables: no EL0, and XN for PXN")
{
    constexpr auto el2 = aarch64_el2<aarch64_el2_features{.access_flag = false, .dirty_state = false}>;
    CHECK_FALSE(el2->not_global.exists());                                                  // there is no ASID
    CHECK(encode(kind::leaf, 1, 0x8000'0000, {.write = false}, el2).entry == 0x8000'00c3);  // AP[1] is RES1
    CHECK(encode(kind::leaf, 1, 0x8000'0000, {.execute = false}, el2).entry == 0x0040'0000'8000'0043);
    CHECK(walk_to(el2, 1, 0x8000'04c3, 0x1010, fetches_it).ended.address == 0x8000'0010);
    CHECK(walk_to(el2, 1, 0x8000'04c3, 0x1010, writes_it).ended.fault == fault_kind::protection);
    // WXN counts; PAN and EPAN do not.
    constexpr aarch64_controls all{true, true, true};
    CHECK(walk_to(el2, 1, 0x8000'0443, 0x1010, fetches_it, all).ended.fault == fault_kind::protection);
    CHECK(walk_to(el2, 1, 0x8000'0443, 0x1010, reads, all).ended);
    // XNTable and APTable[1] of the tables above.
    CHECK(walk_to(el2, 1, 0x8000'0443, 0x1010, fetches_it, {}, word{1} << 60).ended.fault == fault_kind::protection);
    CHECK(walk_to(el2, 1, 0x8000'0443, 0x1010, writes_it, {}, word{1} << 62).ended.fault == fault_kind::protection);
    CHECK(walk_to(el2, 1, 0x8000'0443, 0x1010, writes_it, {}, word{5} << 59).ended);  // ignored
    CHECK(walk_to(el2, 1, 0x8000'0443, 0x1010, reads, {}, word{0xf} << 59).ended);
}

TEST_CASE("EPAN: EL1 does not reach what EL0 may execute alone")
{
    constexpr word hidden = 0x0020'0000'8000'0783;  // executable at EL0, readable at EL1
    CHECK(walk_to(first, 1, hidden, 0x1000, reads, {.privileged_never = true}).ended);
    CHECK_FALSE(
        walk_to(first, 1, hidden, 0x1000, reads, {.privileged_never = true, .enhanced_privileged_never = true}).ended);
    CHECK(walk_to(first, 1, hidden, 0x1000, reads, {.enhanced_privileged_never = true}).ended);
}

TEST_CASE("registers: granules, sizes, what the CPU has")
{
    constexpr aarch64_cpu cpu{.physical_bits = 44};
    // T0SZ 16, 4 Kbytes, IPS 5 of a CPU with 44 bits, HA, HD; the upper half by 16 Kbytes and T1SZ 25, HPD1.
    constexpr word tcr = 16 | word{25} << 16 | word{1} << 30 | word{5} << 32 | word{3} << 39 | word{1} << 42;
    constexpr auto lower = read_tcr_el1(tcr, false, cpu);
    static_assert(lower && lower.features == aarch64_stage1_features{.physical_bits = 44});
    constexpr auto upper_half = read_tcr_el1(tcr, true, cpu);
    static_assert(upper_half && upper_half.features == aarch64_stage1_features{.granule = 14,
                                                                               .input_bits = 39,
                                                                               .physical_bits = 44,
                                                                               .hierarchical = false,
                                                                               .upper_half = true});
    using enum aarch64_register_error;
    CHECK(read_tcr_el1(tcr | 3 << 14, false, cpu).error == granule);
    CHECK(read_tcr_el1(tcr | 2 << 14, false, {.granule_16k = false}).error == granule);
    CHECK(read_tcr_el1(tcr | 2 << 14, false, {.granule_16k = true}).error == none);
    CHECK(read_tcr_el1(tcr & ~word{63}, false, cpu).error == input_size);
    CHECK(read_tcr_el1((tcr & ~word{63}) | 49, false, cpu).error == input_size);
    CHECK(read_tcr_el1((tcr & ~word{63}) | 40, false, {.small_tables = false}).error == input_size);
    CHECK(read_tcr_el1((tcr & ~word{63}) | 40, false, cpu).error == none);
    // DS counts where the CPU has it.
    CHECK(read_tcr_el1((tcr & ~word{63}) | 12 | word{1} << 59, false, cpu).error == input_size);
    CHECK(read_tcr_el1((tcr & ~word{63}) | 12 | word{1} << 59, false, {.lpa2 = true}).features.input_bits == 52);
    // Without FEAT_HAFDBS hardware sets neither.
    CHECK_FALSE(read_tcr_el1(tcr, false, {.hardware_access = false}).features.access_flag);
    CHECK_FALSE(read_tcr_el1(tcr, false, {.hardware_dirty = false}).features.dirty_state);
    // HD without HA counts for nothing.
    CHECK_FALSE(read_tcr_el1(tcr & ~(word{1} << 39), false, cpu).features.dirty_state);
    constexpr auto el2 = read_tcr_el2(24 | 2 << 16 | word{1} << 21 | word{1} << 24, cpu);
    static_assert(el2 && el2.features ==
                             aarch64_el2_features{
                                 .input_bits = 40, .physical_bits = 40, .dirty_state = false, .hierarchical = false});
    // 40 bits from level 1, two tables side by side: as hypervisors boot.
    constexpr auto vtcr = read_vtcr_el2(24 | 1 << 6 | 2 << 16 | word{3} << 21, cpu);
    static_assert(vtcr && vtcr.features == aarch64_stage2_features{.levels = 3, .input_bits = 40, .physical_bits = 40});
    CHECK(read_vtcr_el2(24 | 2 << 6 | 2 << 16, cpu).error == none);
    CHECK(read_vtcr_el2(24 | 2 << 6 | 2 << 16, {.physical_bits = 40}).error == start_level);
    CHECK(read_vtcr_el2(20 | 0 << 6 | 2 << 16, cpu).error == start_size);
    CHECK(read_vtcr_el2(34 | 1 << 6 | 2 << 16, cpu).error == start_size);
    CHECK(read_vtcr_el2(16 | 2 << 6 | 2 << 16, cpu).error == input_size);  // more than PARange
    CHECK(read_vtcr_el2(24 | 3 << 6 | 1 << 14, cpu).error == start_level);
    CHECK(read_vtcr_el2(12 | word{1} << 33 | word{1} << 32 | 6 << 16, {.physical_bits = 52, .lpa2 = true})
              .features.levels == 5);
    // Roots: the table's size, at least 64 bytes; bits 51:48 in bits 5:2.
    CHECK(aarch64_root(0x0123'0000'8000'0fff, lower.features) == 0x8000'0000);
    CHECK(aarch64_root(0x0001'0000'4000'3fff, vtcr.features) == 0x4000'2000);
    CHECK(aarch64_root(
              0x8000'003c,
              aarch64_stage1_features{.granule = 16, .input_bits = 43, .physical_bits = 52, .large_addresses = true}) ==
          0x000f'0000'8000'0000);
    // ASID and CnP are no address. A CPU of 40 bits has no level 0.
    CHECK(aarch64_root(0x0005'0000'4000'1001, aarch64_stage1_features{}) == 0x4000'1000);
    CHECK(read_vtcr_el2(0x8002'3590, {.physical_bits = 40}).error != none);
    CHECK(read_vtcr_el2(0x8002'3558, {.physical_bits = 40}).error == none);
    CHECK(std::string(name(start_size)) == "the start level does not match the size of addresses");
}

TEST_CASE("aborts, and the way back from them")
{
    // Stage 1's page under stage 2, which does not map it.
    constexpr word stage2_root = 0x10'0000;
    walking::arena memory(stage2_root, 16);
    const auto go = [&](const aarch64_access& a) {
        return nested_walk(first, 0, second, stage2_root, 0x1234, a, {}, memory);
    };
    const auto told = [](const aarch64_abort& t, unsigned exception) {
        using fields = aarch64_syndrome_fields;
        const word esr = fields::exception_class(exception) | fields::status(t.status) |
                         fields::write(t.write ? 1 : 0) | fields::stage1_walk(t.stage1_walk ? 1 : 0);
        return told_by(esr, t.hpfar, exception % 2 == 0);
    };
    auto r = go(writes_it);
    aarch64_abort t = abort_of(r, 0x1234, writes_it, first, second);
    CHECK(t == aarch64_abort{.status = 4,
                             .write = false,
                             .stage2 = true,
                             .stage1_walk = true,
                             .address = 0x1234,
                             .hpfar = 0,
                             .exists = true});
    aarch64_told back = told(t, 0x24);
    CHECK(back.fault == fault_kind::not_present);
    CHECK(back.level == 0);
    CHECK(back.refused == aarch64_access{.stage1_walk = true});
    CHECK(back.address_known);
    CHECK(back.guest_physical == 0);

    // Without stage 1: the access itself.
    const auto alone = nested_walk(unpaged{}, 0, second, stage2_root, 0x12'3456, writes_it, {{}, {}}, memory);
    t = abort_of(alone, 0x12'3456, writes_it, unpaged{}, second);
    CHECK(t.write);
    CHECK(t.hpfar == 0x1230);
    back = told(t, 0x24);
    CHECK(back.refused == aarch64_access{.what = aarch64_operation::write, .user = true});
    CHECK(back.guest_physical == 0x12'3000);
    CHECK(told(t, 0x20).refused.what == aarch64_operation::fetch);
    CHECK_FALSE(told(t, 0x16));  // a hypervisor call

    // A permission fault of stage 2 has no address.
    CHECK_FALSE(told_by(word{0x24} << 26 | 0x0f, 0x1230).address_known);
    CHECK(told_by(word{0x24} << 26 | 0x8f, 0x1230).guest_physical == 0x12'3000);
    // Level -1, and statuses of no walk.
    CHECK(told_by(word{0x25} << 26 | 0x2b, 0).level == -1);
    CHECK(told_by(word{0x25} << 26 | 0x29, 0).fault == fault_kind::address_size);
    CHECK(told_by(word{0x25} << 26 | 0x13, 0).fault == fault_kind::memory_absent);
    for (const unsigned other : {0x10U, 0x18U, 0x21U, 0x30U, 0x2aU}) CHECK_FALSE(told_by(word{0x24} << 26 | other, 0));
}

TEST_CASE("entries in words count levels as the manual does")
{
    constexpr auto low =
        aarch64_stage1<aarch64_stage1_features{.input_bits = 52, .physical_bits = 52, .large_addresses = true}>;
    char line[160];
    static_cast<void>(describe(0x4000'1003, 5, low, line));
    CHECK(std::string(line).starts_with("L-1->L0 table "));
    static_cast<void>(describe(0x4000'1003, 2, low, line));
    CHECK(std::string(line).starts_with("L2->L3 table "));
}
