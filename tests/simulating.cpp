// SPDX-License-Identifier: BSL-1.0
// What simulators need of walks: entries held in registers, memory behind handlers, flags that are found
// first and set later, and what a TLB may keep.
#include <doctest/doctest.h>

#include <cstdint>
#include <map>
#include <ptebits/nested_walk.hpp>
#include <ptebits/ptebits.hpp>
#include <ptebits/tlb.hpp>
#include <vector>

#include "walking.hpp"

using namespace walking;

namespace {

constexpr auto pae = shadow<shadow_features{.levels = 3}>;

constexpr operation operations[] = {operation::read, operation::write, operation::fetch, operation::read_write};

/// Memory that is no array: slots are read and replaced by calls.
struct handlers {
    std::map<word, word> slots;
    unsigned loads = 0;
    unsigned replaced = 0;
    bool somebody_writes = false;  ///< between the load and the replacement, once

    bool load(word physical, word& entry)
    {
        const auto at = slots.find(physical);
        if (at == slots.end()) return false;
        ++loads;
        entry = at->second;
        return true;
    }
    slot_change replace(word physical, word expected, word desired)
    {
        const auto at = slots.find(physical);
        if (at == slots.end()) return slot_change::no_slot;
        if (somebody_writes) at->second ^= word{1} << 52;
        somebody_writes = false;
        if (at->second != expected) return slot_change::changed;
        ++replaced;
        at->second = desired;
        return slot_change::done;
    }
};

/// Memory that learns of writes.
struct watched_memory {
    arena& slots;
    std::vector<word>& written;

    [[nodiscard]] word* operator()(word physical) { return slots(physical, std::type_identity<word>{}); }
    [[nodiscard]] word* for_update(word physical, std::type_identity<word>)
    {
        written.push_back(physical);
        return (*this)(physical);
    }
};

}  // namespace

TEST_CASE("a root that is no address of a top table is refused")
{
    one_page page;
    for (const word root : {word{0x1018}, word{0x1005}, word{0x105e}, word{0x1800}}) {
        page.memory.given.clear();
        CHECK(walk(long_mode, root, 0x123, {}, {}, page.memory).fault == fault_kind::not_a_root);
        CHECK(walk(format_for(shadow_features{}), root, 0x123, {}, {}, page.memory).fault == fault_kind::not_a_root);
        CHECK(page.memory.given.empty());
    }
    CHECK(walk(long_mode, 0x1000, 0x123, {}, {}, page.memory));
    // PAE's top table has 32 bytes.
    CHECK(walk(pae, 0x1010, 0x123, {}, {}, page.memory).fault == fault_kind::not_a_root);
    CHECK(walk(pae, 0x1020, 0x123, {}, {}, page.memory).fault != fault_kind::not_a_root);
    constexpr auto two = shadow<shadow_features{.levels = 2}>;
    CHECK(walk(two, 0x1800, 0x123, {}, {}, page.memory).fault == fault_kind::not_a_root);
}

