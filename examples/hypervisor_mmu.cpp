// SPDX-License-Identifier: BSL-1.0
#include "hypervisor_mmu.hpp"

#include <ptebits/visit.hpp>

using namespace ptebits;

namespace hypervisor {

namespace {

constexpr std::uint64_t write_back = 6;  // EPT memory type

class mmu_guard {
public:
    mmu_guard() noexcept { lock_mmu(); }
    ~mmu_guard() { unlock_mmu(); }
    mmu_guard(const mmu_guard&) = delete;
    mmu_guard& operator=(const mmu_guard&) = delete;
};

}  // namespace

bool page_bitmap::any() const noexcept
{
    for (const std::uint64_t word : words) {
        if (word != 0) return true;
    }
    return false;
}

template <ept_features F>
std::uint64_t* mmu<F>::table_memory::operator()(std::uint64_t physical) const noexcept
{
    const std::uint64_t index = (physical - tables_at) / sizeof(std::uint64_t);
    if (physical < tables_at || index >= std::uint64_t{max_tables} * slots_in_table) return nullptr;
    return &owner_->tables_[index / slots_in_table][index % slots_in_table];
}

template <ept_features F>
mmu<F>::mmu() noexcept
{
    for (auto& table : tables_) {
        for (std::uint64_t& slot : table) slot = format->empty();
    }
}

// ---- memory slots

template <ept_features F>
bool mmu<F>::add_memory_slot(const memory_slot& added) noexcept
{
    if (slot_count_ == max_memory_slots || added.pages == 0 || added.pages > max_slot_pages) return false;
    if (added.host_page >= max_host_pages || added.pages > max_host_pages - added.host_page) return false;
    for (unsigned i = 0; i < slot_count_; ++i) {
        const memory_slot& other = slots_[i];
        if (added.guest_page < other.guest_page + other.pages && other.guest_page < added.guest_page + added.pages) {
            return false;
        }
    }
    slots_[slot_count_++] = added;
    return true;
}

template <ept_features F>
const memory_slot* mmu<F>::find_slot(std::uint64_t guest_page) const noexcept
{
    for (unsigned i = 0; i < slot_count_; ++i) {
        if (guest_page - slots_[i].guest_page < slots_[i].pages) return &slots_[i];
    }
    return nullptr;
}

template <ept_features F>
void mmu<F>::log_write(std::uint64_t guest_page) noexcept
{
    const memory_slot* const in = find_slot(guest_page);
    const std::uint64_t page = guest_page - in->guest_page;
    set(log_[in - slots_].words[page / 64], page_bitmap::bit_of(page));
}

// ---- faults

template <ept_features F>
fault_outcome mmu<F>::fault(std::uint64_t guest_physical, const memory_access& a) noexcept
{
    const std::uint64_t guest_page = guest_physical >> base_page_shift;
    const memory_slot* const in = find_slot(guest_page);
    if (in == nullptr) return fault_outcome::no_memory_slot;
    if (a.writes() && !in->writable) return fault_outcome::read_only;

    const walk_result r = walk(format, root(), guest_physical, a, {}, tables(), update_flags::no);
    if (r) return fault_outcome::retry;
    if (r.fault == fault_kind::misconfiguration) return fault_outcome::misconfigured;
    if (r.level != 1) return map(guest_physical, a);

    // An entry that is there: without the lock, each step by a compare-exchange on the entry
    // that was judged, so that one that is frozen or taken away meanwhile stays so.
    std::uint64_t& slot = *tables()(r.path[r.steps - 1].slot_address);
    bool restored = false;
    if constexpr (!format->accessed.exists()) restored = restore(slot, ageing);
    if (a.writes() && grant_write(slot, guest_page)) return fault_outcome::write_granted;
    return restored ? fault_outcome::restored : map(guest_physical, a);
}

template <ept_features F>
bool mmu<F>::grant_write(std::uint64_t& slot, std::uint64_t guest_page) noexcept
{
    const auto granted = [](std::uint64_t entry) {
        return present(entry, format) && (entry & may_write) != 0 ? entry | format->write.mask() : entry;
    };
    const std::uint64_t before = update(slot, granted);
    if (granted(before) == before) return false;
    // Where no D will tell of the write the log must, and only now: a harvest that came
    // between a mark and the grant would leave a writable entry that nothing tells of.
    if constexpr (!format->dirty.exists()) log_write(guest_page);
    return true;
}

template <ept_features F>
fault_outcome mmu<F>::map(std::uint64_t guest_physical, const memory_access& a) noexcept
{
    const std::uint64_t guest_page = guest_physical >> base_page_shift;
    const memory_slot& in = *find_slot(guest_page);
    const std::uint64_t host_page = in.host_page + (guest_page - in.guest_page);

    const mmu_guard guard;
    if (invalidating_[host_page] != 0) return fault_outcome::retry;
    mapping_chain& chain = reverse_[host_page];
    std::uint64_t* const slot = make_path(guest_physical);
    if (slot == nullptr) return fault_outcome::no_room;
    if (load(*slot) != format->empty()) return fault_outcome::retry;  // mapped meanwhile, or frozen
    if (chain.count == max_mappings) return fault_outcome::no_room;

    // Writable only for a write: so the first write to a page that was read faults, too.
    const permissions grant{.write = a.writes()};
    const field_values type = format->memory_type(write_back);
    const encoded leaf = encode(kind::leaf, 1, host_page << base_page_shift, grant, format, type);
    store(*slot, leaf.entry | (in.writable ? may_write : 0));
    chain.slots[chain.count++] = slot;
    if constexpr (!format->dirty.exists()) {
        if (a.writes()) log_write(guest_page);
    }
    return fault_outcome::mapped;
}

// The slot of level 1 for an address; makes the tables above it where they lack. Under the lock.
template <ept_features F>
std::uint64_t* mmu<F>::make_path(std::uint64_t guest_physical) noexcept
{
    const shape& s = format->shape();
    std::uint64_t table = root();
    for (unsigned level = s.levels;; --level) {
        std::uint64_t& slot = *tables()(s.slot_address(table, guest_physical, level));
        if (level == 1) return &slot;
        const std::uint64_t entry = load(slot);
        if (present(entry, format)) {
            table = address_of(entry, level, format);
            continue;
        }
        if (table_count_ == max_tables) return nullptr;
        table = tables_at + std::uint64_t{table_count_} * sizeof(tables_[0]);
        first_guest_page_[table_count_++] = guest_physical >> s.page_shift(level)
                                                                  << (s.page_shift(level) - base_page_shift);
        store(slot, encode(kind::table, level, table, {}, format).entry);
    }
}

template <ept_features F>
std::uint64_t mmu<F>::guest_page_of(const std::uint64_t* slot) const noexcept
{
    const auto index = static_cast<std::uint64_t>(slot - tables_[0]);
    return first_guest_page_[index / slots_in_table] + index % slots_in_table;
}

// ---- ageing

template <ept_features F>
bool mmu<F>::age(std::uint64_t host_page) noexcept
{
    const mmu_guard guard;
    unsigned young_entries = 0;
    for (std::uint64_t* slot : reverse_[host_page]) young_entries += ptebits::age(*slot, ageing);
    statistics_.aged += young_entries;
    return young_entries != 0;
}

template <ept_features F>
bool mmu<F>::test_young(std::uint64_t host_page) noexcept
{
    const mmu_guard guard;
    return young_any(reverse_[host_page], ageing);
}

// ---- dirty log

template <ept_features F>
page_bitmap mmu<F>::harvest(unsigned slot_index) noexcept
{
    const memory_slot& in = slots_[slot_index];
    page_bitmap written;
    // First the log, then the entries: the other way round, a page made writable in between
    // would lose its mark, and tracking may take the write permission before the next harvest.
    for (unsigned i = 0; i < max_slot_pages / 64; ++i) written.words[i] = exchange(log_[slot_index].words[i], 0);
    const inclusive_range range{in.guest_page << base_page_shift, ((in.guest_page + in.pages) << base_page_shift) - 1};
    visit(format, root(), range, tables(), [&](const auto& e) {
        if (e.is == kind::leaf && harvest_dirty(*e.slot, format)) {
            const std::uint64_t page = (e.address >> base_page_shift) - in.guest_page;
            written.words[page / 64] |= page_bitmap::bit_of(page);
            ++statistics_.harvested;
        }
        return visit_next::into;
    });
    // A vCPU neither faults nor sets D again while its TLB remembers that it may write. So too
    // where the log alone told: an entry that was zapped or tracked may not be flushed yet.
    if (written.any()) flush_tlbs();
    return written;
}

// ---- zapping

// Freezes every entry of a host page and empties its chain. Under the lock.
template <ept_features F>
mapping_chain mmu<F>::freeze_all(std::uint64_t host_page) noexcept
{
    mapping_chain& chain = reverse_[host_page];
    const mapping_chain taken = chain;
    for (std::uint64_t* slot : taken) {
        std::uint64_t entry = load(*slot);
        while (!freeze(*slot, entry, frozen)) {
        }
        statistics_.zapped_young += present(entry, format) && young(entry, ageing);
        if constexpr (format->dirty.exists()) {
            if (!dirty(entry, format)) continue;
            log_write(guest_page_of(slot));  // D would be lost with the entry
            ++statistics_.zapped_dirty;
        }
    }
    chain.count = 0;
    return taken;
}

// The rest needs no lock: nobody else overwrites a frozen entry. Nothing taken is no reason
// not to flush: tracked entries were not, and another zap of the page may not have come to it.
template <ept_features F>
unsigned mmu<F>::finish_zap(const mapping_chain& taken) noexcept
{
    flush_tlbs();
    for (std::uint64_t* slot : taken) store(*slot, format->empty());
    return taken.count;
}

template <ept_features F>
unsigned mmu<F>::zap(std::uint64_t host_page) noexcept
{
    mapping_chain taken;
    {
        const mmu_guard guard;
        taken = freeze_all(host_page);
    }
    return finish_zap(taken);
}

template <ept_features F>
unsigned mmu<F>::begin_invalidate(std::uint64_t host_page) noexcept
{
    mapping_chain taken;
    {
        const mmu_guard guard;
        ++invalidating_[host_page];
        taken = freeze_all(host_page);
    }
    return finish_zap(taken);
}

template <ept_features F>
void mmu<F>::end_invalidate(std::uint64_t host_page) noexcept
{
    const mmu_guard guard;
    --invalidating_[host_page];
}

template <ept_features F>
unsigned mmu<F>::mappings(std::uint64_t host_page) noexcept
{
    const mmu_guard guard;
    return reverse_[host_page].count;
}

template class mmu<with_flags>;
template class mmu<without_flags>;

}  // namespace hypervisor
