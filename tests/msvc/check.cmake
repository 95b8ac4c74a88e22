# The headers as MSVC reads them, by Clang that passes for it: the branches for MSVC, whose
# intrinsics are declared in declared/, for x64 and ARM64. Each header alone, and all of them
# in use. In what is left of them after preprocessing, no name of another compiler's.
#   cmake -DCXX=clang++ -DINCLUDE=dir -DWORK=dir -P check.cmake
cmake_minimum_required(VERSION 3.24)

set(here ${CMAKE_CURRENT_LIST_DIR})
file(MAKE_DIRECTORY ${WORK})
#: Clang warns here of a place in a walk's path that is never reached.
set(as_msvc
    ${CXX} -std=c++20 -fms-compatibility -fms-extensions -fno-exceptions -nostdinc++
    -U__clang__ -U__GNUC__ -U__x86_64__ -U__aarch64__ -U__GCC_ASM_FLAG_OUTPUTS__
    -Wall -Wextra -Wpedantic -Wgnu -Wno-language-extension-token -Werror
    -isystem ${here}/../std -isystem ${here}/declared -I ${INCLUDE} -I ${here}/../headers)

# Names that begin with an underscore are the compiler's. These are MSVC's.
set(of_msvc
    __fastfail __int64 __iso_volatile_load32 __iso_volatile_load64 _ReadWriteBarrier __dmb _ARM64_BARRIER_ISH
    _InterlockedExchange _InterlockedExchange64 _InterlockedOr _InterlockedOr64 _InterlockedAnd _InterlockedAnd64
    _InterlockedCompareExchange _InterlockedCompareExchange64 __prefetch)

function(compile target source)
  execute_process(
    COMMAND ${as_msvc} --target=${target} -fsyntax-only ${source}
    RESULT_VARIABLE status
    ERROR_VARIABLE output
  )
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${target}: ${output}")
  endif()
endfunction()

file(GLOB headers RELATIVE ${INCLUDE} ${INCLUDE}/ptebits/*.hpp ${INCLUDE}/ptebits/formats/*.hpp)
list(FILTER headers EXCLUDE REGEX "text_stream")  # hosted
set(source ${WORK}/as_msvc.cpp)
set(met "")
foreach(target x86_64-pc-windows-msvc aarch64-pc-windows-msvc)
  foreach(header IN LISTS headers)
    file(WRITE ${source} "#include <${header}>\n")
    compile(${target} ${source})
  endforeach()
  file(WRITE ${source} "#include \"use.hpp\"\nunsigned all() { return use::all(); }\n")
  compile(${target} ${source})

  # The lines of the library, without comments and other compilers' branches.
  execute_process(
    COMMAND ${as_msvc} --target=${target} -E ${source}
    OUTPUT_VARIABLE text
    COMMAND_ERROR_IS_FATAL ANY
  )
  string(REGEX REPLACE "[][;]" " " text "${text}")
  string(REGEX REPLACE "\n# [0-9]+ \"([^\"\n]*)\"[^\n]*" ";\\1@" parts "${text}")
  list(FILTER parts INCLUDE REGEX "^[^@]*/ptebits/[a-z_/0-9]+\\.hpp@")
  list(TRANSFORM parts REPLACE "^[^@]*@" "")
  list(JOIN parts "\n" text)
  string(LENGTH "${text}" length)
  if(length LESS 100000)
    message(FATAL_ERROR "${target}: ${length} characters of the library found: the search is broken")
  endif()
  string(REGEX MATCHALL "[^A-Za-z0-9_](_[_A-Z][A-Za-z0-9_]*|asm|typeof|gnu::[a-z_]+|clang::[a-z_]+)" names "${text}")
  list(TRANSFORM names REPLACE "^[^A-Za-z0-9_]" "")
  list(REMOVE_DUPLICATES names)
  list(APPEND met ${names})
  list(REMOVE_ITEM names ${of_msvc})
  if(names)
    message(FATAL_ERROR "${target}: not MSVC's: ${names}")
  endif()
endforeach()

list(REMOVE_ITEM of_msvc ${met})
if(of_msvc)
  message(FATAL_ERROR "intrinsics that are no longer used, or the search is broken: ${of_msvc}")
endif()
