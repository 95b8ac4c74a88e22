// SPDX-License-Identifier: BSL-1.0
// The MMU half of a small hypervisor, as a kernel has it: it maps guest pages to host pages
// on demand, small and large, by tables of any format, ages them, logs which were written, splits and
// merges them, and takes mappings away. No heap, no hosted part of the standard library; every array has a
// fixed capacity. Threads run it in hypervisor.cpp, CPUs in bare_metal/.
//
// Who may do what at the same time:
//   - vCPUs walk the tables and set A and D at any moment, without a lock;
//   - fault() gives a tracked or write-protected entry its rights back, and sets A and D where no hardware does,
//     without a lock;
//   - harvest() works without a lock, one caller at a time;
//   - all else that looks up or changes the reverse map takes the MMU lock inside, and so does
//     what makes tables: the tree is an exclusive one.
// merge() alone frees a table. It waits for those who look at tables without the lock.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/ageing.hpp>
#include <ptebits/attributes.hpp>
#include <ptebits/protect.hpp>
#include <ptebits/range.hpp>
#include <ptebits/tree.hpp>
#include <ptebits/x86.hpp>

namespace hypervisor {

// What the kernel around the MMU provides.
void lock_mmu() noexcept;
void unlock_mmu() noexcept;
/// Makes all vCPUs forget their translations; returns when none uses an old one any more. A vCPU
/// that is in fault() uses none: merge() calls this with the MMU lock, all others without.
void flush_tlbs() noexcept;

/// A word that CPUs share, sequentially consistent. By the library's own operations: what <atomic> includes, some
/// compilers do not accept in a kernel.
class shared_word {
public:
    constexpr explicit shared_word(std::uint64_t value = 0) noexcept : value_(value) {}
    [[nodiscard]] std::uint64_t load() const noexcept { return ptebits::load(value_, access); }
    void store(std::uint64_t value) noexcept { ptebits::store(value_, value, access); }
    std::uint64_t exchange(std::uint64_t value) noexcept { return ptebits::exchange(value_, value, access); }
    /// Returns what it was before.
    std::uint64_t add(std::uint64_t n) noexcept
    {
        return ptebits::update(value_, [n](std::uint64_t before) { return before + n; }, access);
    }

private:
    static constexpr ptebits::atomic_access<ptebits::order::seq_cst> access{};
    std::uint64_t value_;
};

/// Capacities, in pages where nothing else is said.
struct mmu_limits {
    unsigned memory_slots = 4;
    unsigned slot_pages = 256;
    unsigned host_pages = 256;
    unsigned mappings = 4;  ///< entries of one size that map one host page
    unsigned tables = 16;
};

/// Guest pages that host pages stand behind. In pages, not bytes.
struct memory_slot {
    std::uint64_t guest_page = 0;
    std::uint64_t pages = 0;
    std::uint64_t host_page = 0;  ///< counted from the first host page that the guest may use
    bool writable = true;
    bool large = false;  ///< large pages may be used
};

/// One bit a page of a memory slot.
template <unsigned Pages>
struct page_bitmap {
    static constexpr unsigned word_count = (Pages + 63) / 64;
    std::uint64_t words[word_count] = {};

    [[nodiscard]] constexpr bool test(std::uint64_t page) const noexcept
    {
        return (words[page / 64] >> page % 64 & 1) != 0;
    }
    [[nodiscard]] constexpr bool any() const noexcept
    {
        for (const std::uint64_t word : words) {
            if (word != 0) return true;
        }
        return false;
    }
    /// Sets the bits of pages that follow each other, those that the bitmap has. Atomic, word by word.
    void add(std::uint64_t first, std::uint64_t count) noexcept
    {
        const std::uint64_t end = first + count < Pages ? first + count : Pages;
        while (first < end) {
            const std::uint64_t last = (first | 63) < end ? (first | 63) : end - 1;
            ptebits::set(words[first / 64], ptebits::ones(static_cast<unsigned>(last % 64), first % 64));
            first = last + 1;
        }
    }
    [[nodiscard]] constexpr bool operator==(const page_bitmap&) const = default;
};

/// The entries of one size that map one host page, and the guest pages that they begin with.
template <class Word, unsigned Room>
struct mapping_chain {
    Word* slots[Room] = {};
    std::uint64_t guest_pages[Room] = {};
    unsigned count = 0;

