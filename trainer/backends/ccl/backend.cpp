#include "backend.hpp"

#include <filesystem>
#include <system_error>

#include <unistd.h>

namespace galley {

namespace {

using c10d::OpType;

ccl::datatype number_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return ccl::datatype::float32;
    case at::kDouble:
      return ccl::datatype::float64;
    case at::kBFloat16:
      return ccl::datatype::bfloat16;
    case at::kHalf:
      return ccl::datatype::float16;
    case at::kLong:
      return ccl::datatype::int64;
    case at::kInt:
      return ccl::datatype::int32;
    case at::kShort:
      return ccl::datatype::int16;
    case at::kChar:
      return ccl::datatype::int8;
    case at::kByte:
    case at::kBool:
      return ccl::datatype::uint8;
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(false, "ccl: cannot reduce ", tensor.scalar_type());
  }
}

// AVG is a sum here; the caller divides. Booleans add as `or` and multiply as `and`.
ccl::reduction reduction_of(const c10d::ReduceOp& op, const at::Tensor& tensor) {
  const bool boolean = tensor.scalar_type() == at::kBool;
  switch (op.op_) {
    case c10d::ReduceOp::AVG:
      TORCH_CHECK(tensor.is_floating_point(), "ccl: AVG needs floating-point numbers");
      return ccl::reduction::sum;
    case c10d::ReduceOp::SUM:
      return boolean ? ccl::reduction::max : ccl::reduction::sum;
    case c10d::ReduceOp::PRODUCT:
      return boolean ? ccl::reduction::min : ccl::reduction::prod;
    case c10d::ReduceOp::MIN:
      return ccl::reduction::min;
    case c10d::ReduceOp::MAX:
      return ccl::reduction::max;
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(false, "ccl: reduces by SUM, AVG, PRODUCT, MIN and MAX only");
  }
}

void check_cpu(const at::Tensor& tensor) {
  TORCH_CHECK(
      tensor.device().is_cpu() && tensor.layout() == at::kStrided,
      "ccl: carries dense CPU tensors, not ",
      tensor.toString());
}

at::Tensor only(const Tensors& tensors) {
  TORCH_CHECK(tensors.size() == 1, "ccl: one tensor a rank, not ", tensors.size());
  check_cpu(tensors[0]);
  return tensors[0];
}

void check_total(const at::Tensor& whole, const at::Tensor& part, int size, const char* name) {
  check_cpu(whole);
  check_cpu(part);
  TORCH_CHECK(
      whole.numel() == part.numel() * size && whole.scalar_type() == part.scalar_type(),
      "ccl: ",
      name,
      " of ",
      size,
      " ranks needs tensors of one type, the larger ",
      size,
      " times the smaller; got ",
      whole.numel(),
      " and ",
      part.numel());
}

at::Tensor flat_like(const Tensors& tensors) {
  int64_t total = 0;
  for (const auto& tensor : tensors) {
    check_cpu(tensor);
    total += tensor.numel();
  }
  return at::empty({total}, tensors.at(0).options());
}

void unflatten(const at::Tensor& flat, const Tensors& tensors) {
  int64_t offset = 0;
  for (const auto& tensor : tensors) {
    tensor.copy_(flat.narrow(0, offset, tensor.numel()).view(tensor.sizes()));
    offset += tensor.numel();
  }
}

at::Tensor flatten(const Tensors& tensors) {
  auto flat = flat_like(tensors);
  int64_t offset = 0;
  for (const auto& tensor : tensors) {
    flat.narrow(0, offset, tensor.numel()).copy_(tensor.reshape(-1));
    offset += tensor.numel();
  }
  return flat;
}

std::vector<size_t> byte_counts(const Tensors& tensors) {
  std::vector<size_t> counts;
  for (const auto& tensor : tensors) {
    counts.push_back(tensor.nbytes());
  }
  return counts;
}

