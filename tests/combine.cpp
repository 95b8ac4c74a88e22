// SPDX-License-Identifier: BSL-1.0
// One entry for two stages: it allows what both allow, leads where both lead, and caches alike.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/combine.hpp>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <string>
#include <type_traits>

#include "walking.hpp"

using namespace walking;

namespace {

constexpr word base = 0x10'0000;
constexpr word every_pat_type = 0x0606'0504'0007'0106;  // WB WC UC- UC WT WP WB WB
constexpr memory_type mtrr_types[] = {memory_type::uc, memory_type::wc, memory_type::wt, memory_type::wp,
                                      memory_type::wb};

/// A PAT of random types.
word random_pat(dice& d)
{
    word pat = 0;
    for (unsigned i = 0; i < 8; ++i) pat = pat << 8 | (every_pat_type >> 8 * d.below(6) & 0xff);
    return pat;
}

/// An entry with random permissions that the format has; all, if none is found.
template <class Format>
word random_entry(dice& d, const Format& format, kind k, unsigned level, word target, const field_values& also = {})
{
    for (unsigned n = 0; n < 8; ++n) {
        const bool second_stage = !std::is_same_v<typename Format::description, shadow_description>;
        const permissions p{!d.one_in(6), !d.one_in(3), !d.one_in(3), second_stage || !d.one_in(3), !d.one_in(3)};
        if (const encoded e = encode(k, level, target, p, format, also)) return e.entry;
    }
    const encoded e = encode(k, level, target, {}, format, also);
    REQUIRE(e);
    return e.entry;
}

/// The memory-type bits of a random type.
template <class Format>
field_values random_type(dice& d, const Format& format, unsigned level)
{
    if constexpr (std::is_same_v<typename Format::description, ept_description>) {
        return format->memory_type(static_cast<word>(mtrr_types[d.below(5)])) | format->ignore_pat(d.below(2));
    } else {
        return pat_bits(static_cast<unsigned>(d.below(8)), level, format);
    }
}

/// A level of which the format has leaves, at which `address` may be a page's.
template <class Format>
unsigned random_leaf_level(dice& d, const Format& format)
{
    for (;;) {
        const auto level = static_cast<unsigned>(1 + d.below(3));
        if (format->exists(level, kind::leaf)) return level;
    }
}

/// Where slots of tables come from: the pages of an arena, in turn.
struct builder {
    arena& memory;
    word next;
    word offset = 0;  ///< physical address of guest-physical 0

    /// Maps a page from a table down. Entries for tables grant what `d` says from `free` levels down.
    template <class Format>
    void map(const Format& format, word root, word address, unsigned leaf_level, word leaf, dice* d, unsigned free)
    {
        const shape& s = format->shape();
        word table = root;
        for (unsigned level = s.levels; level > leaf_level; --level) {
            const word slot = offset + s.slot_address(table, address, level);
            word entry = entry_at(memory, slot, s.entry_bits);
            if (entry == 0) {
                const bool any = d != nullptr && level <= free;
                entry = any ? random_entry(*d, format, kind::table, level, next)
                            : encode(kind::table, level, next, {}, format).entry;
                next += page_bytes;
                put_entry(memory, slot, entry, s.entry_bits);
            }
            table = address_of(entry, level, format);
        }
        put_entry(memory, offset + s.slot_address(table, address, leaf_level), leaf, s.entry_bits);
    }
};

/// Accesses of all sorts.
template <class Function>
void for_each_access(Function call)
{
    for (const operation what : {operation::read, operation::write, operation::fetch, operation::read_write}) {
        for (const bool user : {false, true}) call(asked{.what = what, .user = user});
    }
}

/// The target's tables, with one leaf at an address.
template <class Target>
struct one_leaf {
    arena memory{base, 6};
    Target target;

    one_leaf(const Target& format, word address, const combined_leaf& leaf) : target(format)
    {
        builder b{memory, base + page_bytes};
        b.map(target, base, address, leaf.level, leaf.entry, nullptr, 0);
    }
    walk_result walked(word address, const asked& a, const cpu_controls& cpu = {})
    {
        return walk(target, base, address, a, cpu, memory, update_flags::no);
    }
};

unsigned min_of(unsigned a, unsigned b) { return a < b ? a : b; }

/// A guest's page over a host's, both random, and what is expected of the shadow entry.
template <class Guest, class Host>
class shadowed_page {
public:
    static constexpr bool paged = !std::is_same_v<Guest, unpaged>;
    static constexpr word final_gigabyte = word{3} << 30;  // guest-physical: no guest tables near

