# SPDX-License-Identifier: BSL-1.0
# The guest's programs, for 64 and 32 bits. platform.hpp lists the labels; host and guest
# agree on the registers in machine.hpp.

# Works through a script of words: a page's address | 1 read, 2 write, 3 fetch, 4 read-modify-write; 0: the end.
# b: next word of the script, d: this program, h: 0 to end by VMMCALL, else VMCALL; sum: of what was read.
.macro SCRIPT bits, a, b, c, d, s, h, sum, width
.align 16
.globl script\bits, script\bits\()_end, script\bits\()_at_script, script\bits\()_at_read, script\bits\()_at_write
.globl script\bits\()_at_modify
script\bits:
script\bits\()_at_script:
    mov (\b), \a
    add $\width, \b
    test \a, \a
    jz 9f
    mov \a, \c
    and $7, \c
    and $-8, \a
    cmp $2, \c
    jb script\bits\()_at_read
    je script\bits\()_at_write
    mov $1, \s
    cmp $4, \c
    je script\bits\()_at_modify
    jmp *\a                     # every page begins with a jump back to d
script\bits\()_at_read:
    mov 8(\a), \s
    add \s, \sum
    jmp script\bits
script\bits\()_at_write:
    mov \b, 16(\a)
    jmp script\bits
script\bits\()_at_modify:
    lock add \s, 8(\a)
    jmp script\bits
9:  test \h, \h
    jnz 8f
    vmmcall
8:  vmcall
script\bits\()_end:
.endm

.section .rodata
.code64
SCRIPT 64, %rax, %rbx, %rcx, %rdx, %rsi, %rdi, %rbp, 8
.code32
SCRIPT 32, %eax, %ebx, %ecx, %edx, %esi, %edi, %ebp, 4
.code64

# Uses pages at random until the word at RSI is set: reads the page's own address in each, and counts most uses there.
# RBX: the first page, RCX: their number - 1, RDX: random, RBP: counts, RDI: as above. The word at
# RSI + 8 counts pages that did not hold their address.
.align 16
.globl storm, storm_end
storm:
    cmpq $0, (%rsi)
    jne 9f
    movabsq $6364136223846793005, %rax
    imulq %rax, %rdx
    movabsq $1442695040888963407, %rax
    addq %rax, %rdx
    movq %rdx, %rax
    shrq $33, %rax
    andq %rcx, %rax
    shlq $12, %rax
    addq %rbx, %rax
    cmpq %rax, 24(%rax)
    je 1f
    lock incl 8(%rsi)
1:  btq $62, %rdx               # half of the uses only read
    jc storm
    lock incq 8(%rax)
    incq %rbp
    jmp storm
9:  test %rdi, %rdi
    jnz 8f
    vmmcall
8:  vmcall
storm_end:
.section .note.GNU-stack, "", @progbits
