// Ageing, tracking, harvesting and flush rules against models written out here: over all
// bits, all formats, constant and run-time features, both slot widths.
#include <doctest/doctest.h>

#include <cstdint>
#include <type_traits>
#include <vector>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

#include <ptebits/ptebits.hpp>

#include "leaf_model.hpp"
#include "stages.hpp"

using namespace ptebits;
using namespace leaf_model;

namespace {

// Every value with up to three bits set, and their complements.
template <class Word>
std::vector<Word> values()
{
    std::vector<Word> all{0};
    constexpr unsigned width = 8 * sizeof(Word);
    for (unsigned i = 0; i < width; ++i) {
        for (unsigned j = i; j < width; ++j) {
            for (unsigned k = j; k < width; ++k) {
                all.push_back(static_cast<Word>(Word{1} << i | Word{1} << j | Word{1} << k));
            }
        }
    }
    const std::size_t n = all.size();
    for (std::size_t i = 0; i < n; ++i) all.push_back(static_cast<Word>(~all[i]));
    return all;
}

template <class Word, class Format>
void check_age(const Format& format, const flags& is)
{
    int wrong = 0;
    for (const Word before : values<Word>()) {
        const bool translated = is.translates(before);
        const bool is_young = (before & is.accessed) != 0;
        const Word aged = translated ? static_cast<Word>(before & ~is.accessed) : before;
        const Word marked = translated ? static_cast<Word>(before | is.accessed) : before;

        Word slot = before;
        wrong += age(slot, format) != (translated && is_young) || slot != aged;
        wrong += age(slot, format) || slot != aged;
        slot = before;
        wrong += mark_accessed(slot, format) != (translated && !is_young) || slot != marked;
        wrong += mark_accessed(slot, format) || slot != marked;
    }
    CHECK(wrong == 0);
}

// clear_dirty does not compile for a constant format without a dirty bit.
template <class Format>
constexpr bool has_dirty()
{
    if constexpr (constant_masks<Format>) return Format
        {
        } -> dirty.exists();
    return true;
}

template <class Word, class Format>
void check_dirty(const Format& format, const flags& is)
{
    int wrong = 0;
    for (const Word before : values<Word>()) {
        const bool translated = is.translates(before);
        const Word protected_entry = translated ? static_cast<Word>(before & ~is.write) : before;
        const bool was_writable = translated && (before & is.write) != 0;

        Word slot = before;
        wrong += write_protect(slot, format) != was_writable || slot != protected_entry;
        slot = before;
        if (is.dirty != 0) {
            const Word clean = translated ? static_cast<Word>(before & ~is.dirty) : before;
            const bool was_dirty = translated && (before & is.dirty) != 0;
            wrong += harvest_dirty(slot, format) != was_dirty || slot != clean;
            if constexpr (has_dirty<Format>()) {
                slot = before;
                wrong += clear_dirty(slot, format) != was_dirty || slot != clean;
            }
        } else {
            wrong += harvest_dirty(slot, format) != was_writable || slot != protected_entry;
        }
        slot = before;
        wrong += unmap(slot, format) != before || slot != 0;
    }
    CHECK(wrong == 0);
}

template <class Format>
void check_both_ways()
{
    constexpr Format format{};
    using word = std::conditional_t<format->shape().entry_bits == 32, std::uint32_t, std::uint64_t>;
    check_age<word>(format, flags_of<Format>);
    check_age<word>(format_for(format->features()), flags_of<Format>);
    check_dirty<word>(format, flags_of<Format>);
    check_dirty<word>(format_for(format->features()), flags_of<Format>);
}

constexpr std::uint64_t r = 1, w = 2, x = 4, a = 0x100, d = 0x200;

}  // namespace

TEST_CASE_TEMPLATE("age, mark_accessed and harvesting do what their model does", Format, type_of<ept_ad>,
                   type_of<ept_46>, type_of<ept_soft_8>, type_of<ept_soft_63>, type_of<ept_mbe>, type_of<npt_long>,
                   type_of<shadow_long>, type_of<shadow_46>, type_of<shadow_pae>, type_of<shadow_two>)
{
    check_both_ways<Format>();
}

TEST_CASE("ageing by run-time masks, the accessed bit at each of 64 places")
{
    for (unsigned shift = 3; shift < 64; ++shift) {
        const std::uint64_t accessed = std::uint64_t{1} << shift;
        const masks m = masks::from({.present = 0x7, .accessed = accessed});
        REQUIRE(m.valid());
        for (unsigned other = 0; other < 64; ++other) {
            const std::uint64_t rest = std::uint64_t{1} << other | 0x1;
            std::uint64_t slot = rest | accessed;
            CHECK(age(slot, m));
            CHECK(slot == (rest & ~accessed));
            CHECK_FALSE(age(slot, m));
            CHECK(mark_accessed(slot, m));
            CHECK(slot == (rest | accessed));
        }
        std::uint64_t not_present = accessed;
        CHECK_FALSE(age(not_present, m));
        CHECK(not_present == accessed);
    }
}