void average(const at::Tensor& tensor, const c10d::ReduceOp& op, int size) {
  if (op.op_ == c10d::ReduceOp::AVG) {
    tensor.div_(size);
  }
}

void put_back(const at::Tensor& tensor, const at::Tensor& dense) {
  if (!dense.is_same(tensor)) {
    tensor.copy_(dense);
  }
}

Tensors rows_of(const at::Tensor& tensor, const std::vector<int64_t>& splits, int size) {
  check_cpu(tensor);
  if (splits.empty()) {
    TORCH_CHECK(tensor.size(0) % size == 0, "ccl: all_to_all_single cannot divide dimension 0");
    return tensor.chunk(size);
  }
  return tensor.split_with_sizes(splits);
}

// libfabric keeps a file of some 24 MiB in /dev/shm, which it removes when it is closed in good
// order. Once all ranks have opened it its name is not needed any more; without it the memory ends
// with the processes, however they end.
void forget_shared_memory() {
  const auto mine = std::to_string(getpid()) + ":";
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator("/dev/shm", ignored)) {
    if (file.path().filename().string().rfind(mine, 0) == 0) {
      std::filesystem::remove(file.path(), ignored);
    }
  }
}

} // namespace

CclBackend::CclBackend(
    const c10::intrusive_ptr<c10d::Store>& store,
    int rank,
    int size,
    std::chrono::milliseconds timeout)
    : Backend(rank, size), timeout_(timeout), kvs_(std::make_shared<StoreKvs>(store)) {
  ccl::init();
  communicator_ =
      std::make_unique<ccl::communicator>(ccl::create_communicator(size, rank, kvs_));
  meet();
  forget_shared_memory();
}

// Every rank has exchanged a byte with every other one when this returns.
void CclBackend::meet() {
  Tensors bytes(size_, at::zeros({1}, at::kByte));
  exchange(OpType::ALLTOALL, "ccl:meet", bytes, bytes, timeout_)->wait();
  barrier({})->wait();
}

CclBackend::~CclBackend() {
  close(timeout_);
}

void CclBackend::shutdown() {
  close(timeout_);
}

void CclBackend::abort() {
  close(std::chrono::milliseconds(0));
}

// A communicator with unfinished operations is left as it is: its destruction would crash. The same
// goes for one that is still there when the process ends, since oneCCL may be gone by then.
void CclBackend::close(std::chrono::milliseconds patience) {
  if (!communicator_) {
    return;
  }
  kvs_->close();
  auto& progress = Progress::instance();
  if (progress.stopped() || !progress.drain(this, patience)) {
    communicator_.release();
    return;
  }
  communicator_.reset();
}

c10::intrusive_ptr<c10d::Backend::Options> CclBackend::getBackendOptions() {
  return c10::make_intrusive<Options>("ccl", timeout_);
}

WorkPtr CclBackend::submit(
    OpType type,
    const char* title,
    Tensors outputs,
    std::vector<Step> steps,
    std::function<void()> finish,
    std::chrono::milliseconds timeout) {
  TORCH_CHECK(communicator_, "ccl: ", title, " after the process group was destroyed");
  ++sequence_;
  auto work = c10::make_intrusive<CclWork>(rank_, type, title, std::move(outputs));
  auto start = [steps = std::move(steps)] {
    Events events;
    for (const auto& step : steps) {
      events.push_back(step());
    }
    return events;
  };
  Progress::instance().submit(Operation{
      work,
      this,
      title,
      timeout == c10d::kUnsetTimeout ? timeout_ : timeout,
      std::move(start),
      std::move(finish)});
  return work;
}

WorkPtr CclBackend::broadcast(Tensors& tensors, const c10d::BroadcastOptions& opts) {
  const auto tensor = only(tensors);
  const auto dense = tensor.contiguous();
  const int root = static_cast<int>(opts.rootRank);
  Step step = [this, dense, root] {
    return ccl::broadcast(
        dense.data_ptr(), dense.nbytes(), ccl::datatype::uint8, root, *communicator_);
  };
  auto finish = [tensor, dense] { put_back(tensor, dense); };
  return submit(OpType::BROADCAST, "ccl:broadcast", tensors, {step}, finish, opts.timeout);
}

