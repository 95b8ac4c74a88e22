// SPDX-License-Identifier: BSL-1.0
// The guest runs on one CPU while the other ages, harvests, protects, splits, merges and takes away its pages. No write
// may be lost, and no page used after it was taken away.
#pragma once

#include <cstdint>

#include <ptebits/visit.hpp>

#include "guest.hpp"
#include "virtual_cpu.hpp"

/// What the kernel is asked to do, by its command line.
struct options {
    bool two_cpus = false;
    unsigned seconds = 10;
    // To see that it is noticed: the flushes of these are left out.
    bool harvest_unflushed = false;
    bool zap_unflushed = false;
};

/// The options that a command line asks for; null: none.
[[nodiscard]] inline options options_in(const char* at)
{
    options wanted;
    if (at == nullptr) return wanted;
    const auto next_is = [&at](const char* word) {
        const char* p = at;
        while (*word != '\0' && *p == *word) ++p, ++word;
        if (*word != '\0') return false;
        at = p;
        return true;
    };
    while (*at != '\0') {
        if (next_is("two-cpus"))
            wanted.two_cpus = true;
        else if (next_is("without-flush=harvest"))
            wanted.harvest_unflushed = true;
        else if (next_is("without-flush=zap"))
            wanted.zap_unflushed = true;
        else if (next_is("seconds=")) {
            for (wanted.seconds = 0; *at >= '0' && *at <= '9'; ++at)
                wanted.seconds = 10 * wanted.seconds + static_cast<unsigned>(*at - '0');
        } else
            ++at;
    }
    return wanted;
}

namespace machine {
/// Runs a function on the second CPU; returns whether it has begun.
[[nodiscard]] bool start_second_cpu(void (*function)());
}  // namespace machine

template <class Machine, class Mmu>
class storm_on_two_cpus {
public:
    using paging = guest_paging<std::remove_const_t<decltype(Mmu::format)>>;

    storm_on_two_cpus(Mmu& mmu, const paging& guest) : mmu_(mmu), guest_(guest)
    {
        fill_guest_memory();
        copy_program(storm, storm_end);
        guest_word(script_page, word_to_stop) = guest_word(script_page, word_of_strangers) = 0;
        mode_ = {guest.tables.build(), guest.tables.levels};
        check(mode_.root != 0, "the guest's tables");
        check(
            mmu.add_memory_slot({.guest_page = 0, .pages = small_pages, .host_page = 0}) &&
                mmu.add_memory_slot({.guest_page = first_page, .pages = pages, .host_page = first_page, .large = true}),
            "the memory slots");
    }

    /// On the second CPU.
    void run_guest()
    {
        cpu_.start(mmu_.root(), mode_);
        guest_registers r{};
        r.pc = linear(code_page);
        r.b = linear(first_page);
        r.c = pages - 1;
        r.d = 1;
        r.s = linear(script_page);
        r.h = Machine::ends_by;
        for (;;) {
            const guest_exit e = cpu_.run(r);
            if (e.how == ending::done) break;
            if (e.how == ending::interrupted) {
                ++interrupts_;
                continue;
            }
            if (e.how == ending::guest_fault && guest_.repair(mode_.root, mmu_.root(), e.address, e.access)) continue;
            const hypervisor::fault_outcome outcome = e.how == ending::fault && e.told
                                                          ? mmu_.fault(e.address, e.access)
                                                          : hypervisor::fault_outcome::misconfigured;
            if (outcome >= hypervisor::fault_outcome::no_memory_slot) {
                unexpected_ = e;
                outcome_ = outcome;
                explained_ = false;
                break;
            }
            ++faults_;
        }
        counted_ = r.sum;
        done_.store(1);
    }