    [[nodiscard]] bool full() const noexcept { return count == Room; }
    void add(Word* slot, std::uint64_t guest_page) noexcept
    {
        slots[count] = slot;
        guest_pages[count++] = guest_page;
    }
    void remove(const Word* slot) noexcept
    {
        for (unsigned n = 0; n < count; ++n) {
            if (slots[n] != slot) continue;
            slots[n] = slots[--count];
            guest_pages[n] = guest_pages[count];
            return;
        }
    }
    [[nodiscard]] Word* const* begin() const noexcept { return slots; }
    [[nodiscard]] Word* const* end() const noexcept { return slots + count; }
};

/// Where a guest's memory and its tables are, in bytes.
template <class Word>
struct mmu_place {
    Word* tables = nullptr;             ///< room for mmu_limits::tables, aligned as one
    std::uint64_t tables_physical = 0;  ///< the same for the MMU that walks them
    std::uint64_t host_physical = 0;    ///< the first host page
};

/// Tables in an array: the memory of walks and of the tree, and where the tree's tables come from.
template <auto Format, unsigned Tables>
class table_pool {
public:
    using word = ptebits::slot_type_of<decltype(Format)>;

    table_pool(word* tables, std::uint64_t physical) noexcept : slots_(tables), physical_(physical)
    {
        for (unsigned n = Tables; n != 0; --n) free_[free_count_++] = n - 1;
    }

    /// The slot at a physical address.
    [[nodiscard]] word* operator()(std::uint64_t physical) const noexcept
    {
        const std::uint64_t offset = physical - physical_;
        return offset < Tables * table_bytes ? slots_ + offset / sizeof(word) : nullptr;
    }
    [[nodiscard]] ptebits::optional_address allocate(unsigned /*level*/) noexcept
    {
        if (free_count_ == 0) return {};
        return physical_ + free_[--free_count_] * table_bytes;
    }
    void release(std::uint64_t table, unsigned /*level*/) noexcept
    {
        free_[free_count_++] = static_cast<unsigned>((table - physical_) / table_bytes);
    }
    // All translations: which of them are wanted is the kernel's to use where it can.
    void flush(const ptebits::flush_item& /*item*/) const noexcept { flush_tlbs(); }

    // The top table may be larger than the others.
    static constexpr unsigned lowest = Format->shape().table_shift(1);
    static constexpr unsigned top = Format->shape().table_shift(Format->shape().levels);
    static constexpr std::uint64_t table_bytes = std::uint64_t{1} << (top > lowest ? top : lowest);

private:
    word* slots_;
    std::uint64_t physical_;
    unsigned free_[Tables] = {};
    unsigned free_count_ = 0;
};

/// Bits that the MMU keeps for itself in entries: free in every entry of the format.
struct software_bits {
    unsigned may_write = 52;  ///< the page may be written (KVM's "host writable")
    unsigned frozen = 53;     ///< the entry is being taken away
    unsigned saved = 54;      ///< from here up access tracking saves rights, where it is needed
};

/// How entries lost their flags. Read it while no thread uses the MMU.
struct mmu_statistics {
    std::uint64_t aged = 0;       ///< A cleared, or rights saved
    std::uint64_t harvested = 0;  ///< D cleared, or the write permission taken
    std::uint64_t zapped_young = 0;
    std::uint64_t zapped_dirty = 0;
};

/// What a fault came to. After the first five the vCPU tries its access again.
enum class fault_outcome : std::uint8_t {
    mapped,
    mapped_large,
    restored,        ///< a tracked entry has its rights back; or A and D, where the CPU faults for them
    write_granted,   ///< a write-protected entry may be written again
    retry,           ///< settled by another vCPU, or not yet: the page is being taken away
    no_memory_slot,  ///< a device's, to be emulated
    read_only,       ///< a write to a read-only slot
    no_room,         ///< tables or reverse map are full
    misconfigured,   ///< an entry that breaks a rule: never by this code
};
inline constexpr unsigned fault_outcomes = 9;

[[nodiscard]] constexpr const char* name(fault_outcome o) noexcept
{
    constexpr const char* names[fault_outcomes] = {"mapped",        "mapped large", "restored",
                                                   "write granted", "retry",        "no memory slot",
                                                   "read only",     "no room",      "misconfigured"};
    return names[static_cast<unsigned>(o)];
}

/// The second stage of one guest, by a format: an object of constants. With accessed and dirty bits
/// A ages and D logs; without, ageing takes the rights away until the next access, and logging
/// the write permission.
template <auto Format, mmu_limits Limits = mmu_limits{}, software_bits Bits = software_bits{}>
class mmu {
public:
    static constexpr auto format = Format;
    static constexpr mmu_limits limits = Limits;
    static constexpr unsigned page_shift = format->shape().page_shift(1);
    using access = ptebits::access_of<decltype(Format)>;
    using pool = table_pool<Format, Limits.tables>;
    using word = typename pool::word;
    using bitmap = page_bitmap<Limits.slot_pages>;
    using place = mmu_place<word>;

