// Slot operations and hardware in every order: nothing that hardware sets is lost, no
// permission is lost or invented.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ptebits/ptebits.hpp>
#include <type_traits>
#include <vector>

#include "explorer.hpp"

using namespace ptebits;

namespace {

constexpr auto host = ept<ept_features{}>;
constexpr auto no_ad = ept<ept_features{.accessed_dirty = false}>;
constexpr auto tracking = track_accesses<54>(no_ad);

constexpr std::uint64_t page = 0x1030;
constexpr std::uint64_t rwx = 0x7;
constexpr std::uint64_t a = 0x100;
constexpr std::uint64_t d = 0x200;

// What the MMU does on an access: looks, and sets A and D by locked operations.
struct hardware {
    int set_accessed = 0;  // transitions from clear to set
    int set_dirty = 0;
    bool wrote = false;

    template <class Access>
    void access(std::uint64_t& slot, bool write, Access by)
    {
        std::uint64_t entry = by.load(slot);
        for (;;) {
            if ((entry & (write ? 0x2U : 0x1U)) == 0) return;  // a fault
            const std::uint64_t wanted = entry | a | (write ? d : 0);
            if (wanted == entry || by.compare_exchange(slot, entry, wanted)) {
                set_accessed += (wanted & ~entry & a) != 0;
                set_dirty += (wanted & ~entry & d) != 0;
                wrote = wrote || write;
                return;
            }
        }
    }
};

struct one_slot {
    std::uint64_t slot = 0;
    std::uint64_t unmapped = 0;
    hardware mmu;
    int young = 0;
    int harvested = 0;
    int restored = 0;
    bool frozen = false;
};

// A and D that hardware set, against those that were found and those still there.
bool conserved(const one_slot& s, std::uint64_t before)
{
    const std::uint64_t left = s.slot | s.unmapped;
    const int accessed = s.mmu.set_accessed + ((before & a) != 0) - ((left & a) != 0);
    const int dirty = s.mmu.set_dirty + ((before & d) != 0) - ((left & d) != 0);
    return s.young == accessed && s.harvested == dirty;
}

template <class Access>
exploration age_harvest_and_write(std::uint64_t before)
{
    one_slot s;
    return explore(
        [&] {
            s = {};
            s.slot = before;
        },
        {[&](turnstile& t) { s.young += age(s.slot, host, Access(t)); },
         [&](turnstile& t) { s.harvested += harvest_dirty(s.slot, host, Access(t)); },
         [&](turnstile& t) { s.mmu.access(s.slot, true, stepping_access(t)); }},
        [&] { return conserved(s, before) && s.mmu.wrote && (s.slot & ~(a | d)) == (page | rwx); });
}

}  // namespace

TEST_CASE("age, harvest and a write of the hardware: no A, no D is lost")
{
    for (const std::uint64_t flags : {std::uint64_t{0}, a, d, a | d}) {
        const exploration e = age_harvest_and_write<stepping_access>(page | rwx | flags);
        CHECK(e.orders > 10);
        CHECK(e.violations == 0);
    }
}

TEST_CASE("the explorer finds the lost bit of a load, a change and a store")
{
    const exploration e = age_harvest_and_write<torn_access>(page | rwx | a | d);
    CHECK(e.violations > 0);
}

TEST_CASE("two reclaimers and a read: one of them finds each A")
{
    one_slot s;
    const std::uint64_t before = page | rwx | a;
    const auto age_it = [&](turnstile& t) { s.young += age(s.slot, host, stepping_access(t)); };
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = before;
        },
        {age_it, age_it, [&](turnstile& t) { s.mmu.access(s.slot, false, stepping_access(t)); }},
        [&] { return conserved(s, before) && (s.slot & ~a) == (page | rwx); });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("unmapping returns the D of every write that got through, and mark_accessed marks no hole")
{
    one_slot s;
    const std::uint64_t before = page | rwx;
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = before;
        },
        {[&](turnstile& t) { s.unmapped = unmap(s.slot, host, 0, stepping_access(t)); },
         [&](turnstile& t) { s.mmu.access(s.slot, true, stepping_access(t)); },
         [&](turnstile& t) { mark_accessed(s.slot, host, stepping_access(t)); }},
        [&] { return s.slot == 0 && s.mmu.wrote == ((s.unmapped & d) != 0) && (s.unmapped & ~(a | d)) == before; });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("the explorer finds a D lost by unmapping with a load and a store")
{
    one_slot s;
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = page | rwx;
        },
        {[&](turnstile& t) { s.unmapped = unmap(s.slot, host, 0, torn_access(t)); },
         [&](turnstile& t) { s.mmu.access(s.slot, true, stepping_access(t)); }},
        [&] { return s.mmu.wrote == ((s.unmapped & d) != 0); });
    CHECK(e.violations > 0);
}

namespace {

bool tracked_now(track_result r) { return r == track_result::tracked || r == track_result::tracked_writable; }

// R and X are in place or kept aside, never both or neither; W is there until it is taken.
template <class Access>
exploration track_restore_and_protect()
{
    one_slot s;
    return explore(
        [&] {
            s = {};
            s.slot = page | rwx;
        },
        {[&](turnstile& t) { s.young += tracked_now(track(s.slot, tracking, Access(t))); },
         [&](turnstile& t) { s.restored += restore(s.slot, tracking, Access(t)); },
         [&](turnstile& t) { s.harvested += write_protect(s.slot, no_ad, Access(t)); }},
        [&] {
            const bool tracked = is_tracked(s.slot, tracking);
            const bool aside = (s.slot & 0x7) == 0 && (s.slot & tracking.saved_mask()) == std::uint64_t{5} << 54;
            // W is in place, recorded, or was found by the one that took it.
            const bool recorded = (s.slot & tracking.record_mask()) != 0;
            const bool in_place = (s.slot & 0x5) == 0x5 && (s.slot & tracking.saved_mask()) == 0;
            const bool writable = (s.slot & 0x2) != 0;
            return (tracked ? aside : in_place) && tracked == (s.young - s.restored == 1) &&
                   writable + recorded + s.harvested == 1 &&
                   (s.slot & ~(tracking.saved_mask() | tracking.record_mask() | rwx)) == page;
        });
}

}  // namespace

