// libstdc++ asks glibc 2.32 and newer whether there is only one thread. The answer given here, no,
// is always right, and keeps the module from needing so new a glibc.
extern "C" {
extern __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
}
