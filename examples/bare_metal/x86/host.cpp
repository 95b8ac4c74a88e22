// SPDX-License-Identifier: BSL-1.0
#include "host.hpp"

#include <cstdint>

#include <ptebits/map.hpp>
#include <ptebits/visit.hpp>
#include <ptebits/x86.hpp>
#include <ptebits/x86_flush.hpp>

#include "../guest.hpp"
#include "../two_cpus.hpp"
#include "platform.hpp"

extern "C" [[noreturn]] void exception_ends_it(std::uint64_t vector, std::uint64_t error, std::uint64_t rip,
                                               std::uint64_t cr2)
{
    fail("exception ", vector, ", error ", hex{error}, ", RIP ", hex{rip}, ", CR2 ", hex{cr2});
}

namespace {

constexpr std::uint64_t local_apic = 0xfee00000;
constexpr std::uint64_t second_cpu_at = 0x8000;  // boot.S; a page under 1 MiB
constexpr unsigned kick_vector = 0x20, spurious_vector = 0x2f;

// ---- exceptions and interrupts

struct gate {
    std::uint16_t low, selector, type, middle;
    std::uint32_t high, zero;
};
gate interrupt_table[spurious_vector + 1];
alignas(16) std::uint8_t task_state[104];

void load_interrupt_table()
{
    const struct [[gnu::packed]] {
        std::uint16_t limit;
        const void* base;
    } idt{sizeof interrupt_table - 1, interrupt_table};
    asm volatile("lidt %0" ::"m"(idt));
}
}  // namespace

void host::set_up_exceptions()
{
    for (unsigned i = 0; i <= spurious_vector; ++i) {
        const std::uint64_t at =
            i < 32 ? address_of_symbol(exception_stubs) + std::uint64_t{16} * i : address_of_symbol(interrupt_stub);
        interrupt_table[i] = {static_cast<std::uint16_t>(at),       8, 0x8e00, static_cast<std::uint16_t>(at >> 16),
                              static_cast<std::uint32_t>(at >> 32), 0};
    }
    load_interrupt_table();
    machine::outb(0x21, 0xff);  // none from the old interrupt controller
    machine::outb(0xa1, 0xff);
    const std::uint64_t base = address_of_symbol(task_state);
    gdt[3] = 103 | (base & 0xffffff) << 16 | std::uint64_t{0x89} << 40 | (base >> 24 & 0xff) << 56;
    gdt[4] = base >> 32;
    asm volatile("ltr %w0" ::"r"(0x18));  // VMX wants one
}

// ---- the kernel's own tables

namespace {

struct own_table_pool {
    static constexpr unsigned tables = 8;
    alignas(page_bytes) static inline std::uint64_t slots[tables][page_bytes / 8];
    static inline unsigned count = 0;

    std::uint64_t* operator()(std::uint64_t physical) const noexcept { return word_at(physical); }
    static ptebits::optional_address allocate(unsigned /*level*/) noexcept
    {
        if (count == tables) return {};
        return address_of_symbol(slots[count++]);
    }
    static void release(std::uint64_t /*table*/, unsigned /*level*/) noexcept {}
};
ptebits::tree own_tree{own_tables, 0, own_table_pool{}, own_table_pool{}};

}  // namespace

void host::set_up_paging()
{
    using namespace ptebits;
    own_tree.root = *own_table_pool::allocate(4);
    check(clear_root(own_tree) == tree_end::done, "the root");
    flush_list_of<> list;  // nothing to flush: these tables are not in use yet
    const auto map_as_it_is = [&](std::uint64_t begin, std::uint64_t end, permissions grant,
                                  page_attributes with = {}) {
        grant.user = false;
        check(static_cast<bool>(map(own_tree, {begin, end - 1}, begin, grant, list, {.attributes = with})),
              "the host's tables");
    };
    const std::uint64_t rodata = address_of_symbol(text_end), data = address_of_symbol(rodata_end);
    const std::uint64_t end = address_of_symbol(bss_end);
    map_as_it_is(second_cpu_at, second_cpu_at + page_bytes, {.execute = false});
    map_as_it_is(0x100000, rodata, {.write = false});
    map_as_it_is(rodata, data, {.write = false, .execute = false});
    map_as_it_is(data, end, {.execute = false});
    map_as_it_is(guest_at, memory_end, {.execute = false});
    map_as_it_is(local_apic, local_apic + page_bytes, {.execute = false}, {.type = memory_type::uc});
    machine::set_cr3(own_tree.root);

    print("~ host: ");
    for_each_mapping(own_tables, own_tree.root, {}, own_table_pool{}, [](const mapping& m) {
        print(hex{m.address}, "+", m.bytes >> 10, "K", m.allowed.write ? "w" : "", m.allowed.execute ? "x" : "", " ");
    });
    print("\n");
}

