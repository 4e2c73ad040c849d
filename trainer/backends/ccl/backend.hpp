// The c10d backend "ccl": collectives of CPU tensors over oneCCL.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "progress.hpp"
#include "store_kvs.hpp"

namespace galley {

using Tensors = std::vector<at::Tensor>;
using TensorLists = std::vector<Tensors>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

class CclBackend final : public c10d::Backend {
 public:
  // Collective over the group; blocks until all its ranks have come.
  CclBackend(
      const c10::intrusive_ptr<c10d::Store>& store,
      int rank,
      int size,
      std::chrono::milliseconds timeout);
  ~CclBackend() override;

  const std::string getBackendName() const override {
    return "ccl";
  }
  c10::intrusive_ptr<Options> getBackendOptions() override;
  void setTimeout(std::chrono::milliseconds timeout) override {
    timeout_ = timeout;
  }
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override {
    return sequence_;
  }
  void shutdown() override;
  void abort() override;

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& opts) override;
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& opts) override;
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& opts)
      override;
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& opts) override;
  WorkPtr allgather(TensorLists& outputs, Tensors& inputs, const c10d::AllgatherOptions& opts)
      override;
  WorkPtr allgather_coalesced(
      TensorLists& outputs,
      Tensors& inputs,
      const c10d::AllgatherOptions& opts) override;
  WorkPtr _allgather_base(
      at::Tensor& output,
      at::Tensor& input,
      const c10d::AllgatherOptions& opts) override;
  WorkPtr allgather_into_tensor_coalesced(
      Tensors& outputs,
      Tensors& inputs,
      const c10d::AllgatherOptions& opts) override;
  WorkPtr gather(TensorLists& outputs, Tensors& inputs, const c10d::GatherOptions& opts) override;
  WorkPtr scatter(Tensors& outputs, TensorLists& inputs, const c10d::ScatterOptions& opts)
      override;
  WorkPtr reduce_scatter(
      Tensors& outputs,
      TensorLists& inputs,
      const c10d::ReduceScatterOptions& opts) override;
  WorkPtr _reduce_scatter_base(
      at::Tensor& output,
      at::Tensor& input,
      const c10d::ReduceScatterOptions& opts) override;
  WorkPtr reduce_scatter_tensor_coalesced(
      Tensors& outputs,
      Tensors& inputs,
      const c10d::ReduceScatterOptions& opts) override;
  WorkPtr alltoall_base(
      at::Tensor& output,
      at::Tensor& input,
      std::vector<int64_t>& output_splits,
      std::vector<int64_t>& input_splits,
      const c10d::AllToAllOptions& opts) override;
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& opts) override;
  WorkPtr send(Tensors& tensors, int destination, int tag) override;
  WorkPtr recv(Tensors& tensors, int source, int tag) override;
  WorkPtr barrier(const c10d::BarrierOptions& opts) override;

 private:
  using Step = std::function<ccl::event()>;
  WorkPtr submit(
      c10d::OpType type,
      const char* title,
      Tensors outputs,
      std::vector<Step> steps,
      std::function<void()> finish,
      std::chrono::milliseconds timeout = c10d::kUnsetTimeout);
  Step allgather_step(const at::Tensor& flat_output, const at::Tensor& input) const;
  Step reduce_scatter_step(
      const at::Tensor& output,
      const at::Tensor& flat_input,
      ccl::reduction reduction) const;
  WorkPtr exchange(
      c10d::OpType type,
      const char* title,
      const Tensors& outputs,
      const Tensors& inputs,
      std::chrono::milliseconds timeout);
  void meet();
  void close(std::chrono::milliseconds patience);

  std::chrono::milliseconds timeout_;
  std::shared_ptr<StoreKvs> kvs_;
  std::unique_ptr<ccl::communicator> communicator_;
  uint64_t sequence_ = 0;
};

// Ends the progress thread; to be called before the interpreter and oneCCL take themselves down.
void prepare_exit();

} // namespace galley
