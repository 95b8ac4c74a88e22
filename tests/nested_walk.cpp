// SPDX-License-Identifier: BSL-1.0
// Walks of a guest's tables over the host's.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
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

// ---- the fast pass

/// Memory of handlers, which nested walks read once for each slot: they take no fast pass over it.
struct handled {
    arena& memory;
    std::size_t loads = 0;

    template <slot_word Word>
    bool load(word physical, Word& entry)
    {
        const Word* const slot = memory(physical, std::type_identity<Word>{});
        if (slot == nullptr) return false;
        ++loads;
        entry = *slot;
        return true;
    }
    template <slot_word Word>
    slot_change replace(word physical, Word expected, Word desired)
    {
        Word* const slot = memory(physical, std::type_identity<Word>{});
        if (slot == nullptr) return slot_change::no_slot;
        if (*slot != expected) return slot_change::changed;
        *slot = desired;
        return slot_change::done;
    }
};

bool same_result(const result& a, const result& b)
{
    return a.where == b.where && same_outcome(a.guest, b.guest) && same_path(a.guest, b.guest) &&
           same_outcome(a.host, b.host) && same_path(a.host, b.host) && a.host_access == b.host_access &&
           a.guest_physical == b.guest_physical &&
           std::equal(std::begin(a.guest_slots), std::end(a.guest_slots), std::begin(b.guest_slots));
}

constexpr unsigned guest_pages = 8;

/// Eight pages of a guest's tables, and behind them the host's, which map all to itself in 4-Kbyte pages, some of
/// them not or read-only.
template <class Guest, class Host>
arena random_stages(const Guest& guest, const Host& host, dice& d)
{
    arena memory(0x10'0000, 2 * guest_pages);
    fill(memory, guest, d);
    // Most entries are good: of a table in the first two pages, which are top tables, and in the others of a table or
    // a 4-Kbyte page.
    const unsigned entry_bits = guest->shape().entry_bits;
    for (word at = memory.base(); at < memory.base() + guest_pages * page_bytes; at += entry_bits / 8) {
        if (d.one_in(12)) continue;
        const bool top = at < memory.base() + 2 * page_bytes;
        const word target = memory.base() + (2 + d.below(guest_pages - 2)) * page_bytes;
        word entry = encode(kind::table, top ? guest->shape().levels : 2, target, {}, guest).entry;
        if (!top && !d.one_in(8)) entry |= guest->accessed.mask() | guest->dirty.mask();
        put_entry(memory, at, entry, entry_bits);
    }
    std::fill(memory.words().begin() + std::ptrdiff_t{guest_pages} * 512, memory.words().end(), 0);
    const shape& s = host->shape();
    word table = memory.base() + guest_pages * page_bytes;
    for (unsigned level = s.levels; level > 1; --level, table += page_bytes) {
        const word entry = encode(kind::table, level, table + page_bytes, {}, host).entry | host->accessed.mask();
        put_entry(memory, s.slot_address(table, memory.base(), level), entry, s.entry_bits);
    }
    for (word page = memory.base(); memory.holds(page); page += page_bytes) {
        word entry = encode(kind::leaf, 1, page, {.write = !d.one_in(24)}, host).entry;
        if (!d.one_in(16)) entry |= host->accessed.mask() | host->dirty.mask();
        if constexpr (requires { host->paging_write; }) {
            if (!d.one_in(4)) entry |= host->paging_write.mask();
            if (d.one_in(4)) entry |= host->verify_guest_paging.mask();
        }
        if (d.one_in(40)) entry ^= word{1} << d.below(s.entry_bits);
        put_entry(memory, s.slot_address(table, page, 1), entry, s.entry_bits);
    }
    return memory;
}

/// Nested walks over pointers, which take the fast pass, and over handlers, which do not, end alike, and do the same.
template <class Guest, class Host>
void check_fast_pass(unsigned seed)
{
    constexpr Guest guest;
    constexpr Host host;
    dice d(seed);
    unsigned reached = 0;
    unsigned refused = 0;
    for (unsigned round = 0; round < 40; ++round) {
        arena memory = random_stages(guest, host, d);
        const word host_root = memory.base() + guest_pages * page_bytes;
        for (unsigned n = 0; n < 40; ++n) {
            const word root =
                d.one_in(40) ? d.bits() : memory.base() + d.below(d.one_in(8) ? guest_pages : 2) * page_bytes;
            const word address = random_address(guest, d);
            asked a = random_access(d);
            a.guest_table = false;
            const nested_controls<Guest, Host> cpu{random_controls(d), random_controls(d)};
            const update_flags update = d.one_in(2) ? update_flags::yes : update_flags::no;
            const std::vector<word> before = memory.words();
            handled by_handlers{memory};
            const result whole =
                nested_walk(guest, root, host, host_root, address, a, cpu, by_handlers, update, plain_access{});
            const std::vector<word> after = memory.words();
            memory.words() = before;
            const result fast = nested_walk(guest, root, host, host_root, address, a, cpu, memory, update);
            CHECK(same_result(fast, whole));
            CHECK(memory.words() == after);
            CHECK(fault_code(fast, a, cpu, guest, host) == fault_code(whole, a, cpu, guest, host));
            refused += whole.guest.fault == fault_kind::second_stage;
            if (!whole) continue;
            // Now that all flags are set, and no fault is told, each slot is asked for once.
            ++reached;
            memory.given.clear();
            by_handlers.loads = 0;
            const result again = nested_walk(guest, root, host, host_root, address, a, cpu, memory, update);
            const std::size_t asked_for = memory.given.size();
            CHECK(same_result(again, nested_walk(guest, root, host, host_root, address, a, cpu, by_handlers, update)));
            if (update == update_flags::yes) CHECK(asked_for == by_handlers.loads);
        }
    }
    CHECK(reached > 30);
    CHECK(refused > 10);
}

/// A batch gives what single walks give one after another, and sets the same flags.
template <class Guest, class Host>
void check_batch(const Guest& guest, const Host& host, unsigned seed)
{
    dice d(seed);
    unsigned reached = 0;
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{16}, std::size_t{217}}) {
        for (const update_flags update : {update_flags::yes, update_flags::no}) {
            arena memory = [&] {
                if constexpr (std::is_same_v<Guest, unpaged>) {
                    return random_stages(shadow<shadow_features{}>, host, d);
                } else {
                    return random_stages(guest, host, d);
                }
            }();
            const word root = memory.base();
            const word host_root = root + guest_pages * page_bytes;
            std::vector<word> addresses(count);
            for (word& address : addresses) {
                if constexpr (std::is_same_v<Guest, unpaged>) {
                    address = d.one_in(16) ? d.bits() : root + d.below(20 * page_bytes);
                } else {
                    address = random_address(guest, d);
                }
            }
            const asked a{.what = d.one_in(2) ? operation::write : operation::read, .user = d.one_in(2)};
            std::vector<result> results(count + 1);
            const std::vector<word> before = memory.words();
            nested_walk_batch(guest, root, host, host_root, addresses.data(), count, a, {}, memory, results.data(),
                              update);
            const std::vector<word> after = memory.words();
            memory.words() = before;
            for (std::size_t i = 0; i < count; ++i) {
                const result one = nested_walk(guest, root, host, host_root, addresses[i], a, {}, memory, update);
                CHECK(same_result(results[i], one));
                reached += static_cast<bool>(one);
            }
            CHECK(memory.words() == after);
            // Roots that are none: nothing is read.
            memory.given.clear();
            nested_walk_batch(guest, root + 1, host, host_root + 1, addresses.data(), count, a, {}, memory,
                              results.data(), update);
            CHECK(memory.given.empty());
        }
    }
    CHECK(reached > 10);
}

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

