// SPDX-License-Identifier: BSL-1.0
// Walks of x86's tables by the manuals' rules: rights and the codes of faults.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/x86.hpp>
#include <ptebits/x86_registers.hpp>

#include "walking.hpp"

using namespace walking;

TEST_CASE("user and supervisor, WP, SMEP, SMAP")
{
    const auto code = [](one_page page, const asked& a, const cpu_controls& cpu) -> int {
        const walk_result r = page.walked(long_mode, a, cpu);
        return r ? -1 : static_cast<int>(page_fault_code(r, a, cpu, long_mode).value);
    };
    const one_page user_page;
    const one_page read_only(0x2067, 0x3067, 0x4065, 0x5067);
    const one_page supervisor_page(0x2067, 0x3063, 0x4067, 0x5067);
    const one_page no_execute(0x2067, 0x8000'0000'0000'3067, 0x4067, 0x5067);
    const one_page not_there(0x2067, 0x3067, 0x4066, 0x5067);
    const one_page reserved(0x2067, 0x30e7, 0x4067, 0x5067);
    constexpr int allowed = -1;

    CHECK(code(user_page, user_read, {}) == allowed);
    CHECK(code(user_page, user_fetch, {}) == allowed);
    CHECK(code(supervisor_page, user_read, {}) == 0x5);
    CHECK(code(supervisor_page, user_write, {}) == 0x7);
    CHECK(code(supervisor_page, user_fetch, {}) == 0x15);
    CHECK(code(supervisor_page, supervisor_write, {}) == allowed);
    CHECK(code(no_execute, supervisor_fetch, {}) == 0x11);
    CHECK(code(no_execute, supervisor_write, {}) == allowed);
    CHECK(code(not_there, supervisor_fetch, {}) == 0x10);
    CHECK(code(not_there, user_write, {}) == 0x6);
    CHECK(code(reserved, supervisor_read, {}) == 0x9);

    CHECK(code(read_only, supervisor_write, {}) == 0x3);
    CHECK(code(read_only, supervisor_write, {.write_protect = false}) == allowed);
    CHECK(code(read_only, user_write, {.write_protect = false}) == 0x7);
    CHECK(code(read_only, {.what = operation::read_write}, {}) == 0x3);

    CHECK(code(user_page, supervisor_fetch, {.smep = true}) == 0x11);
    CHECK(code(user_page, user_fetch, {.smep = true}) == allowed);
    CHECK(code(supervisor_page, supervisor_fetch, {.smep = true}) == allowed);
    CHECK(code(user_page, supervisor_read, {.smep = true}) == allowed);

    CHECK(code(user_page, supervisor_read, {.smap = true}) == 0x1);
    CHECK(code(user_page, supervisor_write, {.smap = true}) == 0x3);
    CHECK(code(user_page, supervisor_fetch, {.smap = true}) == allowed);
    CHECK(code(user_page, user_read, {.smap = true}) == allowed);
    CHECK(code(supervisor_page, supervisor_read, {.smap = true}) == allowed);
    CHECK(code(user_page, supervisor_read, {.smap = true, .alignment_check = true}) == allowed);
    CHECK(code(user_page, {.implicit = true}, {.smap = true, .alignment_check = true}) == 0x1);

    // Without NXE bit 4 of the code tells a fetch only with SMEP.
    constexpr auto no_nx = shadow<shadow_features{.execute_disable = false}>;
    one_page page(0x2067, 0x3067, 0x4067, 0);
    CHECK(page_fault_code(page.walked(no_nx, user_fetch), user_fetch, {}, no_nx).value == 0x4);
    CHECK(page_fault_code(page.walked(no_nx, user_fetch), user_fetch, {.smep = true}, no_nx).value == 0x14);
}

TEST_CASE("protection keys")
{
    static constexpr auto user_keys = shadow<shadow_features{.user_keys = true}>;
    static constexpr auto supervisor_keys = shadow<shadow_features{.supervisor_keys = true}>;
    static constexpr auto both = shadow<shadow_features{.user_keys = true, .supervisor_keys = true}>;
    constexpr word key_5 = word{5} << 59;
    constexpr std::uint32_t no_access = 1U << 10;
    constexpr std::uint32_t no_write = 2U << 10;
    const auto code = [](const auto& keyed, word e1, const asked& a, const cpu_controls& cpu) -> int {
        one_page page(0x2067, 0x3067, 0x4067, e1);
        const walk_result r = page.walked(keyed, a, cpu);
        return r ? -1 : static_cast<int>(page_fault_code(r, a, cpu, keyed).value);
    };
    constexpr word user_page = 0x5067 | key_5;
    constexpr word supervisor_page = 0x5063 | key_5;
    constexpr int allowed = -1;

    CHECK(code(user_keys, user_page, user_read, {.pkru = no_access}) == 0x25);
    CHECK(code(user_keys, user_page, user_write, {.pkru = no_access}) == 0x27);
    CHECK(code(user_keys, user_page, supervisor_read, {.pkru = no_access}) == 0x21);
    CHECK(code(user_keys, user_page, user_fetch, {.pkru = no_access}) == allowed);
    CHECK(code(supervisor_keys, user_page, user_read, {.pkru = no_access}) == allowed);
    CHECK(code(user_keys, user_page, user_read, {.pkru = ~(3U << 10)}) == allowed);
    CHECK(code(user_keys, user_page, user_read, {.pkru = no_write}) == allowed);
    CHECK(code(user_keys, user_page, user_write, {.pkru = no_write}) == 0x27);
    CHECK(code(user_keys, user_page, supervisor_write, {.pkru = no_write}) == 0x23);
    CHECK(code(user_keys, user_page, supervisor_write, {.write_protect = false, .pkru = no_write}) == allowed);
    CHECK(code(user_keys, user_page, user_write, {.write_protect = false, .pkru = no_write}) == 0x27);

    CHECK(code(supervisor_keys, supervisor_page, supervisor_read, {.pkrs = no_access}) == 0x21);
    CHECK(code(supervisor_keys, supervisor_page, supervisor_write, {.pkrs = no_write}) == 0x23);
    CHECK(code(user_keys, supervisor_page, supervisor_read, {.pkru = no_access}) == allowed);
    CHECK(code(supervisor_keys, user_page, user_read, {.pkrs = no_access}) == allowed);
    CHECK(code(both, supervisor_page, user_read, {}) == 0x5);
}

TEST_CASE("PAE: the top entries are checked when CR3 is loaded, and hold no permissions")
{
    constexpr auto pae = shadow<shadow_features{.levels = 3, .physical_bits = 40}>;
    arena memory(0x1000, 4);
    memory.put<word>(0x1020, 0x2001);        // the table of four, 32 bytes aligned
    memory.put<word>(0x1028, 0x2000 | 0x6);  // not present: not looked at
    memory.put<word>(0x2000, 0x3067);
    memory.put<word>(0x3000, 0x5067);
    CHECK(!check_pdptes(pae, 0x1020, memory));
    const walk_result r = walk(pae, 0x1020, 0x123, user_write, {}, memory);
    CHECK(r);
    CHECK(r.address == 0x5123);
    CHECK(memory.get<word>(0x1020) == 0x2001);  // no A there
    CHECK(walk(pae, 0x1020, 0x4000'0000, {}, {}, memory).fault == fault_kind::not_present);

    for (const word reserved : {word{1} << 1, word{1} << 2, word{1} << 5, word{1} << 8, word{1} << 40, word{1} << 63}) {
        memory.put<word>(0x1038, 0x2001 | reserved);  // the fourth
        const finding f = check_pdptes(pae, 0x1020, memory);
        CHECK(f.broken == rule::reserved_bits);
        CHECK(f.bits == reserved);
        CHECK(walk(pae, 0x1020, 0xc000'0000, {}, {}, memory).fault == fault_kind::pdpte_reserved);
        CHECK(walk(pae, 0x1020, 0x123, {}, {}, memory));
    }
}

TEST_CASE("two levels: 4-Mbyte pages, PSE-36, and CR4.PSE off")
{
    constexpr auto pse = shadow<shadow_features{.levels = 2, .physical_bits = 40}>;
    constexpr auto narrow = shadow<shadow_features{.levels = 2, .physical_bits = 36}>;
    constexpr auto off = shadow<shadow_features{.levels = 2, .large_pages = false}>;
    arena memory(0x1000, 3);
    memory.put<std::uint32_t>(0x1004, 0x0041'e0e7);  // 4 Mbytes at 0f'0040'0000, bits 16:13 of 20:13
    walk_result r = walk(pse, 0x1000, 0x0075'4321, user_write, {}, memory);
    CHECK(r);
    CHECK(r.address == 0xf'0075'4321);
    CHECK(r.page_shift == 22);
    CHECK(walk(narrow, 0x1000, 0x0075'4321, user_write, {}, memory).address == 0xf'0075'4321);

    memory.put<std::uint32_t>(0x1004, 0x0053'e0e7);  // also bit 20, address bit 39; and 16
    CHECK(walk(pse, 0x1000, 0x0040'0000, {}, {}, memory).address == 0x9f'0040'0000);
    r = walk(narrow, 0x1000, 0x0040'0000, {}, {}, memory);
    CHECK(r.fault == fault_kind::reserved_bits);
    CHECK(r.bits == 0x12'0000);
    memory.put<std::uint32_t>(0x1004, 0x0060'00e7);  // bit 21
    CHECK(walk(pse, 0x1000, 0x0040'0000, {}, {}, memory).fault == fault_kind::reserved_bits);

    memory.put<std::uint32_t>(0x1004, 0x0000'20e7);  // PSE off: PS is ignored, a table
    memory.put<std::uint32_t>(0x2008, 0x8000'0067);
    r = walk(off, 0x1000, 0x0040'2aaa, {}, {}, memory);
    CHECK(r.address == 0x8000'0aaa);
    CHECK(r.page_shift == 12);
}

TEST_CASE("EPT: violations and misconfigurations")
{
    static constexpr auto host = ept<ept_features{.physical_bits = 40, .execute_only = false}>;
    const auto end = [](word e1, const asked& a, word e2 = 0x4007) {
        one_page page(0x2007, 0x3007, e2, e1);
        return page.walked(host, a);
    };
    const auto qualification = [&](word e1, const asked& a, word e2 = 0x4007) {
        const walk_result r = end(e1, a, e2);
        CHECK((r.fault == fault_kind::protection || r.fault == fault_kind::not_present));
        return ept_qualification(r, a, {}, host).value;
    };
    CHECK(end(0x5037, user_write));
    CHECK(end(0x5037, user_write).memory_type() == 0x30);
    CHECK(qualification(0x5031, user_write) == 0x18a);
    CHECK(qualification(0x5035, user_write) == 0x1aa);
    CHECK(qualification(0x5033, user_fetch) == 0x19c);
    CHECK(qualification(0x5037, user_write, 0x4005) == 0x1aa);
    CHECK(qualification(0x5000, user_read) == 0x181);
    CHECK(qualification(0x5037, user_read, 0xfff8) == 0x181);  // not present, whatever else
    CHECK(qualification(0x5031, {.what = operation::read_write}) == 0x18b);
    CHECK(qualification(0x5031, {.what = operation::write, .linear = false}) == 0xa);
    CHECK(qualification(0x5031, {.what = operation::read_write, .guest_table = true}) == 0x8b);

    // Bits 9 to 11 where the CPU tells them. An access that does not say what the guest's tables allow: all.
    const cpu_controls informs{.exit_information = true};
    const memory_access write{.what = operation::write};
    CHECK(ept_qualification(end(0x5031, user_write), user_write, informs, host).value == 0x78a);
    CHECK(ept_qualification(end(0x5031, write), write, informs, host).value == 0x58a);

    CHECK(end(0x5032, user_read).broken == rule::write_without_read);
    CHECK(end(0x5034, user_read).broken == rule::execute_without_read);
    CHECK(end(0x5017, user_read).broken == rule::memory_type);
    CHECK(end(0x5037, user_read, 0x400f).broken == rule::reserved_bits);
    CHECK(end(0x5032, user_read).fault == fault_kind::misconfiguration);
    CHECK(end(0x5037, user_read, 0x400f).level == 2);
    constexpr auto execute_only = ept<ept_features{}>;
    one_page page(0x2007, 0x3007, 0x4007, 0x5034);
    CHECK(page.walked(execute_only, user_fetch));
    CHECK(page.walked(execute_only, user_read).fault == fault_kind::protection);

    // Mode-based execute: X is the supervisor's, XU the user's; bit 6 of the qualification.
    constexpr auto apart = ept<ept_features{.mode_based_execute = true}>;
    one_page user_only(0x2407, 0x3407, 0x4407, 0x5433);
    CHECK(user_only.walked(apart, user_fetch));
    const walk_result denied = user_only.walked(apart, supervisor_fetch);
    CHECK(denied.fault == fault_kind::protection);
    CHECK(ept_qualification(denied, supervisor_fetch, {}, apart).value == 0x1dc);
    one_page only_xu(0x2407, 0x3407, 0x4407, 0x5430);
    CHECK(only_xu.walked(apart, user_fetch));
}
