# SPDX-License-Identifier: BSL-1.0
# From machine mode to HS-mode, on both harts; traps; the world switch.
.option norvc
.set msip, 0x2000000            # a word for each hart: its software interrupt
.set stack_bytes, 32768
.set menvcfg, 0x30a

# ---- every hart begins here in machine mode: a0 its number, a1 the device tree
.section .text.start, "ax"
.globl start
start:
    la t0, machine_trap
    csrw mtvec, t0
    li t0, 2
    bgeu a0, t0, park
    la sp, stacks
    li t1, stack_bytes
    addi t0, a0, 1
    mul t1, t1, t0
    add sp, sp, t1
    li t0, -1
    csrw pmpaddr0, t0           # all of memory is open to HS-mode
    csrw mcounteren, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    li t0, 0xf0b400             # to HS-mode: VS's ecall, page faults, guest-page faults, virtual instructions
    csrw medeleg, t0
    csrw mideleg, 2             # and its software interrupt
    csrw mie, 8                 # machine mode's, by which the first hart calls the second
    li t0, 1 << 61
    csrw menvcfg, t0            # ADUE
    li t0, 3 << 11
    csrc mstatus, t0
    li t0, 1 << 11
    csrs mstatus, t0            # MPP: S
    la t0, host_trap
    csrw stvec, t0
    la t0, second_hart_main
    bnez a0, 2f
    la t0, bss_begin
    la t1, bss_end
1:  sd zero, 0(t0)
    addi t0, t0, 8
    bltu t0, t1, 1b
    la t0, kernel_main
    mv a0, a1
    j 3f
2:  wfi                         # until it is called
    csrr t1, mip
    andi t1, t1, 8
    beqz t1, 2b
    li t1, msip
    sw zero, 4(t1)
3:  csrw mepc, t0
    la ra, park
    mret
park:
    wfi
    j park

# ---- traps
# Machine mode's: its software interrupt becomes HS-mode's, which ends a guest; only the second hart is called. HS-mode
# asks for a value of menvcfg, which A0 holds.
.section .text
.balign 4
machine_trap:
    csrw mscratch, t0
    csrr t0, mcause
    bgez t0, 1f
    li t0, msip
    sw zero, 4(t0)
    csrs mip, 2
    j 2f
1:  addi t0, t0, -9             # HS-mode's ECALL
    bnez t0, 3f
    csrw menvcfg, a0
    sfence.vma
    .word 0x62000073            # HFENCE.GVMA
    csrr t0, mepc
    addi t0, t0, 4
    csrw mepc, t0
2:  csrr t0, mscratch
    mret
3:  csrr a0, mcause
    csrr a1, mepc
    csrr a2, mtval
    j trap_ends_it
.balign 4
host_trap:
    la t0, probe_resume         # a fault that probe() waits for
    ld t1, 0(t0)
    beqz t1, 1f
    csrw sepc, t1
    csrr t1, scause
    sd t1, 8(t0)
    csrr t1, stval
    sd t1, 16(t0)
    sret
1:  csrr a0, scause
    csrr a1, sepc
    csrr a2, stval
    j trap_ends_it

# int probe(address, how): 0 reads, 1 writes, 2 fetches. 1: it faulted.
.globl probe
probe:
    mv t2, ra
    la t0, 8f
    la t1, probe_resume
    sd t0, 0(t1)
    li t0, 1
    beq a1, t0, 1f
    bgtu a1, t0, 2f
    lb t0, 0(a0)
    j 7f
1:  sb zero, 0(a0)
    j 7f
2:  jalr a0
7:  li a0, 0
    j 9f
8:  li a0, 1
9:  la t1, probe_resume
    sd zero, 0(t1)
    mv ra, t2
    ret

# ---- the world switch
# void run_guest(guest_registers*): until a trap to HS-mode, which is not handled yet then.
.globl run_guest
run_guest:
    addi sp, sp, -112
    .set at, 0
    .irp r, ra, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, a0
    sd \r, at(sp)
    .set at, at + 8
    .endr
    csrw sscratch, sp
    la t0, guest_exit
    csrw stvec, t0
    mv t6, a0
    ld t0, 56(t6)
    csrw sepc, t0
    .set at, 0
    .irp r, a0, a1, a2, a3, a4, a5, a6
    ld \r, at(t6)
    .set at, at + 8
    .endr
    sret
.balign 4
guest_exit:
    csrrw sp, sscratch, sp
    ld t6, 104(sp)
    .set at, 0
    .irp r, a0, a1, a2, a3, a4, a5, a6
    sd \r, at(t6)
    .set at, at + 8
    .endr
    csrr t0, sepc
    sd t0, 56(t6)
    la t0, host_trap
    csrw stvec, t0
    .set at, 0
    .irp r, ra, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11
    ld \r, at(sp)
    .set at, at + 8
    .endr
    addi sp, sp, 112
    ret

# ---- what compilers call on their own
.globl memset, memcpy
memset:
    mv t0, a0
    add t1, a0, a2
1:  bgeu t0, t1, 2f
    sb a1, 0(t0)
    addi t0, t0, 1
    j 1b
2:  ret
memcpy:
    mv t0, a0
    add t1, a0, a2
1:  bgeu t0, t1, 2f
    lb t2, 0(a1)
    sb t2, 0(t0)
    addi a1, a1, 1
    addi t0, t0, 1
    j 1b
2:  ret

.section .data
.balign 16
stacks: .skip 2 * stack_bytes
.globl fault_cause, fault_address
probe_resume:  .dword 0
fault_cause:   .dword 0
fault_address: .dword 0
.section .note.GNU-stack, "", @progbits
