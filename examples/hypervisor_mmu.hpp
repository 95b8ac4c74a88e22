// SPDX-License-Identifier: BSL-1.0
// The MMU half of a small hypervisor, as a kernel has it: it maps guest pages to host pages
// by EPT on demand, ages them, logs which were written, and takes mappings away. No heap,
// no hosted part of the standard library; every table has a fixed capacity.
//
// Who may do what at the same time:
//   - vCPUs walk the tables and set A and D at any moment, without a lock;
//   - fault() gives a tracked or write-protected entry its rights back without a lock;
//   - harvest() works without a lock, one caller at a time;
//   - all else that looks up or changes the reverse map takes the MMU lock inside.
// Tables are never freed, so a slot found without the lock stays a slot.
#pragma once

#include <cstdint>

#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>
#include <ptebits/x86.hpp>

namespace hypervisor {

// What the kernel around the MMU provides.
void lock_mmu() noexcept;
void unlock_mmu() noexcept;
/// Makes all vCPUs forget their translations; returns when none uses an old one any more.
/// Called without the MMU lock, since a vCPU may be waiting for it.
void flush_tlbs() noexcept;

inline constexpr unsigned base_page_shift = 12;
inline constexpr unsigned max_memory_slots = 4;
inline constexpr unsigned max_slot_pages = 256;
inline constexpr unsigned max_host_pages = 256;
inline constexpr unsigned max_mappings = 4;  ///< entries that map one host page
inline constexpr unsigned max_tables = 16;

/// Guest pages that host pages stand behind. In pages, not bytes.
struct memory_slot {
    std::uint64_t guest_page = 0;
    std::uint64_t pages = 0;
    std::uint64_t host_page = 0;
    bool writable = true;
};

/// One bit a page of a memory slot.
struct page_bitmap {
    std::uint64_t words[max_slot_pages / 64] = {};

    [[nodiscard]] static std::uint64_t bit_of(std::uint64_t page) noexcept { return std::uint64_t{1} << page % 64; }
    [[nodiscard]] bool test(std::uint64_t page) const noexcept { return (words[page / 64] & bit_of(page)) != 0; }
    [[nodiscard]] bool any() const noexcept;
};

/// The entries that map one host page.
struct mapping_chain {
    std::uint64_t* slots[max_mappings] = {};
    unsigned count = 0;

    [[nodiscard]] std::uint64_t* const* begin() const noexcept { return slots; }
    [[nodiscard]] std::uint64_t* const* end() const noexcept { return slots + count; }
};

/// How entries lost their flags. Read it while no thread uses the MMU.
struct mmu_statistics {
    std::uint64_t aged = 0;       ///< A cleared, or rights saved
    std::uint64_t harvested = 0;  ///< D cleared, or the write permission taken
    std::uint64_t zapped_young = 0;
    std::uint64_t zapped_dirty = 0;
};

/// What a fault came to. After the first four the vCPU tries its access again.
enum class fault_outcome : std::uint8_t {
    mapped,
    restored,        ///< a tracked entry has its rights back
    write_granted,   ///< a write-protected entry may be written again
    retry,           ///< settled by another vCPU, or not yet: the page is being taken away
    no_memory_slot,  ///< a device's, to be emulated
    read_only,       ///< a write to a read-only slot
    no_room,         ///< tables or reverse map are full
    misconfigured,   ///< an entry that breaks a rule: never by this code
};
inline constexpr unsigned fault_outcomes = 8;

/// EPT of one guest. With accessed and dirty bits A ages and D logs; without, ageing takes
/// the rights away until the next access, and logging the write permission.
template <ptebits::ept_features Features>
class mmu {
public:
    static constexpr auto format = ptebits::ept<Features>;

    // Software bits: the page may be written (KVM's "host writable"); an entry that is
    // being taken away. Access tracking saves R and X in bits 54 and 56.
    static constexpr std::uint64_t may_write = ptebits::bit(57).mask();