    arena memory{base, 24};
    Guest guest;
    Host host;
    word address = 0;
    bool guest_dirty = true;

    shadowed_page(dice& d, const Guest& g, const Host& h) : guest(g), host(h)
    {
        builder hosts{memory, host_root + page_bytes};
        for (word page = 0; page < 6; ++page) {
            hosts.map(host, host_root, page * page_bytes, 1,
                      encode(kind::leaf, 1, base + page * page_bytes, {}, host).entry, nullptr, 0);
        }
        word guest_physical = final_gigabyte + d.below(word{1} << 30);
        if constexpr (paged) {
            const unsigned level = random_leaf_level(d, guest);
            const unsigned shift = guest->shape().page_shift(level);
            address = guest->shape().extended(d.bits() & ones(guest->shape().address_bits() - 1, 0));
            address = (address & ~ones(shift - 1, 0)) | (guest_physical & ones(shift - 1, 0));
            word leaf = random_entry(d, guest, kind::leaf, level, guest_physical & ~ones(shift - 1, 0),
                                     random_type(d, guest, level));
            guest_dirty = !d.one_in(3);
            if (guest_dirty) leaf |= guest->dirty.mask();
            leaf |= d.bits() & guest->protection_key.mask();
            leaf |= d.bits() & guest->global.mask();
            builder guests{memory, page_bytes, base};
            guests.map(guest, 0, address, level, leaf, &d, 5);
        } else {
            address = guest_physical;
        }
        const unsigned level = random_leaf_level(d, host);
        const unsigned shift = host->shape().page_shift(level);
        const word place = d.bits() & ones(host->features().physical_bits - 1, shift) &
                           (host->shape().entry_bits == 32 ? ones(31, 0) : ~word{0});
        const word reachable = host->layout_at(level, kind::leaf).address_in(place);
        hosts.map(host, host_root, guest_physical, level,
                  random_entry(d, host, kind::leaf, level, reachable, random_type(d, host, level)), &d, 3);
    }