WorkPtr CclBackend::allreduce(Tensors& tensors, const c10d::AllreduceOptions& opts) {
  only(tensors);
  c10d::AllreduceCoalescedOptions same;
  same.reduceOp = opts.reduceOp;
  same.timeout = opts.timeout;
  return allreduce_coalesced(tensors, same);
}

WorkPtr CclBackend::allreduce_coalesced(
    Tensors& tensors,
    const c10d::AllreduceCoalescedOptions& opts) {
  Tensors dense;
  std::vector<Step> steps;
  for (const auto& tensor : tensors) {
    check_cpu(tensor);
    dense.push_back(tensor.contiguous());
    steps.push_back([this,
                     one = dense.back(),
                     type = number_type(tensor),
                     reduction = reduction_of(opts.reduceOp, tensor)] {
      return ccl::allreduce(
          one.data_ptr(), one.data_ptr(), one.numel(), type, reduction, *communicator_);
    });
  }
  auto finish = [tensors, dense, op = opts.reduceOp, size = size_] {
    for (size_t i = 0; i < tensors.size(); ++i) {
      average(dense[i], op, size);
      put_back(tensors[i], dense[i]);
    }
  };
  return submit(OpType::ALLREDUCE, "ccl:all_reduce", tensors, steps, finish, opts.timeout);
}

WorkPtr CclBackend::reduce(Tensors& tensors, const c10d::ReduceOptions& opts) {
  const auto tensor = only(tensors);
  // A copy, for the ranks that are not the root keep what they had.
  const auto copy = tensor.clone(at::MemoryFormat::Contiguous);
  const int root = static_cast<int>(opts.rootRank);
  Step step = [this,
               copy,
               root,
               type = number_type(tensor),
               reduction = reduction_of(opts.reduceOp, tensor)] {
    return ccl::reduce(
        copy.data_ptr(), copy.data_ptr(), copy.numel(), type, reduction, root, *communicator_);
  };
  auto finish = [tensor, copy, op = opts.reduceOp, size = size_, mine = root == rank_] {
    if (mine) {
      average(copy, op, size);
      tensor.copy_(copy);
    }
  };
  return submit(OpType::REDUCE, "ccl:reduce", tensors, {step}, finish, opts.timeout);
}

CclBackend::Step CclBackend::allgather_step(const at::Tensor& output, const at::Tensor& input)
    const {
  check_total(output, input, size_, "all_gather");
  return [this, output, input] {
    return ccl::allgather(
        input.data_ptr(),
        output.data_ptr(),
        input.nbytes(),
        ccl::datatype::uint8,
        *communicator_);
  };
}

WorkPtr CclBackend::allgather(
    TensorLists& outputs,
    Tensors& inputs,
    const c10d::AllgatherOptions& opts) {
  only(inputs);
  return allgather_coalesced(outputs, inputs, opts);
}

WorkPtr CclBackend::allgather_coalesced(
    TensorLists& outputs,
    Tensors& inputs,
    const c10d::AllgatherOptions& opts) {
  TORCH_CHECK(outputs.size() == inputs.size(), "ccl: all_gather needs one list for each input");
  Tensors flats;
  std::vector<Step> steps;
  Tensors all;
  for (size_t i = 0; i < inputs.size(); ++i) {
    flats.push_back(flat_like(outputs[i]));
    steps.push_back(allgather_step(flats.back(), inputs[i].contiguous()));
    all.insert(all.end(), outputs[i].begin(), outputs[i].end());
  }
  auto finish = [flats, outputs] {
    for (size_t i = 0; i < flats.size(); ++i) {
      unflatten(flats[i], outputs[i]);
    }
  };
  return submit(OpType::ALLGATHER, "ccl:all_gather", all, steps, finish, opts.timeout);
}

