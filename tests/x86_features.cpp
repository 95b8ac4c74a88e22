// SPDX-License-Identifier: BSL-1.0
// Walks under the newer features of x86 paging, by the manuals' rules. Recorded outcomes of those that an
// emulator has are replayed elsewhere (replay.cpp).
#include <doctest/doctest.h>

#include <cstdint>
#include <optional>
#include <ptebits/nested_walk.hpp>
#include <ptebits/ptebits.hpp>
#include <ptebits/x86.hpp>
#include <type_traits>

#include "walking.hpp"

using namespace walking;

namespace {

constexpr asked shadow_read(bool user) { return {.user = user, .shadow_stack = true}; }
constexpr asked shadow_write(bool user) { return {.what = operation::write, .user = user, .shadow_stack = true}; }

constexpr word upper_bit = word{1} << 63;

}  // namespace

// ---- shadow stacks

TEST_CASE("shadow-stack accesses go to dirty pages without W, below entries with W, of their own mode")
{
    static constexpr auto cet = shadow<shadow_features{.shadow_stacks = true}>;
    const auto code = [](one_page page, const asked& a) -> int {
        const walk_result r = page.walked(cet, a);
        return r ? -1 : static_cast<int>(page_fault_code(r, a, {}, cet).value);
    };
    constexpr int allowed = -1;
    const one_page users(0x2067, 0x3067, 0x4067, 0x5065);
    const one_page supervisors(0x2067, 0x3067, 0x4067, 0x5061);
    CHECK(code(users, shadow_read(true)) == allowed);
    CHECK(code(users, shadow_write(true)) == allowed);
    CHECK(code(supervisors, shadow_read(false)) == allowed);
    CHECK(code(supervisors, shadow_write(false)) == allowed);
    // The mode must be the page's, both ways.
    CHECK(code(users, shadow_read(false)) == 0x41);
    CHECK(code(users, shadow_write(false)) == 0x43);
    CHECK(code(supervisors, shadow_read(true)) == 0x45);
    CHECK(code(supervisors, shadow_write(true)) == 0x47);
    // Writable, clean, or below an entry without W: an ordinary page.
    CHECK(code(one_page(0x2067, 0x3067, 0x4067, 0x5067), shadow_read(true)) == 0x45);
    CHECK(code(one_page(0x2067, 0x3067, 0x4067, 0x5025), shadow_read(true)) == 0x45);
    CHECK(code(one_page(0x2067, 0x3067, 0x4065, 0x5065), shadow_read(true)) == 0x45);
    CHECK(code(one_page(0x2065, 0x3067, 0x4067, 0x5065), shadow_write(true)) == 0x47);
    // Bit 6 tells of the access, whatever the fault.
    CHECK(code(one_page(0x2067, 0x3067, 0x4066, 0x5065), shadow_read(true)) == 0x44);
    CHECK(code(one_page(0x2067, 0x30e7, 0x4067, 0x5065), shadow_write(true)) == 0x4f);
    // Ordinary accesses see a read-only page.
    CHECK(code(users, user_read) == allowed);
    CHECK(code(users, user_write) == 0x7);
    CHECK(code(users, supervisor_write) == 0x3);

    // A is set, D is found set.
    one_page fresh(0x2007, 0x3007, 0x4007, 0x5045);
    CHECK(fresh.walked(cet, shadow_write(true)));
    CHECK(fresh.memory.get<word>(0x4000) == 0x5065);
    CHECK(fresh.memory.get<word>(0x1000) == 0x2027);

    // SMAP plays no part. Without CR4.CET there are no such accesses.
    one_page page = users;
    CHECK(page.walked(cet, shadow_read(true), {.smap = true}));
    CHECK(page.walked(long_mode, shadow_read(true)).fault == fault_kind::protection);
}

TEST_CASE("PAE: PDPTEs have no R/W, and do not count against a shadow stack")
{
    constexpr auto pae = shadow<shadow_features{.levels = 3, .shadow_stacks = true}>;
    arena memory(0x1000, 4);
    memory.put<word>(0x1020, 0x2001);
    memory.put<word>(0x2000, 0x3067);
    memory.put<word>(0x3000, 0x5065);
    CHECK(walk(pae, 0x1020, 0x123, shadow_write(true), {}, memory));
    memory.put<word>(0x2000, 0x3065);
    CHECK(walk(pae, 0x1020, 0x123, shadow_write(true), {}, memory).fault == fault_kind::protection);
}