TEST_CASE("a walk from an entry is the rest of the walk from the root, and leaves the entry alone")
{
    dice d(5);
    unsigned reached = 0;
    arena memory(0x10'0000, 6);
    const auto check = [&](const auto& format) {
        fill(memory, format, d);
        const unsigned top = format->shape().levels;
        for (unsigned n = 0; n < 2000; ++n) {
            const word root = memory.base() + d.below(memory.pages()) * page_bytes;
            const word address = random_address(format, d);
            const asked a = random_access(d);
            const cpu_controls cpu = random_controls(d);
            const std::vector<word> before = memory.words();
            const walk_result whole = walk(format, root, address, a, cpu, memory, update_flags::no);
            if (whole.steps == 0 || uses_an_entry_twice(whole)) continue;
            const walk_result from = walk(format, held_entry{top, whole.path[0].entry}, address, a, cpu, memory);
            const std::vector<word> after = memory.words();
            CHECK(same_outcome(whole, from));
            CHECK(from.path[0].slot_address == no_slot);
            CHECK(from.path[0].entry == whole.path[0].entry);
            CHECK(from.steps == whole.steps);
            for (unsigned i = 1; i < from.steps; ++i) CHECK(from.path[i].slot_address == whole.path[i].slot_address);
            // What the whole walk sets, but for the first entry.
            memory.words() = before;
            static_cast<void>(walk(format, root, address, a, cpu, memory));
            memory.words()[(whole.path[0].slot_address - memory.base()) / 8] =
                before[(whole.path[0].slot_address - memory.base()) / 8];
            CHECK(memory.words() == after);
            reached += static_cast<bool>(whole);
            if (!whole || whole.steps < 2) continue;
            // From a level below, that entry's rights alone count.
            const walk_result lower =
                walk(format, held_entry{top - 1, whole.path[1].entry}, address, a, cpu, memory, update_flags::no);
            CHECK(lower.top_level == top - 1);
            CHECK(lower.level == whole.level);
            if (lower) CHECK(lower.address == whole.address);
        }
    };
    check(long_mode);
    check(format_for(shadow_features{.levels = 5}));
    check(ept<ept_features{}>);
    check(npt<npt_features{.levels = 3}>);
    CHECK(reached > 200);
}

namespace {

// Host tables from 0x1000 on that map guest-physical pages 0 to 15 to host-physical 1 Mbyte on.
arena host_pages_at_a_megabyte(word table_bits, word page_bits)
{
    arena memory(0x1000, 0x110);
    for (word table = 0x1000; table < 0x4000; table += 0x1000) memory.put(table, (table + 0x1000) | table_bits);
    for (word page = 0; page < 16; ++page) memory.put(0x4000 + page * 8, (0x10'0000 + page * 0x1000) | page_bits);
    return memory;
}

}  // namespace

TEST_CASE("a PAE guest over EPT walks from registers: its top table is not read, nor is D set there")
{
    constexpr auto host = ept<ept_features{}>;
    arena memory = host_pages_at_a_megabyte(7, 0x37);
    memory.put<word>(0x10'0000, 0x1001);  // the top table, in guest-physical page 0, read-only in EPT
    memory.put<word>(0x10'1000, 0x2027);
    memory.put<word>(0x10'2000, 0x7067);
    memory.put<word>(0x4000, 0x10'0000 | 0x31);
    const auto from_memory = nested_walk(pae, 0, host, 0x1000, 0x123, user_read, {}, memory);
    CHECK(from_memory.host.fault == fault_kind::protection);
    CHECK(from_memory.guest.fault == fault_kind::second_stage);

    const pdpte_registers loaded{{0x1001, 0, 0, 0x1001}};
    const auto r = nested_walk(pae, loaded, host, 0x1000, 0x123, user_write, {}, memory);
    CHECK(r);
    CHECK(r.address() == 0x10'7123);
    CHECK(r.guest_slots[1] == 0x10'1000);
    CHECK(r.guest_slots[2] == 0x10'2000);
    CHECK(memory.get<word>(0x4000) == (0x10'0000 | 0x31));  // neither A nor D
    CHECK(nested_walk(pae, loaded, host, 0x1000, 0x4000'0123, user_read, {}, memory).guest.fault ==
          fault_kind::not_present);
    CHECK(nested_walk(pae, loaded, host, 0x1000, 0xc000'0123, user_read, {}, memory));
    CHECK(walk(pae, pdpte_registers{}, 0x123, {}, {}, memory).fault == fault_kind::not_present);
}

TEST_CASE("a PAE guest over NPT reads PDPTEs on demand: reserved bits are a page fault")
{
    constexpr auto host = npt<npt_features{}>;
    arena memory = host_pages_at_a_megabyte(0x67, 0x67);
    memory.put<word>(0x10'0000, 0x10'0000'0000'6001);
    const auto r = nested_walk(pae, 0, host, 0x1000, 0x123, user_write, {}, memory);
    CHECK(r.guest.fault == fault_kind::reserved_bits);
    CHECK(fault_code(r, user_write, {}, pae, host) == reported_code{0xf, true});
}

TEST_CASE("memory behind handlers walks as an array does, one stage and two")
{
    one_page page(0x2007, 0x3007, 0x4007, 0x5000'0007);
    handlers calls;
    for (word at = 0x1000; at <= 0x4000; at += 0x1000) calls.slots[at] = page.memory.get<word>(at);
    const walk_result by_array = page.walked(long_mode, user_write);
    const walk_result by_calls = walk(long_mode, 0x1000, 0x123, user_write, {}, calls);
    CHECK(same_outcome(by_array, by_calls));
    CHECK(same_path(by_array, by_calls));
    CHECK(calls.loads == 4);
    CHECK(calls.replaced == 4);
    for (const auto& [at, entry] : calls.slots) CHECK(entry == page.memory.get<word>(at));

    // What changes meanwhile is walked anew.
    for (auto& [at, entry] : calls.slots) entry &= ~word{0x60};
    calls.somebody_writes = true;
    CHECK(walk(long_mode, 0x1000, 0x123, user_write, {}, calls));
    CHECK(calls.slots[0x1000] == (0x2027 | word{1} << 52));
    calls.slots.erase(0x3000);
    CHECK(walk(long_mode, 0x1000, 0x123, user_write, {}, calls).fault == fault_kind::memory_absent);

    handlers nested;
    const auto host = format_for(ept_features{});
    for (word level = 0; level < 3; ++level) nested.slots[0x1000 + level * 0x1000] = (level + 2) * 0x1000 | 7;
    for (word n = 0; n < 8; ++n) nested.slots[0x4000 + n * 8] = (0x10'0000 + n * 0x1000) | 0x37;
    for (word level = 0; level < 4; ++level) nested.slots[0x10'0000 + level * 0x1000] = (level + 1) * 0x1000 | 7;
    const auto looked = nested_walk(long_mode, 0, host, 0x1000, 0x123, user_write, {}, nested, update_flags::no);
    CHECK(looked);
    CHECK(nested.replaced == 0);
    const auto r = nested_walk(long_mode, 0, host, 0x1000, 0x123, user_write, {}, nested);
    CHECK(r.address() == 0x10'4123);
    CHECK(nested.slots[0x10'3000] == 0x4067);
    CHECK(nested.slots[0x4000 + 4 * 8] == ((0x10'4000) | 0x337));
}

TEST_CASE("memory is told of every A and D that is set, the guest's in a nested walk too")
{
    std::vector<word> written;
    one_page page(0x2007, 0x3027, 0x4007, 0x5000'0007);
    watched_memory memory{page.memory, written};
    CHECK(walk(long_mode, 0x1000, 0x123, user_write, {}, memory, update_flags::no));
    CHECK(written.empty());
    CHECK(walk(long_mode, 0x1000, 0x123, user_write, {}, memory));
    CHECK(written == std::vector<word>{0x1000, 0x3000, 0x4000});

    constexpr auto host = ept<ept_features{.accessed_dirty = false}>;
    arena slots(0x1000, 0x110);
    for (unsigned level = 4; level > 1; --level)
        slots.put<word>((word{5} - level) * 0x1000, (word{6} - level) * 0x1000 | 7);
    for (word n = 0; n < 8; ++n) slots.put(0x4000 + n * 8, (0x10'0000 + n * 0x1000) | 0x37);
    for (word level = 0; level < 4; ++level) slots.put(0x10'0000 + level * 0x1000, (level + 1) * 0x1000 | 7);
    written.clear();
    watched_memory nested{slots, written};
    CHECK(nested_walk(long_mode, 0, host, 0x1000, 0x123, user_write, {}, nested));
    CHECK(written == std::vector<word>{0x10'0000, 0x10'1000, 0x10'2000, 0x10'3000});
}

TEST_CASE("a walk that only finds out, then commit(), do what one walk does")
{
    dice d(11);
    arena memory(0x10'0000, 6);
    unsigned reached = 0;
    const auto check = [&](const auto& format) {
        fill(memory, format, d);
        for (unsigned n = 0; n < 3000; ++n) {
            const word root = memory.base() + d.below(memory.pages()) * page_bytes;
            const word address = random_address(format, d);
            const asked a = random_access(d);
            const std::vector<word> before = memory.words();
            const walk_result found = walk(format, root, address, a, {}, memory, update_flags::no);
            CHECK(memory.words() == before);
            if (!found || uses_an_entry_twice(found)) continue;
            ++reached;
            CHECK(commit(format, found, a, memory) == slot_change::done);
            const std::vector<word> after = memory.words();
            memory.words() = before;
            CHECK(walk(format, root, address, a, {}, memory));
            CHECK(memory.words() == after);
        }
    };
    check(long_mode);
    check(format_for(ept_features{}));
    check(npt<npt_features{.levels = 2}>);
    CHECK(reached > 200);

    one_page page(0x2067, 0x3067, 0x4067, 0x5000'0007);
    const walk_result found = page.walked(long_mode, user_write);
    page.memory.put(0x4000, word{0x6000'0007});
    CHECK(commit(long_mode, found, user_write, page.memory) == slot_change::changed);
    CHECK(page.memory.get<word>(0x4000) == 0x6000'0007);
}

TEST_CASE("what a TLB may keep: just the accesses that another walk would allow, changing nothing")
{
    dice d(17);
    arena memory(0x10'0000, 6);
    unsigned kept = 0, refused = 0;
    const auto check = [&](const auto& format) {
        fill(memory, format, d);
        for (unsigned n = 0; n < 1500; ++n) {
            const word root = memory.base() + d.below(memory.pages()) * page_bytes;
            const word address = random_address(format, d);
            asked a = random_access(d);
            a.guest_table = false;
            a.implicit = false;
            const cpu_controls cpu = random_controls(d);
            const update_flags update = d.one_in(2) ? update_flags::yes : update_flags::no;
            const walk_result r = walk(format, root, address, a, cpu, memory, update);
            const access_set set = cacheable(r, a, cpu, format, update);
            if (!r) CHECK(set == access_set{});
            if (!r || uses_an_entry_twice(r)) continue;
            const std::vector<word> before = memory.words();
            for (const operation what : operations) {
                for (const bool user : {false, true}) {
                    asked other = a;
                    other.what = what;
                    other.user = user;
                    const bool allowed = static_cast<bool>(walk(format, root, address, other, cpu, memory));
                    const bool unchanged = memory.words() == before;
                    CHECK(set.contains(what, user) == (allowed && unchanged));
                    memory.words() = before;
                    ++(set.contains(what, user) ? kept : refused);
                }
            }
        }
    };
    check(format_for(shadow_features{.user_keys = true, .supervisor_keys = true}));
    check(ept<ept_features{.mode_based_execute = true}>);
    check(ept<ept_features{.accessed_dirty = false}>);
    check(npt<npt_features{.guest_mode_execute_trap = true}>);
    CHECK(kept > 300);
    CHECK(refused > 300);
}

TEST_CASE("what a TLB may keep of both stages")
{
    dice d(23);
    unsigned kept = 0, refused = 0;
    const auto check = [&](const auto& host) {
        for (unsigned n = 0; n < 400; ++n) {
            arena memory(0x1000, 0x110);
            for (unsigned level = 4; level > 1; --level) {
                memory.put((word{5} - level) * 0x1000,
                           encode(kind::table, level, (word{6} - level) * 0x1000, {}, host).entry);
            }
            for (word p = 0; p < 8; ++p) {
                memory.put(0x4000 + p * 8, encode(kind::leaf, 1, 0x10'0000 + p * 0x1000, {}, host).entry);
            }
            for (word level = 0; level < 4; ++level) {
                memory.put(0x10'0000 + level * 0x1000, (level + 1) * 0x1000 | 1 | (d.bits() & 0x66));
            }
            permissions p{.write = d.one_in(2), .execute = d.one_in(2)};
            if (host->modes_apart())
                p.user_execute = d.one_in(2);
            else
                p.user_execute = p.execute;
            memory.put(0x4020,
                       encode(kind::leaf, 1, 0x10'4000, p, host).entry | (d.bits() & (host->accessed | host->dirty)));
            asked a = random_access(d);
            a.guest_table = a.implicit = false;
            const cpu_controls cpu = random_controls(d);
            const auto r = nested_walk(long_mode, 0, host, 0x1000, 0x123, a, cpu, memory);
            const access_set set = cacheable(r, a, cpu, long_mode, host);
            if (!r) {
                CHECK(set == access_set{});
                continue;
            }
            const std::vector<word> before = memory.words();
            for (const operation what : operations) {
                for (const bool user : {false, true}) {
                    asked other = a;
                    other.what = what;
                    other.user = user;
                    const bool allowed =
                        static_cast<bool>(nested_walk(long_mode, 0, host, 0x1000, 0x123, other, cpu, memory));
                    CHECK(set.contains(what, user) == (allowed && memory.words() == before));
                    memory.words() = before;
                    ++(set.contains(what, user) ? kept : refused);
                }
            }
        }
    };
    check(ept<ept_features{}>);
    check(ept<ept_features{.accessed_dirty = false, .mode_based_execute = true}>);
    check(npt<npt_features{}>);
    CHECK(kept > 100);
    CHECK(refused > 100);
}

TEST_CASE("commit() takes nothing from a walk that faulted")
{
    one_page page(0x2007, 0x3007, 0x4007, 0x5006);
    const walk_result r = page.walked(long_mode, user_write);
    CHECK(!r);
    CHECK(commit(long_mode, r, user_write, page.memory) == slot_change::changed);
    CHECK(page.memory.get<word>(0x1000) == 0x2007);
}

TEST_CASE("after a nested walk without updates nothing may be kept where the host has A and D")
{
    arena memory(0x1000, 0x110);
    for (unsigned level = 4; level > 1; --level)
        memory.put<word>((word{5} - level) * 0x1000, (word{6} - level) * 0x1000 | 7);
    for (word page = 0; page < 16; ++page) memory.put(0x4000 + page * 8, (0x10'0000 + page * 0x1000) | 0x337);
    for (word level = 0; level < 4; ++level) memory.put(0x10'0000 + level * 0x1000, (level + 1) * 0x1000 | 0x67);
    const auto kept = [&](const auto& host, update_flags update) {
        const auto r = nested_walk(long_mode, 0, host, 0x1000, 0x123, user_read, {}, memory, update);
        return cacheable(r, user_read, {}, long_mode, host, update);
    };
    CHECK(kept(ept<ept_features{.accessed_dirty = false}>, update_flags::no).contains(operation::write, true));
    CHECK(kept(ept<ept_features{}>, update_flags::no) == access_set{});
    CHECK(kept(ept<ept_features{}>, update_flags::yes).contains(operation::write, true));
}