TEST_CASE("the fast pass ends as the whole walk")
{
    check_fast_pass<shadow_of<shadow_features{.physical_bits = 40}>, ept_of<ept_features{}>>(31);
    check_fast_pass<shadow_of<shadow_features{.levels = 5, .user_keys = true, .shadow_stacks = true}>,
                    ept_of<ept_features{.accessed_dirty = false}>>(32);
    check_fast_pass<shadow_of<shadow_features{.levels = 3, .physical_bits = 36}>,
                    ept_of<ept_features{.mode_based_execute = true,
                                        .verify_guest_paging = true,
                                        .paging_write = true,
                                        .supervisor_shadow_stack = true}>>(33);
    check_fast_pass<shadow_of<shadow_features{.levels = 2, .physical_bits = 36}>, npt_of<npt_features{}>>(34);
    check_fast_pass<shadow_of<shadow_features{.physical_bits = 40}>,
                    npt_of<npt_features{.supervisor_shadow_stack = true, .read_only_guest_tables = true}>>(35);
}

TEST_CASE("nested_walk_batch gives what nested walks one by one give, and sets the same flags")
{
    check_batch(shadow<shadow_features{.physical_bits = 40}>, ept<ept_features{}>, 41);
    check_batch(shadow<shadow_features{.levels = 2}>, npt<npt_features{}>, 42);
    check_batch(format_for(shadow_features{.levels = 3}), format_for(ept_features{.accessed_dirty = false}), 43);
    check_batch(unpaged{}, npt<npt_features{}>, 44);
}
