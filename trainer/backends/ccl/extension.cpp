// All in one translation unit: torch's headers take longer to read than the rest to compile.
#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>

#include "backend.cpp"
#include "itt.cpp"
#include "progress.cpp"

PYBIND11_MODULE(galley_ccl, module) {
  module.def(
      "create",
      [](const c10::intrusive_ptr<c10d::Store>& store,
         int rank,
         int size,
         std::chrono::milliseconds timeout) -> c10::intrusive_ptr<c10d::Backend> {
        return c10::make_intrusive<galley::CclBackend>(store, rank, size, timeout);
      },
      pybind11::call_guard<pybind11::gil_scoped_release>());
  module.def(
      "prepare_exit",
      &galley::prepare_exit,
      pybind11::call_guard<pybind11::gil_scoped_release>());
  module.def("version", [] {
    const auto version = ccl::get_library_version();
    return c10::str(version.major, ".", version.minor, ".", version.update);
  });
}
