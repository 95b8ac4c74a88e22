// A hardware thread that sets A and D at any moment, while other threads age, harvest,
// track, restore and write-protect the same slots. Everything is counted.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

constexpr auto host = ept<ept_features{}>;
constexpr auto nested = npt<npt_features{}>;
constexpr auto two_level = shadow<shadow_features{.levels = 2}>;
template <const auto& Format>
using type_of = std::remove_cvref_t<decltype(Format)>;

constexpr unsigned slot_count = 8;
constexpr unsigned rounds = 20'000;

struct counters {
    std::array<std::uint64_t, slot_count> accessed{};
    std::array<std::uint64_t, slot_count> dirty{};
};

// The MMU: sets A, and D on a write, by compare-exchange on the entry that it judged.
template <class Word, class Format>
void access_slot(Word& slot, bool write, const Format& format, std::uint64_t& accessed, std::uint64_t& dirty)
{
    const Word a = static_cast<Word>(format->accessed.mask());
    const Word d = static_cast<Word>(format->dirty.mask());
    Word entry = load(slot);
    for (;;) {
        if (!(write ? writable(entry, format) : readable(entry, format))) return;
        const Word wanted = static_cast<Word>(entry | a | (write ? d : Word{0}));
        if (wanted == entry) return;
        if (compare_exchange(slot, entry, wanted)) {
            accessed += (wanted & ~entry & a) != 0;
            dirty += (wanted & ~entry & d) != 0;
            return;
        }
    }
}

}  // namespace

TEST_CASE_TEMPLATE("every A is aged or still there, every D harvested or still there", Format, type_of<host>,
                   type_of<nested>, type_of<two_level>)
{
    constexpr Format format{};
    using word = std::conditional_t<format->shape().entry_bits == 32, std::uint32_t, std::uint64_t>;
    const auto page = static_cast<word>(encode(kind::leaf, 1, 0x1000, {}, format).entry);
    REQUIRE(page != 0);
    alignas(64) std::array<word, slot_count> slots;
    slots.fill(page);
    counters set, found;
    std::uint64_t young_twice[slot_count] = {};
    std::atomic<bool> stop = false;

    std::thread mmu([&] {
        for (unsigned n = 0; n < rounds * slot_count; ++n) {
            const unsigned i = n % slot_count;
            access_slot(slots[i], n % 3 != 0, format, set.accessed[i], set.dirty[i]);
        }
        stop = true;
    });
    std::thread second_reclaimer([&] {
        while (!stop) {
            for (unsigned i = 0; i < slot_count; ++i) young_twice[i] += age(slots[i], format);
        }
    });
    do {
        for (unsigned i = 0; i < slot_count; ++i) {
            found.accessed[i] += age(slots[i], format);
            found.dirty[i] += harvest_dirty(slots[i], format);
        }
    } while (!stop);
    mmu.join();
    second_reclaimer.join();

    for (unsigned i = 0; i < slot_count; ++i) {
        CHECK(set.accessed[i] == found.accessed[i] + young_twice[i] + young(slots[i], format));
        CHECK(set.dirty[i] == found.dirty[i] + dirty(slots[i], format));
        CHECK((slots[i] & ~(format->accessed | format->dirty)) == page);
        CHECK(set.accessed[i] != 0);
    }
}

TEST_CASE("tracking, restoring, write-protecting and the write-fault path lose and invent no permission")
{
    constexpr auto format = ept<ept_features{.accessed_dirty = false}>;
    constexpr auto tracking = track_accesses<54>(format);
    constexpr std::uint64_t writable_again = std::uint64_t{1} << 57;  // software: the page may be written
    constexpr std::uint64_t page = 0x1037 | writable_again;
    alignas(64) std::array<std::uint64_t, slot_count> slots;
    slots.fill(page);
    std::array<std::uint64_t, slot_count> tracked{}, tracked_writable{}, restored{}, taken{}, given{};
    std::atomic<bool> stop = false;

    // The vCPU: an access faults if it is not allowed, and the fault path repairs it.
    std::thread vcpu([&] {
        for (unsigned n = 0; n < rounds * slot_count; ++n) {
            const unsigned i = n % slot_count;
            restored[i] += restore(slots[i], tracking);
            const auto fix_write = [](std::uint64_t entry) {
                const bool fixable = (entry & 0x3) == 0x1 && (entry & writable_again) != 0;
                return fixable ? entry | 0x2 : entry;
            };
            const std::uint64_t before = update(slots[i], fix_write);
            given[i] += fix_write(before) != before;
        }
        stop = true;
    });
    std::thread logger([&] {
        while (!stop) {
            for (unsigned i = 0; i < slot_count; ++i) taken[i] += harvest_dirty(slots[i], format);
        }
    });
    std::uint64_t bad = 0;
    do {
        for (unsigned i = 0; i < slot_count; ++i) {
            const track_result result = track(slots[i], tracking);
            tracked[i] += result == track_result::tracked || result == track_result::tracked_writable;
            tracked_writable[i] += result == track_result::tracked_writable;
            const std::uint64_t entry = load(slots[i]);
            const bool in_place = (entry & 0x5) == 0x5 && (entry & tracking.saved_mask()) == 0;
            const bool aside = (entry & 0x7) == 0 && (entry & tracking.saved_mask()) == tracking.saved_mask();
            bad += in_place == aside;
        }
    } while (!stop);
    vcpu.join();
    logger.join();

    CHECK(bad == 0);
    for (unsigned i = 0; i < slot_count; ++i) {
        CHECK(tracked[i] == restored[i] + is_tracked(slots[i], tracking));
        // Every W that was given, and the first, was harvested, went with tracking, or is there.
        CHECK(taken[i] + tracked_writable[i] + writable(slots[i], format) == given[i] + 1);
        CHECK((slots[i] & ~(0x7 | tracking.saved_mask() | tracking.record_mask())) == (page & ~std::uint64_t{0x7}));
        CHECK(((slots[i] & tracking.record_mask()) != 0) == (tracked_writable[i] != 0));
        CHECK(tracked[i] != 0);
    }
}

TEST_CASE("what was written before a store to a slot is seen after the load that finds it")
{
    // Plain data, published by a slot: under ThreadSanitizer a weaker order is a race.
    for (int round = 0; round < 200; ++round) {
        std::uint64_t slot = 0;
        int payload = 0;
        std::thread writer([&] {
            payload = round + 1;
            store(slot, 0x1007);
        });
        while (load(slot) == 0) std::this_thread::yield();
        CHECK(payload == round + 1);
        payload = 0;
        writer.join();
    }
    // An update publishes too.
    for (int round = 0; round < 200; ++round) {
        std::uint64_t slot = 0x1007;
        int payload = 0;
        std::thread writer([&] {
            payload = round + 1;
            set(slot, bit(9));
        });
        while (!test_and_clear(slot, bit(9))) std::this_thread::yield();
        CHECK(payload == round + 1);
        writer.join();
    }
}
