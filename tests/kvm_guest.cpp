// SPDX-License-Identifier: BSL-1.0
// A hypervisor's user of a few lines, for tests/dumps.sh: a guest in real mode that writes to pages of its memory and
// halts. Prints where each of its pages lies, as this process's page map has it: what the host's nested tables must
// say.
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t begin = 0x1000;  // the code; then what it writes to
constexpr std::size_t end = 0x90000;

// mov ax, 200h; again: mov ds, ax; mov [0], al; add ax, 100h; cmp ax, 9000h; jb again; hlt
constexpr unsigned char code[] = {0xb8, 0x00, 0x02, 0x8e, 0xd8, 0xa2, 0x00, 0x00, 0x05,
                                  0x00, 0x01, 0x3d, 0x00, 0x90, 0x72, 0xf3, 0xf4};

}  // namespace

int main()
{
    const int kvm = open("/dev/kvm", O_RDWR);
    const int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    void* const memory = mmap(nullptr, end, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    const auto at = reinterpret_cast<std::uintptr_t>(memory);
    auto* const bytes = static_cast<unsigned char*>(memory);
    std::memset(bytes, 0, end);
    std::memcpy(bytes + begin, code, sizeof code);
    kvm_userspace_memory_region region{};
    region.memory_size = end;
    region.userspace_addr = at;
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) return 1;

    const int cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    kvm_sregs segments{};
    ioctl(cpu, KVM_GET_SREGS, &segments);
    segments.cs.base = 0;
    segments.cs.selector = 0;
    ioctl(cpu, KVM_SET_SREGS, &segments);
    kvm_regs registers{};
    registers.rip = begin;
    registers.rflags = 2;  // the bit that is always set
    ioctl(cpu, KVM_SET_REGS, &registers);
    if (ioctl(cpu, KVM_RUN, 0) < 0) return 1;
    ioctl(cpu, KVM_GET_REGS, &registers);
    std::printf("guest rip=%llx rax=%llx\n", registers.rip, registers.rax);

    const int pages = open("/proc/self/pagemap", O_RDONLY);
    for (std::size_t offset = begin; offset < end; offset += page) {
        std::uint64_t entry = 0;
        if (pread(pages, &entry, sizeof entry, static_cast<off_t>((at + offset) / page * sizeof entry)) < 0) return 1;
        const std::uint64_t frame = entry & ((std::uint64_t{1} << 55) - 1);  // Linux, "pagemap": bits 54:0
        const unsigned long long physical = frame * page;
        std::printf("page %016zx: %016llx\n", offset, physical);
    }
    std::puts("READY");
    std::fflush(stdout);
    for (;;) pause();
}
