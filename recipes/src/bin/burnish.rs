//! The program `burnish`.

fn main() -> std::process::ExitCode {
    // SAFETY: this is the only thread yet.
    unsafe {
        burnish_recipes::environment::prepare();
    }
    burnish_recipes::cli::main()
}
