#include "unwinder.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>

namespace ovml {

namespace {

struct Found {
  const char* provider;  // the file whose functions new libraries find
  int order = 0, provider_at = -1, libstdcxx_at = -1;
};

int visit(dl_phdr_info* library, std::size_t, void* data) noexcept {
  auto* found = static_cast<Found*>(data);
  if (std::strcmp(library->dlpi_name, found->provider) == 0) found->provider_at = found->order;
  if (std::strstr(library->dlpi_name, "/libstdc++.so") != nullptr) found->libstdcxx_at = found->order;
  ++found->order;
  return 0;
}

}  // namespace

const char* mixed_unwinders() noexcept {
  void* function = dlsym(RTLD_DEFAULT, "_Unwind_Resume");
  Dl_info provider;
  if (function == nullptr || dladdr(function, &provider) == 0 ||
      std::strstr(provider.dli_fname, "/libgcc_s.so") != nullptr)
    return nullptr;
  Found found{provider.dli_fname};
  dl_iterate_phdr(visit, &found);  // in the order in which they were loaded
  return found.libstdcxx_at >= 0 && found.libstdcxx_at < found.provider_at
             ? "GStreamer was loaded after a library in C++, such as NumPy, and its libunwind does not "
               "get "
               "along with that one's exceptions. In Python, import gi and Gst before NumPy."
             : nullptr;
}

}  // namespace ovml
