//! The program `burnish-bench`: `burnish bench` by itself.

fn main() -> std::process::ExitCode {
    // SAFETY: this is the only thread yet.
    unsafe {
        burnish_recipes::environment::prepare();
    }
    burnish_recipes::cli::bench_main()
}