TEST_CASE("tracking, restoring and write-protecting: no permission is lost or invented")
{
    const exploration e = track_restore_and_protect<stepping_access>();
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("ageing by tracking, restoring and harvesting: the write is found once")
{
    one_slot s;
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = page | rwx;
        },
        {[&](turnstile& t) { s.young += age(s.slot, tracking, stepping_access(t)); },
         [&](turnstile& t) { s.restored += restore(s.slot, tracking, stepping_access(t)); },
         [&](turnstile& t) { s.harvested += harvest_dirty(s.slot, tracking, stepping_access(t)); }},
        [&] { return s.harvested == 1 && !dirty(s.slot, tracking); });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("where shadow stacks are, W and D are taken together: no order leaves a page of a shadow stack")
{
    constexpr auto format = shadow<shadow_features{.shadow_stacks = true}>;
    one_slot s;
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = 0x1007;
        },
        {[&](turnstile& t) { s.harvested += write_protect(s.slot, format, stepping_access(t)); },
         [&](turnstile& t) { s.young += mark_dirty(s.slot, format, stepping_access(t)); },
         [&](turnstile& t) {
             // The MMU writes where W is set, and sets A and D.
             const stepping_access by(t);
             std::uint64_t entry = by.load(s.slot);
             while ((entry & 0x2) != 0 && !s.mmu.wrote) s.mmu.wrote = by.compare_exchange(s.slot, entry, entry | 0x60);
         }},
        [&] { return s.harvested == 1 && (s.slot & ~std::uint64_t{0x20}) == 0x1005; });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("mark_dirty against unmapping: no hole is marked, and a mark is not lost")
{
    one_slot s;
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = page | rwx;
        },
        {[&](turnstile& t) { s.unmapped = unmap(s.slot, host, 0, stepping_access(t)); },
         [&](turnstile& t) { s.young += mark_dirty(s.slot, host, stepping_access(t)); },
         [&](turnstile& t) { s.harvested += harvest_dirty(s.slot, host, stepping_access(t)); }},
        [&] { return s.slot == 0 && s.young == s.harvested + ((s.unmapped & d) != 0); });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("the explorer finds the permission lost by a blind change")
{
    CHECK(track_restore_and_protect<torn_access>().violations > 0);
}

TEST_CASE("two who track and one who restores")
{
    one_slot s;
    const auto age_it = [&](turnstile& t) { s.young += age(s.slot, tracking, stepping_access(t)); };
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = page | rwx;
        },
        {age_it, age_it, [&](turnstile& t) { s.restored += restore(s.slot, tracking, stepping_access(t)); }},
        [&] {
            const std::uint64_t record = tracking.record_mask();
            const std::uint64_t saved = page | std::uint64_t{5} << 54 | record;
            return s.slot == saved || s.slot == (page | 0x5 | record);
        });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("tracking and restoring where #VE is suppressed: bit 63 is kept, whoever comes between")
{
    constexpr auto format = ept<ept_features{.accessed_dirty = false, .suppress_ve = true}>;
    constexpr auto aside = track_accesses<54>(format);
    for (const std::uint64_t suppress : {std::uint64_t{0}, std::uint64_t{1} << 63}) {
        one_slot s;
        const exploration e = explore(
            [&] {
                s = {};
                s.slot = page | rwx | suppress;
            },
            {[&](turnstile& t) { s.young += tracked_now(track(s.slot, aside, stepping_access(t))); },
             [&](turnstile& t) { s.restored += restore(s.slot, aside, stepping_access(t)); },
             [&](turnstile& t) { s.harvested += write_protect(s.slot, format, stepping_access(t)); }},
            [&] {
                const std::uint64_t kept = suppress >> 6;
                const std::uint64_t record = s.young != 0 && s.harvested == 0 ? aside.record_mask() : 0;
                const std::uint64_t tracked = page | std::uint64_t{0x8140} << 48 | kept;
                const std::uint64_t write = s.young == 0 && s.harvested == 0 ? 0x2 : 0;
                return s.slot == (record | (s.young - s.restored == 1 ? tracked : page | 0x5 | write | suppress));
            });
        CHECK(e.orders > 10);
        CHECK(e.violations == 0);
    }
}

TEST_CASE("tracking a format with A and D: what hardware sets meanwhile stays in the tracked entry")
{
    constexpr auto format = shadow<shadow_features{}>;
    constexpr auto aside = track_accesses<52>(format);
    one_slot s;
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = 0x1007;
        },
        {[&](turnstile& t) { s.young += tracked_now(track(s.slot, aside, stepping_access(t))); },
         [&](turnstile& t) { s.restored += restore(s.slot, aside, stepping_access(t)); },
         [&](turnstile& t) {
             // The MMU writes where P and W are set, and sets A and D.
             const stepping_access by(t);
             std::uint64_t entry = by.load(s.slot);
             while ((entry & 0x3) == 0x3 && !s.mmu.wrote) {
                 s.mmu.wrote = by.compare_exchange(s.slot, entry, entry | 0x60);
             }
         }},
        [&] {
            const std::uint64_t flags = s.mmu.wrote ? 0x60 : 0;
            const bool tracked = s.young - s.restored == 1;
            const std::uint64_t expected = tracked ? 0x0010'0000'0000'1004 : s.young != 0 ? 0x1005U : 0x1007U;
            return s.slot == (expected | flags);
        });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("a page that is converted keeps the A and D that hardware sets meanwhile")
{
    constexpr auto format = npt<npt_features{.encryption_bit = 47}>;
    one_slot s;
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = 0x1007;
        },
        {[&](turnstile& t) { s.young += convert_to_private(s.slot, 1, format, stepping_access(t)); },
         [&](turnstile& t) { s.harvested += write_protect(s.slot, format, stepping_access(t)); },
         [&](turnstile& t) {
             // The MMU writes where P and W are set, and sets A and D.
             const stepping_access by(t);
             std::uint64_t entry = by.load(s.slot);
             while ((entry & 0x3) == 0x3 && !s.mmu.wrote) {
                 s.mmu.wrote = by.compare_exchange(s.slot, entry, entry | 0x60);
             }
         }},
        [&] {
            return s.young == 1 && s.harvested == 1 &&
                   s.slot == (0x8000'0000'1005 | (s.mmu.wrote ? std::uint64_t{0x60} : 0));
        });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("a leaf that is taken away to be split was written before or not at all")
{
    one_slot s;
    taken_entry<std::uint64_t> taken;
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = 0x20'00b7;
        },
        {[&](turnstile& t) { taken = begin_split(s.slot, 2, host, stepping_access(t)); },
         [&](turnstile& t) { s.young += age(s.slot, host, stepping_access(t)); },
         [&](turnstile& t) { s.mmu.access(s.slot, true, stepping_access(t)); }},
        [&] {
            const bool kept = s.mmu.wrote == ((taken.before & d) != 0);
            return s.slot == host->empty() && kept && (taken.before & ~(a | d)) == 0x20'00b7;
        });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("nobody changes a frozen entry, and what was frozen kept its A and D")
{
    constexpr auto marker = frozen_marker<0x8000'0000'0000'0400>(host);
    one_slot s;
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = page | rwx;
        },
        {[&](turnstile& t) {
             const stepping_access by(t);
             std::uint64_t expected = load(s.slot, by);
             while (!s.frozen) {
                 s.frozen = freeze(s.slot, expected, marker, by);
                 if (s.frozen) s.unmapped = expected;
             }
         },
         [&](turnstile& t) { s.young += age(s.slot, host, stepping_access(t)); },
         [&](turnstile& t) { s.mmu.access(s.slot, true, stepping_access(t)); }},
        [&] {
            const bool kept = s.mmu.wrote == ((s.unmapped & d) != 0);
            return is_frozen(s.slot, marker) && kept && (s.unmapped & ~(a | d)) == (page | rwx);
        });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

