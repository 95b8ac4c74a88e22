// SPDX-License-Identifier: BSL-1.0
// hypervisor: vCPUs that use guest memory while the host ages, logs and takes pages away.
//
// The MMU half, hypervisor_mmu.hpp, is what a kernel would have. Here is the rest, as
// threads: the vCPUs with their TLBs, a device that writes memory through an IOMMU, a reclaimer, a
// logger that copies written pages as live migration does, and a zapper. At the end of each round the
// copy must be what the guest and its device wrote, page for page, and every entry in order.
#include "hypervisor_mmu.hpp"

#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <ptebits/amdvi.hpp>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/map.hpp>
#include <ptebits/visit.hpp>
#include <ptebits/vtd.hpp>

#include "progress.hpp"

using namespace ptebits;

namespace hypervisor {

namespace {

constexpr auto ept_with_flags = ept<ept_features{.accessed_dirty = true}>;
constexpr auto ept_without_flags = ept<ept_features{.accessed_dirty = false}>;
constexpr auto nested = npt<npt_features{}>;

// The devices' tables on the same machines.
constexpr auto vtd_with_flags = vtd_second<vtd_second_features{.scalable = true, .accessed_dirty = true}>;
constexpr auto vtd_without_flags = vtd_second<vtd_second_features{}>;
constexpr auto amdvi = amdvi_host<amdvi_host_features{.accessed_bits = true, .dirty_bits = true}>;

constexpr unsigned vcpu_count = 2;
constexpr unsigned device_pages = 16;  // the guest's first ones
constexpr unsigned max_host_pages = mmu_limits{}.host_pages;

std::mutex mmu_mutex;

// In place of the interrupt that flushes the TLBs: who uses translations takes note of the
// generation first, and drops them if it is not the one that it knows. So do vCPUs, and the device.
std::atomic<std::uint64_t> generation = 1;
std::atomic<std::uint64_t> in_use[vcpu_count + 1];  // the generation that one began with; 0: it uses none

}  // namespace

void lock_mmu() noexcept { mmu_mutex.lock(); }
void unlock_mmu() noexcept { mmu_mutex.unlock(); }

void flush_tlbs() noexcept
{
    const std::uint64_t wanted = generation.fetch_add(1) + 1;
    for (const auto& user : in_use) {
        for (std::uint64_t entered = user; entered != 0 && entered < wanted; entered = user) {
            std::this_thread::yield();
        }
    }
}

namespace {

/// Host memory. One number stands for what a page holds: guest writes add 1 to it.
class host_memory {
public:
    void guest_write(std::uint64_t page)
    {
        update(pages_[page], [](std::uint64_t n) { return n + 1; }, relaxed);
    }
    [[nodiscard]] std::uint64_t read(std::uint64_t page) const { return load(pages_[page], relaxed); }

    /// What the host does with a page that no guest can reach: here, to swap it out and in.
    /// Plain accesses, so that a thread that still used the page would be a data race.
    void swap_out_and_in(std::uint64_t page)
    {
        const std::uint64_t kept = pages_[page];
        pages_[page] = 0;
        std::this_thread::yield();
        pages_[page] = kept;
    }

    std::mutex lock;  ///< held where the host itself uses pages

private:
    static constexpr atomic_access<order::relaxed> relaxed{};
    std::array<std::uint64_t, max_host_pages> pages_{};
};

/// A TLB's place among those that a flush waits for.
class tlb_user {
public:
    explicit tlb_user(unsigned number) : inside_(in_use[number]) {}

    /// From now on a flush waits. Returns whether there was one since the last time: translations are to be dropped.
    [[nodiscard]] bool begin()
    {
        // Anew where a flush came between the look and the mark: it may not have seen the mark.
        std::uint64_t now = 0;
        do {
            now = generation;
            inside_ = now;
        } while (generation != now);
        const bool flushed = now != known_;
        known_ = now;
        return flushed;
    }
    void end() { inside_ = 0; }

private:
    std::atomic<std::uint64_t>& inside_;
    std::uint64_t known_ = 0;
};

/// A device that reads and writes the guest's first pages, through tables of its own in an IOMMU. A device does not
/// wait for a fault: its pages are mapped from the start, and stay. Where its tables have D the dirty log asks them;
/// else each of its pages may have been written.
template <auto Format>
class dma_device {
public:
    static constexpr unsigned page_shift = Format->shape().page_shift(1);
    static constexpr bool logs = Format->dirty.exists();

