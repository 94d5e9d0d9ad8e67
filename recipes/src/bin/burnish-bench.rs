//! The program `burnish-bench`: `burnish bench` by itself.

fn main() -> std::process::ExitCode {
    // SAFETY: nothing has run yet, and no thread but this one.
    unsafe {
        burnish_recipes::environment::prepare();
    }
    burnish_recipes::cli::bench_main()
}