TEST_CASE("protection keys take shadow-stack accesses for reads and writes, implicit ones for the supervisor's")
{
    static constexpr auto both =
        shadow<shadow_features{.user_keys = true, .supervisor_keys = true, .shadow_stacks = true}>;
    constexpr word key_5 = word{5} << 59;
    const auto code = [](word e1, const asked& a, const cpu_controls& cpu) -> int {
        one_page page(0x2067, 0x3067, 0x4067, e1);
        const walk_result r = page.walked(both, a, cpu);
        return r ? -1 : static_cast<int>(page_fault_code(r, a, cpu, both).value);
    };
    constexpr std::uint32_t no_access = 1U << 10;
    constexpr std::uint32_t no_write = 2U << 10;
    CHECK(code(0x5065 | key_5, shadow_read(true), {.pkru = no_access}) == 0x65);
    CHECK(code(0x5065 | key_5, shadow_write(true), {.pkru = no_write}) == 0x67);
    CHECK(code(0x5065 | key_5, shadow_read(true), {.pkru = no_write}) == -1);
    CHECK(code(0x5061 | key_5, shadow_write(false), {.pkrs = no_write}) == 0x63);
    CHECK(code(0x5061 | key_5, shadow_write(false), {.pkru = no_access}) == -1);
    CHECK(code(0x5063 | key_5, {.implicit = true}, {.pkrs = no_access}) == 0x21);
}

TEST_CASE("EPT: the supervisor shadow-stack control")
{
    static constexpr auto host = ept<ept_features{.supervisor_shadow_stack = true}>;
    static constexpr auto off = ept<ept_features{}>;
    constexpr word sss = word{1} << 60;
    const auto end = [](word e1, const asked& a, word e2 = 0x4007) {
        one_page page(0x2007, 0x3007, e2, e1);
        return page.walked(host, a).fault;
    };
    CHECK(end(0x5001 | sss, shadow_write(false)) == fault_kind::none);  // the leaf's W does not matter
    CHECK(end(0x5003 | sss, shadow_read(false)) == fault_kind::none);
    CHECK(end(0x5003, shadow_read(false)) == fault_kind::protection);
    CHECK(end(0x5003 | sss, shadow_read(false), 0x4001) == fault_kind::protection);  // W above does
    CHECK(end(0x5004 | sss, shadow_read(false)) == fault_kind::protection);
    CHECK(end(0x5001 | sss, shadow_write(true)) == fault_kind::protection);  // a user's is ordinary
    CHECK(end(0x5003, shadow_write(true)) == fault_kind::none);
    one_page page(0x2007, 0x3007, 0x4007, 0x5001 | sss);
    CHECK(page.walked(off, shadow_read(false)));
    CHECK(page.walked(off, shadow_write(false)).fault == fault_kind::protection);

    const walk_result r = page.walked(host, shadow_write(true));
    CHECK(fault_code(r, shadow_write(true), {}, host) == reported_code{0x618a, true});
}

TEST_CASE("NPT: the supervisor shadow-stack restriction")
{
    constexpr auto host = npt<npt_features{.supervisor_shadow_stack = true}>;
    one_page page(0x2067, 0x3067, 0x4067, upper_bit | 0x5061);  // NX, not U/S
    CHECK(page.walked(host, shadow_write(false)));              // without R/W, too
    CHECK(page.walked(host, shadow_read(false)));
    CHECK(page.walked(host, user_write).fault == fault_kind::protection);
    CHECK(fault_code(page.walked(host, user_write), user_write, {}, host) == reported_code{0x21'0000'0007, true});
    for (const word leaf : {word{0x5061}, upper_bit | 0x5067, word{0x5067}}) {
        one_page ordinary(0x2067, 0x3067, 0x4067, leaf);
        const walk_result r = ordinary.walked(host, shadow_write(false));
        CHECK(fault_code(r, shadow_write(false), {}, host) == reported_code{0x1'0000'0047, true});
        CHECK(static_cast<bool>(ordinary.walked(host, shadow_write(true))) == ((leaf & 4) != 0));
    }
    one_page below_read_only(0x2067, 0x3067, 0x4065, upper_bit | 0x5061);
    CHECK(below_read_only.walked(host, shadow_read(false)).fault == fault_kind::protection);
    constexpr auto off = npt<npt_features{}>;
    CHECK(page.walked(off, shadow_write(false)).fault == fault_kind::protection);
    // Without the host's NX the restriction has no effect.
    constexpr auto no_nx = npt<npt_features{.execute_disable = false, .supervisor_shadow_stack = true}>;
    one_page ordinary(0x2067, 0x3067, 0x4067, 0x5067);
    CHECK(ordinary.walked(no_nx, shadow_write(false)));
}

