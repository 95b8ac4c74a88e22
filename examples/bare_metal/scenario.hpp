// SPDX-License-Identifier: BSL-1.0
// What a hypervisor does with a guest's memory, step by step, on one CPU. After each step the pages that the MMU marked
// as used and as written are those that the guest used and wrote, and the code of each fault is the one that a walk
// told before. For any format of the second stage.
#pragma once

#include <cstdint>

#include <ptebits/split.hpp>
#include <ptebits/table.hpp>
#include <ptebits/visit.hpp>

#include "guest.hpp"
#include "virtual_cpu.hpp"

/// How long something took.
struct cost {
    std::uint64_t times = 0, sum = 0, least = ~std::uint64_t{0}, most = 0;

    void add(std::uint64_t took) noexcept
    {
        ++times;
        sum += took;
        if (took < least) least = took;
        if (took > most) most = took;
    }
};

template <class Machine, class Mmu>
class scenario {
public:
    using host_format = std::remove_const_t<decltype(Mmu::format)>;
    using paging = guest_paging<host_format>;

    scenario(Mmu& mmu, const paging& guest) : mmu_(mmu), guest_(guest)
    {
        fill_guest_memory();
        copy_program(guest.tables.program->begin, guest.tables.program->end);
        for (std::uint64_t page = 0; page < guest_pages; ++page) counts_[page] = guest_word(page, word_of_count);
        const guest_mode mode{.root = guest.tables.build(), .levels = guest.tables.levels};
        check(mode.root != 0, "the guest's tables");
        guest_root_ = mode.root;
        // Small pages, large ones, and small ones again for the rest.
        check(mmu.add_memory_slot({.guest_page = 0, .pages = small_pages, .host_page = 0}) &&
                  mmu.add_memory_slot({.guest_page = large_page,
                                       .pages = guest_pages - large_page,
                                       .host_page = large_page,
                                       .large = true}),
              "the memory slots");
        cpu_.start(mmu.root(), mode);
        for (unsigned i = 0; i < 8; ++i) {
            const std::uint64_t begun = machine::ticks();
            overhead_ = machine::ticks() - begun;
        }
    }

    /// All steps. `with_pages`: says which pages were used in each, for a picture.
    void run_all(bool with_pages);

private:
    static constexpr bool has_flags = Mmu::format->accessed.exists();
    static constexpr std::uint64_t device_answer = 0x5a5a;
    static constexpr unsigned first_device = 20, last_device = 22;

    // ---- scripts