    nested_result<asked> walked(const asked& a, const cpu_controls& cpu)
    {
        return nested_walk(guest, 0, host, host_root, address, a, cpu, memory, update_flags::no);
    }

private:
    static constexpr word host_root = base + 8 * page_bytes;
};

struct counts {
    unsigned made = 0;
    unsigned writable = 0;
    unsigned large = 0;
    unsigned errors[static_cast<unsigned>(combine_error::entry) + 1] = {};
};

template <class Guest, class Host, class Target>
void check_shadow(dice& d, const Guest& guest, const Host& host, const Target& target, const cpu_controls& cpu,
                  combine_options o, counts& seen)
{
    shadowed_page<Guest, Host> page(d, guest, host);
    // What is allowed at all is found by any access that is.
    nested_result<asked> reached{};
    bool any = false;
    for_each_access([&](const asked& a) {
        if (any) return;
        reached = page.walked(a, cpu);
        any = static_cast<bool>(reached);
    });
    if (!any) {
        CHECK(!combine(reached, guest, host, target, o));
        return;
    }
    o.cpu = cpu;
    const combined_leaf leaf = combine(reached, guest, host, target, o);
    ++seen.errors[static_cast<unsigned>(leaf.error)];
    if (!leaf) {
        CHECK(leaf.entry == 0);
        return;
    }
    ++seen.made;
    seen.large += leaf.level > 1;
    CHECK(legal(leaf.entry, leaf.level, target));
    one_leaf<Target> shadow_of_both(target, page.address, leaf);
    cpu_controls with_wp = cpu;
    with_wp.write_protect = true;
    bool converted = false;
    if (o.writable_for_supervisor && !cpu.write_protect)
        converted = reached.guest.allowed.user && !reached.guest.allowed.write && reached.host.allowed.write;
    const bool keys = target->protection_key.exists();
    for_each_access([&](const asked& a) {
        CAPTURE(static_cast<int>(a.what));
        CAPTURE(a.user);
        const nested_result<asked> both = page.walked(a, cpu);
        const walk_result one = shadow_of_both.walked(page.address, a, with_wp);
        if (one) {
            CHECK(both);
            CHECK(one.address == both.address());
            CHECK(one.page_shift <= both.page_shift());
            seen.writable += a.writes();
            return;
        }
        if (!both) return;
        // Refused, though both stages allow it: for a reason that the options name.
        const bool waits = a.writes() && o.wait_for_dirty && !page.guest_dirty && !o.written;
        const bool emulated = a.writes() && !a.user && !cpu.write_protect &&
                              (keys || (!reached.guest.allowed.write && !o.writable_for_supervisor));
        const bool kept_from_user = a.user && converted;
        CHECK((waits || emulated || kept_from_user));
    });
    const walk_result any_walk = shadow_of_both.walked(page.address, {}, {.write_protect = true});
    const memory_type type = pat_type(o.target_pat, pat_index(any_walk, target));
    for (const memory_type mtrr : mtrr_types) {
        const memory_type wanted =
            effective_type(reached, guest, host, {.guest_pat = o.first_pat, .host_pat = o.second_pat, .mtrr = mtrr});
        if constexpr (std::is_same_v<typename Host::description, ept_description>) {
            CHECK(effective_type(type, memory_type::wb, vendor::intel) == wanted);
        } else {
            CHECK(effective_type(type, mtrr, vendor::amd) ==
                  (wanted == memory_type::wc_plus ? memory_type::wc : wanted));
        }
    }
}

template <class Host>
void check_shadows(unsigned seed)
{
    dice d(seed);
    counts seen;
    for (unsigned round = 0; round < 1500; ++round) {
        shadow_features g = random_features(d, std::type_identity<shadow_features>{});
        g.memory_bits = 0;
        g.physical_bits = static_cast<unsigned>(33 + d.below(20));
        if (!format_for(g).exists(1, kind::leaf)) continue;
        auto h = random_features(d, std::type_identity<Host>{});
        if constexpr (requires { h.memory_bits; }) h.memory_bits = 0;
        if constexpr (requires { h.levels = 4; }) {
            if (h.levels < 3) h.levels = 4;
        }
        h.physical_bits = static_cast<unsigned>(33 + d.below(20));
        shadow_features t = g;
        t.levels = g.levels < 4 ? static_cast<unsigned>(3 + d.below(2)) : g.levels;
        t.physical_bits = h.physical_bits;
        t.encryption_bit = {};
        t.execute_disable = true;
        t.hlat = false;
        t.gigabyte_pages = d.one_in(2);
        const cpu_controls cpu = random_controls(d);
        const combine_options o{.first_pat = random_pat(d),
                                .second_pat = random_pat(d),
                                .target_pat = every_pat_type,
                                .wait_for_dirty = d.one_in(2),
                                .writable_for_supervisor = d.one_in(2),
                                .keep_global = d.one_in(2)};
        const auto guest = format_for(g);
        const auto host = format_for(h);
        const auto target = format_for(t);
        if (guest->wrong().what != defect::none || host->wrong().what != defect::none ||
            target->wrong().what != defect::none) {
            continue;
        }
        check_shadow(d, guest, host, target, cpu, o, seen);
    }
    CAPTURE(seen.errors[1]);
    CAPTURE(seen.errors[2]);
    CAPTURE(seen.errors[3]);
    CAPTURE(seen.errors[4]);
    CAPTURE(seen.errors[5]);
    CAPTURE(seen.errors[6]);
    CHECK(seen.made > 500);
    CHECK(seen.writable > 100);
    CHECK(seen.large > 50);
    CHECK(seen.errors[static_cast<unsigned>(combine_error::memory_type)] == 0);
    CHECK(seen.errors[static_cast<unsigned>(combine_error::protection_key)] == 0);
}

template <class Features>
void check_unpaged(unsigned seed)
{
    dice d(seed);
    counts seen;
    for (unsigned round = 0; round < 300; ++round) {
        auto h = random_features(d, std::type_identity<Features>{});
        if constexpr (requires { h.memory_bits; }) h.memory_bits = 0;
        if (h.levels < 3) h.levels = 4;
        h.physical_bits = static_cast<unsigned>(33 + d.below(20));
        const auto host = format_for(h);
        if (host->wrong().what != defect::none) continue;
        const auto target = format_for(shadow_features{.physical_bits = h.physical_bits});
        const combine_options o{.second_pat = random_pat(d), .target_pat = every_pat_type};
        check_shadow(d, unpaged{}, host, target, {}, o, seen);
    }
    CHECK(seen.made > 100);
    CHECK(seen.writable > 30);
}

/// Two second stages and one that does what both do.
template <class Features>
void check_nested(unsigned seed)
{
    dice d(seed);
    counts seen;
    for (unsigned round = 0; round < 1500; ++round) {
        auto f1 = random_features(d, std::type_identity<Features>{});
        auto f2 = random_features(d, std::type_identity<Features>{});
        Features f3;
        for (auto* f : {&f1, &f2}) {
            if constexpr (requires { f->software_accessed; }) f->software_accessed = {};
            if (f->levels < 4) f->levels = 4;
            f->physical_bits = static_cast<unsigned>(40 + d.below(13));
        }
        f3.physical_bits = f2.physical_bits;
        f3.gigabyte_pages = d.one_in(2);
        f3.levels = f1.levels;
        if constexpr (requires { f3.mode_based_execute; }) f3.mode_based_execute = d.one_in(2);
        if constexpr (requires { f3.guest_mode_execute_trap; }) f3.guest_mode_execute_trap = d.one_in(2);
        const auto first = format_for(f1);
        const auto second = format_for(f2);
        const auto target = format_for(f3);
        if (first->wrong().what != defect::none || second->wrong().what != defect::none) continue;

        arena memory{base, 24};
        const word roots[] = {base, base + 10 * page_bytes};
        builder b1{memory, roots[0] + page_bytes};
        builder b2{memory, roots[1] + page_bytes};
        const unsigned level_1 = random_leaf_level(d, first);
        const unsigned shift_1 = first->shape().page_shift(level_1);
        const word address = d.bits() & ones(first->shape().address_bits() - 1, 0);
        const word between = first->layout_at(level_1, kind::leaf).address_in(d.bits() & ones(38, shift_1));
        word leaf_1 = random_entry(d, first, kind::leaf, level_1, between, random_type(d, first, level_1));
        const bool dirty = !d.one_in(3);
        if (dirty) leaf_1 |= first->dirty.mask();
        b1.map(first, roots[0], address, level_1, leaf_1, &d, 5);
        const unsigned level_2 = random_leaf_level(d, second);
        const unsigned shift_2 = second->shape().page_shift(level_2);
        const word middle = between | (address & ones(shift_1 - 1, 0));
        const word place =
            second->layout_at(level_2, kind::leaf).address_in(d.bits() & ones(f2.physical_bits - 1, shift_2));
        b2.map(second, roots[1], middle, level_2,
               random_entry(d, second, kind::leaf, level_2, place, random_type(d, second, level_2)), &d, 5);

        const auto two_walks = [&](const asked& a, walk_result& one, walk_result& two) {
            one = walk(first, roots[0], address, a, {}, memory, update_flags::no);
            if (!one) return false;
            two = walk(second, roots[1], one.address, a, {}, memory, update_flags::no);
            return static_cast<bool>(two);
        };
        walk_result one;
        walk_result two;
        bool any = false;
        for_each_access([&](const asked& a) { any = any || two_walks(a, one, two); });
        if (!any) continue;
        const combine_options o{.first_pat = random_pat(d),
                                .second_pat = random_pat(d),
                                .target_pat = every_pat_type,
                                .wait_for_dirty = d.one_in(2)};
        const combined_leaf leaf = combine(one, first, two, second, target, o);
        ++seen.errors[static_cast<unsigned>(leaf.error)];
        if constexpr (std::is_same_v<Features, ept_features>) {
            const bool pat_counts = !ept_type(one, first).ignore_pat && !ept_type(two, second).ignore_pat;
            CHECK((leaf.error != combine_error::memory_type || pat_counts));
        }
        if (!leaf) continue;
        ++seen.made;
        seen.large += leaf.level > 1;
        CHECK(target->shape().page_shift(leaf.level) <= min_of(shift_1, shift_2));
        one_leaf<std::remove_const_t<decltype(target)>> both(target, address, leaf);
        for_each_access([&](const asked& a) {
            walk_result x;
            walk_result y;
            const bool allowed = two_walks(a, x, y);
            const walk_result r = both.walked(address, a);
            const bool waits = a.writes() && o.wait_for_dirty && !dirty && first->dirty.exists();
            CHECK(static_cast<bool>(r) == (allowed && !waits));
            if (!r) return;
            CHECK(r.address == y.address);
            seen.writable += a.writes();
        });
        const walk_result r = both.walked(
            address, {.what = readable(leaf.entry, target, leaf.level) ? operation::read : operation::fetch});
        for (const memory_type guest : {memory_type::uc, memory_type::wc, memory_type::wt, memory_type::wp,
                                        memory_type::wb, memory_type::uc_minus}) {
            if constexpr (std::is_same_v<Features, ept_features>) {
                const memory_type through_first = effective_type(ept_type(one, first), guest);
                CHECK(effective_type(ept_type(r, target), guest) ==
                      effective_type(ept_type(two, second), through_first));
            } else {
                const memory_type of_first = pat_type(o.first_pat, pat_index(one, first));
                const memory_type of_second = pat_type(o.second_pat, pat_index(two, second));
                const memory_type of_target = pat_type(o.target_pat, pat_index(r, target));
                CHECK(combined_pat_type(guest, of_target) ==
                      combined_pat_type(combined_pat_type(guest, of_first), of_second));
            }
        }
    }
    CAPTURE(seen.errors[3]);
    CAPTURE(seen.errors[5]);
    CAPTURE(seen.errors[6]);
    CHECK(seen.made > 200);
    CHECK(seen.writable > 100);
    CHECK(seen.large > 20);
}

}  // namespace

