// Whether this process can handle C++ exceptions.
#pragma once

namespace ovml {

/// Why exceptions would end the process, or null if they would not.
///
/// GStreamer brings libunwind, which has libgcc's functions of exceptions under the same names. Where a
/// program that is not in C++ (such as Python) loads libstdc++ first, libstdc++ keeps libgcc's, all
/// that comes later finds libunwind's, and an exception that meets both ends the process.
const char* mixed_unwinders() noexcept;

}  // namespace ovml
