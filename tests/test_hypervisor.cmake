# SPDX-License-Identifier: BSL-1.0
# How hypervisor ends, and its MMU half as a kernel builds it:
#     cmake [-DEMULATOR=COMMAND] -DHYPERVISOR=EXECUTABLE [-DCXX=COMPILER -DNM=NM -DSOURCE=DIRECTORY -DWORK=DIRECTORY]
#           -P tests/test_hypervisor.cmake
cmake_minimum_required(VERSION 3.20)

function(run)
    execute_process(
        COMMAND ${EMULATOR} ${HYPERVISOR} ${ARGN}
        RESULT_VARIABLE status
        OUTPUT_VARIABLE out
        ERROR_VARIABLE err
        TIMEOUT 120
    )
    set(status "${status}" PARENT_SCOPE)
    set(out "${out}" PARENT_SCOPE)
    set(err "${err}" PARENT_SCOPE)
endfunction()

# Both ways, and each has met what it is there for.
run()
message("${out}${err}")
if(NOT status STREQUAL "0" OR NOT err STREQUAL "")
    message(FATAL_ERROR "hypervisor: ${status}, ${err}")
endif()
string(REGEX MATCHALL "nothing lost" rounds "${out}")
list(LENGTH rounds ways)
if(NOT ways EQUAL 2)
    message(FATAL_ERROR "hypervisor: two ways, not ${ways}")
endif()
foreach(never " 0 mapped" " 0 made writable" " 0 young" " 0 old" " 0 swapped" " 0 written" "zap      0 "
        "without them.* 0 restored")
    if(out MATCHES "${never}")
        message(FATAL_ERROR "hypervisor: nothing of \"${never}\"")
    endif()
endforeach()

function(expect_wrong reason)
    run(${ARGN})
    set(message "hypervisor: ${reason}; see hypervisor --help\n")
    if(NOT status STREQUAL "2" OR NOT out STREQUAL "" OR NOT err STREQUAL message)
        message(FATAL_ERROR "hypervisor ${ARGN}: ${status}, ${out}${err}")
    endif()
endfunction()

expect_wrong("unknown option '--all'" --all)
expect_wrong("unknown option '1'" 1)
expect_wrong("--seconds takes a value" --seconds)
expect_wrong("--flags takes a value" --seconds 1 --flags)
expect_wrong("--flags is on or off, not 'maybe'" --flags maybe)
foreach(seconds 0 -1 3601 1s 4294967297 99999999999999999999)
    expect_wrong("--seconds is 1 to 3600, not '${seconds}'" --seconds ${seconds})
endforeach()
run(--help)
if(NOT status STREQUAL "0" OR NOT out MATCHES "^usage: hypervisor " OR NOT err STREQUAL "")
    message(FATAL_ERROR "hypervisor --help: ${status}, ${out}${err}")
endif()

# Kernel flags are x86's. The object may ask for what the kernel provides, nothing else.
if(DEFINED SOURCE)
    file(MAKE_DIRECTORY ${WORK})
    set(object ${WORK}/hypervisor_mmu.o)
    execute_process(
        COMMAND
            ${CXX} -std=c++20 -O2 -Wall -Wextra -Werror -ffreestanding -fno-exceptions -fno-rtti
            -fno-threadsafe-statics -fno-stack-protector -mno-red-zone -mgeneral-regs-only -mcmodel=kernel -fno-pie
            -I ${SOURCE}/include -c ${SOURCE}/examples/hypervisor_mmu.cpp -o ${object}
        RESULT_VARIABLE status
        ERROR_VARIABLE err
    )
    if(NOT status EQUAL 0)
        message(FATAL_ERROR "hypervisor_mmu.cpp does not build as a kernel's:\n${err}")
    endif()
    execute_process(COMMAND ${NM} --undefined-only --demangle ${object} RESULT_VARIABLE status OUTPUT_VARIABLE needed)
    string(REGEX REPLACE " +U " "" needed "${needed}")
    string(REGEX REPLACE "hypervisor::(lock_mmu|unlock_mmu|flush_tlbs)\\(\\)\n|mem(set|cpy)\n" "" others "${needed}")
    if(NOT status EQUAL 0 OR NOT needed MATCHES "flush_tlbs" OR NOT others STREQUAL "")
        message(FATAL_ERROR "hypervisor_mmu.cpp needs more than a kernel has:\n${needed}")
    endif()
endif()
