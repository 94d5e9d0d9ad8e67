//! The program `burnish-bench`: `burnish bench` by itself.

fn main() -> std::process::ExitCode {
    // SAFETY: nothing has run yet, and no thread but this one.
    #[cfg(feature = "metal")]
    unsafe {
        burnish_metal::relax_watchdog();
    }
    burnish_recipes::cli::bench_main()
}