TEST_CASE("a shadow entry allows what a guest's tables and EPT allow together") { check_shadows<ept_features>(1); }
TEST_CASE("a shadow entry allows what a guest's tables and NPT allow together") { check_shadows<npt_features>(2); }
TEST_CASE("a shadow entry of an unpaged guest")
{
    check_unpaged<ept_features>(3);
    check_unpaged<npt_features>(4);
}
TEST_CASE("an EPT entry does what two stages of EPT do") { check_nested<ept_features>(5); }
TEST_CASE("an NPT entry does what two stages of NPT do") { check_nested<npt_features>(6); }

namespace {

constexpr auto small_guest = shadow<shadow_features{}>;
constexpr auto small_host = ept<ept_features{}>;

/// Where a guest's walk ended at a 4-Kbyte leaf: guest-physical 7123.
walk_result guest_page(word leaf, const permissions& allowed = {})
{
    walk_result r;
    r.address = 0x7123;
    r.path[0] = {0, leaf};
    r.steps = r.level = r.top_level = 1;
    r.page_shift = 12;
    r.bits = leaf & 0x98;
    r.allowed = allowed;
    return r;
}

/// Where the host's walk of that address ended: physical 9123.
walk_result host_page(word leaf = 0x9037, const permissions& allowed = {})
{
    walk_result r = guest_page(leaf, allowed);
    r.address = 0x9123;
    r.bits = leaf & 0x78;
    return r;
}

combined_leaf shadow_leaf(const walk_result& guest, const walk_result& host, const combine_options& o = {},
                          const field_values& also = {})
{
    return combine(guest, small_guest, host, small_host, small_guest, o, also);
}

}  // namespace