    static constexpr bool sets_flags = format->accessed_by() == ptebits::accessed_setter::fault;
    static constexpr std::uint64_t may_write = ptebits::bit(Bits.may_write).mask();

    /// By what pages are aged: the format where entries have A, else access tracking.
    static constexpr auto ageing = [] {
        if constexpr (format->accessed.exists()) {
            return format;
        } else {
            return ptebits::track_accesses<Bits.saved>(format);
        }
    }();
    static constexpr auto frozen = ptebits::frozen_marker<ptebits::bit(Bits.frozen).mask()>(ageing);
    static_assert(ptebits::available(format, may_write | frozen.value));

    explicit mmu(const place& at) noexcept : pool_(at.tables, at.tables_physical), host_physical_(at.host_physical)
    {
        static_cast<void>(clear_root(tree_));  // the pool has room for it
    }

    /// Adds a memory slot, before any vCPU runs; false if it does not fit.
    bool add_memory_slot(const memory_slot& added) noexcept;
    [[nodiscard]] unsigned memory_slots() const noexcept { return slot_count_; }
    [[nodiscard]] const memory_slot& slot(unsigned index) const noexcept { return slots_[index]; }

    [[nodiscard]] std::uint64_t root() const noexcept { return tree_.root; }
    [[nodiscard]] const pool& tables() const noexcept { return pool_; }

    /// Settles a fault of the second stage. Guest-physical address in bytes. RISC-V: then the vCPU fences the address,
    /// since its TLB may still have the entry as it was.
    fault_outcome fault(std::uint64_t guest_physical, const access& a) noexcept;

    /// Whether a host page was used since the last age(). No flush: a stale translation only
    /// makes the page look older.
    bool age(std::uint64_t host_page) noexcept;
    /// The same question without starting a new period.
    [[nodiscard]] bool test_young(std::uint64_t host_page) noexcept;

    /// The pages of a memory slot that were written since the last harvest. When this
    /// returns, a further write shows in the next harvest.
    bitmap harvest(unsigned slot_index) noexcept;
    /// Takes the write permission from all pages of a memory slot: the first write to each faults.
    void write_protect(unsigned slot_index) noexcept;

    /// Puts small pages in the place of the large page at a guest-physical address, in use; false if there is
    /// none, or no room. No flush: the translations are the same.
    bool split(std::uint64_t guest_physical) noexcept;
    /// Puts a large page in the place of small ones, in use; false unless all are mapped, and follow each other.
    bool merge(std::uint64_t guest_physical) noexcept;

