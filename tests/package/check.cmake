# Installs the library without a compiler, then builds and runs one consumer program in each
# way that a user may take: find_package and pkg-config after the installation,
# add_subdirectory and FetchContent from the source tree.
#   cmake -DSOURCE=dir -DWORK=dir -DCXX=compiler -DPKG_CONFIG=pkg-config [-DEMULATOR=command]
#         -P check.cmake
cmake_minimum_required(VERSION 3.24)

function(run)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${ARGN}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${WORK})
run(${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK}/library -DPTEBITS_BUILD_TESTS=OFF -DPTEBITS_BUILD_EXAMPLES=OFF
    -DCMAKE_CXX_COMPILER=${WORK}/there-is-none)
run(${CMAKE_COMMAND} --install ${WORK}/library --prefix ${WORK}/prefix)

# The installed tree: every header of the source tree, the package files, the license.
file(GLOB_RECURSE installed RELATIVE ${WORK}/prefix ${WORK}/prefix/*)
file(GLOB_RECURSE headers RELATIVE ${SOURCE} ${SOURCE}/include/ptebits/*.hpp)
set(expected ${headers} share/cmake/ptebits/ptebits-config.cmake share/cmake/ptebits/ptebits-config-version.cmake
             share/licenses/ptebits/LICENSE share/pkgconfig/ptebits.pc)
list(SORT installed)
list(SORT expected)
if(NOT installed STREQUAL expected)
  message(FATAL_ERROR "installed: ${installed}\nexpected:  ${expected}")
endif()

# Moved after its installation, it is still found.
file(RENAME ${WORK}/prefix ${WORK}/moved)

foreach(way installed subdirectory fetched pkg-config)
  if(way STREQUAL "pkg-config")
    set(ENV{PKG_CONFIG_PATH} ${WORK}/moved/share/pkgconfig)
    run(${PKG_CONFIG} --cflags ptebits)
    separate_arguments(flags UNIX_COMMAND "${output}")
    file(MAKE_DIRECTORY ${WORK}/${way})
    run(${CXX} -std=c++20 ${flags} ${CMAKE_CURRENT_LIST_DIR}/consumer.cpp -o ${WORK}/${way}/consumer)
  else()
    run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/${way} -B ${WORK}/${way} -DCMAKE_CXX_COMPILER=${CXX}
        -DCMAKE_PREFIX_PATH=${WORK}/moved)
    run(${CMAKE_COMMAND} --build ${WORK}/${way})
  endif()
  run(${EMULATOR} ${WORK}/${way}/consumer)
endforeach()

# A subproject brings no tests, examples or warnings into its user's build.
foreach(build subdirectory/ptebits fetched/_deps/ptebits-build)
  if(NOT EXISTS ${WORK}/${build} OR EXISTS ${WORK}/${build}/tests OR EXISTS ${WORK}/${build}/examples)
    message(FATAL_ERROR "${build}: tests or examples of the library in its user's build, or no build at all")
  endif()
endforeach()

# What pkg-config tells is what CMake tells.
run(${PKG_CONFIG} --modversion ptebits)
file(READ ${WORK}/moved/share/cmake/ptebits/ptebits-config-version.cmake package_version)
string(STRIP "${output}" version)
if(NOT package_version MATCHES "PACKAGE_VERSION \"${version}\"")
  message(FATAL_ERROR "pkg-config tells version ${version}, CMake another")
endif()
