# SPDX-License-Identifier: BSL-1.0
# The guest's programs; platform.hpp lists the labels. Host and guest agree on the registers in machine.hpp: a to sum
# are a0 to a6. Other registers are lost when the guest is left.
.section .rodata
.option norvc

# Works through a script of words: a page's address | 1 read, 2 write, 3 fetch, 4 read-modify-write; 0: the end.
.balign 16
.globl script, script_end, script_at_script, script_at_read, script_at_write, script_at_modify
script:
script_at_script:
    ld a0, 0(a1)
    addi a1, a1, 8
    beqz a0, 9f
    andi a2, a0, 7
    andi a0, a0, -8
    li a4, 2
    bltu a2, a4, script_at_read
    beq a2, a4, script_at_write
    li a4, 4
    beq a2, a4, 1f
    jr a0                       # every page begins with a jump back to d
script_at_read:
    ld a4, 8(a0)
    add a6, a6, a4
    j script
script_at_write:
    sd a1, 16(a0)
    j script
1:  addi a2, a0, 8
    li a4, 1
script_at_modify:
    amoadd.d zero, a4, (a2)
    j script
9:  ecall
script_end:

# Uses pages at random until the first of the words shared with the host is set: reads the page's own address in each,
# and counts most uses there. The second of the words counts pages that did not hold their address.
.balign 16
.globl storm, storm_end
storm:
    ld a5, 0(a4)
    bnez a5, 9f
    li a5, 6364136223846793005
    mul a3, a3, a5
    li a5, 1442695040888963407
    add a3, a3, a5
    srli a0, a3, 33
    and a0, a0, a2
    slli a0, a0, 12
    add a0, a0, a1
    ld a5, 24(a0)
    beq a0, a5, 1f
    ld a5, 8(a4)
    addi a5, a5, 1
    sd a5, 8(a4)
1:  slli a5, a3, 1              # half of the uses only read
    bltz a5, storm
    addi a0, a0, 8
    li a5, 1
    amoadd.d zero, a5, (a0)
    addi a6, a6, 1
    j storm
9:  ecall
storm_end:
.section .note.GNU-stack, "", @progbits