    /// By what pages are aged: the format where hardware sets A, else access tracking.
    static constexpr auto ageing = [] {
        if constexpr (format->accessed.exists()) {
            return format;
        } else {
            return ptebits::track_accesses<54>(format);
        }
    }();
    static constexpr auto frozen = ptebits::frozen_marker<ptebits::bit(62).mask()>(ageing);
    static_assert(ptebits::available(format, may_write | frozen.value));

    /// The tables as physical memory, for walks.
    class table_memory {
    public:
        explicit table_memory(mmu& owner) noexcept : owner_(&owner) {}
        [[nodiscard]] std::uint64_t* operator()(std::uint64_t physical) const noexcept;

    private:
        mmu* owner_;
    };

    mmu() noexcept;

    /// Adds a memory slot, before any vCPU runs; false if it does not fit.
    bool add_memory_slot(const memory_slot& added) noexcept;
    [[nodiscard]] unsigned memory_slots() const noexcept { return slot_count_; }
    [[nodiscard]] const memory_slot& slot(unsigned index) const noexcept { return slots_[index]; }

    [[nodiscard]] std::uint64_t root() const noexcept { return tables_at; }
    [[nodiscard]] table_memory tables() noexcept { return table_memory(*this); }

    /// Settles an EPT violation. Guest-physical address in bytes.
    fault_outcome fault(std::uint64_t guest_physical, const ptebits::memory_access& a) noexcept;

    /// Whether a host page was used since the last age(). No flush: a stale translation only
    /// makes the page look older.
    bool age(std::uint64_t host_page) noexcept;
    /// The same question without starting a new period.
    [[nodiscard]] bool test_young(std::uint64_t host_page) noexcept;

    /// The pages of a memory slot that were written since the last harvest. When this
    /// returns, a further write shows in the next harvest.
    page_bitmap harvest(unsigned slot_index) noexcept;

    /// Takes all mappings of a host page away and returns how many; the next access maps anew.
    /// When this returns no vCPU uses one any more.
    unsigned zap(std::uint64_t host_page) noexcept;
    /// The same, and keeps the page from being mapped until end_invalidate(). Between the
    /// two no vCPU reaches the page: the host may move it.
    unsigned begin_invalidate(std::uint64_t host_page) noexcept;
    void end_invalidate(std::uint64_t host_page) noexcept;

    /// Entries in the reverse map of a host page.
    [[nodiscard]] unsigned mappings(std::uint64_t host_page) noexcept;
    [[nodiscard]] const mmu_statistics& statistics() const noexcept { return statistics_; }

private:
    static constexpr unsigned slots_in_table = 512;
    static constexpr std::uint64_t tables_at = std::uint64_t{max_host_pages} << base_page_shift;

    [[nodiscard]] const memory_slot* find_slot(std::uint64_t guest_page) const noexcept;
    void log_write(std::uint64_t guest_page) noexcept;
    bool grant_write(std::uint64_t& slot, std::uint64_t guest_page) noexcept;
    fault_outcome map(std::uint64_t guest_physical, const ptebits::memory_access& a) noexcept;
    std::uint64_t* make_path(std::uint64_t guest_physical) noexcept;
    std::uint64_t guest_page_of(const std::uint64_t* slot) const noexcept;
    mapping_chain freeze_all(std::uint64_t host_page) noexcept;
    static unsigned finish_zap(const mapping_chain& taken) noexcept;

    alignas(4096) std::uint64_t tables_[max_tables][slots_in_table];
    std::uint64_t first_guest_page_[max_tables] = {};  // that a table of level 1 maps
    unsigned table_count_ = 1;                         // the root

    memory_slot slots_[max_memory_slots] = {};
    unsigned slot_count_ = 0;
    page_bitmap log_[max_memory_slots] = {};  // writes that no entry tells of any more

    mapping_chain reverse_[max_host_pages] = {};
    unsigned invalidating_[max_host_pages] = {};
    mmu_statistics statistics_;
};

inline constexpr ptebits::ept_features with_flags{.accessed_dirty = true};
inline constexpr ptebits::ept_features without_flags{.accessed_dirty = false};
extern template class mmu<with_flags>;
extern template class mmu<without_flags>;

}  // namespace hypervisor
