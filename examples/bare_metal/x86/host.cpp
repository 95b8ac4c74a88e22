// SPDX-License-Identifier: BSL-1.0
#include "host.hpp"

#include <cstdint>

#include <ptebits/x86_flush.hpp>

#include "../guest.hpp"
#include "../own_tables.hpp"
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

void host::set_up_paging()
{
    map_kernel(0x100000);
    map_as_it_is(second_cpu_at, second_cpu_at + page_bytes, {.execute = false});
    map_as_it_is(local_apic, local_apic + page_bytes, {.execute = false}, {.type = ptebits::memory_type::uc});
    machine::set_cr3(own_tree.root);
    print_own_mappings();
}

machine::probed machine::probe_at(std::uint64_t address, use how)
{
    constexpr std::uint64_t no_fault = ~std::uint64_t{0};
    fault_error = no_fault;
    fault_address = 0;
    probe(reinterpret_cast<const void*>(address), how == use::fetch ? 2 : how == use::write ? 1 : 0);
    return {fault_error != no_fault, fault_error, fault_address};
}

void machine::forget(const ptebits::flush_item& item)
{
    for (const std::uint64_t address : invlpg_addresses(item, own_tables)) {
        asm volatile("invlpg (%0)" ::"r"(address) : "memory");
    }
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
