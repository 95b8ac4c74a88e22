// SPDX-License-Identifier: BSL-1.0
// A small hypervisor on the bare machine, RISC-V: a guest's tables and the G-stage's are made, aged, harvested, split,
// merged and taken away by ptebits, and used by a hart.
#include <cstdint>
#include <new>

#include "../guest.hpp"
#include "../output.hpp"
#include "../own_tables.hpp"
#include "../scenario.hpp"
#include "../two_cpus.hpp"
#include "hart.hpp"
#include "platform.hpp"

extern "C" [[noreturn]] void trap_ends_it(std::uint64_t cause, std::uint64_t pc, std::uint64_t value)
{
    fail("trap ", hex{cause}, ", PC ", hex{pc}, ", value ", hex{value});
}

void machine::print_code(const fault_code& code)
{
    print("cause ", code.cause, ", tval ", hex{code.tval}, ", htval ", hex{code.tval2}, ", htinst ", hex{code.tinst},
          code.gva ? ", GVA" : "");
}

// ---- the kernel's own tables

machine::probed machine::probe_at(std::uint64_t address, use how)
{
    const bool faulted = probe(address, how == use::fetch ? 2 : how == use::write ? 1 : 0) != 0;
    return {faulted, fault_cause, fault_address};
}

void machine::forget(const ptebits::flush_item& item)
{
    for (const std::uint64_t address : fence_addresses(item, own_tables)) {
        execute<ptebits::fence_instruction::sfence_vma, true>(fence_for({.by_address = true}, own_tables, address));
    }
}

namespace {

void turn_paging_on()
{
    machine::write_csr<machine::csr::satp>(atp_for(own_tree.root, own_tables).value);
    machine::execute<ptebits::fence_instruction::sfence_vma>({});
}

void set_up_paging()
{
    map_kernel(machine::memory_at);
    for (const std::uint64_t device : {machine::test_device, machine::clint, machine::uart})
        map_as_it_is(device, device + page_bytes, {.execute = false});
    turn_paging_on();
    print_own_mappings();
}

/// Whether the hart sets A by itself under this value of menvcfg; else it faults.
bool sets_flags_under(std::uint64_t envcfg)
{
    machine::set_menvcfg(envcfg);
    std::uint64_t& slot = *find_slot(own_tree, spare_at, 2).slot;
    const ptebits::flush_item item{spare_at, spare_at, small_shift};
    age(slot, own_tables);
    machine::forget(item);
    const machine::probed met = machine::probe_at(spare_at, use::read);
    const bool set = young(ptebits::load(slot), own_tables);
    check(set != met.faulted, "either A or a fault");
    ptebits::set(slot, own_tables->accessed.mask());
    machine::forget(item);
    return set;
}

}  // namespace

// ---- the second hart

namespace {

void (*second_hart_function)() = nullptr;
hypervisor::shared_word second_hart_runs;

}  // namespace

extern "C" void second_hart_main()
{
    turn_paging_on();
    second_hart_runs.store(1);
    second_hart_function();
}

void machine::interrupt_guest() noexcept
{
    *reinterpret_cast<volatile std::uint32_t*>(clint + 4) = 1;  // msip of hart 1
}

bool machine::start_second_cpu(void (*function)())
{
    second_hart_function = function;
    asm volatile("fence" ::: "memory");
    interrupt_guest();
    for (unsigned n = 100'000'000; n != 0 && second_hart_runs.load() == 0; --n) relax();
    return second_hart_runs.load() != 0;
}

// ---- the command line: /chosen's bootargs, in the device tree that QEMU makes

namespace {

[[nodiscard]] const char* bootargs(const char* tree)
{
    const auto word = [tree](std::uint64_t at) {
        std::uint32_t v = 0;
        for (unsigned i = 0; i < 4; ++i) v = v << 8 | static_cast<std::uint8_t>(tree[at + i]);
        return v;
    };
    constexpr std::uint32_t magic = 0xd00d'feed, begin_node = 1, property = 3, end = 9;
    if (word(0) != magic) return nullptr;
    const std::uint64_t strings = word(12);
    for (std::uint64_t at = word(8); word(at) != end;) {
        const std::uint32_t token = word(at);
        at += 4;
        if (token == begin_node) {
            while (tree[at] != '\0') ++at;
            at = (at + 4) & ~std::uint64_t{3};
        } else if (token == property) {
            const char *name = tree + strings + word(at + 4), *wanted = "bootargs";
            while (*wanted != '\0' && *name == *wanted) ++name, ++wanted;
            if (*name == *wanted) return tree + at + 8;
            at = (at + 8 + word(at) + 3) & ~std::uint64_t{3};
        }
    }
    return nullptr;
}

// ---- guests

inline const script_program the_script{script,           script_end, script_at_script, script_at_read, script_at_write,
                                       script_at_modify, 8};

/// The levels' names.
constexpr const char* names[] = {"", "", "", "Sv39", "Sv48", "Sv57"};

template <bool Svadu, unsigned HostLevels, unsigned GuestLevels>
struct pair_of_stages {
    static constexpr auto host = ptebits::gstage<ptebits::gstage_features{.levels = HostLevels, .svadu = Svadu}>;
    static constexpr auto guest = guest_format<GuestLevels, Svadu>;
    static constexpr auto paging =
        guest_over<guest, host>::over(guest_of<guest>::tables(names[GuestLevels], the_script));

    static void run(bool with_pages)
    {
        print(names[HostLevels], "x4, A and D by ", Svadu ? "hardware" : "faults", "; a guest in ", names[GuestLevels],
              "\n");
        auto& mmu = new_mmu<host>();
        using one = scenario<hart<host>, std::remove_reference_t<decltype(mmu)>>;
        alignas(one) static unsigned char room[sizeof(one)];
        (new (room) one(mmu, paging))->run_all(with_pages);
    }
};

template <bool Svadu>
void run_all(const options& wanted, bool with_pages)
{
    if (wanted.two_cpus) {
        using both = pair_of_stages<Svadu, 3, 3>;
        print("A and D by ", Svadu ? "hardware" : "faults", "; ");
        run_on_two_cpus<hart<both::host>>(new_mmu<both::host>(), both::paging, wanted);
    } else {
        pair_of_stages<Svadu, 3, 3>::run(with_pages);
        pair_of_stages<Svadu, 4, 4>::run(false);
        pair_of_stages<Svadu, 3, 5>::run(false);
    }
}

}  // namespace

extern "C" void kernel_main(const char* device_tree)
{
    const options wanted = options_in(bootargs(device_tree));
    print("ptebits on the bare machine\n");
    set_up_paging();
    const bool svade = !sets_flags_under(0);
    const bool svadu = sets_flags_under(ptebits::riscv_envcfg_fields::adue.mask());
    if (!wanted.two_cpus) {
        examine_faults();
        if (svadu) examine_tlb();
    }
    print("hart: A and D are set by ", svadu ? svade ? "hardware or by faults" : "hardware" : "faults", "\n");
    if (svadu) run_all<true>(wanted, true);
    if (svade && !(svadu && wanted.two_cpus)) run_all<false>(wanted, !svadu);
    finish();
}