    explicit dma_device(host_memory& memory) : memory_(memory)
    {
        flush_list_of<> nothing_live;
        // Small pages alone, so that the log tells them apart.
        const map_options small{.page_sizes = std::uint64_t{1} << page_shift};
        ready_ = clear_root(tree_) == tree_end::done && map(tree_, all, 0, {}, nothing_live, small);
    }

    void use(std::uint64_t page, operation what)
    {
        if (user_.begin()) known_.fill({});
        const bool writes_it = what == operation::write;
        translation& known = known_[page];
        if (!known.valid || (writes_it && !known.for_writes)) {
            const walk_result r = walk(Format, tree_.root, page << page_shift, {.what = what}, {}, pool_);
            refused += !r;
            known = {bool{r}, writes_it, r.address >> page_shift};
            if constexpr (logs) dirty_set += writes_it && !dirty(r.last_entry(), Format);
        }
        if (known.valid && writes_it) {
            memory_.guest_write(known.host_page);
            ++writes[known.host_page];
        }
        user_.end();
        ++accesses;
    }

    /// Calls with each host page that may have been written since the last harvest. When this returns, a further
    /// write shows in the next one.
    template <class Call>
    void harvest(Call call)
    {
        if constexpr (logs) {
            std::array<bool, device_pages> written{};
            harvested += harvest_range(Format, tree_.root, all, pool_, [&](std::uint64_t address, std::uint64_t) {
                             written[address >> page_shift] = true;
                         }).pages;
            flush_tlbs();
            for (std::uint64_t page = 0; page < device_pages; ++page) {
                if (written[page]) call(page);
            }
        } else {
            for (std::uint64_t page = 0; page < device_pages; ++page) call(page);
        }
    }

    /// Entries with D. No thread uses the device.
    [[nodiscard]] std::uint64_t dirty_entries()
    {
        std::uint64_t n = 0;
        visit(Format, tree_.root, {}, pool_, [&](const auto& e) {
            if (e.level == 1) n += (e.entry & Format->dirty.mask()) != 0;
            return visit_next::into;
        });
        return n;
    }
    [[nodiscard]] bool ready() const { return ready_; }

    std::uint64_t accesses = 0;
    std::uint64_t refused = 0;
    std::uint64_t writes[device_pages] = {};
    std::uint64_t dirty_set = 0;  // by its walks
    std::uint64_t harvested = 0;

private:
    static constexpr inclusive_range all{0, (std::uint64_t{device_pages} << page_shift) - 1};
    static constexpr unsigned table_count = 8;
    using pool = table_pool<Format, table_count>;
    using word = typename pool::word;

    struct translation {
        bool valid = false;
        bool for_writes = false;  // allowed, and D is set
        std::uint64_t host_page = 0;
    };

    alignas(pool::table_bytes) std::array<word, table_count * pool::table_bytes / sizeof(word)> tables_{};
    pool pool_{tables_.data(), std::uint64_t{max_host_pages} << page_shift};
    tree<decltype(Format), pool&, pool&> tree_{Format, *pool_.allocate(Format->shape().levels), pool_, pool_};
    host_memory& memory_;
    tlb_user user_{vcpu_count};
    std::array<translation, device_pages> known_{};
    bool ready_ = false;
};

/// A virtual CPU: reaches memory through the library's walk, with a small TLB in front.
template <class Mmu>
class vcpu {
public:
    vcpu(unsigned id, Mmu& m, host_memory& memory) : mmu_(m), memory_(memory), user_(id) {}

    /// One access of the guest: repeated, as an instruction is, until no fault comes between.
    void use(std::uint64_t guest_physical, operation what)
    {
        for (;;) {
            if (user_.begin()) tlb_.fill({});
            const bool done = try_once(guest_physical, what);
            user_.end();
            if (done) break;

            const fault_outcome outcome = mmu_.fault(guest_physical, {.what = what});
            ++outcomes[static_cast<unsigned>(outcome)];
            if (outcome == fault_outcome::retry) std::this_thread::yield();
            if (outcome >= fault_outcome::no_memory_slot) break;
        }
        ++accesses;
    }