    /// Takes all mappings of a host page away and returns how many; the next access maps anew.
    /// When this returns no vCPU uses one any more. A large page goes as a whole.
    unsigned zap(std::uint64_t host_page) noexcept;
    /// The same, and keeps the page from being mapped until end_invalidate(). Between the
    /// two no vCPU reaches the page: the host may move it.
    unsigned begin_invalidate(std::uint64_t host_page) noexcept;
    void end_invalidate(std::uint64_t host_page) noexcept;

    /// Entries in the reverse map of a host page.
    [[nodiscard]] unsigned mappings(std::uint64_t host_page) noexcept;
    [[nodiscard]] const mmu_statistics& statistics() const noexcept { return statistics_; }

private:
    using chain = mapping_chain<word, Limits.mappings>;
    using both_chains = mapping_chain<word, 2 * Limits.mappings>;

    // A large page is one of level 2.
    static constexpr bool has_large = format->exists(2, ptebits::kind::leaf);
    static constexpr std::uint64_t large_pages =
        has_large ? std::uint64_t{1} << (format->shape().page_shift(2) - page_shift) : 1;

    class mmu_guard {
    public:
        mmu_guard() noexcept { lock_mmu(); }
        ~mmu_guard() { unlock_mmu(); }
        mmu_guard(const mmu_guard&) = delete;
        mmu_guard& operator=(const mmu_guard&) = delete;
    };
    // Whoever looks at tables without the lock says so.
    class reading {
    public:
        explicit reading(shared_word& readers) noexcept : readers_(readers) { readers_.add(1); }
        ~reading() { readers_.add(~std::uint64_t{0}); }
        reading(const reading&) = delete;
        reading& operator=(const reading&) = delete;

    private:
        shared_word& readers_;
    };

    [[nodiscard]] const memory_slot* memory_slot_of(std::uint64_t guest_page) const noexcept;
    [[nodiscard]] static ptebits::inclusive_range addresses(const memory_slot& in) noexcept
    {
        return {in.guest_page << page_shift, ((in.guest_page + in.pages) << page_shift) - 1};
    }
    void log_writes(std::uint64_t guest_page, unsigned level) noexcept;
    [[nodiscard]] static word with_write(word entry) noexcept;
    bool grant_write(word& slot, std::uint64_t guest_page, unsigned level) noexcept;
    bool set_flags(word& slot, std::uint64_t guest_physical, const access& a) noexcept;
    fault_outcome resolve(word& slot, unsigned level, std::uint64_t guest_physical, const access& a) noexcept;
    fault_outcome map(const memory_slot& in, std::uint64_t guest_physical, const access& a) noexcept;
    [[nodiscard]] bool may_be_large(const memory_slot& in, std::uint64_t guest_page) const noexcept;
    [[nodiscard]] chain& large_chain(std::uint64_t host_page) noexcept { return large_[host_page / large_pages]; }
    [[nodiscard]] bool is_held(std::uint64_t host_page, std::uint64_t pages) const noexcept;
    both_chains freeze_all(std::uint64_t host_page) noexcept;
    static unsigned finish_zap(const both_chains& taken) noexcept;

    pool pool_;
    ptebits::tree<decltype(Format), pool&, pool&> tree_{format, *pool_.allocate(format->shape().levels), pool_, pool_};
    std::uint64_t host_physical_;

    memory_slot slots_[Limits.memory_slots] = {};
    unsigned slot_count_ = 0;
    bitmap log_[Limits.memory_slots] = {};  // writes that no entry tells of any more

