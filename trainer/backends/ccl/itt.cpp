// oneCCL can report to Intel's profilers through the ITT API. Its static library leaves nine entry
// points of that API to the program it is linked into; a null pointer is the API's own way of
// saying that no profiler is attached.
extern "C" {
#define ABSENT(name) void* name##_ptr__3_0 = nullptr;
ABSENT(__itt_domain_create)
ABSENT(__itt_event_create)
ABSENT(__itt_event_end)
ABSENT(__itt_event_start)
ABSENT(__itt_metadata_add)
ABSENT(__itt_string_handle_create)
ABSENT(__itt_task_begin)
ABSENT(__itt_task_end)
ABSENT(__itt_thread_set_name)
}