    void begin() noexcept
    {
        commands_ = 0;
        used_ = {};
        written_ = {};
    }
    void add(std::uint64_t page, use how) noexcept
    {
        put_command(linear(page) | static_cast<unsigned>(how));
        used_.add(page, 1);
        if (how == use::write || how == use::modify) written_.add(page, 1);
    }
    void put_command(std::uint64_t command) noexcept
    {
        const unsigned bytes = guest_.tables.program->word_bytes;
        const std::uint64_t at = guest_at + script_page * page_bytes + std::uint64_t{commands_++} * bytes;
        if (bytes == 8) {
            *word_at(at) = command;
        } else {
            *reinterpret_cast<std::uint32_t*>(at) = static_cast<std::uint32_t>(command);
        }
    }
    [[nodiscard]] std::uint64_t command(unsigned n) const noexcept
    {
        const std::uint64_t at =
            guest_at + script_page * page_bytes + std::uint64_t{n} * guest_.tables.program->word_bytes;
        return guest_.tables.program->word_bytes == 8 ? *word_at(at) : *reinterpret_cast<const std::uint32_t*>(at);
    }
    [[nodiscard]] use random_use() noexcept { return static_cast<use>(1 + random_.below(4)); }
    void add_random(unsigned n, std::uint64_t first, std::uint64_t last) noexcept
    {
        for (unsigned i = 0; i < n; ++i) {
            const std::uint64_t page = first + random_.below(last - first + 1);
            add(page, random_use());
        }
    }
    void add_mapped(unsigned n, std::uint64_t first, std::uint64_t last) noexcept
    {
        while (n != 0) {
            const std::uint64_t page = first + random_.below(last - first + 1);
            if (mmu_.mappings(page) == 0) continue;
            add(page, random_use());
            --n;
        }
    }
    /// Runs the script, and adds what the guest uses besides: its code, its script, its tables.
    void run()
    {
        put_command(0);
        std::uint64_t sum = 0;
        for (unsigned n = 0; n + 1 < commands_; ++n) {  // what it must come to
            const std::uint64_t page = (command(n) - guest_linear) >> small_shift;
            const auto how = static_cast<use>(command(n) % 8);
            if (how == use::modify) ++counts_[page];
            if (how == use::read) sum += is_device(page) ? device_answer : counts_[page];
        }
        std::uint64_t before[last_table + 1];
        for (unsigned t = first_table; t <= last_table; ++t) before[t] = checksum(t);
        guest_registers r{};
        r.pc = r.d = linear(code_page);
        r.b = linear(script_page);
        r.h = Machine::ends_by;
        run_guest(r);
        mend();
        check(guest_.tables.program->word_bytes == 8
                  ? r.sum == sum
                  : static_cast<std::uint32_t>(r.sum) == static_cast<std::uint32_t>(sum),
              "what the guest read");
        used_.add(code_page, 1);
        used_.add(script_page, 1);
        for (unsigned t = first_table; t < first_table + guest_.tables.levels; ++t) {
            if (guest_.register_holds_top && t == first_table) continue;
            used_.add(t, 1);
            // Where not every look at a guest's table counts as a write, a change of the guest's A and D does; that is
            // what emulators do not ask for.
            if (machine::table_uses_write<Mmu::format>)
                written_.add(t, 1);
            else if (Mmu::format->accessed_by() != ptebits::accessed_setter::fault && checksum(t) != before[t])
                ++deviated_[static_cast<unsigned>(deviation::flags_through_read_only)];
        }
    }
    [[nodiscard]] static std::uint64_t checksum(unsigned page) noexcept
    {
        std::uint64_t s = 0;
        for (unsigned i = 0; i < page_bytes / 8; ++i) s = s * 31 + guest_word(page, i);
        return s;
    }

    // ---- faults

