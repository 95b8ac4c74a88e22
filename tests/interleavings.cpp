// Slot operations and hardware in every order: nothing that hardware sets is lost, no
// permission is lost or invented.
#include <doctest/doctest.h>

#include <cstdint>
#include <ptebits/ptebits.hpp>

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

struct shared {
    std::uint64_t slot = 0;
    std::uint64_t unmapped = 0;
    hardware mmu;
    int young = 0;
    int harvested = 0;
    int restored = 0;
    bool frozen = false;
};

// A and D that hardware set, against those that were found and those still there.
bool conserved(const shared& s, std::uint64_t before)
{
    const std::uint64_t left = s.slot | s.unmapped;
    const int accessed = s.mmu.set_accessed + ((before & a) != 0) - ((left & a) != 0);
    const int dirty = s.mmu.set_dirty + ((before & d) != 0) - ((left & d) != 0);
    return s.young == accessed && s.harvested == dirty;
}

template <class Access>
exploration age_harvest_and_write(std::uint64_t before)
{
    shared s;
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
    shared s;
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
    shared s;
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
    shared s;
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
    shared s;
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
            const bool in_place = (s.slot & 0x5) == 0x5 && (s.slot & tracking.saved_mask()) == 0;
            const bool writable = (s.slot & 0x2) != 0;
            return (tracked ? aside : in_place) && tracked == (s.young - s.restored == 1) &&
                   writable == (s.young == 0 && s.harvested == 0) && (s.slot & ~(tracking.saved_mask() | rwx)) == page;
        });
}

}  // namespace

TEST_CASE("tracking, restoring and write-protecting: no permission is lost or invented")
{
    const exploration e = track_restore_and_protect<stepping_access>();
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("the explorer finds the permission lost by a blind change")
{
    CHECK(track_restore_and_protect<torn_access>().violations > 0);
}

TEST_CASE("two who track and one who restores")
{
    shared s;
    const auto age_it = [&](turnstile& t) { s.young += age(s.slot, tracking, stepping_access(t)); };
    const exploration e = explore(
        [&] {
            s = {};
            s.slot = page | rwx;
        },
        {age_it, age_it, [&](turnstile& t) { s.restored += restore(s.slot, tracking, stepping_access(t)); }},
        [&] {
            const std::uint64_t saved = page | std::uint64_t{5} << 54;
            return s.slot == saved || s.slot == (page | 0x5);
        });
    CHECK(e.orders > 10);
    CHECK(e.violations == 0);
}

TEST_CASE("tracking and restoring where #VE is suppressed: bit 63 is kept, whoever comes between")
{
    constexpr auto format = ept<ept_features{.accessed_dirty = false, .suppress_ve = true}>;
    constexpr auto aside = track_accesses<54>(format);
    for (const std::uint64_t suppress : {std::uint64_t{0}, std::uint64_t{1} << 63}) {
        shared s;
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
                const std::uint64_t tracked = page | std::uint64_t{0x8140} << 48 | kept;
                const std::uint64_t write = s.young == 0 && s.harvested == 0 ? 0x2 : 0;
                return s.slot == (s.young - s.restored == 1 ? tracked : page | 0x5 | write | suppress);
            });
        CHECK(e.orders > 10);
        CHECK(e.violations == 0);
    }
}

TEST_CASE("tracking a format with A and D: what hardware sets meanwhile stays in the tracked entry")
{
    constexpr auto format = shadow<shadow_features{}>;
    constexpr auto aside = track_accesses<52>(format);
    shared s;
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

TEST_CASE("nobody changes a frozen entry, and what was frozen kept its A and D")
{
    constexpr auto marker = frozen_marker<0x8000'0000'0000'0400>(host);
    shared s;
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