    std::uint64_t accesses = 0;
    std::uint64_t outcomes[fault_outcomes] = {};
    std::uint64_t writes[max_host_pages] = {};
    std::uint64_t accessed_set = 0;  // by its walks, in leaves
    std::uint64_t dirty_set = 0;
    std::uint64_t stale_reads = 0;

private:
    struct translation {
        std::uint64_t guest_page = ~std::uint64_t{0};
        std::uint64_t host_page = 0;
        bool for_writes = false;  // allowed, and D is set
    };

    bool try_once(std::uint64_t guest_physical, operation what)
    {
        const bool writes_it = what == operation::write;
        const std::uint64_t guest_page = guest_physical >> Mmu::page_shift;
        translation& known = tlb_[guest_page % tlb_.size()];
        if (known.guest_page != guest_page || (writes_it && !known.for_writes)) {
            const walk_result r = walk(Mmu::format, mmu_.root(), guest_physical, {.what = what}, {}, mmu_.tables());
            if (!r) return false;
            known = {guest_page, r.address >> Mmu::page_shift, writes_it};
            if constexpr (Mmu::format->dirty.exists()) {
                const std::uint64_t judged = r.path[r.steps - 1].entry;
                accessed_set += !young(judged, Mmu::format);
                dirty_set += writes_it && !dirty(judged, Mmu::format);
            }
        }
        // Now and then the thread loses its CPU here, where a flush has to wait for it.
        if (accesses % 64 == 0) std::this_thread::yield();
        if (writes_it) {
            memory_.guest_write(known.host_page);
            ++writes[known.host_page];
        } else {
            stale_reads += memory_.read(known.host_page) < writes[known.host_page];
        }
        return true;
    }

    Mmu& mmu_;
    host_memory& memory_;
    tlb_user user_;
    std::array<translation, 32> tlb_{};
};

/// A guest with a device, and its host.
template <class Mmu, auto Iommu>
class machine {
public:
    machine()
    {
        // The second shows the guest the first's pages once more; the third is a ROM.
        mmu_->add_memory_slot({.guest_page = 0, .pages = 160, .host_page = 0});
        mmu_->add_memory_slot({.guest_page = 0x80000, .pages = 64, .host_page = 32});
        mmu_->add_memory_slot({.guest_page = 0xfffe0, .pages = 32, .host_page = 160, .writable = false});
    }

    void round(std::chrono::milliseconds length)
    {
        ++rounds_;
        stop_ = false;
        std::vector<std::thread> threads;
        for (auto& cpu : vcpus_) threads.emplace_back([&] { run_guest(cpu); });
        threads.emplace_back([&] { run_device(); });
        threads.emplace_back([&] { reclaim(); });
        threads.emplace_back([&] { log(); });
        threads.emplace_back([&] { zap(); });
        std::this_thread::sleep_for(length);
        stop_ = true;
        for (std::thread& t : threads) t.join();
        copy_written();
    }

    /// Whether nothing was lost; says what was. The threads have ended.
    [[nodiscard]] bool check();

    void report() const;

private:
    static constexpr unsigned host_pages = 192;

    void run_guest(vcpu<Mmu>& cpu)
    {
        std::minstd_rand random(seed_++);
        while (!stop_) {
            const std::uint64_t n = random();
            const memory_slot& in = mmu_->slot(static_cast<unsigned>(n % 8 < 6 ? 0 : n % 8 - 5));
            const bool device = n / 8 % 256 == 0;  // an address that no slot has
            const std::uint64_t page = device ? 0xfec00 : in.guest_page + n / 2048 % in.pages;
            const operation what[] = {operation::read, operation::write, operation::fetch, operation::write};
            cpu.use(page << Mmu::page_shift, what[random() / 16 % 4]);
        }
    }