// ---- trees

namespace {

// Tables of two slots, two levels: four pages, so that few steps come to every place.
struct tiny_description;
struct tiny_features {
    using description = tiny_description;
    unsigned physical_bits = 46;
};
struct tiny_fields {
    entry_field present, write, large;
};
struct tiny_description {
    using features = tiny_features;
    using fields = tiny_fields;

    static constexpr row<features, fields> rows[] = {
        {"P", bit(0), every, is(1), &fields::present},
        {"W", bit(1), leaves, role::write, &fields::write},
        {"", bit(1), tables, role::software},
        {"", bits(4, 2), every, role::software},
        {"A", bit(5), every, role::accessed},
        {"D", bit(6), leaves, role::dirty},
        {"", bit(6), tables, role::software},
        {"", bit(7), leaf_at(1), role::software},
        {"L", bit(7), leaf_at(2), is(1), &fields::large},
        {"L", bit(7), table_at(2), is(0), &fields::large},
        {"", bits(11, 8), every, role::software},
        {"", bits(51, 12), every, role::address},
        {"", bits(63, 52), every, role::software},
    };
    static constexpr dimensions shape_of(const features&) { return {.levels = 2, .index_bits = {1, 1}}; }
    static constexpr entries entries_of(const features&) { return leaves_up_to(2) | tables_up_to(2); }
};
constexpr constant_format<tiny_description, tiny_features{}> tiny{};
constexpr auto tiny_marker = frozen_marker<0x400>(tiny);
constexpr std::uint64_t tiny_a = 0x20;
constexpr std::uint64_t tiny_d = 0x40;
constexpr std::uint64_t tiny_write = 0x2;

// What the programs share: tables, who reads, what was found.
struct tiny_world {
    static constexpr std::uint64_t base = 0x10'0000;  // of the tables; the first is the root
    static constexpr unsigned tables = 5;
    static constexpr std::uint64_t poison = ~std::uint64_t{0};

    std::array<std::uint64_t, std::size_t{2} * tables> slots{};
    std::array<bool, tables> used{};
    std::array<bool, tables> linked{};
    std::vector<const std::uint64_t*> constant;  // slots that no program changes: to read them is no step
    std::array<bool, 3> inside{};
    struct waiting_table {
        unsigned number;
        std::array<bool, 3> for_those;
    };
    std::vector<waiting_table> limbo;
    std::array<bool, 3> waited_for{};
    std::vector<taken_page> taken;
    std::vector<taken_page> changed;
    std::array<tree_result, 3> results;
    unsigned wrong = 0;  // a slot of a table that is not in use was read or written, or one that is constant changed
    bool impossible = false;

    [[nodiscard]] static unsigned table_of(std::uint64_t physical)
    {
        return static_cast<unsigned>((physical - base) >> 12);
    }
    [[nodiscard]] std::uint64_t* at(std::uint64_t physical)
    {
        const unsigned n = table_of(physical);
        return n < tables ? &slots[std::size_t{2} * n + (physical >> 3 & 1)] : nullptr;
    }
    [[nodiscard]] unsigned holds(const std::uint64_t* slot) const
    {
        return static_cast<unsigned>((slot - slots.data()) / 2);
    }
    // A table of a number, linked or the root, with these entries.
    void put(unsigned number, std::uint64_t first, std::uint64_t second)
    {
        slots[std::size_t{2} * number] = first;
        slots[std::size_t{2} * number + 1] = second;
        used[number] = linked[number] = true;
    }
    [[nodiscard]] unsigned in_use() const { return static_cast<unsigned>(std::count(used.begin(), used.end(), true)); }

    void give_back(unsigned number)
    {
        used[number] = linked[number] = false;
        slots[std::size_t{2} * number] = slots[std::size_t{2} * number + 1] = poison;
    }
    void left(unsigned who)
    {
        inside[who] = waited_for[who] = false;
        for (waiting_table& w : limbo) {
            const bool waits = w.for_those != std::array<bool, 3>{};
            w.for_those[who] = false;
            if (waits && w.for_those == std::array<bool, 3>{}) give_back(w.number);
        }
    }
    // Whether all tables that are in use are linked: none leaked.
    [[nodiscard]] bool all_reachable() const
    {
        std::array<bool, tables> reached{};
        reached[0] = true;
        for (const std::uint64_t entry : {slots[0], slots[1]}) {
            if (kind_of(entry, 2, tiny) == kind::table) reached[table_of(entry & ~std::uint64_t{0xfff})] = true;
        }
        return reached == used;
    }
};

// Steps of accesses to slots that others may see at that moment. Slots of a table that is not linked, and those that
// nobody changes, are no steps: their order does not matter.
template <class Base>
struct tree_steps : Base {
    tiny_world* world;

    tree_steps(turnstile& t, tiny_world& w) : Base(t), world(&w) {}