    chain small_[Limits.host_pages] = {};
    chain large_[Limits.host_pages / large_pages + 1] = {};  // by their first host page
    unsigned invalidating_[Limits.host_pages] = {};
    shared_word readers_;
    mmu_statistics statistics_;
};

// ---- memory slots

template <auto F, mmu_limits L, software_bits B>
bool mmu<F, L, B>::add_memory_slot(const memory_slot& added) noexcept
{
    if (slot_count_ == L.memory_slots || added.pages == 0 || added.pages > L.slot_pages) return false;
    if (added.host_page >= L.host_pages || added.pages > L.host_pages - added.host_page) return false;
    for (unsigned i = 0; i < slot_count_; ++i) {
        const memory_slot& other = slots_[i];
        if (added.guest_page < other.guest_page + other.pages && other.guest_page < added.guest_page + added.pages) {
            return false;
        }
    }
    slots_[slot_count_++] = added;
    return true;
}

template <auto F, mmu_limits L, software_bits B>
const memory_slot* mmu<F, L, B>::memory_slot_of(std::uint64_t guest_page) const noexcept
{
    for (unsigned i = 0; i < slot_count_; ++i) {
        if (guest_page - slots_[i].guest_page < slots_[i].pages) return &slots_[i];
    }
    return nullptr;
}

template <auto F, mmu_limits L, software_bits B>
void mmu<F, L, B>::log_writes(std::uint64_t guest_page, unsigned level) noexcept
{
    const memory_slot* const in = memory_slot_of(guest_page);
    log_[in - slots_].add(guest_page - in->guest_page, level == 1 ? 1 : large_pages);
}

/// Whether a large page around a guest page lies in its memory slot, and is one of the host as well.
template <auto F, mmu_limits L, software_bits B>
bool mmu<F, L, B>::may_be_large(const memory_slot& in, std::uint64_t guest_page) const noexcept
{
    const std::uint64_t first = guest_page & ~(large_pages - 1);
    const bool aligned =
        (host_physical_ >> page_shift) % large_pages == 0 && (in.host_page - in.guest_page) % large_pages == 0;
    return has_large && in.large && aligned && first >= in.guest_page &&
           first + large_pages <= in.guest_page + in.pages;
}

// ---- faults

template <auto F, mmu_limits L, software_bits B>
fault_outcome mmu<F, L, B>::fault(std::uint64_t guest_physical, const access& a) noexcept
{
    const std::uint64_t guest_page = guest_physical >> page_shift;
    const memory_slot* const in = memory_slot_of(guest_page);
    if (in == nullptr) return fault_outcome::no_memory_slot;
    if (a.writes() && !in->writable) return fault_outcome::read_only;
    {
        const reading inside(readers_);
        const auto at = ptebits::find_slot(tree_, guest_physical, 1);
        const bool is_there = at ? at.entry != format->empty() : at.end == ptebits::tree_end::occupied;
        if (is_there) return resolve(*at.slot, at.level, guest_physical, a);
    }
    return map(*in, guest_physical, a);
}

// An entry that is there: without the lock, each step by a compare-exchange on the entry
// that was judged, so that one that is frozen or taken away meanwhile stays so.
template <auto F, mmu_limits L, software_bits B>
fault_outcome mmu<F, L, B>::resolve(word& slot, unsigned level, std::uint64_t guest_physical, const access& a) noexcept
{
    const ptebits::walk_result r = walk(format, root(), guest_physical, a, {}, pool_, ptebits::update_flags::no);
    if (!r && r.broken != ptebits::rule::none) return fault_outcome::misconfigured;
    bool restored = false;
    if constexpr (!format->accessed.exists()) restored = restore(slot, ageing);
    const bool granted = a.writes() && grant_write(slot, guest_physical >> page_shift, level);
    if constexpr (sets_flags) restored = set_flags(slot, guest_physical, a);
    if (granted) return fault_outcome::write_granted;
    return restored ? fault_outcome::restored : fault_outcome::retry;
}

/// Where hardware faults instead: A, and D of a write, in the entry that the walk judges.
template <auto F, mmu_limits L, software_bits B>
bool mmu<F, L, B>::set_flags(word& slot, std::uint64_t guest_physical, const access& a) noexcept
{
    const ptebits::walk_result r = walk(format, root(), guest_physical, a, {}, pool_, ptebits::update_flags::no);
    const auto missing = repair_of(r, a, {}, format).set;
    auto judged = static_cast<word>(r.last_entry());
    return missing != 0 && ptebits::compare_exchange(slot, judged, static_cast<word>(judged | missing));
}

/// An entry of a page that may be written, with the permission; any other as it is.
template <auto F, mmu_limits L, software_bits B>
auto mmu<F, L, B>::with_write(word entry) noexcept -> word
{
    using namespace ptebits;
    // In these bits a leaf that may be written differs from one that may not.
    constexpr std::uint64_t write_bits =
        encode(kind::leaf, 1, 0, {}, format).entry ^ encode(kind::leaf, 1, 0, {.write = false}, format).entry;
    const bool may = translates(entry, format) && (entry & may_write) != 0 && !writable(entry, format);
    return may ? static_cast<word>(entry ^ write_bits) : entry;
}

template <auto F, mmu_limits L, software_bits B>
bool mmu<F, L, B>::grant_write(word& slot, std::uint64_t guest_page, unsigned level) noexcept
{
    const word before = ptebits::update(slot, with_write);
    if (with_write(before) == before) return false;
    // Where no D will tell of the write the log must, and only now: a harvest that came
    // between a mark and the grant would leave a writable entry that nothing tells of.
    if constexpr (!format->dirty.exists()) log_writes(level == 1 ? guest_page : guest_page & ~(large_pages - 1), level);
    return true;
}

template <auto F, mmu_limits L, software_bits B>
bool mmu<F, L, B>::is_held(std::uint64_t host_page, std::uint64_t pages) const noexcept
{
    for (std::uint64_t n = 0; n < pages; ++n) {
        if (invalidating_[host_page + n] != 0) return true;
    }
    return false;
}

template <auto F, mmu_limits L, software_bits B>
fault_outcome mmu<F, L, B>::map(const memory_slot& in, std::uint64_t guest_physical, const access& a) noexcept
{
    using namespace ptebits;
    std::uint64_t guest_page = guest_physical >> page_shift;
    unsigned level = 1;
    {
        const mmu_guard guard;
        flush_list_of<1, 1> list;  // of new tables; see below
        if (may_be_large(in, guest_page)) {
            // Not over a table: there small pages are, or were before they were taken away.
            const auto above = find_slot(tree_, guest_physical, 2);
            if (!above || kind_of(above.entry, 2, format) != kind::table) {
                level = 2;
                guest_page &= ~(large_pages - 1);
            }
        }
        const std::uint64_t host_page = in.host_page + (guest_page - in.guest_page);
        if (is_held(host_page, level == 1 ? 1 : large_pages)) return fault_outcome::retry;
        const auto at = make_slot(tree_, guest_physical, level, list);
        if (at.end == tree_end::no_memory) return fault_outcome::no_room;
        if (!at || at.entry != format->empty()) return fault_outcome::retry;  // mapped meanwhile, or frozen
        chain& mapped = level == 1 ? small_[host_page] : large_chain(host_page);
        if (mapped.full()) return fault_outcome::no_room;

        // Writable only for a write: so the first write to a page that was read faults, too.
        // Where software sets A and D they tell of this access.
        const page_attributes with{.used = sets_flags, .software = in.writable ? may_write : 0};
        const std::uint64_t physical = host_physical_ + (host_page << page_shift);
        // The level is a constant where entries are made: a few instructions.
        const encoded leaf = level == 1 ? encode_page(kind::leaf, 1, physical, {.write = a.writes()}, with, format)
                                        : encode_page(kind::leaf, 2, physical, {.write = a.writes()}, with, format);
        store(*at.slot, static_cast<word>(leaf.entry));
        mapped.add(at.slot, guest_page);
        if constexpr (!format->dirty.exists()) {
            if (a.writes()) log_writes(guest_page, level);
        }
    }
    // Tables that were made and the page: TLBs of some formats remember that they were absent.
    if (format->caches_absent()) flush_tlbs();
    return level == 1 ? fault_outcome::mapped : fault_outcome::mapped_large;
}

// ---- ageing

template <auto F, mmu_limits L, software_bits B>
bool mmu<F, L, B>::age(std::uint64_t host_page) noexcept
{
    const mmu_guard guard;
    unsigned young_entries = 0;
    for (word* slot : small_[host_page]) young_entries += ptebits::age(*slot, ageing);
    for (word* slot : large_chain(host_page)) young_entries += ptebits::age(*slot, ageing);
    statistics_.aged += young_entries;
    return young_entries != 0;
}

template <auto F, mmu_limits L, software_bits B>
bool mmu<F, L, B>::test_young(std::uint64_t host_page) noexcept
{
    const mmu_guard guard;
    return young_any(small_[host_page], ageing) || young_any(large_chain(host_page), ageing);
}

// ---- dirty log

template <auto F, mmu_limits L, software_bits B>
auto mmu<F, L, B>::harvest(unsigned slot_index) noexcept -> bitmap
{
    const memory_slot& in = slots_[slot_index];
    bitmap written;
    // First the log, then the entries: the other way round, a page made writable in between
    // would lose its mark, and tracking may take the write permission before the next harvest.
    for (unsigned i = 0; i < bitmap::word_count; ++i) {
        written.words[i] = ptebits::exchange(log_[slot_index].words[i], 0);
    }
    {
        const reading inside(readers_);
        const ptebits::range_counts counts =
            harvest_range(format, root(), addresses(in), pool_, [&](std::uint64_t address, std::uint64_t bytes) {
                written.add((address >> page_shift) - in.guest_page, bytes >> page_shift);
            });
        statistics_.harvested += counts.pages;
    }
    // A vCPU neither faults nor sets D again while its TLB remembers that it may write. So too
    // where the log alone told: an entry that was zapped or tracked may not be flushed yet.
    if (written.any()) flush_tlbs();
    return written;
}

template <auto F, mmu_limits L, software_bits B>
void mmu<F, L, B>::write_protect(unsigned slot_index) noexcept
{
    {
        const mmu_guard guard;
        ptebits::flush_list_of<1, 1> list;  // without room it asks for all, and all is flushed
        static_cast<void>(protect(tree_, addresses(slots_[slot_index]), {.write = false}, list));
    }
    flush_tlbs();
}

// ---- large pages

template <auto F, mmu_limits L, software_bits B>
bool mmu<F, L, B>::split(std::uint64_t guest_physical) noexcept
{
    using namespace ptebits;
    const mmu_guard guard;
    const auto at = find_slot(tree_, guest_physical, 1);
    if (at || at.end != tree_end::occupied || at.level != 2) return false;
    if constexpr (!format->accessed.exists()) restore(*at.slot, ageing);
    const word entry = load(*at.slot);
    if (!translates(entry, format, 2)) return false;

    const std::uint64_t guest_page = guest_physical >> page_shift & ~(large_pages - 1);
    const std::uint64_t host_page = (address_of(entry, 2, format) - host_physical_) >> page_shift;
    for (std::uint64_t n = 0; n < large_pages; ++n) {
        if (small_[host_page + n].full()) return false;
    }
    flush_list_of<1, 1> list;  // of absent entries: see map()
    const std::uint64_t first = guest_page << page_shift;
    const inclusive_range whole{first, first + (large_pages << page_shift) - 1};
    if (!split_pages(tree_, whole, page_shift, list)) return false;
    if (format->caches_absent()) flush_tlbs();

    large_chain(host_page).remove(at.slot);
    word* const slots = find_slot(tree_, first, 1).slot;
    for (std::uint64_t n = 0; n < large_pages; ++n) small_[host_page + n].add(slots + n, guest_page + n);
    return true;
}

template <auto F, mmu_limits L, software_bits B>
bool mmu<F, L, B>::merge(std::uint64_t guest_physical) noexcept
{
    using namespace ptebits;
    const std::uint64_t guest_page = guest_physical >> page_shift & ~(large_pages - 1);
    const std::uint64_t first = guest_page << page_shift;
    const memory_slot* const in = memory_slot_of(guest_page);
    if (in == nullptr || !may_be_large(*in, guest_page)) return false;
    const std::uint64_t host_page = in->host_page + (guest_page - in->guest_page);

    const mmu_guard guard;
    const auto above = find_slot(tree_, first, 2);
    const auto at = find_slot(tree_, first, 1);
    if (!above || !at || large_chain(host_page).full()) return false;
    // Rights alike: with D all may be written, since D tells; without, none, since the log has told.
    for (std::uint64_t n = 0; n < large_pages; ++n) {
        word& small = at.slot[n];
        if constexpr (!format->accessed.exists()) restore(small, ageing);
        if constexpr (format->dirty.exists()) {
            static_cast<void>(update(small, with_write));
        } else {
            static_cast<void>(harvest_dirty(small, format));
        }
    }
    flush_list_of<1, 1> list;  // of absent entries: see map()
    const inclusive_range whole{first, first + (large_pages << page_shift) - 1};
    const bool merged = merge_pages(tree_, whole, format->shape().page_shift(2), list).pages == 1;
    if (format->caches_absent()) flush_tlbs();
    if (!merged) return false;
    for (std::uint64_t n = 0; n < large_pages; ++n) small_[host_page + n].remove(at.slot + n);
    large_chain(host_page).add(above.slot, guest_page);
    // The table is the pool's again, which gives it to somebody else only under the lock.
    while (readers_.load() != 0) {
    }
    return true;
}

// ---- zapping

// Freezes every entry of a host page and empties its chains. Under the lock.
template <auto F, mmu_limits L, software_bits B>
auto mmu<F, L, B>::freeze_all(std::uint64_t host_page) noexcept -> both_chains
{
    both_chains taken;
    const auto freeze_one = [&](chain& from, unsigned level) {
        for (unsigned n = 0; n < from.count; ++n) {
            word& slot = *from.slots[n];
            word entry = ptebits::load(slot);
            while (!ptebits::freeze(slot, entry, frozen)) {
            }
            taken.add(&slot, from.guest_pages[n]);
            statistics_.zapped_young += present(entry, format) && young(entry, ageing);
            if constexpr (format->dirty.exists()) {
                if (!dirty(entry, format)) continue;
                log_writes(from.guest_pages[n], level);  // D would be lost with the entry
                ++statistics_.zapped_dirty;
            }
        }
        from.count = 0;
    };
    freeze_one(small_[host_page], 1);
    freeze_one(large_chain(host_page), 2);
    return taken;
}

// The rest needs no lock: nobody else overwrites a frozen entry. Nothing taken is no reason
// not to flush: tracked entries were not, and another zap of the page may not have come to it.
template <auto F, mmu_limits L, software_bits B>
unsigned mmu<F, L, B>::finish_zap(const both_chains& taken) noexcept
{
    flush_tlbs();
    for (word* slot : taken) ptebits::store(*slot, static_cast<word>(format->empty()));
    return taken.count;
}

template <auto F, mmu_limits L, software_bits B>
unsigned mmu<F, L, B>::zap(std::uint64_t host_page) noexcept
{
    both_chains taken;
    {
        const mmu_guard guard;
        taken = freeze_all(host_page);
    }
    return finish_zap(taken);
}

template <auto F, mmu_limits L, software_bits B>
unsigned mmu<F, L, B>::begin_invalidate(std::uint64_t host_page) noexcept
{
    both_chains taken;
    {
        const mmu_guard guard;
        ++invalidating_[host_page];
        taken = freeze_all(host_page);
    }
    return finish_zap(taken);
}

template <auto F, mmu_limits L, software_bits B>
void mmu<F, L, B>::end_invalidate(std::uint64_t host_page) noexcept
{
    const mmu_guard guard;
    --invalidating_[host_page];
}

template <auto F, mmu_limits L, software_bits B>
unsigned mmu<F, L, B>::mappings(std::uint64_t host_page) noexcept
{
    const mmu_guard guard;
    return small_[host_page].count + large_chain(host_page).count;
}

}  // namespace hypervisor