    [[nodiscard]] prediction<host_format> look(std::uint64_t address, use how) const
    {
        return guest_.look(guest_root_, mmu_.root(), address, machine::access_of(how));
    }
    /// What the guest's next access comes to: known before the exit is read.
    [[nodiscard]] prediction<host_format> predict(const guest_registers& r) const
    {
        const auto fetched = look(r.pc, use::fetch);
        if (!fetched.walk) return fetched;
        const script_program& p = *guest_.tables.program;
        if (r.pc == p.linear_of(p.at_script)) return look(r.b, use::read);
        if (r.pc == p.linear_of(p.at_read)) return look(r.a + 8, use::read);
        if (r.pc == p.linear_of(p.at_write)) return look(r.a + 16, use::write);
        if (r.pc == p.linear_of(p.at_modify)) return look(r.a + 8, use::modify);
        return fetched;
    }
    void compare(const guest_exit& e, const guest_registers& r, const prediction<host_format>& predicted)
    {
        const auto same_address = [&](const prediction<host_format>& p) {
            if (p.walk) return false;
            if (p.walk.where == ptebits::dimension::guest) return e.how == ending::guest_fault;
            return e.how == ending::fault && p.walk.guest_physical == e.address;
        };
        if (same_address(predicted) && predicted.code == e.code) {
            ++exact_;
            check(e.told, "a code that the library cannot read");
            return;
        }
        deviation d = same_address(predicted) ? machine::deviation_of<Mmu::format>(e.code, predicted) : deviation::none;
        if (r.pc == guest_.tables.program->linear_of(guest_.tables.program->at_modify)) {
            const auto as_read = look(r.a + 8, use::read);
            if (same_address(as_read) && as_read.code == e.code) d = deviation::locked_access_reads_first;
            if (same_address(as_read) && machine::as_of<Mmu::format>(use::write, as_read) == e.code)
                d = deviation::locked_access_judged_as_read;
        }
        if (d != deviation::none) {
            ++deviated_[static_cast<unsigned>(d)];
            return;
        }
        const auto& walk = predicted.walk;
        check(false, "a fault is not as predicted");
        print("    at ", hex{e.address}, " code ");
        machine::print_code(e.code);
        print(", predicted at ", hex{walk.guest_physical}, " code ");
        machine::print_code(predicted.code);
        print(", PC ", hex{r.pc}, "; the guest's tables: ", name(walk.guest.fault), ", entry ",
              hex{walk.guest.last_entry()}, " ", unsigned(walk.guest.level), "\n");
    }
    void mend() { deviated_[static_cast<unsigned>(deviation::accessed_in_pdpte)] += guest_.tables.mend(guest_root_); }
    void run_guest(guest_registers& r)
    {
        for (unsigned exits = 0; exits < 100'000; ++exits) {
            const guest_exit e = cpu_.run(r);
            if (e.how == ending::done) return;
            if (e.how == ending::interrupted) continue;
            if (e.how == ending::other) fail("exit ", hex{e.reason}, " ", hex{e.address}, ", PC ", hex{r.pc});
            mend();
            const auto predicted = predict(r);
            ++faults_;
            compare(e, r, predicted);
            if (e.how == ending::guest_fault) {
                if (!guest_.repair(guest_root_, mmu_.root(), e.address, e.access)) fail("a fault of the guest's own");
                continue;
            }
            const std::uint64_t begun = machine::ticks();
            const hypervisor::fault_outcome outcome = mmu_.fault(e.address, e.access);
            costs_[static_cast<unsigned>(outcome)].add(machine::ticks() - begun - overhead_);
            switch (outcome) {
            case hypervisor::fault_outcome::write_granted:
                granted_.add(e.address >> small_shift, 1);
                break;
            case hypervisor::fault_outcome::misconfigured:
                answer_as_device(e, r);
                break;
            case hypervisor::fault_outcome::no_memory_slot:
            case hypervisor::fault_outcome::read_only:
            case hypervisor::fault_outcome::no_room:
                fail(name(outcome), " at ", hex{e.address});
            default:
                break;
            }
        }
        fail("the guest does not end");
    }
    /// A page with a reserved bit is a device's: the guest's read is done for it.
    void answer_as_device(const guest_exit& e, guest_registers& r)
    {
        const script_program& p = *guest_.tables.program;
        if (!is_device(e.address >> small_shift) || r.pc != p.linear_of(p.at_read)) {
            fail("an entry that breaks a rule, at ", hex{e.address});
        }
        r.sum += device_answer;
        r.pc = linear(code_page);  // the program's next turn
        ++device_reads_;
    }
    [[nodiscard]] bool is_device(std::uint64_t page) const noexcept
    {
        return devices_ && page >= first_device && page <= last_device;
    }

    // ---- what the host finds

    [[nodiscard]] static ptebits::inclusive_range all() noexcept { return {0, guest_bytes - 1}; }
    [[nodiscard]] page_set age_by_range() const noexcept
    {
        page_set found;
        age_range(Mmu::ageing, mmu_.root(), all(), mmu_.tables(), [&](std::uint64_t address, std::uint64_t bytes) {
            found.add(address >> small_shift, bytes >> small_shift);
        });
        return found;
    }
    [[nodiscard]] page_set harvest() noexcept
    {
        page_set found;
        for (unsigned i = 0; i < mmu_.memory_slots(); ++i) {
            const auto written = mmu_.harvest(i);
            for (std::uint64_t page = 0; page < mmu_.slot(i).pages; ++page) {
                if (written.test(page)) found.add(mmu_.slot(i).guest_page + page, 1);
            }
        }
        return found;
    }
    /// A new period: no page young, none dirty.
    void forget() noexcept
    {
        static_cast<void>(age_by_range());
        static_cast<void>(harvest());
        hypervisor::flush_tlbs();
        granted_ = {};
    }
    /// The slot at which a walk to a guest page ends.
    [[nodiscard]] std::uint64_t* slot_of(std::uint64_t page) const noexcept
    {
        const ptebits::walk_result r =
            walk(Mmu::format, mmu_.root(), page * page_bytes, {}, {}, mmu_.tables(), ptebits::update_flags::no);
        return mmu_.tables()(r.path[r.steps - 1].slot_address);
    }