TEST_CASE("a shadow entry after a nested walk")
{
    constexpr auto guest = long_mode;
    constexpr auto host = ept<ept_features{}>;
    constexpr auto target = shadow<shadow_features{}>;
    arena memory(0x1000, 7);
    constexpr word guest_root = 0x1000;
    constexpr word host_root = 0x5000;
    memory.put<word>(0x1000, 0x2067);
    memory.put<word>(0x2000, 0x3067);
    memory.put<word>(0x3000, 0x4067);
    memory.put<word>(0x4000, 0x7027);  // clean
    memory.put<word>(0x5000, 0x6007);
    memory.put<word>(0x6000, 0xb7);  // 1 Gbyte
    constexpr word address = 0x123;
    constexpr cpu_controls cpu{};
    const asked access = user_read;

    const auto walks = nested_walk(guest, guest_root, host, host_root, address, access, cpu, memory);
    const combined_leaf leaf = combine(walks, guest, host, target, {.written = access.writes(), .cpu = cpu});
    CHECK(leaf);
    CHECK(leaf.level == 1);
    CHECK(leaf.entry == 0x7005);  // not writable: the guest's page is clean
}

TEST_CASE("a clean page is not writable, until a walk has set D")
{
    const walk_result clean = guest_page(0x7027);
    CHECK(shadow_leaf(guest_page(0x7067), host_page()).entry == 0x9007);
    CHECK(shadow_leaf(clean, host_page()).entry == 0x9005);
    CHECK(shadow_leaf(clean, host_page(), {.written = true}).entry == 0x9007);
    CHECK(shadow_leaf(clean, host_page(), {.wait_for_dirty = false}).entry == 0x9007);
    // A clean page that the guest's supervisor may write by CR0.WP = 0 is not taken from user mode yet.
    const walk_result read_only = guest_page(0x7025, {.write = false});
    combine_options o{.cpu = {.write_protect = false, .smep = true}, .writable_for_supervisor = true};
    CHECK(shadow_leaf(read_only, host_page(), o).entry == 0x9005);
    o.written = true;
    CHECK(shadow_leaf(read_only, host_page(), o).entry == (word{1} << 63 | 0x9003));
    CHECK(shadow_leaf(read_only, host_page(0x9035, {.write = false}), o).entry == 0x9005);
    o.cpu.smep = false;
    CHECK(shadow_leaf(read_only, host_page(), o).entry == 0x9003);
    o.cpu.smap = true;
    CHECK(shadow_leaf(read_only, host_page(), o).error == combine_error::rights);
}