WorkPtr CclBackend::_allgather_base(
    at::Tensor& output,
    at::Tensor& input,
    const c10d::AllgatherOptions& opts) {
  Tensors outputs{output};
  Tensors inputs{input};
  return allgather_into_tensor_coalesced(outputs, inputs, opts);
}

WorkPtr CclBackend::allgather_into_tensor_coalesced(
    Tensors& outputs,
    Tensors& inputs,
    const c10d::AllgatherOptions& opts) {
  TORCH_CHECK(outputs.size() == inputs.size(), "ccl: all_gather needs one output for each input");
  Tensors dense;
  std::vector<Step> steps;
  for (size_t i = 0; i < inputs.size(); ++i) {
    dense.push_back(outputs[i].contiguous());
    steps.push_back(allgather_step(dense.back(), inputs[i].contiguous()));
  }
  auto finish = [dense, outputs] {
    for (size_t i = 0; i < dense.size(); ++i) {
      put_back(outputs[i], dense[i]);
    }
  };
  return submit(
      OpType::_ALLGATHER_BASE, "ccl:all_gather_into_tensor", outputs, steps, finish, opts.timeout);
}

CclBackend::Step CclBackend::reduce_scatter_step(
    const at::Tensor& output,
    const at::Tensor& input,
    ccl::reduction reduction) const {
  check_total(input, output, size_, "reduce_scatter");
  return [this, output, input, reduction, type = number_type(input)] {
    return ccl::reduce_scatter(
        input.data_ptr(), output.data_ptr(), output.numel(), type, reduction, *communicator_);
  };
}

WorkPtr CclBackend::reduce_scatter(
    Tensors& outputs,
    TensorLists& inputs,
    const c10d::ReduceScatterOptions& opts) {
  only(outputs);
  TORCH_CHECK(inputs.size() == 1, "ccl: reduce_scatter needs one list of inputs");
  Tensors flat{flatten(inputs[0])};
  return reduce_scatter_tensor_coalesced(outputs, flat, opts);
}

WorkPtr CclBackend::_reduce_scatter_base(
    at::Tensor& output,
    at::Tensor& input,
    const c10d::ReduceScatterOptions& opts) {
  Tensors outputs{output};
  Tensors inputs{input};
  return reduce_scatter_tensor_coalesced(outputs, inputs, opts);
}

WorkPtr CclBackend::reduce_scatter_tensor_coalesced(
    Tensors& outputs,
    Tensors& inputs,
    const c10d::ReduceScatterOptions& opts) {
  TORCH_CHECK(
      outputs.size() == inputs.size(), "ccl: reduce_scatter needs one output for each input");
  Tensors dense;
  std::vector<Step> steps;
  for (size_t i = 0; i < inputs.size(); ++i) {
    dense.push_back(outputs[i].contiguous());
    steps.push_back(reduce_scatter_step(
        dense.back(), inputs[i].contiguous(), reduction_of(opts.reduceOp, inputs[i])));
  }
  auto finish = [dense, outputs, op = opts.reduceOp, size = size_] {
    for (size_t i = 0; i < dense.size(); ++i) {
      average(dense[i], op, size);
      put_back(outputs[i], dense[i]);
    }
  };
  return submit(
      OpType::_REDUCE_SCATTER_BASE, "ccl:reduce_scatter", outputs, steps, finish, opts.timeout);
}