    /// On the first, meanwhile.
    void run_host(const options& wanted)
    {
        unsigned last_second = machine::second();
        for (unsigned left = wanted.seconds + 1; left != 0 && done_.load() == 0 && all_right;) {
            const std::uint64_t page = first_page + random_.below(pages);
            switch (next_step(wanted)) {
            case 0:
                for (std::uint64_t p = first_page; p < first_page + pages; ++p) aged_ += mmu_.age(p);
                break;
            case 1:
                mmu_.write_protect(1);
                ++protected_;
                break;
            case to_split:
                split_ += mmu_.split(page * page_bytes);
                break;
            case 3:
            case 4:
                merged_ += mmu_.merge(page * page_bytes);
                break;
            case to_move:
                leave_out_flushes = wanted.zap_unflushed;
                move(page);
                leave_out_flushes = false;
                break;
            case 6:
                zapped_ += mmu_.zap(page);
                break;
            case to_harvest:
                leave_out_flushes = wanted.harvest_unflushed;
                harvest();
                leave_out_flushes = false;
                break;
            }
            for (unsigned n = random_.below(20'000); n != 0; --n) machine::relax();
            const unsigned now = machine::second();
            left -= now != last_second;
            last_second = now;
        }
        ptebits::store(guest_word(script_page, word_to_stop), std::uint64_t{1});
        hypervisor::flush_tlbs();
        while (done_.load() == 0) machine::relax();
    }

    void check_end()
    {
        if (!check(explained_, "an exit that nothing explains")) {
            print("    reason ", hex{unexpected_.reason}, " at ", hex{unexpected_.address}, ": ", name(outcome_),
                  ", code ");
            machine::print_code(unexpected_.code);
            print("\n");
        }
        std::uint64_t sum = 0;
        for (std::uint64_t page = first_page; page < first_page + pages; ++page) sum += guest_word(page, word_of_count);
        check(sum == counted_, "a write was lost");
        check(guest_word(script_page, word_of_strangers) == 0, "a page was used after it was taken away");
        unsigned illegal = 0;
        visit(Mmu::format, mmu_.root(), {}, mmu_.tables(), [&](const auto& e) {
            illegal += !legal(e.entry, e.level, Mmu::format);
            return ptebits::visit_next::into;
        });
        check(illegal == 0, "an entry that breaks a rule");
        print("  the guest: ", counted_, " writes, ", faults_, " faults, ", interrupts_, " interrupts\n");
        print("  the host: ", aged_, " young pages, ", harvested_, " written pages, ", protected_, " times protected, ",
              split_, " split, ", merged_, " merged, ", moved_, " moved, ", zapped_, " zapped; ", flushes,
              " flushes\n");
        if (!all_right) return;  // it ended at once
        check(counted_ != 0 && aged_ != 0 && harvested_ != 0 && protected_ != 0 && split_ != 0 && merged_ != 0 &&
                  moved_ != 0 && zapped_ != 0,
              "something never happened");
    }

private:
    static constexpr unsigned to_split = 2, to_move = 5, to_harvest = 7;
    /// At random. Without a flush nothing else is done: it makes the guest fault, and emulators forget translations
    /// then. Harvests miss writes in small pages alone, where one TLB entry stands for all.
    unsigned next_step(const options& wanted) noexcept
    {
        const unsigned any = random_.below(8);
        if (wanted.zap_unflushed) return to_move;
        return wanted.harvest_unflushed ? any % 2 != 0 ? to_split : to_harvest : any;
    }
    // Of the script's page, as guest.S has it.
    static constexpr unsigned word_to_stop = 0;
    static constexpr unsigned word_of_strangers = 1;  // counts pages that did not hold their address
    static constexpr std::uint64_t first_page = large_page;
    static constexpr std::uint64_t pages = 1024;  // a power of two, for the guest's program

    static std::uint64_t count_of(std::uint64_t page) noexcept
    {
        return ptebits::load(guest_word(page, word_of_count));
    }

    // What was written since the last harvest returned must be in this one.
    void harvest()
    {
        for (std::uint64_t n = 0; n < pages; ++n) seen_[n] = count_of(first_page + n);
        const auto written = mmu_.harvest(1);
        for (std::uint64_t n = 0; n < pages; ++n) {
            harvested_ += written.test(n);
            if (seen_[n] != known_[n] && !written.test(n) && !told_) {
                told_ = true;
                check(false, "a write that no harvest told of");
            }
            known_[n] = count_of(first_page + n);
        }
    }
    // Nobody uses the page meanwhile: what the host leaves there stays.
    void move(std::uint64_t page)
    {
        moved_ += mmu_.begin_invalidate(page);
        std::uint64_t* const words = &guest_word(page, 0);
        std::uint64_t* const spare = word_at(spare_at);
        for (unsigned i = 0; i < page_bytes / 8; ++i) spare[i] = ptebits::exchange(words[i], ~std::uint64_t{0});
        for (unsigned n = 0; n < 5'000; ++n) machine::relax();
        bool used = false;
        for (unsigned i = 0; i < page_bytes / 8; ++i)
            used = used || ptebits::exchange(words[i], spare[i]) != ~std::uint64_t{0};
        if (used && !told_) {
            told_ = true;
            check(false, "a page was used after it was taken away");
        }
        mmu_.end_invalidate(page);
    }

    Mmu& mmu_;
    const paging& guest_;
    guest_mode mode_;
    virtual_cpu<Machine> cpu_;
    random_numbers random_;
    std::uint64_t known_[pages] = {}, seen_[pages] = {};
    std::uint64_t aged_ = 0, harvested_ = 0, protected_ = 0, split_ = 0, merged_ = 0, moved_ = 0, zapped_ = 0;
    bool told_ = false;

    // The second CPU's.
    std::uint64_t faults_ = 0, interrupts_ = 0, counted_ = 0;
    bool explained_ = true;
    guest_exit unexpected_;
    hypervisor::fault_outcome outcome_{};
    hypervisor::shared_word done_;
};

template <class Machine, class Mmu>
void run_on_two_cpus(Mmu& mmu, const typename storm_on_two_cpus<Machine, Mmu>::paging& guest, const options& wanted)
{
    print(Machine::name, ", two CPUs\n");
    using storm_run = storm_on_two_cpus<Machine, Mmu>;
    alignas(storm_run) static unsigned char room[sizeof(storm_run)];
    static storm_run* the_run = nullptr;
    the_run = new (room) storm_run(mmu, guest);
    if (!machine::start_second_cpu([] { the_run->run_guest(); })) fail("there is no second CPU");
    the_run->run_host(wanted);
    the_run->check_end();
}
