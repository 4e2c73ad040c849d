#include "progress.hpp"

#include <algorithm>

namespace galley {

namespace {
// Polls without a result before the thread begins to yield its core, and then to sleep.
constexpr int kSpins = 32;
constexpr int kYields = 200;
constexpr auto kNap = std::chrono::microseconds(50);
} // namespace

Progress& Progress::instance() {
  static auto* progress = new Progress();
  return *progress;
}

Progress::Progress() : thread_([this] { loop(); }) {}

void Progress::submit(Operation operation) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK(!stop_, "ccl: ", operation.name, " after the process began to end");
    open_.push_back(operation.group);
    queue_.push_back(std::move(operation));
  }
  changed_.notify_all();
}

bool Progress::drain(const void* group, std::chrono::milliseconds timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, timeout, [&] {
    return stop_ || std::find(open_.begin(), open_.end(), group) == open_.end();
  });
}

bool Progress::stopped() {
  std::lock_guard<std::mutex> lock(mutex_);
  return stop_;
}

void Progress::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stop_) {
      return;
    }
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Progress::loop() {
  int idle = 0;
  while (true) {
    std::deque<Operation> fresh;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (running_.empty()) {
        changed_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      }
      if (stop_) {
        return;
      }
      fresh.swap(queue_);
    }
    for (auto& operation : fresh) {
      start(std::move(operation));
    }
    idle = poll() || !fresh.empty() ? 0 : idle + 1;
    if (idle > kYields) {
      std::this_thread::sleep_for(kNap);
    } else if (idle > kSpins) {
      std::this_thread::yield();
    }
  }
}

void Progress::start(Operation operation) {
  operation.deadline = Clock::now() + operation.timeout;
  try {
    operation.events = operation.start();
    running_.push_back(std::move(operation));
  } catch (...) {
    retire(operation, std::current_exception());
  }
}

bool Progress::poll() {
  bool moved = false;
  for (auto it = running_.begin(); it != running_.end();) {
    std::exception_ptr error;
    bool done = true;
    try {
      for (auto& event : it->events) {
        done = event.test() && done;
      }
      if (done && it->finish) {
        it->finish();
      }
      if (!done && Clock::now() > it->deadline) {
        TORCH_CHECK(false, "ccl: ", it->name, " timed out after ", it->timeout.count(), " ms");
      }
    } catch (...) {
      error = std::current_exception();
    }
    if (!done && !error) {
      ++it;
      continue;
    }
    moved = true;
    if (done) {
      retire(*it, error);
    } else {
      // oneCCL still holds its buffers: they are given up, together with the operation.
      auto* abandoned = new Operation(std::move(*it));
      retire(*abandoned, error);
    }
    it = running_.erase(it);
  }
  return moved;
}

void Progress::retire(Operation& operation, std::exception_ptr error) {
  operation.work->complete(error);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    open_.erase(std::find(open_.begin(), open_.end(), operation.group));
  }
  changed_.notify_all();
}

} // namespace galley
