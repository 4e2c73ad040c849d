// One thread a process that starts every operation, in the order of submission, and watches all
// that are under way. Starting does not block, so that groups cannot wait for each other.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <oneapi/ccl.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

namespace galley {

using Clock = std::chrono::steady_clock;

// What the caller waits for. Completed by the progress thread.
class CclWork final : public c10d::Work {
 public:
  CclWork(int rank, c10d::OpType type, const char* title, std::vector<at::Tensor> outputs)
      : Work(rank, type, title),
        outputs_(std::move(outputs)),
        future_(c10::make_intrusive<c10::ivalue::Future>(
            c10::ListType::create(c10::TensorType::get()))) {}

  void complete(std::exception_ptr error) {
    if (error) {
      future_->setError(error);
    } else {
      future_->markCompleted(c10::IValue(outputs_));
    }
    finish(error);
  }

  std::vector<at::Tensor> result() override {
    return outputs_;
  }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    return future_;
  }

 private:
  std::vector<at::Tensor> outputs_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

using Events = std::vector<ccl::event>;

struct Operation {
  c10::intrusive_ptr<CclWork> work;
  const void* group;
  std::string name;
  std::chrono::milliseconds timeout;
  std::function<Events()> start;
  std::function<void()> finish; // copies results to where they belong; may be empty
  Events events{};
  Clock::time_point deadline{};
};

class Progress {
 public:
  // Never destroyed: the thread must not outlive its members while the process ends.
  static Progress& instance();
  void submit(Operation operation);
  // Returns when no operation of the group is left, or after the timeout; false is the latter.
  bool drain(const void* group, std::chrono::milliseconds timeout);
  // Ends the thread. What is under way stays unfinished. Nothing may be submitted afterwards.
  void stop();
  bool stopped();

 private:
  Progress();
  void loop();
  void start(Operation operation);
  bool poll();
  void retire(Operation& operation, std::exception_ptr error);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Operation> queue_;
  std::list<Operation> running_; // of the thread alone
  std::vector<const void*> open_; // group of every operation that was submitted and is not finished
  bool stop_ = false;
  std::thread thread_;
};

} // namespace galley