    // ---- lines of the table that is printed

    void line(const char* step, const page_set* used, const page_set* written)
    {
        print("  ", left_aligned{step, 26}, right_aligned{faults_, 7}, right_aligned{exact_, 7});
        const auto pair = [](const page_set* found, const page_set& expected) {
            if (found == nullptr) {
                print(left_aligned{"", 14});
            } else {
                print(right_aligned{count(*found), 7}, " = ", right_aligned{count(expected), 4});
            }
        };
        pair(used, used_);
        if (written != nullptr) pair(written, written_);
        print("\n");
        if (used != nullptr && *used != used_) differ("the pages used", *used, used_);
        if (written != nullptr && *written != written_) differ("the pages written", *written, written_);
        if (with_pages_) {
            print("  pages of: ", step, "\n");
            list_pages("    used", used_);
            list_pages("    written", written_);
        }
        all_faults_ += faults_;
        all_exact_ += exact_;
        faults_ = exact_ = 0;
    }
    /// A step after which both sets must be right.
    void compare_all(const char* step)
    {
        const page_set used = age_by_range();
        const page_set written = harvest();
        line(step, &used, &written);
    }
    static void differ(const char* what, const page_set& found, const page_set& expected)
    {
        check(false, what);
        page_set only;
        for (unsigned i = 0; i < page_set::word_count; ++i) only.words[i] = found.words[i] & ~expected.words[i];
        list_pages("    found only:", only);
        for (unsigned i = 0; i < page_set::word_count; ++i) only.words[i] = expected.words[i] & ~found.words[i];
        list_pages("    not found: ", only);
    }
    static void list_pages(const char* what, const page_set& s)
    {
        print(what);
        for (std::uint64_t page = 0; page < guest_pages; ++page) {
            if (!s.test(page)) continue;
            std::uint64_t last = page;
            while (last + 1 < guest_pages && s.test(last + 1)) ++last;
            print(' ', page);
            if (last != page) print('-', last);
            page = last;
        }
        print("\n");
    }

    void map_and_age();
    void log_writes();
    void change_page_sizes();
    void move_pages();
    void use_devices();
    void check_end();

    Mmu& mmu_;
    const paging& guest_;
    virtual_cpu<Machine> cpu_;
    std::uint64_t guest_root_ = 0;
    random_numbers random_;
    bool with_pages_ = false;

    std::uint64_t counts_[guest_pages];  // what each page's word of count must be
    unsigned commands_ = 0;
    page_set used_, written_;  // in this period, by the script
    page_set granted_;         // pages whose first write faulted
    bool devices_ = false;
    unsigned device_reads_ = 0;

    std::uint64_t faults_ = 0, exact_ = 0, all_faults_ = 0, all_exact_ = 0;
    unsigned deviated_[deviations] = {};
    std::uint64_t overhead_ = 0;
    cost costs_[hypervisor::fault_outcomes];
};

template <class Machine, class Mmu>
void scenario<Machine, Mmu>::run_all(bool with_pages)
{
    with_pages_ = with_pages;
    print("  step                       faults  exact   used = expected   written = expected\n");
    map_and_age();
    log_writes();
    change_page_sizes();
    move_pages();
    use_devices();
    check_end();
}

