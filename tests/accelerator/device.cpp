// A device of torch whose memory is that of the CPU, for tests of what a GPU would refuse.
//
// Every operation is computed by the CPU's kernel, after a look at its arguments: tensors of this
// device beside tensors of the CPU are refused, as a GPU refuses them, and so is a generator of
// random numbers of the CPU. Tensors of the CPU without an axis are numbers, which a GPU takes.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <string>

namespace {

using at::Tensor;
using c10::SymIntArrayRef;

const c10::Device kDevice(c10::DeviceType::PrivateUse1, 0);

// ---- memory -----------------------------------------------------------------------------------

void release(void* memory) { c10::free_cpu(memory); }

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* memory = size ? c10::alloc_cpu(size) : nullptr;
    return {memory, memory, &release, kDevice};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
};

Allocator allocator;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &allocator);

// There is one device, and one stream: nothing waits.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kDevice.type(); }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}

 private:
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return c10::GetAllocator(c10::DeviceType::CPU);
  }
  bool isPinnedPtr(const void*) const override { return false; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    auto& changed = const_cast<c10::Storage&>(storage);
    auto memory = allocator.allocate(size);
    std::memcpy(memory.get(), storage.data(), std::min(size, storage.nbytes()));
    changed.set_data_ptr_noswap(std::move(memory));
    changed.set_nbytes(size);
  }
};

Hooks hooks;

// ---- tensors ----------------------------------------------------------------------------------

Tensor empty(SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &allocator,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(SymIntArrayRef size, SymIntArrayRef stride,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size),
                                           C10_AS_INTARRAYREF_SLOW(stride), &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

// The same memory as a tensor of the CPU.
Tensor on_cpu(const Tensor& tensor) {
  if (tensor.device().is_cpu()) return tensor;
  void* memory = tensor.storage().nbytes() ? tensor.data_ptr() : nullptr;
  auto options = at::TensorOptions().dtype(tensor.dtype()).device(at::kCPU);
  auto keep = [tensor](void*) {};
  auto same = at::from_blob(memory, tensor.sizes(), tensor.strides(), keep, options);
  if (tensor.is_conj()) same._set_conj(true);
  if (tensor.is_neg()) same._set_neg(true);
  return same;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (from.sizes() != to.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

// ---- operations -------------------------------------------------------------------------------

// A GPU takes indices of the CPU.
const std::set<std::string> kTakeIndices = {
    "aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put",
    "aten::_unsafe_index.Tensor"};

// Of these no tensor of the CPU is a number.
bool joins(const std::string& name) {
  return name.find("cat") != std::string::npos || name.find("stack") != std::string::npos;
}

void by_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  std::string name = schema.name();
  if (!schema.overload_name().empty()) name += "." + schema.overload_name();
  bool ours = false, others = false;
  auto look = [&](const Tensor& tensor) {
    if (!tensor.defined()) return;
    if (tensor.device().is_privateuseone())
      ours = true;
    else if (tensor.dim() > 0 || joins(name))
      others = true;
  };
  for (const auto& value : torch::jit::last(*stack, schema.arguments().size())) {
    if (value.isTensor()) {
      look(value.toTensor());
    } else if (value.isList()) {
      for (const auto& each : value.toListRef())
        if (each.isTensor()) look(each.toTensor());
    } else {
      TORCH_CHECK(!value.isGenerator(), name, " got a generator of another device");
    }
  }
  TORCH_CHECK(!(ours && others) || kTakeIndices.count(name),
              "Expected all tensors to be on the same device, in ", name);
  at::native::cpu_fallback(operation, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&by_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("as_strided", at::native::as_strided_tensorimpl);
  library.impl("unfold", at::native::unfold);
  library.impl("alias", at::native::alias);
  library.impl("view", [](const Tensor& tensor, SymIntArrayRef size) {
    return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
  });
  library.impl("_reshape_alias",
               [](const Tensor& tensor, SymIntArrayRef size, SymIntArrayRef stride) {
                 return at::native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(size),
                                                   C10_AS_INTARRAYREF_SLOW(stride));
               });
  library.impl("resize_",
               [](const Tensor& tensor, SymIntArrayRef size,
                  std::optional<at::MemoryFormat> format) -> const Tensor& {
                 return at::native::resize_(tensor, C10_AS_INTARRAYREF_SLOW(size), format);
               });
  library.impl("set_.source_Storage", [](Tensor& tensor, at::Storage source) -> Tensor& {
    return at::native::set_(tensor, source);
  });
  library.impl("set_.source_Storage_storage_offset",
               [](Tensor& tensor, at::Storage source, c10::SymInt offset, SymIntArrayRef size,
                  SymIntArrayRef stride) -> Tensor& {
                 return at::native::set_storage_cpu_(tensor, source, offset.expect_int(),
                                                     C10_AS_INTARRAYREF_SLOW(size),
                                                     C10_AS_INTARRAYREF_SLOW(stride));
               });
  library.impl("set_.source_Tensor", [](Tensor& tensor, const Tensor& source) -> Tensor& {
    return at::native::set_tensor_(tensor, source);
  });
  library.impl("set_", [](Tensor& tensor) -> Tensor& {
    at::Storage none(at::Storage::use_byte_size_t(), 0, allocator.allocate(0), &allocator, true);
    return tensor.set_(none, 0, {0}, {});
  });
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("begin", [] { at::RegisterPrivateUse1HooksInterface(&hooks); });
}
