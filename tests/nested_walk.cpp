// SPDX-License-Identifier: BSL-1.0
// Walks of a guest's tables over the host's.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <ptebits/nested_walk.hpp>
#include <ptebits/x86.hpp>
#include <type_traits>
#include <vector>

#include "walking.hpp"

using namespace walking;

namespace {

using result = nested_result<asked>;

/// Maps the lowest 512 Gbytes to themselves, by 1-Gbyte leaves in the two pages at `root`.
template <class Host>
void map_identity(arena& memory, word root, const Host& host)
{
    put_entry(memory, root, encode(kind::table, 4, root + page_bytes, {}, host).entry, 64);
    for (word i = 0; i < 512; ++i) {
        const encoded leaf = encode(kind::leaf, 3, i << 30, {}, host);
        REQUIRE(leaf);
        put_entry(memory, root + page_bytes + i * 8, leaf.entry, 64);
    }
}

template <class Host>
void check_identity(const Host& host, unsigned seed)
{
    dice d(seed);
    unsigned reached = 0;
    for (unsigned round = 0; round < 60; ++round) {
        shadow_features f = random_features(d, std::type_identity<shadow_features>{});
        f.physical_bits = static_cast<unsigned>(32 + d.below(8));
        f.memory_bits = 0;
        const auto guest = format_for(f);
        // The guest's tables, and behind them the host's.
        arena memory(0x10'0000, 8);
        fill(memory, guest, d);
        const word host_root = memory.base() + 6 * page_bytes;
        std::fill(memory.words().end() - 1024, memory.words().end(), 0);
        map_identity(memory, host_root, host);
        for (unsigned n = 0; n < 40; ++n) {
            const word root = memory.base() + d.below(6) * page_bytes;
            const word address = random_address(guest, d);
            asked a = random_access(d);
            a.guest_table = false;
            const cpu_controls cpu = random_controls(d);
            const std::vector<word> before = memory.words();
            const walk_result plain = walk(guest, root, address, a, cpu, memory);
            const std::vector<word> after = memory.words();
            memory.words() = before;
            const result nested = nested_walk(guest, root, host, host_root, address, a, cpu, memory);
            // Tables that lead astray may use the host's; there nothing is said.
            bool astray = false;
            for (unsigned i = 0; i < plain.steps; ++i) astray = astray || plain.path[i].slot_address >= host_root;
            if (astray) {
                memory.words() = before;
                continue;
            }
            if (plain.fault == fault_kind::memory_absent) {
                CHECK(!nested);
            } else {
                walk_result expected = plain;
                // AMD reads PDPTEs on demand.
                const bool on_demand = std::is_same_v<regime_of<std::remove_cvref_t<decltype(host)>>, nested_paging>;
                if (on_demand && plain.fault == fault_kind::pdpte_reserved) expected.fault = fault_kind::reserved_bits;
                CHECK(same_outcome(expected, nested.guest));
                CHECK(same_path(expected, nested.guest));
                CHECK(static_cast<bool>(plain) == static_cast<bool>(nested));
            }
            if (plain) {
                CHECK(nested.address() == plain.address);
                CHECK(nested.page_shift() == (plain.page_shift < 30 ? plain.page_shift : 30));
                CHECK(nested.guest_physical == plain.address);
                ++reached;
            } else if (plain.fault != fault_kind::memory_absent) {
                CHECK(nested.where == dimension::guest);
            }
            const auto guests = [](const std::vector<word>& all) {
                return std::vector<word>(all.begin(), all.end() - 1024);
            };
            CHECK(guests(memory.words()) == guests(after));

            // Without updates it ends the same and changes nothing.
            memory.words() = before;
            const result looked = nested_walk(guest, root, host, host_root, address, a, cpu, memory, update_flags::no);
            CHECK(memory.words() == before);
            if (!uses_an_entry_twice(plain)) {
                CHECK(same_outcome(looked.guest, nested.guest));
                CHECK(same_outcome(looked.host, nested.host));
                CHECK(looked.where == nested.where);
            }
            memory.words() = before;
        }
    }
    CHECK(reached > 60);
}

/// A guest with one page over four-level host tables, everything by 4-Kbyte pages: guest-physical
/// pages 0 to f are at 10'0000 and on.
template <class Host>
struct nested_page {
    arena memory{0x1000, 0x110};
    Host host;

    explicit nested_page(const Host& format) : host(format)
    {
        word table = 0x1000;
        for (unsigned level = 4; level > 1; --level, table += page_bytes) {
            memory.put(table, encode(kind::table, level, table + page_bytes, {}, host).entry);
        }
        for (word page = 0; page < 16; ++page) memory.put(host_slot(page), leaf(page));
        guest(0x0, 0x1007);
        guest(0x1000, 0x2007);
        guest(0x2000, 0x3007);
        guest(0x3008, 0x7007);  // linear page 1 is guest-physical page 7
    }
    static word host_slot(word page) { return 0x4000 + page * 8; }
    [[nodiscard]] word leaf(word page, permissions p = {}) const
    {
        return encode(kind::leaf, 1, 0x10'0000 + page * page_bytes, p, host).entry;
    }
    void guest(word physical, word entry) { memory.put(0x10'0000 + physical, entry); }
    [[nodiscard]] word guest(word physical) const { return memory.get<word>(0x10'0000 + physical); }

    result walked(const asked& a, update_flags update = update_flags::yes)
    {
        return nested_walk(long_mode, 0, host, 0x1000, 0x1abc, a, {}, memory, update);
    }
};

}  // namespace

TEST_CASE("the nested walk over an identity mapping is the plain walk")
{
    check_identity(ept<ept_features{}>, 21);
    check_identity(ept<ept_features{.accessed_dirty = false}>, 22);
    check_identity(npt<npt_features{}>, 23);
    check_identity(format_for(ept_features{}), 24);
}

TEST_CASE_TEMPLATE("a guest's walk sets A and D in both dimensions, through the host's tables", Host,
                   npt_of<npt_features{}>, ept_of<ept_features{}>)
{
    const Host host;
    nested_page page(host);
    const result r = page.walked(user_write);
    CHECK(r);
    CHECK(r.address() == 0x10'7abc);
    CHECK(r.guest_physical == 0x7abc);
    CHECK(page.guest(0) == 0x1027);
    CHECK(page.guest(0x2000) == 0x3027);
    CHECK(page.guest(0x3008) == 0x7067);
    const word a = host->accessed.mask();
    const word d = host->dirty.mask();
    for (const word used : {0U, 1U, 2U, 3U, 7U}) {
        CHECK((page.memory.template get<word>(page.host_slot(used)) & (a | d)) == (a | d));
    }
    for (const word unused : {4U, 5U, 6U, 8U}) CHECK((page.memory.template get<word>(page.host_slot(unused)) & a) == 0);
    const result read = page.walked(user_read);
    CHECK(read);
}

TEST_CASE("NPT: guest tables are written, faults tell the dimension and the guest-physical address")
{
    constexpr auto host = npt<npt_features{}>;
    nested_page page(host);
    SUBCASE("a guest table is absent in the host's")
    {
        page.memory.put<word>(page.host_slot(2), 0);
        const result r = page.walked(user_read);
        CHECK(!r);
        CHECK(r.where == dimension::host);
        CHECK(r.guest_physical == 0x2000);
        CHECK(r.host_access.guest_table);
        CHECK(npf_exit_info(r.host, r.host_access, {}, host).value == 0x2'0000'0006);
    }
    SUBCASE("a guest table is read-only in the host's: a fault, also on a read, also without updates")
    {
        for (const word entry : {0x1007U, 0x1027U}) {
            page.guest(0, entry);
            page.memory.put(page.host_slot(0), page.leaf(0, {.write = false}));
            for (const update_flags update : {update_flags::yes, update_flags::no}) {
                const result r = page.walked(user_read, update);
                CHECK(r.where == dimension::host);
                CHECK(r.guest_physical == 0);
                CHECK(npf_exit_info(r.host, r.host_access, {}, host).value == 0x2'0000'0007);
            }
            CHECK(page.guest(0) == entry);
        }
    }
    SUBCASE("the page itself")
    {
        page.memory.put(page.host_slot(7), page.leaf(7, {.write = false}));
        CHECK(page.walked(supervisor_read));
        const result r = page.walked(supervisor_write);
        CHECK(r.where == dimension::host);
        CHECK(r.guest_physical == 0x7abc);
        CHECK(!r.host_access.guest_table);
        CHECK(npf_exit_info(r.host, r.host_access, {}, host).value == 0x1'0000'0007);
        CHECK(r.guest);
        CHECK(page.guest(0x3008) == 0x7067);  // the guest's part was done
    }
    SUBCASE("the guest's own fault")
    {
        page.guest(0x3008, 0x7001);
        const result r = page.walked(user_read);
        CHECK(r.where == dimension::guest);
        CHECK(r.guest.fault == fault_kind::protection);
        CHECK(page_fault_code(r.guest, user_read, {}, long_mode).value == 0x5);
    }
    SUBCASE("no memory behind a guest table")
    {
        page.memory.put(page.host_slot(1), encode(kind::leaf, 1, 0x4000'0000, {}, host).entry);
        const result r = page.walked(user_read);
        CHECK(r.where == dimension::guest);
        CHECK(r.guest.fault == fault_kind::memory_absent);
        CHECK(r.guest.level == 3);
    }
}

TEST_CASE("EPT: guest tables are read, and written where a flag must be set")
{
    constexpr auto no_flags = ept<ept_features{.accessed_dirty = false}>;
    constexpr auto flags = ept<ept_features{}>;
    constexpr permissions no_write{.write = false};

    SUBCASE("without A/D a read-only guest table serves while its A is set")
    {
        nested_page page(no_flags);
        page.memory.put(page.host_slot(0), page.leaf(0, no_write));
        for (const update_flags update : {update_flags::yes, update_flags::no}) {
            const result r = page.walked(user_read, update);
            CHECK(r.where == dimension::host);
            CHECK(r.guest_physical == 0);
            CHECK(ept_qualification(r.host, r.host_access, {}, no_flags).value ==
                  0xab);  // a read and write; R and X allowed
        }
        CHECK(page.guest(0) == 0x1007);
        page.guest(0, 0x1027);
        CHECK(page.walked(user_read));
        CHECK(page.walked(user_write));
    }
    SUBCASE("without A/D the leaf's table must be writable for D only")
    {
        nested_page page(no_flags);
        for (const word table : {0x0U, 0x1000U, 0x2000U}) page.guest(table, page.guest(table) | 0x20);
        page.guest(0x3008, 0x7027);
        page.memory.put(page.host_slot(3), page.leaf(3, no_write));
        CHECK(page.walked(user_read));
        const result r = page.walked(user_write);
        CHECK(r.where == dimension::host);
        CHECK(r.guest_physical == 0x3008);
        CHECK(page.guest(0x3008) == 0x7027);
    }
    SUBCASE("with A/D a guest table is always written")
    {
        nested_page page(flags);
        page.guest(0, 0x1027);
        page.memory.put(page.host_slot(0), page.leaf(0, no_write));
        const result r = page.walked(user_read);
        CHECK(r.where == dimension::host);
        CHECK(ept_qualification(r.host, r.host_access, {}, flags).value == 0xab);
    }
    SUBCASE("the final address")
    {
        nested_page page(flags);
        page.memory.put<word>(page.host_slot(7), 0);
        const result r = page.walked(user_write);
        CHECK(r.guest_physical == 0x7abc);
        CHECK(ept_qualification(r.host, r.host_access, {}, flags).value == 0x182);
    }
    SUBCASE("a misconfigured entry")
    {
        nested_page page(flags);
        page.memory.put<word>(page.host_slot(7), 0x10'7032);
        CHECK(page.walked(user_write).host.fault == fault_kind::misconfiguration);
    }
}

TEST_CASE("EPT with mode-based execute asks by the linear address's mode")
{
    constexpr auto host = ept<ept_features{.mode_based_execute = true}>;
    nested_page page(host);
    page.memory.put(page.host_slot(7), page.leaf(7, {.execute = false, .user_execute = true}));  // XU alone
    CHECK(page.walked(supervisor_fetch));  // the linear page is a user page
    page.guest(0x3008, 0x7003);
    CHECK(page.walked(supervisor_fetch).where == dimension::host);
}

TEST_CASE("a two-level guest over EPT and NPT")
{
    const auto check = [](const auto& host) {
        constexpr auto guest = shadow<shadow_features{.levels = 2}>;
        arena memory(0x10'0000, 8);
        const word host_root = memory.base() + 4 * page_bytes;
        map_identity(memory, host_root, host);
        memory.put<std::uint32_t>(0x10'0ffc, 0x0010'1007);  // the last of 1024
        memory.put<std::uint32_t>(0x10'1ffc, 0x4567'8007);
        const result r = nested_walk(guest, 0x10'0000, host, host_root, 0xffff'fabc, user_write, {}, memory);
        CHECK(r);
        CHECK(r.address() == 0x4567'8abc);
        CHECK(r.page_shift() == 12);
        CHECK(memory.get<std::uint32_t>(0x10'0ffc) == 0x0010'1027);
        CHECK(memory.get<std::uint32_t>(0x10'1ffc) == 0x4567'8067);
        CHECK(memory.get<std::uint32_t>(0x10'0ff8) == 0);
    };
    check(ept<ept_features{}>);
    check(ept<ept_features{.accessed_dirty = false}>);
    check(npt<npt_features{}>);
    check(format_for(npt_features{}));
}

TEST_CASE("an unpaged guest")
{
    constexpr auto host = npt<npt_features{}>;
    nested_page page(host);
    result r = nested_walk(unpaged{}, 0, host, 0x1000, 0x7abc, supervisor_write, {}, page.memory);
    CHECK(r);
    CHECK(r.address() == 0x10'7abc);
    CHECK(r.page_shift() == 12);
    CHECK(r.guest.steps == 0);
    r = nested_walk(unpaged{}, 0, host, 0x1000, 0x1'0abc, supervisor_write, {}, page.memory);
    CHECK(r.where == dimension::host);
    CHECK(r.guest_physical == 0x1'0abc);
    CHECK(npf_exit_info(r.host, r.host_access, {}, host).value == 0x1'0000'0006);
}