    void run_device()
    {
        std::minstd_rand random(seed_++);
        while (!stop_) {
            for (unsigned n = 0; n < 64; ++n) {
                device_.use(random() / 16 % device_pages, random() / 16 % 4 == 0 ? operation::read : operation::write);
            }
            std::this_thread::yield();
        }
    }

    // Ages all pages again and again; of those found old one a pass is swapped out. The device's stay.
    void reclaim()
    {
        std::uint64_t next = 0;
        while (!stop_) {
            bool reclaimed = false;
            for (std::uint64_t n = 0; n < host_pages; ++n) {
                const std::uint64_t page = next++ % host_pages;
                if (mmu_->age(page)) {
                    ++young_;
                } else if (++old_; page >= device_pages && !reclaimed && !mmu_->test_young(page)) {
                    reclaimed = true;
                    swap(page);
                    next += 7;
                }
            }
            std::this_thread::yield();
        }
    }

    void swap(std::uint64_t page)
    {
        ++swapped_;
        const std::lock_guard guard(memory_.lock);
        unmapped_ += mmu_->begin_invalidate(page);
        memory_.swap_out_and_in(page);
        mmu_->end_invalidate(page);
    }

    void log()
    {
        while (!stop_) {
            copy_written();
            std::this_thread::yield();
        }
    }

    void copy_written()
    {
        device_.harvest([this](std::uint64_t host_page) {
            const std::lock_guard guard(memory_.lock);
            copy_[host_page] = memory_.read(host_page);
            ++copied_for_device_;
        });
        for (unsigned i = 0; i < mmu_->memory_slots(); ++i) {
            const auto written = mmu_->harvest(i);
            const std::lock_guard guard(memory_.lock);
            for (std::uint64_t page = 0; page < mmu_->slot(i).pages; ++page) {
                if (!written.test(page)) continue;
                const std::uint64_t host_page = mmu_->slot(i).host_page + page;
                copy_[host_page] = memory_.read(host_page);
                ++copied_;
            }
        }
    }

    void zap()
    {
        std::minstd_rand random(seed_++);
        while (!stop_) {
            zapped_ += mmu_->zap(random() % host_pages);
            std::this_thread::yield();
        }
    }

    // Tables lie behind the host pages.
    static constexpr std::uint64_t tables_physical = std::uint64_t{max_host_pages} << Mmu::page_shift;
    static constexpr std::uint64_t table_bytes = Mmu::pool::table_bytes;
    using word = typename Mmu::word;

    alignas(table_bytes) std::array<word, Mmu::limits.tables * table_bytes / sizeof(word)> tables_{};
    std::unique_ptr<Mmu> mmu_ =
        std::make_unique<Mmu>(mmu_place<word>{.tables = tables_.data(), .tables_physical = tables_physical});
    host_memory memory_;
    dma_device<Iommu> device_{memory_};
    std::array<std::uint64_t, max_host_pages> copy_{};  // of all pages, as migration would have sent them
    std::array<vcpu<Mmu>, vcpu_count> vcpus_{vcpu<Mmu>{0, *mmu_, memory_}, vcpu<Mmu>{1, *mmu_, memory_}};
    std::atomic<bool> stop_ = false;
    std::atomic<unsigned> seed_ = 1;