    template <class Word>
    [[nodiscard]] Word load(const Word& slot) const
    {
        const bool quiet = hidden(slot) || is_constant(slot);
        const Word value = quiet ? plain_access::load(slot) : Base::load(slot);
        look(slot);
        return value;
    }
    template <class Word>
    void store(Word& slot, Word value) const
    {
        if (hidden(slot)) {
            plain_access::store(slot, value);
        } else {
            Base::store(slot, value);
            change(slot, value);
        }
        look(slot);
    }
    template <class Word>
    Word exchange(Word& slot, Word value) const
    {
        const Word old = Base::exchange(slot, value);
        change(slot, value);
        look(slot);
        return old;
    }
    template <class Word>
    bool compare_exchange(Word& slot, Word& expected, Word desired) const
    {
        const bool done = Base::compare_exchange(slot, expected, desired);
        if (done) change(slot, desired);
        look(slot);
        return done;
    }

private:
    [[nodiscard]] bool hidden(const std::uint64_t& slot) const { return !world->linked[world->holds(&slot)]; }
    [[nodiscard]] bool is_constant(const std::uint64_t& slot) const
    {
        return std::find(world->constant.begin(), world->constant.end(), &slot) != world->constant.end();
    }
    void look(const std::uint64_t& slot) const { world->wrong += !world->used[world->holds(&slot)]; }
    void change(const std::uint64_t& slot, std::uint64_t value) const
    {
        world->wrong += is_constant(slot);
        const unsigned table = tiny_world::table_of(value & ~std::uint64_t{0xfff});
        if ((value & 1) != 0 && table < tiny_world::tables) world->linked[table] = true;
    }
};

struct tiny_memory {
    tiny_world* world;
    [[nodiscard]] std::uint64_t* operator()(std::uint64_t physical) const { return world->at(physical); }
};
struct tiny_allocator {
    tiny_world* world;
    turnstile* at;  // null: where tables stay, nobody else has a table that is given back
    [[nodiscard]] optional_address allocate(unsigned) const
    {
        if (at != nullptr) at->wait();
        for (unsigned n = 0; n < tiny_world::tables; ++n) {
            if (world->used[n]) continue;
            world->used[n] = true;
            return tiny_world::base + (std::uint64_t{n} << 12);
        }
        return {};
    }
    void release(std::uint64_t table, unsigned) const
    {
        const unsigned n = tiny_world::table_of(table);
        world->wrong += !world->used[n];
        if (world->linked[n] && world->waited_for != std::array<bool, 3>{}) {
            world->limbo.push_back({n, world->waited_for});
        } else {
            world->give_back(n);
        }
    }
};
// The one who waits does not block here: what it waits for is done when the last one has left.
struct tiny_readers {
    tiny_world* world;
    turnstile* at;
    unsigned self;
    void enter() const
    {
        at->wait();
        world->inside[self] = true;
    }
    void leave() const
    {
        at->wait();
        world->left(self);
    }
    void wait() const
    {
        at->wait();
        world->waited_for = world->inside;
    }
};

template <class Steps, class Readers>
using tiny_tree = tree<std::remove_cv_t<decltype(tiny)>, tiny_memory, tiny_allocator,
                       shared<std::remove_cv_t<decltype(tiny_marker)>, Readers>, tree_steps<Steps>>;

// A program's own handle of the tree. Tables stay, or go.
template <class Steps = stepping_access>
[[nodiscard]] auto staying(tiny_world& w, turnstile& t)
{
    using tree_type = tiny_tree<Steps, tables_stay>;
    return tree_type{tiny, tiny_world::base, {&w}, {&w, nullptr}, {tiny_marker, {}}, {}, tree_steps<Steps>(t, w)};
}
[[nodiscard]] auto freeing(tiny_world& w, turnstile& t, unsigned self)
{
    using tree_type = tiny_tree<stepping_access, tiny_readers>;
    const tree_steps<stepping_access> steps(t, w);
    return tree_type{tiny, tiny_world::base, {&w}, {&w, &t}, {tiny_marker, {&w, &t, self}}, {}, steps};
}

constexpr inclusive_range tiny_pages(std::uint64_t first, std::uint64_t count)
{
    return {first << 12, ((first + count) << 12) - 1};
}
constexpr std::uint64_t tiny_leaf(std::uint64_t physical) { return physical | tiny_write | 1; }
constexpr std::uint64_t tiny_table(unsigned number) { return tiny_world::base + (std::uint64_t{number} << 12) + 1; }
constexpr std::uint64_t tiny_large = 0x80'4000 | tiny_write | 0x80 | 1;

// A CPU: walks by steps, then uses what it found, which a flush in between would take from it.
struct tiny_cpu {
    bool flushed = false;  // by another program: then the begin and the end of a walk are steps too
    bool walking = false;
    std::uint64_t page = 0;  // what it may use
    bool wrote = false;
    bool used_gone = false;

    void access(tiny_world& w, turnstile& t, std::uint64_t address, bool write)
    {
        const stepping_access by(t);
        std::uint64_t* slot = &w.slots[address >> 13 & 1];
        if (flushed) t.wait();
        walking = true;
        std::uint64_t entry = load_of(w, by, *slot);
        if (kind_of(entry, 2, tiny) == kind::table) {
            slot = w.at((entry & ~std::uint64_t{0xfff}) + (address >> 9 & 8));
            entry = load_of(w, by, *slot);
        }
        while ((entry & 1) != 0 && (!write || (entry & tiny_write) != 0)) {
            const std::uint64_t wanted = entry | tiny_a | (write ? tiny_d : 0);
            w.wrong += !w.used[w.holds(slot)];
            if (wanted == entry || by.compare_exchange(*slot, entry, wanted)) {
                page = entry & ~std::uint64_t{0xfff};
                wrote = write;
                break;
            }
            if (kind_of(entry, w.holds(slot) == 0 ? 2 : 1, tiny) != kind::leaf) break;  // a walk anew: not here
        }
        if (flushed) t.wait();
        walking = false;
    }
    // A flush waits for the walk: an order in which it does not is none. Returns whether it is one.
    [[nodiscard]] bool flush(const flush_list& list, std::uint64_t address)
    {
        for (const flush_item& item : list) {
            if (item.first <= address && item.last >= address) page = 0;
        }
        return !walking;
    }

private:
    static std::uint64_t load_of(tiny_world& w, const stepping_access& by, const std::uint64_t& slot)
    {
        const bool quiet = std::find(w.constant.begin(), w.constant.end(), &slot) != w.constant.end();
        const std::uint64_t entry = quiet ? slot : by.load(slot);
        w.wrong += !w.used[w.holds(&slot)];
        return entry;
    }
};

}  // namespace