// Every rank gives `inputs[r]` to rank r and gets `outputs[r]` from it; sizes may differ.
WorkPtr CclBackend::exchange(
    OpType type,
    const char* title,
    const Tensors& outputs,
    const Tensors& inputs,
    std::chrono::milliseconds timeout) {
  TORCH_CHECK(
      outputs.size() == static_cast<size_t>(size_) && inputs.size() == outputs.size(),
      title,
      ": needs as many tensors as there are ranks, ",
      size_);
  const auto received = flat_like(outputs);
  Step step = [this,
               received,
               given = flatten(inputs),
               give = byte_counts(inputs),
               receive = byte_counts(outputs)] {
    return ccl::alltoallv(
        given.data_ptr(),
        give,
        received.data_ptr(),
        receive,
        ccl::datatype::uint8,
        *communicator_);
  };
  auto finish = [received, outputs] { unflatten(received, outputs); };
  return submit(type, title, outputs, {step}, finish, timeout);
}

WorkPtr CclBackend::alltoall(
    Tensors& outputs,
    Tensors& inputs,
    const c10d::AllToAllOptions& opts) {
  return exchange(OpType::ALLTOALL, "ccl:all_to_all", outputs, inputs, opts.timeout);
}

WorkPtr CclBackend::alltoall_base(
    at::Tensor& output,
    at::Tensor& input,
    std::vector<int64_t>& output_splits,
    std::vector<int64_t>& input_splits,
    const c10d::AllToAllOptions& opts) {
  const auto outputs = rows_of(output, output_splits, size_);
  const auto inputs = rows_of(input, input_splits, size_);
  return exchange(OpType::ALLTOALL_BASE, "ccl:all_to_all", outputs, inputs, opts.timeout);
}

// oneCCL has no gather: an exchange in which only the root receives.
WorkPtr CclBackend::gather(
    TensorLists& outputs,
    Tensors& inputs,
    const c10d::GatherOptions& opts) {
  const auto input = only(inputs);
  const auto nothing = at::empty({0}, input.options());
  Tensors given(size_, nothing);
  Tensors received(size_, nothing);
  given.at(opts.rootRank) = input;
  if (opts.rootRank == rank_) {
    received = outputs.at(0);
  }
  return exchange(OpType::GATHER, "ccl:gather", received, given, opts.timeout);
}

WorkPtr CclBackend::scatter(
    Tensors& outputs,
    TensorLists& inputs,
    const c10d::ScatterOptions& opts) {
  const auto output = only(outputs);
  const auto nothing = at::empty({0}, output.options());
  Tensors received(size_, nothing);
  Tensors given(size_, nothing);
  received.at(opts.rootRank) = output;
  if (opts.rootRank == rank_) {
    given = inputs.at(0);
  }
  return exchange(OpType::SCATTER, "ccl:scatter", received, given, opts.timeout);
}

WorkPtr CclBackend::send(Tensors& tensors, int destination, int tag) {
  TORCH_CHECK(tag == 0, "ccl: messages have no tags");
  const auto dense = only(tensors).contiguous();
  Step step = [this, dense, destination] {
    return ccl::send(
        dense.data_ptr(), dense.nbytes(), ccl::datatype::uint8, destination, *communicator_);
  };
  return submit(OpType::SEND, "ccl:send", tensors, {step}, {});
}

WorkPtr CclBackend::recv(Tensors& tensors, int source, int tag) {
  TORCH_CHECK(tag == 0, "ccl: messages have no tags");
  const auto tensor = only(tensors);
  const auto dense = tensor.contiguous();
  Step step = [this, dense, source] {
    return ccl::recv(
        dense.data_ptr(), dense.nbytes(), ccl::datatype::uint8, source, *communicator_);
  };
  auto finish = [tensor, dense] { put_back(tensor, dense); };
  return submit(OpType::RECV, "ccl:recv", tensors, {step}, finish);
}

WorkPtr CclBackend::barrier(const c10d::BarrierOptions& opts) {
  Step step = [this] { return ccl::barrier(*communicator_); };
  return submit(OpType::BARRIER, "ccl:barrier", {}, {step}, {}, opts.timeout);
}

void prepare_exit() {
  Progress::instance().stop();
}

} // namespace galley