TEST_CASE("software bits, G and the memory type of one entry")
{
    CHECK(shadow_leaf(guest_page(0x7067), host_page(), {}, small_guest->global).entry == 0x9107);
    CHECK(shadow_leaf(guest_page(0x7167), host_page()).entry == 0x9007);
    CHECK(shadow_leaf(guest_page(0x7167), host_page(), {.keep_global = true}).entry == 0x9107);
    const field_values software{0xe00, every};
    CHECK(shadow_leaf(guest_page(0x7067), host_page(), {}, software).entry == 0x9e07);
    // Index 3 of the guest is UC; in the target UC has index 0.
    CHECK(shadow_leaf(guest_page(0x707f), host_page()).entry == 0x901f);
    CHECK(shadow_leaf(guest_page(0x707f), host_page(), {.target_pat = 0x0604'0000'0706'0500}).entry == 0x9007);
    CHECK(shadow_leaf(guest_page(0x707f), host_page(0x9077)).entry == 0x9007);  // EPT: WB, the PAT is ignored

    constexpr auto keys = shadow<shadow_features{.user_keys = true}>;
    const word key = word{5} << 59;
    CHECK(combine(guest_page(0x7067 | key), keys, host_page(), small_host, keys).entry == (0x9007 | key));
    constexpr auto amd = npt<npt_features{}>;
    walk_result nested = host_page(0x9007);
    nested.bits = 0;
    const combine_options wc{.first_pat = 0x0707'0707'0707'0701, .target_pat = 0x0000'0000'0104'0706};
    CHECK(combine(guest_page(0x7067), small_guest, nested, amd, small_guest, wc).entry == 0x901f);  // WC+ is WC
}

TEST_CASE("why two stages make no entry")
{
    const walk_result page = guest_page(0x7067);
    walk_result fault = page;
    fault.fault = fault_kind::protection;
    const auto error = [](const walk_result& guest, const walk_result& host, const combine_options& o = {}) {
        return shadow_leaf(guest, host, o).error;
    };
    CHECK(error(fault, host_page()) == combine_error::first_walk);
    CHECK(error({}, host_page()) == combine_error::first_walk);
    CHECK(error(page, fault) == combine_error::second_walk);
    CHECK(error(page, {}) == combine_error::second_walk);
    CHECK(error(page, host_page(), {.target_pat = 0}) == combine_error::memory_type);
    CHECK(error(page, host_page(), {.first_pat = 2, .target_pat = 2}) == combine_error::memory_type);

    combined_leaf leaf = shadow_leaf(page, host_page(0x9034, {.read = false, .write = false}));
    CHECK(leaf.error == combine_error::entry);  // ordinary paging cannot deny reads alone
    CHECK(leaf.encoding == encode_error::permission_not_offered);
    leaf = shadow_leaf(page, host_page(), {}, small_guest->pat_large);
    CHECK(leaf.error == combine_error::entry);
    CHECK(leaf.encoding == encode_error::no_such_field);
    constexpr auto narrow = shadow<shadow_features{.physical_bits = 36}>;
    walk_result far = host_page();
    far.address = word{1} << 40;
    leaf = combine(page, small_guest, far, small_host, narrow);
    CHECK(leaf.error == combine_error::entry);
    CHECK(leaf.encoding == encode_error::address_too_wide);
    leaf = combine(page, small_guest, host_page(), small_host, format_for(shadow_features{.levels = 6}));
    CHECK(leaf.encoding == encode_error::no_such_entry);

    // User mode may execute what the supervisor may not, and one XD bit cannot say so.
    constexpr auto apart = npt<npt_features{.guest_mode_execute_trap = true}>;
    walk_result trapped = host_page(0x9007, {.execute = false, .user_execute = true});
    trapped.bits = 0;
    CHECK(combine(page, small_guest, trapped, apart, small_guest).error == combine_error::rights);
    const walk_result supervisor_page = guest_page(0x7063, {.user = false, .user_execute = false});
    CHECK(combine(supervisor_page, small_guest, trapped, apart, small_guest).entry == (word{1} << 63 | 0x9003));

    constexpr auto keys = shadow<shadow_features{.user_keys = true}>;
    CHECK(combine(page, keys, host_page(), small_host, small_guest).error == combine_error::protection_key);

    constexpr auto verified = ept<ept_features{.verify_guest_paging = true}>;
    const walk_result vgp = host_page(word{1} << 57 | 0x9037);
    CHECK(combine(page, small_guest, vgp, verified, small_guest).error == combine_error::rights);
    CHECK(combine(page, small_guest, host_page(), verified, small_guest));

    // WP under WC: a guest's UC- is WC and its WB is UC, as under no type of one stage.
    const walk_result wc = host_page(0x900f);
    CHECK(combine(host_page(0x922f), small_host, wc, small_host, small_host).error == combine_error::memory_type);
    CHECK(combine(host_page(0x926f), small_host, wc, small_host, small_host).entry == 0x9047);  // one type, UC
    CHECK(combine(host_page(0x9237, no_permissions), small_host, wc, small_host, small_host).error ==
          combine_error::rights);
}

TEST_CASE("the memory that a page lies in, and whose keys are asked")
{
    constexpr word c_bit = word{1} << 47;
    constexpr auto sev = npt<npt_features{.encryption_bit = 47}>;
    constexpr auto target = shadow<shadow_features{.encryption_bit = 47}>;
    const walk_result page = guest_page(0x7067);
    walk_result encrypted = host_page(c_bit | 0x9067);
    encrypted.bits = 0;
    const combined_leaf leaf = combine(page, small_guest, encrypted, sev, target);
    CHECK(leaf);
    CHECK((leaf.entry & c_bit) != 0);
    CHECK(combine(page, small_guest, encrypted, sev, small_guest).error == combine_error::encryption);
    walk_result plain = host_page(0x9067);
    plain.bits = 0;
    CHECK((combine(page, small_guest, plain, sev, target).entry & c_bit) == 0);
    constexpr auto keyed = ept<ept_features{.key_id_bits = {51, 48}}>;
    const walk_result of_key_5 = host_page(word{5} << 48 | 0x9037);
    constexpr auto keyed_target = shadow<shadow_features{.key_id_bits = {51, 48}}>;
    CHECK(keyed_target->key_id.get(combine(page, small_guest, of_key_5, keyed, keyed_target).entry) == 5);
    CHECK(combine(page, small_guest, of_key_5, keyed, small_guest).error == combine_error::encryption);

    // A supervisor page's key counts where the guest has supervisor keys.
    constexpr auto user_keys = shadow<shadow_features{.user_keys = true}>;
    constexpr auto both_keys = shadow<shadow_features{.user_keys = true, .supervisor_keys = true}>;
    const walk_result supervisors = guest_page(word{5} << 59 | 0x7063, {.user = false, .user_execute = false});
    CHECK(both_keys->protection_key.get(combine(supervisors, user_keys, host_page(), small_host, both_keys).entry) ==
          0);
    CHECK(both_keys->protection_key.get(combine(supervisors, both_keys, host_page(), small_host, both_keys).entry) ==
          5);
}