void host::examine_faults()
{
    using namespace ptebits;
    using enum operation;
    const std::uint64_t text = address_of_symbol(text_begin), rodata = address_of_symbol(text_end);
    const std::uint64_t data = address_of_symbol(rodata_end);
    const struct {
        std::uint64_t address;
        operation what;
    } probes[] = {{text, read},        {text, write},     {rodata, write},  {rodata, fetch},
                  {data, write},       {data, fetch},     {0x5000, read},   {0x5000, write},
                  {memory_end, fetch}, {guest_at, fetch}, {guest_at, read}, {memory_end, read}};
    unsigned right = 0;
    for (const auto& p : probes) {
        const memory_access a{.what = p.what};
        const walk_result r = walk(own_tables, own_tree.root, p.address, a, {}, own_table_pool{}, update_flags::no);
        constexpr std::uint64_t no_fault = ~std::uint64_t{0};
        fault_error = no_fault;
        fault_address = 0;
        if (p.what != fetch || !r) {
            probe(reinterpret_cast<const void*>(p.address), p.what == fetch ? 2 : p.what == write ? 1 : 0);
        }
        const bool same = r ? fault_error == no_fault
                            : fault_error == fault_code(r, a, {}, own_tables).value && fault_address == p.address;
        right += check(same, "#PF");
    }
    unsigned illegal = 0;
    visit(own_tables, own_tree.root, {}, own_table_pool{}, [&](const auto& e) {
        illegal += !legal(e.entry, e.level, own_tables);
        return visit_next::into;
    });
    check(illegal == 0, "an entry of the host's");
    print("host: ", right, " of ", sizeof probes / sizeof probes[0], " page faults as predicted\n");
}

void host::examine_tlb()
{
    using namespace ptebits;
    std::uint64_t& slot = *find_slot(own_tree, spare_at, 2).slot;
    auto* const word = reinterpret_cast<volatile std::uint64_t*>(spare_at);
    const auto forget = [] {
        const flush_item item{spare_at, spare_at, small_shift};
        for (const std::uint64_t address : invlpg_addresses(item, own_tables)) {
            asm volatile("invlpg (%0)" ::"r"(address) : "memory");
        }
    };
    const auto use_again = [&](bool flush) {
        forget();
        *word = 1;  // the TLB has it, for writes
        age(slot, own_tables);
        check(harvest_dirty(slot, own_tables), "D after a write");
        if (flush) forget();
        *word = 2;
        return load(slot);
    };
    const std::uint64_t without = use_again(false);
    const std::uint64_t with = use_again(true);
    print("host: written again after age and harvest: without a flush A=", unsigned{young(without, own_tables)},
          " D=", unsigned{dirty(without, own_tables)}, ", with one A=", unsigned{young(with, own_tables)},
          " D=", unsigned{dirty(with, own_tables)}, "\n");
    check(young(with, own_tables) && dirty(with, own_tables), "A and D after a flush");
}

// ---- the second CPU

namespace {

[[nodiscard]] volatile std::uint32_t& apic_register(unsigned at)
{
    return *reinterpret_cast<volatile std::uint32_t*>(local_apic + at);
}
void enable_apic() { apic_register(0xf0) = 0x100 | spurious_vector; }
void send_to_second(std::uint32_t command)
{
    apic_register(0x310) = 1U << 24;
    apic_register(0x300) = command;
    while ((apic_register(0x300) & 0x1000) != 0) machine::relax();
}

void (*second_cpu_function)() = nullptr;
hypervisor::shared_word second_cpu_runs;

}  // namespace

extern "C" void second_cpu_main()
{
    machine::set_cr3(own_tree.root);
    load_interrupt_table();
    enable_apic();
    second_cpu_runs.store(1);
    second_cpu_function();
    for (;;) asm volatile("cli; hlt");
}

namespace machine {

void interrupt_guest() noexcept { send_to_second(0x4000 | kick_vector); }

bool start_second_cpu(void (*function)())
{
    second_cpu_function = function;
    auto* to = reinterpret_cast<char*>(second_cpu_at);
    for (const char* from = second_cpu_code; from != second_cpu_code_end; ++from) *to++ = *from;
    enable_apic();
    const auto wait = [](unsigned n) {
        while (n-- != 0 && second_cpu_runs.load() == 0) relax();
    };
    send_to_second(0x4500);  // INIT
    wait(100'000);
    for (unsigned n = 0; n < 2; ++n) {
        send_to_second(0x4600 | second_cpu_at >> small_shift);  // start-up
        wait(100'000'000);
    }
    return second_cpu_runs.load() != 0;
}

}  // namespace machine

options read_options()
{
    if (multiboot_information == 0) return {};
    const auto* const words = reinterpret_cast<const std::uint32_t*>(multiboot_information);
    return options_in((words[0] & 4) == 0 ? nullptr : reinterpret_cast<const char*>(std::uint64_t{words[4]}));
}
