// The key-value store through which oneCCL's communicators find each other, on the store of the
// process group: no server, port or thread of oneCCL's own.
#pragma once

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <oneapi/ccl.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace galley {

class StoreKvs final : public ccl::kvs_interface {
 public:
  explicit StoreKvs(c10::intrusive_ptr<c10d::Store> store) : store_(std::move(store)) {}

  // Empty while the key is absent: oneCCL then asks again.
  ccl::vector_class<char> get(const ccl::string_class& key) override {
    if (!store_->check({key})) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return {};
    }
    const auto value = store_->get(key);
    return {value.begin(), value.end()};
  }

  void set(const ccl::string_class& key, const ccl::vector_class<char>& data) override {
    if (!closed_) {
      store_->set(key, std::vector<uint8_t>(data.begin(), data.end()));
    }
  }

  int get_id() override {
    return 0;
  }

  // A communicator that is destroyed clears its keys, when rank 0 may have taken the store away.
  void close() {
    closed_ = true;
  }

 private:
  c10::intrusive_ptr<c10d::Store> store_;
  std::atomic<bool> closed_{false};
};

} // namespace galley
