# SPDX-License-Identifier: BSL-1.0
# The way into long mode for both CPUs, exceptions, and world switches.
.set code_64, 0x08              # selectors, as in the GDT below
.set data, 0x10
.set code_32, 0x28

# ---- the first CPU: at 1 MiB in protected mode, from a multiboot loader or from rom.S
.section .boot, "ax"
.code32
.globl start
start:
    jmp 1f
# Multiboot, flags 1 (pages) and 16 (addresses are told: the file is no ELF).
.align 4
multiboot:
    .long 0x1badb002, 0x00010001, -(0x1badb002 + 0x00010001)
    .long multiboot, 0x100000, image_end, bss_end, start
1:  cli
    cld
    movl %eax, %esi             # the loader's magic number, if it was one
    movl $bss_begin, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl
    cmpl $0x2badb002, %esi
    jne 2f
    movl %ebx, multiboot_information
2:  movl $first_stack_end, %esp
    movl $kernel_main, %edi
enter_long_mode:                # ESP: the stack, EDI: where to
    movl $0x20, %eax            # CR4.PAE
    movl %eax, %cr4
    movl $boot_tables, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER: LME, NXE
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl $0x80010031, %eax      # CR0: PG, WP, NE, ET, PE
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $code_64, $3f
.code64
3:  movl $data, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl %edi, %edi             # the upper half
    call *%rdi
4:  hlt
    jmp 4b

# ---- the second CPU: in real mode at 0x8000, where this is copied to
.section .rodata.second, "a"
.globl second_cpu_code, second_cpu_code_end
second_cpu_code:
.code16
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl 5f - second_cpu_code
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $code_32, $second_cpu
.align 8
5:  .word gdt_end - gdt - 1
    .long gdt
second_cpu_code_end:

.section .boot, "ax"
.code32
second_cpu:
    movl $data, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $second_stack_end, %esp
    movl $second_cpu_main, %edi
    jmp enter_long_mode
.code64

.section .data
.align 16
.globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 64-bit code
    .quad 0x00cf93000000ffff    # data
    .quad 0, 0                  # task: filled in by C++
    .quad 0x00cf9b000000ffff    # 32-bit code
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
.globl multiboot_information
multiboot_information: .quad 0

.section .text
# ---- exceptions
.altmacro
.macro STUB n
.align 16
    .if (\n == 8) || ((\n >= 10) && (\n <= 14)) || (\n == 17) || (\n == 21) || (\n == 29) || (\n == 30)
    .else
    pushq $0
    .endif
    pushq $\n
    jmp exception
.endm
.align 16
.globl exception_stubs
exception_stubs:
.set n, 0
.rept 32
    STUB %n
    .set n, n + 1
.endr
exception:
    pushq %rax
    cmpq $14, 8(%rsp)
    jne 1f
    movq probe_resume, %rax     # a page fault that probe() waits for
    testq %rax, %rax
    jz 1f
    movq %rax, 24(%rsp)         # RIP
    movq probe_stack, %rax
    movq %rax, 48(%rsp)         # RSP
    movq %cr2, %rax
    movq %rax, fault_address
    movq 16(%rsp), %rax
    movq %rax, fault_error
    popq %rax
    addq $16, %rsp
    iretq
1:  popq %rax
    popq %rdi                   # vector
    popq %rsi                   # error code
    popq %rdx                   # RIP
    movq %cr2, %rcx
    andq $-16, %rsp
    call exception_ends_it

# The interrupt that takes a CPU out of its guest: the end of the interrupt is all there is to do.
.globl interrupt_stub
interrupt_stub:
    pushq %rax
    movl $0xfee000b0, %eax
    movl $0, (%rax)
    popq %rax
    iretq

# void probe(address, how): 0 reads, 1 writes, 2 fetches. Without a fault fault_error stays as it is.
.globl probe
probe:
    movq %rsp, probe_stack
    leaq 9f(%rip), %rax
    movq %rax, probe_resume
    cmpl $1, %esi
    je 1f
    cmpl $2, %esi
    je 2f
    movb (%rdi), %al
    jmp 9f
1:  movb $0, (%rdi)
    jmp 9f
2:  call *%rdi
9:  movq $0, probe_resume
    ret

# ---- world switches; struct guest_registers in machine.hpp has the order
.macro SAVE_HOST
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
.endm
.macro RESTORE_HOST
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
.endm
.macro LOAD_GUEST               # from %rdi, but RAX; keeps the flags
    movq 8(%rdi), %rbx
    movq 16(%rdi), %rcx
    movq 24(%rdi), %rdx
    movq 32(%rdi), %rsi
    movq 48(%rdi), %rbp
    movq 40(%rdi), %rdi
.endm
.macro STORE_GUEST              # to the pointer on top of the stack, but RAX
    popq %rax
    movq %rbx, 8(%rax)
    movq %rcx, 16(%rax)
    movq %rdx, 24(%rax)
    movq %rsi, 32(%rax)
    movq %rdi, 40(%rax)
    movq %rbp, 48(%rax)
.endm

# void svm_run(guest_registers*, physical address of the VMCB). An interrupt ends the guest, and is taken after STGI.
.globl svm_run
svm_run:
    SAVE_HOST
    pushq %rdi
    movq %rsi, %rax
    clgi
    sti
    LOAD_GUEST
    vmrun
    STORE_GUEST
    stgi
    nop
    cli
    RESTORE_HOST
    ret

# int vmx_run(guest_registers*, launch): 0: the guest ran, 1: VMfailValid, 2: VMfailInvalid
.globl vmx_run, vmx_exit
vmx_run:
    SAVE_HOST
    pushq %rdi
    movl $0x6c14, %eax          # host RSP
    vmwrite %rsp, %rax
    testl %esi, %esi
    movq (%rdi), %rax
    LOAD_GUEST
    jz 1f
    vmlaunch
    jmp 2f
1:  vmresume
2:  movl $2, %eax
    jc 3f
    movl $1, %eax
3:  addq $8, %rsp
    RESTORE_HOST
    ret
vmx_exit:
    movq %rax, vmx_rax
    STORE_GUEST
    movq vmx_rax, %rcx
    movq %rcx, (%rax)
    xorl %eax, %eax
    RESTORE_HOST
    ret

.section .bss
.align 16
    .skip 32768
first_stack_end:
    .skip 32768
second_stack_end:
.globl fault_address, fault_error
probe_resume:  .quad 0
probe_stack:   .quad 0
fault_address: .quad 0
fault_error:   .quad 0
vmx_rax:       .quad 0
.section .note.GNU-stack, "", @progbits