    std::uint64_t rounds_ = 0;
    std::uint64_t young_ = 0;
    std::uint64_t old_ = 0;
    std::uint64_t swapped_ = 0;
    std::uint64_t unmapped_ = 0;
    std::uint64_t copied_ = 0;
    std::uint64_t copied_for_device_ = 0;
    std::uint64_t zapped_ = 0;
};

template <class Mmu, auto Iommu>
bool machine<Mmu, Iommu>::check()
{
    constexpr auto format = Mmu::format;
    unsigned lost = 0;
    const auto expect = [&](bool holds, const char* what, std::uint64_t page = 0, std::uint64_t entry = 0) {
        if (holds || ++lost > 10) return;
        std::cerr << "lost: " << what << ", page " << page << ", entry " << std::hex << entry << std::dec << '\n';
    };

    // Memory: all that was written is there, and in the copy.
    for (std::uint64_t page = 0; page < host_pages; ++page) {
        std::uint64_t writes = 0;
        for (const auto& cpu : vcpus_) writes += cpu.writes[page];
        if (page < device_pages) writes += device_.writes[page];
        expect(memory_.read(page) == writes, "a write to memory", page);
        expect(copy_[page] == writes, "a written page is not in the dirty log", page);
    }

    // Entries: each maps the page that its memory slot says, with its rights in place or saved.
    std::uint64_t mapped[max_host_pages] = {};
    std::uint64_t entries = 0;
    std::uint64_t young_entries = 0;
    std::uint64_t dirty_entries = 0;
    visit(format, mmu_->root(), {}, mmu_->tables(), [&](const auto& e) {
        if (e.level != 1) return visit_next::into;
        ++entries;
        young_entries += (e.entry & format->accessed.mask()) != 0;
        dirty_entries += (e.entry & format->dirty.mask()) != 0;
        const std::uint64_t guest_page = e.address >> Mmu::page_shift;
        for (unsigned i = 0; i < mmu_->memory_slots(); ++i) {
            const memory_slot& in = mmu_->slot(i);
            if (guest_page - in.guest_page >= in.pages) continue;
            const std::uint64_t host_page = in.host_page + guest_page - in.guest_page;
            ++mapped[host_page];
            std::uint64_t entry = e.entry;
            if constexpr (!format->accessed.exists()) {
                if (is_tracked(entry, Mmu::ageing)) entry = Mmu::ageing.restored(entry);
                entry &= ~Mmu::ageing.record_mask();  // the log tells of writes
            }
            // Only the write permission, A and D come and go.
            const permissions rights{.write = writable(entry, format)};
            const page_attributes with{.software = in.writable ? Mmu::may_write : 0};
            const std::uint64_t wanted =
                encode_page(kind::leaf, 1, host_page << Mmu::page_shift, rights, with, format).entry;
            expect(in.writable || !rights.write, "a ROM", guest_page, e.entry);
            entry &= ~(format->accessed.mask() | format->dirty.mask());
            expect(entry == wanted, "rights", guest_page, e.entry);
        }
        return visit_next::into;
    });
    for (std::uint64_t page = 0; page < host_pages; ++page) {
        expect(mapped[page] == mmu_->mappings(page), "an entry in the reverse map", page);
    }

    // Counts: what came is there or has gone.
    std::uint64_t made = 0;
    std::uint64_t accessed_set = 0;
    std::uint64_t dirty_set = 0;
    for (const auto& cpu : vcpus_) {
        accessed_set += cpu.accessed_set;
        dirty_set += cpu.dirty_set;
        made += cpu.outcomes[static_cast<unsigned>(fault_outcome::mapped)];
        expect(cpu.stale_reads == 0, "a write, in the eyes of its vCPU");
        expect(cpu.outcomes[static_cast<unsigned>(fault_outcome::no_room)] == 0, "room");
        expect(cpu.outcomes[static_cast<unsigned>(fault_outcome::misconfigured)] == 0, "a legal entry");
    }
    expect(made == entries + zapped_ + unmapped_, "a mapping");
    expect(device_.ready() && device_.refused == 0, "a mapping of the device");
    if constexpr (dma_device<Iommu>::logs) {
        expect(device_.dirty_set == device_.harvested + device_.dirty_entries(), "a dirty bit of the device");
    }
    if constexpr (format->dirty.exists()) {
        const mmu_statistics& gone = mmu_->statistics();
        expect(accessed_set == gone.aged + gone.zapped_young + young_entries, "an accessed bit");
        expect(dirty_set == gone.harvested + gone.zapped_dirty + dirty_entries, "a dirty bit");
    }
    return lost == 0;
}

template <class Mmu, auto Iommu>
void machine<Mmu, Iommu>::report() const
{
    std::uint64_t accesses = 0;
    std::uint64_t outcomes[fault_outcomes] = {};
    for (const auto& cpu : vcpus_) {
        accesses += cpu.accesses;
        for (unsigned i = 0; i < fault_outcomes; ++i) outcomes[i] += cpu.outcomes[i];
    }
    const auto faults = [&](fault_outcome o) { return outcomes[static_cast<unsigned>(o)]; };
    const char* const more = "                    ";
    std::cout << "  the guest's CPUs  " << accesses << " accesses to memory; at page faults\n"
              << more << "  " << faults(fault_outcome::mapped) << " pages mapped\n"
              << more << "  " << faults(fault_outcome::restored) << " tracked pages given back their rights\n"
              << more << "  " << faults(fault_outcome::write_granted) << " pages made writable again\n"
              << more << "  " << faults(fault_outcome::retry) << " accesses tried again: another thread was there\n"
              << more << "  " << faults(fault_outcome::no_memory_slot) << " accesses to devices\n"
              << more << "  " << faults(fault_outcome::read_only) << " writes to ROM\n"
              << "  the device        " << device_.accesses << " accesses to memory\n"
              << "  the reclaimer     " << young_ << " times a page was young: used since it was last asked\n"
              << more << old_ << " times a page was old\n"
              << more << swapped_ << " pages swapped out\n"
              << "  the dirty log     " << copied_ << " written pages found and copied\n"
              << more << copied_for_device_
              << (dma_device<Iommu>::logs ? " that the device's tables told of\n"
                                          : " of the device's, which may have been written\n")
              << "  the zapper        " << zapped_ << " mappings taken away\n"
              << "  checked in all " << rounds_ << " rounds, every page, entry and count: nothing lost\n";
}

template <auto Format, auto Iommu>
bool run(const char* title, std::chrono::milliseconds length)
{
    std::cout << title << '\n' << std::flush;
    machine<mmu<Format>, Iommu> m;
    progress line;
    const auto end = std::chrono::steady_clock::now() + length;
    do {
        const auto left = std::chrono::duration_cast<std::chrono::seconds>(end - std::chrono::steady_clock::now());
        line.show("  running, " + std::to_string(left.count() + 1) + " s left");
        m.round(std::chrono::milliseconds(20));
        if (!m.check()) return false;
    } while (std::chrono::steady_clock::now() < end);
    m.report();
    return true;
}

constexpr std::string_view usage =
    "usage: hypervisor [--seconds N] [--flags on|off]\n"
    "\n"
    "Runs vCPUs, a device, a reclaimer, a dirty logger and a zapper on one shadow MMU for N seconds (1):\n"
    "with accessed and dirty bits, by EPT and VT-d, and by NPT and AMD-Vi; by EPT and VT-d without them;\n"
    "or all in turn (the default).\n"
    "\n"
    "Exit status: 0, 1 if anything was lost, or 2 if the command line is wrong.\n";

int wrong(const std::string& problem)
{
    std::cerr << "hypervisor: " << problem << "; see hypervisor --help\n";
    return 2;
}

int start(const std::vector<std::string>& words)
{
    unsigned seconds = 1;
    bool on = true;
    bool off = true;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string& word = words[i];
        if (word == "--help") {
            std::cout << usage;
            return 0;
        }
        if (word != "--seconds" && word != "--flags") return wrong("unknown option '" + word + "'");
        if (++i == words.size()) return wrong(word + " takes a value");
        const std::string& value = words[i];
        if (word == "--flags") {
            on = value == "on";
            off = value == "off";
            if (!on && !off) return wrong("--flags is on or off, not '" + value + "'");
        } else {
            const char* const last = value.data() + value.size();
            const auto [stop, problem] = std::from_chars(value.data(), last, seconds);
            if (problem != std::errc{} || stop != last || seconds < 1 || seconds > 3600) {
                return wrong("--seconds is 1 to 3600, not '" + value + "'");
            }
        }
    }
    const std::chrono::milliseconds length(1000 * seconds / (on && off ? 3 : on ? 2 : 1));
    if (on && !run<ept_with_flags, vtd_with_flags>("EPT and VT-d with accessed and dirty bits", length)) return 1;
    if (on && !run<nested, amdvi>("NPT and AMD-Vi", length)) return 1;
    if (off && !run<ept_without_flags, vtd_without_flags>(
                   "EPT and VT-d without them: access tracking, write protection", length))
        return 1;
    return 0;
}

}  // namespace

}  // namespace hypervisor

int main(int argc, char** argv) { return hypervisor::start({argv + 1, argv + argc}); }