TEST_CASE("NPT: guest tables may be read-only, while no A or D is to be set")
{
    for (const bool on : {false, true}) {
        const auto host = format_for(npt_features{.read_only_guest_tables = on});
        arena memory(0x1000, 0x110);
        for (unsigned level = 4; level > 1; --level) {
            memory.put<word>((word{5} - level) * 0x1000, (word{6} - level) * 0x1000 | 0x67);
        }
        for (word n = 0; n < 8; ++n) memory.put(0x4000 + n * 8, (0x10'0000 + n * 0x1000) | (n < 4 ? 0x65 : 0x67));
        for (word level = 0; level < 4; ++level) memory.put(0x10'0000 + level * 0x1000, (level + 1) * 0x1000 | 0x27);
        const auto walked = [&](const asked& a) {
            return nested_walk(long_mode, 0, host, 0x1000, 0x123, a, {}, memory);
        };
        CHECK(static_cast<bool>(walked(user_read)) == on);
        const auto r = walked(user_write);  // would set D
        CHECK(r.where == dimension::host);
        CHECK(fault_code(r, user_write, {}, long_mode, host) == reported_code{0x2'0000'0007, true});
    }
}

// ---- addresses

TEST_CASE("LASS: the upper half is the supervisor's, and no table is read")
{
    one_page page;
    page.memory.put(0x1ff8, page.memory.get<word>(0x1000));  // the same in the upper half
    page.memory.put(0x2ff8, page.memory.get<word>(0x2000));
    page.memory.put(0x3ff8, page.memory.get<word>(0x3000));
    page.memory.put(0x4ff8, word{0x5000'0063});
    constexpr word high = ~word{0} << 12 | 0x123;
    const auto end = [&](word address, const asked& a, cpu_controls cpu) {
        cpu.lass = true;
        page.memory.given.clear();
        const walk_result r = walk(long_mode, 0x1000, address, a, cpu, page.memory);
        CHECK(page.memory.given.empty() == (r.fault == fault_kind::wrong_half));
        CHECK(fault_code(r, a, cpu, long_mode).exists == (r.fault == fault_kind::protection));
        return r.fault;
    };
    CHECK(end(0x123, user_read, {}) == fault_kind::none);
    CHECK(end(high, user_read, {}) == fault_kind::wrong_half);
    CHECK(end(high, user_fetch, {}) == fault_kind::wrong_half);
    CHECK(end(high, shadow_write(true), {}) == fault_kind::wrong_half);
    CHECK(end(high, supervisor_read, {}) == fault_kind::none);
    CHECK(end(high, supervisor_fetch, {}) == fault_kind::none);
    CHECK(end(0x123, supervisor_fetch, {}) == fault_kind::wrong_half);
    CHECK(end(0x123, supervisor_read, {}) == fault_kind::none);  // only with SMAP
    CHECK(end(0x123, supervisor_read, {.smap = true}) == fault_kind::wrong_half);
    CHECK(end(0x123, supervisor_read, {.smap = true, .alignment_check = true}) == fault_kind::none);
    CHECK(end(0x123, {.implicit = true}, {.smap = true, .alignment_check = true}) == fault_kind::wrong_half);

    // Only in long mode.
    constexpr auto pae = shadow<shadow_features{.levels = 3}>;
    CHECK(walk(pae, 0x1000, 0x8000'0000, user_read, {.lass = true}, page.memory).fault != fault_kind::wrong_half);
}

TEST_CASE("LAM: the upper bits of pointers are masked, by the half of the address space")
{
    constexpr auto five = shadow<shadow_features{.levels = 5}>;
    const auto reached = [](const auto& format, word pointer, const asked& a,
                            const cpu_controls& cpu) -> std::optional<word> {
        arena memory(0x1000, 2);  // all levels in one table: every address whose indices are all 0 or 511
        memory.put<word>(0x1000, 0x1067);
        memory.put<word>(0x1ff8, 0x1067);
        const walk_result r = walk(format, 0x1000, pointer, a, cpu, memory);
        CHECK((r || r.fault == fault_kind::not_canonical));
        return r ? std::optional(r.address) : std::nullopt;
    };
    constexpr std::optional<word> reached_123 = 0x1123;
    constexpr word tag_48 = ones(62, 48);
    constexpr word tag_57 = ones(62, 57);
    constexpr word high = ~word{0} << 12 | 0x123;
    // By default a tag makes a pointer that is not canonical.
    CHECK(!reached(long_mode, tag_57 | 0x123, user_read, {}));
    CHECK(reached(long_mode, tag_57 | 0x123, user_read, {.lam_u57 = true}) == reached_123);
    CHECK(reached(long_mode, tag_48 | 0x123, user_read, {.lam_u48 = true}) == reached_123);
    CHECK(!reached(long_mode, tag_48 | 0x123, user_read, {.lam_u57 = true}));  // 56:47 must be 0
    CHECK(!reached(long_mode, tag_48 | 0x123, user_read, {.lam_u48 = true, .lam_u57 = true}));
    CHECK(!reached(long_mode, word{1} << 47 | 0x123, user_read, {.lam_u48 = true}));    // bit 63 must be bit 47
    CHECK(reached(five, tag_48 | 0x123, user_read, {.lam_u48 = true}) == reached_123);  // with five levels, too
    CHECK(reached(five, tag_57 | 0x123, user_read, {.lam_u57 = true}) == reached_123);
    // Which control counts is the pointer's, not the mode's.
    CHECK(reached(long_mode, tag_57 | 0x123, supervisor_read, {.lam_u57 = true}) == reached_123);
    CHECK(!reached(long_mode, high & ~tag_48, supervisor_read, {.lam_u48 = true, .lam_u57 = true}));
    CHECK(reached(long_mode, high & ~tag_48, supervisor_read, {.lam_sup = true}) == reached_123);
    CHECK(reached(five, high & ~tag_57, supervisor_read, {.lam_sup = true}) == reached_123);
    CHECK(!reached(five, high & ~tag_48, supervisor_read, {.lam_sup = true}));
    CHECK(!reached(long_mode, tag_57 | 0x123, supervisor_read, {.lam_sup = true}));
    // Not fetches, nor what registers point to.
    CHECK(!reached(long_mode, tag_57 | 0x123, user_fetch, {.lam_u57 = true}));
    CHECK(!reached(long_mode, tag_57 | 0x123, {.implicit = true}, {.lam_u57 = true}));
    // LASS judges bit 63 before.
    one_page page;
    CHECK(walk(long_mode, 0x1000, upper_bit | 0x123, user_read, {.lass = true, .lam_sup = true}, page.memory).fault ==
          fault_kind::wrong_half);
}

TEST_CASE("HLAT paging ends at an entry with R, of any level, and at no other")
{
    constexpr auto hlat = shadow<shadow_features{.hlat = true}>;
    constexpr word r = 0x800;
    for (unsigned level = 1; level <= 4; ++level) {
        word entries[] = {0x5067, 0x4067, 0x3067, 0x2067};
        entries[level - 1] |= r;
        one_page page(entries[3], entries[2], entries[1], entries[0]);
        for (const bool at_run_time : {false, true}) {
            const walk_result ended =
                at_run_time ? page.walked(format_for(hlat->features()), user_read) : page.walked(hlat, user_read);
            CHECK(ended.fault == fault_kind::restart);
            CHECK(ended.level == level);
            CHECK(!fault_code(ended, user_read, {}, hlat));
        }
        CHECK(page.walked(long_mode, user_read));  // ordinary paging ignores the bit
        entries[level - 1] ^= 1;                   // absent: R says nothing
        one_page without(entries[3], entries[2], entries[1], entries[0]);
        const walk_result none = without.walked(hlat, user_read);
        CHECK(none.fault == fault_kind::not_present);
        CHECK(fault_code(none, user_read, {}, hlat) == reported_code{0x84, true});  // bit 7: no translation by HLAT
        CHECK(fault_code(none, user_read, {}, long_mode) == reported_code{0x4, true});
    }
    one_page page;
    CHECK(page.walked(hlat, user_read));
    page.memory.put(0x2000, word{0x30e7});
    CHECK(fault_code(page.walked(hlat, user_read), user_read, {}, hlat) == reported_code{0x8d, true});
    page.memory.put(0x2000, word{0x3063});
    CHECK(fault_code(page.walked(hlat, user_read), user_read, {}, hlat) == reported_code{0x5, true});  // rights
}

// ---- EPT

TEST_CASE("EPT: sub-page write permissions")
{
    static constexpr auto host = ept<ept_features{.physical_bits = 40, .sub_page_write = true}>;
    constexpr word spp = word{1} << 61;
    constexpr word gpa = 0x0001'0203'4580;  // sub-page 11 of its page
    arena memory(0x1000, 12);
    const chain c = build_chain(memory, host, 1, gpa, 0x7000'0000);
    memory.put(c.slots[1], word{0x7000'0031} | spp);
    const cpu_controls cpu{.sub_page_table = 0x8000};
    const word slots[] = {0, 0xb000 + (gpa >> 12 & 511) * 8, 0xa000 + (gpa >> 21 & 511) * 8,
                          0x9000 + (gpa >> 30 & 511) * 8, 0x8000 + (gpa >> 39 & 511) * 8};
    for (unsigned level = 4; level > 1; --level) memory.put(slots[level], (slots[level - 1] & ~word{4095}) | 1);
    const auto end = [&](const asked& a) {
        const walk_result constant = walk(host, 0x1000, gpa, a, cpu, memory, update_flags::no);
        CHECK(walk(format_for(host->features()), 0x1000, gpa, a, cpu, memory, update_flags::no).fault ==
              constant.fault);
        return constant;
    };
    CHECK(end(user_write).fault == fault_kind::protection);
    memory.put(slots[1], word{1} << 22);
    CHECK(end(user_write));
    CHECK(end({.what = operation::read_write}));
    CHECK(end({.what = operation::write, .guest_table = true}).fault == fault_kind::protection);
    for (unsigned index = 0; index < 64; ++index) {
        memory.put(slots[1], word{1} << index);
        CHECK(end(user_write).fault == (index % 2 != 0 ? fault_kind::sub_page_misconfiguration
                                        : index == 22  ? fault_kind::none
                                                       : fault_kind::protection));
    }
    memory.put(slots[1], ~word{0} / 3);
    CHECK(end(user_write));
    for (unsigned level = 2; level <= 4; ++level) {
        const word good = memory.get<word>(slots[level]);
        memory.put(slots[level], good & ~word{1});
        CHECK(end(user_write).fault == fault_kind::sub_page_miss);
        CHECK(fault_code(end(user_write), user_write, cpu, host) == reported_code{0x800, true});
        for (unsigned index = 1; index < 64; ++index) {
            const bool reserved = index < 12 || index >= 40;
            if (!reserved) continue;
            memory.put(slots[level], good | word{1} << index);
            CHECK(end(user_write).fault == fault_kind::sub_page_misconfiguration);
        }
        CHECK(fault_code(end(user_write), user_write, cpu, host) == reported_code{0, true});
        memory.put(slots[level], good);
    }
    // D is set as usual, and nothing is asked where W is set, or the leaf has no SPP.
    CHECK(walk(host, 0x1000, gpa, user_write, cpu, memory));
    CHECK((memory.get<word>(c.slots[1]) & 0x300) == 0x300);
    memory.put(c.slots[1], word{0x7000'0031});
    CHECK(end(user_write).fault == fault_kind::protection);
    memory.put(c.slots[1], word{0x7000'0033} | spp);
    memory.put(slots[4], word{0});
    CHECK(end(user_write));
    memory.put(c.slots[1], word{0x7000'0034} | spp);  // not readable
    CHECK(end(user_write).fault == fault_kind::protection);
    memory.put(c.slots[1], word{0x7000'0031} | spp);
    CHECK(walk(host, 0x1000, gpa, user_write, {.sub_page_table = 0x8000'0000}, memory).fault ==
          fault_kind::memory_absent);
    // What SSS judges has no sub-pages; an ordinary shadow-stack write has.
    memory.put(slots[4], word{0x9001});
    constexpr auto both =
        ept<ept_features{.physical_bits = 40, .supervisor_shadow_stack = true, .sub_page_write = true}>;
    CHECK(walk(both, 0x1000, gpa, shadow_write(false), cpu, memory).fault == fault_kind::protection);
    CHECK(walk(both, 0x1000, gpa, shadow_write(true), cpu, memory));
    CHECK(walk(host, 0x1000, gpa, shadow_write(false), cpu, memory));
    memory.put(slots[3], word{0});
    const asked interrupted{.what = operation::write, .unblocks_nmi = true};
    const walk_result missed = walk(host, 0x1000, gpa, interrupted, cpu, memory);
    CHECK(fault_code(missed, interrupted, cpu, host) == reported_code{0x1800, true});
    for (const word pointer : {word{0x8003}, word{1} << 52 | 0x8000}) {
        CHECK(walk(host, 0x1000, gpa, user_write, {.sub_page_table = pointer}, memory).fault ==
              fault_kind::sub_page_misconfiguration);
    }
    constexpr auto off = ept<ept_features{.physical_bits = 40}>;
    CHECK(walk(off, 0x1000, gpa, user_write, cpu, memory).fault == fault_kind::protection);
}

TEST_CASE("EPT: which violations may raise #VE")
{
    static constexpr auto host = ept<ept_features{.suppress_ve = true}>;
    const auto raises = [](word e1, const asked& a, word e2 = 0x4007, bool busy = false) {
        one_page page(0x2007, 0x3007, e2, e1);
        return raises_ve(page.walked(host, a), busy, host);
    };
    CHECK(raises(0x5001, user_write));
    CHECK(!raises(0x5001 | upper_bit, user_write));
    CHECK(!raises(0x5001, user_write, 0x4007, true));
    CHECK(raises(0, user_read));
    CHECK(!raises(upper_bit, user_read));
    CHECK(raises(0x5001, user_write, 0x4007 | upper_bit));  // above, the bit says nothing
    CHECK(!raises(0x5007, user_write));                     // no fault
    CHECK(!raises(0x5002, user_write));                     // a misconfiguration
    constexpr auto off = ept<ept_features{}>;
    one_page page(0x2007, 0x3007, 0x4007, 0x5001);
    CHECK(!raises_ve(page.walked(off, user_write), false, off));
}

namespace {

/// A guest of four levels whose tables are guest-physical pages 0 to 3, over an EPT of one table a level:
/// guest-physical page n is at 10'0000 + n pages.
template <class Host>
struct paged_guest {
    arena memory{0x1000, 0x110};
    Host host;

    explicit paged_guest(const Host& format) : host(format)
    {
        for (unsigned level = 4; level > 1; --level)
            memory.put<word>((word{5} - level) * 0x1000, (word{6} - level) * 0x1000 | 7);
        for (word page = 0; page < 16; ++page) leaf(page, 7);
        for (word level = 0; level < 3; ++level) memory.put(0x10'0000 + level * 0x1000, (level + 1) * 0x1000 | 7);
        memory.put<word>(0x10'3000, 0x7007);
    }
    void leaf(word page, word bits) { memory.put(0x4000 + page * 8, (0x10'0000 + page * 0x1000) | 0x30 | bits); }

    nested_result<memory_access> walked(const asked& a, const cpu_controls& of_host = {},
                                        update_flags update = update_flags::yes)
    {
        return nested_walk(long_mode, 0, host, 0x1000, 0x123, a, {cpu_controls{}, of_host}, memory, update);
    }
};

constexpr word paging_write_bit = word{1} << 58;
constexpr word verify_bit = word{1} << 57;

}  // namespace

TEST_CASE("EPT paging-write: a guest's A and D may be written where W is clear")
{
    for (const bool flags : {false, true}) {
        const auto host = format_for(ept_features{.accessed_dirty = flags, .paging_write = true});
        paged_guest page(host);
        page.leaf(3, 1);
        CHECK(page.walked(user_read).where == dimension::host);
        CHECK(!page.walked(user_read));
        CHECK(page.walked(user_read).guest.fault == fault_kind::second_stage);
        page.leaf(3, 1 | paging_write_bit);
        CHECK(page.walked(user_read));
        CHECK((page.memory.get<word>(0x10'3000) & 0x20) != 0);
        // Not for the guest's own writes, and not below a table without W.
        page.leaf(7, 1 | paging_write_bit);
        CHECK(!page.walked(user_write));
        page.memory.put<word>(0x3000, 0x4005);
        page.memory.put<word>(0x10'3000, 0x7007);
        CHECK(!page.walked(user_read));
        // The bit needs R.
        CHECK(diagnose(0x5004 | paging_write_bit, 1, host).broken == rule::write_without_read);
        CHECK(legal(0x5005 | paging_write_bit, 1, host));
    }
    constexpr auto off = ept<ept_features{}>;
    CHECK(legal(0x5004 | paging_write_bit, 1, off));
    paged_guest page(off);
    page.leaf(3, 1 | paging_write_bit);
    CHECK(!page.walked(user_read));
}

TEST_CASE("guest-paging verification: all guest tables lie in pages with PW")
{
    constexpr auto host = ept<ept_features{.verify_guest_paging = true, .paging_write = true}>;
    paged_guest page(host);
    for (word n = 0; n < 4; ++n) page.leaf(n, 3 | paging_write_bit);
    page.leaf(7, 7 | verify_bit);
    CHECK(page.walked(user_write));
    for (word n = 0; n < 4; ++n) {
        page.leaf(n, 3);
        const auto r = page.walked(user_read);
        CHECK(!r);
        CHECK(r.host.fault == fault_kind::protection);
        CHECK(fault_code(r, user_read, {}, long_mode, host) == reported_code{0x81b9, true});
        page.leaf(n, 3 | paging_write_bit);
    }
    page.leaf(2, 3);
    page.leaf(7, 7);
    CHECK(page.walked(user_read));
    // It acts only with EPT paging-write.
    constexpr auto alone = ept<ept_features{.verify_guest_paging = true}>;
    paged_guest other(alone);
    other.leaf(7, 7 | verify_bit);
    CHECK(other.walked(user_read));
}

TEST_CASE("mode-based execute goes by the guest's U/S, and takes all addresses of an unpaged guest for a user's")
{
    constexpr auto host = ept<ept_features{.mode_based_execute = true}>;
    paged_guest page(host);
    for (word level = 1; level < 4; ++level) page.memory.put<word>(level * 0x1000, (level + 1) * 0x1000 | 0x407);
    page.leaf(7, 5);
    CHECK(!page.walked(user_fetch));
    page.memory.put<word>(0x10'3000, 0x7003);  // a supervisor page
    CHECK(page.walked(supervisor_fetch));
    page.leaf(7, 0x401);
    CHECK(!page.walked(supervisor_fetch));

    const auto unpaged_fetch = [&](word leaf) {
        page.leaf(7, leaf);
        return nested_walk(unpaged{}, 0, host, 0x1000, 0x7123, supervisor_fetch, {}, page.memory);
    };
    CHECK(unpaged_fetch(0x401));
    const auto r = unpaged_fetch(5);
    CHECK(r.host.fault == fault_kind::protection);
    const nested_controls<unpaged, std::remove_const_t<decltype(host)>> told{{}, {.exit_information = true}};
    CHECK(fault_code(r, supervisor_fetch, told, unpaged{}, host) == reported_code{0x7ac, true});
}

TEST_CASE("the qualification tells of the guest's translation where the CPU has it")
{
    constexpr auto host = ept<ept_features{}>;
    constexpr cpu_controls informs{.exit_information = true};
    const auto told = [&](word guest_leaf, const asked& a, word leaf = 1) {
        paged_guest page(host);
        page.memory.put<word>(0x10'3000, guest_leaf);
        page.leaf(7, leaf);
        const auto r = page.walked(a, informs);
        CHECK(!r);
        return fault_code(r, a, {cpu_controls{}, informs}, long_mode, host).value;
    };
    CHECK(told(0x7007, user_write) == 0x78a);
    CHECK(told(0x7003, supervisor_write) == 0x58a);
    CHECK(told(0x7005, user_read, 4) == 0x3a1);
    CHECK(told(0x7007 | upper_bit, user_write) == 0xf8a);
    CHECK(told(0x7007, {.what = operation::write, .user = true, .unblocks_nmi = true}) == 0x178a);
    // Not of an access to a table.
    paged_guest page(host);
    page.leaf(3, 0);
    CHECK(fault_code(page.walked(user_read, informs), user_read, {cpu_controls{}, informs}, long_mode, host) ==
          reported_code{0x83, true});
}

TEST_CASE("a guest-physical address past what EPT translates is a violation that allows nothing")
{
    constexpr auto host = ept<ept_features{}>;
    one_page page(0x2007, 0x3007, 0x4007, 0x5037);
    const walk_result r = walk(host, 0x1000, word{1} << 48, user_read, {}, page.memory);
    CHECK(r.fault == fault_kind::address_too_wide);
    CHECK(fault_code(r, user_read, {}, host) == reported_code{0x181, true});
}

TEST_CASE("GMET: fetches of the supervisor need a page that is no user's; bit 2 tells the mode")
{
    constexpr auto host = npt<npt_features{.guest_mode_execute_trap = true}>;
    one_page users(0x2067, 0x3067, 0x4067, 0x5067);
    CHECK(users.walked(host, user_fetch));
    CHECK(users.walked(host, user_write));
    CHECK(users.walked(host, supervisor_write));
    const walk_result r = users.walked(host, supervisor_fetch);
    CHECK(r.fault == fault_kind::protection);
    CHECK(fault_code(r, supervisor_fetch, {}, host) == reported_code{0x1'0000'0011, true});
    one_page supervisors(0x2067, 0x3067, 0x4067, 0x5063);
    CHECK(supervisors.walked(host, user_fetch));
    CHECK(supervisors.walked(host, supervisor_fetch));
    CHECK(supervisors.walked(host, user_write));
}

// ---- codes

TEST_CASE("EXITINFO1 tells a fetch by the host's NXE and CR4.SMEP")
{
    constexpr auto host = npt<npt_features{.execute_disable = false}>;
    one_page page(0x2067, 0x3067, 0x4067, 0x8000'0000'0060'0007);
    const walk_result r = page.walked(host, user_fetch);
    CHECK(fault_code(r, user_fetch, {}, host) == reported_code{0x1'0000'000d, true});
    CHECK(fault_code(r, user_fetch, {.smep = true}, host) == reported_code{0x1'0000'001d, true});
}

TEST_CASE("a code exists only for a fault that has one")
{
    constexpr auto host = ept<ept_features{}>;
    for (unsigned n = 0; n <= static_cast<unsigned>(fault_kind::memory_absent); ++n) {
        walk_result r{};
        r.fault = static_cast<fault_kind>(n);
        const bool page_fault = r.fault == fault_kind::not_present || r.fault == fault_kind::protection;
        CHECK(fault_code(r, user_read, {}, long_mode).exists == (page_fault || r.fault == fault_kind::reserved_bits));
        CHECK(fault_code(r, user_read, {}, npt<npt_features{}>).exists ==
              (page_fault || r.fault == fault_kind::reserved_bits));
        CHECK(fault_code(r, user_read, {}, host).exists ==
              (page_fault || r.fault == fault_kind::misconfiguration || r.fault == fault_kind::address_too_wide ||
               r.fault == fault_kind::sub_page_miss || r.fault == fault_kind::sub_page_misconfiguration));
    }
    walk_result r{};
    r.fault = fault_kind::misconfiguration;
    CHECK(fault_code(r, user_write, {}, host) == reported_code{0, true});
}

TEST_CASE("the way back from a code is exact, for all codes")
{
    // Error codes that a page fault may have: those that a fault and an access give.
    unsigned codes = 0;
    for (word code = 0; code < 1024; ++code) {
        bool given = false;
        for (const fault_kind f : {fault_kind::not_present, fault_kind::protection, fault_kind::reserved_bits}) {
            for (const operation what : {operation::read, operation::write, operation::fetch}) {
                for (unsigned n = 0; n < 16; ++n) {
                    const asked a{.what = what, .user = (n & 1) != 0, .shadow_stack = (n & 2) != 0};
                    const bool key = (n & 4) != 0;
                    const bool hlat = (n & 8) != 0;
                    if (hlat && f == fault_kind::protection) continue;
                    if (a.shadow_stack && a.fetches()) continue;
                    if (key && (a.fetches() || f != fault_kind::protection)) continue;
                    given = given ||
                            page_fault_code({.fault = f, .key_denies = key, .no_hlat_translation = hlat, .allowed = {}},
                                            a, true)
                                    .value == code;
                }
            }
        }
        const told_fault told = page_fault_told(code);
        CHECK(told.exists == given);
        if (!told) continue;
        ++codes;
        CHECK(page_fault_code(told.facts, told.access, true) == reported_code{code, true});
        for (const bool final : {false, true}) {
            for (const bool shadow_stack : {false, true}) {
                const word info = code | (final ? word{1} << 32 : word{1} << 33) | (shadow_stack ? word{1} << 37 : 0);
                for (const bool gmet : {false, true}) {
                    const told_fault nested = npf_told(info, gmet);
                    const bool user = (code & 4) != 0 || (gmet && final);
                    const bool page = !shadow_stack || told.facts.fault == fault_kind::protection;
                    CHECK(nested.exists == (user && page && (code & 0xa0) == 0));
                    if (nested) {
                        CHECK(nested.access.guest_table == !final);
                        CHECK(npf_exit_info(nested.facts, nested.access, true, gmet) == reported_code{info, true});
                    }
                }
            }
        }
    }
    CHECK(codes == 58);
    CHECK(!npf_told(0x7, false));
    CHECK(!npf_told(0x3'0000'0007, false));
    CHECK(!page_fault_told(0x8007));  // SGX has faults of its own

    unsigned qualifications = 0;
    for (word code = 0; code < word{1} << 18; ++code) {
        for (const bool informs : {false, true}) {
            const told_fault told = ept_violation_told(code, informs);
            const bool reads_or_writes = (code & 3) != 0;
            const bool final = (code & 0x100) != 0;
            const bool possible = code < word{1} << 17 && reads_or_writes != ((code & 4) != 0) &&
                                  (!final || (code & 0x80) != 0) && ((code & 0xe00) == 0 || (final && informs));
            CHECK(told.exists == possible);
            if (!told) continue;
            ++qualifications;
            CHECK(ept_qualification(told.facts, told.access, informs) == reported_code{code, true});
        }
    }
    CHECK(qualifications > 1000);
}

TEST_CASE("the way back is that of walks, too")
{
    dice d(99);
    const auto host = format_for(ept_features{.mode_based_execute = true, .supervisor_shadow_stack = true});
    unsigned faults = 0;
    arena memory(0x10'0000, 6);
    fill(memory, host, d);
    fill(memory, host, d);
    for (unsigned n = 0; n < 20'000; ++n) {
        asked a = random_access(d);
        a.shadow_stack = !a.fetches() && d.one_in(3);
        a.implicit = false;
        a.linear = a.linear || a.guest_table;
        if (a.guest_table) a.user = true;
        const word root = memory.base() + d.below(memory.pages()) * page_bytes;
        const cpu_controls cpu{.exit_information = true};
        const walk_result r = walk(host, root, random_address(host, d), a, cpu, memory);
        if (r.fault != fault_kind::not_present && r.fault != fault_kind::protection) continue;
        ++faults;
        const told_fault told = ept_violation_told(fault_code(r, a, cpu, host).value, true);
        CHECK(told);
        CHECK(told.access.what == a.what);
        CHECK(told.access.guest_table == a.guest_table);
        CHECK(told.access.shadow_stack == a.shadow_stack);
        if (a.linear && !a.guest_table) CHECK(told.access.user == a.user);
        CHECK(told.facts.allowed.write == r.allowed.write);
        CHECK(told.facts.shadow_stack_page == facts_of(r, a, host).shadow_stack_page);
    }
    CHECK(faults > 1000);
}