template <class Machine, class Mmu>
void scenario<Machine, Mmu>::map_and_age()
{
    begin();
    add_random(120, first_data_page, small_pages - 1);
    run();
    compare_all("mapped on demand");

    // The guest's own A and D: of what it reached by linear addresses.
    page_set expected_used = used_, expected_written = {}, guest_used, guest_written;
    for (unsigned n = 0; n + 1 < commands_; ++n) {
        const auto how = static_cast<use>(command(n) % 8);
        if (how == use::write || how == use::modify)
            expected_written.add((command(n) - guest_linear) >> small_shift, 1);
    }
    guest_.tables.harvest(guest_root_, guest_used, guest_written);
    for (unsigned t = first_table; t <= last_table; ++t) expected_used.words[0] &= ~ptebits::bit(t).mask();
    check(guest_used == expected_used, "A in the guest's own tables");
    check(guest_written == expected_written, "D in the guest's own tables");
    hypervisor::flush_tlbs();

    forget();
    begin();
    add_random(60, first_data_page, small_pages - 1);
    run();
    page_set young;
    for (std::uint64_t page = 0; page < small_pages; ++page) {
        if (mmu_.age(page)) young.add(page, 1);
    }
    line("aged one by one", &young, nullptr);

    forget();
    begin();
    add_random(60, first_data_page, small_pages - 1);
    run();
    young = {};
    auto& table = *reinterpret_cast<std::uint64_t(*)[512]>(slot_of(0));  // of page 0, which is its first slot
    age_table(table, Mmu::ageing).for_each([&](std::size_t slot) { young.add(slot, 1); });
    line("aged by table", &young, nullptr);

    forget();
    begin();
    young = age_by_range();
    line("aged without a run", &young, nullptr);
}

template <class Machine, class Mmu>
void scenario<Machine, Mmu>::log_writes()
{
    forget();
    begin();
    add_random(60, first_data_page, small_pages - 1);
    run();
    page_set written = harvest();
    line("harvested", nullptr, &written);

    forget();
    for (unsigned i = 0; i < mmu_.memory_slots(); ++i) mmu_.write_protect(i);
    begin();
    add_mapped(60, first_data_page, small_pages - 1);
    run();
    written = harvest();
    line("write-protected", nullptr, &written);
    if (has_flags) check(granted_ == written_, "each first write faults, once");
}

template <class Machine, class Mmu>
void scenario<Machine, Mmu>::change_page_sizes()
{
    const std::uint64_t large_at = large_page * page_bytes;
    const auto flags_are = [&](bool used, bool written, const char* what) {
        // Without A and D nothing is to be seen here.
        if constexpr (has_flags) {
            const std::uint64_t entry = ptebits::load(*slot_of(large_page));
            check(young(entry, Mmu::format) == used && dirty(entry, Mmu::format) == written, what);
        }
    };
    forget();
    begin();
    add_random(40, large_page, large_page + 511);
    run();
    line("2M page used", nullptr, nullptr);
    check(costs_[static_cast<unsigned>(hypervisor::fault_outcome::mapped_large)].times != 0, "a page of 2 MiB");

    // Split in use: each small page has the A and D of the large one.
    flags_are(true, true, "A and D of a large page");
    check(mmu_.split(large_at), "split");
    flags_are(true, true, "A and D right after a split");
    forget();
    begin();
    add_random(60, large_page, large_page + 511);
    run();
    compare_all("split into 4K");

    // Merged in use: the large page has the A and D of all.
    hypervisor::flush_tlbs();
    begin();
    add(large_page + 300, use::write);
    run();
    flags_are(false, false, "A and D of another page");
    check(mmu_.merge(large_at), "merge");
    flags_are(true, true, "A and D right after a merge");
    forget();
    flags_are(false, false, "A and D of a merged page that was not used");
    begin();
    add_random(40, large_page, large_page + 511);
    run();
    bool any_written = false;
    for (std::uint64_t page = large_page; page < large_page + 512; ++page) {
        any_written = any_written || written_.test(page);
    }
    used_.add(large_page, 512);  // one entry tells for all
    if (any_written) written_.add(large_page, 512);
    compare_all("merged into 2M");
}