TEST_CASE("two threads fill one upper entry: one table is linked, and the other one is given back")
{
    for (const bool same_page : {false, true}) {
        CAPTURE(same_page);
        tiny_world w;
        const auto mapper = [&](unsigned self) {
            return [&w, self, same_page](turnstile& t) {
                auto tree = staying(w, t);
                flush_list_of<2, 1> list;
                const std::uint64_t number = same_page ? 0 : self;
                w.results[self] = map(tree, tiny_pages(number, 1), 0x80'0000 + (number << 12), {}, list);
            };
        };
        const exploration e = explore_different(
            [&] {
                w = {};
                w.put(0, 0, 0);
            },
            {mapper(0), mapper(1)},
            [&] {
                const bool both = w.results[0] && w.results[1];
                const std::uint64_t made = w.results[0].tables_made + w.results[1].tables_made;
                const unsigned table = tiny_world::table_of(w.slots[0] & ~std::uint64_t{0xfff});
                const bool there = w.slots[std::size_t{2} * table] == tiny_leaf(0x80'0000) &&
                                   w.slots[std::size_t{2} * table + 1] == (same_page ? 0 : tiny_leaf(0x80'1000));
                return both && made == 1 && w.in_use() == 2 && w.all_reachable() && there && w.wrong == 0;
            });
        CHECK(e.orders > 3);
        CHECK(e.violations == 0);
    }
}

TEST_CASE("a table is filled while it is taken out: the page is mapped in it, or not at all; none leaks, none is used")
{
    tiny_world w;
    const exploration e = explore_different(
        [&] {
            w = {};
            w.put(0, tiny_table(1), 0);
            w.put(1, 0, 0);
            w.constant = {&w.slots[1]};
        },
        {[&](turnstile& t) {
             auto tree = freeing(w, t, 0);
             flush_list_of<2, 1> list;
             w.results[0] = prune(tree, {}, list);
             flushed(tree, list);
         },
         [&](turnstile& t) {
             auto tree = freeing(w, t, 1);
             flush_list_of<2, 1> list;
             w.results[1] = map(tree, tiny_pages(1, 1), 0x80'1000, {}, list);
         }},
        [&] {
            if (!w.results[0] || w.wrong != 0 || !w.all_reachable()) return false;
            const unsigned table = tiny_world::table_of(w.slots[0] & ~std::uint64_t{0xfff});
            const bool mapped = table < tiny_world::tables && w.slots[std::size_t{2} * table] == 0 &&
                                w.slots[std::size_t{2} * table + 1] == tiny_leaf(0x80'1000);
            if (w.results[1]) return mapped && w.in_use() == 2;
            // Or it met a frozen slot, of a table that went or that stayed after all.
            const bool gone = w.slots[0] == 0 && w.in_use() == 1;
            const bool stayed = w.slots[0] == tiny_table(1) && w.slots[2] == 0 && w.slots[3] == 0;
            return w.results[1].end == tree_end::pending && (gone || stayed);
        });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

TEST_CASE("a table goes with its page while another page is mapped in it")
{
    tiny_world w;
    const exploration e = explore_different(
        [&] {
            w = {};
            w.put(0, tiny_table(1), 0);
            w.put(1, tiny_leaf(0x80'0000), 0);
            w.constant = {&w.slots[1]};
        },
        {[&](turnstile& t) {
             auto tree = freeing(w, t, 0);
             flush_list_of<2, 1> list;
             w.results[0] = unmap(tree, {}, list, {}, [&](const taken_page& p) { w.taken.push_back(p); });
         },
         [&](turnstile& t) {
             auto tree = freeing(w, t, 1);
             flush_list_of<2, 1> list;
             w.results[1] = map(tree, tiny_pages(1, 1), 0x80'1000, {}, list);
         }},
        [&] {
            if (!w.results[0] || w.wrong != 0 || w.in_use() != 2 || w.taken.empty()) return false;
            const bool both = w.taken.size() == 2;
            const bool gone = is_frozen(w.slots[0], tiny_marker) && is_frozen(w.slots[2], tiny_marker) &&
                              is_frozen(w.slots[3], tiny_marker);
            if (w.results[1]) {
                return both ? gone : w.slots[0] == tiny_table(1) && w.slots[3] == tiny_leaf(0x80'1000);
            }
            return !both && w.results[1].end == tree_end::pending;
        });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

TEST_CASE("two threads take out one table: one does, or neither, and it is given back once")
{
    for (const bool pages : {false, true}) {
        CAPTURE(pages);
        tiny_world w;
        const auto one = [&](unsigned self) {
            return [&w, self, pages](turnstile& t) {
                auto tree = freeing(w, t, self);
                flush_list_of<2, 1> list;
                if (pages) {
                    w.results[self] = unmap(tree, {}, list, {}, [&](const taken_page& p) { w.taken.push_back(p); });
                } else {
                    w.results[self] = prune(tree, {}, list);
                }
            };
        };
        const exploration e = explore_different(
            [&] {
                w = {};
                w.put(0, tiny_table(1), 0);
                w.put(1, pages ? tiny_leaf(0x80'0000) : 0, 0);
                w.constant = {&w.slots[1]};
            },
            {one(0), one(1)},
            [&] {
                const std::uint64_t freed = w.results[0].tables_freed + w.results[1].tables_freed;
                if (w.wrong != 0 || !w.results[0] || !w.results[1] || freed > 1) return false;
                if (freed == 1) {
                    return is_frozen(w.slots[0], tiny_marker) && is_frozen(w.slots[2], tiny_marker) &&
                           is_frozen(w.slots[3], tiny_marker);
                }
                // A page's slot is frozen until its flush; what was empty is empty.
                return w.slots[0] == tiny_table(1) && w.slots[3] == 0 &&
                       (pages ? is_frozen(w.slots[2], tiny_marker) : w.slots[2] == 0);
            });
        CHECK(e.orders > 3);
        CHECK(e.violations == 0);
    }
}

TEST_CASE("a page is unmapped from a table that another thread takes out: no slot is given free that a list holds")
{
    tiny_world w;
    const exploration e = explore_different(
        [&] {
            w = {};
            w.put(0, tiny_table(1), 0);
            w.put(1, tiny_leaf(0x80'0000), 0);
            w.constant = {&w.slots[1]};
        },
        {[&](turnstile& t) {
             auto tree = freeing(w, t, 0);
             flush_list_of<2, 1> list;
             w.results[0] = prune(tree, {}, list);
         },
         [&](turnstile& t) {
             auto tree = freeing(w, t, 1);
             flush_list_of<2, 1> list;
             w.results[1] = unmap(tree, tiny_pages(0, 1), list, {}, [&](const taken_page& p) { w.taken.push_back(p); });
         }},
        [&] {
            // The page's slot stays the unmapper's until its flush, and its table with it.
            return w.results[0] && w.results[1] && w.wrong == 0 && w.taken.size() == 1 &&
                   w.results[0].tables_freed == 0 && w.slots[0] == tiny_table(1) &&
                   is_frozen(w.slots[2], tiny_marker) && w.slots[3] == 0;
        });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

TEST_CASE("a page is split by two threads while the CPU writes it: one table, and D is in it")
{
    tiny_world w;
    tiny_cpu cpu;
    const auto splitter = [&](unsigned self) {
        return [&w, self](turnstile& t) {
            auto tree = staying(w, t);
            flush_list_of<2, 1> list;
            w.results[self] = split_pages(tree, {}, 12, list, {.limit = 1});
        };
    };
    const exploration e = explore_different(
        [&] {
            w = {};
            cpu = {};
            w.put(0, tiny_large, 0);
            w.constant = {&w.slots[1]};
        },
        {splitter(0), splitter(1), [&](turnstile& t) { cpu.access(w, t, 0, true); }},
        [&] {
            const unsigned table = tiny_world::table_of(w.slots[0] & ~std::uint64_t{0xfff});
            if (w.wrong != 0 || table >= tiny_world::tables) return false;
            const std::uint64_t first = w.slots[std::size_t{2} * table];
            const std::uint64_t second = w.slots[std::size_t{2} * table + 1];
            const std::uint64_t flags = tiny_a | tiny_d;
            const bool pages = (first & ~flags) == tiny_leaf(0x80'4000) && (second & ~flags) == tiny_leaf(0x80'5000);
            const bool kept = !cpu.wrote || (first & tiny_d) != 0;
            return pages && kept && w.in_use() == 2 && w.all_reachable() &&
                   w.results[0].tables_made + w.results[1].tables_made == 1;
        });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

namespace {

// A page is taken away, flushed and reported, while it is written, and while another thread maps there.
template <class Steps>
exploration unmap_map_and_write(bool with_map)
{
    static constexpr std::uint64_t old_page = 0x80'0000;
    static constexpr std::uint64_t new_page = 0x90'0000;
    tiny_world w;
    tiny_cpu cpu;
    bool done = false;
    std::vector<std::function<void(turnstile&)>> programs = {
        [&](turnstile& t) {
            auto tree = staying<Steps>(w, t);
            flush_list_of<2, 1> list;
            w.results[0] = unmap(tree, tiny_pages(0, 1), list, {}, [&](const taken_page& p) { w.taken.push_back(p); });
            if (cpu.flushed) {
                t.wait();
                w.impossible = !cpu.flush(list, 0);
                done = true;
            }
            flushed(tree, list);
        },
        [&](turnstile& t) {
            cpu.access(w, t, 0, true);
            if (!cpu.flushed || cpu.page == 0) return;
            t.wait();
            cpu.used_gone = done && cpu.page == old_page;
        }};
    if (with_map) {
        programs.emplace_back([&](turnstile& t) {
            auto tree = staying<stepping_access>(w, t);
            flush_list_of<2, 1> list;
            w.results[1] = map(tree, tiny_pages(0, 1), new_page, {}, list);
        });
    }
    return explore_different(
        [&] {
            w = {};
            cpu = {.flushed = !with_map};
            done = false;
            w.put(0, tiny_table(1), 0);
            w.put(1, tiny_leaf(old_page), 0);
            w.constant = {w.slots.data(), &w.slots[1], &w.slots[3]};
        },
        programs,
        [&] {
            if (w.impossible) return true;
            if (w.wrong != 0 || !w.results[0] || w.taken.empty() || cpu.used_gone) return false;
            const bool old_first = w.taken.size() == 1 && (w.taken[0].entry & ~std::uint64_t{0xfff}) == old_page;
            if (!old_first) return false;
            const bool mapped = with_map && w.results[1].end == tree_end::done;
            const std::uint64_t left = w.slots[2];
            if (mapped ? (left & ~(tiny_a | tiny_d)) != tiny_leaf(new_page) : left != 0) return false;
            if (with_map && !mapped && w.results[1].end != tree_end::pending &&
                w.results[1].end != tree_end::occupied) {
                return false;
            }
            // The write was to the page that went, or to the new one.
            return !cpu.wrote || (w.taken[0].entry & tiny_d) != 0 || (mapped && (left & tiny_d) != 0);
        });
}

}  // namespace

TEST_CASE("a page is unmapped while it is written: D is reported, and nothing uses it after the flush")
{
    const exploration e = unmap_map_and_write<stepping_access>(false);
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

TEST_CASE("the explorer finds the D that unmapping by a load and a store would lose")
{
    CHECK(unmap_map_and_write<torn_access>(false).violations > 0);
}

TEST_CASE("a page is unmapped while another is mapped there: the new one comes after the flush was reported")
{
    const exploration e = unmap_map_and_write<stepping_access>(true);
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

TEST_CASE("two threads unmap one page: one reports it, and each flushes it before it says that it is gone")
{
    tiny_world w;
    std::array<bool, 2> flushes{};
    bool flushed_by_first = false;
    const auto unmapper = [&](unsigned self) {
        return [&, self](turnstile& t) {
            auto tree = staying(w, t);
            flush_list_of<2, 1> list;
            w.results[self] =
                unmap(tree, tiny_pages(0, 1), list, {}, [&](const taken_page& p) { w.taken.push_back(p); });
            t.wait();
            const bool covered = list.due() == flush_due::items;
            // Nothing due: the other one has flushed and reported it already.
            flushes[self] = covered || flushed_by_first;
            flushed_by_first = flushed_by_first || covered;
            flushed(tree, list);
        };
    };
    const exploration e = explore_different(
        [&] {
            w = {};
            flushes = {};
            flushed_by_first = false;
            w.put(0, tiny_table(1), 0);
            w.put(1, tiny_leaf(0x80'0000), 0);
            w.constant = {w.slots.data(), &w.slots[1], &w.slots[3]};
        },
        {unmapper(0), unmapper(1)},
        [&] {
            return w.wrong == 0 && w.results[0] && w.results[1] && w.taken.size() == 1 && flushes[0] && flushes[1] &&
                   w.slots[2] == 0;
        });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

TEST_CASE("a page is protected while it is unmapped, or while it is written: no right and no D comes back")
{
    for (const bool unmaps : {false, true}) {
        CAPTURE(unmaps);
        tiny_world w;
        tiny_cpu cpu;
        std::vector<std::function<void(turnstile&)>> programs = {
            [&](turnstile& t) {
                auto tree = staying(w, t);
                flush_list_of<2, 1> list;
                w.results[0] = protect(tree, tiny_pages(0, 1), {.write = false}, list, {},
                                       [&](const taken_page& p) { w.changed.push_back(p); });
            },
            [&](turnstile& t) { cpu.access(w, t, 0, true); }};
        if (unmaps) {
            programs.emplace_back([&](turnstile& t) {
                auto tree = staying(w, t);
                flush_list_of<2, 1> list;
                w.results[1] =
                    unmap(tree, tiny_pages(0, 1), list, {}, [&](const taken_page& p) { w.taken.push_back(p); });
            });
        }
        const exploration e = explore_different(
            [&] {
                w = {};
                cpu = {};
                w.put(0, tiny_table(1), 0);
                w.put(1, tiny_leaf(0x80'0000), 0);
                w.constant = {w.slots.data(), &w.slots[1], &w.slots[3]};
            },
            programs,
            [&] {
                if (w.wrong != 0 || !w.results[0] || !w.results[1]) return false;
                const std::uint64_t last = unmaps ? w.taken.at(0).entry : w.slots[2];
                const bool gone = !unmaps || is_frozen(w.slots[2], tiny_marker);
                // Protected unless it went before.
                const bool read_only = (last & tiny_write) == 0;
                const bool right = unmaps ? read_only == (w.changed.size() == 1) : read_only;
                return gone && right && (!cpu.wrote || (last & tiny_d) != 0);
            });
        CHECK(e.orders > 3);
        CHECK(e.violations == 0);
    }
}

TEST_CASE("a page is replaced while it is written: D is reported with the old one, or set in the new one")
{
    tiny_world w;
    tiny_cpu cpu;
    const exploration e = explore_different(
        [&] {
            w = {};
            cpu = {};
            w.put(0, tiny_table(1), 0);
            w.put(1, tiny_leaf(0x80'0000), 0);
            w.constant = {w.slots.data(), &w.slots[1], &w.slots[3]};
        },
        {[&](turnstile& t) {
             auto tree = staying(w, t);
             flush_list_of<2, 1> list;
             w.results[0] = map(tree, tiny_pages(0, 1), 0x90'0000, {}, list, {.what_exists = existing::replace},
                                [&](const taken_page& p) { w.taken.push_back(p); });
         },
         [&](turnstile& t) { cpu.access(w, t, 0, true); }},
        [&] {
            if (w.wrong != 0 || !w.results[0] || w.taken.size() != 1) return false;
            if ((w.slots[2] & ~(tiny_a | tiny_d)) != tiny_leaf(0x90'0000)) return false;
            if (!cpu.wrote) return true;
            return cpu.page == 0x80'0000 ? (w.taken[0].entry & tiny_d) != 0 : (w.slots[2] & tiny_d) != 0;
        });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

TEST_CASE("a page is split while it is protected: all parts are, also where the split came between")
{
    tiny_world w;
    const exploration e = explore_different(
        [&] {
            w = {};
            w.put(0, tiny_large, 0);
            w.constant = {&w.slots[1]};
        },
        {[&](turnstile& t) {
             auto tree = staying(w, t);
             flush_list_of<2, 1> list;
             w.results[0] = split_pages(tree, {}, 12, list);
         },
         [&](turnstile& t) {
             auto tree = staying(w, t);
             flush_list_of<2, 1> list;
             w.results[1] = protect(tree, {}, {.write = false}, list);
         }},
        [&] {
            const unsigned table = tiny_world::table_of(w.slots[0] & ~std::uint64_t{0xfff});
            if (w.wrong != 0 || !w.results[0] || !w.results[1] || table >= tiny_world::tables) return false;
            return ((w.slots[std::size_t{2} * table] | w.slots[std::size_t{2} * table + 1]) & tiny_write) == 0 &&
                   w.in_use() == 2;
        });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

TEST_CASE("a page is split while it is unmapped: both parts are taken, or the whole page")
{
    tiny_world w;
    const exploration e = explore_different(
        [&] {
            w = {};
            w.put(0, tiny_large, 0);
            w.constant = {&w.slots[1]};
        },
        {[&](turnstile& t) {
             auto tree = staying(w, t);
             flush_list_of<2, 1> list;
             w.results[0] = split_pages(tree, {}, 12, list);
         },
         [&](turnstile& t) {
             auto tree = staying(w, t);
             flush_list_of<2, 1> list;
             w.results[1] = unmap(tree, {}, list, {}, [&](const taken_page& p) { w.taken.push_back(p); });
             flushed(tree, list);
         }},
        [&] {
            std::uint64_t bytes = 0;
            for (const taken_page& p : w.taken) bytes += std::uint64_t{1} << p.page_shift;
            return w.wrong == 0 && w.results[0] && w.results[1] && bytes == 0x2000 && w.all_reachable();
        });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

namespace {

constexpr auto tiny_busy = frozen_marker<0x800>(tiny);

// Tables that are given back go when all programs have ended: otherwise each read section would be two more steps.
struct late_allocator : tiny_allocator {
    std::vector<unsigned>* gone;
    void release(std::uint64_t table, unsigned level) const
    {
        const unsigned n = tiny_world::table_of(table);
        if (world->linked[n]) {
            gone->push_back(n);
        } else {
            tiny_allocator::release(table, level);
        }
    }
};
struct late_readers {
    void enter() const {}
    void leave() const {}
    void wait() const {}
};

// Memory whose flush is a step that takes from the CPU what it may use.
struct flushing_memory : tiny_memory {
    turnstile* at;
    tiny_cpu* cpu;
    void flush(const flush_item& item) const
    {
        if (!cpu->flushed) return;
        at->wait();
        flush_list_of<1, 1> list;
        list.add(item);
        world->impossible = world->impossible || !cpu->flush(list, 0);
    }
};

// Two pages in one table, which may become the page tiny_large.
struct merging_world {
    tiny_world w;
    tiny_cpu cpu;
    std::vector<unsigned> gone;

    void start(bool with_cpu)
    {
        w = {};
        cpu = {.flushed = with_cpu};
        gone = {};
        w.put(0, tiny_table(1), 0);
        w.put(1, tiny_leaf(0x80'4000), tiny_leaf(0x80'5000));
        w.constant = {&w.slots[1]};
    }
    [[nodiscard]] auto tree_of(turnstile& t)
    {
        using sharing =
            shared<std::remove_cv_t<decltype(tiny_marker)>, late_readers, std::remove_cv_t<decltype(tiny_busy)>>;
        using tree_type = tree<std::remove_cv_t<decltype(tiny)>, flushing_memory, late_allocator, sharing,
                               tree_steps<stepping_access>>;
        const tree_steps<stepping_access> steps(t, w);
        return tree_type{
            tiny, tiny_world::base, {{&w}, &t, &cpu}, {{&w, nullptr}, &gone}, {tiny_marker, {}, tiny_busy}, {}, steps};
    }
    [[nodiscard]] auto merger(unsigned self)
    {
        return [this, self](turnstile& t) {
            auto tree = tree_of(t);
            flush_list_of<2, 1> list;
            w.results[self] = merge_pages(tree, tiny_pages(0, 2), 13, list);
            if (list.table_count() != 0) flushed(tree, list);
        };
    }
    // The entry of a page, as if it were small; 0: none.
    [[nodiscard]] std::uint64_t page(std::uint64_t number) const
    {
        const std::uint64_t top = w.slots[0];
        if ((top & 1) == 0) return 0;
        if ((top & 0x80) != 0) return (top & ~std::uint64_t{0x80}) + (number << 12);
        return w.slots[std::size_t{2} * tiny_world::table_of(top & ~std::uint64_t{0xfff}) + number];
    }
    [[nodiscard]] std::uint64_t plain(std::uint64_t number) const { return page(number) & ~(tiny_a | tiny_d); }
    [[nodiscard]] bool in_order()
    {
        for (const unsigned n : gone) {
            w.wrong += !w.used[n];
            w.give_back(n);
        }
        gone = {};
        const auto is_busy = [](std::uint64_t entry) { return is_frozen(entry, tiny_busy); };
        return w.wrong == 0 && w.all_reachable() && std::none_of(w.slots.begin(), w.slots.end(), is_busy);
    }
};

}  // namespace

TEST_CASE("pages are merged while one of them is written: D is in the large page, or in the small one that stays")
{
    merging_world m;
    const exploration e =
        explore_different([&] { m.start(true); }, {m.merger(0), [&](turnstile& t) { m.cpu.access(m.w, t, 0, true); }},
                          [&] {
                              if (m.w.impossible) return true;
                              return m.w.results[0].pages == 1 && m.in_order() && m.w.in_use() == 1 &&
                                     m.plain(0) == tiny_leaf(0x80'4000) && m.plain(1) == tiny_leaf(0x80'5000) &&
                                     (!m.cpu.wrote || (m.page(0) & tiny_d) != 0);
                          });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

TEST_CASE("pages are merged while one of them is unmapped: it does not come back")
{
    merging_world m;
    unsigned merged = 0;
    unsigned waits = 0;
    const exploration e =
        explore_different([&] { m.start(false); },
                          {m.merger(0),
                           [&](turnstile& t) {
                               auto tree = m.tree_of(t);
                               flush_list_of<2, 1> list;
                               m.w.results[1] = unmap(tree, tiny_pages(0, 1), list, {.ends = range_end::split},
                                                      [&](const taken_page& p) { m.w.taken.push_back(p); });
                               flushed(tree, list);
                           }},
                          [&] {
                              const bool gone = static_cast<bool>(m.w.results[1]);
                              merged += m.w.results[0].pages == 1;
                              waits += m.w.results[1].end == tree_end::pending;
                              if (!m.w.results[0] || !m.in_order() || m.plain(1) != tiny_leaf(0x80'5000)) return false;
                              if (!gone)
                                  return m.w.results[1].end == tree_end::pending && m.plain(0) == tiny_leaf(0x80'4000);
                              return m.page(0) == 0 && m.w.taken.size() == 1;
                          });
    CHECK(e.violations == 0);
    CHECK(merged > 0);
    CHECK(merged < e.orders);
    CHECK(waits > 0);
}

TEST_CASE("pages are merged while one of them is protected: the right does not come back")
{
    merging_world m;
    unsigned merged = 0;
    const exploration e = explore_different(
        [&] { m.start(false); },
        {m.merger(0),
         [&](turnstile& t) {
             auto tree = m.tree_of(t);
             flush_list_of<2, 1> list;
             m.w.results[1] = protect(tree, tiny_pages(0, 1), {.write = false}, list, {.ends = range_end::split});
         }},
        [&] {
            merged += m.w.results[0].pages == 1;
            if (!m.w.results[0] || !m.in_order() || m.plain(1) != tiny_leaf(0x80'5000)) return false;
            const bool read_only = m.plain(0) == (tiny_leaf(0x80'4000) & ~tiny_write);
            if (m.w.results[1]) return read_only;
            return m.w.results[1].end == tree_end::pending && m.plain(0) == tiny_leaf(0x80'4000);
        });
    CHECK(e.violations == 0);
    CHECK(merged > 0);
    CHECK(merged < e.orders);
}

TEST_CASE("pages are merged while one of them is replaced: the new one stays")
{
    merging_world m;
    unsigned merged = 0;
    const exploration e = explore_different(
        [&] { m.start(false); },
        {m.merger(0),
         [&](turnstile& t) {
             auto tree = m.tree_of(t);
             flush_list_of<2, 1> list;
             m.w.results[1] = map(tree, tiny_pages(0, 1), 0x90'0000, {}, list, {.what_exists = existing::replace});
             flushed(tree, list);
         }},
        [&] {
            merged += m.w.results[0].pages == 1;
            if (!m.w.results[0] || !m.in_order() || m.plain(1) != tiny_leaf(0x80'5000)) return false;
            if (m.w.results[1]) return m.plain(0) == tiny_leaf(0x90'0000);
            // A part of the large page was taken away first, or nothing yet.
            return m.w.results[1].end == tree_end::pending && (m.page(0) == 0 || m.plain(0) == tiny_leaf(0x80'4000));
        });
    CHECK(e.violations == 0);
    CHECK(merged > 0);
    CHECK(merged < e.orders);
}

TEST_CASE("two threads merge the same pages: one table goes, once")
{
    merging_world m;
    const exploration e = explore_different([&] { m.start(false); }, {m.merger(0), m.merger(1)},
                                            [&] {
                                                return m.w.results[0] && m.w.results[1] &&
                                                       m.w.results[0].pages + m.w.results[1].pages == 1 &&
                                                       m.in_order() && m.w.slots[0] == tiny_large;
                                            });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}

TEST_CASE("pages are merged while the table goes: all of it is gone")
{
    merging_world m;
    const exploration e =
        explore_different([&] { m.start(false); },
                          {m.merger(0),
                           [&](turnstile& t) {
                               auto tree = m.tree_of(t);
                               flush_list_of<3, 1> list;
                               m.w.results[1] = unmap(tree, tiny_pages(0, 2), list);
                               flushed(tree, list);
                           }},
                          [&] {
                              if (!m.w.results[0] || !m.in_order()) return false;
                              if (m.w.results[1]) return m.page(0) == 0 && m.page(1) == 0;
                              return m.w.results[1].end == tree_end::pending && m.plain(1) == tiny_leaf(0x80'5000);
                          });
    CHECK(e.orders > 3);
    CHECK(e.violations == 0);
}