TEST_CASE("ageing needs a present entry and nothing more: an old one is fine")
{
    std::uint64_t old = 0x1007;
    CHECK_FALSE(age(old, ept_ad));
    CHECK(old == 0x1007);
    std::uint64_t frozen = 0x8000'0000'0000'05a0;  // not present, bits 5 and 8 set
    CHECK_FALSE(age(frozen, ept_ad));
    CHECK_FALSE(age(frozen, npt_long));
    CHECK(frozen == 0x8000'0000'0000'05a0);
}

TEST_CASE("an operation that has nothing to do does not write")
{
    // Counts every access but loads.
    struct counting : plain_access {
        int* writes;
        void store(std::uint64_t& slot, std::uint64_t value) const { ++*writes, plain_access::store(slot, value); }
        std::uint64_t exchange(std::uint64_t& slot, std::uint64_t value) const
        {
            return ++*writes, plain_access::exchange(slot, value);
        }
        bool compare_exchange(std::uint64_t& slot, std::uint64_t& expected, std::uint64_t desired) const
        {
            return ++*writes, plain_access::compare_exchange(slot, expected, desired);
        }
        std::uint64_t fetch_or(std::uint64_t& slot, std::uint64_t mask) const
        {
            return ++*writes, plain_access::fetch_or(slot, mask);
        }
        std::uint64_t fetch_and(std::uint64_t& slot, std::uint64_t mask) const
        {
            return ++*writes, plain_access::fetch_and(slot, mask);
        }
        bool test_and_set(std::uint64_t& slot, unsigned shift) const
        {
            return ++*writes, plain_access::test_and_set(slot, shift);
        }
        bool test_and_clear(std::uint64_t& slot, unsigned shift) const
        {
            return ++*writes, plain_access::test_and_clear(slot, shift);
        }
    };
    int writes = 0;
    const counting count{{}, &writes};
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    std::uint64_t old = 0x1007;
    std::uint64_t young_entry = 0x1107;
    std::uint64_t read_only = r | x;
    std::uint64_t tracked = std::uint64_t{5} << 54;
    CHECK_FALSE(age(old, ept_ad, count));
    CHECK_FALSE(clear_dirty(old, ept_ad, count));
    CHECK_FALSE(harvest_dirty(old, ept_ad, count));
    CHECK_FALSE(mark_accessed(young_entry, ept_ad, count));
    CHECK_FALSE(write_protect(read_only, ept_ad, count));
    CHECK_FALSE(age(tracked, tracking, count));
    CHECK_FALSE(restore(old, tracking, count));
    CHECK(writes == 0);
    CHECK(age(young_entry, ept_ad, count));
    CHECK(writes == 1);
}

TEST_CASE("a reverse map of pointers or of slots: all are aged, the answer is any")
{
    for (unsigned young_set = 0; young_set < 8; ++young_set) {
        std::uint64_t slots[3];
        std::uint64_t* chain[3];
        for (unsigned i = 0; i < 3; ++i) {
            slots[i] = 0x1007 | ((young_set >> i & 1) != 0 ? a : 0);
            chain[i] = &slots[i];
        }
        const std::uint64_t before[] = {slots[0], slots[1], slots[2]};
        CHECK(young_any(chain, ept_ad) == (young_set != 0));
        CHECK(young_any(slots, ept_ad) == (young_set != 0));
        for (unsigned i = 0; i < 3; ++i) CHECK(slots[i] == before[i]);
        CHECK(age_all(chain, ept_ad) == (young_set != 0));
        for (const std::uint64_t slot : slots) CHECK(slot == 0x1007);
        CHECK_FALSE(age_all(slots, ept_ad));
    }
    const std::vector<std::uint64_t*> empty;
    CHECK_FALSE(age_all(empty, ept_ad));
    CHECK_FALSE(young_any(empty, ept_ad));
}

TEST_CASE("young_any stops at the first young entry")
{
    struct counting : plain_access {
        int* loads;
        [[nodiscard]] std::uint64_t load(const std::uint64_t& slot) const
        {
            ++*loads;
            return slot;
        }
    };
    const std::uint64_t slots[] = {0x1007, 0x1107, 0x1107};
    int loads = 0;
    CHECK(young_any(slots, ept_ad, counting{{}, &loads}));
    CHECK(loads == 2);
}

TEST_CASE_TEMPLATE("access tracking in both of KVM's layouts", Shift, std::integral_constant<unsigned, 54>,
                   std::integral_constant<unsigned, 52>)
{
    constexpr unsigned shift = Shift::value;
    constexpr auto tracking = track_accesses<shift>(ept_no_ad);
    static_assert(tracking.saved_mask() == std::uint64_t{5} << shift);
    for (std::uint64_t permission = 0; permission < 8; ++permission) {
        const std::uint64_t entry = 0x0000'0012'3456'7030 | permission;  // WB, a frame
        // R and X where KVM has them, and between them whether the page may have been written.
        const std::uint64_t tracked = 0x0000'0012'3456'7030 | permission << shift;
        const std::uint64_t record = (permission & w) << shift;
        std::uint64_t slot = entry;
        if (permission == 0) {
            CHECK(track(slot, tracking) == track_result::not_present);
            CHECK_FALSE(age(slot, tracking));
            CHECK(slot == entry);
            continue;
        }
        CHECK_FALSE(is_tracked(entry, tracking));
        if ((permission & (r | w)) == w) {  // W without R: breaks a rule
            CHECK_FALSE(young(entry, tracking));
            CHECK(track(slot, tracking) == track_result::not_present);
            CHECK(slot == entry);
            continue;
        }
        CHECK(young(entry, tracking));
        CHECK(track(slot, tracking) ==
              ((permission & w) != 0 ? track_result::tracked_writable : track_result::tracked));
        CHECK(slot == tracked);
        CHECK(is_tracked(slot, tracking));
        CHECK_FALSE(young(slot, tracking));
        CHECK(track(slot, tracking) == track_result::tracked_already);
        CHECK_FALSE(age(slot, tracking));
        CHECK(slot == tracked);
        CHECK(restore(slot, tracking));
        CHECK(slot == ((entry & ~w) | record));
        CHECK_FALSE(restore(slot, tracking));
        CHECK(slot == ((entry & ~w) | record));
        CHECK(age(slot, tracking));
        CHECK_FALSE(age(slot, tracking));
        CHECK(slot == tracked);
    }
    for (const unsigned saved : {shift, shift + 2}) {
        const std::uint64_t entry = 0x1007 | std::uint64_t{1} << saved;
        std::uint64_t slot = entry;
        CHECK(track(slot, tracking) == track_result::saved_bits_in_use);
        CHECK(age(slot, tracking));
        CHECK(slot == entry);
    }
}

TEST_CASE("access tracking with mode-based execute keeps XU too")
{
    constexpr auto mbe = ept<ept_features{.accessed_dirty = false, .mode_based_execute = true}>;
    constexpr auto tracking = track_accesses<52>(mbe);
    static_assert(tracking.saved_mask() == 0x4050'0000'0000'0000);
    std::uint64_t slot = 0x1405;
    CHECK(age(slot, tracking));
    CHECK(slot == 0x4050'0000'0000'1000);
    CHECK(restore(slot, tracking));
    CHECK(slot == 0x1405);
}

TEST_CASE("access tracking of a format known at run time")
{
    const auto format = format_for(ept_features{.accessed_dirty = false});
    const auto tracking = track_accesses<54>(format);
    std::uint64_t slot = 0x1007;
    CHECK(age(slot, tracking));
    CHECK(slot == 0x01c0'0000'0000'1000);
    CHECK(restore(slot, tracking));
    CHECK(slot == 0x0080'0000'0000'1005);
}

TEST_CASE("access tracking makes any format's next access fault: ordinary paging saves P")
{
    constexpr auto tracking = track_accesses<52>(shadow_long);
    std::uint64_t slot = 0x1067;
    CHECK(age(slot, tracking));
    CHECK(slot == 0x0010'0000'0000'1064);
    CHECK(restore(slot, tracking));
    CHECK(slot == 0x1065);
}

TEST_CASE("a failed exchange reports young and changes nothing")
{
    // Another thread changes the entry between the look and the exchange.
    struct interrupted : plain_access {
        static bool compare_exchange(std::uint64_t& slot, std::uint64_t& expected, std::uint64_t desired)
        {
            slot |= 0x40;
            return plain_access::compare_exchange(slot, expected, desired);
        }
    };
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    std::uint64_t slot = 0x1007;
    CHECK(track(slot, tracking, interrupted{}) == track_result::changed);
    CHECK(slot == 0x1047);
    slot = 0x1007;
    CHECK(age(slot, tracking, interrupted{}));
    CHECK(slot == 0x1047);
}

TEST_CASE("needs_flush: what shrank, moved or was taken away")
{
    const auto flush = [](std::uint64_t before, std::uint64_t after) { return needs_flush(before, after, ept_ad); };
    const std::uint64_t page = 0x1030;  // a frame, WB
    CHECK_FALSE(flush(page | r | w | x, page | r | w | x));
    CHECK_FALSE(flush(page | r | w | x | a, page | r | w | x));  // A cleared
    CHECK_FALSE(flush(page | r | w | x, page | r | w | x | a | d));
    CHECK(flush(page | r | w | x | d, page | r | w | x));            // D cleared
    CHECK(flush(page | r, 0));                                       // unmapped
    CHECK_FALSE(flush(0, page | r | w | x));                         // mapped
    CHECK_FALSE(flush(0, 0x8000'0000'0000'05a0));                    // from nothing to a marker
    CHECK(flush(page | r | w, page | r));                            // write-protected
    CHECK(flush(page | r | x, page | r));                            // execute taken
    CHECK_FALSE(flush(page | r, page | r | w | x));                  // permissions grew
    CHECK(flush(page | r, (page ^ 0x3000) | r));                     // points elsewhere
    CHECK(flush(page | r, (page & ~std::uint64_t{0x30}) | r));       // memory type WB to UC
    CHECK_FALSE(flush(page | r, page | r | 0x0600'0000'0000'0000));  // software bits
    CHECK(flush(page | r | w | x, 0x0000'0f80'd000'00f6));           // to an MMIO marker: a misconfiguration
    CHECK_FALSE(flush(0x0000'0f80'd000'00f6, page | r));             // from one: nothing was cached
}

TEST_CASE("needs_flush: the lock-free write path, ordinary paging, and levels")
{
    const std::uint64_t host_and_mmu = 0x600;  // bits 9 and 10
    const std::uint64_t entry = 0x1005;
    CHECK(needs_flush(entry | host_and_mmu, entry, shadow_long, 1, host_and_mmu));
    CHECK(needs_flush(entry | host_and_mmu, entry | 0x200, shadow_long, 1, host_and_mmu));
    CHECK_FALSE(needs_flush(entry | host_and_mmu, entry, shadow_long));
    CHECK_FALSE(needs_flush(entry, entry | host_and_mmu, shadow_long, 1, host_and_mmu));

    CHECK(needs_flush(0x1005, 0x8000'0000'0000'1005, shadow_long));  // XD set
    CHECK_FALSE(needs_flush(0x8000'0000'0000'1005, 0x1005, shadow_long));
    CHECK(needs_flush(0x1007, 0x1003, shadow_long));  // U/S cleared
    CHECK(needs_flush(0x1007, 0x1087, shadow_long));  // PAT
    CHECK(needs_flush(0x1107, 0x1007, shadow_long));  // G
    CHECK_FALSE(needs_flush(0x1027, 0x1007, shadow_long));
    CHECK(needs_flush(0x20'0087, 0x5007, shadow_long, 2));     // a large page split
    CHECK(needs_flush(0x5007, 0x6007, shadow_long, 2));        // another table
    CHECK_FALSE(needs_flush(0x5047, 0x5007, shadow_long, 2));  // bit 6 of a table entry is ignored
    CHECK_FALSE(needs_flush(0x20'00a7, 0x20'0087, shadow_long, 2));
    CHECK(needs_flush(0x20'00c7, 0x20'0087, shadow_long, 2));  // D of a large page
}

TEST_CASE("needs_flush where accesses are tracked: the TLB may hold what a tracked entry restores to")
{
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    const std::uint64_t read_execute = 0x1035;
    const std::uint64_t tracked = 0x0140'0000'0000'1030;
    CHECK(needs_flush(tracked, 0, tracking));                      // zapped while tracked
    CHECK(needs_flush(tracked, 0x0140'0000'0000'2030, tracking));  // points elsewhere
    CHECK_FALSE(needs_flush(tracked, read_execute, tracking));     // restored
    CHECK_FALSE(needs_flush(read_execute, tracked, tracking));     // ageing alone
    CHECK(needs_flush(read_execute | w, tracked, tracking));       // W was taken with it
    CHECK_FALSE(needs_flush(tracked, 0, ept_no_ad));               // by the format alone it is a hole
}

TEST_CASE("young_any by access tracking: present is young")
{
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    const std::uint64_t slots[] = {0, 0x0140'0000'0000'1030, 0x1035};
    CHECK(young_any(slots, tracking));
    const std::uint64_t old[] = {0, 0x0140'0000'0000'1030};
    CHECK_FALSE(young_any(old, tracking));
}

TEST_CASE("needs_flush agrees with constant and run-time features on every pair of single-bit changes")
{
    const auto runtime = format_for(ept_features{});
    for (unsigned low = 0; low < 64; ++low) {
        for (unsigned b = 0; b < 64; ++b) {
            const std::uint64_t before = 0x1237 ^ std::uint64_t{1} << low;
            const std::uint64_t after = before ^ std::uint64_t{1} << b;
            CHECK(needs_flush(before, after, runtime) == needs_flush(before, after, ept_ad));
        }
    }
}

TEST_CASE("needs_atomic_update: what hardware or a lock-free path may change underneath")
{
    const std::uint64_t page = 0x1030;
    CHECK_FALSE(needs_atomic_update(0, ept_ad));
    CHECK_FALSE(needs_atomic_update(0x8000'0000'0000'05a0, ept_ad));
    CHECK_FALSE(needs_atomic_update(page | r | x, ept_ad));
    CHECK(needs_atomic_update(page | r | w | x, ept_ad));            // D may be set
    CHECK_FALSE(needs_atomic_update(page | r | w | x | d, ept_ad));  // D is set, A alone does not count
    const std::uint64_t fast = 0x0600'0000'0000'0000;
    CHECK(needs_atomic_update(page | r | fast, ept_ad, fast));
    CHECK_FALSE(needs_atomic_update(page | r | fast, ept_ad));
    CHECK_FALSE(needs_atomic_update(page | r | (fast & (fast - 1)), ept_ad, fast));
    CHECK_FALSE(needs_atomic_update(page | r | w | d | fast, ept_ad, fast));
    CHECK(needs_atomic_update(page | r, ept_no_ad));  // access tracking in play
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    CHECK(needs_atomic_update(page | std::uint64_t{5} << 54, tracking));
    CHECK_FALSE(needs_atomic_update(page, tracking));
    CHECK(needs_atomic_update(page | r, tracking));
}

TEST_CASE("a frozen marker is held against the masks")
{
    // The marker of KVM reads as accessed in both formats.
    CHECK(check_marker(0x8000'0000'0000'05a0, ept_ad) == marker_error::looks_accessed);
    CHECK(check_marker(0x8000'0000'0000'05a0, shadow_long) == marker_error::looks_accessed);
    CHECK(check_marker(0x8000'0000'0000'05a0, ept_no_ad) == marker_error::none);
    CHECK(check_marker(0, ept_ad) == marker_error::is_empty);
    CHECK(check_marker(0x4, ept_ad) == marker_error::looks_present);
    CHECK(check_marker(0x4, shadow_long) == marker_error::none);
    CHECK(check_marker(0x200, ept_ad) == marker_error::looks_dirty);

    // W is not part of present in ordinary paging; write-protecting would clear it.
    CHECK(check_marker(0x8000'0000'0000'0002, shadow_long) == marker_error::looks_writable);
    // restore() would make it present.
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    CHECK(check_marker(std::uint64_t{1} << 54, tracking) == marker_error::looks_tracked);
    CHECK(check_marker(0x8000'0000'0000'05a0, tracking) == marker_error::none);
    CHECK(check_marker(0x4, tracking) == marker_error::looks_present);

    constexpr auto marker = frozen_marker<0x8000'0000'0000'0400>(ept_ad);
    std::uint64_t slot = 0x1007;
    std::uint64_t expected = 0x1007;
    CHECK(freeze(slot, expected, marker));
    CHECK(is_frozen(slot, marker));
    CHECK(slot == 0x8000'0000'0000'0400);
    CHECK_FALSE(age(slot, ept_ad));
    CHECK_FALSE(mark_accessed(slot, ept_ad));
    CHECK_FALSE(harvest_dirty(slot, ept_ad));
    CHECK_FALSE(write_protect(slot, ept_ad));
    CHECK(is_frozen(slot, marker));
    expected = 0x1007;
    CHECK_FALSE(freeze(slot, expected, marker));
    CHECK(is_frozen(expected, marker));
    CHECK_FALSE(freeze(slot, expected, marker));  // nobody freezes a frozen entry again
    store(slot, 0);
    CHECK_FALSE(is_frozen(slot, marker));
}

TEST_CASE("a frozen marker where the format is known at run time")
{
    const auto format = format_for(ept_features{});
    const auto marker = frozen_marker(0x8000'0000'0000'0400, format);
    std::uint64_t slot = 0x1007;
    std::uint64_t expected = slot;
    CHECK(freeze(slot, expected, marker));
    CHECK(is_frozen(slot, marker));
    CHECK_FALSE(freeze(slot, expected = slot, marker));
}

TEST_CASE("mark_accessed by masks without an accessed bit marks nothing")
{
    const masks m = masks::from({.present = 7});
    std::uint64_t slot = 0x1007;
    CHECK_FALSE(mark_accessed(slot, m));
    CHECK(slot == 0x1007);
}

TEST_CASE("age_table reports and clears every young slot of a table of each shape")
{
    alignas(4096) std::uint64_t long_table[512] = {};
    alignas(4096) std::uint32_t two_level_table[1024] = {};
    for (unsigned i = 0; i < 512; i += 3) long_table[i] = 0x1021 | i << 12;
    for (unsigned i = 0; i < 1024; i += 5) two_level_table[i] = 0x1021 | i << 12;
    long_table[1] = 0x20;  // not present

    const auto young_long = age_table(long_table, shadow_long);
    const auto young_two = age_table(two_level_table, shadow_two);
    for (unsigned i = 0; i < 512; ++i) CHECK(young_long.test(i) == (i % 3 == 0));
    for (unsigned i = 0; i < 1024; ++i) CHECK(young_two.test(i) == (i % 5 == 0));
    CHECK(young_long.count() == 171);
    CHECK(young_two.count() == 205);
    CHECK(long_table[1] == 0x20);
    CHECK(long_table[3] == (0x1001 | 3 << 12));
    CHECK_FALSE(age_table(long_table, shadow_long).any());
    CHECK_FALSE(age_table(two_level_table, shadow_two).any());
}

// ---- what an absent entry must have

namespace {

constexpr auto ept_ve = ept<ept_features{.accessed_dirty = false, .suppress_ve = true}>;
constexpr auto ept_ve_ad = ept<ept_features{.suppress_ve = true}>;
constexpr auto ept_leaks = ept<ept_features{.physical_bits = 39, .accessed_dirty = false, .memory_bits = 37}>;
constexpr auto shadow_leaks = shadow<shadow_features{.physical_bits = 46, .memory_bits = 44}>;

constexpr std::uint64_t suppress = 0x8000'0000'0000'0000;

template <class Tracking>
void check_tracking_with_suppress_ve(const Tracking& tracking)
{
    for (const std::uint64_t ve : {std::uint64_t{0}, suppress}) {
        for (std::uint64_t permission = 0; permission < 8; ++permission) {
            const std::uint64_t entry = 0x123'4030 | permission | ve;
            std::uint64_t slot = entry;
            if ((permission & (r | x)) == 0) {
                CHECK(track(slot, tracking) == track_result::not_present);
                CHECK(slot == entry);
                continue;
            }
            if ((permission & (r | w)) == w) continue;  // breaks a rule
            // R and X in bits 54 and 56, bit 63 in bit 57; the tracked entry itself suppresses #VE.
            const std::uint64_t record = (permission & w) << 54;
            const std::uint64_t tracked =
                suppress | 0x123'4030 | permission << 54 | (ve != 0 ? std::uint64_t{1} << 57 : 0);
            CHECK(age(slot, tracking));
            CHECK(slot == tracked);
            CHECK(is_tracked(slot, tracking));
            CHECK_FALSE(age(slot, tracking));
            CHECK(check_absent(slot, tracking.format()) == absent_error::none);
            CHECK_FALSE(needs_flush(slot, entry & ~w, tracking));  // what it restores to
            CHECK(restore(slot, tracking));
            CHECK(slot == ((entry & ~w) | record));
            CHECK_FALSE(restore(slot, tracking));
            CHECK(slot == ((entry & ~w) | record));
        }
    }
    for (const unsigned used : {54U, 56U, 57U}) {
        const std::uint64_t entry = 0x123'4037 | std::uint64_t{1} << used;
        std::uint64_t slot = entry;
        CHECK(track(slot, tracking) == track_result::saved_bits_in_use);
        CHECK(age(slot, tracking));
        CHECK(slot == entry);
    }
    std::uint64_t empty = suppress;
    CHECK_FALSE(is_tracked(empty, tracking));
    CHECK_FALSE(age(empty, tracking));
    CHECK_FALSE(restore(empty, tracking));
    CHECK(empty == suppress);
}

}  // namespace

TEST_CASE("a tracked entry suppresses #VE, and bit 63 comes back as it was")
{
    constexpr auto tracking = track_accesses<54>(ept_ve);
    static_assert(tracking.tracked(0x123'4037) == 0x81c0'0000'0123'4030);
    static_assert(tracking.tracked(0x123'4035) == 0x8140'0000'0123'4030);
    static_assert(tracking.restored(0x8140'0000'0123'4030) == 0x123'4035);
    static_assert(tracking.tracked(suppress | 0x123'4037) == 0x83c0'0000'0123'4030);
    static_assert(tracking.restored(0x8340'0000'0123'4030) == (suppress | 0x123'4035));
    static_assert(tracking.saved_mask() == 0x0140'0000'0000'0000);
    static_assert(tracking.used_mask() == 0x0340'0000'0000'0000);
    check_tracking_with_suppress_ve(tracking);
    check_tracking_with_suppress_ve(track_accesses<54>(format_for(ept_ve->features())));
    // What is kept has no place where bit 57 is the hardware's.
    using by_features = access_tracking<runtime_format<ept_description>, 54>;
    CHECK(by_features::free_in(format_for(ept_features{.accessed_dirty = false, .verify_guest_paging = true})));
    CHECK_FALSE(by_features::free_in(
        format_for(ept_features{.accessed_dirty = false, .verify_guest_paging = true, .suppress_ve = true})));
}

TEST_CASE("without #VE bit 63 is a software bit, which tracking leaves alone")
{
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    for (const std::uint64_t software : {std::uint64_t{0}, suppress}) {
        std::uint64_t slot = 0x123'4037 | software;
        CHECK(age(slot, tracking));
        CHECK(slot == (0x01c0'0000'0123'4030 | software));
        CHECK(restore(slot, tracking));
        CHECK(slot == (0x80'0000'0123'4035 | software));
    }
}

TEST_CASE("a tracked entry points past the memory, and its address comes back (L1TF)")
{
    constexpr auto tracking = track_accesses<54>(ept_leaks);
    constexpr std::uint64_t highest = std::uint64_t{1} << 38;
    const auto runtime = track_accesses<54>(format_for(ept_leaks->features()));
    std::uint64_t frame = 0x1000;
    for (int n = 0; n < 10'000; ++n) {
        frame = (frame * 0x5851'f42d'4c95'7f2d + 0x1405'7b7e'f767'814f) & 0x1f'ffff'f000;  // below 2^37
        const std::uint64_t entry = frame | 0x35;
        std::uint64_t slot = entry;
        CHECK(age(slot, tracking));
        CHECK(slot == (frame | 0x30 | highest | std::uint64_t{5} << 54));
        CHECK((slot & 0x7f'ffff'f000) >= std::uint64_t{1} << 37);
        CHECK(check_absent(slot, ept_leaks) == absent_error::none);
        CHECK(slot == runtime.tracked(entry));
        CHECK(restore(slot, tracking));
        CHECK(slot == entry);
        CHECK(slot == runtime.restored(runtime.tracked(entry)));
    }
    // A page of a device at the top: its highest address bit would be lost.
    std::uint64_t device = highest | 0x1037;
    CHECK(track(device, tracking) == track_result::saved_bits_in_use);
    CHECK(age(device, tracking));
    CHECK(device == (highest | 0x1037));

    constexpr auto ordinary = track_accesses<52>(shadow_leaks);
    std::uint64_t slot = 0x1067;
    CHECK(age(slot, ordinary));
    CHECK(slot == 0x0010'2000'0000'1064);
    CHECK(restore(slot, ordinary));
    CHECK(slot == 0x1065);
}

TEST_CASE("a tracked entry of a CPU with both: suppresses #VE and points past the memory")
{
    constexpr auto both =
        ept<ept_features{.physical_bits = 46, .accessed_dirty = false, .suppress_ve = true, .memory_bits = 45}>;
    constexpr auto tracking = track_accesses<54>(both);
    for (const std::uint64_t ve : {std::uint64_t{0}, suppress}) {
        std::uint64_t slot = 0x123'4037 | ve;
        CHECK(age(slot, tracking));
        CHECK(slot == (0x81c0'2000'0123'4030 | ve >> 6));
        CHECK(check_absent(slot, both) == absent_error::none);
        CHECK(restore(slot, tracking));
        CHECK(slot == (0x80'0000'0123'4035 | ve));
    }
}

TEST_CASE("nothing can be tracked where the highest address bit is memory's")
{
    // The C-bit takes bit 45, so that bit 44 is the highest; memory ends at 2^44 or at 2^45.
    using tracking = access_tracking<runtime_format<shadow_description>, 52>;
    const auto with = [](unsigned memory_bits) {
        return format_for(shadow_features{.physical_bits = 46, .encryption_bit = 45, .memory_bits = memory_bits});
    };
    CHECK(tracking::free_in(with(44)));
    CHECK_FALSE(tracking::free_in(with(45)));
}

TEST_CASE("what is wrong with values of absent entries")
{
    CHECK(check_absent(0, ept_ad) == absent_error::none);
    CHECK(check_absent(0x4, ept_ad) == absent_error::looks_present);
    CHECK(check_absent(0x4, shadow_long) == absent_error::none);
    CHECK(check_absent(0x1, shadow_long) == absent_error::looks_present);
    CHECK(check_absent(0, ept_ve) == absent_error::bits_not_written);
    CHECK(check_absent(suppress, ept_ve) == absent_error::none);
    CHECK(check_absent(suppress | 0x1000, ept_ve) == absent_error::none);
    CHECK(check_absent(suppress | 0x1001, ept_ve) == absent_error::looks_present);
    CHECK(check_absent(0, ept_leaks) == absent_error::none);
    CHECK(check_absent(0xff8, ept_leaks) == absent_error::none);  // page 0
    CHECK(check_absent(0x1000, ept_leaks) == absent_error::points_into_memory);
    CHECK(check_absent(0x1f'ffff'f000, ept_leaks) == absent_error::points_into_memory);
    CHECK(check_absent(0x20'0000'0000, ept_leaks) == absent_error::none);
    CHECK(check_absent(0x1000, shadow_leaks) == absent_error::points_into_memory);
    CHECK(check_absent(0x1000, format_for(shadow_leaks->features())) == absent_error::points_into_memory);
    const masks m = masks::from({.present = 0x1});
    CHECK(check_absent(0x1000, m) == absent_error::none);
    CHECK(check_absent(0x1001, m) == absent_error::looks_present);
}

TEST_CASE("unmapping leaves what an empty slot of the format holds")
{
    const auto check = [](const auto& format, std::uint64_t empty) {
        CHECK(format->empty() == empty);
        std::uint64_t slot = 0x123'4037;
        CHECK(unmap(slot, format) == 0x123'4037);
        CHECK(slot == empty);
        CHECK(unmap(slot, format) == empty);
        CHECK(check_absent(slot, format) == absent_error::none);
    };
    check(ept_ad, 0);
    check(shadow_long, 0);
    check(ept_leaks, 0);
    check(ept_ve, suppress);
    check(ept_ve_ad, suppress);
    check(format_for(ept_ve->features()), suppress);
    check(format_for(ept_features{}), 0);
    check(masks::from({.present = 0x7}), 0);

    std::uint64_t slot = 0x123'4037;
    CHECK(unmap(slot, ept_ve, suppress | 0x40) == 0x123'4037);
    CHECK(slot == (suppress | 0x40));
    CHECK(unmap(slot, ept_leaks, 0x20'0000'1000) == (suppress | 0x40));
    CHECK(slot == 0x20'0000'1000);
}

TEST_CASE("markers of formats that want something of absent entries")
{
    CHECK(check_marker(0x4a0, ept_ve) == marker_error::bits_not_written);
    CHECK(check_marker(suppress | 0x4a0, ept_ve) == marker_error::none);
    CHECK(check_marker(0, ept_ve) == marker_error::is_empty);
    CHECK(check_marker(suppress, ept_ve) == marker_error::is_empty);
    CHECK(check_marker(suppress, ept_ad) == marker_error::none);
    CHECK(check_marker(0x40'1000, ept_leaks) == marker_error::points_into_memory);
    CHECK(check_marker(0x20'0000'1000, ept_leaks) == marker_error::none);
    CHECK(check_marker(0x5a0, ept_leaks) == marker_error::none);  // page 0
    constexpr auto tracking = track_accesses<54>(ept_ve);
    CHECK(check_marker(0x4a0, tracking) == marker_error::bits_not_written);
    CHECK(check_marker(suppress | 0x4a0, tracking) == marker_error::none);
    CHECK(check_marker(suppress | std::uint64_t{1} << 56, tracking) == marker_error::looks_tracked);

    constexpr auto marker = frozen_marker < suppress | 0x4a0 > (tracking);
    std::uint64_t slot = 0x123'4037;
    std::uint64_t expected = slot;
    CHECK(freeze(slot, expected, marker));
    CHECK(slot == (suppress | 0x4a0));
    CHECK_FALSE(age(slot, tracking));
    CHECK_FALSE(restore(slot, tracking));
    CHECK_FALSE(write_protect(slot, ept_ve));
    CHECK(is_frozen(slot, marker));
}

// ---- where a set bit denies writes, or the write permission is the dirty state

namespace {

// Bits of an entry: writes allowed, and whether hardware may allow them.
struct stage_state {
    bool translates;
    bool writable;
    bool managed;
};

template <class Format>
stage_state state_of(std::uint64_t entry, const Format& format, bool write_bit_denies)
{
    const bool bit_set = (entry & stages::write) != 0;
    return {stages::translates(entry), bit_set != write_bit_denies,
            format->features().dirty_state && (entry & stages::modifier) != 0};
}

// clear_dirty does not compile for a constant format without a dirty state.
template <class Format>
constexpr bool may_be_dirty()
{
    if constexpr (constant_masks<Format>) return Format
        {
        } -> features().dirty_state;
    return true;
}

template <class Format>
void check_stage(const Format& format, bool write_bit_denies)
{
    const std::uint64_t forbids = write_bit_denies ? stages::write : 0;
    const auto without_write = [&](std::uint64_t entry) { return (entry & ~stages::write) | forbids; };
    int wrong = 0;
    for (const std::uint64_t entry : values<std::uint64_t>()) {
        const stage_state is = state_of(entry, format, write_bit_denies);

        std::uint64_t slot = entry;
        const bool writes = is.translates && (is.writable || is.managed);
        const std::uint64_t unmanaged = is.managed ? ~stages::modifier : ~std::uint64_t{0};
        wrong += write_protect(slot, format) != writes;
        wrong += slot != (is.translates ? without_write(entry) & unmanaged : entry);
        wrong += write_protect(slot, format);

        slot = entry;
        const bool written = is.translates && is.writable;
        wrong += harvest_dirty(slot, format) != written;
        wrong += slot != (written ? without_write(entry) : entry);
        wrong += harvest_dirty(slot, format);

        slot = entry;
        const bool used = is.translates && (entry & 0x400) != 0;
        wrong += age(slot, format) != used || slot != (used ? entry & ~std::uint64_t{0x400} : entry);

        if constexpr (may_be_dirty<Format>()) {
            if (!format->features().dirty_state) continue;
            slot = entry;
            wrong += dirty(entry, format) != (is.writable && is.managed);
            wrong += clear_dirty(slot, format) != (written && is.managed);
            wrong += slot != (written && is.managed ? without_write(entry) : entry);
            wrong += clear_dirty(slot, format);
        }
    }
    CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("write_protect, harvest_dirty and clear_dirty by a permission that denies, and by a dirty modifier")
{
    check_stage(stages::first, true);
    check_stage(stages::first_without, true);
    check_stage(stages::second, false);
    check_stage(stages::second_without, false);
    check_stage(format_for(stages::first->features()), true);
    check_stage(format_for(stages::first_without->features()), true);
    check_stage(format_for(stages::second->features()), false);
    check_stage(format_for(stages::second_without->features()), false);
}

TEST_CASE("the states of a page whose write permission is its dirty state")
{
    // Stage 1: clean, then written by hardware, harvested, protected.
    std::uint64_t slot = 0x1403 | stages::write | stages::modifier;
    CHECK_FALSE(dirty(slot, stages::first));
    CHECK_FALSE(clear_dirty(slot, stages::first));
    CHECK_FALSE(harvest_dirty(slot, stages::first));
    slot &= ~stages::write;
    CHECK(dirty(slot, stages::first));
    CHECK(harvest_dirty(slot, stages::first));
    CHECK(slot == (0x1403 | stages::write | stages::modifier));
    CHECK(write_protect(slot, stages::first));
    CHECK(slot == (0x1403 | stages::write));
    CHECK_FALSE(write_protect(slot, stages::first));

    // Stage 2.
    slot = 0x1443 | stages::modifier;
    CHECK_FALSE(dirty(slot, stages::second));
    CHECK_FALSE(clear_dirty(slot, stages::second));
    slot |= stages::write;
    CHECK(dirty(slot, stages::second));
    CHECK(clear_dirty(slot, stages::second));
    CHECK(slot == (0x1443 | stages::modifier));
    CHECK(write_protect(slot, stages::second));
    CHECK(slot == 0x1443);

    // At run time, without the modifier, there is no dirty state to clear but writes to find.
    const auto plain = format_for(stages::second_without->features());
    slot = 0x1443 | stages::write;
    CHECK(harvest_dirty(slot, plain));
    CHECK(slot == 0x1443);
}

TEST_CASE("needs_flush by a permission that denies, and by a dirty modifier")
{
    constexpr std::uint64_t page = 0x1403;
    CHECK(needs_flush(page, page | stages::write, stages::first));
    CHECK_FALSE(needs_flush(page | stages::write, page, stages::first));
    CHECK(needs_flush(page | stages::write | stages::modifier, page | stages::write, stages::first));
    CHECK(needs_flush(page | 0x40 | stages::write, page | 0x40, stages::second));
    CHECK_FALSE(needs_flush(page | 0x40, page | 0x40 | stages::write, stages::second));
    CHECK_FALSE(needs_flush(page | 0x440, page | 0x40, stages::second));  // AF
    CHECK_FALSE(needs_flush(page | stages::modifier, page, stages::first_without));
}

TEST_CASE("markers must not look writable where a clear bit allows writes")
{
    CHECK(check_marker(0x100, stages::first) == marker_error::looks_writable);
    CHECK(check_marker(0x180, stages::first) == marker_error::none);
    CHECK(check_marker(0x100, stages::second) == marker_error::none);
    CHECK(check_marker(0x180, stages::second) == marker_error::looks_writable);
}

TEST_CASE("a marker fits the slot")
{
    constexpr auto narrow = shadow<shadow_features{.levels = 2}>;
    CHECK(check_marker(0x1'0000'0800, narrow) == marker_error::too_wide);
    CHECK(check_marker(0x0800, narrow) == marker_error::none);
    CHECK(check_marker(0x1'0000'0800, shadow<shadow_features{}>) == marker_error::none);
}

// ---- what does not translate is no page

namespace {

// Every operation on a slot that must be left alone, and on all forms of one that hold it.
template <class Word, class Format>
void check_left_alone(Word entry, const Format& format)
{
    CAPTURE(entry);
    Word slot = entry;
    Word pair[2] = {entry, entry};
    CHECK_FALSE(translates(entry, format));
    if (format->accessed.exists()) {
        CHECK_FALSE(age(slot, format));
        CHECK_FALSE(mark_accessed(slot, format));
        CHECK_FALSE(age_all(pair, format));
        CHECK_FALSE(young_any(pair, format));
        CHECK_FALSE(age_table(pair, format).any());
        CHECK_FALSE(young_in(pair, format).any());
    }
    if (format->dirty.exists()) {
        CHECK_FALSE(clear_dirty(slot, format));
        CHECK_FALSE(mark_dirty(slot, format));
    }
    CHECK_FALSE(write_protect(slot, format));
    CHECK_FALSE(harvest_dirty(slot, format));
    CHECK_FALSE(harvest_dirty(pair, format).any());
    CHECK_FALSE(write_protect_table(pair, format).any());
    CHECK_FALSE(needs_atomic_update(entry, format));
    CHECK(slot == entry);
    CHECK(pair[0] == entry);
    CHECK(pair[1] == entry);
}

template <class Tracking>
void check_not_tracked(std::uint64_t entry, const Tracking& tracking)
{
    std::uint64_t slot = entry;
    CHECK(track(slot, tracking) == track_result::not_present);
    CHECK_FALSE(age(slot, tracking));
    CHECK_FALSE(young(slot, tracking));
    CHECK_FALSE(young_any(std::vector{slot}, tracking));
    CHECK_FALSE(restore(slot, tracking));
    CHECK_FALSE(harvest_dirty(slot, tracking));
    CHECK(slot == entry);
}

constexpr auto ept_no_ad_46 = ept<ept_features{.physical_bits = 46, .accessed_dirty = false}>;

}  // namespace

TEST_CASE("an entry that breaks a rule marks an emulated device: no operation makes a mapping of it")
{
    check_left_alone<std::uint64_t>(0xfee0'0306, ept_46);  // W without R
    check_left_alone<std::uint64_t>(0xfee0'0306, format_for(ept_46->features()));
    check_left_alone<std::uint64_t>(0x0008'0000'fee0'0337, ept_46);  // past the width
    check_left_alone<std::uint64_t>(0x0008'0000'fee0'0337, format_for(ept_46->features()));
    check_left_alone<std::uint64_t>(0xfee0'033f, ept_46);  // memory type 7
    check_left_alone<std::uint64_t>(0x0008'0000'fee0'0067, shadow_46);
    check_left_alone<std::uint64_t>(0x0008'0000'fee0'0067, format_for(shadow_46->features()));
    check_left_alone<std::uint64_t>(0x0010'0000'fee0'0067, shadow_pae);
    check_left_alone<std::uint64_t>(0x8000'0000'fee0'0067, shadow<shadow_features{.execute_disable = false}>);
    check_left_alone<std::uint64_t>(0x0008'0000'fee0'0067, npt<npt_features{.physical_bits = 46}>);

    check_not_tracked(0xfee0'0006, track_accesses<54>(ept_no_ad_46));
    check_not_tracked(0xfee0'0006, track_accesses<54>(format_for(ept_no_ad_46->features())));
    check_not_tracked(0x0008'0000'fee0'0037, track_accesses<54>(ept_no_ad_46));
    check_not_tracked(0x0008'0000'fee0'0067, track_accesses<52>(shadow_46));

    // Execution without R is an access that some CPUs allow.
    constexpr auto no_execute_only = ept<ept_features{.execute_only = false}>;
    check_left_alone<std::uint64_t>(0xfee0'0304, no_execute_only);
    std::uint64_t slot = 0xfee0'0304;
    CHECK(age(slot, ept_ad));
    CHECK(slot == 0xfee0'0204);
}

TEST_CASE("the level is what an entry is judged by, where the caller knows it")
{
    // As a 4-Kbyte page it is one; a 2-Mbyte page begins elsewhere; a table has no memory type.
    const std::uint64_t entry = 0x13b7;
    const auto check = [&](const auto& format) {
        for (unsigned level = 0; level <= 5; ++level) {
            CAPTURE(level);
            const bool is_page = level <= 1;
            CHECK(translates(entry, format, level) == is_page);
            std::uint64_t slot = entry;
            std::uint64_t table[2] = {entry, 0};
            CHECK(age(slot, format, {}, level) == is_page);
            CHECK(mark_accessed(slot, format, {}, level) == is_page);
            CHECK(clear_dirty(slot, format, {}, level) == is_page);
            CHECK(mark_dirty(slot, format, {}, level) == is_page);
            CHECK(harvest_dirty(slot, format, {}, level) == is_page);
            CHECK(write_protect(slot, format, {}, level) == is_page);
            CHECK(slot == (is_page ? entry & ~(w | d) : entry));
            CHECK(age_table(table, format, {}, level).any() == is_page);
            CHECK(harvest_dirty(table, format, {}, level).any() == is_page);
            CHECK(write_protect_table(table, format, {}, level).any() == is_page);
        }
    };
    check(ept_ad);
    check(format_for(ept_ad->features()));
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    std::uint64_t slot = 0x10b7;
    CHECK(track(slot, tracking, {}, 2) == track_result::not_present);
    CHECK_FALSE(age(slot, tracking, {}, 2));
    CHECK(age(slot, tracking, {}, 1));

    // Any level will do without: a table, and a large page.
    std::uint64_t others[] = {0x1107, 0x60'01b7};
    CHECK(age_all(others, ept_46));
    CHECK(others[0] == 0x1007);
    CHECK(others[1] == 0x60'00b7);
}

// ---- bits of absent entries

TEST_CASE("values for absent entries do not look used: unmap refuses what a marker must not be")
{
    CHECK(check_absent(0x60, shadow_long) == absent_error::looks_accessed);
    CHECK(check_absent(0x40, shadow_long) == absent_error::looks_dirty);
    CHECK(check_absent(0x100, ept_ad) == absent_error::looks_accessed);
    CHECK(check_absent(0x200, ept_ad) == absent_error::looks_dirty);
    CHECK(check_absent(0x300, ept_no_ad) == absent_error::none);
    CHECK(check_absent(0x20, masks::from({.present = 1, .accessed = 0x20})) == absent_error::looks_accessed);
    CHECK(check_absent(0x40, masks::from({.present = 1, .dirty = 0x40})) == absent_error::looks_dirty);
    // What check_absent() refuses so does check_marker().
    for (const std::uint64_t value : values<std::uint64_t>()) {
        const auto refuses_alike = [&](const auto& format) {
            return check_absent(value, format) == absent_error::none ||
                   check_marker(value, format) != marker_error::none;
        };
        if (!refuses_alike(ept_ve_ad) || !refuses_alike(ept_leaks) || !refuses_alike(shadow_leaks)) FAIL_CHECK(value);
    }
}

TEST_CASE("A and D that a CPU sets in an entry that is absent by then do not change what it is")
{
    const auto check = [](const auto& format, std::uint64_t accessed, std::uint64_t dirty, std::uint64_t value) {
        const auto marker = frozen_marker(value, format);
        for (const std::uint64_t stray : {std::uint64_t{0}, accessed, dirty, accessed | dirty}) {
            CAPTURE(stray);
            // Frozen: still known, and nobody freezes it again or changes it.
            std::uint64_t slot = 0x1007;
            std::uint64_t expected = slot;
            CHECK(freeze(slot, expected, marker));
            slot |= stray;
            CHECK(is_frozen(slot, marker));
            expected = slot;
            CHECK_FALSE(freeze(slot, expected, marker));
            expected = 0x1007;
            CHECK_FALSE(freeze(slot, expected, marker));
            CHECK(is_frozen(expected, marker));
            CHECK_FALSE(age(slot, format));
            CHECK_FALSE(clear_dirty(slot, format));
            CHECK(slot == (value | stray));
            CHECK_FALSE(is_frozen(slot ^ 0x1000, marker));

            // Empty.
            slot = 0x1007;
            CHECK(unmap(slot, format) == 0x1007);
            slot |= stray;
            CHECK(is_empty(slot, format));
            CHECK_FALSE(is_empty(slot | 0x1000, format));
            CHECK_FALSE(young_any(std::vector{slot}, format));
            CHECK_FALSE(present(unmap(slot, format), format));
            CHECK(slot == format->empty());
        }
    };
    check(shadow_long, 0x20, 0x40, 0x400);
    check(npt_long, 0x20, 0x40, 0x400);
    check(ept_ad, 0x100, 0x200, 0x8000'0000'0000'0400);
    check(format_for(ept_features{}), 0x100, 0x200, 0x8000'0000'0000'0400);
    check(ept_ve_ad, 0x100, 0x200, suppress | 0x400);
    check(shadow_leaks, 0x20, 0x40, 0x400);
    check(masks::from({.present = 1, .accessed = 0x20, .dirty = 0x40}), 0x20, 0x40, 0x400);

    constexpr auto constant = frozen_marker<0x400>(shadow_long);
    static_assert(is_frozen(0x460, constant) && !is_frozen(0x420 | 0x800, constant));
    CHECK(is_empty(0, ept_ve_ad));  // memory that nobody filled
}

TEST_CASE("a tracked entry to which a CPU adds A and D is tracked, and comes back; D may be one too many")
{
    constexpr auto tracking = track_accesses<52>(shadow_long);
    for (const std::uint64_t stray : {0x0U, 0x20U, 0x40U, 0x60U}) {
        std::uint64_t slot = 0x1007;
        CHECK(age(slot, tracking));
        slot |= stray;
        CHECK(is_tracked(slot, tracking));
        CHECK_FALSE(age(slot, tracking));
        CHECK(dirty(slot, tracking) == ((stray & 0x40) != 0));
        std::uint64_t zapped = slot;
        CHECK(is_tracked(unmap(zapped, shadow_long), tracking));
        CHECK(zapped == 0);
        CHECK(restore(slot, tracking));
        CHECK(slot == (0x1005 | stray));
    }
}

TEST_CASE("what absent entries must have: empty slots, unmapped, frozen and tracked ones have it")
{
    const auto check = [](const auto& format, const auto& tracking, std::uint64_t marker) {
        CHECK(check_absent(format->empty(), format) == absent_error::none);
        for (unsigned level = 1; level <= 4; ++level) CHECK(kind_of(0x6053'38f8, level, format) == kind::none);
        const auto fits = [&](std::uint64_t slot) {
            return !present(slot, format) && check_absent(slot, format) == absent_error::none;
        };
        std::uint64_t slot = 0x1037;
        CHECK(unmap(slot, format) == 0x1037);
        CHECK(fits(slot));
        slot = 0x1037;
        CHECK(age(slot, tracking));
        CHECK(fits(slot));
        std::uint64_t expected = slot;
        CHECK(freeze(slot, expected, frozen_marker(marker, tracking)));
        CHECK(fits(slot));
    };
    constexpr auto both =
        ept<ept_features{.physical_bits = 46, .accessed_dirty = false, .suppress_ve = true, .memory_bits = 45}>;
    check(ept_no_ad, track_accesses<54>(ept_no_ad), 0x400);
    check(ept_ve, track_accesses<54>(ept_ve), suppress | 0x400);
    check(ept_leaks, track_accesses<54>(ept_leaks), 0x20'0000'1400);
    check(both, track_accesses<54>(both), suppress | 0x400);
    check(format_for(both->features()), track_accesses<54>(format_for(both->features())), suppress | 0x400);
}

// ---- D, shadow stacks

TEST_CASE("needs_atomic_update assumes no control register: CR0.WP decides whether D of a read-only page is set")
{
    CHECK(needs_atomic_update(0x5025, shadow_long));
    CHECK(needs_atomic_update(0x5025, shadow_pae));
    CHECK(needs_atomic_update(0x5025, shadow_two));
    CHECK(needs_atomic_update(0x5025, format_for(shadow_features{})));
    CHECK_FALSE(needs_atomic_update(0x5065, shadow_long));
    // CR4.CET needs CR0.WP = 1; nested accesses are a user's; EPT has no such control.
    CHECK_FALSE(needs_atomic_update(0x5025, shadow<shadow_features{.shadow_stacks = true}>));
    CHECK(needs_atomic_update(0x5027, shadow<shadow_features{.shadow_stacks = true}>));
    CHECK_FALSE(needs_atomic_update(0x5025, npt_long));
    CHECK(needs_atomic_update(0x5027, npt_long));
    CHECK_FALSE(needs_atomic_update(0x5135, ept_ad));
    CHECK(needs_atomic_update(0x5137, ept_ad));
    CHECK_FALSE(needs_atomic_update(0x5337, ept_ad));
}

TEST_CASE("mark_dirty puts D back into a page, and into nothing else")
{
    const auto check = [](const auto& format, std::uint64_t entry, std::uint64_t dirty_bit) {
        for (const std::uint64_t writable : {std::uint64_t{0}, w}) {
            std::uint64_t slot = entry | writable;
            CHECK(mark_dirty(slot, format));
            CHECK(slot == (entry | writable | dirty_bit));
            CHECK_FALSE(mark_dirty(slot, format));
            CHECK(harvest_dirty(slot, format));
            CHECK(slot == (entry | writable));
        }
        std::uint64_t slot = format->empty();
        CHECK_FALSE(mark_dirty(slot, format));
        CHECK(slot == format->empty());
    };
    check(ept_ad, 0x1035, d);
    check(npt_long, 0x1005, 0x40);
    check(shadow_long, 0x1005, 0x40);
    check(format_for(shadow_features{}), 0x1005, 0x40);

    std::uint64_t slot = 0x1001;
    CHECK(mark_dirty(slot, masks::from({.present = 1, .dirty = 0x40})));
    CHECK(slot == 0x1041);
    CHECK_FALSE(mark_dirty(slot, masks::from({.present = 1})));
    CHECK_FALSE(mark_dirty(slot, format_for(ept_features{.accessed_dirty = false})));
    CHECK(slot == 0x1041);
}

TEST_CASE("mark_dirty where the write permission is the dirty state")
{
    std::uint64_t slot = 0x1403 | stages::write | stages::modifier;  // clean
    CHECK(mark_dirty(slot, stages::first));
    CHECK(slot == (0x1403 | stages::modifier));
    CHECK(dirty(slot, stages::first));
    CHECK_FALSE(mark_dirty(slot, stages::first));
    slot = 0x1403 | stages::write;  // read-only: nothing would find the write
    CHECK_FALSE(mark_dirty(slot, stages::first));
    CHECK(slot == (0x1403 | stages::write));

    slot = 0x1443 | stages::modifier;
    CHECK(mark_dirty(slot, stages::second));
    CHECK(slot == (0x1443 | stages::modifier | stages::write));
    slot = 0x1443;
    CHECK_FALSE(mark_dirty(slot, stages::second));
    CHECK(slot == 0x1443);
    CHECK_FALSE(mark_dirty(slot, format_for(stages::second_without->features())));
}

namespace {

constexpr auto cet = shadow<shadow_features{.shadow_stacks = true}>;

template <class Format>
void check_shadow_stacks(const Format& format)
{
    // W and D go together, of a page of a shadow stack (W = 0, D = 1) too.
    for (const std::uint64_t flags : {0x00U, 0x02U, 0x40U, 0x42U}) {
        CAPTURE(flags);
        const std::uint64_t entry = 0x1025 | flags;
        std::uint64_t slot = entry;
        CHECK(write_protect(slot, format) == (flags != 0));
        CHECK(slot == 0x1025);
        CHECK(needs_flush(entry, slot, format) == (flags != 0));

        alignas(64) std::uint64_t table[64];
        for (std::uint64_t& one : table) one = entry;
        CHECK(write_protect_table(table, format).count() == (flags != 0 ? 64 : 0));
        for (const std::uint64_t one : table) CHECK(one == 0x1025);

        slot = entry;
        CHECK(harvest_dirty(slot, format) == ((flags & 0x40) != 0));
        CHECK(slot == (entry & ~std::uint64_t{0x40}));
        CHECK(needs_flush(entry, slot, format) == ((flags & 0x40) != 0));

        // D would make a read-only page one of a shadow stack.
        slot = entry;
        CHECK(mark_dirty(slot, format) == (flags == 0x02));
        CHECK(slot == (flags == 0x02 ? entry | 0x40 : entry));

        // No longer of a shadow stack, if only by the write permission.
        CHECK(needs_flush(entry, entry | 0x02, format) == (flags == 0x40));
        CHECK_FALSE(needs_flush(entry & ~std::uint64_t{0x42}, entry, format));
    }
    std::uint64_t broken = 0x0008'0000'0000'1067;
    CHECK_FALSE(write_protect(broken, format_for(shadow_features{.physical_bits = 46, .shadow_stacks = true})));
    CHECK(broken == 0x0008'0000'0000'1067);

    // Tracking takes D with W, so that what is restored is no shadow stack's; and records it.
    const auto tracking = track_accesses<52>(format);
    for (const std::uint64_t flags : {0x00U, 0x02U, 0x40U, 0x42U}) {
        std::uint64_t slot = 0x1025 | flags;
        const bool written = (flags & 0x40) != 0;
        CHECK(age(slot, tracking));
        CHECK(restore(slot, tracking));
        CHECK(slot == (0x1025 | (written ? tracking.record_mask() : 0)));
        CHECK(dirty(slot, tracking) == written);
        CHECK(harvest_dirty(slot, tracking) == written);
        CHECK(slot == 0x1025);
    }
}

}  // namespace

TEST_CASE("where shadow stacks are, a page without W is left without D")
{
    check_shadow_stacks(cet);
    check_shadow_stacks(format_for(cet->features()));
    // Without: D stays.
    std::uint64_t slot = 0x1067;
    CHECK(write_protect(slot, shadow_long));
    CHECK(slot == 0x1065);
    CHECK_FALSE(needs_flush(0x1065, 0x1067, shadow_long));
}

// ---- tracking loses no write

namespace {

// A page that was written comes out of a harvest by the tracking, wherever the harvest comes.
template <class Format, unsigned Shift>
void check_record(const access_tracking<Format, Shift>& tracking, std::uint64_t written, std::uint64_t clean)
{
    const auto harvest_after = [&](std::uint64_t entry, auto... steps) {
        std::uint64_t slot = entry;
        (steps(slot), ...);
        CHECK(dirty(slot, tracking) == (entry == written));
        CHECK(harvest_dirty(slot, tracking) == (entry == written));
        CHECK_FALSE(harvest_dirty(slot, tracking));
        CHECK_FALSE(dirty(slot, tracking));
        return slot;
    };
    const auto aged = [&](std::uint64_t& slot) { CHECK(age(slot, tracking)); };
    const auto restored = [&](std::uint64_t& slot) { CHECK(restore(slot, tracking)); };
    for (const std::uint64_t entry : {written, clean}) {
        harvest_after(entry);
        const std::uint64_t held = harvest_after(entry, aged);
        CHECK(is_tracked(held, tracking));
        const std::uint64_t back = harvest_after(entry, aged, restored);
        CHECK(translates(back, tracking.format()));
        CHECK(harvest_after(entry, aged, restored, aged, restored) == back);
        CHECK(harvest_after(entry, aged, restored, aged) == held);

        alignas(64) std::uint64_t table[64];
        for (std::uint64_t& slot : table) slot = entry;
        CHECK(age_table(table, tracking).count() == 64);
        CHECK(harvest_dirty(table, tracking).count() == (entry == written ? 64 : 0));
        CHECK_FALSE(harvest_dirty(table, tracking).any());
    }
}

}  // namespace

TEST_CASE("a page that was written, then aged by tracking and restored, is found by the next harvest")
{
    check_record(track_accesses<54>(ept_no_ad), 0x1037, 0x1035);
    check_record(track_accesses<52>(ept_no_ad), 0x1037, 0x1035);
    check_record(track_accesses<54>(format_for(ept_features{.accessed_dirty = false})), 0x1037, 0x1035);
    check_record(track_accesses<54>(ept_ve), suppress | 0x1037, suppress | 0x1035);
    check_record(track_accesses<54>(ept_leaks), 0x1037, 0x1035);
    check_record(track_accesses<52>(shadow_long), 0x1067, 0x1027);  // D stays in the tracked entry
    check_record(track_accesses<52>(cet), 0x1067, 0x1027);
    check_record(track_accesses<55>(stages::first_without), 0x1403, 0x1483);
    check_record(track_accesses<55>(stages::second_without), 0x14c3, 0x1443);
    check_record(track_accesses<55>(stages::second), 0x14c3 | stages::modifier, 0x1443 | stages::modifier);
    static_assert(track_accesses<54>(ept_no_ad).record_mask() == std::uint64_t{1} << 55);
    static_assert(track_accesses<52>(shadow_long).record_mask() == 0);
    static_assert(track_accesses<52>(cet).record_mask() == std::uint64_t{1} << 53);

    // The write permission comes back by a fault: it is found as well, and both are one write.
    constexpr auto tracking = track_accesses<54>(ept_no_ad);
    std::uint64_t slot = 0x1037;
    CHECK(age(slot, tracking));
    CHECK(restore(slot, tracking));
    set(slot, ept_no_ad->write);
    CHECK(harvest_dirty(slot, tracking));
    CHECK(slot == 0x1035);
    CHECK_FALSE(harvest_dirty(slot, tracking));
    // What nothing maps has nothing to find, whatever its bits.
    for (const std::uint64_t other : {std::uint64_t{1} << 55, std::uint64_t{0x400}, std::uint64_t{1} << 55 | 0x1006}) {
        slot = other;
        CHECK_FALSE(harvest_dirty(slot, tracking));
        CHECK(slot == other);
    }
}

// ---- the width of an access

namespace {

// Every operation on a slot of 4 bytes. Returns what it leaves there.
template <class Access>
std::uint32_t try_all_operations(std::uint32_t& slot, Access access)
{
    constexpr auto two_cet = shadow<shadow_features{.levels = 2, .shadow_stacks = true}>;
    int done = 0;
    store(slot, 0x1067, access);
    done += age(slot, shadow_two, access);
    done += mark_accessed(slot, shadow_two, access);
    done += clear_dirty(slot, shadow_two, access);
    done += mark_dirty(slot, shadow_two, access);
    done += harvest_dirty(slot, shadow_two, access);
    done += write_protect(slot, shadow_two, access);
    done += needs_atomic_update(load(slot, access), shadow_two);
    set(slot, bit(1), access);
    done += write_protect(slot, two_cet, access);
    done += exchange(slot, 0x8000'1067, access) == 0x1025;
    done += test_and_clear(slot, bit(31), access) && !test_and_set(slot, bit(31), access);
    clear(slot, bit(31), access);
    done += test_and_set(slot, std::uint64_t{0x8000'0000}, access) == 0;
    done += test_and_clear(slot, std::uint64_t{0x8000'0060}, access) == 0x8000'0060;
    std::uint32_t expected = 0x1007;
    done += compare_exchange(slot, expected, 0x1067, access);
    done += update(slot, [](std::uint32_t entry) { return entry | 0x200; }, access) == 0x1067;
    const auto marker = frozen_marker<0x400>(shadow_two);
    expected = 0x1267;
    done += freeze(slot, expected, marker, access);
    done += is_frozen(load(slot, access), marker);
    done += unmap(slot, shadow_two, access) == 0x400;
    done += unmap(slot, shadow_two, 0x800, access) == 0;
    auto& table = reinterpret_cast<std::uint32_t(&)[1]>(slot);
    slot = 0x1067;
    done += static_cast<int>(young_in(table, shadow_two, access).count());
    done += static_cast<int>(age_table(table, shadow_two, access).count());
    done += static_cast<int>(harvest_dirty(table, shadow_two, access).count());
    done += static_cast<int>(write_protect_table(table, shadow_two, access).count());
    CHECK(done == 22);
    return slot;
}

template <class Access>
void check_neighbours(Access access)
{
    // At each end of 8 and 16 bytes, so that a wider access reaches a neighbour.
    for (const std::uint32_t other : {0U, ~0U, 0x1067U}) {
        for (unsigned at = 1; at < 7; ++at) {
            alignas(64) std::uint32_t slots[8];
            for (std::uint32_t& slot : slots) slot = other;
            CHECK(try_all_operations(slots[at], access) == 0x1005);
            for (unsigned i = 0; i < 8; ++i) CHECK((i == at || slots[i] == other));
        }
    }
}

}  // namespace

TEST_CASE("an operation on a slot of 4 bytes leaves its neighbours alone")
{
    check_neighbours(atomic_access<>{});
    check_neighbours(atomic_access<order::seq_cst>{});
    check_neighbours(plain_access{});
}

#if defined(MAP_ANONYMOUS)
TEST_CASE("an operation on the last slot of a page does not touch the next page")
{
    constexpr std::size_t page_bytes = 0x1'0000;  // the largest that hosts have
    void* const pages = mmap(nullptr, 2 * page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(pages != MAP_FAILED);
    auto* const end = static_cast<unsigned char*>(pages) + page_bytes;
    REQUIRE(mprotect(end, page_bytes, PROT_NONE) == 0);
    auto* const narrow = reinterpret_cast<std::uint32_t*>(end) - 1;
    CHECK(try_all_operations(*narrow, atomic_access<>{}) == 0x1005);
    CHECK(try_all_operations(*narrow, plain_access{}) == 0x1005);

    // A table that ends there, of 4-byte and of 8-byte slots.
    auto& two_level = reinterpret_cast<std::uint32_t(&)[1024]>(*(reinterpret_cast<std::uint32_t*>(end) - 1024));
    for (std::uint32_t& slot : two_level) slot = 0x1067;
    CHECK(age_table(two_level, shadow_two).count() == 1024);
    CHECK(harvest_dirty(two_level, shadow_two).count() == 1024);
    CHECK(write_protect_table(two_level, shadow_two).count() == 1024);
    auto& four_level = reinterpret_cast<std::uint64_t(&)[512]>(*(reinterpret_cast<std::uint64_t*>(end) - 512));
    for (std::uint64_t& slot : four_level) slot = 0x1067;
    CHECK(young_in(four_level, shadow_long).count() == 512);
    CHECK(age_table(four_level, shadow_long).count() == 512);
    CHECK(harvest_dirty(four_level, shadow_long).count() == 512);
    CHECK(write_protect_table(four_level, shadow_long).count() == 512);
    CHECK(munmap(pages, 2 * page_bytes) == 0);
}
#endif

TEST_CASE("write_protect takes what else lets a page be written; needs_atomic_update counts it")
{
    constexpr std::uint64_t pw = 1ULL << 58;
    constexpr std::uint64_t sss = 1ULL << 60;
    constexpr std::uint64_t spp = 1ULL << 61;
    constexpr auto all =
        ept<ept_features{.paging_write = true, .supervisor_shadow_stack = true, .sub_page_write = true}>;
    constexpr auto untold =
        ept<ept_features{.accessed_dirty = false, .paging_write = true, .supervisor_shadow_stack = true}>;
    for (const std::uint64_t bits : {pw, sss, pw | sss}) {
        std::uint64_t slot = 0x5135 | bits;
        CHECK(needs_atomic_update(slot, all));
        CHECK(write_protect(slot, all));
        CHECK(slot == 0x5135);
        CHECK_FALSE(write_protect(slot, all));
        slot = 0x5037 | bits;
        CHECK(harvest_dirty(slot, untold));
        CHECK(slot == 0x5035);
        CHECK_FALSE(harvest_dirty(slot, untold));
        const auto run_time = format_for(untold->features());
        alignas(64) std::uint64_t table[512] = {};
        table[3] = 0x5035 | bits;
        table[9] = 0x5037;
        const auto written = harvest_dirty(table, run_time);
        CHECK(written.count() == 2);
        CHECK(table[3] == 0x5035);
        CHECK(table[9] == 0x5035);
    }
    // The table of sub-pages says who may write, not the leaf; bit 61 of a large leaf is software's.
    std::uint64_t slot = 0x5135 | spp;
    CHECK(needs_atomic_update(slot, all));
    CHECK_FALSE(write_protect(slot, all));
    CHECK_FALSE(needs_atomic_update(0x5135, all));
    CHECK(needs_atomic_update(0x8000'0000'0000'5025, npt<npt_features{.supervisor_shadow_stack = true}>));
    CHECK_FALSE(needs_atomic_update(0x8000'0000'0000'5025, npt<npt_features{}>));
}

TEST_CASE("only the flags that hardware sets are stray")
{
    constexpr auto by_software = ept<ept_features{.accessed_dirty = false, .software_accessed = 62}>;
    CHECK_FALSE(is_empty(1ULL << 62, by_software));
    CHECK(is_empty(0x300, ept<ept_features{}>));
}

TEST_CASE("a level given to a reverse map judges each slot by it")
{
    constexpr auto format = ept<ept_features{}>;
    std::uint64_t misaligned[] = {0x12'3451b7};  // as a 2-Mbyte page it breaks a rule
    CHECK_FALSE(age_all(misaligned, format, atomic_access<>{}, 2));
    CHECK_FALSE(young_any(misaligned, format, atomic_access<>{}, 2));
    CHECK_FALSE(young_in(misaligned, format, atomic_access<>{}, 2).any());
    CHECK(young_any(misaligned, format));
    CHECK(young_in(misaligned, format).any());
    CHECK(age_all(misaligned, format));
}