template <class Machine, class Mmu>
void scenario<Machine, Mmu>::move_pages()
{
    // While its entries are frozen nobody uses a page: it is copied away, overwritten, and brought back.
    forget();
    begin();
    add_random(60, first_data_page, 63);
    unsigned mapped = 0;
    for (std::uint64_t page = first_data_page; page < 64; ++page) mapped += mmu_.begin_invalidate(page);
    check(mapped != 0, "pages to move");
    for (std::uint64_t page = first_data_page; page < 64; ++page) {
        std::uint64_t* const spare = word_at(spare_at + page * page_bytes);
        for (unsigned i = 0; i < page_bytes / 8; ++i) {
            spare[i] = guest_word(page, i);
            guest_word(page, i) = ~std::uint64_t{0};
        }
    }
    for (std::uint64_t page = first_data_page; page < 64; ++page) {
        const std::uint64_t* const spare = word_at(spare_at + page * page_bytes);
        for (unsigned i = 0; i < page_bytes / 8; ++i) guest_word(page, i) = spare[i];
        mmu_.end_invalidate(page);
    }
    run();
    compare_all("moved");

    forget();
    begin();
    add_mapped(40, first_data_page, small_pages - 1);
    for (std::uint64_t page = first_data_page; page < small_pages; ++page) {
        if (used_.test(page)) check(mmu_.zap(page) == 1 && mmu_.mappings(page) == 0, "zap");
    }
    run();
    compare_all("zapped");
}

template <class Machine, class Mmu>
void scenario<Machine, Mmu>::use_devices()
{
    begin();
    for (std::uint64_t page = first_device; page <= last_device; ++page) add(page, use::write);
    run();  // so that they are mapped
    forget();
    devices_ = true;
    for (std::uint64_t page = first_device; page <= last_device; ++page) {
        std::uint64_t& slot = *slot_of(page);
        if constexpr (!has_flags) restore(slot, Mmu::ageing);
        ptebits::set(slot, machine::reserved_bit);
    }
    hypervisor::flush_tlbs();
    begin();
    for (std::uint64_t page = first_device; page <= last_device; ++page) {
        add(page, use::read);
        add(page, use::read);
    }
    run();
    line("devices' pages", nullptr, nullptr);
    check(device_reads_ == 2 * (last_device - first_device + 1), "each use of a device faults");
    devices_ = false;
    for (std::uint64_t page = first_device; page <= last_device; ++page) {
        std::uint64_t& slot = *slot_of(page);
        ptebits::clear(slot, machine::reserved_bit);
    }
    hypervisor::flush_tlbs();
}

template <class Machine, class Mmu>
void scenario<Machine, Mmu>::check_end()
{
    // The memory is what the guest made of it, and each entry is one that the format has.
    unsigned wrong = 0;
    for (unsigned page = first_data_page; page < guest_pages; ++page)
        wrong += guest_word(page, word_of_count) != counts_[page];
    check(wrong == 0, "the guest's memory");
    unsigned entries = 0, illegal = 0;
    visit(Mmu::format, mmu_.root(), {}, mmu_.tables(), [&](const auto& e) {
        ++entries;
        illegal += !legal(e.entry, e.level, Mmu::format);
        return ptebits::visit_next::into;
    });
    check(illegal == 0, "an entry that breaks a rule");
    print("  ", entries, " entries, all legal; ", all_faults_, " faults, ", all_exact_, " exactly as predicted");
    for (unsigned d = 0; d < deviations; ++d) {
        if (deviated_[d] != 0) print("; ", deviation_names[d], ": ", deviated_[d]);
    }
    print("\n");
    // Lines with ~ depend on the compiler. Ticks are instructions in Bochs and under QEMU's -icount shift=0.
    print("~ ticks of a fault:");
    for (unsigned o = 0; o < hypervisor::fault_outcomes; ++o) {
        const cost& c = costs_[o];
        if (c.times == 0) continue;
        print("  ", name(static_cast<hypervisor::fault_outcome>(o)), " ", c.times, "x ", c.least, "..", c.most,
              " mean ", c.sum / c.times);
    }
    print("\n");
}
